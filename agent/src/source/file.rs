//! Reads log files and emits each line once, across rotations and restarts.
//!
//! Files are polled when the caller asks. Once a second is enough, because no detector needs a finer resolution.
//! inotify would notify sooner, but it drops events under load, runs out of watches on a full node, and does not
//! support every filesystem, so polling would be needed anyway.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use self::{follower::Follower, pattern::Pattern, segment::LogSegment};
pub use self::{
    prefix::{ContainerStream, Stripped, strip},
    segment::{FileId, FileMark},
};
use super::{Clocks, Progress, Signal};

mod assembler;
mod follower;
mod pattern;
mod prefix;
mod segment;

/// The size of one read, in bytes.
const CHUNK: usize = 64 * 1024;

/// The positions in log files: by path on the node, oldest file first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilePosition {
    /// The current and rotated files of each path.
    pub paths: BTreeMap<String, Vec<FileMark>>,
}

/// Where reading starts in a file that exists at the first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At its first line.
    Beginning,
    /// At its end: only new lines are read.
    End,
}

/// Why files cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A pattern is not an absolute path.
    #[error("failed to follow {0:?}: a path must start with / and must not contain ..")]
    Pattern(String),
}

/// The log files that are followed.
#[derive(Debug)]
pub struct LogFiles {
    root: PathBuf,
    patterns: Vec<Pattern>,
    start: StartAt,
    /// The position to continue at; `None` after the first poll.
    resume: Option<FilePosition>,
    followed: BTreeMap<String, Follower>,
    /// Rotated files that were read to their end, so that a pattern that also matches them does not read them again.
    left: HashMap<FileId, FileMark>,
    begun: bool,
    buffer: Box<[u8]>,
}

impl LogFiles {
    /// Follows the files under `root` that match the patterns (`*` within a path component), starting after
    /// `position`.
    ///
    /// A pattern should not match rotated files: after a restart they cannot be distinguished from new ones.
    ///
    /// # Errors
    ///
    /// If a pattern is not an absolute path.
    pub fn new(
        root: &Path,
        patterns: &[&str],
        start: StartAt,
        position: Option<FilePosition>,
    ) -> Result<Self, FileError> {
        Ok(Self {
            root: root.to_owned(),
            patterns: patterns.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()?,
            start,
            resume: position,
            followed: BTreeMap::new(),
            left: HashMap::new(),
            begun: false,
            buffer: vec![0; CHUNK].into_boxed_slice(),
        })
    }

    pub fn position(&self) -> FilePosition {
        if let Some(resume) = &self.resume {
            return resume.clone();
        }
        let marks = |follower: &Follower| follower.marks().collect::<Vec<_>>();
        FilePosition {
            paths: self.followed.iter().map(|(name, follower)| (name.clone(), marks(follower))).collect(),
        }
    }

    /// Emits new lines, at most one mebibyte a path.
    pub fn poll(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) -> Progress {
        self.find(clocks, emit);
        let mut progress = Progress::Drained;
        let mut left = Vec::new();
        for follower in self.followed.values_mut() {
            if follower.poll(clocks, &mut self.buffer, &mut left, emit) == Progress::More {
                progress = Progress::More;
            }
        }
        self.left.extend(left.into_iter().map(|mark| (mark.file, mark)));
        self.followed.retain(|_, follower| !follower.is_over());
        progress
    }

    /// Opens files that match the patterns and are not followed yet.
    fn find(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let mut resume = self.resume.take().map(|position| position.paths);
        let first_ever = !self.begun && resume.is_none();
        self.begun = true;
        let mut names: Vec<_> = self.patterns.iter().flat_map(|pattern| pattern.expand(&self.root)).collect();
        // A path that no longer exists may have rotated files that were not read to their end.
        names.extend(resume.iter().flat_map(BTreeMap::keys).cloned());
        let mut named = HashSet::new();
        for name in names {
            let path = pattern::beneath(&self.root, &name);
            let Ok(identity) = std::fs::metadata(&path).map(|metadata| FileId::of(&metadata)) else {
                if let Some(marks) = resume.as_mut().and_then(|resume| resume.remove(&name)) {
                    self.follow(name, path, &marks, clocks, emit);
                }
                continue;
            };
            named.insert(identity);
            if self.followed.contains_key(&name) || self.is_known(&path, identity, clocks) {
                continue;
            }
            let marks = resume.as_mut().and_then(|resume| resume.remove(&name)).unwrap_or_default();
            if first_ever && self.start == StartAt::End {
                let mut follower = Follower::new(name.clone(), path);
                follower.start_at_end(clocks);
                self.followed.insert(name, follower);
            } else {
                self.follow(name, path, &marks, clocks, emit);
            }
        }
        self.left.retain(|identity, _| named.contains(identity));
    }

    fn follow(
        &mut self,
        name: String,
        path: PathBuf,
        marks: &[FileMark],
        clocks: &Clocks,
        emit: &mut impl FnMut(Signal<'_>),
    ) {
        let mut follower = Follower::new(name.clone(), path);
        follower.resume(marks, clocks, emit);
        self.followed.insert(name, follower);
    }

    /// Whether a file is already followed under another name, or was read to its end. Inodes are reused, so a file
    /// that was read must also have the same beginning.
    fn is_known(&self, path: &Path, identity: FileId, clocks: &Clocks) -> bool {
        let done = |mark| matches!(LogSegment::open_at(path, mark, clocks.up), Ok(Some(_)));
        self.left.get(&identity).is_some_and(done)
            || self.followed.values().any(|follower| follower.identities().any(|known| known == identity))
    }
}

#[cfg(test)]
mod tests;
