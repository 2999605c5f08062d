//! Turns what functions log into the steps that are printed, while they happen.

use std::io::{self, Write};

use nodemend_domain::repair_event::{RepairEvent, Step};
use serde_json::Value;

use super::{fault::Ending, lambda::FunctionUpdate, outcome::Watched};

/// How steps are printed. The command prints them as its replay does.
pub trait Output {
    /// Prints one step, when it is taken.
    ///
    /// # Errors
    /// When the output can't be written.
    fn step(&mut self, out: &mut dyn Write, repair_event: &RepairEvent) -> io::Result<()>;

    /// Prints what came of all steps, and how many log lines could not be read.
    ///
    /// # Errors
    /// When the output can't be written.
    fn end(&self, out: &mut dyn Write, repair_events: &[RepairEvent], unreadable: usize) -> io::Result<()>;
}

/// What was shown so far.
pub(super) struct Screen<O> {
    output: O,
    repair_events: Vec<RepairEvent>,
    unreadable: usize,
}

impl<O: Output> Screen<O> {
    pub(super) fn new(output: O) -> Self {
        Self { output, repair_events: Vec::new(), unreadable: 0 }
    }

    /// Shows an update of a function: a step on stdout, a failure on stderr.
    pub(super) fn show(&mut self, function: &str, update: FunctionUpdate) -> io::Result<()> {
        match update {
            FunctionUpdate::Log(line) => self.log(function, &line)?,
            FunctionUpdate::Stderr(line) => anstream::eprintln!("{function}: {}", printable(&line)),
            FunctionUpdate::Failed { why, again: Some(wait) } => {
                anstream::eprintln!(
                    "{function}: {}; again in {}s",
                    printable(&why.to_string()),
                    wait.as_secs()
                );
            }
            FunctionUpdate::Failed { why, again: None } => {
                anstream::eprintln!("{function}: {}; given up", printable(&why.to_string()));
            }
        }
        Ok(())
    }

    fn log(&mut self, function: &str, line: &str) -> io::Result<()> {
        // The line holds more, for CloudWatch's metrics.
        if let Ok(repair_event) = serde_json::from_str::<RepairEvent>(line) {
            let mut out = anstream::stdout().lock();
            self.output.step(&mut out, &repair_event)?;
            out.flush()?;
            self.repair_events.push(repair_event);
            return Ok(());
        }
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        let is_rejected = value.get("rejected").is_some();
        self.unreadable += usize::from(is_rejected);
        // A line that is neither a step nor numbers tells of what went wrong.
        if value.get("_aws").is_none() {
            anstream::eprintln!("{function}: {}", printable(line));
        }
        Ok(())
    }

    /// Whether the last step of an incident was shown.
    pub(super) fn has_shown_end(&self, watched: &Watched) -> bool {
        let last = match watched.ending {
            Ending::Repaired => Step::Closed,
            Ending::Recovered => Step::Recovered,
        };
        let is_last =
            |event: &RepairEvent| event.step == last && event.instance_id == watched.key.instance_id;
        self.repair_events.iter().any(is_last)
    }

    /// Shows the summary.
    pub(super) fn end(&self) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        self.output.end(&mut out, &self.repair_events, self.unreadable)?;
        out.flush()
    }
}

/// A line of somebody's log may hold anything: it must not repaint the terminal.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
