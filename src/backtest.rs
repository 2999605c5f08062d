//! `nodemend backtest`: compares policies on recorded history.
//!
//! Files are streamed once, filtered and sorted by time (`reader`, `format`, `prefilter`, `external_sort`). Each policy
//! then runs through the same handlers as in a replay (`policy_run`), and its repairs are classified by what the
//! history shows about their nodes afterwards (`classify`, `report`). Memory stays bounded for any input size.

mod assumed_events;
mod chart;
mod classify;
mod counts;
mod document;
mod entry;
mod error;
mod external_sort;
mod files;
mod format;
mod lines;
#[cfg(feature = "aws")]
mod log_groups;
mod options;
mod page;
mod policies;
mod policy_run;
mod prefilter;
mod progress;
mod reader;
mod report;
mod tables;
mod timestamp;

use std::{
    fs,
    io::{self, Write},
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::group::Group;

pub use self::{
    error::BacktestError,
    options::{BacktestMode, BacktestOptions, ReplacementDelay},
};
use self::{
    files::HistoryFile,
    policies::NamedPolicy,
    policy_run::{PolicyOutcome, PolicyRun, RunOptions, StepsOutput},
    reader::ReadHistory,
    report::Comparison,
};
use crate::{
    arguments::file_or_beside,
    file::{FileError, create},
    output::{Format, printable},
    replay::{environment::ReplayEnvironment, fleet},
};

/// Runs a backtest and returns its exit code.
pub fn run(options: &BacktestOptions) -> Result<u8, BacktestError> {
    let started = Instant::now();
    if options.since.zip(options.until).is_some_and(|(since, until)| since >= until) {
        return Err(BacktestError::EmptyRange);
    }
    let policies = policies::read(options)?;
    let groups = match file_or_beside(options.fleet.as_ref(), &options.paths, "fleet.json") {
        Some(path) => Some(fleet::read(&path)?),
        None => None,
    };
    // Created first, so that a path that cannot be written fails before the work and not after it.
    let page = match &options.html {
        Some(path) => Some((path, create(path)?)),
        None => None,
    };
    let steps = create_steps(options, &policies)?;
    let found = files::find(&options.paths)?;
    let selection =
        format::Selection { thresholds: thresholds(&policies), since: options.since, until: options.until };
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let read = reader::read(&found.files, selection, threads, progress::ProgressBar::on_terminal())?;
    let files = found.files;
    #[cfg(feature = "aws")]
    let (read, files) = log_groups::add(options, selection, read, files)?;
    let runs =
        PolicyRuns { policies: &policies, read: &read, files: &files, groups: groups.as_deref(), threads };
    let (outcomes, last) = runs.run(options, steps)?;
    let Some(first) = outcomes.first() else { return Ok(0) };
    let unreadable = report_unreadable(&read, &files, &first.unreadable)?;

    let comparison = Comparison {
        history: report::HistoryFacts {
            from: read.counts.span.map(|(from, _)| from),
            to: read.counts.span.map(|(_, to)| to),
            nodes: first.nodes,
            files: files.len(),
            skipped_streams: found.skipped_streams,
            lines: read.counts.lines,
            relevant_lines: read.history.count(),
            bytes: read.counts.bytes,
            bytes_on_disk: read.bytes_on_disk,
            unreadable,
            reading_seconds: to_millis(read.took.as_secs_f64()),
            seconds: to_millis(started.elapsed().as_secs_f64()),
            threads: read.threads,
            peak_memory_bytes: progress::peak_memory(),
        },
        assumptions: report::Assumptions {
            unnecessary_within_seconds: options.unnecessary_within.as_secs(),
            replacement_after_seconds: options.replacement_after.0.map(|after| after.as_secs()),
            continue_for_seconds: options.continue_for.as_secs(),
            mode: options.mode.as_str(),
        },
        policies: policies
            .iter()
            .zip(&outcomes)
            .map(|(named, outcome)| {
                report::PolicyReport::new(&named.name, outcome, options.unnecessary_within, last)
            })
            .collect(),
    };
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => tables::write(&mut out, &comparison).map_err(BacktestError::Output)?,
        Format::Json => {
            let json = serde_json::to_string_pretty(&comparison).map_err(io::Error::other);
            writeln!(out, "{}", json.map_err(BacktestError::Output)?).map_err(BacktestError::Output)?;
        }
    }
    out.flush().map_err(BacktestError::Output)?;
    if let Some((path, mut file)) = page {
        file.write_all(page::render(&comparison)?.as_bytes()).map_err(FileError::writing(path))?;
    }
    let exceeds = |limit: usize| comparison.policies.iter().any(|policy| policy.totals.unnecessary > limit);
    Ok(u8::from(unreadable > 0 || options.max_unnecessary.is_some_and(exceeds)))
}

/// A file for each policy's steps, where they are wanted.
fn create_steps(
    options: &BacktestOptions,
    policies: &[NamedPolicy],
) -> Result<Vec<Option<StepsOutput>>, BacktestError> {
    let mut steps = Vec::new();
    for named in policies {
        steps.push(match &options.steps {
            Some(directory) => {
                fs::create_dir_all(directory).map_err(FileError::writing(directory))?;
                let file = create(&directory.join(format!("{}.jsonl", named.name)))?;
                Some(Box::new(io::BufWriter::new(file)) as StepsOutput)
            }
            None => None,
        });
    }
    Ok(steps)
}

/// Reports the first unreadable lines on stderr, and returns how many there are.
fn report_unreadable(
    read: &ReadHistory,
    files: &[HistoryFile],
    rejected: &[String],
) -> Result<u64, BacktestError> {
    for (file, line, why) in &read.counts.reported {
        let name = files.get(*file as usize).map(|file| file.path.display().to_string());
        print_error(&format!("{}:{line}: {why}", name.unwrap_or_default()))?;
    }
    rejected.iter().take(counts::MAX_REPORTED).try_for_each(|why| print_error(why))?;
    let unreadable = read.counts.unreadable + rejected.len() as u64;
    let reported = (read.counts.reported.len() + rejected.len().min(counts::MAX_REPORTED)) as u64;
    if unreadable > reported {
        print_error(&format!("and {} more unreadable lines", unreadable - reported))?;
    }
    Ok(unreadable)
}

fn print_error(line: &str) -> Result<(), BacktestError> {
    writeln!(io::stderr().lock(), "{}", printable(line)).map_err(BacktestError::Output)
}

fn to_millis(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The policies, and the history that each of them runs through.
struct PolicyRuns<'a> {
    policies: &'a [NamedPolicy],
    read: &'a ReadHistory,
    files: &'a [HistoryFile],
    groups: Option<&'a [Group]>,
    threads: usize,
}

impl PolicyRuns<'_> {
    /// Runs the policies, each on one thread; the outcomes in their order, and the last time of the history.
    fn run(
        &self,
        options: &BacktestOptions,
        steps: Vec<Option<StepsOutput>>,
    ) -> Result<(Vec<PolicyOutcome>, Timestamp), BacktestError> {
        let mut environment = ReplayEnvironment::new(self.policies.iter().map(|named| &named.policy));
        for entry in self.read.history.by_time().map_err(BacktestError::TemporaryFile)? {
            let stored = entry::read(entry.map_err(BacktestError::TemporaryFile)?, "")?;
            environment.observe(&stored.input);
        }
        let last = self.read.counts.span.map_or(Timestamp::UNIX_EPOCH, |(_, last)| last);
        let run_options = RunOptions {
            replacement_after: options.replacement_after.0,
            continue_for: options.continue_for,
            last,
        };
        let waiting = Mutex::new(self.policies.iter().zip(steps).enumerate().rev().collect::<Vec<_>>());
        let done: Mutex<Vec<(usize, Result<PolicyOutcome, BacktestError>)>> = Mutex::default();
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        thread::scope(|scope| {
            for _ in 0..self.threads.min(self.policies.len()) {
                scope.spawn(|| {
                    while let Some((index, (named, steps))) = next() {
                        let run =
                            PolicyRun::new(&environment, &named.policy, self.groups, run_options, steps);
                        let outcome = run.map_or_else(
                            || Ok(PolicyOutcome::default()),
                            |run| run.run(&self.read.history, self.files),
                        );
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        let outcomes = done.into_iter().map(|(_, outcome)| outcome).collect::<Result<Vec<_>, _>>()?;
        Ok((outcomes, last))
    }
}

/// The thresholds that hold for all of these policies.
fn thresholds(policies: &[NamedPolicy]) -> prefilter::Thresholds {
    let silent = policies.iter().filter_map(|named| named.policy.silence.agent_silent_after).min();
    let reset =
        policies.iter().map(|named| named.policy.recovery_hold.max(named.policy.reboot_timeout)).max();
    let settled = SignedDuration::from_mins(15).max(reset.unwrap_or_default());
    let millis = |duration: SignedDuration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
    prefilter::Thresholds {
        silent_after_ms: silent.map_or(i64::MAX / 4, millis),
        settled_after_ms: millis(settled) + 60_000,
    }
}
