//! Decides from the sightings of one finding whether it counts.

use std::collections::VecDeque;

use jiff::SignedDuration;
use nodemend_domain::condition::Severity;
use serde::{Deserialize, Serialize};

use crate::finding::{Clears, Debounce, DetectedFinding};

/// The maximum number of sightings that are stored separately. If a rule needs more, sightings that are close
/// together are grouped.
const MAX_SIGHTINGS: usize = 256;
/// The maximum length of a stored subject, in bytes; a report may shorten it further.
const MAX_SUBJECT: usize = 256;
const MAX_MESSAGE: usize = 512;
/// The longest reason that a reader of reports accepts.
const MAX_REASON: usize = 128;

/// When a problem was seen, and when the agent noticed it, both in time since boot.
///
/// A log that is read late has old sightings. Windows use `seen`. The start of an episode and the healthy time before
/// it use `noticed`, which a wrong clock or a late line cannot move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sighting {
    pub(super) seen: SignedDuration,
    pub(super) noticed: SignedDuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SightingGroup {
    first: Sighting,
    number: u64,
}

/// The stage of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FindingStage {
    /// Seen, but not as often as its debounce requires.
    Pending,
    /// It counts.
    Counted,
    /// It ended. It is stored so that its return is reported no more often than a repetition would be.
    Over,
}

/// How the finding ends: [`Clears`] as one structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ClearPolicy {
    explicit: bool,
    quiet: Option<SignedDuration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LastReported {
    at: SignedDuration,
    count: u64,
}

/// The identity of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FindingKey {
    pub(super) reason: Box<str>,
    pub(super) subject: Option<Box<str>>,
    pub(super) severity: Severity,
}

impl FindingKey {
    pub(super) fn of(finding: &DetectedFinding) -> Self {
        Self {
            reason: reason(&finding.reason),
            subject: finding.subject.as_deref().map(subject),
            severity: finding.severity,
        }
    }
}

/// A finding and its sightings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrackedFinding {
    pub(super) key: FindingKey,
    pub(super) message: Box<str>,
    pub(super) stage: FindingStage,
    /// The first and last sighting and their number, since it counts.
    pub(super) first: SignedDuration,
    pub(super) last: SignedDuration,
    pub(super) count: u64,
    groups: VecDeque<SightingGroup>,
    /// Sightings further apart than this are unrelated.
    window: SignedDuration,
    clear_policy: ClearPolicy,
    last_report: Option<LastReported>,
}

impl TrackedFinding {
    /// A finding without sightings.
    pub(super) fn new(key: FindingKey, finding: &DetectedFinding, seen: SignedDuration) -> Self {
        Self {
            key,
            message: Box::default(),
            stage: FindingStage::Pending,
            first: seen,
            last: seen,
            count: 0,
            groups: VecDeque::new(),
            window: SignedDuration::ZERO,
            clear_policy: clear_policy(finding.clears),
            last_report: None,
        }
    }

    /// Adds a sighting. If it makes the finding count, returns the first of the sightings that did.
    pub(super) fn record(&mut self, finding: &DetectedFinding, sighting: Sighting) -> Option<Sighting> {
        self.message = printable(&finding.message, MAX_MESSAGE);
        self.clear_policy = merged(self.clear_policy, clear_policy(finding.clears), self.stage);
        if self.stage == FindingStage::Counted {
            self.last = self.last.max(sighting.seen);
            self.count = self.count.saturating_add(1);
            return None;
        }
        let (needed, window) = match finding.debounce {
            Debounce::Once => (1, SignedDuration::ZERO),
            Debounce::Times { count, window } => (u64::from(count.max(1)), window),
            Debounce::Lasting(duration) => (1, duration),
        };
        self.window = window.max(SignedDuration::ZERO);
        self.prune(sighting, matches!(finding.debounce, Debounce::Lasting(_)));
        self.add(sighting, needed);
        let reached = match finding.debounce {
            Debounce::Once => true,
            Debounce::Times { .. } => self.groups.iter().map(|groups| groups.number).sum::<u64>() >= needed,
            // By the time when readings arrived: a log that is read late is no evidence of a duration.
            Debounce::Lasting(duration) => {
                self.groups.front().is_some_and(|first| sighting.noticed - first.first.noticed >= duration)
            }
        };
        reached.then(|| self.begin())
    }

    /// Removes sightings that are too old.
    fn prune(&mut self, sighting: Sighting, lasting: bool) {
        if lasting {
            // After a pause as long as the whole duration, "in every reading" no longer holds.
            if self.pending_end().is_some_and(|end| end <= sighting.noticed) {
                self.groups.clear();
            }
        } else {
            let newest =
                self.groups.back().map_or(sighting.seen, |newest| newest.first.seen.max(sighting.seen));
            while self.groups.front().is_some_and(|oldest| newest - oldest.first.seen > self.window) {
                self.groups.pop_front();
            }
        }
    }

    /// Inserts a sighting in order, and limits their number.
    fn add(&mut self, sighting: Sighting, needed: u64) {
        let newest = self.groups.back().map_or(sighting.seen, |newest| newest.first.seen.max(sighting.seen));
        if newest - sighting.seen > self.window {
            return;
        }
        let grain = if needed > MAX_SIGHTINGS as u64 || self.groups.len() >= MAX_SIGHTINGS {
            self.window / MAX_SIGHTINGS as i32
        } else {
            SignedDuration::ZERO
        };
        let index = self.groups.partition_point(|groups| groups.first.seen <= sighting.seen);
        if let Some(before) = index.checked_sub(1).and_then(|before| self.groups.get_mut(before))
            && sighting.seen - before.first.seen <= grain
            && (sighting.noticed == before.first.noticed || grain > SignedDuration::ZERO)
        {
            // Grouped with an older sighting, it leaves the window earlier. So the count may be too low, never too
            // high.
            before.number += 1;
        } else {
            self.groups.insert(index, SightingGroup { first: sighting, number: 1 });
        }
        while self.groups.len() > 2 * MAX_SIGHTINGS {
            self.groups.pop_front();
        }
    }

    fn begin(&mut self) -> Sighting {
        let number = self.groups.iter().map(|groups| groups.number).sum::<u64>();
        let earliest = |pick: fn(&Sighting) -> SignedDuration| {
            self.groups.iter().map(|groups| pick(&groups.first)).min().unwrap_or(self.last)
        };
        let first = Sighting {
            seen: earliest(|sighting| sighting.seen),
            noticed: earliest(|sighting| sighting.noticed),
        };
        let last = self.groups.iter().map(|groups| groups.first.seen).max().unwrap_or(self.last);
        if self.stage == FindingStage::Pending {
            (self.first, self.last) = (first.seen, last);
        }
        self.last = self.last.max(last);
        self.count = self.count.saturating_add(number);
        self.stage = FindingStage::Counted;
        self.groups.clear();
        first
    }

    /// Whether a [`Cleared`](crate::finding::FindingChange::Cleared) ends it.
    pub(super) fn clears_explicitly(&self) -> bool {
        self.clear_policy.explicit
    }

    /// When it ends by itself: its quiet time after the last sighting.
    pub(super) fn quiet_end(&self) -> Option<SignedDuration> {
        (self.stage == FindingStage::Counted)
            .then_some(self.clear_policy.quiet)?
            .map(|quiet| self.last.saturating_add(quiet))
    }

    /// Ends it. Returns whether it must be stored further.
    pub(super) fn end(&mut self) -> bool {
        self.groups.clear();
        if self.stage == FindingStage::Counted {
            self.stage = FindingStage::Over;
        }
        self.stage == FindingStage::Over && self.key.severity == Severity::Event
    }

    /// Removes sightings that can no longer make it count.
    pub(super) fn expire(&mut self, now: SignedDuration) {
        if self.pending_end().is_some_and(|end| end <= now) {
            self.groups.clear();
        }
    }

    /// The last sighting that does not count yet.
    pub(super) fn last_pending(&self) -> Option<SignedDuration> {
        self.groups.back().map(|groups| groups.first.seen)
    }

    /// When the sightings that do not count yet expire.
    pub(super) fn pending_end(&self) -> Option<SignedDuration> {
        let last = self.groups.iter().map(|groups| groups.first.noticed).max()?;
        Some(last.saturating_add(self.window).saturating_add(SignedDuration::from_nanos(1)))
    }

    /// When it is due to be reported as an event; `None` if there is nothing new.
    pub(super) fn event_due(&self, repeat: SignedDuration) -> Option<SignedDuration> {
        if self.key.severity != Severity::Event || self.stage == FindingStage::Pending {
            return None;
        }
        match self.last_report {
            None => Some(SignedDuration::ZERO),
            Some(last_report) if self.count > last_report.count => {
                Some(last_report.at.saturating_add(repeat))
            }
            Some(_) => None,
        }
    }

    /// Records that it was reported.
    pub(super) fn mark_reported(&mut self, at: SignedDuration) {
        self.last_report = Some(LastReported { at, count: self.count });
    }

    /// Whether everything was reported and its return need not be delayed.
    pub(super) fn is_expired(&self, now: SignedDuration, repeat: SignedDuration) -> bool {
        match self.stage {
            FindingStage::Pending => self.groups.is_empty(),
            FindingStage::Counted => false,
            FindingStage::Over => {
                self.groups.is_empty()
                    && self.last_report.is_some_and(|last_report| {
                        last_report.count >= self.count && now >= last_report.at.saturating_add(repeat)
                    })
            }
        }
    }

    /// The message with its subject, for which a report has no field.
    pub(super) fn line(&self) -> String {
        match &self.key.subject {
            Some(subject) if !self.message.contains(&**subject) => format!("{subject}: {}", self.message),
            _ => self.message.to_string(),
        }
    }
}

/// The quiet time after which it ends by itself.
pub(super) fn quiet(clears: Clears) -> Option<SignedDuration> {
    clear_policy(clears).quiet
}

fn clear_policy(clears: Clears) -> ClearPolicy {
    match clears {
        Clears::Explicit { or_quiet } => ClearPolicy { explicit: true, quiet: or_quiet },
        Clears::Quiet(quiet) => ClearPolicy { explicit: false, quiet: Some(quiet) },
        Clears::Boot => ClearPolicy { explicit: false, quiet: None },
    }
}

/// A finding that lasts until the next boot keeps doing so, even if a later sighting would end earlier.
fn merged(known: ClearPolicy, new: ClearPolicy, stage: FindingStage) -> ClearPolicy {
    let until_boot = ClearPolicy { explicit: false, quiet: None };
    if stage == FindingStage::Counted && known == until_boot { known } else { new }
}

/// A reader rejects a whole report for one invalid reason.
pub(super) fn reason(text: &str) -> Box<str> {
    let valid = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let text: String = text.chars().take(MAX_REASON).map(valid).collect();
    if text.is_empty() { "Unnamed".into() } else { text.into() }
}

pub(super) fn subject(text: &str) -> Box<str> {
    printable(text, MAX_SUBJECT)
}

fn printable(text: &str, max: usize) -> Box<str> {
    let text = &text[..text.floor_char_boundary(max)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
