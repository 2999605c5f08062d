//! `nodemend replay`: captured events through the very handlers that Lambda runs, on a virtual clock.

pub(crate) mod drive;
pub(crate) mod fleet;
pub(crate) mod input;
pub(crate) mod json;
pub(crate) mod pretty;
mod story;
mod svg;
pub(crate) mod text;
pub(crate) mod world;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use nodemend_adapters::config;
use nodemend_domain::policy::{Mode, Policy};

/// What `nodemend replay` is told.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folders or files of events, in any mix: Lambda events (subscription payloads, EventBridge events), the
    /// output of `aws logs filter-log-events` and `aws cloudtrail lookup-events`, or JSON lines of bare reports,
    /// audit events and CloudTrail records. A folder may hold a policy.yaml and a fleet.json
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// The policy to try, YAML or JSON [default: EKS's defaults, with repair enabled for every group]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// The groups, as `aws autoscaling describe-auto-scaling-groups` prints them [default: every instance seen is
    /// InService in one group]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,

    /// Whether calls are made; they touch nothing real
    #[arg(long, value_enum, default_value = "repair")]
    pub mode: ModeOption,

    /// A timeline for people, or one JSON object a line for programs
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,

    /// Draw a picture of it, too: one lane a node, for a browser
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// For how long the clock runs on after the last event, while cases are open
    #[arg(long, value_name = "LENGTH", default_value = "24h", value_parser = length)]
    pub until: SignedDuration,
}

const EXAMPLES: &str = "\
Examples:
  nodemend replay events/01-metadata-service-blocked
  nodemend replay exported/ --policy policy.yaml --mode observe
  aws logs filter-log-events --log-group-name /nodemend/prod/nodes > nodes.json
  nodemend replay nodes.json --fleet groups.json --format json | jq 'select(.step == \"called\")'

Exit codes:
  0  every line could be read
  1  some could not: each is named on stderr as file:line: why
  64 wrong usage, policy or fleet";

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A timeline for people.
    Text,
    /// One object a line.
    Json,
}

/// Whether calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeOption {
    /// They are.
    Repair,
    /// They are only told of.
    Observe,
}

/// Why a replay could not run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A policy or a fleet is wrong.
    #[error("{}: {why}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
    /// The handlers made no progress: a bug of ours.
    #[error("the replay stands still at {at}: {why}")]
    Stuck {
        /// When.
        at: String,
        /// On what.
        why: String,
    },
}

impl ReplayError {
    /// Whether the command line or a file it names is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. } | Self::Config { .. })
    }
}

pub(crate) fn length(text: &str) -> Result<SignedDuration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .filter(|length| !length.is_negative())
        .ok_or_else(|| "not a length of time like 24h or 90m".to_owned())
}

/// Runs a replay; how many lines could not be read.
pub fn run(options: &Options) -> Result<usize, ReplayError> {
    let read = input::read(&options.paths)?;
    let policy = policy(options)?;
    let groups = match beside(options.fleet.as_ref(), &options.paths, "fleet.json") {
        Some(path) => Some(fleet::read(&path)?),
        None => None,
    };
    // Opened first: a name that can't be written is told before the work, not after it.
    let picture = match &options.svg {
        Some(path) => {
            let file = fs::File::create(path);
            Some((path, file.map_err(|source| ReplayError::Write { path: path.clone(), source })?))
        }
        None => None,
    };
    let replayed = drive::drive(&read.inputs, policy, groups.as_deref(), options.until)?;
    let bad: Vec<String> = read.bad.into_iter().chain(replayed.bad).collect();
    {
        let mut stderr = io::stderr().lock();
        for line in &bad {
            // A line of somebody's log may hold anything: it must not repaint the terminal.
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            writeln!(stderr, "{line}")?;
        }
    }
    let occurrences = &replayed.occurrences;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => text::write(&mut out, occurrences)?,
        Format::Json => json::write(&mut out, occurrences, bad.len())?,
    }
    out.flush()?;
    if let Some((path, mut file)) = picture {
        file.write_all(svg::draw(occurrences).as_bytes())
            .map_err(|source| ReplayError::Write { path: path.clone(), source })?;
    }
    Ok(bad.len())
}

fn policy(options: &Options) -> Result<Policy, ReplayError> {
    let mut policy = match beside(options.policy.as_ref(), &options.paths, "policy.yaml") {
        Some(path) => {
            let text = text_of(&path)?;
            config::read_policy(&text)
                .map_err(|error| ReplayError::Config { path, why: error.to_string() })?
        }
        None => Policy::eks_defaults(),
    };
    policy.mode = match options.mode {
        ModeOption::Repair => Mode::Repair,
        ModeOption::Observe => Mode::Observe,
    };
    for rule in &mut policy.groups {
        rule.mode = None;
    }
    Ok(policy)
}

/// The file that a flag names, else the one of that name in a folder that is replayed.
fn beside(flag: Option<&PathBuf>, paths: &[PathBuf], name: &str) -> Option<PathBuf> {
    flag.cloned().or_else(|| paths.iter().map(|path| path.join(name)).find(|path| path.is_file()))
}

fn text_of(path: &Path) -> Result<String, ReplayError> {
    fs::read_to_string(path).map_err(|source| ReplayError::Read { path: path.to_owned(), source })
}
