//! Turns what sources and probes say into reports in the spool: the one thread through which everything goes.

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, TryRecvError},
    },
    time::Duration,
};

use jiff::SignedDuration;
use nodemend_domain::report::Report;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    memory::{Memory, MemoryFile},
    note,
    probes::Said,
    state::Health,
};
use crate::{
    causes,
    config::Config,
    detect::{self, Detector, Trust},
    finding::Change,
    identity::Identity,
    metrics::Metrics,
    outbox::Outbox,
    signal::Line,
    source::{
        Clocks, Flaw, Progress, Signal,
        file::{Files, Start},
        journal::Journal,
        kmsg::Kmsg,
        mounts,
    },
    tracker::{self, Beginning, Now, State, Tracker},
};

/// The units whose lines any detector knows.
pub(super) const UNITS: [&str; 7] = [
    "kubelet.service",
    "containerd.service",
    "crond.service",
    "cron.service",
    "kube-proxy.service",
    "aws-network-policy-agent.service",
    "docker.service",
];
/// The files whose lines any detector knows.
const FILES: [&str; 5] = [
    "/var/log/aws-routed-eni/ipamd.log",
    "/var/log/pods/kube-system_aws-node-*/aws-node/*.log",
    "/var/log/pods/kube-system_kube-proxy-*/kube-proxy/*.log",
    "/var/log/cron.log",
    "/var/log/cron",
];
/// How often what does not wake us is looked at: the journal's files, followed files, what probes said.
const TICK: Duration = Duration::from_millis(500);
/// How much of a first start's past is read from journal and files: old lines are old news.
const PAST: SignedDuration = SignedDuration::from_mins(10);

/// What a round did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// Whether there is more to read at once.
    pub(super) progress: Progress,
    /// Whether reports were stored.
    pub(super) stored: bool,
}

/// Everything between the sources and the spool.
pub(super) struct Watch {
    kernel: Option<Kmsg>,
    journal: Journal,
    files: Files,
    detector: Detector,
    tracker: Tracker,
    memory: MemoryFile,
    metrics: Arc<Metrics>,
    health: Health,
    changes: Vec<Change>,
}

impl Watch {
    /// Opens the sources where the last run ended.
    pub(super) fn open(
        config: &Config,
        identity: Identity,
        mut detector: Detector,
        units: &[String],
        files: &[String],
        metrics: Arc<Metrics>,
        health: Health,
    ) -> Result<Self, super::RunError> {
        let memory_file = MemoryFile::in_folder(&config.state_dir);
        let (memory, complaint) = memory_file.read();
        if let Some(complaint) = complaint {
            note(&complaint);
        }
        let clocks = Clocks::read();
        let state = memory.tracker.as_deref().and_then(|text| match State::decode(text) {
            Ok(state) => Some(state),
            Err(error) => {
                note(&format!("the tracker's memory: {error}; starting without"));
                None
            }
        });
        let settings = tracker::Config { heartbeat: config.heartbeat, ..tracker::Config::default() };
        let (tracker, beginning) = Tracker::begin(identity, settings, state, now(&clocks));
        if beginning == Beginning::NoMemory {
            note(
                "nothing is remembered of this boot: a condition is told once it is bad, or has been well for a while",
            );
        }
        let kernel = match Kmsg::open(&config.root, memory.kernel.as_ref()) {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                note(&format!("kernel records are not read: {}", causes::chain(&error)));
                None
            }
        };
        let mut wanted: Vec<&str> = UNITS.to_vec();
        wanted.extend(units.iter().map(String::as_str));
        let since = clocks.wall.checked_sub(PAST).unwrap_or(clocks.wall);
        let journal = Journal::new(&config.root, &wanted, since, memory.journal.as_ref());
        let mut patterns: Vec<&str> = FILES.to_vec();
        patterns.extend(files.iter().map(String::as_str));
        let files = Files::new(&config.root, &patterns, Start::End, memory.files)
            .map_err(|error| super::RunError::Rules(error.to_string()))?;
        if config.accept_injected {
            note("kernel records that programs wrote are believed: for tests, never for production");
            detector = detector.trusting(Trust::AnyFacility);
        }
        match mounts::read(&config.root) {
            Ok(table) => detector.know_host_devices(detect::host_devices(&table)),
            Err(error) => note(&format!(
                "the host's mounts are not known, so that a broken filesystem is but an event: {error}"
            )),
        }
        Ok(Self {
            kernel,
            journal,
            files,
            detector,
            tracker,
            memory: memory_file,
            metrics,
            health,
            changes: Vec::new(),
        })
    }

    /// One round: everything that is there is read, tracked, and stored.
    pub(super) fn round(&mut self, said: &Receiver<Said>, outbox: &Mutex<Outbox>) -> Round {
        let clocks = Clocks::read();
        let progress = self.read(&clocks);
        self.hear(said);
        let now = now(&clocks);
        for change in self.changes.drain(..) {
            self.metrics.changes.add(1);
            self.tracker.take(&change, now);
        }
        let reports = self.tracker.poll(now);
        if !reports.is_empty() {
            self.store(&reports, outbox);
        }
        self.metrics.spooled.set(lock(outbox).waiting());
        self.metrics.unhealthy.set(self.tracker.unhealthy() as u64);
        self.health.round_ended(clocks.up);
        Round { progress, stored: !reports.is_empty() }
    }

    /// Keeps what must survive a restart. After [`round`](Self::round), whose reports are stored by then.
    pub(super) fn remember(&mut self) {
        let memory = Memory {
            kernel: self.kernel.as_ref().map(Kmsg::position),
            journal: self.journal.position(),
            files: Some(self.files.position()),
            tracker: Some(self.tracker.snapshot().encode()),
        };
        let written = self.memory.write(&memory);
        self.health.memory(written.err().map(|error| format!("failed to keep the memory: {error}")));
    }

    /// Waits for a kernel record, for what is due, or for the next look at what wakes nobody.
    pub(super) fn wait(&self) {
        let up = Clocks::read().up;
        let due = self.tracker.next_due().saturating_sub(up).max(SignedDuration::ZERO).unsigned_abs();
        let wait = due.clamp(Duration::from_millis(5), TICK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = Vec::new();
        if let Some(kernel) = &self.kernel {
            fds.push(PollFd::from_borrowed_fd(kernel.as_fd(), PollFlags::IN));
        }
        // Interrupted or not: the next round looks at everything.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    fn read(&mut self, clocks: &Clocks) -> Progress {
        let Self { kernel, journal, files, detector, metrics, changes, .. } = self;
        let mut emit = |signal: Signal<'_>| match signal {
            Signal::Line(line) => {
                metrics.lines.add(1);
                detect_in(detector, &line, changes);
            }
            Signal::Notice(notice) => {
                match notice.flaw {
                    Flaw::Lost(count) => metrics.lost.add(count.unwrap_or(1)),
                    Flaw::Turned(count) => note(&format!(
                        "{count} kernel records of this boot were overwritten before this agent's first start"
                    )),
                    Flaw::Unreadable(count) => metrics.unreadable.add(count),
                    Flaw::Cut => metrics.unreadable.add(1),
                }
                changes.extend(notice.finding().map(Change::Raised));
            }
        };
        let mut more = false;
        if let Some(source) = kernel {
            match source.poll(clocks, &mut emit) {
                Ok(progress) => more |= progress == Progress::More,
                Err(error) => {
                    note(&format!("kernel records are read no more: {}", causes::chain(&error)));
                    *kernel = None;
                }
            }
        }
        more |= journal.poll(clocks, &mut emit) == Progress::More;
        more |= files.poll(clocks, &mut emit) == Progress::More;
        if more { Progress::More } else { Progress::Drained }
    }

    fn hear(&mut self, said: &Receiver<Said>) {
        loop {
            match said.try_recv() {
                Ok(Said::Changes(changes)) => self.changes.extend(changes),
                Ok(Said::NotCheckable { probe, why }) => {
                    note(&format!("probe {probe} has nothing to check: {why}"));
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn store(&mut self, reports: &[Report<'static>], outbox: &Mutex<Outbox>) {
        let mut outbox = lock(outbox);
        let stored = outbox.store(reports);
        let losses = outbox.losses();
        self.metrics.reports.add(reports.len() as u64);
        self.metrics.dropped.set(losses.heartbeats + losses.changes);
        self.health.spool(stored.err().map(|error| causes::chain(&error)));
        drop(outbox);
        self.health.wake();
    }
}

/// A mutex that somebody died with still holds what is true.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn detect_in(detector: &mut Detector, line: &Line<'_>, changes: &mut Vec<Change>) {
    detector.detect(line, changes);
}

fn now(clocks: &Clocks) -> Now {
    Now { wall: clocks.wall, mono: clocks.up }
}
