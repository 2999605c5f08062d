//! Turns what functions log into the timeline that replay prints, while it happens.

use std::io::{self, Write};

use nodemend_domain::occurrence::{Occurrence, Step};
use serde_json::Value;

use super::{fault::Ending, lambda::Word, verdict::Watched};
use crate::replay::{Format, json, text::Timeline};

/// What was shown so far.
pub(super) struct Screen {
    format: Format,
    timeline: Timeline,
    occurrences: Vec<Occurrence>,
    unreadable: usize,
}

impl Screen {
    pub(super) fn new(format: Format) -> Self {
        Self { format, timeline: Timeline::live(), occurrences: Vec::new(), unreadable: 0 }
    }

    /// Shows a word of a function: a step on stdout, what went wrong on stderr.
    pub(super) fn hear(&mut self, function: &str, word: Word) -> io::Result<()> {
        match word {
            Word::Log(line) => self.log(function, &line)?,
            Word::Stderr(line) => anstream::eprintln!("{function}: {}", printable(&line)),
            Word::Failed { why, again: Some(wait) } => {
                anstream::eprintln!(
                    "{function}: {}; again in {}s",
                    printable(&why.to_string()),
                    wait.as_secs()
                );
            }
            Word::Failed { why, again: None } => {
                anstream::eprintln!("{function}: {}; given up", printable(&why.to_string()));
            }
        }
        Ok(())
    }

    fn log(&mut self, function: &str, line: &str) -> io::Result<()> {
        // The line holds more, for CloudWatch's metrics.
        if let Ok(occurrence) = serde_json::from_str::<Occurrence>(line) {
            let mut out = anstream::stdout().lock();
            match self.format {
                Format::Text => self.timeline.step(&mut out, &occurrence)?,
                Format::Json => json::step(&mut out, &occurrence)?,
            }
            out.flush()?;
            self.occurrences.push(occurrence);
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
    pub(super) fn has_told(&self, watched: &Watched) -> bool {
        let last = match watched.ending {
            Ending::Repaired => Step::Closed,
            Ending::Recovered => Step::Recovered,
        };
        let is_last = |told: &Occurrence| told.step == last && told.instance_id == watched.key.instance_id;
        self.occurrences.iter().any(is_last)
    }

    /// Shows what came of it all.
    pub(super) fn end(&self) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        match self.format {
            Format::Text => self.timeline.end(&mut out, &self.occurrences)?,
            Format::Json => json::end(&mut out, &self.occurrences, self.unreadable)?,
        }
        out.flush()
    }
}

/// A line of somebody's log may hold anything: it must not repaint the terminal.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
