//! `nodemend replay`: runs captured events through the handlers that Lambda runs, on a virtual clock.

mod cluster;
pub(crate) mod drive;
pub(crate) mod environment;
mod error;
pub(crate) mod fleet;
pub(crate) mod input;
mod subscribed;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use nodemend_domain::policy::{Mode, Policy};
use nodemend_ports::config;

use self::cluster::ApiServer;
pub use self::error::ReplayError;
use crate::{
    arguments::{duration, file_or_beside},
    file::{FileError, create, read_text},
    output::{self, Format, json, svg, timeline},
};

/// The arguments of `nodemend replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayOptions {
    /// Files of captured events, or directories of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// The policy to try, YAML or JSON [default: EKS's defaults, with repair enabled for every group]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// The groups, as printed by `aws autoscaling describe-auto-scaling-groups`; other instances of the events are in
    /// no group [default: one group, with every instance of the events InService]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,

    /// repair: call repairs, in the replay only; observe: log them without a call
    #[arg(long, value_enum, default_value = "repair")]
    pub mode: ReplayMode,

    /// A timeline to read, or JSON lines for scripts
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,

    /// Also draw the timeline as SVG, one lane for each node
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// How long to continue after the last event while cases are open
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub until: SignedDuration,
}

const EXAMPLES: &str = "\
Nothing in AWS is called or changed. PATH may have, in any mix:
  - Lambda events: subscription payloads and EventBridge events
  - output of aws logs filter-log-events and aws cloudtrail lookup-events
  - JSON lines: node reports, control-plane audit events, CloudTrail events
A directory may also have a policy.yaml and a fleet.json.
Audit events that the subscription's filter pattern drops are not delivered. The
summary counts those that would have mattered.

Examples:
  nodemend replay events/01-metadata-service-blocked
  nodemend replay exported/ --policy policy.yaml --mode observe
  aws logs filter-log-events --log-group-name /nodemend/prod/nodes > nodes.json
  nodemend replay nodes.json --fleet groups.json --format json |
    jq 'select(.step == \"called\")'

Exit codes:
  0   every line was readable
  1   some lines were not: stderr has each as file:line: cause
  64  usage or configuration error";

/// Whether repairs are called (and answered by the replay), or logged without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplayMode {
    // No doc comments: clap would switch the help to its long layout.
    Repair,
    Observe,
}

/// Runs a replay and returns how many lines were not readable.
pub fn run(options: &ReplayOptions) -> Result<usize, ReplayError> {
    let read = input::read(&options.paths)?;
    let policy = policy(options)?;
    let groups = match file_or_beside(options.fleet.as_ref(), &options.paths, "fleet.json") {
        Some(path) => Some(fleet::read(&path)?),
        None => None,
    };
    let api_server = match file_or_beside(None, &options.paths, cluster::FILE) {
        Some(path) => cluster::read(&path)?,
        None => ApiServer::default(),
    };
    // Created first, so that a path that cannot be written fails before the work and not after it.
    let picture = match &options.svg {
        Some(path) => Some((path, create(path)?)),
        None => None,
    };
    let replayed = drive::drive(&read, policy, groups.as_deref(), &api_server, options.until)?;
    let unreadable: Vec<String> = read.unreadable.into_iter().chain(replayed.unreadable).collect();
    {
        let mut stderr = io::stderr().lock();
        for line in &unreadable {
            writeln!(stderr, "{}", output::printable(line))?;
        }
    }
    let events = &replayed.events;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => timeline::write(&mut out, events, &replayed.not_subscribed)?,
        Format::Json => json::write(&mut out, events, unreadable.len(), &replayed.not_subscribed)?,
    }
    out.flush()?;
    if let Some((path, mut file)) = picture {
        file.write_all(svg::draw(events).as_bytes()).map_err(FileError::writing(path))?;
    }
    Ok(unreadable.len())
}

fn policy(options: &ReplayOptions) -> Result<Policy, ReplayError> {
    let mut policy = match file_or_beside(options.policy.as_ref(), &options.paths, "policy.yaml") {
        Some(path) => config::read_policy(&read_text(&path)?)
            .map_err(|error| ReplayError::Config { path, why: error.to_string() })?,
        None => Policy::eks_defaults(),
    };
    policy.mode = match options.mode {
        ReplayMode::Repair => Mode::Repair,
        ReplayMode::Observe => Mode::Observe,
    };
    for rule in &mut policy.groups {
        rule.mode = None;
    }
    Ok(policy)
}
