//! Turns what is asked of the spool's folder into answers that come in time, or not at all.
//!
//! A volume that stops answering blocks whoever touches it, for minutes or for good. It is one of the things that an
//! agent is there to report, so all that touches the disk is done on a thread that may hang, and nobody waits for it
//! longer than the patience allows.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use super::{Class, Losses, Record, frame, lane::Lane, write_cursor};
use crate::durable;

/// What is asked.
#[derive(Debug)]
pub(super) enum Request {
    Store(Vec<Record>),
    Read { acked: u64, records: usize, bytes: usize },
    Ack(u64),
    Remember(String),
}

/// What comes of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// The numbers of those that are stored, and why the others are not.
    Stored(Vec<u64>, Option<io::Error>),
    Read(Vec<Record>),
    Done(io::Result<()>),
}

/// How it stands with the folder.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub(super) waiting: u64,
    pub(super) losses: Losses,
}

/// The folder, as the thread has it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) limit: u64,
    pub(super) changes: Lane,
    pub(super) heartbeats: Lane,
    pub(super) losses: Losses,
    /// Held for as long as the folder is used.
    pub(super) _lock: File,
}

/// The thread, as others have it.
#[derive(Debug)]
pub(super) struct Disk {
    requests: Option<Sender<Request>>,
    answers: Receiver<(Answer, Standing)>,
    thread: Option<JoinHandle<()>>,
    /// Answers that nobody waited for.
    owed: usize,
    patience: Duration,
    standing: Standing,
}

impl Disk {
    /// Begins to answer.
    pub(super) fn start(folder: Folder, patience: Duration) -> io::Result<Self> {
        let (requests, asked) = channel();
        let (answering, answers) = channel();
        let standing = folder.standing();
        let mut folder = folder;
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
            for request in asked {
                let answer = folder.answer(request);
                if answering.send((answer, folder.standing())).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { requests: Some(requests), answers, thread: Some(thread), owed: 0, patience, standing })
    }

    /// How it stood when the last answer came.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Asks, and waits for as long as the patience lasts. Answers that come late are put into `late`.
    pub(super) fn ask(&mut self, request: Request, late: &mut Vec<Answer>) -> io::Result<Answer> {
        self.catch_up(late);
        if self.owed > 0 {
            return Err(stuck());
        }
        let gone = || io::Error::other("the spool's thread has ended");
        self.requests.as_ref().ok_or_else(gone)?.send(request).map_err(|_| gone())?;
        match self.answers.recv_timeout(self.patience) {
            Ok((answer, standing)) => {
                self.standing = standing;
                Ok(answer)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.owed += 1;
                Err(stuck())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    fn catch_up(&mut self, late: &mut Vec<Answer>) {
        while self.owed > 0
            && let Ok((answer, standing)) = self.answers.try_recv()
        {
            self.owed -= 1;
            self.standing = standing;
            late.push(answer);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.requests = None;
        self.catch_up(&mut Vec::new());
        // The folder is free when this returns, unless the disk hangs.
        if self.owed == 0
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn stuck() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")
}

impl Folder {
    fn standing(&self) -> Standing {
        Standing { waiting: self.changes.waiting() + self.heartbeats.waiting(), losses: self.losses }
    }

    fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Change => &mut self.changes,
            Class::Heartbeat => &mut self.heartbeats,
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Store(records) => self.store(&records),
            Request::Read { acked, records, bytes } => {
                let mut damaged = 0;
                let mut read = self.changes.read(acked, records, bytes, &mut damaged);
                read.extend(self.heartbeats.read(acked, records, bytes, &mut damaged));
                self.losses.damaged += damaged;
                Answer::Read(read)
            }
            Request::Ack(acked) => {
                let noted = durable::replace(&self.path.join(super::CURSOR), write_cursor(acked).as_bytes());
                // Even without the note: what is gone from the disk is not delivered again.
                let changes = self.changes.ack(acked);
                let heartbeats = self.heartbeats.ack(acked);
                Answer::Done(noted.and(changes).and(heartbeats))
            }
            Request::Remember(text) => {
                Answer::Done(durable::replace(&self.path.join(super::STATE), text.as_bytes()))
            }
        }
    }

    fn store(&mut self, records: &[Record]) -> Answer {
        let (mut stored, mut failure) = (Vec::new(), None);
        for class in [Class::Change, Class::Heartbeat] {
            let mine: VecDeque<&Record> = records.iter().filter(|record| record.class == class).collect();
            let (Some(first), Some(last)) = (mine.front(), mine.back()) else {
                continue;
            };
            let mut frames = Vec::new();
            for record in &mine {
                frame::write(record.number, record.at, &record.text, &mut frames);
            }
            match self.lane(class).append(&frames, first.number, last.number, mine.len() as u64) {
                Ok(()) => stored.extend(mine.iter().map(|record| record.number)),
                Err(error) => failure = Some(error),
            }
        }
        self.make_room();
        Answer::Stored(stored, failure)
    }

    /// Lets go of the oldest until everything fits: heartbeats first.
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
