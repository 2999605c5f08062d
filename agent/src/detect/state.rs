//! State that some patterns need of earlier lines.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

/// The kernel logs a victim's cgroup directly before the kill. With `memory.oom.group` it kills the rest of the group
/// directly after.
const SAME_KILL: SignedDuration = SignedDuration::from_secs(5);
/// cron's resolution is a minute, so "more often than every five minutes" means an interval of four or less. The
/// extra 30 s allow a five-minute job to start a second late and then a second early.
const TOO_SOON: SignedDuration = SignedDuration::from_secs(4 * 60 + 30);
/// The maximum number of commands whose last run is stored; a node has a handful.
const MAX_COMMANDS: usize = 256;

/// Probe failures that are tolerated: so many a second, and so many at once.
const PROBES_A_SECOND: i64 = 5;
const BURST: i64 = 5;

/// The state of all patterns.
#[derive(Debug, Default)]
pub(super) struct DetectorState {
    pub(super) oom_victim: OomVictim,
    pub(super) probe_failures: ProbeFailures,
    pub(super) cron_runs: CronRuns,
    pub(super) ipamd: IpamdState,
    /// The block devices that carry the host's own filesystems.
    pub(super) host_devices: BTreeSet<String>,
}

/// The cgroup of the current OOM kill, with the time of its record.
#[derive(Debug, Default)]
pub(super) struct OomVictim(Option<(Timestamp, String)>);

impl OomVictim {
    pub(super) fn store(&mut self, cgroup: Option<String>, at: Timestamp) {
        self.0 = cgroup.map(|cgroup| (at, cgroup));
    }

    /// The victim's cgroup, if its record belongs to a kill at this time.
    pub(super) fn cgroup(&self, at: Timestamp) -> Option<&str> {
        let (when, cgroup) = self.0.as_ref()?;
        (at.duration_since(*when).abs() <= SAME_KILL).then_some(cgroup)
    }
}

/// The time of the last run, by (from a file, command).
#[derive(Debug, Default)]
pub(super) struct CronRuns(BTreeMap<(bool, String), Timestamp>);

impl CronRuns {
    /// Records a run. Returns whether the previous run was less than [`TOO_SOON`] before.
    pub(super) fn record(&mut self, job: (bool, String), at: Timestamp) -> bool {
        if self.0.len() >= MAX_COMMANDS && !self.0.contains_key(&job) {
            let newest = self.0.values().max().copied().unwrap_or(at);
            self.0.retain(|_, last| newest.duration_since(*last) < TOO_SOON);
            if self.0.len() >= MAX_COMMANDS {
                return false;
            }
        }
        let last = self.0.insert(job, at);
        last.is_some_and(|last| last < at && at.duration_since(last) <= TOO_SOON)
    }
}

/// Rate limits of tolerated failures, one for each kind of probe.
#[derive(Debug, Default)]
pub(super) struct ProbeFailures {
    pub(super) liveness: TokenBucket,
    pub(super) readiness: TokenBucket,
}

/// The last known state of the CNI daemon's connection to the API server.
#[derive(Debug, Default)]
pub(super) struct IpamdState {
    pub(super) unreachable: bool,
}

/// A token bucket: five at once, refilled by five a second. It counts in thousandths to avoid rounding.
#[derive(Debug)]
pub(super) struct TokenBucket {
    thousandths: i64,
    since: Option<Timestamp>,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self { thousandths: BURST * 1000, since: None }
    }
}

impl TokenBucket {
    pub(super) fn pass(&mut self, at: Timestamp) -> bool {
        // A line from the past neither fills the bucket nor moves its time back.
        let since = self.since.unwrap_or(at);
        let waited = at.duration_since(since).as_millis().clamp(0, 1000);
        self.since = Some(since.max(at));
        let filled = i64::try_from(waited).unwrap_or(0) * PROBES_A_SECOND;
        self.thousandths = (self.thousandths + filled).min(BURST * 1000);
        let passes = self.thousandths >= 1000;
        if passes {
            self.thousandths -= 1000;
        }
        passes
    }
}
