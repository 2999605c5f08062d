//! Turns what the node's logs hold into [`Signal`]s: lines, and word of lines that could not be had.
//!
//! A source is read by polling. `poll` takes the time, hands each signal to the caller while it still lies in
//! the source's buffer, and returns after a bounded piece of work, so that one thread can serve every source
//! and a flood in one of them cannot starve the others. Between polls a source can say its position; given
//! back after a restart, reading goes on there. A position covers only what was handed on, so a crash repeats
//! lines and never skips them.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::{ConditionType, Severity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::finding::{Clears, Debounce, Finding};
use crate::signal::{Line, Origin};

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

/// What a line may hold; longer ones are cut there. The kernel's own limit for a record is half of it.
pub const LINE_LIMIT: usize = 16 * 1024;

/// For how long lost kernel records are worth a word: as long as the catalogue says.
const OVERRUN_QUIET: SignedDuration = SignedDuration::from_mins(10);

/// What a source hands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<'a> {
    /// A line.
    Line(Line<'a>),
    /// Something that is not there, or not whole.
    Notice(Notice<'a>),
}

impl Signal<'_> {
    /// The same, free of the source's buffer.
    pub fn into_owned(self) -> Signal<'static> {
        match self {
            Self::Line(line) => Signal::Line(Line {
                origin: own_origin(line.origin),
                at: line.at,
                text: Cow::Owned(line.text.into_owned()),
            }),
            Self::Notice(notice) => {
                Signal::Notice(Notice { log: notice.log.into_owned(), at: notice.at, flaw: notice.flaw })
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

/// Word of lines that could not be had, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice<'a> {
    /// Of which log.
    pub log: Log<'a>,
    /// When it was seen, by the node's clock.
    pub at: Timestamp,
    /// What is wrong.
    pub flaw: Flaw,
}

/// Which log a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Log<'a> {
    /// The kernel's.
    Kernel,
    /// The journal.
    Journal,
    /// A file, by its path on the node.
    File(Cow<'a, str>),
}

impl Log<'_> {
    fn into_owned(self) -> Log<'static> {
        match self {
            Self::Kernel => Log::Kernel,
            Self::Journal => Log::Journal,
            Self::File(path) => Log::File(Cow::Owned(path.into_owned())),
        }
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Records were gone before they were read, though reading had begun; how many, where that can be known.
    /// Without a number: the rest of something is gone, and there may have been nothing in it.
    Lost(Option<u64>),
    /// Records were gone before reading began for the first time: the log had turned over already.
    Turned(u64),
    /// A line was longer than [`LINE_LIMIT`]: its first part was handed on.
    Cut,
    /// Records that do not read as the format says; how many.
    Unreadable(u64),
}

impl Notice<'_> {
    /// The finding that it amounts to. Only kernel records are told of that way: a fault that the kernel named
    /// once is not named again, whereas the other logs repeat what still is wrong.
    pub fn finding(&self) -> Option<Finding> {
        let (Log::Kernel, Flaw::Lost(count)) = (&self.log, self.flaw) else {
            return None;
        };
        let message = match count {
            Some(1) => "1 kernel record was overwritten before it was read".to_owned(),
            Some(count) => format!("{count} kernel records were overwritten before they were read"),
            None => "kernel records were overwritten before they were read".to_owned(),
        };
        Some(Finding {
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
    /// Everything that was there has been read.
    Drained,
}

/// The time, twice: what the wall says, and how long the machine has been up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock, which starts at 0 with the boot, and never steps.
    pub up: SignedDuration,
}

impl Clocks {
    /// Reads both. The one place in the sources that looks at a clock: everything else is told.
    pub fn read() -> Self {
        let wall = clock_gettime(ClockId::Realtime);
        let up = clock_gettime(ClockId::Monotonic);
        let nanos = |nsec: i64| i32::try_from(nsec).unwrap_or(0);
        Self {
            wall: Timestamp::new(wall.tv_sec, nanos(wall.tv_nsec)).unwrap_or(Timestamp::UNIX_EPOCH),
            up: SignedDuration::new(up.tv_sec, nanos(up.tv_nsec)),
        }
    }

    /// When something was that the monotonic clock puts at `up`.
    pub fn wall_at(&self, up: SignedDuration) -> Timestamp {
        let age = self.up.checked_sub(up).unwrap_or(SignedDuration::ZERO);
        self.wall.checked_sub(age).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::catalogue;

    use super::*;

    fn notice(log: Log<'static>, flaw: Flaw) -> Notice<'static> {
        Notice { log, at: Timestamp::UNIX_EPOCH, flaw }
    }

    #[test]
    fn lost_kernel_records_are_a_finding_that_the_catalogue_knows() {
        let finding = notice(Log::Kernel, Flaw::Lost(Some(7))).finding().expect("a finding");
        assert_eq!(finding.message, "7 kernel records were overwritten before they were read");
        let found = catalogue::lookup(&finding.reason).expect("a catalogued reason");
        assert_eq!(found.condition, finding.condition);
        assert_eq!(found.severity, finding.severity);
    }

    #[test]
    fn what_was_gone_before_the_first_look_is_counted_but_no_finding() {
        for (log, flaw) in [
            (Log::Kernel, Flaw::Turned(7)),
            (Log::Kernel, Flaw::Cut),
            (Log::Kernel, Flaw::Unreadable(1)),
            (Log::Journal, Flaw::Lost(None)),
            (Log::File(Cow::Borrowed("/var/log/x")), Flaw::Lost(None)),
        ] {
            assert_eq!(notice(log, flaw).finding(), None);
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
