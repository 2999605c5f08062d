//! Reads one file from a position to its end. A rename does not matter: the file is open.
//!
//! A file can be truncated and rewritten while it is open (`copytruncate`), and may have grown beyond the old
//! position at the next poll. So its first bytes are stored and compared after each read: the read bytes count only
//! if the file still has the same beginning. Two contents with the same first 256 bytes cannot be distinguished; log
//! lines start with their time, so this does not happen.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use jiff::SignedDuration;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::assembler::{Assembler, Piece};

/// The number of first bytes that are stored.
const HEAD: usize = 256;

/// A file, independent of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The position in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileMark {
    pub file: FileId,
    /// The offset before which everything was emitted.
    pub offset: u64,
    /// The number of first bytes that are hashed.
    pub head: u16,
    /// The FNV-1a hash of the first bytes.
    pub hash: u64,
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadResult {
    /// This many bytes were read.
    Some(usize),
    /// The end of the file was reached.
    End,
    /// The file was truncated or rewritten, so the stored state is of its former content.
    Replaced,
}

#[derive(Debug)]
pub(super) struct LogSegment {
    file: File,
    identity: FileId,
    head: Vec<u8>,
    assembler: Assembler,
    /// Size and modification time when the end was last reached.
    settled: Option<(u64, i64, i64)>,
    /// The time of the last read with new bytes, by the monotonic clock.
    grown: SignedDuration,
}

impl LogSegment {
    /// Opens a file at its start.
    pub(super) fn open(path: &Path, up: SignedDuration) -> io::Result<Self> {
        // Opening a pipe or device in place of a log must not block.
        let file = File::from(rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self {
            file,
            identity: FileId::of(&metadata),
            head: Vec::new(),
            assembler: Assembler::at(0),
            settled: None,
            grown: up,
        })
    }

    /// Opens a file at a position; `None` if it does not have the content of that position.
    pub(super) fn open_at(path: &Path, mark: &FileMark, up: SignedDuration) -> io::Result<Option<Self>> {
        let mut segment = Self::open(path, up)?;
        if mark.head == 0 {
            // Only the file itself was known, not its content.
            return Ok((segment.identity == mark.file && mark.offset == 0).then_some(segment));
        }
        let mut head = vec![0; usize::from(mark.head).min(HEAD)];
        if segment.file.metadata()?.len() < mark.offset || !segment.begins(&mut head)? {
            return Ok(None);
        }
        if hash(&head) != mark.hash {
            return Ok(None);
        }
        segment.head = head;
        segment.assembler = Assembler::at(mark.offset);
        Ok(Some(segment))
    }

    /// Skips the current content. The next line is the first that is completely new.
    pub(super) fn skip_to_end(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut head = vec![0; usize::try_from(length).unwrap_or(HEAD).min(HEAD)];
        if length > 0 && self.begins(&mut head)? {
            let mut last = [0];
            self.file.read_exact_at(&mut last, length - 1)?;
            self.head = head;
            self.assembler = if last == *b"\n" { Assembler::at(length) } else { Assembler::within(length) };
        }
        Ok(())
    }

    pub(super) fn identity(&self) -> FileId {
        self.identity
    }

    pub(super) fn grown(&self) -> SignedDuration {
        self.grown
    }

    pub(super) fn mark(&self) -> FileMark {
        let head = u16::try_from(self.head.len()).unwrap_or(0);
        FileMark {
            file: self.identity,
            offset: self.assembler.emitted_offset(),
            head,
            hash: hash(&self.head),
        }
    }

    pub(super) fn modified(&self) -> io::Result<(i64, i64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Reads at most one buffer.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        up: SignedDuration,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> io::Result<ReadResult> {
        let metadata = self.file.metadata()?;
        let offset = self.assembler.offset();
        if metadata.len() < offset {
            return Ok(ReadResult::Replaced);
        }
        let length = match self.file.read_at(buffer, offset) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(ReadResult::Some(0)),
            Err(error) => return Err(error),
        };
        let state = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if length == 0 && self.settled == Some(state) {
            return Ok(ReadResult::End);
        }
        // Checked after the read, because the file can change between a check and a read.
        if !self.begins_as_known()? {
            return Ok(ReadResult::Replaced);
        }
        if length == 0 {
            self.settled = Some(state);
            return Ok(ReadResult::End);
        }
        self.settled = None;
        self.grown = up;
        // After a restart the known first bytes may extend beyond the offset, if a line there was incomplete.
        if let Ok(start) = usize::try_from(offset)
            && let Some(new) =
                self.head.len().checked_sub(start).and_then(|known| buffer[..length].get(known..))
        {
            let room = HEAD - self.head.len();
            self.head.extend_from_slice(&new[..new.len().min(room)]);
        }
        self.assembler.feed(&buffer[..length], emit);
        Ok(ReadResult::Some(length))
    }

    /// Emits the buffered lines: no more bytes follow.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.assembler.finish(emit);
    }

    /// Starts at the beginning of the same file's new content. Returns the state of the former content.
    pub(super) fn start_over(&mut self) -> Unfinished {
        let head = std::mem::take(&mut self.head);
        let assembler = std::mem::replace(&mut self.assembler, Assembler::at(0));
        self.settled = None;
        Unfinished { head, assembler }
    }

    /// Whether this file is a copy of a content that was being read. If so, it takes over the state.
    pub(super) fn take_over(&mut self, unfinished: &mut Option<Unfinished>) -> io::Result<bool> {
        let Some(state) = unfinished else { return Ok(false) };
        let mut head = vec![0; state.head.len()];
        if self.file.metadata()?.len() < state.assembler.offset() || !self.begins(&mut head)? {
            return Ok(false);
        }
        if head.is_empty() || head != state.head {
            return Ok(false);
        }
        if let Some(Unfinished { head, assembler }) = unfinished.take() {
            self.head = head;
            self.assembler = assembler;
        }
        Ok(true)
    }

    fn begins_as_known(&self) -> io::Result<bool> {
        let mut now = [0; HEAD];
        let now = &mut now[..self.head.len()];
        Ok(self.begins(now)? && now == self.head)
    }

    /// Reads the first bytes; false if the file is shorter.
    fn begins(&self, head: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact_at(head, 0) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The state of a content that is no longer in its file.
#[derive(Debug)]
pub(super) struct Unfinished {
    head: Vec<u8>,
    assembler: Assembler,
}

impl Unfinished {
    /// Emits the buffered lines: no more bytes follow.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.assembler.finish(emit);
    }
}

/// FNV-1a, which is the same on every machine and in every version; the standard library's hash is not.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
