//! What a detector says: something is wrong, or is well again.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::{ConditionType, Severity};

/// A change that a detector saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something is wrong, or is seen again.
    Raised(Finding),
    /// It is well: a probe's next healthy reading, or a line that says so.
    Cleared {
        /// Its reason.
        reason: Cow<'static, str>,
        /// What it was about; none clears the reason whole.
        subject: Option<String>,
        /// When, by the node's clock.
        at: Timestamp,
    },
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name in the catalogue, or a rule's own.
    pub reason: Cow<'static, str>,
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// How much it weighs.
    pub severity: Severity,
    /// What it is about: an interface, a device, a GPU, a pod. Findings of one reason about two subjects
    /// are two.
    pub subject: Option<String>,
    /// The line or reading that shows it.
    pub message: String,
    /// When it was seen, by the node's clock.
    pub at: Timestamp,
    /// How it must be seen before it counts.
    pub debounce: Debounce,
    /// How it ends.
    pub clears: Clears,
}

/// How a finding must be seen before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debounce {
    /// Once.
    Once,
    /// So many times within so long.
    Times {
        /// How often.
        count: u32,
        /// Within how long.
        window: SignedDuration,
    },
    /// In every reading for so long.
    Lasting(SignedDuration),
}

/// How a finding ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clears {
    /// When a [`Change::Cleared`] says so; with a quiet time, also when it has not been seen for that long.
    Told {
        /// The quiet time.
        or_quiet: Option<SignedDuration>,
    },
    /// When it has not been seen for so long.
    Quiet(SignedDuration),
    /// With the boot.
    Boot,
}
