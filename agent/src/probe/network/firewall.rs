//! Turns the host's packet filter rules into what they break.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::not_checkable;
use crate::{
    detect::firewall,
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        child::Runner,
        firewall::{Family, Ruleset, legacy, nft},
        netlink::route,
    },
};

const REJECTS: &str = "UnexpectedRejectRule";
const BLOCKED: &str = "MetadataServiceBlocked";
const CONFLICT: &str = "PortConflict";
/// The other way to see that the metadata service is out of reach is to try; each clears what it raised itself.
const BY_RULE: &str = "firewall";

pub(super) struct Firewall {
    root: PathBuf,
    expected: Vec<(String, String)>,
    /// What prints the legacy tables: a tool for each family.
    legacy: [(Family, Runner); 2],
    standing: Standing,
}

impl Firewall {
    pub(super) fn new(root: &Path, expected: Vec<(String, String)>) -> Self {
        let legacy = [Family::V4, Family::V6].map(|family| (family, Runner::default()));
        Self { root: root.to_owned(), expected, legacy, standing: Standing::default() }
    }

    /// Everything that can be read, and why the rest can't.
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
            gaps.push(format!("{unreadable} packet filter rules can't be read"));
        }
        (rulesets, gaps)
    }

    fn judge(&self, rulesets: &[Ruleset]) -> Vec<Judged> {
        let interface = default_interface();
        let mut judged = vec![
            Judged::well(REJECTS),
            Judged::well(CONFLICT),
            Judged::when(
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
                judged.push(Judged::wrong(REJECTS, message).about(subject));
            }
            for rule in firewall::port_conflicts(ruleset) {
                judged.push(Judged::wrong(CONFLICT, format!("port 10250 is diverted by {rule}")).about(rule));
            }
        }
        judged
    }
}

/// The interface of the default route, if there is one.
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let (rulesets, gaps) = self.rulesets();
        let mut judged = self.judge(&rulesets);
        if !gaps.is_empty() {
            // What was seen is wrong; what was not seen may be, so nothing is cleared.
            judged.retain(Judged::is_wrong);
            if judged.is_empty() {
                return Err(not_checkable(gaps.join("; ")));
            }
            return Ok(self.standing.add(judged, now));
        }
        Ok(self.standing.update(judged, now))
    }
}
