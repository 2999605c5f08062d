//! Turns log files into signals: a line once, across rotations and restarts.
//!
//! Files are looked at when the caller says so; once a second is plenty, as no detector counts in less than
//! seconds. inotify would say sooner, but it drops events under load, is short of watches on a full node, and
//! does not see every file system; whoever trusts it must look all the same.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use self::{follower::Follower, pattern::Pattern, segment::Segment};
pub use self::{
    prefix::{Stream, Stripped, strip},
    segment::{Identity, Mark},
};
use super::{Clocks, Progress, Signal};

mod assembler;
mod follower;
mod pattern;
mod prefix;
mod segment;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Up to where the files have been handed on: by path on the node, oldest file first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position {
    /// The files that bear or bore each path.
    pub paths: BTreeMap<String, Vec<Mark>>,
}

/// Where a file begins to be read that was there before the first start ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With its first line.
    Beginning,
    /// With the first line that is written from now on.
    End,
}

/// Why files cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A pattern is no absolute path.
    #[error("failed to follow {0:?}: a path must start with / and must not contain ..")]
    Pattern(String),
}

/// Files, followed.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    patterns: Vec<Pattern>,
    start: Start,
    /// Where to go on, until the first poll.
    resume: Option<Position>,
    followed: BTreeMap<String, Follower>,
    /// Old files that are done with, so that a pattern that names them too does not read them again.
    left: HashMap<Identity, Mark>,
    begun: bool,
    buffer: Box<[u8]>,
}

impl Files {
    /// Follows the files under `root` that the patterns name (`*` within a part of a path), after `position`.
    ///
    /// A pattern should not name rotated files: after a restart they could not be told from new ones.
    ///
    /// # Errors
    ///
    /// When a pattern is no absolute path.
    pub fn new(
        root: &Path,
        patterns: &[&str],
        start: Start,
        position: Option<Position>,
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

    /// Up to where they have been handed on.
    pub fn position(&self) -> Position {
        if let Some(resume) = &self.resume {
            return resume.clone();
        }
        let marks = |follower: &Follower| follower.marks().collect::<Vec<_>>();
        Position {
            paths: self.followed.iter().map(|(name, follower)| (name.clone(), marks(follower))).collect(),
        }
    }

    /// Hands on what is there, at most a mebibyte a path.
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

    /// Takes up what the patterns name and is not followed yet.
    fn find(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let mut resume = self.resume.take().map(|position| position.paths);
        let first_ever = !self.begun && resume.is_none();
        self.begun = true;
        let mut names: Vec<_> = self.patterns.iter().flat_map(|pattern| pattern.expand(&self.root)).collect();
        // A path that is gone may still have old files beside it that were not read to their end.
        names.extend(resume.iter().flat_map(BTreeMap::keys).cloned());
        let mut named = HashSet::new();
        for name in names {
            let path = pattern::beneath(&self.root, &name);
            let Ok(identity) = std::fs::metadata(&path).map(|metadata| Identity::of(&metadata)) else {
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
            if first_ever && self.start == Start::End {
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
        marks: &[Mark],
        clocks: &Clocks,
        emit: &mut impl FnMut(Signal<'_>),
    ) {
        let mut follower = Follower::new(name.clone(), path);
        follower.resume(marks, clocks, emit);
        self.followed.insert(name, follower);
    }

    /// Whether a file is followed already, by another name, or is done with. Inodes are used again: what is
    /// done with must also begin as it did.
    fn is_known(&self, path: &Path, identity: Identity, clocks: &Clocks) -> bool {
        let done = |mark| matches!(Segment::open_at(path, mark, clocks.up), Ok(Some(_)));
        self.left.get(&identity).is_some_and(done)
            || self.followed.values().any(|follower| follower.identities().any(|known| known == identity))
    }
}

#[cfg(test)]
mod tests;
