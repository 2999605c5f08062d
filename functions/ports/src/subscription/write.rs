//! Encodes log events as CloudWatch Logs does, for tests, benches and local tools.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::Batch;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    message_type: &'a str,
    owner: &'a str,
    log_group: &'a str,
    log_stream: &'a str,
    subscription_filters: &'a [Cow<'a, str>],
    log_events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    timestamp: i64,
    message: &'a str,
}

/// The inverse of [`Decoder::decode`](super::Decoder::decode), without the rejected events. Timestamps are in
/// milliseconds.
#[must_use]
pub fn encode(batch: &Batch<'_>) -> String {
    envelope(&json(batch))
}

fn json(batch: &Batch<'_>) -> String {
    let events = batch.events.iter().map(|event| Event {
        id: &event.id,
        timestamp: event.timestamp.as_millisecond(),
        message: &event.message,
    });
    let body = Body {
        message_type: "DATA_MESSAGE",
        owner: &batch.owner,
        log_group: &batch.log_group,
        log_stream: &batch.log_stream,
        subscription_filters: &batch.subscription_filters,
        log_events: events.collect(),
    };
    serde_json::to_string(&body).expect("strings and numbers serialize")
}

/// Wraps any text as Lambda would receive it, even if it is not a subscription message.
#[must_use]
pub fn envelope(json: &str) -> String {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(json.as_bytes()).expect("a write to a Vec succeeds");
    let gzip = gzip.finish().expect("a write to a Vec succeeds");
    format!(r#"{{"awslogs":{{"data":"{}"}}}}"#, STANDARD.encode(gzip))
}
