//! Turns reports into records on disk that wait until a sink has taken them.
//!
//! Stored means synced: what [`Outbox::store`] took is still there after any crash. What a sink took is let go of by
//! number, so that a crash repeats at most what it had not acknowledged. Changes and heartbeats have files of their
//! own, for when room runs out heartbeats go first: each says again what changes have said.
//!
//! A disk that can't be written to is one of the things that an agent has to report. Records that can't be stored
//! are held in memory and delivered all the same.

mod frame;
mod lane;

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nodemend_domain::report::{Body, Report};

use self::lane::Lane;
use crate::durable;

/// So much waits in memory at most while the disk takes nothing.
const MAX_HELD_BYTES: usize = 1024 * 1024;
/// A full spool lets go of one segment at a time.
const SEGMENTS: u64 = 256;
const MIN_SEGMENT_BYTES: u64 = 4 * 1024;
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Records that wait.
    pub waiting: u64,
    /// Bytes of records that were cut off while they were written: nobody was told that they are stored.
    pub torn_bytes: u64,
    /// Damaged places.
    pub damaged: u64,
    /// The note of what was delivered can't be read: everything is delivered again.
    pub forgot: bool,
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
}

/// The reports that wait.
#[derive(Debug)]
pub struct Outbox {
    disk: Option<Disk>,
    held: VecDeque<Record>,
    limit: u64,
    next: u64,
    acked: u64,
    losses: Losses,
}

#[derive(Debug)]
struct Disk {
    cursor: PathBuf,
    changes: Lane,
    heartbeats: Lane,
    /// Held for as long as the outbox lives.
    _lock: File,
}

impl Disk {
    fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Change => &mut self.changes,
            Class::Heartbeat => &mut self.heartbeats,
        }
    }
}

impl Outbox {
    /// Opens the spool in a folder, with what an earlier run left in it.
    pub fn open(folder: &Path, limit: u64) -> Result<(Self, Recovered), OutboxError> {
        let failed = |source| OutboxError::Open { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OutboxError::InUse(folder.to_owned()),
            TryLockError::Error(source) => failed(source),
        })?;
        let cursor = folder.join("delivered");
        let acked = match fs::read_to_string(&cursor) {
            Ok(text) => read_cursor(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
            Err(_) => None,
        };
        let forgot = acked.is_none();
        let acked = acked.unwrap_or(0);
        let segment = (limit / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let (changes, found) = Lane::open(Class::Change, folder, segment, acked).map_err(failed)?;
        let (heartbeats, also) = Lane::open(Class::Heartbeat, folder, segment, acked).map_err(failed)?;
        let recovered = Recovered {
            waiting: changes.waiting() + heartbeats.waiting(),
            torn_bytes: found.torn + also.torn,
            damaged: found.damaged + also.damaged,
            forgot,
        };
        let outbox = Self {
            disk: Some(Disk { cursor, changes, heartbeats, _lock: lock }),
            held: VecDeque::new(),
            limit,
            next: found.last.max(also.last).max(acked) + 1,
            acked,
            losses: Losses { damaged: recovered.damaged, ..Losses::default() },
        };
        Ok((outbox, recovered))
    }

    /// An outbox for a node whose disk can't be used at all.
    pub fn in_memory() -> Self {
        Self { disk: None, held: VecDeque::new(), limit: 0, next: 1, acked: 0, losses: Losses::default() }
    }

    /// Stores reports. After an error they wait as well, but in memory.
    pub fn store(&mut self, reports: &[Report<'_>]) -> Result<(), OutboxError> {
        let records: Vec<Record> = reports
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
        let mut failure = None;
        for class in [Class::Change, Class::Heartbeat] {
            let mine = || records.iter().filter(|record| record.class == class);
            let (Some(first), Some(last)) = (mine().next(), mine().next_back()) else {
                continue;
            };
            let stored = match &mut self.disk {
                None => None,
                Some(disk) => {
                    let mut frames = Vec::new();
                    for record in mine() {
                        frame::write(record.number, record.at, &record.text, &mut frames);
                    }
                    let number = mine().count() as u64;
                    Some(disk.lane(class).append(&frames, first.number, last.number, number))
                }
            };
            match stored {
                Some(Ok(())) => continue,
                Some(Err(error)) => failure = Some((mine().count() + failure.map_or(0, |(n, _)| n), error)),
                None => {}
            }
            self.held.extend(mine().cloned());
        }
        self.make_room();
        match failure {
            Some((number, source)) => Err(OutboxError::Store { number, source }),
            None => Ok(()),
        }
    }

    /// Lets go of the oldest until everything fits: heartbeats first.
    fn make_room(&mut self) {
        while self.held.iter().map(|record| record.text.len()).sum::<usize>() > MAX_HELD_BYTES {
            let place = self.held.iter().position(|record| record.class == Class::Heartbeat).unwrap_or(0);
            match self.held.remove(place).map(|record| record.class) {
                Some(Class::Heartbeat) => self.losses.heartbeats += 1,
                Some(Class::Change) => self.losses.changes += 1,
                None => return,
            }
        }
        let Some(disk) = &mut self.disk else {
            return;
        };
        while disk.changes.bytes() + disk.heartbeats.bytes() > self.limit {
            if let Some(dropped) = disk.heartbeats.drop_oldest() {
                self.losses.heartbeats += dropped;
            } else if let Some(dropped) = disk.changes.drop_oldest() {
                self.losses.changes += dropped;
            } else {
                return;
            }
        }
    }

    /// The oldest records that wait, in the order of their numbers: so many, and as few more bytes as may be.
    pub fn peek(&mut self, records: usize, bytes: usize) -> Vec<Record> {
        let mut waiting: Vec<Record> = self.held.iter().take(records).cloned().collect();
        if let Some(disk) = &mut self.disk {
            for class in [Class::Change, Class::Heartbeat] {
                let damaged = &mut self.losses.damaged;
                waiting.extend(disk.lane(class).read(self.acked, records, bytes, damaged));
            }
        }
        waiting.sort_by_key(|record| record.number);
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
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        let noted = durable::replace(&disk.cursor, write_cursor(self.acked).as_bytes());
        // Even without the note: what is gone from the disk is not delivered again.
        let changes = disk.changes.ack(self.acked);
        let heartbeats = disk.heartbeats.ack(self.acked);
        noted.and(changes).and(heartbeats).map_err(OutboxError::Ack)
    }

    /// How many records wait.
    pub fn waiting(&self) -> u64 {
        let disk = self.disk.as_ref().map_or(0, |disk| disk.changes.waiting() + disk.heartbeats.waiting());
        disk + self.held.len() as u64
    }

    /// What was lost since it was opened.
    pub fn losses(&self) -> Losses {
        self.losses
    }
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
