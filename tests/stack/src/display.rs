//! Prints the steps that the functions log, as they happen.

use std::io::{self, Write};

use nodemend_domain::repair_event::{RepairEvent, Step};
use serde_json::Value;

use super::{fault::ExpectedEnd, lambda::FunctionUpdate, outcome::Incident};

/// How steps are printed. nodemend prints them as its replay does.
pub trait Output {
    /// Prints one step, when it happens.
    ///
    /// # Errors
    /// If the output can't be written.
    fn step(&mut self, out: &mut dyn Write, repair_event: &RepairEvent) -> io::Result<()>;

    /// Prints the summary of all steps, and how many log lines could not be read.
    ///
    /// # Errors
    /// If the output can't be written.
    fn end(&self, out: &mut dyn Write, repair_events: &[RepairEvent], unreadable: usize) -> io::Result<()>;
}

/// The output, and all steps that were printed.
pub(super) struct Display<O> {
    output: O,
    repair_events: Vec<RepairEvent>,
    unreadable: usize,
}

impl<O: Output> Display<O> {
    pub(super) fn new(output: O) -> Self {
        Self { output, repair_events: Vec::new(), unreadable: 0 }
    }

    /// Prints an update of a function: a step to stdout, a failure to stderr.
    pub(super) fn show(&mut self, function: &str, update: FunctionUpdate) -> io::Result<()> {
        match update {
            FunctionUpdate::Log(line) => self.log(function, &line)?,
            FunctionUpdate::Stderr(line) => anstream::eprintln!("{function}: {}", printable(&line)),
            FunctionUpdate::Failed { why, retry_in: Some(wait) } => {
                anstream::eprintln!(
                    "{function}: {}; retry in {}s",
                    printable(&why.to_string()),
                    wait.as_secs()
                );
            }
            FunctionUpdate::Failed { why, retry_in: None } => {
                anstream::eprintln!("{function}: {}; no more retries", printable(&why.to_string()));
            }
        }
        Ok(())
    }

    fn log(&mut self, function: &str, line: &str) -> io::Result<()> {
        // The line also has fields for CloudWatch metrics, which are ignored here.
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
        // A line that has neither a step nor metrics reports an error.
        if value.get("_aws").is_none() {
            anstream::eprintln!("{function}: {}", printable(line));
        }
        Ok(())
    }

    /// Whether the last step of an incident was printed.
    pub(super) fn has_shown_end(&self, incident: &Incident) -> bool {
        let last = match incident.expected_end {
            ExpectedEnd::Repaired => Step::Closed,
            ExpectedEnd::Recovered => Step::Recovered,
        };
        let is_last =
            |event: &RepairEvent| event.step == last && event.instance_id == incident.key.instance_id;
        self.repair_events.iter().any(is_last)
    }

    /// Prints the summary.
    pub(super) fn end(&self) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        self.output.end(&mut out, &self.repair_events, self.unreadable)?;
        out.flush()
    }
}

/// Replaces control characters: a log line can have any content, and it must not change the terminal.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
