//! Delivers records from the outbox to a sink.
//!
//! A sink is retried forever: an outage of hours loses no report, because the outbox keeps them. The sink runs on a
//! thread of its own, so that a hanging network or a blocked stdout does not delay detection.

mod backoff;
pub mod batch;
#[cfg(feature = "cloudwatch")]
pub mod cloudwatch;
pub mod stdout;

use std::{error::Error, future::Future, sync::Mutex};

use jiff::Timestamp;
use tokio::sync::Notify;

pub use self::backoff::Backoff;
use crate::{
    metrics::Metrics,
    outbox::{Outbox, SpoolRecord},
    sync::lock,
};

/// As many as one batch may contain.
const MAX_RECORDS: usize = batch::MAX_EVENTS;
const MAX_BYTES: usize = batch::MAX_BYTES;

/// Accepts records, oldest first.
pub trait Sink {
    /// Sends as many of the records as possible in one call. An error means that none is known to be accepted.
    fn send(
        &mut self,
        records: &[SpoolRecord],
        now: Timestamp,
    ) -> impl Future<Output = Result<Sent, SinkError>>;
}

/// The result of sending records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// All records up to this number are delivered or rejected.
    pub upto: u64,
    /// The number of records that were accepted.
    pub delivered: u64,
    /// The number of records that will never be accepted.
    pub rejected: u64,
}

/// Why a sink accepted no record. All of them are sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to deliver {records} reports: {why}")]
pub struct SinkError {
    /// The number of records in the call.
    pub records: usize,
    /// The cause, as a clause.
    pub why: String,
}

/// Records that the sink rejected permanently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} reports were rejected permanently: the log group does not accept their timestamps")]
pub struct RejectedReports(pub u64);

/// Delivers records until the future is dropped. `wake` is notified of new records; `on_error` is called with each failure.
pub async fn deliver(
    outbox: &Mutex<Outbox>,
    sink: &mut impl Sink,
    wake: &Notify,
    metrics: &Metrics,
    clock: impl Fn() -> Timestamp,
    mut on_error: impl FnMut(&dyn Error),
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
                metrics.delivered.inc_by(sent.delivered);
                metrics.rejected.inc_by(sent.rejected);
                if sent.rejected > 0 {
                    on_error(&RejectedReports(sent.rejected));
                }
                if let Err(error) = lock(outbox).ack(sent.upto) {
                    on_error(&error);
                }
            }
            Err(error) => {
                metrics.failures.inc();
                on_error(&error);
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}
