//! Finds a clock that no time service synchronizes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    adjtimex::{self, ClockState},
    not_checkable,
};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const UNSYNCHRONIZED: &str = "ClockUnsynchronized";
const INTERVAL: Duration = Duration::from_secs(60);
/// A time service that starts marks the clock as unsynchronized until it has measured the offset.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_mins(3) };
/// The maximum error that the kernel counts up to, about nine hours after the last synchronization, and that a time
/// service sets when it gives up (NTP_PHASE_LIMIT in the kernel's timex.h).
const MAX_ERROR: SignedDuration = SignedDuration::from_secs(16);

#[derive(Default)]
pub(super) struct ClockProbe {
    latch: ConditionLatch,
}

/// Without `rtcsync`, chrony leaves the kernel's unsynchronized mark set, but still updates the maximum error. A
/// marked clock with a maximum error below the limit is therefore synchronized.
fn is_unsynchronized(clock: ClockState) -> bool {
    clock.unsynchronized && clock.max_error >= MAX_ERROR
}

impl Probe for ClockProbe {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[UNSYNCHRONIZED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let clock = adjtimex::clock()
            .map_err(|error| not_checkable(format!("failed to read the clock's state: {error}")))?;
        let problem = is_unsynchronized(clock)
            .then_some("no time service synchronizes the clock (adjtimex: STA_UNSYNC)");
        let evaluated = Evaluation::new(UNSYNCHRONIZED, problem.map(str::to_owned)).after(TWICE);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsynchronized_clock_is_marked_and_has_the_maximum_error() {
        for (unsynchronized, max_error_ms, expected) in [
            (false, 20, false),
            // Nine hours without a time source: the kernel sets the mark itself.
            (true, 16_000, true),
            (true, 16_001, true),
            // chrony without rtcsync.
            (true, 15_999, false),
            (true, 0, false),
            (false, 16_000, false),
        ] {
            let max_error = SignedDuration::from_millis(max_error_ms);
            let clock = ClockState { unsynchronized, max_error };
            assert_eq!(is_unsynchronized(clock), expected, "{clock:?}");
        }
    }

    #[test]
    fn this_kernels_clock_reads_the_same_twice() {
        let mut probe = ClockProbe::default();
        let first = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [FindingChange::Raised(_) | FindingChange::Cleared { .. }] = &first[..] else {
            panic!("{first:?}")
        };
        assert_eq!(probe.read(Timestamp::UNIX_EPOCH).expect("a reading"), first);
    }
}
