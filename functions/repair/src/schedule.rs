//! Makes each call at its deadline, although an invocation starts only once a minute.
//!
//! EventBridge's schedules have a precision of a minute, a node's deadline of a millisecond. So an invocation evaluates
//! what is due, and then waits for each deadline before the next invocation.

use jiff::{SignedDuration, Timestamp};
use nodemend_ports::{audit_log::AuditLog, clock::Clock, cloud::Cloud, store::Store};

use crate::{RepairError, Repairer, RunReport};

/// The longest wait between two reads of the next due time: a new report can make a case due at once.
const MAX_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// The wait after a failure: the case stays due, and would otherwise be evaluated in an endless loop.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Evaluates what is due now, and again at each due time before `end`. Calls `report` after each evaluation.
    pub async fn run_until(
        &self,
        end: Timestamp,
        wait_until: impl AsyncFn(Timestamp),
        mut report: impl FnMut(&RunReport),
    ) -> Result<(), RepairError> {
        loop {
            let evaluation = self.run_before(end).await?;
            report(&evaluation);
            let now = self.clock.now();
            let Some(due) = self.next_due().await? else { return Ok(()) };
            let next = if due > now {
                due
            } else if evaluation.failures.is_empty() {
                now
            } else {
                now + RETRY
            };
            if next >= end || evaluation.evaluated == 0 && next <= now {
                return Ok(());
            }
            if next > now {
                wait_until(next.min(now + MAX_WAIT)).await;
            }
        }
    }
}
