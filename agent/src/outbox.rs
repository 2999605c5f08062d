//! A durable queue of reports that wait for the sink.
//!
//! Stored means synced: a report that [`Outbox::store`] stored survives any crash. Delivered reports are removed by
//! number, so a crash repeats at most what was not acknowledged. Condition and event reports have other files than
//! heartbeats: when space runs out, heartbeats are dropped first, because each repeats what earlier reports contain.
//!
//! A disk that cannot be written is one of the problems that the agent must report. Records that cannot be stored
//! stay in memory and are delivered from there.

mod disk;
#[doc(hidden)]
pub mod record;
mod segment_queue;

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
    disk::{SpoolDirectory, SpoolRequest, SpoolResponse, SpoolThread},
    segment_queue::SegmentQueue,
};

/// The maximum size of the records in memory while the disk accepts no writes.
const MAX_HELD_BYTES: usize = 1024 * 1024;
/// A full spool drops one segment at a time.
const SEGMENTS: u64 = 256;
const MIN_SEGMENT_BYTES: u64 = 4 * 1024;
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024;

/// How long the agent waits for a disk operation.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The file that records up to which number reports were delivered.
const CURSOR: &str = "delivered";
/// The file of the text that [`Outbox::store_state`] stored.
const STATE: &str = "state";
/// The state is a few kilobytes; no more than this is read.
const MAX_STATE_BYTES: u64 = 16 * 1024 * 1024;

/// The priority of a record when space runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordClass {
    /// A condition or an event report: sent once, or seldom repeated.
    Change,
    /// A heartbeat report: repeated after five minutes.
    Heartbeat,
}

/// A report that waits for delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolRecord {
    /// Increases by one a record, for the lifetime of the spool.
    pub number: u64,
    pub class: RecordClass,
    /// The time when the report was written, by the node's clock.
    pub at: Timestamp,
    /// The report: one line of JSON.
    pub text: String,
}

/// Losses since this outbox was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolLosses {
    /// Heartbeats dropped because the spool was full.
    pub heartbeats: u64,
    /// Condition and event reports dropped because the spool was full and had no heartbeats left.
    pub changes: u64,
    /// Damaged sections of segments, or records in an unreadable segment.
    pub damaged: u64,
}

/// What an earlier process left in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpoolRecovery {
    /// Records that wait for delivery.
    pub waiting: u64,
    /// Bytes of incomplete records at the end of segments; they were never acknowledged as stored.
    pub torn_bytes: u64,
    /// Damaged sections of segments.
    pub damaged: u64,
    /// Whether the file of delivered numbers is unreadable: then every record is delivered again.
    pub cursor_lost: bool,
    /// The text that [`Outbox::store_state`] stored last.
    pub state: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The spool directory cannot be used.
    #[error("failed to open the spool {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the spool {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// The write failed; the records stay in memory.
    #[error("failed to store {number} reports, which stay in memory: {source}")]
    Store {
        /// The number of records that were not stored.
        number: usize,
        source: io::Error,
    },
    /// Delivered reports may be delivered again after a restart.
    #[error("failed to record the delivered reports: {0}")]
    Ack(io::Error),
    /// After a restart, the agent continues from an older state.
    #[error("failed to store the state: {0}")]
    StoreState(io::Error),
}

/// The reports that wait for delivery.
#[derive(Debug)]
pub struct Outbox {
    disk: Option<SpoolThread>,
    unstored: VecDeque<SpoolRecord>,
    next: u64,
    acked: u64,
    /// The last number that the disk's cursor is known to have.
    acked_on_disk: u64,
    /// Losses of records in memory.
    losses: SpoolLosses,
}

impl Outbox {
    /// Opens the spool in a directory, with what an earlier process left in it.
    pub fn open(directory: &Path, limit: u64) -> Result<(Self, SpoolRecovery), OutboxError> {
        Self::open_with_timeout(directory, limit, TIMEOUT)
    }

    /// Like [`open`](Self::open), with another limit on how long a disk operation may take.
    pub fn open_with_timeout(
        path: &Path,
        limit: u64,
        timeout: Duration,
    ) -> Result<(Self, SpoolRecovery), OutboxError> {
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
        let cursor_lost = acked.is_none();
        let acked = acked.unwrap_or(0);
        let segment = (limit / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let (changes, found) =
            SegmentQueue::open(RecordClass::Change, path, segment, acked).map_err(failed)?;
        let (heartbeats, also) =
            SegmentQueue::open(RecordClass::Heartbeat, path, segment, acked).map_err(failed)?;
        let recovered = SpoolRecovery {
            waiting: changes.waiting() + heartbeats.waiting(),
            torn_bytes: found.torn + also.torn,
            damaged: found.damaged + also.damaged,
            cursor_lost,
            state: read_state(path),
        };
        let losses = SpoolLosses { damaged: recovered.damaged, ..SpoolLosses::default() };
        let directory =
            SpoolDirectory { path: path.to_owned(), limit, changes, heartbeats, losses, _lock: lock };
        let disk = SpoolThread::start(directory, timeout).map_err(failed)?;
        let next = found.last.max(also.last).max(acked) + 1;
        let outbox = Self { disk: Some(disk), next, acked, acked_on_disk: acked, ..Self::in_memory() };
        Ok((outbox, recovered))
    }

    /// An outbox in memory only, for a node whose disk cannot be used.
    pub fn in_memory() -> Self {
        Self {
            disk: None,
            unstored: VecDeque::new(),
            next: 1,
            acked: 0,
            acked_on_disk: 0,
            losses: SpoolLosses::default(),
        }
    }

    /// Stores reports. Reports that an error names are in memory and still wait for delivery.
    pub fn store(&mut self, reports: &[Report<'_>]) -> Result<(), OutboxError> {
        if reports.is_empty() {
            return Ok(());
        }
        let mut records: Vec<SpoolRecord> = reports
            .iter()
            .map(|report| {
                let class = match report.body {
                    Body::Heartbeat(_) => RecordClass::Heartbeat,
                    Body::Condition(_) | Body::Event { .. } => RecordClass::Change,
                };
                self.next += 1;
                SpoolRecord { number: self.next - 1, class, at: report.at, text: report.encode() }
            })
            .collect();
        let failure = match self.call(SpoolRequest::Store(records.clone())) {
            None => None,
            Some(Ok(SpoolResponse::Stored(stored, failure))) => {
                records.retain(|record| !stored.contains(&record.number));
                failure
            }
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error),
        };
        let number = records.len();
        self.unstored.extend(records);
        self.bound_memory();
        failure.map_or(Ok(()), |source| Err(OutboxError::Store { number, source }))
    }

    /// Stores a text beside the reports. The next [`open`](Self::open) returns the last one that was stored.
    pub fn store_state(&mut self, text: String) -> Result<(), OutboxError> {
        self.done(SpoolRequest::StoreState(text)).map_err(OutboxError::StoreState)
    }

    fn done(&mut self, request: SpoolRequest) -> io::Result<()> {
        match self.call(request) {
            Some(Ok(SpoolResponse::Done(outcome))) => outcome,
            Some(Ok(_)) | None => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Sends a request to the disk thread; `None` without a disk.
    fn call(&mut self, request: SpoolRequest) -> Option<io::Result<SpoolResponse>> {
        let mut late = Vec::new();
        let response = self.disk.as_mut()?.call(request, &mut late);
        for response in late {
            // A write that completed late need not stay in memory.
            if let SpoolResponse::Stored(stored, _) = response {
                self.unstored.retain(|record| !stored.contains(&record.number));
            }
        }
        Some(response)
    }

    fn bound_memory(&mut self) {
        while self.unstored.iter().map(|record| record.text.len()).sum::<usize>() > MAX_HELD_BYTES {
            let index =
                self.unstored.iter().position(|record| record.class == RecordClass::Heartbeat).unwrap_or(0);
            match self.unstored.remove(index).map(|record| record.class) {
                Some(RecordClass::Heartbeat) => self.losses.heartbeats += 1,
                Some(RecordClass::Change) => self.losses.changes += 1,
                None => return,
            }
        }
    }

    /// The oldest waiting records in the order of their numbers: at most `records`, until their size reaches `bytes`.
    pub fn peek(&mut self, records: usize, bytes: usize) -> Vec<SpoolRecord> {
        if self.acked_on_disk < self.acked && self.done(SpoolRequest::Ack(self.acked)).is_ok() {
            self.acked_on_disk = self.acked;
        }
        let mut waiting = match self.call(SpoolRequest::Read { acked: self.acked, records, bytes }) {
            Some(Ok(SpoolResponse::Read(read))) => read,
            _ => Vec::new(),
        };
        waiting.extend(self.unstored.iter().take(records).cloned());
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

    /// Removes all records up to this number: they were delivered, or never will be.
    pub fn ack(&mut self, number: u64) -> Result<(), OutboxError> {
        if number <= self.acked {
            return Ok(());
        }
        self.acked = number.min(self.next - 1);
        self.unstored.retain(|record| record.number > number);
        self.done(SpoolRequest::Ack(self.acked)).map_err(OutboxError::Ack)?;
        self.acked_on_disk = self.acked;
        Ok(())
    }

    /// The number of waiting records; while the disk hangs, the last known number.
    pub fn waiting(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.status().waiting) + self.unstored.len() as u64
    }

    /// Losses since the outbox was opened.
    pub fn losses(&self) -> SpoolLosses {
        let disk = self.disk.as_ref().map_or(SpoolLosses::default(), |disk| disk.status().losses);
        SpoolLosses {
            heartbeats: disk.heartbeats + self.losses.heartbeats,
            changes: disk.changes + self.losses.changes,
            damaged: disk.damaged,
        }
    }
}

fn read_state(directory: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(directory.join(STATE)).ok()?.take(MAX_STATE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `1 <number> <checksum of the number>`: an incomplete or damaged cursor must not remove any record.
fn write_cursor(acked: u64) -> String {
    format!("1 {acked} {:08x}\n", crc32fast::hash(acked.to_string().as_bytes()))
}

fn read_cursor(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let (version, acked, sum) = (words.next()?, words.next()?, words.next()?);
    let number: u64 = acked.parse().ok()?;
    let valid = version == "1" && u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(acked.as_bytes());
    valid.then_some(number)
}
