//! `nodemend backtest`: real history in, several policies in, and out what each would have done, and whether it had been right.

mod assume;
mod document;
mod files;
mod html;
mod instant;
mod judge;
mod lines;
#[cfg(feature = "aws")]
mod logs;
mod progress;
mod read;
mod record;
mod report;
mod shape;
mod sift;
mod spill;
mod text;
mod timeline;
mod trial;

use std::{
    fs,
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Instant,
};

use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::config;
use nodemend_domain::{
    group::Group,
    policy::{Mode, Policy},
};

use crate::{
    replay::{ReplayError, fleet, length, world::World},
    table::Format,
};

/// What `nodemend backtest` is told.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folders or files of history, in any mix: exports of log groups to S3 (folders of `000000.gz`), what `aws logs
    /// filter-log-events` prints, and whatever else `nodemend replay` reads; gzip or not. A folder may hold a
    /// policy.yaml and a fleet.json
    #[cfg_attr(not(feature = "aws"), arg(required = true))]
    #[cfg_attr(feature = "aws", arg(required_unless_present = "log_group"))]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Read this log group, too, from AWS; may be given more than once
    #[cfg(feature = "aws")]
    #[arg(long, value_name = "NAME", requires = "since")]
    pub log_group: Vec<String>,

    /// A policy to try, YAML or JSON, and what to call it; may be given more than once [default: EKS's defaults, with
    /// repair enabled for every group]
    #[arg(long, value_name = "[NAME=]FILE")]
    pub policy: Vec<String>,

    /// The groups as they were when the history begins, as `aws autoscaling describe-auto-scaling-groups` prints them [default: every
    /// instance seen is InService in one group]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,

    /// Whether each policy makes calls; they touch nothing real
    #[arg(long, value_enum, default_value = "repair")]
    pub mode: ModeOption,

    /// A repair is false if its node was well by itself so soon after the call
    #[arg(long, value_name = "LENGTH", default_value = "30m", value_parser = length)]
    pub false_within: SignedDuration,

    /// When a replacement is ready, after a call that the history does not tell of: a length, or never
    #[arg(long, value_name = "LENGTH", default_value = "5m", value_parser = after)]
    pub replacement_after: After,

    /// Only what arrived at this time or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,

    /// Only what arrived before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,

    /// For how long the clock runs on after the last line
    #[arg(long, value_name = "LENGTH", default_value = "1h", value_parser = length)]
    pub run_on: SignedDuration,

    /// Tables for people, or one JSON object for programs
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,

    /// Write the comparison as one page for a browser, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write each policy's steps into this folder, too, as `nodemend replay --format json` does
    #[arg(long, value_name = "FOLDER")]
    pub steps: Option<PathBuf>,

    /// Exit with 1 if a policy makes more false repairs than this
    #[arg(long, value_name = "COUNT")]
    pub max_false: Option<usize>,

    /// How many files are read at once [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
}

const EXAMPLES: &str = "\
What counts:
  After a repair that was never made, the history still shows the old node. So a repair is judged by
  what became of its node:
    false    well by itself within --false-within of the call, and that held
    true     gone (terminated by EKS, a person, a scale-in), rebooted, or sick for longer
    unclear  the history ends before
  A repair that was due, and that guards withheld until the trouble was over, is judged alike: spared
  if the node was well by itself so soon after, else lost. A replaced instance says nothing more, and
  its replacement is well. A reboot is taken to have changed nothing that the history does not show.

Examples:
  aws logs create-export-task --log-group-name /nodemend/prod/nodes --from … --to … --destination bucket
  aws s3 cp --recursive s3://bucket/exportedlogs exported/
  nodemend backtest exported/ --policy now=policy.yaml --policy bold=bold.yaml --html comparison.html
  nodemend backtest exported/ --format json | jq '.policies[] | {name, totals}'
  nodemend backtest exported/ --policy policy.yaml --max-false 0   # before a policy is applied
  nodemend backtest --log-group /nodemend/prod/nodes --log-group /aws/eks/prod/cluster \\
      --since 2026-08-01T00:00:00Z                                 # a build with the feature aws

Exit codes:
  0  every line could be read
  1  some could not, and the first of them are named on stderr as file:line: why; or a policy made more
     false repairs than --max-false
  64 wrong usage, policy or fleet";

/// When a replacement is ready.
#[derive(Debug, Clone, Copy)]
pub struct After(Option<SignedDuration>);

fn after(text: &str) -> Result<After, String> {
    if text == "never" { Ok(After(None)) } else { length(text).map(|length| After(Some(length))) }
}

/// Whether calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeOption {
    /// They are.
    Repair,
    /// They are only told of.
    Observe,
    /// As each policy says.
    Own,
}

/// Why a backtest could not run.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
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
    /// A policy or a name for one is wrong.
    #[error("--policy {policy}: {why}")]
    Policy {
        /// Which.
        policy: String,
        /// What is wrong.
        why: String,
    },
    /// The times make no sense.
    #[error("--until: is not later than --since")]
    NoTime,
    /// Nobody has so many.
    #[error("more files than can be counted")]
    TooManyFiles,
    /// What was read can't be put aside, or had.
    #[error("failed to keep what was read in a temporary file: {0}")]
    Spill(#[source] io::Error),
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[source] io::Error),
    /// The handlers, or what they are given.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A bug of ours.
    #[error("the backtest stands still: {0}")]
    Broken(String),
    /// AWS can't be asked.
    #[cfg(feature = "aws")]
    #[error("failed to read log group {group}: {why}")]
    LogGroup {
        /// Which.
        group: String,
        /// Why.
        why: String,
    },
}

impl BacktestError {
    /// Whether the command line or a file it names is at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Policy { .. } | Self::NoTime => true,
            Self::Replay(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// A policy and its name.
struct Named {
    name: String,
    policy: Policy,
}

/// Runs a backtest; its exit code.
pub fn run(options: &Options) -> Result<u8, BacktestError> {
    let begun = Instant::now();
    if options.since.zip(options.until).is_some_and(|(since, until)| since >= until) {
        return Err(BacktestError::NoTime);
    }
    let policies = policies(options)?;
    let groups = match beside(options.fleet.as_ref(), &options.paths, "fleet.json") {
        Some(path) => Some(fleet::read(&path)?),
        None => None,
    };
    // Opened first: a name that can't be written is told before the work, not after it.
    let page = match &options.html {
        Some(path) => Some((path, create(path)?)),
        None => None,
    };
    let mut steps = Vec::new();
    for named in &policies {
        steps.push(match &options.steps {
            Some(folder) => {
                fs::create_dir_all(folder)
                    .map_err(|source| BacktestError::Write { path: folder.clone(), source })?;
                let file = create(&folder.join(format!("{}.jsonl", named.name)))?;
                Some(Box::new(io::BufWriter::new(file)) as Box<dyn Write + Send>)
            }
            None => None,
        });
    }
    let found = files::find(&options.paths)?;
    let asked = shape::Asked { patience: patience(&policies), since: options.since, until: options.until };
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let read = read::read(&found.files, asked, threads, progress::Bar::on_terminal())?;
    let files = found.files;
    #[cfg(feature = "aws")]
    let (read, files) = logs::add(options, asked, read, files)?;
    let (outcomes, last) = try_all(&policies, &read, &files, groups.as_deref(), options, steps, threads)?;
    let Some(first) = outcomes.first() else { return Ok(0) };

    for (file, line, why) in &read.counts.named {
        let name = files.get(*file as usize).map(|file| file.path.display().to_string());
        tell(&format!("{}:{line}: {why}", name.unwrap_or_default()))?;
    }
    first.bad.iter().take(MAX_NAMED).try_for_each(|why| tell(why))?;
    let unreadable = read.counts.unreadable + first.bad.len() as u64;
    let told = read.counts.named.len() + first.bad.len().min(MAX_NAMED);
    if unreadable > told as u64 {
        tell(&format!("and {} more lines that could not be read", unreadable - told as u64))?;
    }

    let comparison = report::Comparison {
        history: report::Facts {
            from: read.counts.span.map(|(from, _)| from),
            to: read.counts.span.map(|(_, to)| to),
            nodes: first.nodes,
            files: files.len(),
            streams_left_out: found.other_streams,
            lines: read.counts.lines,
            taken_in: read.history.count(),
            bytes: read.counts.bytes,
            bytes_on_disk: read.packed,
            unreadable,
            reading_seconds: rounded(read.took.as_secs_f64()),
            seconds: rounded(begun.elapsed().as_secs_f64()),
            threads: read.threads,
            peak_memory_bytes: progress::peak_memory(),
        },
        assumed: report::Terms {
            false_within_seconds: options.false_within.as_secs(),
            replacement_after_seconds: options.replacement_after.0.map(|after| after.as_secs()),
            run_on_seconds: options.run_on.as_secs(),
            mode: match options.mode {
                ModeOption::Repair => "repair",
                ModeOption::Observe => "observe",
                ModeOption::Own => "own",
            },
        },
        policies: policies
            .iter()
            .zip(&outcomes)
            .map(|(named, outcome)| report::Verdicts::new(&named.name, outcome, options.false_within, last))
            .collect(),
    };
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => text::write(&mut out, &comparison).map_err(BacktestError::Output)?,
        Format::Json => {
            let json = serde_json::to_string_pretty(&comparison).map_err(io::Error::other);
            writeln!(out, "{}", json.map_err(BacktestError::Output)?).map_err(BacktestError::Output)?;
        }
    }
    out.flush().map_err(BacktestError::Output)?;
    if let Some((path, mut file)) = page {
        file.write_all(html::page(&comparison).as_bytes())
            .map_err(|source| BacktestError::Write { path: path.clone(), source })?;
    }
    let too_many =
        |limit: usize| comparison.policies.iter().any(|policy| policy.totals.false_repairs > limit);
    Ok(u8::from(unreadable > 0 || options.max_false.is_some_and(too_many)))
}

/// How many lines that the handlers refuse are named.
const MAX_NAMED: usize = 20;

/// A line of somebody's log may hold anything: it must not repaint the terminal.
fn tell(line: &str) -> Result<(), BacktestError> {
    let line = crate::table::plain(line);
    writeln!(io::stderr().lock(), "{line}").map_err(BacktestError::Output)
}

/// Milliseconds: what is beyond them is noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn create(path: &Path) -> Result<fs::File, BacktestError> {
    fs::File::create(path).map_err(|source| BacktestError::Write { path: path.to_owned(), source })
}

/// Tries each policy on the same history, as many at once as there are threads.
fn try_all(
    policies: &[Named],
    read: &read::Reading,
    files: &[files::File],
    groups: Option<&[Group]>,
    options: &Options,
    steps: Vec<Option<Box<dyn Write + Send>>>,
    threads: usize,
) -> Result<(Vec<trial::Outcome>, Timestamp), BacktestError> {
    let mut world = World::default();
    for entry in read.history.by_time().map_err(BacktestError::Spill)? {
        let put = record::read(entry.map_err(BacktestError::Spill)?, "");
        let put = put.ok_or_else(|| BacktestError::Spill(io::ErrorKind::InvalidData.into()))?;
        world.take_in(&put.input);
    }
    let last = read.counts.span.map_or(Timestamp::UNIX_EPOCH, |(_, last)| last);
    let terms = trial::Terms { replacement_after: options.replacement_after.0, run_on: options.run_on, last };
    let waiting = Mutex::new(policies.iter().zip(steps).enumerate().rev().collect::<Vec<_>>());
    let done: Mutex<Vec<(usize, Result<trial::Outcome, BacktestError>)>> = Mutex::default();
    let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..threads.min(policies.len()) {
            scope.spawn(|| {
                while let Some((place, (named, steps))) = next() {
                    let trial = trial::Trial::new(&world, &named.policy, groups, terms, steps);
                    let outcome = trial.map_or_else(
                        || Ok(trial::Outcome::default()),
                        |trial| trial.run(&read.history, files),
                    );
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((place, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    let outcomes = done.into_iter().map(|(_, outcome)| outcome).collect::<Result<Vec<_>, _>>()?;
    Ok((outcomes, last))
}

/// Which heartbeats can be told apart from silence under all of these policies, and when a node has settled.
fn patience(policies: &[Named]) -> sift::Patience {
    let silent = policies.iter().filter_map(|named| named.policy.silence.agent_silent_after).min();
    let reset =
        policies.iter().map(|named| named.policy.recovery_hold.max(named.policy.reboot_timeout)).max();
    let settled = SignedDuration::from_mins(15).max(reset.unwrap_or_default());
    let millis = |length: SignedDuration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX / 4);
    sift::Patience { silent: silent.map_or(i64::MAX / 4, millis), settled: millis(settled) + 60_000 }
}

fn policies(options: &Options) -> Result<Vec<Named>, BacktestError> {
    let mut policies = Vec::new();
    for policy in &options.policy {
        let (name, path) = match policy.split_once('=') {
            Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
            None => {
                let path = PathBuf::from(policy);
                (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path)
            }
        };
        let refuse = |why: &str| BacktestError::Policy { policy: policy.clone(), why: why.to_owned() };
        if name.is_empty() || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
            return Err(refuse("is no name: give it one, as in --policy bold=policy.yaml"));
        }
        if policies.iter().any(|known: &Named| known.name == name) {
            return Err(refuse(
                "another policy has this name: give it its own, as in --policy bold=policy.yaml",
            ));
        }
        policies.push(Named { name, policy: read_policy(&path, policy)? });
    }
    if policies.is_empty() {
        policies.push(match beside(None, &options.paths, "policy.yaml") {
            Some(path) => {
                Named { name: "policy".to_owned(), policy: read_policy(&path, &path.display().to_string())? }
            }
            None => Named { name: "eks-defaults".to_owned(), policy: Policy::eks_defaults() },
        });
    }
    let mode = match options.mode {
        ModeOption::Repair => Mode::Repair,
        ModeOption::Observe => Mode::Observe,
        ModeOption::Own => return Ok(policies),
    };
    for named in &mut policies {
        named.policy.mode = mode;
        named.policy.groups.iter_mut().for_each(|rule| rule.mode = None);
    }
    Ok(policies)
}

fn read_policy(path: &Path, named: &str) -> Result<Policy, BacktestError> {
    let text =
        fs::read_to_string(path).map_err(|source| BacktestError::Read { path: path.to_owned(), source })?;
    config::read_policy(&text)
        .map_err(|error| BacktestError::Policy { policy: named.to_owned(), why: error.to_string() })
}

/// The file that a flag names, else the one of that name in a folder of the history.
fn beside(flag: Option<&PathBuf>, paths: &[PathBuf], name: &str) -> Option<PathBuf> {
    flag.cloned().or_else(|| paths.iter().map(|path| path.join(name)).find(|path| path.is_file()))
}
