//! Tracks one condition: whether it is unhealthy, since when, and how long it was healthy before.

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::{
    condition::{ConditionType, Polarity, Severity, Status},
    report,
};
use serde::{Deserialize, Serialize};

use super::{
    TrackerClock, TrackerConfig,
    tracked_finding::{FindingKey, FindingStage, Sighting, TrackedFinding, quiet},
};
use crate::finding::{Clears, Debounce, DetectedFinding};

/// A report lists 64 findings; more of them add no information about an unhealthy condition.
const MAX_CONDITION_ENTRIES: usize = 64;
/// Events have more subjects, and end by themselves.
const MAX_EVENT_ENTRIES: usize = 128;
/// The reason that is raised if there are too many findings to store.
const OVERFLOW: &str = "FindingsOverflow";
const OVERFLOW_QUIET: SignedDuration = SignedDuration::from_mins(10);
/// The minimum interval between two reports of a condition's state, and between two of its events.
const MIN_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// The state of one condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConditionTracker {
    pub(super) condition: ConditionType,
    entries: Vec<TrackedFinding>,
    unhealthy: bool,
    /// For a healthy condition, since when it is healthy; for an unhealthy one, since when it was before.
    healthy_since: SignedDuration,
    /// Whether the state before `healthy_since` is known.
    has_history: bool,
    /// Whether enough was seen to report it as healthy.
    known: bool,
    episode: Option<UnhealthyEpisode>,
    /// Whether there is a change that was not reported yet.
    changed: bool,
    reported_at: Option<SignedDuration>,
    events_reported_at: Option<SignedDuration>,
}

/// The current unhealthy episode, or the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct UnhealthyEpisode {
    since: SignedDuration,
    healthy_before: Option<SignedDuration>,
}

impl ConditionTracker {
    /// A condition without findings since `start`.
    pub(super) fn new(condition: ConditionType, start: SignedDuration, known: bool) -> Self {
        Self {
            condition,
            entries: Vec::new(),
            unhealthy: false,
            healthy_since: start,
            has_history: false,
            known,
            episode: None,
            changed: false,
            reported_at: None,
            events_reported_at: None,
        }
    }

    /// Whether its state is known.
    pub(super) fn is_known(&self) -> bool {
        self.known || self.unhealthy
    }

    /// Whether a finding makes it unhealthy.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    pub(super) fn raise(
        &mut self,
        finding: &DetectedFinding,
        seen: SignedDuration,
        now: SignedDuration,
        config: &TrackerConfig,
    ) {
        let mut key = FindingKey::of(finding);
        // A late line may report a problem that is over. It is reported as an event and must not lead to a repair.
        if quiet(finding.clears).is_some_and(|quiet| seen.saturating_add(quiet) <= now) {
            key.severity = Severity::Event;
        }
        let sighting = Sighting { seen, noticed: now };
        let index = match self.entries.iter().position(|entry| entry.key == key) {
            Some(index) => index,
            None => {
                if !self.has_room(key.severity) {
                    self.overflow(&key.reason, finding, now);
                    return;
                }
                self.entries.push(TrackedFinding::new(key, finding, seen));
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[index];
        if let Some(first) = entry.record(finding, sighting)
            && entry.key.severity == Severity::Condition
        {
            self.changed = true;
            self.begin_episode(first.noticed, now, config);
        }
    }

    /// Whether there is room for a finding; if necessary, one that has ended is removed.
    fn has_room(&mut self, severity: Severity) -> bool {
        let limit = match severity {
            Severity::Condition => MAX_CONDITION_ENTRIES,
            Severity::Event => MAX_EVENT_ENTRIES,
        };
        let same = |entry: &&TrackedFinding| entry.key.severity == severity && &*entry.key.reason != OVERFLOW;
        if self.entries.iter().filter(same).count() < limit {
            return true;
        }
        let spent = |entry: &TrackedFinding| {
            same(&entry)
                && entry.stage == FindingStage::Over
                && entry.event_due(SignedDuration::ZERO).is_none()
        };
        match self.entries.iter().position(spent) {
            Some(index) => {
                self.entries.remove(index);
                true
            }
            None => false,
        }
    }

    /// Counts a finding that is not stored.
    pub(super) fn overflow(&mut self, reason: &str, dropped: &DetectedFinding, now: SignedDuration) {
        let finding = DetectedFinding {
            reason: Cow::Borrowed(OVERFLOW),
            condition: self.condition.clone(),
            severity: Severity::Event,
            subject: None,
            message: format!("too many findings to store; the last one dropped: {reason}"),
            at: dropped.at,
            debounce: Debounce::Once,
            clears: Clears::Quiet(OVERFLOW_QUIET),
        };
        let key = FindingKey::of(&finding);
        let index = self.entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            self.entries.push(TrackedFinding::new(key, &finding, now));
            self.entries.len() - 1
        });
        self.entries[index].record(&finding, Sighting { seen: now, noticed: now });
    }

    fn begin_episode(&mut self, first_noticed: SignedDuration, now: SignedDuration, config: &TrackerConfig) {
        if self.unhealthy {
            return;
        }
        self.unhealthy = true;
        // The time in which the problem was seen but did not count yet is not healthy time.
        let healthy_for = (first_noticed - self.healthy_since).max(SignedDuration::ZERO);
        let held = healthy_for >= config.hold;
        if self.episode.is_none() || held {
            let known = held || self.has_history;
            self.episode =
                Some(UnhealthyEpisode { since: now, healthy_before: known.then_some(healthy_for) });
        }
    }

    pub(super) fn clear(
        &mut self,
        reason: &str,
        subject: Option<&str>,
        seen: SignedDuration,
        now: SignedDuration,
    ) {
        self.end_where(now, |entry| {
            &*entry.key.reason == reason
                && subject.is_none_or(|subject| entry.key.subject.as_deref() == Some(subject))
                && match entry.stage {
                    // A later sighting is not what was cleared.
                    FindingStage::Counted => entry.clears_explicitly() && entry.last <= seen,
                    FindingStage::Pending | FindingStage::Over => {
                        entry.last_pending().is_none_or(|last| last <= seen)
                    }
                }
        });
    }

    /// Ends findings whose quiet time is over.
    pub(super) fn advance(&mut self, now: SignedDuration, config: &TrackerConfig) {
        let is_condition = |entry: &&TrackedFinding| entry.key.severity == Severity::Condition;
        let ends = self.entries.iter().filter(is_condition).filter_map(TrackedFinding::quiet_end);
        let end = ends.filter(|end| *end <= now).max().unwrap_or(now);
        self.end_where(end, |entry| entry.quiet_end().is_some_and(|end| end <= now));
        for entry in &mut self.entries {
            entry.expire(now);
        }
        self.entries.retain(|entry| !entry.is_expired(now, config.repeat));
    }

    /// Ends these findings. Without any left that makes it unhealthy, the condition recovers.
    fn end_where(&mut self, end: SignedDuration, ends: impl Fn(&TrackedFinding) -> bool) {
        let is_condition = |entry: &TrackedFinding| {
            entry.key.severity == Severity::Condition && entry.stage == FindingStage::Counted
        };
        let before = self.entries.iter().filter(|entry| is_condition(entry)).count();
        self.entries.retain_mut(|entry| !ends(entry) || entry.end());
        let after = self.entries.iter().filter(|entry| is_condition(entry)).count();
        self.changed |= after < before;
        if self.unhealthy && after == 0 {
            let since = self.episode.map_or(end, |episode| episode.since);
            (self.unhealthy, self.has_history, self.known) = (false, true, true);
            self.healthy_since = end.max(since);
        }
    }

    /// When an unknown state becomes known: after a start without saved state, once no problem was seen for the hold
    /// time. `None` if it is known.
    pub(super) fn settle_due(&self, start: SignedDuration, config: &TrackerConfig) -> Option<SignedDuration> {
        if self.is_known() {
            return None;
        }
        let is_condition = |entry: &&TrackedFinding| entry.key.severity == Severity::Condition;
        let pending = self.entries.iter().filter(is_condition).filter_map(TrackedFinding::pending_end).max();
        let held = start.saturating_add(config.hold);
        Some(pending.map_or(held, |end| end.max(held)))
    }

    /// Returns true if the state becomes known now.
    pub(super) fn settle(
        &mut self,
        start: SignedDuration,
        now: SignedDuration,
        config: &TrackerConfig,
    ) -> bool {
        let settles = self.settle_due(start, config).is_some_and(|due| due <= now);
        self.known |= settles;
        settles
    }

    /// When its own report is due.
    pub(super) fn report_due(&self, config: &TrackerConfig) -> Option<SignedDuration> {
        let after = |interval: SignedDuration| {
            self.reported_at.map_or(SignedDuration::ZERO, |reported_at| reported_at.saturating_add(interval))
        };
        if self.changed {
            Some(after(MIN_INTERVAL))
        } else if self.unhealthy {
            Some(after(config.repeat))
        } else {
            None
        }
    }

    /// When events are due.
    pub(super) fn events_due(&self, config: &TrackerConfig) -> Option<SignedDuration> {
        let earliest = self
            .events_reported_at
            .map_or(SignedDuration::ZERO, |reported_at| reported_at.saturating_add(MIN_INTERVAL));
        let due = self.entries.iter().filter_map(|entry| entry.event_due(config.repeat)).min()?;
        Some(due.max(earliest))
    }

    /// When the next finding ends by itself.
    pub(super) fn change_due(&self) -> Option<SignedDuration> {
        self.entries.iter().filter_map(TrackedFinding::quiet_end).min()
    }

    /// Records that its state was reported.
    pub(super) fn mark_reported(&mut self, now: SignedDuration) {
        (self.reported_at, self.changed) = (Some(now), false);
    }

    /// Takes the events that are due and records them as reported.
    pub(super) fn take_due_events(
        &mut self,
        clock: &TrackerClock,
        config: &TrackerConfig,
    ) -> Vec<report::Finding<'static>> {
        let now = clock.mono;
        if self.events_due(config).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.events_reported_at = Some(now);
        let due = |entry: &&mut TrackedFinding| entry.event_due(config.repeat).is_some_and(|due| due <= now);
        self.entries
            .iter_mut()
            .filter(due)
            .map(|entry| {
                entry.mark_reported(now);
                finding(entry, clock)
            })
            .collect()
    }

    /// The whole state, with the most severe findings first.
    pub(super) fn report_state(&self, clock: &TrackerClock) -> report::ConditionState<'static> {
        let mut counted: Vec<&TrackedFinding> =
            self.entries.iter().filter(|entry| entry.stage == FindingStage::Counted).collect();
        counted.sort_by_key(|entry| std::cmp::Reverse((entry.key.severity, entry.last)));
        counted.truncate(MAX_CONDITION_ENTRIES);
        let (healthy_status, unhealthy_status) = match self.condition.polarity() {
            Some(Polarity::TrueIsBad) => (Status::False, Status::True),
            Some(Polarity::TrueIsGood) | None => (Status::True, Status::False),
        };
        let episode = self.episode.filter(|_| self.unhealthy);
        report::ConditionState {
            condition: self.condition.clone(),
            status: if self.unhealthy { unhealthy_status } else { healthy_status },
            since: clock.wall_of(episode.map_or(self.healthy_since, |episode| episode.since)),
            sound_secs: episode
                .and_then(|episode| episode.healthy_before)
                .and_then(|healthy_for| u64::try_from(healthy_for.as_secs()).ok()),
            findings: counted.into_iter().map(|entry| finding(entry, clock)).collect(),
        }
    }
}

fn finding(entry: &TrackedFinding, clock: &TrackerClock) -> report::Finding<'static> {
    report::Finding {
        reason: Cow::Owned(entry.key.reason.to_string()),
        severity: entry.key.severity,
        since: clock.wall_of(entry.first),
        last: clock.wall_of(entry.last),
        count: entry.count,
        message: Cow::Owned(entry.line()),
    }
}
