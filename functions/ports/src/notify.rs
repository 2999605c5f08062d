//! Turns what happened into events on an EventBridge bus, for whoever wants to be told.
//!
//! A notification is never worth a repair: what can't be put within its time is counted and left. The log and the trail
//! say the same, and they are the truth.

mod memory;

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use nodemend_domain::repair_event::{RepairEvent, Step};

pub use self::memory::MemoryEventBus;
use crate::clock::Clock;

/// Whose events these are, to EventBridge.
pub const SOURCE: &str = "nodemend";

/// PutEvents takes no more at once.
const ENTRIES_A_PUT: usize = 10;
/// Nor more than 256 KiB, all entries together.
const BYTES_A_PUT: usize = 256 * 1024;
/// What EventBridge counts for an entry's time.
const TIME_BYTES: usize = 14;
/// The first try included.
const MAX_TRIES: u32 = 3;
/// Doubles with each try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// One event, as it is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// When it happened.
    pub at: Timestamp,
    /// Its kind.
    pub detail_type: &'static str,
    /// The occurrence, as JSON.
    pub detail: String,
}

/// What became of one event of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is on the bus.
    Taken,
    /// It is not: AWS's code and message.
    Refused(String),
}

/// A put of which nothing was taken, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to put events: {0}")]
pub struct EventBusError(pub String);

/// Where events go.
pub trait EventBus: Send + Sync {
    /// Puts so many that AWS takes them at once, and says of each, in order, what became of it.
    fn put(&self, some: &[Notification]) -> impl Future<Output = Result<Vec<Put>, EventBusError>> + Send;
}

/// The kind of event that a step is told as. What only leads to the next step, or is in the log for completeness, is
/// told to nobody.
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
    /// The event that tells of an occurrence, if it is one to tell of.
    pub fn of(repair_event: &RepairEvent) -> Option<Self> {
        let detail_type = detail_type(repair_event.step)?;
        let mut detail = serde_json::to_string(repair_event).ok()?;
        if detail.len() + SOURCE.len() + detail_type.len() + TIME_BYTES > BYTES_A_PUT {
            // The record stands in the trail; its step is worth telling without it.
            let without = RepairEvent { record: None, ..repair_event.clone() };
            detail = serde_json::to_string(&without).ok()?;
        }
        Some(Self { at: repair_event.at, detail_type, detail })
    }

    fn bytes(&self) -> usize {
        SOURCE.len() + self.detail_type.len() + self.detail.len() + TIME_BYTES
    }
}

/// An event that nobody will be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishFailure {
    /// Which.
    pub notification: Notification,
    /// Why.
    pub why: String,
}

/// Puts them all, a few at once; what was refused again, a few times, and nothing after `until`.
///
/// Whoever hears may hear twice: where an answer is lost, the events may have been taken.
pub async fn tell<B: EventBus>(
    bus: &B,
    notifications: Vec<Notification>,
    clock: &impl Clock,
    until: Timestamp,
    pause: impl AsyncFn(Duration),
) -> Vec<PublishFailure> {
    let mut untold = Vec::new();
    for some in batches(notifications) {
        let mut waiting: Vec<PublishFailure> = some
            .into_iter()
            .map(|notification| PublishFailure { notification, why: "its time was up".to_owned() })
            .collect();
        for tries in 0..MAX_TRIES {
            if tries > 0 {
                pause(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
            }
            if clock.now() >= until {
                break;
            }
            let some: Vec<Notification> = waiting.iter().map(|one| one.notification.clone()).collect();
            match bus.put(&some).await {
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    waiting.retain_mut(|one| match answers.next() {
                        Some(Put::Taken) => false,
                        Some(Put::Refused(why)) => {
                            one.why = why;
                            true
                        }
                        None => {
                            one.why = "EventBridge said nothing of it".to_owned();
                            true
                        }
                    });
                }
                Err(error) => waiting.iter_mut().for_each(|one| one.why = error.to_string()),
            }
            if waiting.is_empty() {
                break;
            }
        }
        untold.append(&mut waiting);
    }
    untold
}

/// As few puts as AWS allows, in the events' order.
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
