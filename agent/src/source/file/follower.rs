//! Turns one path into the lines of all the files that bear its name, one after the other.
//!
//! A log is rotated by renaming it and making a new one, or by copying it and cutting it back. Its writer may
//! go on writing to the renamed file until it is told. So an old file stays open, and is read before the new
//! one at each look, until it has been silent for a minute. Files that were made and renamed away between two
//! looks are found beside the path. Of a copied file the rest is read from the copy.
//!
//! Only this is lost: what was written after our last look to a file that was then deleted, compressed or cut
//! back without a copy before we looked again; a content that came and was cut back whole between two looks;
//! and what a writer still adds to an old file after [`SEGMENTS`] newer ones. After a restart a content that is
//! not found again is told, as something may be missing; while we run, a cut without a copy cannot tell us.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;

use super::{
    assembler::Piece,
    segment::{Identity, Mark, Read, Segment},
};
use crate::{
    signal::{Line, Origin},
    source::{Clocks, Flaw, Log, Notice, Progress, Signal},
};

/// How long an old file must have been silent before it is left: writers are told of a rotation within seconds.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// How many files may stay open for one path.
const SEGMENTS: usize = 8;
/// How many old files beside the path are considered, the newest first.
const BESIDE: usize = 64;
/// How much one poll reads of one path.
const BATCH: usize = 1024 * 1024;

/// What names of rotated files end in that do not read as text.
const COMPRESSED: [&str; 6] = [".gz", ".zst", ".xz", ".bz2", ".lz4", ".tmp"];

/// One path, followed.
#[derive(Debug)]
pub(super) struct Follower {
    /// On the node.
    name: String,
    /// Where that is for us.
    path: PathBuf,
    /// The files that bore the name, oldest first; the last one bears it, or did.
    segments: Vec<Segment>,
    /// Old files that were left, should one be written to again.
    left: Vec<Mark>,
    /// A failure that has been told, so that it is told once.
    failed: bool,
}

impl Follower {
    pub(super) fn new(name: String, path: PathBuf) -> Self {
        Self { name, path, segments: Vec::new(), left: Vec::new(), failed: false }
    }

    /// Goes on after marks of an earlier run.
    pub(super) fn resume(&mut self, marks: &[Mark], clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        for mark in marks {
            let mut paths = vec![self.path.clone()];
            paths.extend(self.beside().into_iter().map(|(_, path)| path));
            // Its own file first: the same first bytes may also be in a copy of it.
            paths.sort_by_key(|path| identity(path) != Some(mark.file));
            let found = paths.iter().find_map(|path| Segment::open_at(path, mark, clocks.up).ok().flatten());
            match found {
                Some(segment) => self.segments.push(segment),
                None if mark.offset == 0 && mark.head == 0 => {}
                None => {
                    emit(notice(&self.name, clocks, Flaw::Lost(None)));
                    // Cut back, and renamed: its new content is ours too. Where it still has its name it will
                    // be found by that.
                    let renamed =
                        paths.first().filter(|path| **path != self.path && identity(path) == Some(mark.file));
                    if let Some(Ok(segment)) = renamed.map(|path| Segment::open(path, clocks.up)) {
                        self.segments.push(segment);
                    }
                }
            }
        }
    }

    /// Takes the file up at its end.
    pub(super) fn start_at_end(&mut self, clocks: &Clocks) {
        if let Ok(mut segment) = Segment::open(&self.path, clocks.up)
            && segment.skip_to_end().is_ok()
        {
            self.segments.push(segment);
        }
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> {
        self.segments.iter().map(Segment::mark)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.segments.iter().map(Segment::identity)
    }

    /// Nothing is open, and nothing bears the name.
    pub(super) fn is_over(&self) -> bool {
        self.segments.is_empty() && !self.path.exists()
    }

    /// Reads on, a batch at most. Old files that are done with are put into `left`.
    pub(super) fn poll(
        &mut self,
        clocks: &Clocks,
        buffer: &mut [u8],
        left: &mut Vec<Mark>,
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
                    emit(notice(&self.name, clocks, Flaw::Unreadable(1)));
                }
                Progress::Drained
            }
        }
    }

    fn read_on(
        &mut self,
        clocks: &Clocks,
        buffer: &mut [u8],
        left: &mut Vec<Mark>,
        emit: &mut impl FnMut(Signal<'_>),
    ) -> io::Result<Progress> {
        let mut budget = BATCH;
        let mut at = 0;
        loop {
            while let Some(segment) = self.segments.get_mut(at) {
                let name = &self.name;
                match segment.read(buffer, clocks.up, &mut |piece| hand_on(name, clocks, piece, emit)) {
                    Ok(Read::Some(length)) => budget = budget.saturating_sub(length.max(1)),
                    Ok(Read::End) => at += 1,
                    Ok(Read::Replaced) => self.start_over(at, clocks, emit),
                    Err(error) if at + 1 == self.segments.len() => return Err(error),
                    // An old file that no longer reads must not keep us from the new one.
                    Err(_) => {
                        self.segments.remove(at);
                        emit(notice(&self.name, clocks, Flaw::Lost(None)));
                    }
                }
                if budget == 0 {
                    return Ok(Progress::More);
                }
            }
            // Only now that the old is read may the new begin.
            if !self.find_new(clocks)? {
                break;
            }
        }
        self.leave_silent(clocks, left, emit);
        Ok(Progress::Drained)
    }

    /// The file at `at` has another content now. What is left of the old may be in a copy.
    fn start_over(&mut self, at: usize, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let beside = self.beside();
        let mut unfinished = Some(self.segments[at].start_over());
        let own = self.segments[at].identity();
        for (_, path) in beside {
            if let Ok(mut copy) = Segment::open(&path, clocks.up)
                && copy.identity() != own
                && copy.take_up(&mut unfinished).unwrap_or(false)
            {
                self.segments.insert(at, copy);
                return;
            }
        }
        if let Some(unfinished) = unfinished {
            unfinished.finish(&mut |piece| hand_on(&self.name, clocks, piece, emit));
        }
    }

    /// Opens what bears the name now, and what did since we looked last; false if nothing new does.
    fn find_new(&mut self, clocks: &Clocks) -> io::Result<bool> {
        let current = match fs::metadata(&self.path) {
            Ok(metadata) => Some(Identity::of(&metadata)),
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
            // The name may have passed on again since: whatever bears it now is the newest.
            let newest = Segment::open(&self.path, clocks.up)?;
            if !self.is_open(newest.identity()) {
                self.segments.push(newest);
            }
        }
        Ok(self.segments.len() > before)
    }

    /// Opens a file that bore the name; one that was left before goes on where it was left.
    fn open_beside(&self, path: &Path, found: Identity, clocks: &Clocks) -> io::Result<Segment> {
        if let Some(mark) = self.left.iter().find(|mark| mark.file == found)
            && let Some(segment) = Segment::open_at(path, mark, clocks.up)?
        {
            return Ok(segment);
        }
        Segment::open(path, clocks.up)
    }

    fn is_open(&self, identity: Identity) -> bool {
        self.segments.iter().any(|segment| segment.identity() == identity)
    }

    /// Closes old files that have been silent, or are too many.
    fn leave_silent(&mut self, clocks: &Clocks, left: &mut Vec<Mark>, emit: &mut impl FnMut(Signal<'_>)) {
        let current = identity(&self.path);
        let mut too_many = self.segments.len().saturating_sub(SEGMENTS);
        let mut at = 0;
        while let Some(segment) = self.segments.get_mut(at) {
            let silent = clocks.up - segment.grown() >= SILENCE;
            if current == Some(segment.identity()) || !(silent || too_many > 0) {
                at += 1;
                continue;
            }
            segment.finish(&mut |piece| hand_on(&self.name, clocks, piece, emit));
            let mark = self.segments.remove(at).mark();
            self.left.retain(|other| other.file != mark.file);
            self.left.push(mark.clone());
            self.left.drain(..self.left.len().saturating_sub(SEGMENTS));
            left.push(mark);
            too_many = too_many.saturating_sub(1);
        }
    }

    /// The files beside the path whose names say that they bore its name, oldest first.
    fn beside(&self) -> Vec<((i64, i64), PathBuf)> {
        use std::os::unix::fs::MetadataExt as _;
        let (Some(folder), Some(name)) =
            (self.path.parent(), self.path.file_name().and_then(|name| name.to_str()))
        else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
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

/// `x.log.1`, `x.log-20240501` and `x.log.20240501-100000` as logrotate and the kubelet name them, and
/// `x-2024-05-01T10-00-00.000.log` as Go's usual library does.
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

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| Identity::of(&metadata))
}

fn hand_on(name: &str, clocks: &Clocks, piece: Piece<'_>, emit: &mut impl FnMut(Signal<'_>)) {
    match piece {
        Piece::Line { at, text } => emit(Signal::Line(Line {
            origin: Origin::File(Cow::Borrowed(name)),
            at: at.unwrap_or(clocks.wall),
            text,
        })),
        Piece::Cut => emit(notice(name, clocks, Flaw::Cut)),
    }
}

fn notice<'a>(name: &'a str, clocks: &Clocks, flaw: Flaw) -> Signal<'a> {
    Signal::Notice(Notice { log: Log::File(Cow::Borrowed(name)), at: clocks.wall, flaw })
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
