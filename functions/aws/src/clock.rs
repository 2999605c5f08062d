//! The system's clock. It is read here and nowhere else.

use jiff::Timestamp;
use nodemend_ports::clock::Clock;

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
pub async fn wait_until(at: Timestamp) {
    #[cfg(feature = "failpoints")]
    if crate::failpoints::pass_to(at) {
        return;
    }
    if let Ok(wait) = at.duration_since(SystemClock.now()).try_into() {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_shows_survives_being_stored() {
        let now = SystemClock.now();
        let stored = nodemend_domain::timestamp::millis(now);
        assert_eq!(stored.parse::<Timestamp>().ok(), Some(now), "{stored}");
    }
}
