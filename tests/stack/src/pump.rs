//! Turns log events that were stored into subscription payloads, through the very patterns that an installation has.
//!
//! No emulator evaluates a pattern of JSON: one delivers everything, the other nothing.

use std::{borrow::Cow, collections::HashMap};

use jiff::Timestamp;
use nodemend_domain::{ident::ClusterName, log_source::LogSource};
use nodemend_ports::subscription::{self, Batch, LogEvent, our_patterns};
use nodemend_testkit::filter_pattern::{Pattern, PatternError};
use serde::Deserialize;
use serde_json::json;

use super::{
    ids,
    lambda::Function,
    wire::{Wire, WireError},
};

/// A subscription's filter has a name, and the payload says it.
const FILTER: &str = "nodemend";

/// One page of GetLogEvents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    events: Vec<Event>,
    next_forward_token: String,
}

#[derive(Deserialize)]
struct Event {
    timestamp: i64,
    message: String,
}

/// Why log events were not delivered.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// They could not be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The answer has another shape.
    #[error("failed to read log events: {0}")]
    Page(#[from] serde_json::Error),
}

/// Subscriptions to a cluster's two log groups.
#[derive(Debug)]
pub struct Pump {
    wire: Wire,
    intake: Function,
    subscriptions: Vec<(String, Pattern)>,
    /// How far each stream was read.
    read: HashMap<(String, String), String>,
    delivered: u64,
}

impl Pump {
    /// Subscribes to both.
    pub fn new(wire: Wire, intake: Function, cluster: &ClusterName) -> Result<Self, PatternError> {
        let subscriptions = vec![
            (LogSource::Agents(cluster.clone()).to_string(), Pattern::parse(our_patterns::AGENT)?),
            (
                LogSource::ControlPlane(cluster.clone()).to_string(),
                Pattern::parse(our_patterns::CONTROL_PLANE)?,
            ),
        ];
        Ok(Self { wire, intake, subscriptions, read: HashMap::new(), delivered: 0 })
    }

    /// Delivers what is new in a stream.
    pub async fn deliver(&mut self, group: String, stream: String) -> Result<(), PumpError> {
        let place = (group, stream);
        loop {
            let (group, stream) = (&place.0, &place.1);
            let mut ask = json!({ "logGroupName": group, "logStreamName": stream, "startFromHead": true });
            if let Some(token) = self.read.get(&place) {
                ask["nextToken"] = token.as_str().into();
            }
            let page = self.wire.json("logs", "Logs_20140328.GetLogEvents", &ask).await?;
            let page: Page = serde_json::from_value(page)?;
            self.read.insert(place.clone(), page.next_forward_token);
            if page.events.is_empty() {
                return Ok(());
            }
            self.pass_on(&place.0, &place.1, page.events);
        }
    }

    fn pass_on(&mut self, group: &str, stream: &str, events: Vec<Event>) {
        let Some((_, pattern)) = self.subscriptions.iter().find(|(subscribed, _)| subscribed == group) else {
            return;
        };
        let events: Vec<LogEvent<'_>> = events
            .into_iter()
            .filter(|event| pattern.matches(&event.message))
            .filter_map(|event| {
                self.delivered += 1;
                Some(LogEvent {
                    id: Cow::Owned(format!("{:056}", self.delivered)),
                    timestamp: Timestamp::from_millisecond(event.timestamp).ok()?,
                    message: Cow::Owned(event.message),
                })
            })
            .collect();
        if events.is_empty() {
            return;
        }
        let batch = Batch {
            owner: ids::ACCOUNT.into(),
            log_group: group.into(),
            log_stream: stream.into(),
            subscription_filters: vec![FILTER.into()],
            events,
            rejected: Vec::new(),
        };
        self.intake.send(subscription::encode(&batch).into());
    }
}
