//! Turns the system's journal into signals: what the wanted units said, across rotations and restarts.
//!
//! The files are read themselves (docs/decisions/0020-journal-reader.md). journald numbers the entries of all
//! its files in one sequence, so the last number that was handed on says everything about where to go on,
//! whatever files were made, renamed or deleted since, and whatever was done to the clock.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::format::FormatError;
use self::{
    format::Id,
    volume::{Step, Volume, VolumeError},
};
use super::{Clocks, Flaw, Log, Notice, Progress, Signal};
use crate::signal::{Line, Origin};

mod format;
mod payload;
mod volume;

/// Where journald keeps its files: what is to last, and what is not.
const FOLDERS: [&str; 2] = ["var/log/journal", "run/log/journal"];
/// How many entries one poll looks at.
const BATCH: usize = 8192;
/// How many files are considered; journald keeps at most 100 by default.
const FILES: usize = 512;
/// The file to which journald writes; the others have been renamed.
const LIVE: &str = "system.journal";

/// Up to where the journal has been handed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position {
    /// The last number of each sequence of which files are left, by the sequence's id in hex.
    pub sequences: BTreeMap<String, u64>,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    units: Vec<Box<str>>,
    /// On a first start, where to begin.
    since: Timestamp,
    last: BTreeMap<Id, u64>,
    /// Until there is a journal: whether a position was given.
    resumed: Option<bool>,
    volumes: Vec<Open>,
    /// Archived files that are read to their end. Their names are never given twice.
    done: HashSet<PathBuf>,
    /// Files of which it has been told that they do not read.
    failed: HashSet<PathBuf>,
}

/// A file that is being read.
#[derive(Debug)]
struct Open {
    identity: (u64, u64),
    /// What it was last called; none when it has been deleted.
    path: Option<PathBuf>,
    volume: Volume,
}

impl Open {
    /// All has been read, and nothing will be added. An open file may be renamed at any time, so the name is
    /// the one that was seen before the last look into the file.
    fn is_over(&self) -> bool {
        self.volume.is_drained() && self.path.as_deref().is_none_or(is_archived)
    }
}

impl Journal {
    /// Follows what these units say in the journal under `root`, after `position`; without one, from the first
    /// entry that is not older than `since`.
    ///
    /// A unit's lines are those that its processes write, and those that systemd itself writes about it.
    pub fn new(root: &Path, units: &[&str], since: Timestamp, position: Option<&Position>) -> Self {
        let last = position.iter().flat_map(|position| &position.sequences);
        Self {
            root: root.to_owned(),
            units: units.iter().map(|unit| Box::from(*unit)).collect(),
            since,
            last: last.filter_map(|(id, number)| Some((parse_id(id)?, *number))).collect(),
            resumed: Some(position.is_some()),
            volumes: Vec::new(),
            done: HashSet::new(),
            failed: HashSet::new(),
        }
    }

    /// Up to where it has been handed on; none before there was any journal.
    pub fn position(&self) -> Option<Position> {
        if self.resumed == Some(false) {
            return None;
        }
        Some(Position { sequences: self.last.iter().map(|(id, number)| (print_id(id), *number)).collect() })
    }

    /// How many journal files there are. Without any, nothing is heard: the caller should say so.
    pub fn files(&self) -> usize {
        self.volumes.len() + self.done.len()
    }

    /// Hands on what is there, a batch at most.
    pub fn poll(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) -> Progress {
        self.find(clocks, emit);
        let mut budget = BATCH;
        let mut unreadable = 0;
        // Oldest first, and each to its end before the next: within a sequence the numbers only rise.
        for open in &mut self.volumes {
            if open.volume.refresh().is_err() {
                unreadable += open.volume.give_up().max(1);
            }
            let sequence = open.volume.header().sequence;
            while budget > 0 {
                let step = open.volume.step(&self.units);
                if step == Step::End {
                    break;
                }
                budget -= 1;
                let last = self.last.get(&sequence).copied();
                let number = open.volume.number();
                let seen_before = number.is_some_and(|number| last.is_some_and(|last| number <= last));
                if let Some(number) = number.filter(|_| !seen_before) {
                    self.last.insert(sequence, number);
                }
                match step {
                    Step::Said { unit, micros, text, cut } if !seen_before => {
                        let at =
                            i64::try_from(micros).ok().and_then(|at| Timestamp::from_microsecond(at).ok());
                        hand_on(&self.units[unit], at.unwrap_or(clocks.wall), &text, emit);
                        if cut {
                            emit(notice(clocks, Flaw::Cut));
                        }
                    }
                    Step::Unreadable(count) => unreadable += count,
                    Step::Said { .. } | Step::Other | Step::End => {}
                }
            }
        }
        if unreadable > 0 {
            emit(notice(clocks, Flaw::Unreadable(unreadable)));
        }
        for open in self.volumes.extract_if(.., |open| open.is_over()) {
            self.done.extend(open.path);
        }
        if budget == 0 { Progress::More } else { Progress::Drained }
    }

    /// Opens what is new, and notes what has been renamed or deleted.
    fn find(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let paths = list(&self.root);
        self.done.retain(|path| paths.contains(path));
        self.failed.retain(|path| paths.contains(path));
        for open in &mut self.volumes {
            open.path = None;
        }
        let mut opened = Vec::new();
        for path in paths {
            if self.done.contains(&path) {
                continue;
            }
            match self.identify(&path) {
                Ok(volume) => {
                    self.failed.remove(&path);
                    opened.extend(volume);
                }
                Err(_) => {
                    if self.failed.insert(path) {
                        emit(notice(clocks, Flaw::Unreadable(1)));
                    }
                }
            }
        }
        if opened.is_empty() {
            return;
        }
        let resumed = self.resumed.take();
        if resumed == Some(true) {
            self.tell_gaps(&opened, clocks, emit);
        }
        for open in &mut opened {
            let sequence = open.volume.header().sequence;
            // What cannot be passed over is read, and what has been handed on is known by its number.
            match self.last.get(&sequence).copied() {
                Some(last) => drop(open.volume.pass(|entry| entry.number > last)),
                None if resumed == Some(false) => {
                    let since = u64::try_from(self.since.as_microsecond()).unwrap_or(0);
                    drop(open.volume.pass(|entry| entry.micros >= since));
                }
                None => {}
            }
        }
        if resumed == Some(false) {
            // So that a restart before the next entry does not begin at the beginning.
            for open in &opened {
                if let Some(number) = open.volume.number() {
                    let last = self.last.entry(open.volume.header().sequence).or_insert(number);
                    *last = number.max(*last);
                }
            }
        }
        self.volumes.append(&mut opened);
        self.sort();
    }

    /// The file, if it is new.
    fn identify(&mut self, path: &Path) -> Result<Option<Open>, VolumeError> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // Renamed or deleted since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let identity = (metadata.dev(), metadata.ino());
        if let Some(open) = self.volumes.iter_mut().find(|open| open.identity == identity) {
            open.path = Some(path.to_owned());
            return Ok(None);
        }
        if metadata.len() < Volume::LEAST {
            // journald has made it, but not written its header yet.
            return Ok(None);
        }
        let volume = Volume::open(path)?;
        Ok(Some(Open { identity: volume.identity()?, path: Some(path.to_owned()), volume }))
    }

    /// Tells of sequences that begin later than we ended, and forgets those of which nothing is left.
    fn tell_gaps(&mut self, opened: &[Open], clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        self.last.retain(|sequence, last| {
            let headers = opened.iter().map(|open| open.volume.header());
            let head = headers.filter(|header| header.sequence == *sequence).map(|header| header.head).min();
            if head.is_none_or(|head| head > last.saturating_add(1)) {
                emit(notice(clocks, Flaw::Lost(None)));
            }
            head.is_some()
        });
    }

    /// By sequence, and within one by number. The clock only orders sequences: it can be set back.
    fn sort(&mut self) {
        let mut begun: BTreeMap<Id, u64> = BTreeMap::new();
        for open in &self.volumes {
            let header = open.volume.header();
            let begun = begun.entry(header.sequence).or_insert(u64::MAX);
            *begun = header.head_micros.min(*begun);
        }
        self.volumes.sort_by_key(|open| {
            let header = open.volume.header();
            (begun.get(&header.sequence).copied(), header.sequence, header.head)
        });
    }
}

/// The system's journal files: services do not write to the users' ones.
fn list(root: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for folder in FOLDERS {
        let Ok(machines) = fs::read_dir(root.join(folder)) else { continue };
        for machine in machines.flatten() {
            let Ok(files) = fs::read_dir(machine.path()) else { continue };
            for file in files.flatten() {
                let name = file.file_name();
                let ours = name.to_str().is_some_and(|name| {
                    name == LIVE
                        || name.starts_with("system@")
                            && (name.ends_with(".journal") || name.ends_with(".journal~"))
                });
                if ours && paths.len() < FILES {
                    paths.insert(file.path());
                }
            }
        }
    }
    paths
}

/// Whether the name says that nothing will be added. Such a name is never given twice: it holds the sequence,
/// the first number and the time.
fn is_archived(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name != LIVE)
}

/// A message of several lines is several lines.
fn hand_on(unit: &str, at: Timestamp, text: &str, emit: &mut impl FnMut(Signal<'_>)) {
    for line in text.lines() {
        emit(Signal::Line(Line { origin: Origin::Unit(Cow::Borrowed(unit)), at, text: Cow::Borrowed(line) }));
    }
}

fn notice(clocks: &Clocks, flaw: Flaw) -> Signal<'static> {
    Signal::Notice(Notice { log: Log::Journal, at: clocks.wall, flaw })
}

fn print_id(id: &Id) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn parse_id(text: &str) -> Option<Id> {
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests;
