//! Reads `/dev/kmsg`: the kernel's records, and the number of those that were overwritten.
//!
//! The kernel stores its records in a ring buffer and does not wait for readers. A reader that is too slow gets
//! `EPIPE` once and continues with the oldest record that is left. The kernel never skips a sequence number, so
//! they show how many records were lost. Opening the device starts at the oldest record of this boot; records that an
//! earlier run emitted are skipped by number.

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

pub use self::record::{Fragment, KernelRecord, RECORD_LIMIT, RecordError, parse};
use super::{Clocks, Gap, GapNotice, LINE_LIMIT, LogKind, Progress, Signal};
use crate::signal::{LogLine, Origin};

mod record;

/// The maximum number of records in one poll: some milliseconds of work.
const BATCH: usize = 4096;

/// The position in the kernel log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KmsgPosition {
    pub boot: String,
    /// The number of the next record.
    pub next: u64,
}

/// Why the kernel log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KmsgError {
    #[error("failed to open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read the boot id from {path}")]
    Boot { path: PathBuf, source: io::Error },
    /// The device was opened, but reading failed.
    #[error("failed to read the kernel's log")]
    Read(#[source] io::Error),
}

/// A reader of the kernel log.
#[derive(Debug)]
pub struct Kmsg {
    device: fs::File,
    boot: String,
    /// The first record that an earlier run did not emit; `None` at the first start.
    resume: Option<u64>,
    /// The expected number of the next record; `None` before the first.
    next: Option<u64>,
    /// The time when everything was read; later records were written after it.
    drained: Option<Timestamp>,
    /// A line that the next record may continue.
    open: Option<LogLine<'static>>,
    buffer: Box<[u8]>,
}

impl Kmsg {
    /// Opens the device under `root`, after `position` if it is of this boot.
    ///
    /// # Errors
    ///
    /// If the device or the boot ID cannot be read: not root, or a container without the device.
    pub fn open(root: &Path, position: Option<&KmsgPosition>) -> Result<Self, KmsgError> {
        let path = root.join("proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(&path).map_err(|source| KmsgError::Boot { path, source })?;
        let path = root.join("dev/kmsg");
        // Without NONBLOCK a read at the end would block the other sources of this thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| KmsgError::Open { path, source: errno.into() })?;
        Ok(Self::new(device, boot.trim().to_owned(), position))
    }

    /// Reads from a file descriptor that returns one record a read and never blocks.
    fn new(device: OwnedFd, boot: String, position: Option<&KmsgPosition>) -> Self {
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

    pub fn position(&self) -> KmsgPosition {
        KmsgPosition { boot: self.boot.clone(), next: self.next.max(self.resume).unwrap_or(0) }
    }

    /// Emits new records, at most a batch.
    ///
    /// # Errors
    ///
    /// If the device fails. It should then be reopened at [`Self::position`].
    pub fn poll(
        &mut self,
        clocks: &Clocks,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> Result<Progress, KmsgError> {
        // Moved out and back, so that a record can borrow from it while `self` changes.
        let mut buffer = mem::take(&mut self.buffer);
        let progress = self.read_batch(&mut buffer, clocks, emit);
        self.buffer = buffer;
        // An open line is emitted after the batch, because it is unknown whether it will be continued.
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
                    Err(_) => self.skip_record(clocks, emit),
                },
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => return Ok(Progress::Drained),
                    // After EPIPE the next read returns the oldest record left; its number shows how many are
                    // missing.
                    Some(Errno::INTR | Errno::PIPE) => {}
                    // Longer than the buffer: the kernel skipped it.
                    Some(Errno::INVAL) => self.skip_record(clocks, emit),
                    _ => return Err(KmsgError::Read(error)),
                },
            }
        }
        Ok(Progress::More)
    }

    fn take(&mut self, record: KernelRecord<'_>, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let expected = self.next.max(self.resume);
        self.next = Some(record.seq.saturating_add(1));
        match expected {
            Some(expected) if record.seq < expected => return,
            Some(expected) if record.seq > expected => {
                self.close(emit);
                emit(notice(clocks, Gap::Lost(Some(record.seq - expected))));
            }
            None if record.seq > 0 => emit(notice(clocks, Gap::Wrapped(record.seq))),
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
                emit(notice(clocks, Gap::Truncated));
            }
            return;
        }
        self.close(emit);
        let at = written_at(record.up, clocks, self.drained);
        if record.fragment == Fragment::Whole {
            emit(Signal::Line(LogLine { origin, at, text: record.text }));
        } else {
            self.open = Some(LogLine { origin, at, text: Cow::Owned(record.text.into_owned()) });
        }
    }

    /// Counts an unreadable record, which has a sequence number as well.
    fn skip_record(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let seen_before = self.next < self.resume;
        self.next = self.next.map(|next| next.saturating_add(1));
        if !seen_before {
            emit(notice(clocks, Gap::Unreadable(1)));
        }
    }

    fn close(&mut self, emit: &mut impl FnMut(Signal<'_>)) {
        if let Some(line) = self.open.take() {
            emit(Signal::Line(line));
        }
    }
}

impl AsFd for Kmsg {
    /// Readable when a record is available, for `poll(2)`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn notice(clocks: &Clocks, gap: Gap) -> Signal<'static> {
    Signal::GapNotice(GapNotice { log: LogKind::Kernel, at: clocks.wall, gap })
}

/// The wall time of a record.
///
/// The kernel's timestamps are from a clock that is not synchronized and drifts by minutes within weeks. A record
/// that was not there at the last poll was written since, and no record is from the future.
fn written_at(up: SignedDuration, clocks: &Clocks, drained: Option<Timestamp>) -> Timestamp {
    let at = clocks.wall_at(up);
    drained.map_or(at, |drained| at.max(drained)).min(clocks.wall)
}

#[cfg(test)]
mod tests;
