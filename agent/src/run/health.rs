//! The agent's health, and the notifications between its threads.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, Ordering},
};

use jiff::SignedDuration;
use tokio::sync::Notify;

use crate::{endpoint, source::Clocks, sync::lock};

/// A round takes milliseconds; after this many seconds without one, something hangs.
const STALLED: i64 = 60;

/// The agent's health, shared by all threads.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentHealth(Arc<HealthState>);

#[derive(Debug, Default)]
struct HealthState {
    problems: Mutex<Problems>,
    last_round: AtomicI64,
    new_reports: Notify,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Problems {
    spool: Option<String>,
    saved_state: Option<String>,
}

impl AgentHealth {
    /// Records that a round ended, in time since boot.
    pub(super) fn round_ended(&self, up: SignedDuration) {
        self.0.last_round.store(up.as_secs(), Ordering::Relaxed);
    }

    /// Sets the spool's error; `None` if reports can be stored.
    pub(super) fn spool(&self, problem: Option<String>) {
        lock(&self.0.problems).spool = problem;
    }

    /// Sets the saved state's error; `None` if it can be stored.
    pub(super) fn saved_state(&self, problem: Option<String>) {
        lock(&self.0.problems).saved_state = problem;
    }

    /// Notifies the delivery of new reports.
    pub(super) fn wake(&self) {
        self.0.new_reports.notify_one();
    }

    /// Notified when there are new reports.
    pub(super) fn new_reports(&self) -> &Notify {
        &self.0.new_reports
    }

    /// Notifies the delivery that the agent stops: it delivers what is in the spool and ends.
    pub(super) fn end(&self) {
        self.0.ended.notify_one();
    }

    /// Waits until the agent stops.
    pub(super) async fn ended(&self) {
        self.0.ended.notified().await;
    }
}

impl endpoint::HealthCheck for AgentHealth {
    fn problem(&self) -> Option<String> {
        let problems = lock(&self.0.problems);
        if let Some(problem) = problems.spool.as_ref().or(problems.saved_state.as_ref()) {
            return Some(problem.clone());
        }
        let stalled_secs = Clocks::read().up.as_secs() - self.0.last_round.load(Ordering::Relaxed);
        (stalled_secs > STALLED).then(|| format!("no sources were read for {stalled_secs} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::HealthCheck as _;

    #[test]
    fn a_problem_is_returned_until_it_is_over() {
        let health = AgentHealth::default();
        health.round_ended(Clocks::read().up);
        assert_eq!(health.problem(), None);
        health.spool(Some("no space".into()));
        assert_eq!(health.problem().as_deref(), Some("no space"));
        health.spool(None);
        assert_eq!(health.problem(), None);
        health.round_ended(Clocks::read().up - SignedDuration::from_secs(STALLED + 2));
        assert!(health.problem().expect("a complaint").starts_with("no sources were read for "));
    }
}
