//! When repairs of a group wait because the group does not get its instances back: its replacements failed, or Auto
//! Scaling cannot launch instances.
//!
//! Both are counted since the last success, whoever asked for the instances, and both end with one.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::GroupState;
use crate::{policy::Policy, timestamp};

/// The longest backoff.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_hours(24);
/// Auto Scaling tries several zones and several instances at once: failures this close together are one attempt.
const ONE_ATTEMPT: SignedDuration = SignedDuration::from_secs(60);
/// The most bytes of a status message that a group keeps.
const MAX_MESSAGE: usize = 512;

/// Launches that failed since the last one that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchFailures {
    /// How many attempts failed.
    pub attempts: u32,
    /// When the first one failed.
    #[serde(with = "timestamp")]
    pub first: Timestamp,
    /// When the last one failed.
    #[serde(with = "timestamp")]
    pub last: Timestamp,
    /// Auto Scaling's `StatusMessage` of the last one.
    pub message: String,
    /// The last one was to fill the warm pool, not the group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_warm_pool: bool,
}

/// Why a group is in backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackoffCause<'a> {
    /// So many replacements in a row did not become Ready.
    Replacements(u32),
    /// Auto Scaling fails to launch instances.
    Launches(&'a LaunchFailures),
}

/// Until when a group is in backoff, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff<'a> {
    /// Its end, if nothing ends it earlier.
    pub until: Timestamp,
    /// What it comes from.
    pub cause: BackoffCause<'a>,
}

impl GroupState {
    /// How many outages its replacements have failed in since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the last of them failed.
    pub fn last_failure(&self) -> Option<Timestamp> {
        self.last_failure
    }

    /// The launches that failed since the last one that succeeded.
    pub fn launch_failures(&self) -> Option<&LaunchFailures> {
        self.launch_failures.as_ref()
    }

    /// Records that the replacement of an instance that was terminated then has failed. Repairs that were under way when
    /// an earlier one failed are part of the same outage, which counts once.
    pub fn record_failure(&mut self, terminated: Timestamp, now: Timestamp) {
        if self.last_failure.is_none_or(|last| last < terminated) {
            self.failures += 1;
        }
        self.last_failure = self.last_failure.max(Some(now));
    }

    /// Records that Auto Scaling launched an instance, or drew one from the warm pool. Returns whether that changed
    /// anything. Events arrive in any order: it ends only the failures before it.
    pub fn record_launch(&mut self, at: Timestamp) -> bool {
        let ended = self.launch_failures.take_if(|failures| failures.last <= at).is_some();
        // To the minute: the group is written no more often than it must be.
        let news = self.launched_at.is_none_or(|known| at.duration_since(known) >= ONE_ATTEMPT);
        if ended || news {
            self.launched_at = self.launched_at.max(Some(at));
        }
        ended || news
    }

    /// Records that Auto Scaling failed to launch an instance. Returns whether that changed anything.
    pub fn record_launch_failure(&mut self, at: Timestamp, message: &str, for_warm_pool: bool) -> bool {
        // An instance was launched since: Auto Scaling has tried another zone, or the event is late.
        if self.launched_at.is_some_and(|launched| launched >= at) {
            return false;
        }
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
        let Some(known) = &mut self.launch_failures else {
            let message = message.to_owned();
            self.launch_failures =
                Some(LaunchFailures { attempts: 1, first: at, last: at, message, for_warm_pool });
            return true;
        };
        if at <= known.last {
            // Delivered again, or late.
            let earlier = at < known.first;
            known.first = known.first.min(at);
            return earlier;
        }
        if at.duration_since(known.last) >= ONE_ATTEMPT {
            known.attempts = known.attempts.saturating_add(1);
        }
        (known.last, known.for_warm_pool) = (at, for_warm_pool);
        message.clone_into(&mut known.message);
        true
    }

    /// Records that a new instance of the group, launched then, became Ready: whatever was wrong, the group gets its
    /// instances back. Returns whether that changed anything.
    pub fn record_ready(&mut self, launched: Timestamp) -> bool {
        let failed = self.failures > 0 || self.last_failure.is_some();
        (self.failures, self.last_failure) = (0, None);
        failed | self.launch_failures.take_if(|failures| failures.last <= launched).is_some()
    }

    /// Whether a new instance that becomes Ready would end a backoff.
    pub fn has_failures(&self) -> bool {
        self.failures > 0 || self.launch_failures.is_some()
    }

    /// Until when the group is in backoff, and why. It doubles with each failed replacement, and with each attempt to
    /// launch that failed, up to 24 hours.
    pub fn backoff(&self, policy: &Policy) -> Option<Backoff<'_>> {
        let replacements = self.last_failure.and_then(|last| {
            let cause = BackoffCause::Replacements(self.failures);
            Some(Backoff { until: end(last, self.failures, policy)?, cause })
        });
        let launches = self.launch_failures.as_ref().and_then(|failures| {
            let cause = BackoffCause::Launches(failures);
            Some(Backoff { until: end(failures.last, failures.attempts, policy)?, cause })
        });
        replacements.into_iter().chain(launches).max_by_key(|backoff| backoff.until)
    }

    /// Until when the group is in backoff.
    pub fn backoff_until(&self, policy: &Policy) -> Option<Timestamp> {
        self.backoff(policy).map(|backoff| backoff.until)
    }
}

fn end(last: Timestamp, failures: u32, policy: &Policy) -> Option<Timestamp> {
    let doublings = failures.checked_sub(1)?.min(10);
    let backoff = (policy.failure_backoff * (1 << doublings)).min(MAX_BACKOFF);
    last.checked_add(backoff).ok()
}

impl LaunchFailures {
    /// The failures as one clause, with Auto Scaling's own message.
    pub fn sentence(&self, group: &str) -> String {
        let message = if self.message.is_empty() { "no StatusMessage" } else { self.message.as_str() };
        let attempts = if self.attempts == 1 {
            format!("at {}", timestamp::seconds(self.last))
        } else {
            format!(
                "in {} attempts from {} to {}",
                self.attempts,
                timestamp::seconds(self.first),
                timestamp::seconds(self.last)
            )
        };
        format!("Auto Scaling failed to launch an instance in group {group} {attempts}: {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{ClusterName, GroupName};

    const NO_CAPACITY: &str = "We currently do not have sufficient capacity";

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minutes * 60).expect("a time")
    }

    fn state() -> GroupState {
        let cluster = ClusterName::new("prod").expect("a name");
        GroupState::new(cluster, GroupName::new("workers").expect("a name"))
    }

    fn until(state: &GroupState) -> Option<Timestamp> {
        state.backoff_until(&Policy::default())
    }

    #[test]
    fn each_outage_doubles_the_backoff() {
        let mut state = state();
        assert_eq!(until(&state), None);
        for (outage, minutes) in [15, 30, 60, 120].into_iter().enumerate() {
            let terminated = i64::try_from(outage).expect("few") * 1_000;
            state.record_failure(at(terminated), at(terminated + 60));
            assert_eq!(until(&state), Some(at(terminated + 60 + minutes)));
        }
        for outage in 4..40 {
            state.record_failure(at(outage * 1_000), at(outage * 1_000 + 60));
        }
        assert_eq!(until(&state), Some(at(39_060 + 24 * 60)));
    }

    #[test]
    fn one_outage_is_one_failure_however_many_repairs_were_in_it() {
        let mut state = state();
        for minute in 0..6 {
            state.record_failure(at(minute), at(minute + 60));
        }
        assert_eq!((state.failures(), until(&state)), (1, Some(at(65 + 15))));
        state.record_failure(at(66), at(126));
        assert_eq!(state.failures(), 2, "a repair that began after the failure was known");
        assert!(state.record_ready(at(130)));
        assert_eq!((state.failures(), until(&state)), (0, None));
    }

    #[test]
    fn failed_launches_back_off_at_once_and_longer_each_time() {
        let mut state = state();
        for (minute, minutes) in [(0, 15), (6, 30), (12, 60)] {
            assert!(state.record_launch_failure(at(minute), NO_CAPACITY, false));
            assert_eq!(until(&state), Some(at(minute + minutes)));
        }
        // Three zones, within the same attempt; and an event that is delivered again.
        state.record_launch_failure(at(12) + SignedDuration::from_secs(20), NO_CAPACITY, false);
        assert!(!state.record_launch_failure(at(6), NO_CAPACITY, false));
        assert_eq!(state.launch_failures().map(|failures| failures.attempts), Some(3));
    }

    #[test]
    fn a_launch_ends_the_failures_before_it_in_whatever_order_their_events_arrive() {
        let mut state = state();
        state.record_launch_failure(at(10), NO_CAPACITY, false);
        state.record_launch(at(5));
        assert!(state.launch_failures().is_some(), "an older launch");
        assert!(state.record_launch(at(11)));
        assert_eq!(state.launch_failures(), None);
        assert!(!state.record_launch_failure(at(9), NO_CAPACITY, false), "an older failure");
        assert_eq!(until(&state), None);
    }

    #[test]
    fn an_instance_that_was_launched_before_the_failures_and_becomes_ready_shows_no_capacity() {
        let mut state = state();
        state.record_launch_failure(at(10), NO_CAPACITY, false);
        assert!(!state.record_ready(at(9)));
        assert!(state.record_ready(at(10)));
        assert_eq!(state.launch_failures(), None);
    }

    #[test]
    fn a_message_of_any_length_is_kept_in_part() {
        let mut state = state();
        state.record_launch_failure(at(10), &"\u{10348}".repeat(500), false);
        assert!(state.launch_failures().is_some_and(|failures| failures.message.len() <= MAX_MESSAGE));
    }
}
