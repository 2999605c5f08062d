//! A log line, as sources emit it.

use std::borrow::Cow;

use jiff::Timestamp;

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine<'a> {
    pub origin: Origin<'a>,
    /// The time, by the node's clock.
    pub at: Timestamp,
    /// The text, without the log's own prefix and without the line break.
    pub text: Cow<'a, str>,
}

/// The writer of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<'a> {
    /// The kernel, through `/dev/kmsg`.
    Kernel {
        /// The syslog facility: 0 is the kernel itself, others are programs that wrote to the kernel log.
        facility: u8,
        /// The syslog level, 0 (emergency) to 7 (debug).
        level: u8,
    },
    /// A systemd unit, through the journal; its name.
    Unit(Cow<'a, str>),
    /// A file; its path on the node.
    File(Cow<'a, str>),
}
