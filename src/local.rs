//! `nodemend up`: runs the local stack of `nodemend-stack`, and prints its steps as replay does.

use std::io::{self, Write};

use clap::Args;
use nodemend_domain::repair_event::RepairEvent;
pub use nodemend_stack::{UpError, child};

use crate::output::{Format, json, timeline::Timeline};

/// The arguments of `nodemend up`.
#[derive(Debug, Args)]
#[command(after_help = nodemend_stack::EXAMPLES)]
pub struct UpOptions {
    /// The options of the local stack.
    #[command(flatten)]
    pub stack: nodemend_stack::Options,

    /// A timeline to read, or JSON lines for scripts
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// Runs the stack until it is stopped, or with `--once` until the incident has ended. Returns whether the
/// exit code is 0.
pub fn run(options: &UpOptions) -> Result<bool, UpError> {
    nodemend_stack::run(&options.stack, Printer { format: options.format, timeline: Timeline::live() })
}

struct Printer {
    format: Format,
    timeline: Timeline,
}

impl nodemend_stack::Output for Printer {
    fn step(&mut self, mut out: &mut dyn Write, repair_event: &RepairEvent) -> io::Result<()> {
        match self.format {
            Format::Text => self.timeline.step(&mut out, repair_event),
            Format::Json => json::step(&mut out, repair_event),
        }
    }

    fn end(
        &self,
        mut out: &mut dyn Write,
        repair_events: &[RepairEvent],
        unreadable: usize,
    ) -> io::Result<()> {
        match self.format {
            Format::Text => self.timeline.end(&mut out, repair_events),
            Format::Json => json::end(&mut out, repair_events, unreadable),
        }
    }
}
