//! The port to the current time, which only handlers read. The domain takes time as an argument.

use jiff::Timestamp;

/// A source of the current time.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// A clock that moves only when it is set, for replay, simulation and tests. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock(std::sync::Arc<std::sync::Mutex<Timestamp>>);

impl VirtualClock {
    /// Sets the time. An earlier time than the current one is ignored.
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
