//! Turns the findings of one condition into its state: bad or not, since when, and how long it was well before.

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::{
    condition::{ConditionType, Polarity, Severity, Status},
    report,
};
use serde::{Deserialize, Serialize};

use super::{
    Config, Moment,
    entry::{Entry, Key, Sight, Stage, quiet},
};
use crate::finding::{Clears, Debounce, Finding};

/// A report lists 64 findings: more that make a condition bad say nothing new.
const MAX_CONDITION_ENTRIES: usize = 64;
/// Events have more subjects, and end by themselves.
const MAX_EVENT_ENTRIES: usize = 128;
/// Too many findings to keep: said as a finding of its own.
const OVERFLOW: &str = "FindingsOverflow";
const OVERFLOW_QUIET: SignedDuration = SignedDuration::from_mins(10);
/// A condition or an event is told at once, but not more often than this.
const GAP: SignedDuration = SignedDuration::from_secs(1);

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watch {
    pub(super) condition: ConditionType,
    entries: Vec<Entry>,
    bad: bool,
    /// Of a sound condition, since when it is sound; of a bad one, since when it was before.
    sound_since: SignedDuration,
    /// Whether anybody knows what was before `sound_since`.
    remembered: bool,
    /// Whether enough was seen to say that it is well.
    known: bool,
    trouble: Option<Trouble>,
    /// A change that no report has told.
    changed: bool,
    told: Option<SignedDuration>,
    events_told: Option<SignedDuration>,
}

/// The present spell of trouble, or the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Trouble {
    since: SignedDuration,
    sound_before: Option<SignedDuration>,
}

impl Watch {
    /// A condition of which nothing is known but that nobody has complained since `start`.
    pub(super) fn new(condition: ConditionType, start: SignedDuration, known: bool) -> Self {
        Self {
            condition,
            entries: Vec::new(),
            bad: false,
            sound_since: start,
            remembered: false,
            known,
            trouble: None,
            changed: false,
            told: None,
            events_told: None,
        }
    }

    /// Whether anything can be said of it.
    pub(super) fn is_known(&self) -> bool {
        self.known || self.bad
    }

    /// Whether something makes it bad.
    pub(super) fn is_bad(&self) -> bool {
        self.bad
    }

    /// Takes a finding in.
    pub(super) fn raise(
        &mut self,
        finding: &Finding,
        seen: SignedDuration,
        now: SignedDuration,
        config: &Config,
    ) {
        let mut key = Key::of(finding);
        // A log that is read late tells of trouble that is over: worth telling, no reason to act.
        if quiet(finding.clears).is_some_and(|quiet| seen.saturating_add(quiet) <= now) {
            key.severity = Severity::Event;
        }
        let sight = Sight { seen, noticed: now };
        let place = match self.entries.iter().position(|entry| entry.key == key) {
            Some(place) => place,
            None => {
                if !self.has_room(key.severity) {
                    self.overflow(&key.reason, finding, now);
                    return;
                }
                self.entries.push(Entry::new(key, finding, seen));
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[place];
        if let Some(first) = entry.sight(finding, sight)
            && entry.key.severity == Severity::Condition
        {
            self.changed = true;
            self.begin_trouble(first.noticed, now, config);
        }
    }

    /// Makes room for a finding at the cost of one that is over.
    fn has_room(&mut self, severity: Severity) -> bool {
        let limit = match severity {
            Severity::Condition => MAX_CONDITION_ENTRIES,
            Severity::Event => MAX_EVENT_ENTRIES,
        };
        let same = |entry: &&Entry| entry.key.severity == severity && &*entry.key.reason != OVERFLOW;
        if self.entries.iter().filter(same).count() < limit {
            return true;
        }
        let spent = |entry: &Entry| {
            same(&entry) && entry.stage == Stage::Over && entry.telling_due(SignedDuration::ZERO).is_none()
        };
        match self.entries.iter().position(spent) {
            Some(place) => {
                self.entries.remove(place);
                true
            }
            None => false,
        }
    }

    /// Counts a finding that is not kept.
    pub(super) fn overflow(&mut self, reason: &str, lost: &Finding, now: SignedDuration) {
        let finding = Finding {
            reason: Cow::Borrowed(OVERFLOW),
            condition: self.condition.clone(),
            severity: Severity::Event,
            subject: None,
            message: format!("more findings than can be kept; the last that was not: {reason}"),
            at: lost.at,
            debounce: Debounce::Once,
            clears: Clears::Quiet(OVERFLOW_QUIET),
        };
        let key = Key::of(&finding);
        let place = self.entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            self.entries.push(Entry::new(key, &finding, now));
            self.entries.len() - 1
        });
        self.entries[place].sight(&finding, Sight { seen: now, noticed: now });
    }

    fn begin_trouble(&mut self, first_noticed: SignedDuration, now: SignedDuration, config: &Config) {
        if self.bad {
            return;
        }
        self.bad = true;
        // What came to be trouble in the end was no health while it was still too early to say so.
        let sound = (first_noticed - self.sound_since).max(SignedDuration::ZERO);
        let held = sound >= config.hold;
        if self.trouble.is_none() || held {
            let known = held || self.remembered;
            self.trouble = Some(Trouble { since: now, sound_before: known.then_some(sound) });
        }
    }

    /// Takes in that somebody says it is well.
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
                    // What was seen since then is not what has ended.
                    Stage::Counted => entry.can_be_told() && entry.last <= seen,
                    Stage::Pending | Stage::Over => entry.last_pending().is_none_or(|last| last <= seen),
                }
        });
    }

    /// Ends what has not been seen for its quiet time.
    pub(super) fn advance(&mut self, now: SignedDuration, config: &Config) {
        let weighs = |entry: &&Entry| entry.key.severity == Severity::Condition;
        let ends = self.entries.iter().filter(weighs).filter_map(Entry::quiet_end);
        let end = ends.filter(|end| *end <= now).max().unwrap_or(now);
        self.end_where(end, |entry| entry.quiet_end().is_some_and(|end| end <= now));
        for entry in &mut self.entries {
            entry.expire(now);
        }
        self.entries.retain(|entry| !entry.is_spent(now, config.repeat));
    }

    /// Ends those findings; the condition is well again if they were the last that made it bad.
    fn end_where(&mut self, end: SignedDuration, ends: impl Fn(&Entry) -> bool) {
        let weighs =
            |entry: &Entry| entry.key.severity == Severity::Condition && entry.stage == Stage::Counted;
        let before = self.entries.iter().filter(|entry| weighs(entry)).count();
        self.entries.retain_mut(|entry| !ends(entry) || entry.end());
        let after = self.entries.iter().filter(|entry| weighs(entry)).count();
        self.changed |= after < before;
        if self.bad && after == 0 {
            let since = self.trouble.map_or(end, |trouble| trouble.since);
            (self.bad, self.remembered, self.known) = (false, true, true);
            self.sound_since = end.max(since);
        }
    }

    /// After a start without memory nobody knows whether it is well, until it has been for as long as a recovery
    /// must hold. This is when; none if it is known.
    pub(super) fn settle_due(&self, start: SignedDuration, config: &Config) -> Option<SignedDuration> {
        if self.is_known() {
            return None;
        }
        let weighs = |entry: &&Entry| entry.key.severity == Severity::Condition;
        let pending = self.entries.iter().filter(weighs).filter_map(Entry::pending_end).max();
        let held = start.saturating_add(config.hold);
        Some(pending.map_or(held, |end| end.max(held)))
    }

    /// True if it comes to be known now.
    pub(super) fn settle(&mut self, start: SignedDuration, now: SignedDuration, config: &Config) -> bool {
        let settles = self.settle_due(start, config).is_some_and(|due| due <= now);
        self.known |= settles;
        settles
    }

    /// When its own report is due.
    pub(super) fn report_due(&self, config: &Config) -> Option<SignedDuration> {
        let after = |length: SignedDuration| {
            self.told.map_or(SignedDuration::ZERO, |told| told.saturating_add(length))
        };
        if self.changed {
            Some(after(GAP))
        } else if self.bad {
            Some(after(config.repeat))
        } else {
            None
        }
    }

    /// When events are to be told.
    pub(super) fn events_due(&self, config: &Config) -> Option<SignedDuration> {
        let earliest = self.events_told.map_or(SignedDuration::ZERO, |told| told.saturating_add(GAP));
        let due = self.entries.iter().filter_map(|entry| entry.telling_due(config.repeat)).min()?;
        Some(due.max(earliest))
    }

    /// When something happens by itself.
    pub(super) fn change_due(&self) -> Option<SignedDuration> {
        self.entries.iter().filter_map(Entry::quiet_end).min()
    }

    /// Notes that its report is written.
    pub(super) fn tell(&mut self, now: SignedDuration) {
        (self.told, self.changed) = (Some(now), false);
    }

    /// The events that are due, noted as told.
    pub(super) fn tell_events(&mut self, moment: &Moment, config: &Config) -> Vec<report::Finding<'static>> {
        let now = moment.mono;
        if self.events_due(config).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.events_told = Some(now);
        let due = |entry: &&mut Entry| entry.telling_due(config.repeat).is_some_and(|due| due <= now);
        self.entries
            .iter_mut()
            .filter(due)
            .map(|entry| {
                entry.tell(now);
                finding(entry, moment)
            })
            .collect()
    }

    /// The whole state, what weighs most first.
    pub(super) fn state(&self, moment: &Moment) -> report::ConditionState<'static> {
        let mut counted: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.stage == Stage::Counted).collect();
        counted.sort_by_key(|entry| std::cmp::Reverse((entry.key.severity, entry.last)));
        counted.truncate(MAX_CONDITION_ENTRIES);
        let (good, wrong) = match self.condition.polarity() {
            Some(Polarity::TrueIsBad) => (Status::False, Status::True),
            Some(Polarity::TrueIsGood) | None => (Status::True, Status::False),
        };
        let trouble = self.trouble.filter(|_| self.bad);
        report::ConditionState {
            condition: self.condition.clone(),
            status: if self.bad { wrong } else { good },
            since: moment.wall_of(trouble.map_or(self.sound_since, |trouble| trouble.since)),
            sound_secs: trouble
                .and_then(|trouble| trouble.sound_before)
                .and_then(|sound| u64::try_from(sound.as_secs()).ok()),
            findings: counted.into_iter().map(|entry| finding(entry, moment)).collect(),
        }
    }
}

fn finding(entry: &Entry, moment: &Moment) -> report::Finding<'static> {
    report::Finding {
        reason: Cow::Owned(entry.key.reason.to_string()),
        severity: entry.key.severity,
        since: moment.wall_of(entry.first),
        last: moment.wall_of(entry.last),
        count: entry.count,
        message: Cow::Owned(entry.line()),
    }
}
