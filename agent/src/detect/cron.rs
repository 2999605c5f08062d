//! Finds cron jobs that run too often, from cron's own log.

use super::{
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};
use crate::signal::Origin;

/// `(root) CMD (/usr/bin/true)`; in a file, host, program and pid precede it.
pub(super) const PATTERNS: &[LinePattern] = &[LinePattern::new(
    &["RapidCron"],
    Writers::CRON,
    &[") CMD ("],
    r"(?:^|\]: |: )(?<job>\([^)\s]{1,64}\) CMD \(.+\))\s*$",
)
.evaluated_by(evaluate_run)];

fn evaluate_run(matched: &mut LineMatch<'_>) {
    let Some(job) = matched.get("job").map(str::to_owned) else { return };
    // The journal and the log file both record each run; each source is compared only with itself.
    let from_file = matches!(matched.line.origin, Origin::File(_));
    let at = matched.at();
    if matched.state.cron_runs.record((from_file, job.clone()), at) {
        matched.raise("RapidCron", Some(job));
    }
}
