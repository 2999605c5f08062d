//! Reads the node's logs and emits [`Signal`]s: lines, and notices of lines that could not be read.
//!
//! Sources are polled. `poll` takes the time, passes each signal to the caller while it is still in the source's
//! buffer, and returns after a bounded amount of work. So one thread can poll all sources, and a flood in one cannot
//! starve the others. Between polls a source returns its position. After a restart it continues there. A position
//! covers only emitted lines, so a crash repeats lines and never skips them.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::{ConditionType, Severity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::finding::{Clears, Debounce, DetectedFinding};
use crate::signal::{LogLine, Origin};

pub mod child;
pub mod cri;
pub mod dns;
pub mod ethtool;
pub mod file;
pub mod firewall;
pub mod fsmap;
pub mod host;
pub mod http;
pub mod journal;
pub mod kmsg;
pub mod link_file;
pub mod mounts;
pub mod netlink;
pub mod nvme;
pub mod nvml;
pub mod pci;
pub mod socket;
pub mod systemd;

/// The maximum length of a line, in bytes; longer lines are cut. The kernel's own limit for a record is half of it.
pub const LINE_LIMIT: usize = 16 * 1024;

/// How long KernelLogOverrun stays raised: the catalogue's quiet time.
const OVERRUN_QUIET: SignedDuration = SignedDuration::from_mins(10);

/// What a source emits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<'a> {
    Line(LogLine<'a>),
    /// A gap in a log.
    GapNotice(GapNotice<'a>),
}

impl Signal<'_> {
    /// Copies the signal out of the source's buffer.
    pub fn into_owned(self) -> Signal<'static> {
        match self {
            Self::Line(line) => Signal::Line(LogLine {
                origin: own_origin(line.origin),
                at: line.at,
                text: Cow::Owned(line.text.into_owned()),
            }),
            Self::GapNotice(notice) => {
                Signal::GapNotice(GapNotice { log: notice.log.into_owned(), at: notice.at, gap: notice.gap })
            }
        }
    }
}

fn own_origin(origin: Origin<'_>) -> Origin<'static> {
    match origin {
        Origin::Kernel { facility, level } => Origin::Kernel { facility, level },
        Origin::Unit(unit) => Origin::Unit(Cow::Owned(unit.into_owned())),
        Origin::File(path) => Origin::File(Cow::Owned(path.into_owned())),
    }
}

/// A notice of lines that were lost, cut or unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapNotice<'a> {
    pub log: LogKind<'a>,
    /// The time when it was noticed, by the node's clock.
    pub at: Timestamp,
    pub gap: Gap,
}

/// The log of a notice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogKind<'a> {
    Kernel,
    Journal,
    /// A file, by its path on the node.
    File(Cow<'a, str>),
}

impl LogKind<'_> {
    fn into_owned(self) -> LogKind<'static> {
        match self {
            Self::Kernel => LogKind::Kernel,
            Self::Journal => LogKind::Journal,
            Self::File(path) => LogKind::File(Cow::Owned(path.into_owned())),
        }
    }
}

/// A gap in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gap {
    /// Records were lost after reading had begun: their number, if known. `None` means that the rest of a log is
    /// lost, which may have been empty.
    Lost(Option<u64>),
    /// Records were overwritten before the first read: the ring buffer had wrapped already.
    Wrapped(u64),
    /// A line was longer than [`LINE_LIMIT`]; its first part was emitted.
    Truncated,
    /// Records that do not match the format; their number.
    Unreadable(u64),
}

impl GapNotice<'_> {
    /// The finding about this gap. Only lost kernel records are one: the kernel logs a problem once, whereas the
    /// other logs repeat a problem that persists.
    pub fn finding(&self) -> Option<DetectedFinding> {
        let (LogKind::Kernel, Gap::Lost(count)) = (&self.log, self.gap) else {
            return None;
        };
        let message = match count {
            Some(1) => "1 kernel record was overwritten before it was read".to_owned(),
            Some(count) => format!("{count} kernel records were overwritten before they were read"),
            None => "kernel records were overwritten before they were read".to_owned(),
        };
        Some(DetectedFinding {
            reason: Cow::Borrowed("KernelLogOverrun"),
            condition: ConditionType::KernelReady,
            severity: Severity::Event,
            subject: None,
            message,
            at: self.at,
            debounce: Debounce::Once,
            clears: Clears::Quiet(OVERRUN_QUIET),
        })
    }
}

/// Whether a poll left something unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// There is more: poll again at once.
    More,
    /// Everything that was available was read.
    Drained,
}

/// The wall clock and the monotonic clock at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    pub wall: Timestamp,
    /// The monotonic clock: the time since boot, without steps.
    pub up: SignedDuration,
}

impl Clocks {
    /// Reads both clocks. This is the only place in the sources that reads a clock.
    pub fn read() -> Self {
        let wall = clock_gettime(ClockId::Realtime);
        let up = clock_gettime(ClockId::Monotonic);
        let nanos = |nsec: i64| i32::try_from(nsec).unwrap_or(0);
        Self {
            wall: Timestamp::new(wall.tv_sec, nanos(wall.tv_nsec)).unwrap_or(Timestamp::UNIX_EPOCH),
            up: SignedDuration::new(up.tv_sec, nanos(up.tv_nsec)),
        }
    }

    /// The wall time of a monotonic time.
    pub fn wall_at(&self, up: SignedDuration) -> Timestamp {
        let age = self.up.checked_sub(up).unwrap_or(SignedDuration::ZERO);
        self.wall.checked_sub(age).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::catalogue;

    use super::*;

    fn notice(log: LogKind<'static>, gap: Gap) -> GapNotice<'static> {
        GapNotice { log, at: Timestamp::UNIX_EPOCH, gap }
    }

    #[test]
    fn lost_kernel_records_are_a_finding_that_the_catalogue_knows() {
        let finding = notice(LogKind::Kernel, Gap::Lost(Some(7))).finding().expect("a finding");
        assert_eq!(finding.message, "7 kernel records were overwritten before they were read");
        let found = catalogue::lookup(&finding.reason).expect("a catalogued reason");
        assert_eq!(found.condition, finding.condition);
        assert_eq!(found.severity, finding.severity);
    }

    #[test]
    fn other_gaps_are_no_finding() {
        for (log, gap) in [
            (LogKind::Kernel, Gap::Wrapped(7)),
            (LogKind::Kernel, Gap::Truncated),
            (LogKind::Kernel, Gap::Unreadable(1)),
            (LogKind::Journal, Gap::Lost(None)),
            (LogKind::File(Cow::Borrowed("/var/log/x")), Gap::Lost(None)),
        ] {
            assert_eq!(notice(log, gap).finding(), None);
        }
    }

    #[test]
    fn a_monotonic_time_becomes_the_wall_time_of_the_same_moment() {
        let clocks = Clocks {
            wall: Timestamp::from_second(1_000_000).expect("a time"),
            up: SignedDuration::from_secs(500),
        };
        assert_eq!(
            clocks.wall_at(SignedDuration::from_secs(200)),
            Timestamp::from_second(999_700).expect("a time")
        );
        assert_eq!(clocks.wall_at(SignedDuration::from_secs(500)), clocks.wall);
    }

    #[test]
    fn clocks_that_are_read_do_not_go_back() {
        let (first, second) = (Clocks::read(), Clocks::read());
        assert!(second.up >= first.up);
        assert!(first.wall > Timestamp::UNIX_EPOCH);
    }
}
