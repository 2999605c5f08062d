//! Turns one file, by whatever name, into lines: from where reading stands to its end.
//!
//! A file can be cut back to nothing and written anew under our hands (`copytruncate`), and may even have
//! grown beyond where we stood when we look again. So its first bytes are kept, and compared each time after
//! bytes were read: bytes count only when the file still begins as it did. Two contents with the same first
//! 256 bytes cannot be told apart; a log's lines start with their time, so its contents never have that.

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

/// How many first bytes are kept.
const HEAD: usize = 256;

/// Which file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The device.
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// How far one file has been handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mark {
    /// Which file.
    pub file: Identity,
    /// Everything before this byte.
    pub offset: u64,
    /// How many of its first bytes are known.
    pub head: u16,
    /// Their FNV-1a hash.
    pub hash: u64,
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes were taken.
    Some(usize),
    /// It has been read to its end.
    End,
    /// It was cut back, or written anew: what we know is of another content.
    Replaced,
}

/// A file, open.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    identity: Identity,
    head: Vec<u8>,
    assembler: Assembler,
    /// Size and change time when it was last found at its end.
    settled: Option<(u64, i64, i64)>,
    /// When bytes last came, by the monotonic clock.
    grown: SignedDuration,
}

impl Segment {
    /// Opens a file, to be read from its start.
    pub(super) fn open(path: &Path, up: SignedDuration) -> io::Result<Self> {
        // A pipe or a device in a log's place must not make us wait.
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
            identity: Identity::of(&metadata),
            head: Vec::new(),
            assembler: Assembler::at(0),
            settled: None,
            grown: up,
        })
    }

    /// Opens a file after a mark; none if it is not the content that was marked.
    pub(super) fn open_at(path: &Path, mark: &Mark, up: SignedDuration) -> io::Result<Option<Self>> {
        let mut segment = Self::open(path, up)?;
        if mark.head == 0 {
            // Nothing was known of it but which file it was.
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

    /// Passes over what it holds now; the next line is the first that is written whole from here on.
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

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn grown(&self) -> SignedDuration {
        self.grown
    }

    pub(super) fn mark(&self) -> Mark {
        let head = u16::try_from(self.head.len()).unwrap_or(0);
        Mark { file: self.identity, offset: self.assembler.handed_on(), head, hash: hash(&self.head) }
    }

    pub(super) fn modified(&self) -> io::Result<(i64, i64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Reads on, a buffer at most.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        up: SignedDuration,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> io::Result<Read> {
        let metadata = self.file.metadata()?;
        let offset = self.assembler.offset();
        if metadata.len() < offset {
            return Ok(Read::Replaced);
        }
        let length = match self.file.read_at(buffer, offset) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Read::Some(0)),
            Err(error) => return Err(error),
        };
        let state = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if length == 0 && self.settled == Some(state) {
            return Ok(Read::End);
        }
        // After the bytes, not before: between a check and a read the file can change.
        if !self.begins_as_known()? {
            return Ok(Read::Replaced);
        }
        if length == 0 {
            self.settled = Some(state);
            return Ok(Read::End);
        }
        self.settled = None;
        self.grown = up;
        // After a restart the first bytes may be known beyond the offset: a line there was not whole yet.
        if let Ok(start) = usize::try_from(offset)
            && let Some(new) =
                self.head.len().checked_sub(start).and_then(|known| buffer[..length].get(known..))
        {
            let room = HEAD - self.head.len();
            self.head.extend_from_slice(&new[..new.len().min(room)]);
        }
        self.assembler.feed(&buffer[..length], emit);
        Ok(Read::Some(length))
    }

    /// Hands on what is held: nothing more will come.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.assembler.finish(emit);
    }

    /// Starts over with the new content of the same file, and leaves the state of the old.
    pub(super) fn start_over(&mut self) -> Unfinished {
        let head = std::mem::take(&mut self.head);
        let assembler = std::mem::replace(&mut self.assembler, Assembler::at(0));
        self.settled = None;
        Unfinished { head, assembler }
    }

    /// Whether this is a copy of a content that was being read; if so, reads on here.
    pub(super) fn take_up(&mut self, unfinished: &mut Option<Unfinished>) -> io::Result<bool> {
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

    /// Reads its first bytes; false where it has not that many.
    fn begins(&self, head: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact_at(head, 0) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What was being read of a content that is no longer in its file.
#[derive(Debug)]
pub(super) struct Unfinished {
    head: Vec<u8>,
    assembler: Assembler,
}

impl Unfinished {
    /// Hands on what is held: nothing more will come.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.assembler.finish(emit);
    }
}

/// FNV-1a: the same on every machine and in every version, which the standard library's does not promise.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
