//! Defines a line pattern and turns a matching line into a finding.
//!
//! A pattern is data: the writers, the literals that a line must contain, the expression that confirms it, and the
//! function that evaluates the captures. Severity and clearing come from the catalogue alone.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    catalogue::{self, Clear},
    condition::Severity,
};
use regex::Captures;

use super::{state::DetectorState, text::head, writers::Writers};
use crate::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    signal::LogLine,
};

/// The maximum length of a message, in bytes: a whole report is 4 KiB.
const MAX_MESSAGE: usize = 1024;
/// The maximum length of a subject, in bytes.
const MAX_SUBJECT: usize = 256;
/// A reason that only a probe clears still clears after this quiet time if a line raised it: the probe may be off, or
/// the pod may be gone.
const QUIET_WITHOUT_A_PROBE: SignedDuration = SignedDuration::from_mins(10);

/// A pattern of log lines that report one known problem.
#[derive(Clone, Copy)]
pub(super) struct LinePattern {
    /// The reasons that it may raise. The default evaluation raises the first.
    pub(super) reasons: &'static [&'static str],
    pub(super) writers: Writers,
    /// A matching line contains at least one of these.
    pub(super) literals: &'static [&'static str],
    /// The regular expression that confirms a match. Its group `subject` captures the finding's subject.
    pub(super) regex: &'static str,
    /// How often the pattern must match before the finding counts.
    pub(super) debounce: Debounce,
    /// Evaluates the captures and raises or clears findings.
    pub(super) evaluate: fn(&mut LineMatch<'_>),
}

impl LinePattern {
    /// A pattern that raises its first reason at the first match.
    pub(super) const fn new(
        reasons: &'static [&'static str],
        writers: Writers,
        literals: &'static [&'static str],
        regex: &'static str,
    ) -> Self {
        Self { reasons, writers, literals, regex, debounce: Debounce::Once, evaluate: raise_first }
    }

    pub(super) const fn debounced(self, debounce: Debounce) -> Self {
        Self { debounce, ..self }
    }

    pub(super) const fn evaluated_by(self, evaluate: fn(&mut LineMatch<'_>)) -> Self {
        Self { evaluate, ..self }
    }
}

fn raise_first(matched: &mut LineMatch<'_>) {
    matched.raise_first();
}

/// A line that matched a pattern.
pub(super) struct LineMatch<'a> {
    pub(super) line_pattern: &'a LinePattern,
    pub(super) line: &'a LogLine<'a>,
    pub(super) captures: &'a Captures<'a>,
    pub(super) state: &'a mut DetectorState,
    pub(super) out: &'a mut Vec<FindingChange>,
}

impl LineMatch<'_> {
    /// The text of a capture group.
    pub(super) fn get(&self, group: &str) -> Option<&str> {
        self.captures.name(group).map(|found| found.as_str())
    }

    /// Raises the pattern's first reason with the captured subject.
    pub(super) fn raise_first(&mut self) {
        let subject = self.get("subject").map(str::to_owned);
        self.raise(self.line_pattern.reasons[0], subject);
    }

    /// Raises a reason of the catalogue.
    pub(super) fn raise(&mut self, reason: impl Into<Cow<'static, str>>, subject: Option<String>) {
        self.raise_as(reason.into(), subject, None, String::new());
    }

    /// Raises a reason as an event, even if the catalogue's severity is Condition.
    pub(super) fn raise_event(&mut self, reason: &'static str, subject: Option<String>) {
        self.raise_as(reason.into(), subject, Some(Severity::Event), String::new());
    }

    /// Raises the pattern's first reason, with `more` appended to the message.
    pub(super) fn raise_with(&mut self, subject: Option<String>, more: String) {
        self.raise_as(self.line_pattern.reasons[0].into(), subject, None, more);
    }

    fn raise_as(
        &mut self,
        reason: Cow<'static, str>,
        subject: Option<String>,
        severity: Option<Severity>,
        more: String,
    ) {
        let Some(found) = catalogue::lookup(&reason) else {
            debug_assert!(false, "{reason} is not in the catalogue");
            return;
        };
        let severity = severity.unwrap_or(found.severity);
        self.out.push(FindingChange::Raised(DetectedFinding {
            condition: found.condition,
            severity,
            subject: subject.map(|subject| head(&subject, MAX_SUBJECT).to_owned()),
            message: message(&self.line.text, &more),
            at: self.line.at,
            debounce: self.line_pattern.debounce,
            clears: ending(found.clears, severity),
            reason,
        }));
    }

    /// Clears a reason for all subjects.
    pub(super) fn clear(&mut self, reason: &'static str) {
        self.out.push(FindingChange::Cleared { reason: reason.into(), subject: None, at: self.line.at });
    }

    pub(super) fn at(&self) -> Timestamp {
        self.line.at
    }
}

/// A line as a message, cut to the maximum length, with `more` appended.
pub(super) fn message(text: &str, more: &str) -> String {
    let text = head(text.trim_end(), MAX_MESSAGE.saturating_sub(more.len()));
    format!("{text}{more}")
}

/// How a finding that a line raised clears, by the catalogue.
///
/// The catalogue lists the main way first: a filesystem that a probe sees writable again is healthy, while an XID
/// lasts until the next boot even if a probe sees the GPU recover.
fn ending(clears: &[Clear], severity: Severity) -> Clears {
    let quiet = clears.iter().find_map(|clear| match clear {
        Clear::Quiet(minutes) => Some(SignedDuration::from_mins(i64::from(*minutes))),
        Clear::Probe | Clear::Boot | Clear::Line => None,
    });
    match (clears.first(), quiet) {
        (Some(Clear::Boot), _) => Clears::Boot,
        (Some(Clear::Quiet(_)), Some(quiet)) => Clears::Quiet(quiet),
        (_, None) if severity == Severity::Event => {
            Clears::Explicit { or_quiet: Some(QUIET_WITHOUT_A_PROBE) }
        }
        (_, or_quiet) => Clears::Explicit { or_quiet },
    }
}
