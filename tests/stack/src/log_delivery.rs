//! Delivers stored log events to the intake function, as log subscriptions with the filter patterns of a
//! deployment do.
//!
//! No emulator evaluates JSON filter patterns: one delivers every log event, another one none.

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
    query_client::{QueryClient, QueryError},
};

/// The name of the subscription filter, which is in each payload.
const FILTER_NAME: &str = "nodemend";

/// One page of the answer of GetLogEvents.
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
pub enum LogDeliveryError {
    /// The log events could not be requested.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The answer could not be parsed.
    #[error("failed to read log events: {0}")]
    Page(#[from] serde_json::Error),
}

/// The subscriptions to a cluster's two log groups.
#[derive(Debug)]
pub struct LogDelivery {
    client: QueryClient,
    intake: Function,
    subscriptions: Vec<(String, Pattern)>,
    /// For each log stream, the token after the last event that was read.
    next_tokens: HashMap<(String, String), String>,
    delivered: u64,
}

impl LogDelivery {
    /// Subscribes the intake function to both log groups.
    pub fn new(client: QueryClient, intake: Function, cluster: &ClusterName) -> Result<Self, PatternError> {
        let subscriptions = vec![
            (LogSource::Agents(cluster.clone()).to_string(), Pattern::parse(our_patterns::AGENT)?),
            (
                LogSource::ControlPlane(cluster.clone()).to_string(),
                Pattern::parse(our_patterns::CONTROL_PLANE)?,
            ),
        ];
        Ok(Self { client, intake, subscriptions, next_tokens: HashMap::new(), delivered: 0 })
    }

    /// Delivers the new log events of a stream.
    pub async fn deliver(&mut self, group: String, stream: String) -> Result<(), LogDeliveryError> {
        let key = (group, stream);
        loop {
            let (group, stream) = (&key.0, &key.1);
            let mut parameters =
                json!({ "logGroupName": group, "logStreamName": stream, "startFromHead": true });
            if let Some(token) = self.next_tokens.get(&key) {
                parameters["nextToken"] = token.as_str().into();
            }
            let page = self.client.json("logs", "Logs_20140328.GetLogEvents", &parameters).await?;
            let page: Page = serde_json::from_value(page)?;
            self.next_tokens.insert(key.clone(), page.next_forward_token);
            if page.events.is_empty() {
                return Ok(());
            }
            self.send(&key.0, &key.1, page.events);
        }
    }

    fn send(&mut self, group: &str, stream: &str, events: Vec<Event>) {
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
            subscription_filters: vec![FILTER_NAME.into()],
            events,
            rejected: Vec::new(),
        };
        self.intake.send(subscription::encode(&batch).into());
    }
}
