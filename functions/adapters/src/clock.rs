//! The port to time. The system's clock is read here and nowhere else.

use jiff::Timestamp;

/// A clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's clock. It shows whole milliseconds: so times are stored, and what is read again must be what was written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where time is read")]
    fn now(&self) -> Timestamp {
        #[cfg(feature = "failpoints")]
        if let Some(now) = crate::failpoints::now() {
            return now;
        }
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// Waits until the system's clock shows this.
#[cfg(feature = "aws")]
pub async fn wait_until(at: Timestamp) {
    #[cfg(feature = "failpoints")]
    if crate::failpoints::pass_to(at) {
        return;
    }
    if let Ok(wait) = at.duration_since(SystemClock.now()).try_into() {
        tokio::time::sleep(wait).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_shows_survives_being_stored() {
        let now = SystemClock.now();
        let stored = nodemend_domain::stamp::millis(now);
        assert_eq!(stored.parse::<Timestamp>().ok(), Some(now), "{stored}");
    }
}
