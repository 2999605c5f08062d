//! Turns packet filter rules into what they break: rejected traffic, the metadata service, the kubelet's port.
//!
//! A rule that Kubernetes or the network plugin installs is recognised by what it says, not by its chain alone: our
//! users' first test is one `DROP` for the metadata service, and it must be seen wherever it was put.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use crate::source::firewall::{
    Chain, Concerns, Condition, Family, Hook, KUBELET_PORT, Packet, Rule, Ruleset, Verdict,
};

/// Where the instance metadata service answers.
pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Chains that call each other deeper than this are a loop, which the kernel doesn't take anyway.
const MAX_DEPTH: usize = 32;
/// The rules that one packet is led past at most.
const MAX_STEPS: usize = 200_000;

/// Rules of one chain that lose packets, and that nobody is known to have installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejecting {
    /// The chain's table and name.
    pub chain: String,
    /// The addresses that it is for.
    pub family: Family,
    /// The first of these rules.
    pub rule: String,
    /// How many there are.
    pub count: usize,
}

/// Finds rules that reject or drop, chain by chain, outside of those that are expected.
pub fn unexpected_rejects(ruleset: &Ruleset, expected: &[(String, String)]) -> Vec<Rejecting> {
    let mut found: BTreeMap<(&str, &str, Family), Rejecting> = BTreeMap::new();
    for chain in &ruleset.chains {
        if expected.iter().any(|(table, name)| *table == chain.table && *name == chain.name) {
            continue;
        }
        for rule in chain.rules.iter().filter(|rule| rule.verdict.loses() && !is_known(chain, rule)) {
            found
                .entry((&chain.table, &chain.name, chain.family))
                .and_modify(|rejecting| rejecting.count += 1)
                .or_insert_with(|| Rejecting {
                    chain: format!("{}/{}", chain.table, chain.name),
                    family: chain.family,
                    rule: rule.text.clone(),
                    count: 1,
                });
        }
    }
    found.into_values().collect()
}

/// Whether Kubernetes, the VPC CNI or Calico installs such a rule.
fn is_known(chain: &Chain, rule: &Rule) -> bool {
    let name = chain.name.as_str();
    let says = |text: &str| rule.comment.contains(text);
    // kube-proxy's own table in its nftables mode; Calico's in its.
    if matches!(chain.table.as_str(), "kube-proxy" | "calico") || name.starts_with("cali-") {
        return true;
    }
    if says("Block Node Local Pod access") {
        return true;
    }
    match name {
        "KUBE-FORWARD" => rule.conditions.iter().any(
            |condition| matches!(condition, Condition::State(states) if states.invalid && !states.new && !states.known),
        ),
        "KUBE-FIREWALL" => rule.conditions.iter().any(|condition| match condition {
            Condition::Mark { unmarked } => !unmarked,
            Condition::Destination { network, negated: false } => network.address.is_loopback(),
            _ => false,
        }),
        "KUBE-SOURCE-RANGES-FIREWALL" => true,
        _ if name.starts_with("KUBE-IPVS-") => true,
        // Services that nobody serves, and load balancers' source ranges.
        _ if name.starts_with("KUBE-") => {
            says("has no endpoints") || says("has no local endpoints") || says("traffic not accepted by KUBE-FW-")
        }
        _ => false,
    }
}

/// Finds what keeps the host itself from its metadata service: a rule, or a chain's policy.
///
/// Only what stops every such packet counts. A rule for one user, or for all but root, is a way to protect the
/// service that AWS itself documents.
pub fn metadata_blocked(ruleset: &Ruleset, interface: Option<&str>) -> Option<String> {
    let packet = Packet { destination: METADATA, port: 80, interface };
    let mut tables: HashMap<(Family, &str), HashMap<&str, &Chain>> = HashMap::new();
    for chain in ruleset.chains.iter().filter(|chain| chain.family != Family::V6) {
        tables.entry((chain.family, &chain.table)).or_default().insert(&chain.name, chain);
    }
    let entered = |chain: &&Chain| {
        matches!(chain.hook, Some(Hook::Output | Hook::Postrouting))
            && chain.family != Family::V6
            && chain.table != "nat"
    };
    ruleset.chains.iter().filter(entered).find_map(|chain| {
        let mut walk = Walk {
            packet,
            chains: tables.get(&(chain.family, chain.table.as_str()))?,
            doubt: false,
            steps: 0,
        };
        match walk.pass(chain, true, 0) {
            Flow::Lost(rule) => Some(format!("{}/{}: {rule}", chain.table, chain.name)),
            Flow::On if chain.policy_drops && !walk.doubt => {
                Some(format!("{}/{}: the chain's policy is DROP", chain.table, chain.name))
            }
            Flow::On | Flow::Accepted => None,
        }
    })
}

enum Flow {
    Lost(String),
    Accepted,
    On,
}

/// One packet on its way through a table's chains.
struct Walk<'a> {
    packet: Packet<'a>,
    chains: &'a HashMap<&'a str, &'a Chain>,
    /// Some such packets may have been let pass before.
    doubt: bool,
    steps: usize,
}

impl Walk<'_> {
    /// `every` is false in a chain that only some such packets enter.
    fn pass(&mut self, chain: &Chain, every: bool, depth: usize) -> Flow {
        if depth > MAX_DEPTH {
            return Flow::On;
        }
        for rule in &chain.rules {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.doubt = true;
                return Flow::Accepted;
            }
            let concerned = match rule.concerns(&self.packet) {
                Concerns::No => continue,
                Concerns::Some => false,
                Concerns::All => every,
            };
            match &rule.verdict {
                Verdict::Drop | Verdict::Reject if concerned && !self.doubt => {
                    return Flow::Lost(format!("{}{}", through(chain), rule.text));
                }
                Verdict::Drop | Verdict::Reject | Verdict::Divert | Verdict::Continue => {}
                Verdict::Accept if concerned => return Flow::Accepted,
                Verdict::Return if concerned => return Flow::On,
                Verdict::Accept | Verdict::Return => self.doubt = true,
                Verdict::Jump(name) | Verdict::Goto(name) => {
                    // What is no chain is a target that is not known: packets may end there.
                    let Some(next) = self.chains.get(name.as_str()).copied() else {
                        self.doubt = true;
                        continue;
                    };
                    let flow = self.pass(next, concerned, depth + 1);
                    match flow {
                        Flow::On if concerned && matches!(rule.verdict, Verdict::Goto(_)) => return Flow::On,
                        Flow::On => {}
                        Flow::Accepted if !concerned => self.doubt = true,
                        Flow::Accepted | Flow::Lost(_) => return flow,
                    }
                }
            }
        }
        Flow::On
    }
}

/// A rule of a chain that was jumped to doesn't name it in the text that nftables gives.
fn through(chain: &Chain) -> String {
    if chain.hook.is_some() { String::new() } else { format!("{}: ", chain.name) }
}

/// Finds rules that divert the kubelet's port elsewhere.
pub fn port_conflicts(ruleset: &Ruleset) -> Vec<String> {
    let diverts = |rule: &&Rule| rule.verdict == Verdict::Divert && rule.names_port(KUBELET_PORT);
    ruleset
        .chains
        .iter()
        .flat_map(|chain| {
            chain
                .rules
                .iter()
                .filter(diverts)
                .map(|rule| format!("{}/{}: {}", chain.table, chain.name, rule.text))
        })
        .collect()
}

#[cfg(test)]
mod tests;
