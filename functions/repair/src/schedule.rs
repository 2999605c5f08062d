//! Turns one invocation a minute into calls that leave at their deadlines.
//!
//! EventBridge's schedules are to the minute; a node's deadline is to the millisecond. An invocation therefore
//! sweeps whatever is due, and then waits for each deadline that falls before the next one begins.

use jiff::{SignedDuration, Timestamp};
use nodemend_ports::{audit_log::AuditLog, clock::Clock, cloud::Cloud, store::Store};

use crate::{RepairError, Repairer, RunReport};

/// What falls due meanwhile is seen this soon: news of a node may make it due at once.
const LOOK: SignedDuration = SignedDuration::from_secs(5);
/// A failed look is not repeated at once: what failed stays due, and would fail again without end.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Sweeps now, and again whenever something falls due before `end`; `report` hears of every sweep.
    pub async fn run_until(
        &self,
        end: Timestamp,
        wait_until: impl AsyncFn(Timestamp),
        mut report: impl FnMut(&RunReport),
    ) -> Result<(), RepairError> {
        loop {
            let swept = self.run_before(end).await?;
            report(&swept);
            let now = self.clock.now();
            let Some(due) = self.next_due().await? else { return Ok(()) };
            let next = if due > now {
                due
            } else if swept.failures.is_empty() {
                now
            } else {
                now + PAUSE
            };
            if next >= end || swept.evaluated == 0 && next <= now {
                return Ok(());
            }
            if next > now {
                wait_until(next.min(now + LOOK)).await;
            }
        }
    }
}
