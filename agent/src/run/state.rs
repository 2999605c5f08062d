//! What the agent's threads know of each other: whether all is well, and when there is something to deliver.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;

use super::watch::lock;
use crate::{endpoint, source::Clocks};

/// A round takes milliseconds; after this long without one something hangs.
const STALLED: i64 = 60;

/// Shared by all threads. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    troubles: Mutex<Troubles>,
    last_round: AtomicI64,
    fresh: Mutex<bool>,
    woken: Condvar,
    ending: AtomicBool,
}

#[derive(Debug, Default)]
struct Troubles {
    spool: Option<String>,
    memory: Option<String>,
}

impl Health {
    /// A round ended at this time since boot.
    pub(super) fn round_ended(&self, up: SignedDuration) {
        self.0.last_round.store(up.as_secs(), Ordering::Relaxed);
    }

    /// Whether the spool takes reports.
    pub(super) fn spool(&self, trouble: Option<String>) {
        lock(&self.0.troubles).spool = trouble;
    }

    /// Whether the memory is kept.
    pub(super) fn memory(&self, trouble: Option<String>) {
        lock(&self.0.troubles).memory = trouble;
    }

    /// There is something to deliver.
    pub(super) fn wake(&self) {
        *lock(&self.0.fresh) = true;
        self.0.woken.notify_all();
    }

    /// Waits until there is, or for so long.
    pub(super) fn await_work(&self, limit: Duration) {
        let fresh = lock(&self.0.fresh);
        let waited = self.0.woken.wait_timeout_while(fresh, limit, |fresh| !*fresh);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// Says that the agent ends: deliver what is there, and no more.
    pub(super) fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }
}

impl endpoint::Health for Health {
    fn complaint(&self) -> Option<String> {
        let troubles = lock(&self.0.troubles);
        if let Some(trouble) = troubles.spool.as_ref().or(troubles.memory.as_ref()) {
            return Some(trouble.clone());
        }
        let silent = Clocks::read().up.as_secs() - self.0.last_round.load(Ordering::Relaxed);
        (silent > STALLED).then(|| format!("nothing was read for {silent} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Health as _;

    #[test]
    fn what_is_wrong_is_said_until_it_is_well_again() {
        let health = Health::default();
        health.round_ended(Clocks::read().up);
        assert_eq!(health.complaint(), None);
        health.spool(Some("no space".into()));
        assert_eq!(health.complaint().as_deref(), Some("no space"));
        health.spool(None);
        assert_eq!(health.complaint(), None);
        health.round_ended(Clocks::read().up - SignedDuration::from_secs(STALLED + 2));
        assert!(health.complaint().expect("a complaint").starts_with("nothing was read for "));
    }

    #[test]
    fn work_that_came_before_the_wait_is_not_waited_for() {
        let health = Health::default();
        health.wake();
        health.await_work(Duration::from_secs(3_600));
    }
}
