//! Probes: parts of the node that are read at intervals and evaluated.

pub mod accelerator;
pub mod kernel;
pub mod latch;
pub mod network;
pub mod runtime;
pub mod storage;

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;

use crate::{config::Config, finding::FindingChange};

/// Reads a part of the node at intervals and emits changes of findings.
pub trait Probe: Send {
    /// The name that `scan` prints and `--without` accepts.
    fn name(&self) -> &'static str;
    /// The reasons that it may raise.
    fn reasons(&self) -> &'static [&'static str];
    /// The default interval between readings.
    fn interval(&self) -> Duration;
    /// Reads once: raises each problem that it finds and clears each that it no longer finds.
    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable>;
}

/// Why a probe cannot be evaluated: no such hardware, no permission, no such file. This is not a problem of the node
/// and is logged once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotCheckable {
    /// The cause, as a clause.
    pub why: Cow<'static, str>,
}

/// The probes that are turned on.
pub fn all(config: &Config) -> Vec<Box<dyn Probe>> {
    let mut probes = every(config);
    probes.retain(|probe| !config.without.iter().any(|name| name == probe.name()));
    probes
}

/// The names of all probes, including those that are turned off.
pub fn names(config: &Config) -> Vec<&'static str> {
    every(config).iter().map(|probe| probe.name()).collect()
}

fn every(config: &Config) -> Vec<Box<dyn Probe>> {
    let mut probes = network::probes(&config.root, &config.into());
    probes.extend(runtime::probes(&config.root));
    probes.extend(accelerator::probes(&config.root));
    probes.extend(storage::probes(&config.root));
    probes.extend(kernel::probes(&config.root));
    probes
}

fn not_checkable(why: impl Into<Cow<'static, str>>) -> NotCheckable {
    NotCheckable { why: why.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nodemend_domain::catalogue;

    use super::*;
    use crate::config::Settings;

    #[test]
    fn every_reason_is_in_the_catalogue_and_every_name_is_given_once() {
        let probes = all(&Settings::default().check().expect("the defaults"));
        for reason in probes.iter().flat_map(|probe| probe.reasons()) {
            assert!(catalogue::lookup(reason).is_some(), "{reason}");
        }
        let names: BTreeSet<_> = probes.iter().map(|probe| probe.name()).collect();
        assert_eq!(names.len(), probes.len(), "{names:?}");
    }
}
