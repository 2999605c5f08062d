//! Turns the sightings of one finding into whether it counts.

use std::collections::VecDeque;

use jiff::SignedDuration;
use nodemend_domain::condition::Severity;
use serde::{Deserialize, Serialize};

use crate::finding::{Clears, Debounce, Finding};

/// So many sightings are told apart; of a rule that asks for more, those close to each other are put together.
const MAX_SIGHTS: usize = 256;
/// A subject or message as it is kept; a report shortens further where it must.
const MAX_SUBJECT: usize = 256;
const MAX_MESSAGE: usize = 512;
/// The longest reason that a report's reader accepts.
const MAX_REASON: usize = 128;

/// When something was seen, and when the agent came to know of it, both since boot.
///
/// A log that is read late brings sightings of long ago. Windows are measured by `seen`; when a condition went bad
/// and how long it was well before, by `noticed`, which no wrong clock and no late line can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sight {
    pub(super) seen: SignedDuration,
    pub(super) noticed: SignedDuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sights {
    first: Sight,
    number: u64,
}

/// Where a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Seen, but not as it must be seen to count.
    Pending,
    /// It counts.
    Counted,
    /// It has ended; kept so that its return is told no more often than its repetition would be.
    Over,
}

/// How it ends: [`Clears`] with its cases put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    told: bool,
    quiet: Option<SignedDuration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    at: SignedDuration,
    count: u64,
}

/// What tells one finding from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) reason: Box<str>,
    pub(super) subject: Option<Box<str>>,
    pub(super) severity: Severity,
}

impl Key {
    pub(super) fn of(finding: &Finding) -> Self {
        Self {
            reason: reason(&finding.reason),
            subject: finding.subject.as_deref().map(subject),
            severity: finding.severity,
        }
    }
}

/// One finding, and how it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) message: Box<str>,
    pub(super) stage: Stage,
    /// First and last seen, and how often, since it counts.
    pub(super) first: SignedDuration,
    pub(super) last: SignedDuration,
    pub(super) count: u64,
    sights: VecDeque<Sights>,
    /// Sightings further apart than this have nothing to do with each other.
    window: SignedDuration,
    ending: Ending,
    told: Option<Told>,
}

impl Entry {
    /// An entry that nothing was seen of yet.
    pub(super) fn new(key: Key, finding: &Finding, seen: SignedDuration) -> Self {
        Self {
            key,
            message: Box::default(),
            stage: Stage::Pending,
            first: seen,
            last: seen,
            count: 0,
            sights: VecDeque::new(),
            window: SignedDuration::ZERO,
            ending: ending(finding.clears),
            told: None,
        }
    }

    /// Takes a sighting in; if it is the one that makes the finding count, the first of those that did.
    pub(super) fn sight(&mut self, finding: &Finding, sight: Sight) -> Option<Sight> {
        self.message = printable(&finding.message, MAX_MESSAGE);
        self.ending = merged(self.ending, ending(finding.clears), self.stage);
        if self.stage == Stage::Counted {
            self.last = self.last.max(sight.seen);
            self.count = self.count.saturating_add(1);
            return None;
        }
        let (needed, window) = match finding.debounce {
            Debounce::Once => (1, SignedDuration::ZERO),
            Debounce::Times { count, window } => (u64::from(count.max(1)), window),
            Debounce::Lasting(length) => (1, length),
        };
        self.window = window.max(SignedDuration::ZERO);
        self.prune(sight, matches!(finding.debounce, Debounce::Lasting(_)));
        self.add(sight, needed);
        let reached = match finding.debounce {
            Debounce::Once => true,
            Debounce::Times { .. } => self.sights.iter().map(|sights| sights.number).sum::<u64>() >= needed,
            // Measured by when readings came in: a log that is read late proves no length of time.
            Debounce::Lasting(length) => {
                self.sights.front().is_some_and(|first| sight.noticed - first.first.noticed >= length)
            }
        };
        reached.then(|| self.begin())
    }

    /// Drops the sightings that are too old to belong to this one.
    fn prune(&mut self, sight: Sight, lasting: bool) {
        if lasting {
            // Readings that stopped for as long as the whole length are not "every reading".
            if self.pending_end().is_some_and(|end| end <= sight.noticed) {
                self.sights.clear();
            }
        } else {
            let newest = self.sights.back().map_or(sight.seen, |newest| newest.first.seen.max(sight.seen));
            while self.sights.front().is_some_and(|oldest| newest - oldest.first.seen > self.window) {
                self.sights.pop_front();
            }
        }
    }

    /// Keeps the sightings in the order in which they were seen, and few.
    fn add(&mut self, sight: Sight, needed: u64) {
        let newest = self.sights.back().map_or(sight.seen, |newest| newest.first.seen.max(sight.seen));
        if newest - sight.seen > self.window {
            return;
        }
        let grain = if needed > MAX_SIGHTS as u64 || self.sights.len() >= MAX_SIGHTS {
            self.window / MAX_SIGHTS as i32
        } else {
            SignedDuration::ZERO
        };
        let place = self.sights.partition_point(|sights| sights.first.seen <= sight.seen);
        if let Some(before) = place.checked_sub(1).and_then(|before| self.sights.get_mut(before))
            && sight.seen - before.first.seen <= grain
            && (sight.noticed == before.first.noticed || grain > SignedDuration::ZERO)
        {
            // Put with an older one it leaves the window earlier: too few may count, never too many.
            before.number += 1;
        } else {
            self.sights.insert(place, Sights { first: sight, number: 1 });
        }
        while self.sights.len() > 2 * MAX_SIGHTS {
            self.sights.pop_front();
        }
    }

    fn begin(&mut self) -> Sight {
        let number = self.sights.iter().map(|sights| sights.number).sum::<u64>();
        let earliest = |pick: fn(&Sight) -> SignedDuration| {
            self.sights.iter().map(|sights| pick(&sights.first)).min().unwrap_or(self.last)
        };
        let first = Sight { seen: earliest(|sight| sight.seen), noticed: earliest(|sight| sight.noticed) };
        let last = self.sights.iter().map(|sights| sights.first.seen).max().unwrap_or(self.last);
        if self.stage == Stage::Pending {
            (self.first, self.last) = (first.seen, last);
        }
        self.last = self.last.max(last);
        self.count = self.count.saturating_add(number);
        self.stage = Stage::Counted;
        self.sights.clear();
        first
    }

    /// Whether somebody who says so ends it.
    pub(super) fn can_be_told(&self) -> bool {
        self.ending.told
    }

    /// When it ends, or ended, by itself: it has not been seen for its quiet time.
    pub(super) fn quiet_end(&self) -> Option<SignedDuration> {
        (self.stage == Stage::Counted)
            .then_some(self.ending.quiet)?
            .map(|quiet| self.last.saturating_add(quiet))
    }

    /// Ends it. False if nothing of it needs to be kept.
    pub(super) fn end(&mut self) -> bool {
        self.sights.clear();
        if self.stage == Stage::Counted {
            self.stage = Stage::Over;
        }
        self.stage == Stage::Over && self.key.severity == Severity::Event
    }

    /// Forgets sightings that can't come to count any more.
    pub(super) fn expire(&mut self, now: SignedDuration) {
        if self.pending_end().is_some_and(|end| end <= now) {
            self.sights.clear();
        }
    }

    /// When that which doesn't count yet was seen last.
    pub(super) fn last_pending(&self) -> Option<SignedDuration> {
        self.sights.back().map(|sights| sights.first.seen)
    }

    /// When that which doesn't count yet will be forgotten.
    pub(super) fn pending_end(&self) -> Option<SignedDuration> {
        let last = self.sights.iter().map(|sights| sights.first.noticed).max()?;
        Some(last.saturating_add(self.window).saturating_add(SignedDuration::from_nanos(1)))
    }

    /// From when on it is to be told as an event; none while there is nothing new.
    pub(super) fn telling_due(&self, repeat: SignedDuration) -> Option<SignedDuration> {
        if self.key.severity != Severity::Event || self.stage == Stage::Pending {
            return None;
        }
        match self.told {
            None => Some(SignedDuration::ZERO),
            Some(told) if self.count > told.count => Some(told.at.saturating_add(repeat)),
            Some(_) => None,
        }
    }

    /// Notes that it is told.
    pub(super) fn tell(&mut self, at: SignedDuration) {
        self.told = Some(Told { at, count: self.count });
    }

    /// Whether nothing of it is left to say, nor its return to be held back.
    pub(super) fn is_spent(&self, now: SignedDuration, repeat: SignedDuration) -> bool {
        match self.stage {
            Stage::Pending => self.sights.is_empty(),
            Stage::Counted => false,
            Stage::Over => {
                self.sights.is_empty()
                    && self
                        .told
                        .is_some_and(|told| told.count >= self.count && now >= told.at.saturating_add(repeat))
            }
        }
    }

    /// The message with its subject, which a report has no field for.
    pub(super) fn line(&self) -> String {
        match &self.key.subject {
            Some(subject) if !self.message.contains(&**subject) => format!("{subject}: {}", self.message),
            _ => self.message.to_string(),
        }
    }
}

/// For how long it must not be seen to end by itself.
pub(super) fn quiet(clears: Clears) -> Option<SignedDuration> {
    ending(clears).quiet
}

fn ending(clears: Clears) -> Ending {
    match clears {
        Clears::Told { or_quiet } => Ending { told: true, quiet: or_quiet },
        Clears::Quiet(quiet) => Ending { told: false, quiet: Some(quiet) },
        Clears::Boot => Ending { told: false, quiet: None },
    }
}

/// What once counts until the boot ends isn't shortened by a later sighting that says otherwise.
fn merged(known: Ending, new: Ending, stage: Stage) -> Ending {
    let until_boot = Ending { told: false, quiet: None };
    if stage == Stage::Counted && known == until_boot { known } else { new }
}

/// One bad reason would make the reader refuse a whole report.
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
