//! Turns what is heard of one condition, in any order and any number of times, into the start of its trouble.
//!
//! Trouble begins when a condition first goes bad. A recovery ends it only when it holds; one that doesn't is
//! bridged, so that flapping neither escapes repair nor resets the clock. Two kinds of witness are kept apart,
//! because one clock must measure each length of time:
//!
//! * the control plane stamps every change with the API server's time: [`History`] orders the changes;
//! * an agent states the whole condition under a rising number, in its node's own time: [`LatestReport`] keeps the
//!   newest, and counts its age back from its arrival.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{condition::Health, timestamp};

/// What a clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The health that was last heard of.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// Start of the trouble that has not ended yet: the condition is bad, or its recovery hasn't held.
    pub episode: Option<Timestamp>,
}

/// How many changes of one condition are kept: eight hours of a node that flaps every fifteen minutes.
const MAX_CHANGES: usize = 32;

/// The changes of a condition as the control plane saw them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Nothing before this counts: the node registered anew.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    /// Trouble that had begun before the oldest change that is still kept.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    earlier_episode: Option<Timestamp>,
    changes: Vec<ConditionChange>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConditionChange {
    /// When, by the API server's clock.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// To what.
    pub health: Health,
    /// Why, in the reporter's word.
    pub reason: Arc<str>,
}

impl History {
    /// Takes a change in; true if it was news.
    pub fn note(&mut self, change: ConditionChange, hold: SignedDuration) -> bool {
        if self.from.is_some_and(|from| change.at < from) {
            return false;
        }
        let Err(place) = self.changes.binary_search(&change) else {
            return false;
        };
        self.changes.insert(place, change);
        if self.changes.len() > MAX_CHANGES {
            let first_two = episode(self.earlier_episode, &self.changes[..2], hold);
            self.earlier_episode = first_two;
            self.changes.remove(0);
        }
        true
    }

    /// Forgets what was before: the node is a new one.
    pub fn restart(&mut self, at: Timestamp) {
        if self.from.is_none_or(|from| at > from) {
            self.from = Some(at);
            self.earlier_episode = None;
            self.changes.retain(|change| change.at >= at);
        }
    }

    /// Whether a later change is known.
    pub fn is_after(&self, at: Timestamp) -> bool {
        self.changes.last().is_some_and(|last| last.at > at)
    }

    /// What the clock shows; none before the first change.
    pub fn read(&self, hold: SignedDuration) -> Option<ClockReading> {
        let last = self.changes.last()?;
        let same = self.changes.iter().rev().take_while(|change| change.health == last.health).last();
        Some(ClockReading {
            health: last.health,
            since: same.unwrap_or(last).at,
            episode: episode(self.earlier_episode, &self.changes, hold),
        })
    }

    /// The bad changes of the present trouble, oldest first.
    pub fn bad_changes(&self, hold: SignedDuration) -> impl Iterator<Item = &ConditionChange> {
        let start = episode(self.earlier_episode, &self.changes, hold);
        self.changes
            .iter()
            .filter(move |change| change.health.is_bad() && start.is_some_and(|start| change.at >= start))
    }
}

/// Walks the changes: a bad one starts trouble, a sound spell as long as the hold ends it.
fn episode(
    earlier: Option<Timestamp>,
    changes: &[ConditionChange],
    hold: SignedDuration,
) -> Option<Timestamp> {
    let mut start = earlier;
    let mut sound_since: Option<Timestamp> = None;
    for change in changes {
        if !change.health.is_bad() {
            sound_since = sound_since.or(Some(change.at));
            continue;
        }
        let held = sound_since.is_some_and(|since| change.at.duration_since(since) >= hold);
        if held || start.is_none() {
            start = Some(change.at);
        }
        sound_since = None;
    }
    start
}

/// The newest that an agent said of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatestReport {
    /// The report's number within its boot.
    pub seq: u64,
    /// What it said.
    pub health: Health,
    /// Since when, by the node's clock; names the spell.
    #[serde(with = "timestamp")]
    node_since: Timestamp,
    /// The same instant by our clock: the arrival less the age, the least of all arrivals.
    #[serde(with = "timestamp")]
    since: Timestamp,
    /// The trouble that it is in, or was in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    episode: Option<Onset>,
    /// The report that told of that trouble first, where its agent knows nothing of the time before: the one written right
    /// before it may yet come, and tell of an earlier start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_by: Option<u64>,
}

/// When something began on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Onset {
    /// By the node's clock: what came first there is told by this.
    #[serde(with = "timestamp")]
    pub node_since: Timestamp,
    /// By our clock, no later than this: what is waited for is counted from this.
    #[serde(with = "timestamp")]
    pub start: Timestamp,
}

impl Onset {
    /// The earlier of two, by each clock.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { node_since: self.node_since.min(other.node_since), start: self.start.min(other.start) }
    }

    /// The later of two, by each clock.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { node_since: self.node_since.max(other.node_since), start: self.start.max(other.start) }
    }
}

/// One thing that an agent says of a condition, with the ages that only its own clock can measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionReport {
    /// The report's number within its boot.
    pub seq: u64,
    /// What it says.
    pub health: Health,
    /// Since when, by the node's clock.
    pub node_since: Timestamp,
    /// When the report was written, by the node's clock.
    pub node_at: Timestamp,
    /// For how long it had been well before, where the agent knows.
    pub sound_before: Option<SignedDuration>,
    /// When it reached us, by our clock.
    pub arrival: Timestamp,
}

impl ConditionReport {
    /// The start by our clock. A start after the report itself is a broken clock's: it has no age.
    fn since(&self) -> Timestamp {
        let age = self.node_at.duration_since(self.node_since).max(SignedDuration::ZERO);
        self.arrival.checked_sub(age).unwrap_or(self.arrival)
    }

    /// Its number, where its agent doesn't know what was before.
    fn reported_by(&self) -> Option<u64> {
        self.sound_before.is_none().then_some(self.seq)
    }
}

/// What became of a saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recency {
    /// The newest so far.
    Newest,
    /// Older than what is known, or the same again.
    Stale,
}

impl LatestReport {
    /// The first saying about a condition.
    pub fn first(reported: ConditionReport) -> Self {
        let since = reported.since();
        let episode =
            reported.health.is_bad().then_some(Onset { node_since: reported.node_since, start: since });
        let reported_by = episode.and(reported.reported_by());
        Self {
            seq: reported.seq,
            health: reported.health,
            node_since: reported.node_since,
            since,
            episode,
            reported_by,
        }
    }

    /// Takes a saying of the same boot in.
    pub fn note(&mut self, reported: ConditionReport, hold: SignedDuration) -> Recency {
        let since = reported.since();
        // A late or repeated report may still have travelled faster than the ones before it.
        if reported.node_since == self.node_since {
            self.since = self.since.min(since);
        }
        if let Some(episode) =
            self.episode.as_mut().filter(|episode| episode.node_since == reported.node_since)
        {
            episode.start = episode.start.min(since);
        }
        if reported.seq <= self.seq {
            let onset = Onset { node_since: reported.node_since, start: since };
            if reported.health.is_bad()
                && self.reported_by == reported.seq.checked_add(1)
                && let Some(episode) =
                    self.episode.as_mut().filter(|known| onset.node_since < known.node_since)
            {
                *episode = episode.min(onset);
                self.reported_by = reported.reported_by();
            }
            return Recency::Stale;
        }
        if reported.health.is_bad()
            && self.episode.is_none_or(|episode| self.has_recovered(&reported, episode, hold))
        {
            self.episode = Some(Onset { node_since: reported.node_since, start: since });
            self.reported_by = reported.reported_by();
        }
        if reported.node_since != self.node_since {
            self.since = since;
        }
        (self.seq, self.health, self.node_since) = (reported.seq, reported.health, reported.node_since);
        Recency::Newest
    }

    /// Whether the spell that is said to begin now is a new trouble: only where a recovery held in between.
    /// A later start alone proves none: an agent that lost its memory has one too.
    fn has_recovered(&self, reported: &ConditionReport, episode: Onset, hold: SignedDuration) -> bool {
        if reported.node_since <= episode.node_since {
            return false;
        }
        match reported.sound_before {
            Some(sound) => sound >= hold,
            None => {
                self.health == Health::Healthy && reported.node_since.duration_since(self.node_since) >= hold
            }
        }
    }

    /// The onset of the present trouble, if a saying that was taken in is of it and not of an earlier one.
    pub fn episode_of(&self, reported: &ConditionReport) -> Option<Onset> {
        self.episode.filter(|episode| reported.node_since >= episode.node_since)
    }

    /// What the clock shows.
    pub fn read(&self) -> ClockReading {
        ClockReading {
            health: self.health,
            since: self.since,
            episode: self.episode.map(|episode| episode.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: SignedDuration = SignedDuration::from_mins(2);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
    }

    fn history(changes: &[(i64, Health)]) -> History {
        let mut history = History::default();
        for (seconds, health) in changes {
            history.note(ConditionChange { at: at(*seconds), health: *health, reason: "R".into() }, HOLD);
        }
        history
    }

    #[test]
    fn grace_restarts_only_after_recovery_has_held() {
        use Health::{Bad, Healthy, Unknown};
        for (changes, episode) in [
            (&[(0, Bad), (60, Healthy), (179, Bad)][..], 0),
            (&[(0, Bad), (60, Healthy), (180, Bad)], 180),
            (&[(0, Bad), (60, Healthy), (100, Bad), (150, Healthy), (200, Unknown)], 0),
            (&[(0, Unknown), (60, Bad)], 0),
            (&[(0, Healthy), (500, Bad)], 500),
            (&[(0, Bad), (60, Healthy)], 0),
        ] {
            let reading = history(changes).read(HOLD).expect("a reading");
            assert_eq!(reading.episode, Some(at(episode)), "{changes:?}");
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
    fn trouble_outlives_the_changes_that_are_kept() {
        let flapping: Vec<_> =
            (0..200).map(|n| (n * 60, if n % 2 == 0 { Health::Bad } else { Health::Healthy })).collect();
        let history = history(&flapping);
        assert_eq!(history.changes.len(), MAX_CHANGES);
        assert_eq!(history.read(HOLD).expect("a reading").episode, Some(at(0)));
    }

    #[test]
    fn a_registration_begins_a_new_history() {
        let mut history = history(&[(0, Health::Bad)]);
        history.restart(at(100));
        assert_eq!(history.read(HOLD), None);
        assert!(!history.note(ConditionChange { at: at(50), health: Health::Bad, reason: "R".into() }, HOLD));
    }

    fn reported(seq: u64, health: Health, since: i64, written: i64) -> ConditionReport {
        ConditionReport {
            seq,
            health,
            node_since: at(since),
            node_at: at(written),
            sound_before: None,
            arrival: at(written + 1),
        }
    }

    #[test]
    fn a_nodes_wrong_clock_neither_hastens_nor_delays() {
        for skew in [-86_400, 0, 3_600] {
            let mut said = reported(1, Health::Bad, skew, skew + 300);
            said.arrival = at(300);
            assert_eq!(LatestReport::first(said).read().episode, Some(at(0)), "{skew}");
        }
    }

    #[test]
    fn a_start_in_the_nodes_future_has_no_age() {
        let mut said = reported(1, Health::Bad, 900, 300);
        said.arrival = at(300);
        assert_eq!(LatestReport::first(said).read().episode, Some(at(300)));
    }

    #[test]
    fn an_agent_that_lost_its_memory_does_not_reset_the_clock() {
        let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
        latest.note(reported(2, Health::Bad, 600, 600), HOLD);
        assert_eq!(latest.read().episode, Some(at(1)));
    }

    #[test]
    fn an_agent_that_lost_its_memory_does_not_reset_the_clock_though_its_reports_cross() {
        // 3 was written before the restart, 4 after it, a second later, and 4 arrives first.
        let crossed = |before: ConditionReport, after: ConditionReport| {
            let mut latest = LatestReport::first(after);
            assert_eq!(latest.note(before, HOLD), Recency::Stale);
            latest.read().episode
        };
        assert_eq!(
            crossed(reported(3, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)),
            Some(at(1))
        );
        // So late that its start, counted back from its arrival, is later than what is known.
        let mut late = reported(3, Health::Bad, 0, 240);
        late.arrival = at(900);
        assert_eq!(crossed(late, reported(4, Health::Bad, 241, 241)), Some(at(242)));
        // Another report may lie between them, and tell that all was well.
        assert_eq!(
            crossed(reported(2, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)),
            Some(at(242))
        );
        // It knows that all was well.
        let mut remembers = reported(4, Health::Bad, 241, 241);
        remembers.sound_before = Some(SignedDuration::from_mins(2));
        assert_eq!(crossed(reported(3, Health::Bad, 0, 120), remembers), Some(at(242)));
    }

    #[test]
    fn the_least_delayed_report_tells_the_start() {
        let mut late = reported(1, Health::Bad, 0, 0);
        late.arrival = at(500);
        let mut latest = LatestReport::first(late);
        latest.note(reported(2, Health::Bad, 0, 300), HOLD);
        assert_eq!(latest.read().episode, Some(at(1)));
        let mut later_still = reported(3, Health::Bad, 0, 400);
        later_still.arrival = at(2_000);
        latest.note(later_still, HOLD);
        assert_eq!(latest.read().episode, Some(at(1)));
    }

    #[test]
    fn a_lost_recovery_is_told_by_the_next_report() {
        let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
        let mut again = reported(9, Health::Bad, 600, 660);
        again.sound_before = Some(SignedDuration::from_mins(5));
        latest.note(again, HOLD);
        assert_eq!(latest.read().episode, Some(at(601)));
    }
}
