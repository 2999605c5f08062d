//! Turns records that wait into records that somebody took.
//!
//! A sink is tried for ever: hours without delivery cost no report, the outbox holds them. It belongs on a thread of
//! its own, so that neither a network that hangs nor a reader of stdout that is stuck holds up what sees.

mod backoff;
pub mod batch;
#[cfg(feature = "cloudwatch")]
pub mod cloudwatch;
pub mod stdout;

use std::{
    error::Error,
    future::Future,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::Notify;

pub use self::backoff::Backoff;
use crate::{
    metrics::Metrics,
    outbox::{Outbox, Record},
};

/// As many as one batch may hold.
const MAX_RECORDS: usize = batch::MAX_EVENTS;
const MAX_BYTES: usize = batch::MAX_BYTES;

/// Takes records, oldest first.
pub trait Sink {
    /// Takes as many of them as go at once. An error means that none was taken, as far as anybody knows.
    fn send(&mut self, records: &[Record], now: Timestamp) -> impl Future<Output = Result<Sent, SinkError>>;
}

/// What became of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// All up to this number are dealt with.
    pub upto: u64,
    /// How many were taken.
    pub delivered: u64,
    /// How many will never be.
    pub refused: u64,
}

/// Why a sink took nothing. All of it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to deliver {records} reports: {why}")]
pub struct SinkError {
    /// How many wait for it.
    pub records: usize,
    /// In a clause.
    pub why: String,
}

/// Records that are gone although nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} reports were refused for good: their times are not what the log group takes")]
pub struct Refused(pub u64);

/// Delivers what waits, for ever. `wake` says that something new waits; `tell` hears of each failure.
pub async fn deliver(
    outbox: &Mutex<Outbox>,
    sink: &mut impl Sink,
    wake: &Notify,
    metrics: &Metrics,
    clock: impl Fn() -> Timestamp,
    mut tell: impl FnMut(&dyn Error),
) {
    let mut backoff = Backoff::new(fastrand::Rng::new());
    loop {
        let records = lock(outbox).peek(MAX_RECORDS, MAX_BYTES);
        if records.is_empty() {
            wake.notified().await;
            continue;
        }
        match sink.send(&records, clock()).await {
            Ok(sent) => {
                backoff.reset();
                metrics.delivered.add(sent.delivered);
                metrics.refused.add(sent.refused);
                if sent.refused > 0 {
                    tell(&Refused(sent.refused));
                }
                if let Err(error) = lock(outbox).ack(sent.upto) {
                    tell(&error);
                }
            }
            Err(error) => {
                metrics.failures.add(1);
                tell(&error);
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// A thread that panicked while it held the outbox left it as sound as a crash would have.
fn lock(outbox: &Mutex<Outbox>) -> std::sync::MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}
