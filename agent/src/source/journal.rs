//! Reads the systemd journal: the messages of some units, across rotations and restarts.
//!
//! The files are read directly (ADR 32). journald numbers the entries of all its files in one sequence. The last number
//! that was emitted is therefore the whole position, whatever files were created, renamed or deleted since, and however
//! the clock changed.

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
    format::SequenceId,
    journal_file::{EntryResult, JournalFile, JournalFileError},
};
use super::{Clocks, Gap, GapNotice, LogKind, Progress, Signal};
use crate::signal::{LogLine, Origin};

mod format;
mod journal_file;
mod payload;

/// The directories of persistent and volatile journals.
const DIRECTORIES: [&str; 2] = ["var/log/journal", "run/log/journal"];
/// The maximum number of entries in one poll.
const BATCH: usize = 8192;
/// The maximum number of files; journald has at most 100 by default.
const FILES: usize = 512;
/// The file that journald writes to; archived files are renamed.
const LIVE: &str = "system.journal";

/// The position in the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JournalPosition {
    /// The last number of each sequence that still has files, by the sequence's ID in hexadecimal.
    pub sequences: BTreeMap<String, u64>,
}

/// A reader of the systemd journal.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    units: Vec<Box<str>>,
    /// Where the first start begins.
    since: Timestamp,
    last: BTreeMap<SequenceId, u64>,
    /// Whether a position was given; `None` after the first journal file was found.
    resumed: Option<bool>,
    open_files: Vec<OpenFile>,
    /// Archived files that were read to their end. Their names are never reused.
    done: HashSet<PathBuf>,
    /// Files whose read error was reported already.
    failed: HashSet<PathBuf>,
}

/// A file that is being read.
#[derive(Debug)]
struct OpenFile {
    identity: (u64, u64),
    /// The last known path; `None` if it was deleted.
    path: Option<PathBuf>,
    file: JournalFile,
}

impl OpenFile {
    /// Whether everything was read and nothing will be appended. An open file may be renamed at any time, so the path
    /// is the one from before the last read.
    fn is_over(&self) -> bool {
        self.file.is_drained() && self.path.as_deref().is_none_or(is_archived)
    }
}

impl Journal {
    /// Follows the messages of these units in the journal under `root`, after `position`; without one, from the first
    /// entry that is not older than `since`.
    ///
    /// A unit's messages are those of its processes, and those of systemd about the unit.
    pub fn new(root: &Path, units: &[&str], since: Timestamp, position: Option<&JournalPosition>) -> Self {
        let last = position.iter().flat_map(|position| &position.sequences);
        Self {
            root: root.to_owned(),
            units: units.iter().map(|unit| Box::from(*unit)).collect(),
            since,
            last: last.filter_map(|(id, number)| Some((parse_id(id)?, *number))).collect(),
            resumed: Some(position.is_some()),
            open_files: Vec::new(),
            done: HashSet::new(),
            failed: HashSet::new(),
        }
    }

    /// The position; `None` if no journal was found yet.
    pub fn position(&self) -> Option<JournalPosition> {
        if self.resumed == Some(false) {
            return None;
        }
        Some(JournalPosition {
            sequences: self.last.iter().map(|(id, number)| (print_id(id), *number)).collect(),
        })
    }

    /// The number of journal files. Without any, no messages are read.
    pub fn files(&self) -> usize {
        self.open_files.len() + self.done.len()
    }

    /// Emits new messages, at most a batch.
    pub fn poll(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) -> Progress {
        self.find(clocks, emit);
        let mut budget = BATCH;
        let mut unreadable = 0;
        // Oldest file first, each to its end before the next: numbers only increase within a sequence.
        for open in &mut self.open_files {
            if open.file.refresh().is_err() {
                unreadable += open.file.abandon().max(1);
            }
            let sequence = open.file.header().sequence;
            while budget > 0 {
                let result = open.file.next_entry(&self.units);
                if result == EntryResult::End {
                    break;
                }
                budget -= 1;
                let last = self.last.get(&sequence).copied();
                let number = open.file.number();
                let seen_before = number.is_some_and(|number| last.is_some_and(|last| number <= last));
                if let Some(number) = number.filter(|_| !seen_before) {
                    self.last.insert(sequence, number);
                }
                match result {
                    EntryResult::Message { unit, micros, text, truncated } if !seen_before => {
                        let at =
                            i64::try_from(micros).ok().and_then(|at| Timestamp::from_microsecond(at).ok());
                        emit_lines(&self.units[unit], at.unwrap_or(clocks.wall), &text, emit);
                        if truncated {
                            emit(notice(clocks, Gap::Truncated));
                        }
                    }
                    EntryResult::Unreadable(count) => unreadable += count,
                    EntryResult::Message { .. } | EntryResult::Other | EntryResult::End => {}
                }
            }
        }
        if unreadable > 0 {
            emit(notice(clocks, Gap::Unreadable(unreadable)));
        }
        for open in self.open_files.extract_if(.., |open| open.is_over()) {
            self.done.extend(open.path);
        }
        if budget == 0 { Progress::More } else { Progress::Drained }
    }

    /// Opens new files, and updates the paths of renamed and deleted ones.
    fn find(&mut self, clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        let paths = list(&self.root);
        self.done.retain(|path| paths.contains(path));
        self.failed.retain(|path| paths.contains(path));
        for open in &mut self.open_files {
            open.path = None;
        }
        let mut opened = Vec::new();
        for path in paths {
            if self.done.contains(&path) {
                continue;
            }
            match self.identify(&path) {
                Ok(file) => {
                    self.failed.remove(&path);
                    opened.extend(file);
                }
                Err(_) => {
                    if self.failed.insert(path) {
                        emit(notice(clocks, Gap::Unreadable(1)));
                    }
                }
            }
        }
        if opened.is_empty() {
            return;
        }
        let resumed = self.resumed.take();
        if resumed == Some(true) {
            self.report_gaps(&opened, clocks, emit);
        }
        for open in &mut opened {
            let sequence = open.file.header().sequence;
            // Entries that cannot be skipped are read; those that were emitted already are recognized by their
            // number.
            match self.last.get(&sequence).copied() {
                Some(last) => drop(open.file.skip(|entry| entry.number > last)),
                None if resumed == Some(false) => {
                    let since = u64::try_from(self.since.as_microsecond()).unwrap_or(0);
                    drop(open.file.skip(|entry| entry.micros >= since));
                }
                None => {}
            }
        }
        if resumed == Some(false) {
            // So that a restart before the next entry does not start at the beginning.
            for open in &opened {
                if let Some(number) = open.file.number() {
                    let last = self.last.entry(open.file.header().sequence).or_insert(number);
                    *last = number.max(*last);
                }
            }
        }
        self.open_files.append(&mut opened);
        self.sort();
    }

    /// Opens a file if it is new.
    fn identify(&mut self, path: &Path) -> Result<Option<OpenFile>, JournalFileError> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // Renamed or deleted after the listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let identity = (metadata.dev(), metadata.ino());
        if let Some(open) = self.open_files.iter_mut().find(|open| open.identity == identity) {
            open.path = Some(path.to_owned());
            return Ok(None);
        }
        if metadata.len() < JournalFile::MIN_BYTES {
            // journald has created it, but not written its header yet.
            return Ok(None);
        }
        let file = JournalFile::open(path)?;
        Ok(Some(OpenFile { identity: file.identity()?, path: Some(path.to_owned()), file }))
    }

    /// Reports sequences that start after the position, and removes sequences without files.
    fn report_gaps(&mut self, opened: &[OpenFile], clocks: &Clocks, emit: &mut impl FnMut(Signal<'_>)) {
        self.last.retain(|sequence, last| {
            let headers = opened.iter().map(|open| open.file.header());
            let head = headers.filter(|header| header.sequence == *sequence).map(|header| header.head).min();
            if head.is_none_or(|head| head > last.saturating_add(1)) {
                emit(notice(clocks, Gap::Lost(None)));
            }
            head.is_some()
        });
    }

    /// Sorts by sequence, and within a sequence by number. The clock orders only the sequences, since it can be set
    /// back.
    fn sort(&mut self) {
        let mut begun: BTreeMap<SequenceId, u64> = BTreeMap::new();
        for open in &self.open_files {
            let header = open.file.header();
            let begun = begun.entry(header.sequence).or_insert(u64::MAX);
            *begun = header.head_micros.min(*begun);
        }
        self.open_files.sort_by_key(|open| {
            let header = open.file.header();
            (begun.get(&header.sequence).copied(), header.sequence, header.head)
        });
    }
}

/// The system's journal files. Services do not write to users' journals.
fn list(root: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for directory in DIRECTORIES {
        let Ok(machines) = fs::read_dir(root.join(directory)) else { continue };
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

/// Whether the name is that of an archived file, to which nothing is appended. Such a name is never reused: it
/// contains the sequence, the first number and the time.
fn is_archived(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name != LIVE)
}

/// Each line of a message is a line.
fn emit_lines(unit: &str, at: Timestamp, text: &str, emit: &mut impl FnMut(Signal<'_>)) {
    for line in text.lines() {
        emit(Signal::Line(LogLine {
            origin: Origin::Unit(Cow::Borrowed(unit)),
            at,
            text: Cow::Borrowed(line),
        }));
    }
}

fn notice(clocks: &Clocks, gap: Gap) -> Signal<'static> {
    Signal::GapNotice(GapNotice { log: LogKind::Journal, at: clocks.wall, gap })
}

fn print_id(id: &SequenceId) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn parse_id(text: &str) -> Option<SequenceId> {
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests;
