//! The port to time. The system's clock is read here and nowhere else.

use jiff::Timestamp;

/// A clock. It shows whole milliseconds: so times are stored, and what is read again must be what was written.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

fn whole_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where time is read")]
    fn now(&self) -> Timestamp {
        whole_milliseconds(Timestamp::now())
    }
}

/// A clock that stands until it is set: what replay and simulation run on. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock(std::sync::Arc<std::sync::Mutex<Timestamp>>);

impl VirtualClock {
    /// Sets the time. It never goes back.
    pub fn advance_to(&self, now: Timestamp) {
        let mut time = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *time = whole_milliseconds(now).max(*time);
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
    fn what_a_clock_shows_survives_being_stored() {
        let clock = VirtualClock::default();
        clock.advance_to(Timestamp::new(1_790_000_000, 123_456_789).expect("a time"));
        for now in [SystemClock.now(), clock.now()] {
            let stored = nodemend_domain::stamp::millis(now);
            assert_eq!(stored.parse::<Timestamp>().ok(), Some(now), "{stored}");
        }
    }
}
