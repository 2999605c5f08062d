//! Turns the number of threads, and the smaller of the kernel's two limits to it, into how near the end of both is.
//!
//! Every thread takes a number below `kernel.pid_max`, and there are at most `kernel.threads-max` of them: whichever
//! is less ends all forking. `/proc/loadavg` counts threads (proc_loadavg(5)); a folder listing of `/proc` would count
//! processes, which a node may have few of with tens of thousands of threads.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{number, parsed, usage::Usage};
use crate::{
    finding::{Change, Clears, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

const NEAR: &str = "ApproachingKernelPidMax";
const OUT: &str = "ForkFailedOutOfPIDs";

const NEAR_PERCENT: u8 = 70;
const OUT_PERCENT: u8 = 95;
/// What is out of threads is well again only below this: a node at the edge must not flap.
const WELL_PERCENT: u8 = 90;

const INTERVAL: Duration = Duration::from_secs(30);
/// How long lines of failed forks are counted together.
const WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// A line and a reading confirm each other; so do two readings, where no fork happened to fail in between.
const TWICE: Debounce = Debounce::Times { count: 2, window: WINDOW };
/// A node that stays between the two shares, and where no fork fails, has threads left: it is not replaced for that.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

const LOAD: &str = "proc/loadavg";
const PID_MAX: &str = "proc/sys/kernel/pid_max";
const THREADS_MAX: &str = "proc/sys/kernel/threads-max";

pub(super) struct Tasks {
    root: PathBuf,
    standing: Standing,
    /// Whether the last reading that could tell saw the end of threads.
    out: bool,
}

impl Tasks {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default(), out: false }
    }

    fn judge_out(&mut self, usage: Usage, message: &str, now: Timestamp) -> Vec<Change> {
        if usage.reaches(OUT_PERCENT) {
            self.out = true;
            let mut changes = self.standing.update(vec![Judged::wrong(OUT, message).after(TWICE)], now);
            for change in &mut changes {
                if let Change::Raised(finding) = change {
                    finding.clears = Clears::Told { or_quiet: Some(QUIET) };
                }
            }
            return changes;
        }
        if usage.reaches(WELL_PERCENT) {
            return Vec::new();
        }
        // Forks fail at a cgroup's limit too, which this reading knows nothing of. Unless it saw the end itself, it
        // clears what nobody has complained of for a while, and leaves alone the lines that are still being counted.
        let well_since = if self.out { now } else { now.saturating_sub(WINDOW).unwrap_or(now) };
        self.out = false;
        self.standing.update(vec![Judged::well(OUT)], well_since)
    }
}

/// The threads of all processes: `0.20 0.18 0.12 1/80 11206` has 80.
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let used = parsed(&self.root, LOAD, threads)?;
        let limits =
            [(number(&self.root, PID_MAX)?, "pid_max"), (number(&self.root, THREADS_MAX)?, "threads-max")];
        let (limit, name) = limits[0].min(limits[1]);
        let usage = Usage { used, limit };
        let message = format!("threads: {usage}, by kernel.{name}");
        let near = usage.reaches(NEAR_PERCENT).then(|| message.clone());
        let mut changes = self.standing.update(vec![Judged::when(NEAR, near)], now);
        changes.extend(self.judge_out(usage, &message, now));
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
