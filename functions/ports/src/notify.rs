//! Publishes repair events on an EventBridge bus, for other systems.
//!
//! - Publishing never delays a repair: an event that EventBridge does not accept in time is counted and dropped.
//! - The log and the audit log have the same facts, and are complete.
//! - An event may be delivered twice: if an answer is lost, the events are put again.

mod memory;

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use nodemend_domain::repair_event::{RepairEvent, Step};

pub use self::memory::MemoryEventBus;
use crate::{
    cause::{Cause, chain},
    clock::Clock,
};

/// The `source` of all our events.
pub const SOURCE: &str = "nodemend";

/// The most entries of one PutEvents request.
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html>
const ENTRIES_A_PUT: usize = 10;
/// The most bytes of one request, all entries together.
const BYTES_A_PUT: usize = 256 * 1024;
/// The bytes that EventBridge counts for an entry's time.
const TIME_BYTES: usize = 14;
/// Attempts for each event, with the first one.
const MAX_ATTEMPTS: u32 = 3;
/// The backoff before the second attempt; it doubles with each one.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);

/// One event for the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// When it happened.
    pub at: Timestamp,
    /// EventBridge's `detail-type`.
    pub detail_type: &'static str,
    /// The repair event, as JSON.
    pub detail: String,
}

/// The result for one event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// EventBridge accepted it.
    Accepted,
    /// EventBridge rejected it, with this code and message.
    Rejected(String),
}

/// A request failed as a whole. Whether EventBridge accepted some of its events is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to put events")]
pub struct EventBusError(#[source] pub Cause);

/// An event bus.
pub trait EventBus: Send + Sync {
    /// Sends one request of at most 10 events. Returns the result of each, in order.
    fn put(&self, batch: &[Notification]) -> impl Future<Output = Result<Vec<Put>, EventBusError>> + Send;
}

/// The `detail-type` of a step's event. Steps that are only intermediate, or logged for completeness, are not
/// published.
pub fn detail_type(step: Step) -> Option<&'static str> {
    match step {
        Step::Suspect => Some("Node Suspected"),
        Step::Recovered => Some("Node Recovered"),
        Step::Blocked => Some("Node Repair Blocked"),
        Step::Called => Some("Node Repair Called"),
        Step::Confirmed => Some("Node Repair Confirmed"),
        Step::Mismatch => Some("Node Repair Mismatched"),
        Step::Missing => Some("Node Repair Unconfirmed"),
        Step::Foreign => Some("Node Terminated By Others"),
        Step::Replaced => Some("Node Replaced"),
        Step::Closed => Some("Node Case Closed"),
        Step::Event | Step::Due | Step::Claimed => None,
    }
}

impl Notification {
    /// The event to publish for a repair event, if its step is published.
    pub fn of(repair_event: &RepairEvent) -> Option<Self> {
        let detail_type = detail_type(repair_event.step)?;
        let mut detail = serde_json::to_string(repair_event).ok()?;
        if detail.len() + SOURCE.len() + detail_type.len() + TIME_BYTES > BYTES_A_PUT {
            // Too large with its audit record, which is in the audit log: published without it.
            let without = RepairEvent { record: None, ..repair_event.clone() };
            detail = serde_json::to_string(&without).ok()?;
        }
        Some(Self { at: repair_event.at, detail_type, detail })
    }

    fn bytes(&self) -> usize {
        SOURCE.len() + self.detail_type.len() + self.detail.len() + TIME_BYTES
    }
}

/// An event that could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishFailure {
    /// The event.
    pub notification: Notification,
    /// The last error.
    pub why: String,
}

/// Publishes all events in batches. A rejected event is retried a few times; nothing is sent at `until` or later.
/// Returns the events that could not be published.
pub async fn publish<B: EventBus>(
    bus: &B,
    notifications: Vec<Notification>,
    clock: &impl Clock,
    until: Timestamp,
    pause: impl AsyncFn(Duration),
) -> Vec<PublishFailure> {
    let mut unpublished = Vec::new();
    for batch in batches(notifications) {
        let mut waiting: Vec<PublishFailure> = batch
            .into_iter()
            .map(|notification| PublishFailure {
                notification,
                why: "not sent before its deadline".to_owned(),
            })
            .collect();
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                pause(FIRST_BACKOFF * 2_u32.pow(attempt - 1)).await;
            }
            if clock.now() >= until {
                break;
            }
            let batch: Vec<Notification> = waiting.iter().map(|one| one.notification.clone()).collect();
            match bus.put(&batch).await {
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    waiting.retain_mut(|one| match answers.next() {
                        Some(Put::Accepted) => false,
                        Some(Put::Rejected(why)) => {
                            one.why = why;
                            true
                        }
                        None => {
                            one.why = "EventBridge's answer has no result for it".to_owned();
                            true
                        }
                    });
                }
                Err(error) => waiting.iter_mut().for_each(|one| one.why = chain(&error)),
            }
            if waiting.is_empty() {
                break;
            }
        }
        unpublished.append(&mut waiting);
    }
    unpublished
}

/// As few requests as EventBridge's limits allow, in the order of the events.
fn batches(notifications: Vec<Notification>) -> Vec<Vec<Notification>> {
    let mut batches: Vec<Vec<Notification>> = Vec::new();
    let mut bytes = 0;
    for notification in notifications {
        let more = notification.bytes();
        match batches.last_mut().filter(|last| last.len() < ENTRIES_A_PUT && bytes + more <= BYTES_A_PUT) {
            Some(last) => {
                bytes += more;
                last.push(notification);
            }
            None => {
                bytes = more;
                batches.push(vec![notification]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests;
