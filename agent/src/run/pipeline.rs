//! The pipeline from sources and probes to the spool, run by one thread.

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, TryRecvError},
    },
    time::Duration,
};

use jiff::SignedDuration;
use nodemend_domain::report::Report;
use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::{error, info, warn};

use super::{
    health::AgentHealth,
    probes::ProbeResult,
    saved_state::{SavedState, SavedStateFile},
};
use crate::{
    causes,
    config::Config,
    detect::{self, Detector, Trust},
    finding::FindingChange,
    identity::NodeIdentity,
    metrics::Metrics,
    outbox::Outbox,
    signal::LogLine,
    source::{
        Clocks, Gap, Progress, Signal,
        file::{LogFiles, StartAt},
        journal::Journal,
        kmsg::Kmsg,
        mounts,
    },
    sync::lock,
    tracker::{self, Now, Snapshot, StartedFrom, Tracker},
};

/// The units whose lines the built-in patterns match.
pub(super) const UNITS: [&str; 7] = [
    "kubelet.service",
    "containerd.service",
    "crond.service",
    "cron.service",
    "kube-proxy.service",
    "aws-network-policy-agent.service",
    "docker.service",
];
/// The files whose lines the built-in patterns match.
const FILES: [&str; 5] = [
    "/var/log/aws-routed-eni/ipamd.log",
    "/var/log/pods/kube-system_aws-node-*/aws-node/*.log",
    "/var/log/pods/kube-system_kube-proxy-*/kube-proxy/*.log",
    "/var/log/cron.log",
    "/var/log/cron",
];
/// How often sources without a notification are polled: the journal, log files, probe results.
const TICK: Duration = Duration::from_millis(500);
/// How far back the journal is read at the first start; older lines are outdated.
const PAST: SignedDuration = SignedDuration::from_mins(10);

/// The result of a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// Whether there is more to read at once.
    pub(super) progress: Progress,
    /// Whether reports were stored.
    pub(super) stored: bool,
}

/// Everything between the sources and the spool.
pub(super) struct Pipeline {
    kernel: Option<Kmsg>,
    journal: Journal,
    files: LogFiles,
    detector: Detector,
    tracker: Tracker,
    saved_state: SavedStateFile,
    metrics: Arc<Metrics>,
    health: AgentHealth,
    changes: Vec<FindingChange>,
}

/// What rules follow beyond the usual units and files.
pub(super) struct Followed {
    /// Units of the journal.
    pub(super) units: Vec<String>,
    /// Patterns of log files.
    pub(super) files: Vec<String>,
}

impl Pipeline {
    /// Opens the sources at the positions of the last run.
    pub(super) fn open(
        config: &Config,
        identity: NodeIdentity,
        mut detector: Detector,
        followed: &Followed,
        metrics: Arc<Metrics>,
        health: AgentHealth,
    ) -> Result<Self, super::RunError> {
        let saved_state_file = SavedStateFile::in_directory(&config.state_dir);
        let (saved_state, problem) = saved_state_file.read();
        if let Some(problem) = problem {
            warn!("{problem}");
        }
        let clocks = Clocks::read();
        let state = saved_state.tracker.as_deref().and_then(|text| match Snapshot::decode(text) {
            Ok(state) => Some(state),
            Err(error) => {
                warn!(%error, "failed to read the tracker's saved state; starting without it");
                None
            }
        });
        let settings =
            tracker::TrackerConfig { heartbeat: config.heartbeat, ..tracker::TrackerConfig::default() };
        let (tracker, started_from) = Tracker::begin(identity, settings, state, now(&clocks));
        if started_from == StartedFrom::NoState {
            info!(
                "no saved state of this boot: a condition is reported once it is unhealthy, or after it was healthy for 2 min"
            );
        }
        let kernel = match Kmsg::open(&config.root, saved_state.kernel.as_ref()) {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                warn!(error = causes::chain(&error), "failed to open the kernel log; it is not read");
                None
            }
        };
        let mut wanted: Vec<&str> = UNITS.to_vec();
        wanted.extend(followed.units.iter().map(String::as_str));
        let since = clocks.wall.checked_sub(PAST).unwrap_or(clocks.wall);
        let journal = Journal::new(&config.root, &wanted, since, saved_state.journal.as_ref());
        let mut patterns: Vec<&str> = FILES.to_vec();
        patterns.extend(followed.files.iter().map(String::as_str));
        let files = LogFiles::new(&config.root, &patterns, StartAt::End, saved_state.files)
            .map_err(|error| super::RunError::Rules(error.to_string()))?;
        if config.accept_injected {
            warn!("kernel log records of programs are accepted: for tests, never for production");
            detector = detector.with_trust(Trust::AnyFacility);
        }
        match mounts::read(&config.root) {
            Ok(table) => detector.set_host_devices(detect::host_devices(&table)),
            Err(error) => {
                warn!(%error, "failed to read the host's mounts; a broken filesystem is only an event");
            }
        }
        Ok(Self {
            kernel,
            journal,
            files,
            detector,
            tracker,
            saved_state: saved_state_file,
            metrics,
            health,
            changes: Vec::new(),
        })
    }

    /// One round: reads all sources, tracks the changes, and stores the reports.
    pub(super) fn round(&mut self, results: &Receiver<ProbeResult>, outbox: &Mutex<Outbox>) -> Round {
        let clocks = Clocks::read();
        let progress = self.read(&clocks);
        self.receive(results);
        let now = now(&clocks);
        for change in self.changes.drain(..) {
            self.metrics.changes.inc();
            self.tracker.apply(&change, now);
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

    /// Stores the state that survives a restart. Call it after [`round`](Self::round), whose reports are in the spool
    /// by then.
    pub(super) fn save_state(&mut self) {
        let saved_state = SavedState {
            kernel: self.kernel.as_ref().map(Kmsg::position),
            journal: self.journal.position(),
            files: Some(self.files.position()),
            tracker: Some(self.tracker.snapshot().encode()),
        };
        let written = self.saved_state.write(&saved_state);
        self.health.saved_state(written.err().map(|error| format!("failed to store the state: {error}")));
    }

    /// Waits for a kernel record, for the next due report, or for the next poll of sources without a notification.
    pub(super) fn wait(&self) {
        let up = Clocks::read().up;
        let due = self.tracker.next_due().saturating_sub(up).max(SignedDuration::ZERO).unsigned_abs();
        let wait = due.clamp(Duration::from_millis(5), TICK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = Vec::new();
        if let Some(kernel) = &self.kernel {
            fds.push(PollFd::from_borrowed_fd(kernel.as_fd(), PollFlags::IN));
        }
        // An interrupted wait is not an error: the next round polls every source.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    fn read(&mut self, clocks: &Clocks) -> Progress {
        let Self { kernel, journal, files, detector, metrics, changes, .. } = self;
        let mut emit = |signal: Signal<'_>| match signal {
            Signal::Line(line) => {
                metrics.lines.inc();
                detect_in(detector, &line, changes);
            }
            Signal::GapNotice(notice) => {
                match notice.gap {
                    Gap::Lost(count) => _ = metrics.lost.inc_by(count.unwrap_or(1)),
                    Gap::Wrapped(count) => info!(
                        records = count,
                        "kernel records of this boot were overwritten before the agent's first start"
                    ),
                    Gap::Unreadable(count) => _ = metrics.unreadable.inc_by(count),
                    Gap::Truncated => _ = metrics.unreadable.inc(),
                }
                changes.extend(notice.finding().map(FindingChange::Raised));
            }
        };
        let mut more = false;
        if let Some(source) = kernel {
            match source.poll(clocks, &mut emit) {
                Ok(progress) => more |= progress == Progress::More,
                Err(error) => {
                    error!(
                        error = causes::chain(&error),
                        "failed to read the kernel log; it is no longer read"
                    );
                    *kernel = None;
                }
            }
        }
        more |= journal.poll(clocks, &mut emit) == Progress::More;
        more |= files.poll(clocks, &mut emit) == Progress::More;
        if more { Progress::More } else { Progress::Drained }
    }

    fn receive(&mut self, results: &Receiver<ProbeResult>) {
        loop {
            match results.try_recv() {
                Ok(ProbeResult::Changes(changes)) => self.changes.extend(changes),
                Ok(ProbeResult::NotCheckable { probe, why }) => {
                    info!(probe, why, "a probe is not checkable");
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn store(&mut self, reports: &[Report<'static>], outbox: &Mutex<Outbox>) {
        let mut outbox = lock(outbox);
        let stored = outbox.store(reports);
        let losses = outbox.losses();
        self.metrics.reports.inc_by(reports.len() as u64);
        let dropped = losses.heartbeats + losses.changes;
        self.metrics.dropped.inc_by(dropped.saturating_sub(self.metrics.dropped.get()));
        self.health.spool(stored.err().map(|error| causes::chain(&error)));
        drop(outbox);
        self.health.wake();
    }
}

fn detect_in(detector: &mut Detector, line: &LogLine<'_>, changes: &mut Vec<FindingChange>) {
    detector.detect(line, changes);
}

fn now(clocks: &Clocks) -> Now {
    Now { wall: clocks.wall, mono: clocks.up }
}
