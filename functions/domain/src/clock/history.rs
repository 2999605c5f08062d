//! The changes of one condition, as the control plane's audit log has them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ClockReading, Onset};
use crate::{condition::Health, timestamp};

/// How many changes of one condition are kept: eight hours of a node that flaps every fifteen minutes.
const MAX_CHANGES: usize = 32;

/// The changes of a condition, by the API server's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Nothing before this counts: the Node object is a new one.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    /// The state before the oldest change that is still kept.
    #[serde(default, skip_serializing_if = "Walk::is_new")]
    before: Walk,
    changes: Vec<ConditionChange>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionChange {
    /// When, by the API server's clock.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// When it arrived, by our clock.
    #[serde(with = "timestamp")]
    pub arrived: Timestamp,
    /// The new health.
    pub health: Health,
    /// The reason that its writer gives.
    pub reason: Arc<str>,
}

impl ConditionChange {
    /// What makes two deliveries the same change.
    fn key(&self) -> (Timestamp, Health, &str) {
        (self.at, self.health, &self.reason)
    }
}

/// What the changes up to one of them amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Walk {
    /// The fault that has not ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    episode: Option<Onset>,
    /// Since when it is healthy, while the fault has not ended.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    healthy_since: Option<Timestamp>,
    /// Whether it was ever healthy.
    #[serde(default)]
    was_healthy: bool,
}

impl Walk {
    fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// A bad change starts a fault, a healthy spell as long as the hold ends it. The first healthy change of a new node
    /// ends its start, which was no fault: it needs no hold.
    fn step(&mut self, change: &ConditionChange, is_new_node: bool, hold: SignedDuration) {
        if !change.health.is_bad() {
            if is_new_node && !self.was_healthy {
                self.episode = None;
            }
            self.was_healthy = true;
            self.healthy_since = self.healthy_since.or(Some(change.at));
            return;
        }
        let held = self.healthy_since.is_some_and(|since| change.at.duration_since(since) >= hold);
        self.episode = Some(match self.episode.filter(|_| !held) {
            Some(known) => known.also_known(change.arrived),
            None => self.onset(change),
        });
        self.healthy_since = None;
    }

    /// The onset of a fault that this change starts.
    fn onset(&self, change: &ConditionChange) -> Onset {
        let counts_from = if self.was_healthy { change.at.max(change.arrived) } else { change.at };
        Onset { since: change.at, counts_from, arrived: change.arrived }
    }
}

impl History {
    /// Inserts a change; true if it is new.
    pub fn note(&mut self, change: ConditionChange, hold: SignedDuration) -> bool {
        if self.from.is_some_and(|from| change.at < from) {
            return false;
        }
        match self.changes.binary_search_by(|known| known.key().cmp(&change.key())) {
            Ok(known) => {
                let known = &mut self.changes[known].arrived;
                *known = change.arrived.min(*known);
                return false;
            }
            Err(place) => self.changes.insert(place, change),
        }
        if self.changes.len() > MAX_CHANGES {
            let oldest = self.changes.remove(0);
            self.before.step(&oldest, self.from.is_some(), hold);
        }
        true
    }

    /// Forgets what was before: the Node object is a new one.
    pub fn restart(&mut self, at: Timestamp) {
        if self.from.is_none_or(|from| at > from) {
            self.from = Some(at);
            self.before = Walk::default();
            self.changes.retain(|change| change.at >= at);
        }
    }

    /// Whether a later change is known.
    pub fn is_after(&self, at: Timestamp) -> bool {
        self.changes.last().is_some_and(|last| last.at > at)
    }

    /// The latest change.
    pub fn last_change(&self) -> Option<&ConditionChange> {
        self.changes.last()
    }

    /// The first healthy change that is still kept.
    pub fn first_healthy(&self) -> Option<Timestamp> {
        self.changes.iter().find(|change| !change.health.is_bad()).map(|change| change.at)
    }

    /// The present state; none before the first change.
    pub fn read(&self, hold: SignedDuration) -> Option<ClockReading> {
        let last = self.changes.last()?;
        let same = self.changes.iter().rev().take_while(|change| change.health == last.health).last();
        let mut walk = self.before;
        for change in &self.changes {
            walk.step(change, self.from.is_some(), hold);
        }
        Some(ClockReading { health: last.health, since: same.unwrap_or(last).at, episode: walk.episode })
    }

    /// The changes with which it became bad for this reason, as far as they are kept: one between two healthy changes,
    /// oldest first. The start of a new node is none of them.
    pub fn became_bad<'h>(&'h self, reason: &str) -> impl Iterator<Item = &'h ConditionChange> {
        let mut starts = self.from.is_some() && !self.before.was_healthy;
        let mut counted = self.before.episode.is_some() && self.before.healthy_since.is_none();
        self.changes.iter().filter(move |change| {
            if !change.health.is_bad() {
                (starts, counted) = (false, false);
                return false;
            }
            let counts = !starts && !counted && *change.reason == *reason;
            counted |= counts;
            counts
        })
    }

    /// The onset that the present fault would have if only its bad changes of these reasons had been reported.
    pub fn onset_of(&self, hold: SignedDuration, reasons: impl Fn(&str) -> bool) -> Option<Onset> {
        let start = self.read(hold)?.episode?.since;
        let (mut walk, mut found) = (self.before, None);
        for change in &self.changes {
            let alone = walk.onset(change);
            walk.step(change, self.from.is_some(), hold);
            if change.health.is_bad() && change.at >= start && reasons(&change.reason) {
                found = Some(found.map_or(alone, |known: Onset| known.also_known(change.arrived)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: SignedDuration = SignedDuration::from_mins(2);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
    }

    fn change(seconds: i64, health: Health, arrived: i64) -> ConditionChange {
        ConditionChange { at: at(seconds), arrived: at(arrived), health, reason: "R".into() }
    }

    fn history(changes: &[(i64, Health)]) -> History {
        let mut history = History::default();
        for (seconds, health) in changes {
            history.note(change(*seconds, *health, *seconds), HOLD);
        }
        history
    }

    fn episode(history: &History) -> Option<Onset> {
        history.read(HOLD).and_then(|reading| reading.episode)
    }

    #[test]
    fn grace_restarts_only_after_recovery_has_held() {
        use Health::{Bad, Healthy, Unknown};
        for (changes, start) in [
            (&[(0, Bad), (60, Healthy), (179, Bad)][..], 0),
            (&[(0, Bad), (60, Healthy), (180, Bad)], 180),
            (&[(0, Bad), (60, Healthy), (100, Bad), (150, Healthy), (200, Unknown)], 0),
            (&[(0, Unknown), (60, Bad)], 0),
            (&[(0, Healthy), (500, Bad)], 500),
            (&[(0, Bad), (60, Healthy)], 0),
        ] {
            assert_eq!(episode(&history(changes)), Some(Onset::at(at(start))), "{changes:?}");
        }
    }

    #[test]
    fn a_history_is_the_same_in_any_order() {
        use Health::{Bad, Healthy};
        let changes = [(0, Bad), (60, Healthy), (100, Bad), (300, Healthy), (900, Bad)];
        let expected = history(&changes);
        let mut reversed = changes;
        reversed.reverse();
        assert_eq!(history(&reversed), expected);
        let twice: Vec<_> = changes.iter().chain(&reversed).copied().collect();
        assert_eq!(history(&twice), expected);
    }

    #[test]
    fn a_fault_outlives_the_changes_that_are_kept() {
        let flapping: Vec<_> =
            (0..200).map(|n| (n * 60, if n % 2 == 0 { Health::Bad } else { Health::Healthy })).collect();
        let history = history(&flapping);
        assert_eq!(history.changes.len(), MAX_CHANGES);
        assert_eq!(episode(&history), Some(Onset::at(at(0))));
    }

    #[test]
    fn a_registration_begins_a_new_history() {
        let mut history = history(&[(0, Health::Bad)]);
        history.restart(at(100));
        assert_eq!(history.read(HOLD), None);
        assert!(!history.note(change(50, Health::Bad, 50), HOLD));
    }

    #[test]
    fn the_start_of_a_node_is_no_fault_once_it_was_healthy() {
        use Health::{Bad, Healthy};
        let mut history = History::default();
        history.restart(at(0));
        for (seconds, health) in [(0, Bad), (1_700, Healthy)] {
            history.note(change(seconds, health, seconds), HOLD);
        }
        assert_eq!(episode(&history), None);
        history.note(change(1_760, Bad, 1_760), HOLD);
        assert_eq!(episode(&history).expect("a fault").since, at(1_760));
        // From then on a recovery must hold, as everywhere.
        history.note(change(1_800, Healthy, 1_800), HOLD);
        history.note(change(1_860, Bad, 1_860), HOLD);
        assert_eq!(episode(&history).expect("a fault").since, at(1_760));
    }

    #[test]
    fn a_late_line_counts_from_its_arrival_where_the_node_was_known_to_be_healthy() {
        let (grace, settling) = (SignedDuration::from_mins(30), SignedDuration::from_mins(10));
        let mut known = history(&[(-3_600, Health::Healthy)]);
        known.note(change(0, Health::Bad, 2_400), HOLD);
        let onset = episode(&known).expect("a fault");
        assert_eq!((onset.since, onset.counts_from), (at(0), at(2_400)));
        assert_eq!(onset.deadline(grace, settling), Some(at(2_400 + 1_800)));
        // Nothing else is known of this one: its grace period counts from its start, but others may still arrive.
        let mut unknown = History::default();
        unknown.note(change(0, Health::Bad, 2_400), HOLD);
        let onset = episode(&unknown).expect("a fault");
        assert_eq!(onset.deadline(grace, settling), Some(at(2_400 + 600)));
    }

    #[test]
    fn each_time_that_a_condition_becomes_bad_counts_once() {
        use Health::{Bad, Healthy, Unknown};
        let starts = |history: &History| {
            history.became_bad("R").map(|change| change.at.as_second() - 1_790_000_000).collect::<Vec<_>>()
        };
        let known =
            history(&[(0, Healthy), (60, Bad), (70, Unknown), (90, Healthy), (100, Bad), (110, Healthy)]);
        assert_eq!(starts(&known), [60, 100]);
        assert_eq!(known.became_bad("S").count(), 0, "of another reason");
        let mut new = History::default();
        new.restart(at(0));
        for (seconds, health) in [(0, Bad), (50, Healthy), (60, Bad), (60, Bad)] {
            new.note(change(seconds, health, seconds), HOLD);
        }
        assert_eq!(starts(&new), [60], "the start of a node is none, and a second delivery neither");
    }

    #[test]
    fn a_second_delivery_does_not_move_the_arrival() {
        let mut history = history(&[(0, Health::Healthy), (100, Health::Bad)]);
        history.note(change(100, Health::Bad, 5_000), HOLD);
        assert_eq!(episode(&history).expect("a fault").arrived, at(100));
    }
}
