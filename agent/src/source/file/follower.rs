//! Reads one path: all files that have or had its name, one after the other.
//!
//! A log is rotated by a rename and a new file, or by a copy and a truncation. The writer may continue to write to
//! the renamed file until it is notified. So a rotated file stays open and is polled before the new one until nothing
//! was written for a minute. Files that were created and renamed between two polls are found beside the path. After a
//! copy and truncation, the rest is read from the copy.
//!
//! Only this is lost: what was written after the last poll to a file that was deleted, compressed, or truncated
//! without a copy before the next poll; content that was written and truncated between two polls; and what a writer
//! appends to a rotated file after [`SEGMENTS`] newer ones. After a restart, missing content is reported as possibly
//! lost; at run time a truncation without a copy cannot be distinguished.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;

use super::{
    assembler::Piece,
    segment::{FileId, FileMark, LogSegment, ReadResult},
};
use crate::{
    signal::{LogLine, Origin},
    source::{Clocks, Gap, GapNotice, LogKind, Progress, Signal},
};

/// How long a rotated file must be unchanged before it is closed: writers are notified of a rotation within seconds.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// The maximum number of open files for one path.
const SEGMENTS: usize = 8;
/// The maximum number of rotated files beside the path that are considered, newest first.
const BESIDE: usize = 64;
/// The maximum number of bytes that one poll reads of one path.
const BATCH: usize = 1024 * 1024;

/// File name endings of rotated files that are not plain text.
const COMPRESSED: [&str; 6] = [".gz", ".zst", ".xz", ".bz2", ".lz4", ".tmp"];

#[derive(Debug)]
pub(super) struct Follower {
    /// The path on the node.
    name: String,
    /// The path below the root.
    path: PathBuf,
    /// The files that had this name, oldest first. The last one has it, or had it last.
    segments: Vec<LogSegment>,
    /// Positions of rotated files that were closed, in case one is written to again.
    left: Vec<FileMark>,
    /// Whether the current failure was reported already.
    failed: bool,
}

impl Follower {
    pub(super) fn new(name: String, path: PathBuf) -> Self {
        Self { name, path, segments: Vec::new(), left: Vec::new(), failed: false }
    }

    /// Continues at the positions of an earlier run.
    pub(super) fn resume(&mut self, marks: &[FileMark], clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        for mark in marks {
            let mut paths = vec![self.path.clone()];
            paths.extend(self.beside().into_iter().map(|(_, path)| path));
            // The same file first: a copy may have the same first bytes.
            paths.sort_by_key(|path| identity(path) != Some(mark.file));
            let found =
                paths.iter().find_map(|path| LogSegment::open_at(path, mark, clocks.up).ok().flatten());
            match found {
                Some(segment) => self.segments.push(segment),
                None if mark.offset == 0 && mark.head == 0 => {}
                None => {
                    emit(notice(&self.name, clocks, Gap::Lost(None)));
                    // The file was truncated and renamed; its new content has not been read. If it still has its
                    // name, it is found by that name.
                    let renamed =
                        paths.first().filter(|path| **path != self.path && identity(path) == Some(mark.file));
                    if let Some(Ok(segment)) = renamed.map(|path| LogSegment::open(path, clocks.up)) {
                        self.segments.push(segment);
                    }
                }
            }
        }
    }

    /// Opens the file at its end.
    pub(super) fn start_at_end(&mut self, clocks: &Clocks) {
        if let Ok(mut segment) = LogSegment::open(&self.path, clocks.up)
            && segment.skip_to_end().is_ok()
        {
            self.segments.push(segment);
        }
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = FileMark> {
        self.segments.iter().map(LogSegment::mark)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = FileId> {
        self.segments.iter().map(LogSegment::identity)
    }

    /// Whether no file is open and none has the name.
    pub(super) fn is_over(&self) -> bool {
        self.segments.is_empty() && !self.path.exists()
    }

    /// Reads at most a batch. Rotated files that were read to their end are pushed to `left`.
    pub(super) fn poll(
        &mut self,
        clocks: &Clocks,
        buffer: &mut [u8],
        left: &mut Vec<FileMark>,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> Progress {
        match self.read_on(clocks, buffer, left, emit) {
            Ok(progress) => {
                self.failed = false;
                progress
            }
            Err(_) => {
                if !self.failed {
                    self.failed = true;
                    emit(notice(&self.name, clocks, Gap::Unreadable(1)));
                }
                Progress::Drained
            }
        }
    }

    fn read_on(
        &mut self,
        clocks: &Clocks,
        buffer: &mut [u8],
        left: &mut Vec<FileMark>,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> io::Result<Progress> {
        let mut budget = BATCH;
        let mut at = 0;
        loop {
            while let Some(segment) = self.segments.get_mut(at) {
                let name = &self.name;
                match segment.read(buffer, clocks.up, &mut |piece| emit_piece(name, clocks, piece, emit)) {
                    Ok(ReadResult::Some(length)) => budget = budget.saturating_sub(length.max(1)),
                    Ok(ReadResult::End) => at += 1,
                    Ok(ReadResult::Replaced) => self.start_over(at, clocks, emit),
                    Err(error) if at + 1 == self.segments.len() => return Err(error),
                    // An unreadable rotated file must not block the new one.
                    Err(_) => {
                        self.segments.remove(at);
                        emit(notice(&self.name, clocks, Gap::Lost(None)));
                    }
                }
                if budget == 0 {
                    return Ok(Progress::More);
                }
            }
            // The new file is read only after the old one.
            if !self.find_new(clocks)? {
                break;
            }
        }
        self.leave_silent(clocks, left, emit);
        Ok(Progress::Drained)
    }

    /// The file at index `at` has new content. The rest of the old content may be in a copy.
    fn start_over(&mut self, at: usize, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let beside = self.beside();
        let mut unfinished = Some(self.segments[at].start_over());
        let own = self.segments[at].identity();
        for (_, path) in beside {
            if let Ok(mut copy) = LogSegment::open(&path, clocks.up)
                && copy.identity() != own
                && copy.take_over(&mut unfinished).unwrap_or(false)
            {
                self.segments.insert(at, copy);
                return;
            }
        }
        if let Some(unfinished) = unfinished {
            unfinished.finish(&mut |piece| emit_piece(&self.name, clocks, piece, emit));
        }
    }

    /// Opens the file that has the name now, and those that had it since the last poll. Returns false if there is no
    /// new file.
    fn find_new(&mut self, clocks: &Clocks) -> io::Result<bool> {
        let current = match fs::metadata(&self.path) {
            Ok(metadata) => Some(FileId::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if current.is_some_and(|current| self.is_open(current)) {
            return Ok(false);
        }
        let before = self.segments.len();
        if let Some(last) = self.segments.last() {
            let since = last.modified()?;
            for (_, path) in self.beside().into_iter().filter(|(modified, _)| *modified >= since) {
                let Some(found) = identity(&path) else { continue };
                if current != Some(found)
                    && !self.is_open(found)
                    && let Ok(segment) = self.open_beside(&path, found, clocks)
                {
                    self.segments.push(segment);
                }
            }
        }
        if current.is_some() {
            // The file may have been renamed again since; the file that has the name now is the newest.
            let newest = LogSegment::open(&self.path, clocks.up)?;
            if !self.is_open(newest.identity()) {
                self.segments.push(newest);
            }
        }
        Ok(self.segments.len() > before)
    }

    /// Opens a rotated file; one that was closed before continues at its position.
    fn open_beside(&self, path: &Path, found: FileId, clocks: &Clocks) -> io::Result<LogSegment> {
        if let Some(mark) = self.left.iter().find(|mark| mark.file == found)
            && let Some(segment) = LogSegment::open_at(path, mark, clocks.up)?
        {
            return Ok(segment);
        }
        LogSegment::open(path, clocks.up)
    }

    fn is_open(&self, identity: FileId) -> bool {
        self.segments.iter().any(|segment| segment.identity() == identity)
    }

    /// Closes rotated files that are unchanged for a while, or too many.
    fn leave_silent(&mut self, clocks: &Clocks, left: &mut Vec<FileMark>, emit: &mut impl FnMut(Signal<'_>)) {
        let current = identity(&self.path);
        let mut too_many = self.segments.len().saturating_sub(SEGMENTS);
        let mut at = 0;
        while let Some(segment) = self.segments.get_mut(at) {
            let silent = clocks.up - segment.grown() >= SILENCE;
            if current == Some(segment.identity()) || !(silent || too_many > 0) {
                at += 1;
                continue;
            }
            segment.finish(&mut |piece| emit_piece(&self.name, clocks, piece, emit));
            let mark = self.segments.remove(at).mark();
            self.left.retain(|other| other.file != mark.file);
            self.left.push(mark.clone());
            self.left.drain(..self.left.len().saturating_sub(SEGMENTS));
            left.push(mark);
            too_many = too_many.saturating_sub(1);
        }
    }

    /// Rotated files beside the path, by their names, oldest first.
    fn beside(&self) -> Vec<((i64, i64), PathBuf)> {
        use std::os::unix::fs::MetadataExt as _;
        let (Some(directory), Some(name)) =
            (self.path.parent(), self.path.file_name().and_then(|name| name.to_str()))
        else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        let mut found: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|other| is_rotated(name, other)))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some(((metadata.mtime(), metadata.mtime_nsec()), entry.path()))
            })
            .collect();
        found.sort_unstable();
        found.drain(..found.len().saturating_sub(BESIDE));
        found
    }
}

/// `x.log.1`, `x.log-20240501` and `x.log.20240501-100000` (logrotate, kubelet), and `x-2024-05-01T10-00-00.000.log`
/// (lumberjack).
fn is_rotated(name: &str, other: &str) -> bool {
    if COMPRESSED.iter().any(|suffix| other.ends_with(suffix)) {
        return false;
    }
    if let Some(rest) = other.strip_prefix(name) {
        return rest.starts_with(['.', '-']);
    }
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let Some(between) = other.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension)) else {
        return false;
    };
    between.starts_with('-') && between.bytes().any(|byte| byte.is_ascii_digit())
}

fn identity(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

fn emit_piece(name: &str, clocks: &Clocks, piece: Piece<'_>, emit: &mut impl FnMut(Signal<'_>)) {
    match piece {
        Piece::Line { at, text } => emit(Signal::Line(LogLine {
            origin: Origin::File(Cow::Borrowed(name)),
            at: at.unwrap_or(clocks.wall),
            text,
        })),
        Piece::Truncated => emit(notice(name, clocks, Gap::Truncated)),
    }
}

fn notice<'a>(name: &'a str, clocks: &Clocks, gap: Gap) -> Signal<'a> {
    Signal::GapNotice(GapNotice { log: LogKind::File(Cow::Borrowed(name)), at: clocks.wall, gap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_are_known_by_their_names() {
        for (name, other, expected) in [
            ("ipamd.log", "ipamd.log.1", true),
            ("cron.log", "cron.log-20240501", true),
            ("0.log", "0.log.20240501-100000", true),
            ("ipamd.log", "ipamd-2024-05-01T10-00-00.000.log", true),
            ("cron", "cron-20240501", true),
            ("0.log", "0.log.20240501-100000.gz", false),
            ("0.log", "10.log", false),
            ("0.log", "0.log", false),
            ("ipamd.log", "ipamd-plugin.log", false),
            ("plugin.log", "plugins.log", false),
        ] {
            assert_eq!(is_rotated(name, other), expected, "{name} {other}");
        }
    }
}
