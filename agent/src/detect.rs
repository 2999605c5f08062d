//! Turns log lines into findings.
//!
//! This module is pure: a line arrives with its timestamp, changes of findings leave, and the only state is what a
//! few detectors need of earlier lines. Most lines match nothing, so a first pass searches for literals that every
//! pattern requires. A regular expression runs only on a line that contains one.

mod accelerator;
pub(crate) mod cgroup;
mod cron;
pub mod firewall;
pub mod interface;
mod kernel;
mod matcher;
mod memory;
mod network;
mod pattern;
pub mod rules;
mod runtime;
mod state;
mod storage;
mod text;
mod writers;

use std::collections::BTreeSet;

use self::{
    matcher::Matcher,
    pattern::LinePattern,
    rules::{RuleEvaluator, RuleFile},
    state::DetectorState,
    writers::Writers,
};
use crate::{
    finding::FindingChange,
    signal::{LogLine, Origin},
};

pub use self::{matcher::DetectorError, storage::host_devices, writers::Trust};

/// Finds problems in log lines.
#[derive(Debug)]
pub struct Detector {
    trust: Trust,
    kernel: Matcher,
    services: Matcher,
    state: DetectorState,
    rules: RuleEvaluator,
}

impl Detector {
    /// Creates a detector with the built-in patterns and the rules of these files.
    pub fn new(files: &[RuleFile]) -> Result<Self, DetectorError> {
        let (kernel, services): (Vec<_>, Vec<_>) =
            built_in_patterns().partition(|line_pattern| line_pattern.writers == Writers::KERNEL);
        Ok(Self {
            trust: Trust::default(),
            kernel: Matcher::new(kernel)?,
            services: Matcher::new(services)?,
            state: DetectorState::default(),
            rules: RuleEvaluator::new(files)?,
        })
    }

    /// Sets which kernel log records are trusted.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sets the block devices that carry the host's own filesystems, by kernel name (`nvme0n1p1`, `dm-0`).
    ///
    /// A broken filesystem makes a condition False only if it is on one of these devices. On a pod's volume it is an
    /// event. Until this is called, every broken filesystem is an event.
    pub fn set_host_devices(&mut self, devices: BTreeSet<String>) {
        self.state.host_devices = devices;
    }

    /// The reasons that the built-in patterns raise, without the numbered families (`NvidiaXID<n>Error`).
    pub fn reasons() -> BTreeSet<&'static str> {
        built_in_patterns().flat_map(|line_pattern| line_pattern.reasons.iter().copied()).collect()
    }

    /// Matches one line and appends the resulting changes to `out`.
    pub fn detect(&mut self, line: &LogLine<'_>, out: &mut Vec<FindingChange>) {
        if !self.trusts(&line.origin) {
            // A user's rule may accept records of any facility; it has its own setting for that.
            self.rules.evaluate(line, self.trust, out);
            return;
        }
        let writers = Writers::of(&line.origin);
        let matcher = if writers == Writers::KERNEL { &self.kernel } else { &self.services };
        if writers != Writers::NONE {
            matcher.match_line(writers, line, &mut self.state, out);
        }
        self.rules.evaluate(line, self.trust, out);
    }

    fn trusts(&self, origin: &Origin<'_>) -> bool {
        match origin {
            Origin::Kernel { facility, .. } => *facility == 0 || self.trust == Trust::AnyFacility,
            Origin::Unit(_) | Origin::File(_) => true,
        }
    }
}

fn built_in_patterns() -> impl Iterator<Item = LinePattern> {
    [
        kernel::PATTERNS,
        memory::PATTERNS,
        network::PATTERNS,
        storage::PATTERNS,
        runtime::PATTERNS,
        cron::PATTERNS,
        accelerator::PATTERNS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
