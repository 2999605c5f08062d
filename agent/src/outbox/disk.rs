//! Runs disk operations on a thread of their own, with a limit on how long callers wait.
//!
//! A disk that stops responding blocks every caller, for minutes or forever. That is one of the problems that the
//! agent must report, so only this thread touches the disk, and no caller waits for it longer than `timeout`.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use super::{RecordClass, SpoolLosses, SpoolRecord, record, segment_queue::SegmentQueue, write_cursor};
use crate::durable;

#[derive(Debug)]
pub(super) enum SpoolRequest {
    Store(Vec<SpoolRecord>),
    Read { acked: u64, records: usize, bytes: usize },
    Ack(u64),
    StoreState(String),
}

#[derive(Debug)]
pub(super) enum SpoolResponse {
    /// The numbers of the stored records, and the error of the others.
    Stored(Vec<u64>, Option<io::Error>),
    Read(Vec<SpoolRecord>),
    Done(io::Result<()>),
}

/// The state of the spool directory after a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SpoolStatus {
    pub(super) waiting: u64,
    pub(super) losses: SpoolLosses,
}

/// The spool directory, as the thread uses it.
#[derive(Debug)]
pub(super) struct SpoolDirectory {
    pub(super) path: PathBuf,
    pub(super) limit: u64,
    pub(super) changes: SegmentQueue,
    pub(super) heartbeats: SegmentQueue,
    pub(super) losses: SpoolLosses,
    /// Locked for as long as the directory is in use.
    pub(super) _lock: File,
}

#[derive(Debug)]
pub(super) struct SpoolThread {
    requests: Option<Sender<SpoolRequest>>,
    responses: Receiver<(SpoolResponse, SpoolStatus)>,
    thread: Option<JoinHandle<()>>,
    /// Requests whose response has not arrived within `timeout`.
    overdue: usize,
    timeout: Duration,
    status: SpoolStatus,
}

impl SpoolThread {
    pub(super) fn start(directory: SpoolDirectory, timeout: Duration) -> io::Result<Self> {
        let (requests, received) = channel();
        let (responding, responses) = channel();
        let status = directory.status();
        let mut directory = directory;
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
            for request in received {
                let response = directory.response(request);
                if responding.send((response, directory.status())).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { requests: Some(requests), responses, thread: Some(thread), overdue: 0, timeout, status })
    }

    /// The status after the last response.
    pub(super) fn status(&self) -> SpoolStatus {
        self.status
    }

    /// Sends a request and waits for at most `timeout`. Late responses of earlier requests are pushed to `late`.
    pub(super) fn call(
        &mut self,
        request: SpoolRequest,
        late: &mut Vec<SpoolResponse>,
    ) -> io::Result<SpoolResponse> {
        self.catch_up(late);
        if self.overdue > 0 {
            return Err(unresponsive());
        }
        let gone = || io::Error::other("the spool's thread has ended");
        self.requests.as_ref().ok_or_else(gone)?.send(request).map_err(|_| gone())?;
        match self.responses.recv_timeout(self.timeout) {
            Ok((response, status)) => {
                self.status = status;
                Ok(response)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.overdue += 1;
                Err(unresponsive())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    fn catch_up(&mut self, late: &mut Vec<SpoolResponse>) {
        while self.overdue > 0
            && let Ok((response, status)) = self.responses.try_recv()
        {
            self.overdue -= 1;
            self.status = status;
            late.push(response);
        }
    }
}

impl Drop for SpoolThread {
    fn drop(&mut self) {
        self.requests = None;
        self.catch_up(&mut Vec::new());
        // After drop the directory is free, unless the disk hangs.
        if self.overdue == 0
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn unresponsive() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond")
}

impl SpoolDirectory {
    fn status(&self) -> SpoolStatus {
        SpoolStatus { waiting: self.changes.waiting() + self.heartbeats.waiting(), losses: self.losses }
    }

    fn queue(&mut self, class: RecordClass) -> &mut SegmentQueue {
        match class {
            RecordClass::Change => &mut self.changes,
            RecordClass::Heartbeat => &mut self.heartbeats,
        }
    }

    fn response(&mut self, request: SpoolRequest) -> SpoolResponse {
        match request {
            SpoolRequest::Store(records) => self.store(&records),
            SpoolRequest::Read { acked, records, bytes } => {
                let mut damaged = 0;
                let mut read = self.changes.read(acked, records, bytes, &mut damaged);
                read.extend(self.heartbeats.read(acked, records, bytes, &mut damaged));
                self.losses.damaged += damaged;
                SpoolResponse::Read(read)
            }
            SpoolRequest::Ack(acked) => {
                let acked_on_disk =
                    durable::replace(&self.path.join(super::CURSOR), write_cursor(acked).as_bytes());
                // Even if the cursor is not written: a record that is removed is not delivered again.
                let changes = self.changes.ack(acked);
                let heartbeats = self.heartbeats.ack(acked);
                SpoolResponse::Done(acked_on_disk.and(changes).and(heartbeats))
            }
            SpoolRequest::StoreState(text) => {
                SpoolResponse::Done(durable::replace(&self.path.join(super::STATE), text.as_bytes()))
            }
        }
    }

    fn store(&mut self, records: &[SpoolRecord]) -> SpoolResponse {
        let (mut stored, mut failure) = (Vec::new(), None);
        for class in [RecordClass::Change, RecordClass::Heartbeat] {
            let mine: VecDeque<&SpoolRecord> =
                records.iter().filter(|record| record.class == class).collect();
            let (Some(first), Some(last)) = (mine.front(), mine.back()) else {
                continue;
            };
            let mut encoded = Vec::new();
            for record in &mine {
                record::write(record.number, record.at, &record.text, &mut encoded);
            }
            match self.queue(class).append(&encoded, first.number, last.number, mine.len() as u64) {
                Ok(()) => stored.extend(mine.iter().map(|record| record.number)),
                Err(error) => failure = Some(error),
            }
        }
        self.make_room();
        SpoolResponse::Stored(stored, failure)
    }

    /// Drops the oldest segments until the spool fits its limit, heartbeats first.
    fn make_room(&mut self) {
        while self.changes.bytes() + self.heartbeats.bytes() > self.limit {
            if let Some(dropped) = self.heartbeats.drop_oldest() {
                self.losses.heartbeats += dropped;
            } else if let Some(dropped) = self.changes.drop_oldest() {
                self.losses.changes += dropped;
            } else {
                return;
            }
        }
    }
}
