//! The system's clock, which no other code reads.

use jiff::Timestamp;
use nodemend_ports::clock::Clock;

/// The system's clock, in whole milliseconds: stored times have this precision, and must read back unchanged.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "only here is the time read")]
    fn now(&self) -> Timestamp {
        #[cfg(feature = "failpoints")]
        if let Some(now) = crate::failpoints::now() {
            return now;
        }
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// Waits until this time by the system's clock.
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
    fn the_time_reads_back_unchanged_after_it_is_stored() {
        let now = SystemClock.now();
        let stored = nodemend_domain::timestamp::millis(now);
        assert_eq!(stored.parse::<Timestamp>().ok(), Some(now), "{stored}");
    }
}
