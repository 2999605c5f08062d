//! Finds a number of threads near the kernel's limits.
//!
//! Every thread needs an ID below `kernel.pid_max`, and there are at most `kernel.threads-max` threads; the lower of
//! the two limits applies. `/proc/loadavg` counts threads (proc_loadavg(5)). A listing of `/proc` would count
//! processes, of which a node with tens of thousands of threads may have few.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{number, parsed, usage::Usage};
use crate::{
    finding::{Clears, Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const NEAR: &str = "ApproachingKernelPidMax";
const OUT: &str = "ForkFailedOutOfPIDs";

const NEAR_PERCENT: u8 = 70;
const OUT_PERCENT: u8 = 95;
/// ForkFailedOutOfPIDs clears only below this share, so that a node at the limit does not flap.
const HEALTHY_PERCENT: u8 = 90;

const INTERVAL: Duration = Duration::from_secs(30);
/// The window in which lines about failed forks are counted.
const WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// A line and a reading confirm each other. Two readings do so as well, if no fork failed between them.
const TWICE: Debounce = Debounce::Times { count: 2, window: WINDOW };
/// A node that stays between the two shares and where no fork fails has threads left: it recovers after this quiet
/// time.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

const LOAD: &str = "proc/loadavg";
const PID_MAX: &str = "proc/sys/kernel/pid_max";
const THREADS_MAX: &str = "proc/sys/kernel/threads-max";

pub(super) struct Tasks {
    root: PathBuf,
    latch: ConditionLatch,
    /// Whether the last reading outside the range between the two shares was above it.
    out: bool,
}

impl Tasks {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default(), out: false }
    }

    fn evaluate_out(&mut self, usage: Usage, message: &str, now: Timestamp) -> Vec<FindingChange> {
        if usage.reaches(OUT_PERCENT) {
            self.out = true;
            let mut changes = self.latch.update(vec![Evaluation::unhealthy(OUT, message).after(TWICE)], now);
            for change in &mut changes {
                if let FindingChange::Raised(finding) = change {
                    finding.clears = Clears::Explicit { or_quiet: Some(QUIET) };
                }
            }
            return changes;
        }
        if usage.reaches(HEALTHY_PERCENT) {
            return Vec::new();
        }
        // Forks also fail at a cgroup's limit, which this reading does not see. Unless the probe itself raised the
        // finding, it clears only what no line has raised within the window, so lines that are still being counted
        // stay.
        let healthy_since = if self.out { now } else { now.saturating_sub(WINDOW).unwrap_or(now) };
        self.out = false;
        self.latch.update(vec![Evaluation::healthy(OUT)], healthy_since)
    }
}

/// The number of threads of all processes: 80 in `0.20 0.18 0.12 1/80 11206`.
fn threads(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

impl Probe for Tasks {
    fn name(&self) -> &'static str {
        "tasks"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NEAR, OUT]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let used = parsed(&self.root, LOAD, threads)?;
        let limits =
            [(number(&self.root, PID_MAX)?, "pid_max"), (number(&self.root, THREADS_MAX)?, "threads-max")];
        let (limit, name) = limits[0].min(limits[1]);
        let usage = Usage { used, limit };
        let message = format!("threads: {usage}, by kernel.{name}");
        let near = usage.reaches(NEAR_PERCENT).then(|| message.clone());
        let mut changes = self.latch.update(vec![Evaluation::new(NEAR, near)], now);
        changes.extend(self.evaluate_out(usage, &message, now));
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
