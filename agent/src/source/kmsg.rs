//! Turns `/dev/kmsg` into signals: the kernel's lines, and how many of them were overwritten.
//!
//! The kernel keeps its records in a ring and lets nobody wait: who reads too slowly is told so once, by
//! `EPIPE`, and goes on with the oldest record that is left. What was lost is counted by sequence numbers,
//! which have no gaps of their own. Opening the device puts the reader at the oldest record of this boot;
//! records that an earlier run of the agent has handed on are skipped by number.

use std::{
    borrow::Cow,
    fs,
    io::{self, Read as _},
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

pub use self::record::{Fragment, RECORD_LIMIT, Record, RecordError, parse};
use super::{Clocks, Flaw, LINE_LIMIT, Log, Notice, Progress, Signal};
use crate::signal::{Line, Origin};

mod record;

/// How many records one poll hands on: some milliseconds of work.
const BATCH: usize = 4096;

/// Up to where the kernel's log has been handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Position {
    /// In which boot.
    pub boot: String,
    /// The number of the next record.
    pub next: u64,
}

/// Why the kernel's log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KmsgError {
    /// The device cannot be opened.
    #[error("failed to open {path}")]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The boot id cannot be read.
    #[error("failed to read the boot id from {path}")]
    Boot {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device is open, but does not read.
    #[error("failed to read the kernel's log")]
    Read(#[source] io::Error),
}

/// The kernel's log.
#[derive(Debug)]
pub struct Kmsg {
    device: fs::File,
    boot: String,
    /// The first record that an earlier run has not handed on; none on a first start.
    resume: Option<u64>,
    /// The number that the device's next record should have; none before the first.
    next: Option<u64>,
    /// When everything had been read: what comes later was written later.
    drained: Option<Timestamp>,
    /// A line to which more may follow.
    open: Option<Line<'static>>,
    buffer: Box<[u8]>,
}

impl Kmsg {
    /// Opens the device under `root`, after `position` if that was in this boot.
    ///
    /// # Errors
    ///
    /// When the device or the boot id cannot be read: not the root user, or a container without the device.
    pub fn open(root: &Path, position: Option<&Position>) -> Result<Self, KmsgError> {
        let path = root.join("proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(&path).map_err(|source| KmsgError::Boot { path, source })?;
        let path = root.join("dev/kmsg");
        // Without NONBLOCK a read at the end would wait, and hold up whoever else this thread serves.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| KmsgError::Open { path, source: errno.into() })?;
        Ok(Self::new(device, boot.trim().to_owned(), position))
    }

    /// Reads from anything that gives one record a read and never waits.
    fn new(device: OwnedFd, boot: String, position: Option<&Position>) -> Self {
        let resume = position.filter(|position| position.boot == boot).map(|position| position.next);
        Self {
            device: device.into(),
            boot,
            resume,
            next: None,
            drained: None,
            open: None,
            buffer: vec![0; RECORD_LIMIT].into_boxed_slice(),
        }
    }

    /// Up to where it has been handed on.
    pub fn position(&self) -> Position {
        Position { boot: self.boot.clone(), next: self.next.max(self.resume).unwrap_or(0) }
    }

    /// Hands on what is there, a batch at most.
    ///
    /// # Errors
    ///
    /// When the device fails; it should then be opened anew, after [`Self::position`].
    pub fn poll(
        &mut self,
        clocks: &Clocks,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> Result<Progress, KmsgError> {
        // Moved out and back, so that a record can lie in it while the rest changes.
        let mut buffer = mem::take(&mut self.buffer);
        let progress = self.read_batch(&mut buffer, clocks, emit);
        self.buffer = buffer;
        // What is still open waits no longer than the batch: nobody says whether more will follow.
        self.close(emit);
        if let Ok(Progress::Drained) = progress {
            self.drained = Some(clocks.wall);
        }
        progress
    }

    fn read_batch(
        &mut self,
        buffer: &mut [u8],
        clocks: &Clocks,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> Result<Progress, KmsgError> {
        for _ in 0..BATCH {
            match self.device.read(buffer) {
                Ok(0) => return Ok(Progress::Drained),
                Ok(length) => match parse(&buffer[..length]) {
                    Ok(record) => self.take(record, clocks, emit),
                    Err(_) => self.pass_over(clocks, emit),
                },
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => return Ok(Progress::Drained),
                    // After EPIPE the next read gives the oldest record left, and its number says how many
                    // are missing.
                    Some(Errno::INTR | Errno::PIPE) => {}
                    // Longer than the buffer: the kernel has stepped over it.
                    Some(Errno::INVAL) => self.pass_over(clocks, emit),
                    _ => return Err(KmsgError::Read(error)),
                },
            }
        }
        Ok(Progress::More)
    }

    fn take(&mut self, record: Record<'_>, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let expected = self.next.max(self.resume);
        self.next = Some(record.seq.saturating_add(1));
        match expected {
            Some(expected) if record.seq < expected => return,
            Some(expected) if record.seq > expected => {
                self.close(emit);
                emit(notice(clocks, Flaw::Lost(Some(record.seq - expected))));
            }
            None if record.seq > 0 => emit(notice(clocks, Flaw::Turned(record.seq))),
            Some(_) | None => {}
        }
        let origin = Origin::Kernel { facility: record.facility, level: record.level };
        if record.fragment == Fragment::Continued
            && let Some(open) = &mut self.open
        {
            let room = LINE_LIMIT.saturating_sub(open.text.len());
            let piece = &record.text[..record.text.floor_char_boundary(room)];
            open.text.to_mut().push_str(piece);
            if piece.len() < record.text.len() {
                emit(notice(clocks, Flaw::Cut));
            }
            return;
        }
        self.close(emit);
        let at = written_at(record.up, clocks, self.drained);
        if record.fragment == Fragment::Whole {
            emit(Signal::Line(Line { origin, at, text: record.text }));
        } else {
            self.open = Some(Line { origin, at, text: Cow::Owned(record.text.into_owned()) });
        }
    }

    /// Counts a record that cannot be read. It has taken a number all the same.
    fn pass_over(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let seen_before = self.next < self.resume;
        self.next = self.next.map(|next| next.saturating_add(1));
        if !seen_before {
            emit(notice(clocks, Flaw::Unreadable(1)));
        }
    }

    fn close(&mut self, emit: &mut impl FnMut(Signal<'_>)) {
        if let Some(line) = self.open.take() {
            emit(Signal::Line(line));
        }
    }
}

impl AsFd for Kmsg {
    /// Readable when a record is there, for `poll(2)`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn notice(clocks: &Clocks, flaw: Flaw) -> Signal<'static> {
    Signal::Notice(Notice { log: Log::Kernel, at: clocks.wall, flaw })
}

/// When a record was written, by the wall clock.
///
/// The kernel stamps its records with a clock that nobody disciplines: after weeks it is off by minutes. What
/// was not there at the last look was written since, whatever its stamp says, and nothing is from the future.
fn written_at(up: SignedDuration, clocks: &Clocks, drained: Option<Timestamp>) -> Timestamp {
    let at = clocks.wall_at(up);
    drained.map_or(at, |drained| at.max(drained)).min(clocks.wall)
}

#[cfg(test)]
mod tests;
