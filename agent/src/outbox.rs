//! Turns reports into records on disk that wait until a sink has taken them.
//!
//! Stored means synced: what [`Outbox::store`] took is still there after any crash. What a sink took is let go of by
//! number, so that a crash repeats at most what it had not acknowledged. Changes and heartbeats have files of their
//! own, for when room runs out heartbeats go first: each says again what changes have said.
//!
//! A disk that can't be written to is one of the things that an agent has to report. Records that can't be stored
//! are held in memory and delivered all the same.

mod disk;
#[doc(hidden)]
pub mod frame;
mod lane;

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use nodemend_domain::report::{Body, Report};

use self::{
    disk::{Answer, Disk, Folder, Request},
    lane::Lane,
};

/// So much waits in memory at most while the disk takes nothing.
const MAX_HELD_BYTES: usize = 1024 * 1024;
/// A full spool lets go of one segment at a time.
const SEGMENTS: u64 = 256;
const MIN_SEGMENT_BYTES: u64 = 4 * 1024;
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024;

/// How long a disk may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The file that says what is delivered.
const CURSOR: &str = "delivered";
/// The file that holds what [`Outbox::remember`] was given.
const STATE: &str = "state";
/// A state is a few kilobytes: more is read of none.
const MAX_STATE_BYTES: u64 = 16 * 1024 * 1024;

/// What a record is worth when room runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A condition or an event: told once, or seldom again.
    Change,
    /// Told again in five minutes.
    Heartbeat,
}

/// A report that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Rises by one a record, for as long as the spool lives.
    pub number: u64,
    /// What it is worth.
    pub class: Class,
    /// When the report was written, by the node's clock.
    pub at: Timestamp,
    /// The report: one line of JSON.
    pub text: String,
}

/// What was lost, since this outbox was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Heartbeats that went for lack of room.
    pub heartbeats: u64,
    /// Changes that went for lack of room, when no heartbeat was left to go.
    pub changes: u64,
    /// Damaged places, or records that an unreadable file held.
    pub damaged: u64,
}

/// What an earlier run left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Records that wait.
    pub waiting: u64,
    /// Bytes of records that were cut off while they were written: nobody was told that they are stored.
    pub torn_bytes: u64,
    /// Damaged places.
    pub damaged: u64,
    /// The note of what was delivered can't be read: everything is delivered again.
    pub forgot: bool,
    /// What [`Outbox::remember`] was given last.
    pub state: Option<String>,
}

/// Why the outbox can't do what it should.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The spool's folder can't be used.
    #[error("failed to open the spool {}: {source}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("the spool {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// The disk took nothing; the records are held in memory.
    #[error("failed to store {number} reports, they are held in memory: {source}")]
    Store {
        /// How many.
        number: usize,
        /// Why.
        source: io::Error,
    },
    /// What was delivered may be delivered again after a restart.
    #[error("failed to note what was delivered: {0}")]
    Ack(io::Error),
    /// The next start goes on from an older state.
    #[error("failed to store the state: {0}")]
    Remember(io::Error),
}

/// The reports that wait.
#[derive(Debug)]
pub struct Outbox {
    disk: Option<Disk>,
    held: VecDeque<Record>,
    next: u64,
    acked: u64,
    /// Up to which number the disk knows what is delivered.
    noted: u64,
    /// What memory lost.
    losses: Losses,
}

impl Outbox {
    /// Opens the spool in a folder, with what an earlier run left in it.
    pub fn open(folder: &Path, limit: u64) -> Result<(Self, Recovered), OutboxError> {
        Self::open_with(folder, limit, PATIENCE)
    }

    /// The same with another patience.
    pub fn open_with(path: &Path, limit: u64, patience: Duration) -> Result<(Self, Recovered), OutboxError> {
        let failed = |source| OutboxError::Open { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OutboxError::InUse(path.to_owned()),
            TryLockError::Error(source) => failed(source),
        })?;
        let acked = match fs::read_to_string(path.join(CURSOR)) {
            Ok(text) => read_cursor(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
            Err(_) => None,
        };
        let forgot = acked.is_none();
        let acked = acked.unwrap_or(0);
        let segment = (limit / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let (changes, found) = Lane::open(Class::Change, path, segment, acked).map_err(failed)?;
        let (heartbeats, also) = Lane::open(Class::Heartbeat, path, segment, acked).map_err(failed)?;
        let recovered = Recovered {
            waiting: changes.waiting() + heartbeats.waiting(),
            torn_bytes: found.torn + also.torn,
            damaged: found.damaged + also.damaged,
            forgot,
            state: read_state(path),
        };
        let losses = Losses { damaged: recovered.damaged, ..Losses::default() };
        let folder = Folder { path: path.to_owned(), limit, changes, heartbeats, losses, _lock: lock };
        let disk = Disk::start(folder, patience).map_err(failed)?;
        let next = found.last.max(also.last).max(acked) + 1;
        let outbox = Self { disk: Some(disk), next, acked, noted: acked, ..Self::in_memory() };
        Ok((outbox, recovered))
    }

    /// An outbox for a node whose disk can't be used at all.
    pub fn in_memory() -> Self {
        Self { disk: None, held: VecDeque::new(), next: 1, acked: 0, noted: 0, losses: Losses::default() }
    }

    /// Stores reports. After an error they wait as well, but in memory.
    pub fn store(&mut self, reports: &[Report<'_>]) -> Result<(), OutboxError> {
        if reports.is_empty() {
            return Ok(());
        }
        let mut records: Vec<Record> = reports
            .iter()
            .map(|report| {
                let class = match report.body {
                    Body::Heartbeat(_) => Class::Heartbeat,
                    Body::Condition(_) | Body::Event { .. } => Class::Change,
                };
                self.next += 1;
                Record { number: self.next - 1, class, at: report.at, text: report.encode() }
            })
            .collect();
        let failure = match self.ask(Request::Store(records.clone())) {
            None => None,
            Some(Ok(Answer::Stored(stored, failure))) => {
                records.retain(|record| !stored.contains(&record.number));
                failure
            }
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error),
        };
        let number = records.len();
        self.held.extend(records);
        self.bound_memory();
        failure.map_or(Ok(()), |source| Err(OutboxError::Store { number, source }))
    }

    /// Keeps a text beside the reports: the next [`open`](Self::open) finds it, the last one that was stored.
    pub fn remember(&mut self, text: String) -> Result<(), OutboxError> {
        self.done(Request::Remember(text)).map_err(OutboxError::Remember)
    }

    fn done(&mut self, request: Request) -> io::Result<()> {
        match self.ask(request) {
            Some(Ok(Answer::Done(outcome))) => outcome,
            Some(Ok(_)) | None => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Asks the disk; none if there is none.
    fn ask(&mut self, request: Request) -> Option<io::Result<Answer>> {
        let mut late = Vec::new();
        let answer = self.disk.as_mut()?.ask(request, &mut late);
        for answer in late {
            // What the disk took in the end need not be held.
            if let Answer::Stored(stored, _) = answer {
                self.held.retain(|record| !stored.contains(&record.number));
            }
        }
        Some(answer)
    }

    fn bound_memory(&mut self) {
        while self.held.iter().map(|record| record.text.len()).sum::<usize>() > MAX_HELD_BYTES {
            let place = self.held.iter().position(|record| record.class == Class::Heartbeat).unwrap_or(0);
            match self.held.remove(place).map(|record| record.class) {
                Some(Class::Heartbeat) => self.losses.heartbeats += 1,
                Some(Class::Change) => self.losses.changes += 1,
                None => return,
            }
        }
    }

    /// The oldest records that wait, in the order of their numbers: so many, and as few more bytes as may be.
    pub fn peek(&mut self, records: usize, bytes: usize) -> Vec<Record> {
        if self.noted < self.acked && self.done(Request::Ack(self.acked)).is_ok() {
            self.noted = self.acked;
        }
        let mut waiting = match self.ask(Request::Read { acked: self.acked, records, bytes }) {
            Some(Ok(Answer::Read(read))) => read,
            _ => Vec::new(),
        };
        waiting.extend(self.held.iter().take(records).cloned());
        waiting.sort_by_key(|record| record.number);
        waiting.dedup_by_key(|record| record.number);
        let mut size = 0;
        let fits = waiting.iter().take(records).take_while(|record| {
            let fits = size < bytes;
            size += record.text.len();
            fits
        });
        let number = fits.count();
        waiting.truncate(number);
        waiting
    }

    /// Lets go of everything up to this number: it is delivered, or never will be.
    pub fn ack(&mut self, number: u64) -> Result<(), OutboxError> {
        if number <= self.acked {
            return Ok(());
        }
        self.acked = number.min(self.next - 1);
        self.held.retain(|record| record.number > number);
        self.done(Request::Ack(self.acked)).map_err(OutboxError::Ack)?;
        self.noted = self.acked;
        Ok(())
    }

    /// How many records wait; while the disk hangs, as far as is known.
    pub fn waiting(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.standing().waiting) + self.held.len() as u64
    }

    /// What was lost since it was opened.
    pub fn losses(&self) -> Losses {
        let disk = self.disk.as_ref().map_or(Losses::default(), |disk| disk.standing().losses);
        Losses {
            heartbeats: disk.heartbeats + self.losses.heartbeats,
            changes: disk.changes + self.losses.changes,
            damaged: disk.damaged,
        }
    }
}

fn read_state(folder: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(folder.join(STATE)).ok()?.take(MAX_STATE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `1 <number> <checksum of the number>`: a note that is half written or damaged must not let go of anything.
fn write_cursor(acked: u64) -> String {
    format!("1 {acked} {:08x}\n", crc32fast::hash(acked.to_string().as_bytes()))
}

fn read_cursor(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let (version, acked, sum) = (words.next()?, words.next()?, words.next()?);
    let number: u64 = acked.parse().ok()?;
    let sound = version == "1" && u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(acked.as_bytes());
    sound.then_some(number)
}
