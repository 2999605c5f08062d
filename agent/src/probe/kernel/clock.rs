//! Turns the kernel's word on its clock into whether anybody sets it right.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    adjtimex::{self, Clock},
    not_checkable,
};
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

const UNSYNCHRONIZED: &str = "ClockUnsynchronized";
const INTERVAL: Duration = Duration::from_secs(60);
/// A time service that starts marks the clock as wrong until it has asked around.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_mins(3) };
/// The error that the kernel counts up to, some nine hours after it was last set right, and that a time service sets
/// when it gives up (NTP_PHASE_LIMIT in the kernel's timex.h).
const MAX_ERROR: SignedDuration = SignedDuration::from_secs(16);

#[derive(Default)]
pub(super) struct ClockState {
    standing: Standing,
}

/// chrony leaves the kernel's mark in place where it isn't told to set the hardware clock (`rtcsync`), but then it
/// still says how large the error may be: a clock that is marked as wrong by seconds at most is set by somebody.
fn is_unsynchronized(clock: Clock) -> bool {
    clock.unsynchronized && clock.max_error >= MAX_ERROR
}

impl Probe for ClockState {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[UNSYNCHRONIZED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let clock = adjtimex::clock()
            .map_err(|error| not_checkable(format!("the kernel doesn't say how its clock is: {error}")))?;
        let wrong = is_unsynchronized(clock)
            .then_some("no time service sets the clock, as adjtimex says (STA_UNSYNC)");
        let judged = Judged::when(UNSYNCHRONIZED, wrong.map(str::to_owned)).after(TWICE);
        Ok(self.standing.update(vec![judged], now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_marked_and_off_by_the_most_that_is_counted() {
        for (unsynchronized, max_error_ms, expected) in [
            (false, 20, false),
            // Nine hours without a time source: the kernel marks it itself.
            (true, 16_000, true),
            (true, 16_001, true),
            // chrony without rtcsync.
            (true, 15_999, false),
            (true, 0, false),
            (false, 16_000, false),
        ] {
            let max_error = SignedDuration::from_millis(max_error_ms);
            let clock = Clock { unsynchronized, max_error };
            assert_eq!(is_unsynchronized(clock), expected, "{clock:?}");
        }
    }

    #[test]
    fn this_kernel_is_asked_and_says_the_same_twice() {
        let mut probe = ClockState::default();
        let first = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [Change::Raised(_) | Change::Cleared { .. }] = &first[..] else { panic!("{first:?}") };
        assert_eq!(probe.read(Timestamp::UNIX_EPOCH).expect("a reading"), first);
    }
}
