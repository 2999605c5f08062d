//! What a probe is: something that is read at intervals and judged.

pub mod accelerator;
pub mod kernel;
pub mod network;
pub mod runtime;
pub mod standing;
pub mod storage;

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;

use crate::{config::Config, finding::Change};

/// Reads a part of the node at intervals, and says what changed.
pub trait Probe: Send {
    /// Its name, as `scan` prints it.
    fn name(&self) -> &'static str;
    /// The reasons that it may raise.
    fn reasons(&self) -> &'static [&'static str];
    /// How often it is read.
    fn interval(&self) -> Duration;
    /// Reads once: what is wrong is raised, what is well is cleared.
    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable>;
}

/// Why a probe has nothing to say: no such hardware, no permission, no such file. It is said once, and is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotCheckable {
    /// In a clause.
    pub why: Cow<'static, str>,
}

/// Every probe that is to run.
pub fn all(config: &Config) -> Vec<Box<dyn Probe>> {
    let mut probes = every(config);
    probes.retain(|probe| !config.without.iter().any(|name| name == probe.name()));
    probes
}

/// The names of all probes, whether or not they are to run.
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
