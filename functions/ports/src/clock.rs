//! The port to time.

use jiff::Timestamp;

/// A clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A clock that stands until it is set: what replay and simulation run on. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock(std::sync::Arc<std::sync::Mutex<Timestamp>>);

impl VirtualClock {
    /// Sets the time. It never goes back.
    pub fn advance_to(&self, now: Timestamp) {
        let mut time = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *time = now.max(*time);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
