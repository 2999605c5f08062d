//! Reads the host's packet filter rules and evaluates them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::not_checkable;
use crate::{
    detect::firewall,
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        child::Runner,
        firewall::{IpFamily, Ruleset, legacy, nft},
        netlink::route,
    },
};

const REJECTS: &str = "UnexpectedRejectRule";
const BLOCKED: &str = "MetadataServiceBlocked";
const CONFLICT: &str = "PortConflict";
/// The subject that separates this finding from the metadata-service probe's: each probe clears only what it raised.
const BY_RULE: &str = "firewall";

pub(super) struct Firewall {
    root: PathBuf,
    expected: Vec<(String, String)>,
    /// Runs the tool that prints the legacy tables, one for each family.
    legacy: [(IpFamily, Runner); 2],
    latch: ConditionLatch,
}

impl Firewall {
    pub(super) fn new(root: &Path, expected: Vec<(String, String)>) -> Self {
        let legacy = [IpFamily::V4, IpFamily::V6].map(|family| (family, Runner::default()));
        Self { root: root.to_owned(), expected, legacy, latch: ConditionLatch::default() }
    }

    /// The rules that can be read, and the errors of those that cannot.
    fn rulesets(&mut self) -> (Vec<Ruleset>, Vec<String>) {
        let mut rulesets = Vec::new();
        let mut gaps = Vec::new();
        match nft::read() {
            Ok(ruleset) => rulesets.push(ruleset),
            Err(error) => gaps.push(error.clause()),
        }
        for (family, runner) in &mut self.legacy {
            match legacy::read(&self.root, *family, runner) {
                Ok(ruleset) => rulesets.push(ruleset),
                Err(error) => gaps.push(error.to_string()),
            }
        }
        let unreadable: u64 = rulesets.iter().map(|ruleset| ruleset.unreadable).sum();
        if unreadable > 0 {
            gaps.push(format!("{unreadable} packet filter rules cannot be parsed"));
        }
        (rulesets, gaps)
    }

    fn evaluate(&self, rulesets: &[Ruleset]) -> Vec<Evaluation> {
        let interface = default_interface();
        let mut evaluated = vec![
            Evaluation::healthy(REJECTS),
            Evaluation::healthy(CONFLICT),
            Evaluation::new(
                BLOCKED,
                rulesets
                    .iter()
                    .find_map(|ruleset| firewall::metadata_blocked(ruleset, interface.as_deref()))
                    .map(|why| format!("the instance metadata service is blocked by {why}")),
            )
            .about(BY_RULE),
        ];
        for ruleset in rulesets {
            for rejecting in firewall::unexpected_rejects(ruleset, &self.expected) {
                let more = match rejecting.count {
                    1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                let subject = format!("{} {}", rejecting.family.name(), rejecting.chain);
                let message = format!("{subject} rejects traffic: {}{more}", rejecting.rule);
                evaluated.push(Evaluation::unhealthy(REJECTS, message).about(subject));
            }
            for rule in firewall::port_conflicts(ruleset) {
                evaluated.push(
                    Evaluation::unhealthy(CONFLICT, format!("port 10250 is diverted by {rule}")).about(rule),
                );
            }
        }
        evaluated
    }
}

/// The interface of the default route.
fn default_interface() -> Option<String> {
    let routes = route::routes().ok()?;
    let index = routes
        .iter()
        .find(|route| {
            !route.v6 && route.table == route::MAIN_TABLE && route.destination.is_none() && route.passes
        })?
        .interface?;
    Some(route::links().ok()?.into_iter().find(|link| link.index == index)?.name)
}

impl Probe for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[REJECTS, BLOCKED, CONFLICT]
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let (rulesets, gaps) = self.rulesets();
        let mut evaluated = self.evaluate(&rulesets);
        if !gaps.is_empty() {
            // Problems that were found are raised. Nothing is cleared, since the unread rules may have problems as
            // well.
            evaluated.retain(Evaluation::is_unhealthy);
            if evaluated.is_empty() {
                return Err(not_checkable(gaps.join("; ")));
            }
            return Ok(self.latch.add(evaluated, now));
        }
        Ok(self.latch.update(evaluated, now))
    }
}
