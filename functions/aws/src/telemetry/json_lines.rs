//! Writes `tracing` events as JSON lines.
//!
//! - A field name with a dot becomes a nested object: `rejected.why` is `{"rejected":{"why":…}}`. CloudWatch Logs'
//!   filter patterns read nested fields, and the JSON format of tracing-subscriber cannot write them (ADR 35).
//! - Only our own events are written. The SDK's have Rust's `Debug` format, and bytes from outside.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    registry::Registry,
};

/// A subscriber that hands each line to `write`.
pub(super) fn subscriber<W>(write: W) -> impl Subscriber + Send + Sync
where
    W: Fn(&Value) + Send + Sync + 'static,
{
    let own_events = Targets::new().with_target("nodemend", LevelFilter::INFO);
    Registry::default().with(JsonLines(write).with_filter(own_events))
}

struct JsonLines<W>(W);

impl<S: Subscriber, W: Fn(&Value) + 'static> Layer<S> for JsonLines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => "info",
        };
        let mut fields = Fields(Map::from_iter([("level".to_owned(), level.into())]));
        event.record(&mut fields);
        (self.0)(&Value::Object(fields.0));
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        match field.name().split_once('.') {
            None => drop(self.0.insert(field.name().to_owned(), value)),
            Some((object, name)) => {
                let object = self.0.entry(object).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(object) = object {
                    object.insert(name.to_owned(), value);
                }
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    /// A field with `%` arrives here too, with its `Display` format.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}
