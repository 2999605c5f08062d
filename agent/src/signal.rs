//! What a source hands on: a line that somebody wrote, with where and when.

use std::borrow::Cow;

use jiff::Timestamp;

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// Who wrote it.
    pub origin: Origin<'a>,
    /// When, by the node's clock.
    pub at: Timestamp,
    /// What it says: no prefix of the log's own, no line break.
    pub text: Cow<'a, str>,
}

/// Who wrote a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<'a> {
    /// The kernel, through `/dev/kmsg`.
    Kernel {
        /// The syslog facility: 0 is the kernel itself, anything else a program that wrote to the kernel's log.
        facility: u8,
        /// The syslog level, 0 (emergency) to 7 (debug).
        level: u8,
    },
    /// A systemd unit, through the journal.
    Unit(Cow<'a, str>),
    /// A file.
    File(Cow<'a, str>),
}
