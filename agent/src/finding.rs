//! Findings and their changes, as detectors and probes emit them.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::{ConditionType, Severity};

/// A change that a detector or probe emits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindingChange {
    /// A problem was found, or was found again.
    Raised(DetectedFinding),
    /// A problem is over: a probe's next healthy reading, or a line that reports recovery.
    Cleared {
        reason: Cow<'static, str>,
        /// The subject that cleared; `None` clears the reason for all subjects.
        subject: Option<String>,
        /// The time of the reading or line, by the node's clock.
        at: Timestamp,
    },
}

/// A problem that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectedFinding {
    /// The name in the catalogue, or a user rule's own.
    pub reason: Cow<'static, str>,
    pub condition: ConditionType,
    pub severity: Severity,
    /// What has the problem: an interface, a device, a GPU, a pod. Findings of one reason about two subjects are
    /// separate.
    pub subject: Option<String>,
    /// The line or reading that shows the problem.
    pub message: String,
    /// The time when it was seen, by the node's clock.
    pub at: Timestamp,
    pub debounce: Debounce,
    pub clears: Clears,
}

/// How often a finding must be seen before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debounce {
    Once,
    /// At least `count` times within `window`.
    Times {
        count: u32,
        window: SignedDuration,
    },
    /// In every reading for this duration.
    Lasting(SignedDuration),
}

/// How a finding clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clears {
    /// By a [`FindingChange::Cleared`]; with `or_quiet`, also after it was not seen for that duration.
    Explicit { or_quiet: Option<SignedDuration> },
    /// After it was not seen for this duration.
    Quiet(SignedDuration),
    /// At the next boot.
    Boot,
}
