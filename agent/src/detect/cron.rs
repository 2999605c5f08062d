//! Turns cron's own log into word of jobs that run too often.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::shape::{Seen, Shape, Writers};
use crate::signal::Origin;

/// "Within five minutes" on cron's grain of a minute means four or less. A job that is due every five may start
/// a second late and then a second early, and must not count.
const TOO_SOON: SignedDuration = SignedDuration::from_secs(4 * 60 + 30);
/// Commands that are remembered; a node has a handful.
const MAX_COMMANDS: usize = 256;

/// `(root) CMD (/usr/bin/true)`; in a file, host, program and pid stand before it.
pub(super) const SHAPES: &[Shape] = &[Shape::new(
    &["RapidCron"],
    Writers::CRON,
    &[") CMD ("],
    r"(?:^|\]: |: )(?<job>\([^)\s]{1,64}\) CMD \(.+\))\s*$",
)
.judged(judge_run)];

/// When each command ran last.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<(bool, String), Timestamp>);

impl Runs {
    /// Notes a run; says whether the one before was too soon before it.
    fn note(&mut self, job: (bool, String), at: Timestamp) -> bool {
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

fn judge_run(seen: &mut Seen<'_>) {
    let Some(job) = seen.get("job").map(str::to_owned) else { return };
    // The journal and the file tell of the same run: each is compared with itself.
    let from_file = matches!(seen.line.origin, Origin::File(_));
    let at = seen.at();
    if seen.state.cron.note((from_file, job.clone()), at) {
        seen.raise("RapidCron", Some(job));
    }
}
