//! Turns lines of logs into findings.
//!
//! Pure: a line comes in with its time, changes go out, and the only memory is what a few detectors need of the
//! lines before. Most lines say nothing, so a first pass looks for the words without which no detector can
//! match; only then a regular expression decides.

mod accelerator;
pub(crate) mod cgroup;
mod cron;
pub mod firewall;
pub mod interface;
mod kernel;
mod matcher;
mod memory;
mod network;
pub mod rules;
mod runtime;
mod shape;
mod storage;

use std::collections::BTreeSet;

use self::{
    matcher::Matcher,
    rules::{RuleFile, Watch},
    shape::{State, Writers},
};
use crate::{
    finding::Change,
    signal::{Line, Origin},
};

pub use self::storage::host_devices;

/// Whose lines in the kernel's log are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those of facility 0: the kernel's own. A program that writes to `/dev/kmsg` cannot have it.
    #[default]
    KernelOnly,
    /// Anybody's: for trials on a node, where a person plays the kernel.
    AnyFacility,
}

/// Why a detector could not be built.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// A pattern cannot be compiled.
    #[error("failed to compile pattern {pattern:?}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: Box<regex::Error>,
    },
    /// The words that are looked for first cannot be compiled.
    #[error("failed to compile the words to look for")]
    Words(#[source] aho_corasick::BuildError),
}

/// Sees what is wrong in lines.
#[derive(Debug)]
pub struct Detector {
    trust: Trust,
    kernel: Matcher,
    services: Matcher,
    state: State,
    watch: Watch,
}

impl Detector {
    /// A detector with our rules and the users' own.
    pub fn new(files: &[RuleFile]) -> Result<Self, DetectorError> {
        let (kernel, services): (Vec<_>, Vec<_>) =
            shape::all().partition(|shape| shape.writers == Writers::KERNEL);
        Ok(Self {
            trust: Trust::default(),
            kernel: Matcher::new(kernel)?,
            services: Matcher::new(services)?,
            state: State::default(),
            watch: Watch::new(files)?,
        })
    }

    /// The same, believing others in the kernel's log.
    #[must_use]
    pub fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Says which devices carry the host's own filesystems, as the kernel names them (`nvme0n1p1`, `dm-0`).
    ///
    /// A broken filesystem makes the node bad only if it is one of these. A pod's volume never does, and until
    /// this is told nothing does: both are events then.
    pub fn know_host_devices(&mut self, devices: BTreeSet<String>) {
        self.state.host_devices = devices;
    }

    /// The reasons that our own detectors raise, without the families that carry a number.
    pub fn reasons() -> BTreeSet<&'static str> {
        shape::all().flat_map(|shape| shape.reasons.iter().copied()).collect()
    }

    /// Looks at a line and adds what it changes.
    pub fn detect(&mut self, line: &Line<'_>, out: &mut Vec<Change>) {
        if !self.believes(&line.origin) {
            // A user's rule may believe anybody; it says so itself.
            self.watch.look(line, self.trust, out);
            return;
        }
        let writers = Writers::of(&line.origin);
        let matcher = if writers == Writers::KERNEL { &self.kernel } else { &self.services };
        if writers != Writers::NOBODY {
            matcher.look(writers, line, &mut self.state, out);
        }
        self.watch.look(line, self.trust, out);
    }

    fn believes(&self, origin: &Origin<'_>) -> bool {
        match origin {
            Origin::Kernel { facility, .. } => *facility == 0 || self.trust == Trust::AnyFacility,
            Origin::Unit(_) | Origin::File(_) => true,
        }
    }
}

/// The first bytes of a text, cut between two characters.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
