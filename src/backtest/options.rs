//! The arguments of `nodemend backtest`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use crate::{arguments::duration, output::Format};

/// The arguments of `nodemend backtest`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BacktestOptions {
    /// Files of recorded history, gzip or not, or directories of them
    #[cfg_attr(not(feature = "aws"), arg(required = true))]
    #[cfg_attr(feature = "aws", arg(required_unless_present = "log_group"))]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Also read this log group from AWS; repeatable
    #[cfg(feature = "aws")]
    #[arg(long, value_name = "NAME", requires = "since")]
    pub log_group: Vec<String>,

    /// A policy to compare, YAML or JSON, and its name in the output; repeatable [default: EKS's defaults, with repair
    /// enabled for every group]
    #[arg(long, value_name = "[NAME=]FILE")]
    pub policy: Vec<String>,

    /// The groups at the start of the history, as printed by `aws autoscaling describe-auto-scaling-groups` [default:
    /// one group, with every instance of the history InService]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,

    /// repair: call repairs, in the backtest only; observe: log them without a call; own: the mode of each policy
    #[arg(long, value_enum, default_value = "repair")]
    pub mode: BacktestMode,

    /// A repair is unnecessary if its node recovered without it within this time after the call
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    pub unnecessary_within: SignedDuration,

    /// When the replacement is Ready after a call that is not in the history: a duration, or never
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration_or_never)]
    pub replacement_after: ReplacementDelay,

    /// Only events that arrived at this time or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,

    /// Only events that arrived before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,

    /// How long to continue after the last event
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub continue_for: SignedDuration,

    /// Tables to read, or one JSON object for scripts
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,

    /// Also write the comparison as an HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Also write each policy's steps to this directory, as `nodemend replay --format json` prints them
    #[arg(long, value_name = "DIRECTORY")]
    pub steps: Option<PathBuf>,

    /// Exit with 1 if any policy makes more unnecessary repairs than this
    #[arg(long, value_name = "COUNT")]
    pub max_unnecessary: Option<usize>,

    /// How many threads read files and run policies [default: one per core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
}

const EXAMPLES: &str = "\
Nothing in AWS is called or changed. PATH may have exports of log groups to S3
(directories of 000000.gz) and whatever nodemend replay reads. A directory may
also have a policy.yaml and a fleet.json.

How repairs are classified:
  A repair that was never made left no trace: the history continues with the
  old node. So what happened to that node decides:
    unnecessary  it recovered without repair within --unnecessary-within of
                 the call, and stayed healthy for the recovery hold
    necessary    it was terminated by someone else, rebooted, or stayed
                 unhealthy longer
    unclear      the history ends earlier
  A repair that was due and that guards blocked until the incident was over is
  classified the same way: avoided if the node recovered in time, else missed.
  A replaced instance has no further incidents, and its replacement is healthy.
  A reboot is assumed to change nothing that is not in the history.

Examples:
  aws logs create-export-task --log-group-name /nodemend/prod/nodes \\
    --from 1785542400000 --to 1788220800000 --destination bucket
  aws s3 cp --recursive s3://bucket/exportedlogs exported/
  nodemend backtest exported/ --policy now=policy.yaml --policy fast=fast.yaml \\
    --html comparison.html
  nodemend backtest exported/ --format json | jq '.policies[] | {name, totals}'
  nodemend backtest exported/ --policy policy.yaml --max-unnecessary 0
  nodemend backtest --log-group /nodemend/prod/nodes \\
    --log-group /aws/eks/prod/cluster --since 2026-08-01T00:00:00Z

Exit codes:
  0   every line was readable
  1   some lines were not (stderr has the first as file:line: cause), or a
      policy made more unnecessary repairs than --max-unnecessary
  64  usage or configuration error";

/// When the replacement is Ready after a call that is not in the history; none for never.
#[derive(Debug, Clone, Copy)]
pub struct ReplacementDelay(pub(super) Option<SignedDuration>);

fn duration_or_never(text: &str) -> Result<ReplacementDelay, String> {
    if text == "never" {
        Ok(ReplacementDelay(None))
    } else {
        duration(text).map(|duration| ReplacementDelay(Some(duration)))
    }
}

/// Whether repairs are called (and answered by the backtest), logged without a call, or as each policy has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BacktestMode {
    // No doc comments: clap would switch the help to its long layout.
    Repair,
    Observe,
    Own,
}

impl BacktestMode {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Repair => "repair",
            Self::Observe => "observe",
            Self::Own => "own",
        }
    }
}
