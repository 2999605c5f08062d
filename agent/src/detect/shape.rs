//! Turns a line that has the shape of a known fault into a finding.
//!
//! A shape is data: whose lines, which words they must hold, which expression confirms them, and who judges what
//! was captured. What a reason weighs and how it ends comes from the catalogue alone.

use std::{borrow::Cow, collections::BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    catalogue::{self, Clear},
    condition::Severity,
};
use regex::Captures;

use super::{accelerator, cron, head, kernel, memory, network, runtime, storage};
use crate::{
    finding::{Change, Clears, Debounce, Finding},
    signal::{Line, Origin},
};

/// What a message holds at most: a report is 4 KiB in all.
const MAX_MESSAGE: usize = 1024;
/// What a subject holds at most.
const MAX_SUBJECT: usize = 256;
/// A reason that only a probe clears still ends after a line alone: the probe may be off, or the pod be gone.
const QUIET_WITHOUT_A_PROBE: SignedDuration = SignedDuration::from_mins(10);

/// Whose lines: a set of writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writers(u16);

impl Writers {
    pub(super) const NOBODY: Self = Self(0);
    pub(super) const KERNEL: Self = Self(1);
    pub(super) const KUBELET: Self = Self(1 << 1);
    pub(super) const CONTAINERD: Self = Self(1 << 2);
    pub(super) const CRON: Self = Self(1 << 3);
    pub(super) const IPAMD: Self = Self(1 << 4);
    pub(super) const KUBE_PROXY: Self = Self(1 << 5);
    pub(super) const NETWORK_POLICY_AGENT: Self = Self(1 << 6);
    /// systemd speaks about a unit under that unit's name, so any unit may carry its words.
    pub(super) const ANY_UNIT: Self = Self(1 << 7);

    /// Both.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Who wrote this.
    pub(super) fn of(origin: &Origin<'_>) -> Self {
        match origin {
            Origin::Kernel { .. } => Self::KERNEL,
            Origin::Unit(unit) => Self::ANY_UNIT.or(match unit.strip_suffix(".service").unwrap_or(unit) {
                "kubelet" => Self::KUBELET,
                "containerd" => Self::CONTAINERD,
                "crond" | "cron" | "cronie" => Self::CRON,
                "ipamd" | "aws-k8s-agent" => Self::IPAMD,
                "kube-proxy" => Self::KUBE_PROXY,
                "aws-network-policy-agent" => Self::NETWORK_POLICY_AGENT,
                _ => Self::NOBODY,
            }),
            Origin::File(path) => Self::of_file(path),
        }
    }

    fn of_file(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.starts_with("ipamd.log") || path.contains("/aws-node/") {
            Self::IPAMD
        } else if name.starts_with("network-policy-agent.log") || path.contains("/aws-eks-nodeagent/") {
            Self::NETWORK_POLICY_AGENT
        } else if path.contains("/kube-proxy/") || name.starts_with("kube-proxy") {
            Self::KUBE_PROXY
        } else if name == "cron.log" || name == "cron" {
            Self::CRON
        } else {
            Self::NOBODY
        }
    }
}

/// How a known fault looks.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// What it may raise. The first is what it raises if nobody judges.
    pub(super) reasons: &'static [&'static str],
    /// Whose lines.
    pub(super) writers: Writers,
    /// Each line of this shape holds one of these.
    pub(super) words: &'static [&'static str],
    /// What confirms it. A group `subject` names what it is about.
    pub(super) pattern: &'static str,
    /// How often it must be seen.
    pub(super) debounce: Debounce,
    /// Who says what it means.
    pub(super) judge: fn(&mut Seen<'_>),
}

impl Shape {
    /// A shape whose first sight raises its reason.
    pub(super) const fn new(
        reasons: &'static [&'static str],
        writers: Writers,
        words: &'static [&'static str],
        pattern: &'static str,
    ) -> Self {
        Self { reasons, writers, words, pattern, debounce: Debounce::Once, judge: raise_first }
    }

    pub(super) const fn debounced(self, debounce: Debounce) -> Self {
        Self { debounce, ..self }
    }

    pub(super) const fn judged(self, judge: fn(&mut Seen<'_>)) -> Self {
        Self { judge, ..self }
    }
}

/// Raises the shape's first reason about the captured subject.
fn raise_first(seen: &mut Seen<'_>) {
    seen.raise_first();
}

/// All shapes.
pub(super) fn all() -> impl Iterator<Item = Shape> {
    [
        kernel::SHAPES,
        memory::SHAPES,
        network::SHAPES,
        storage::SHAPES,
        runtime::SHAPES,
        cron::SHAPES,
        accelerator::SHAPES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// What some judges keep of the lines before.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) victim: memory::Victim,
    pub(super) probe_failures: runtime::ProbeFailures,
    pub(super) cron: cron::Runs,
    pub(super) ipamd: network::Ipamd,
    pub(super) host_devices: BTreeSet<String>,
}

/// A line that has a shape.
pub(super) struct Seen<'a> {
    pub(super) shape: &'a Shape,
    pub(super) line: &'a Line<'a>,
    pub(super) captures: &'a Captures<'a>,
    pub(super) state: &'a mut State,
    pub(super) out: &'a mut Vec<Change>,
}

impl Seen<'_> {
    /// What a group of the pattern holds.
    pub(super) fn get(&self, group: &str) -> Option<&str> {
        self.captures.name(group).map(|found| found.as_str())
    }

    /// Raises the shape's first reason about the captured subject.
    pub(super) fn raise_first(&mut self) {
        let subject = self.get("subject").map(str::to_owned);
        self.raise(self.shape.reasons[0], subject);
    }

    /// Raises a reason of the catalogue.
    pub(super) fn raise(&mut self, reason: impl Into<Cow<'static, str>>, subject: Option<String>) {
        self.raise_as(reason.into(), subject, None, String::new());
    }

    /// Raises a reason as an event, whatever it weighs at most.
    pub(super) fn raise_event(&mut self, reason: &'static str, subject: Option<String>) {
        self.raise_as(reason.into(), subject, Some(Severity::Event), String::new());
    }

    /// Raises the shape's first reason, and says more than the line does.
    pub(super) fn raise_with(&mut self, subject: Option<String>, more: String) {
        self.raise_as(self.shape.reasons[0].into(), subject, None, more);
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
        self.out.push(Change::Raised(Finding {
            condition: found.condition,
            severity,
            subject: subject.map(|subject| head(&subject, MAX_SUBJECT).to_owned()),
            message: message(&self.line.text, &more),
            at: self.line.at,
            debounce: self.shape.debounce,
            clears: ending(found.clears, severity),
            reason,
        }));
    }

    /// Says that a reason is over.
    pub(super) fn clear(&mut self, reason: &'static str) {
        self.out.push(Change::Cleared { reason: reason.into(), subject: None, at: self.line.at });
    }

    pub(super) fn at(&self) -> Timestamp {
        self.line.at
    }
}

/// A line as a message: bounded, with what we know beyond it.
pub(super) fn message(text: &str, more: &str) -> String {
    let text = head(text.trim_end(), MAX_MESSAGE.saturating_sub(more.len()));
    format!("{text}{more}")
}

/// How the catalogue says that a reason ends, for a finding that a line raised.
///
/// The catalogue lists the chief way first: a filesystem that a probe sees writable again is well, while an XID
/// lasts until the boot although a probe may know better.
fn ending(clears: &[Clear], severity: Severity) -> Clears {
    let quiet = clears.iter().find_map(|clear| match clear {
        Clear::Quiet(minutes) => Some(SignedDuration::from_mins(i64::from(*minutes))),
        Clear::Probe | Clear::Boot | Clear::Line => None,
    });
    match (clears.first(), quiet) {
        (Some(Clear::Boot), _) => Clears::Boot,
        (Some(Clear::Quiet(_)), Some(quiet)) => Clears::Quiet(quiet),
        (_, None) if severity == Severity::Event => Clears::Told { or_quiet: Some(QUIET_WITHOUT_A_PROBE) },
        (_, or_quiet) => Clears::Told { or_quiet },
    }
}
