//! Evaluates packet filter rules: rejected traffic, a blocked metadata service, a diverted kubelet port.
//!
//! A rule that Kubernetes or the CNI installs is recognized by its content, not by its chain alone. One `DROP` rule
//! for the metadata service must be found in any chain.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use crate::source::firewall::{
    FirewallChain, FirewallRule, IpFamily, KUBELET_PORT, NetfilterHook, Packet, PacketMatch, RuleMatch,
    RuleVerdict, Ruleset,
};

/// The address of the instance metadata service.
pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Chains that call each other deeper than this form a loop, which the kernel rejects anyway.
const MAX_DEPTH: usize = 32;
/// The maximum number of rules evaluated for one packet.
const MAX_STEPS: usize = 200_000;

/// Rules of one chain that drop or reject packets and that no known component installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnexpectedReject {
    /// The chain as `table/chain`.
    pub chain: String,
    pub family: IpFamily,
    /// The text of the first such rule.
    pub rule: String,
    /// The number of such rules in the chain.
    pub count: usize,
}

/// Finds rules that reject or drop, one result a chain, except in the expected chains.
pub fn unexpected_rejects(ruleset: &Ruleset, expected: &[(String, String)]) -> Vec<UnexpectedReject> {
    let mut found: BTreeMap<(&str, &str, IpFamily), UnexpectedReject> = BTreeMap::new();
    for chain in &ruleset.chains {
        if expected.iter().any(|(table, name)| *table == chain.table && *name == chain.name) {
            continue;
        }
        for rule in chain.rules.iter().filter(|rule| rule.verdict.loses_packet() && !is_known(chain, rule)) {
            found
                .entry((&chain.table, &chain.name, chain.family))
                .and_modify(|rejecting| rejecting.count += 1)
                .or_insert_with(|| UnexpectedReject {
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
fn is_known(chain: &FirewallChain, rule: &FirewallRule) -> bool {
    let name = chain.name.as_str();
    let comment_has = |text: &str| rule.comment.contains(text);
    // kube-proxy's own table in nftables mode, and Calico's.
    if matches!(chain.table.as_str(), "kube-proxy" | "calico") || name.starts_with("cali-") {
        return true;
    }
    if comment_has("Block Node Local Pod access") {
        return true;
    }
    match name {
        "KUBE-FORWARD" => rule.matches.iter().any(
            |rule_match| matches!(rule_match, RuleMatch::State(states) if states.invalid && !states.new && !states.known),
        ),
        "KUBE-FIREWALL" => rule.matches.iter().any(|rule_match| match rule_match {
            RuleMatch::Mark { unmarked } => !unmarked,
            RuleMatch::Destination { network, negated: false } => network.address.is_loopback(),
            _ => false,
        }),
        "KUBE-SOURCE-RANGES-FIREWALL" => true,
        _ if name.starts_with("KUBE-IPVS-") => true,
        // Services without endpoints, and load balancer source ranges.
        _ if name.starts_with("KUBE-") => {
            comment_has("has no endpoints") || comment_has("has no local endpoints") || comment_has("traffic not accepted by KUBE-FW-")
        }
        _ => false,
    }
}

/// Finds the rule or chain policy that blocks the host's access to the metadata service.
///
/// Only a rule that drops every such packet counts. A rule for one user, or for every user but root, is a protection
/// that AWS documents.
pub fn metadata_blocked(ruleset: &Ruleset, interface: Option<&str>) -> Option<String> {
    let packet = Packet { destination: METADATA, port: 80, interface };
    let mut tables: HashMap<(IpFamily, &str), HashMap<&str, &FirewallChain>> = HashMap::new();
    for chain in ruleset.chains.iter().filter(|chain| chain.family != IpFamily::V6) {
        tables.entry((chain.family, &chain.table)).or_default().insert(&chain.name, chain);
    }
    let entered = |chain: &&FirewallChain| {
        matches!(chain.hook, Some(NetfilterHook::Output | NetfilterHook::Postrouting))
            && chain.family != IpFamily::V6
            && chain.table != "nat"
    };
    ruleset.chains.iter().filter(entered).find_map(|chain| {
        let mut walk = PacketWalk {
            packet,
            chains: tables.get(&(chain.family, chain.table.as_str()))?,
            doubt: false,
            steps: 0,
        };
        match walk.pass(chain, true, 0) {
            ChainOutcome::Dropped(rule) => Some(format!("{}/{}: {rule}", chain.table, chain.name)),
            ChainOutcome::Continues if chain.policy_drops && !walk.doubt => {
                Some(format!("{}/{}: the chain's policy is DROP", chain.table, chain.name))
            }
            ChainOutcome::Continues | ChainOutcome::Accepted => None,
        }
    })
}

enum ChainOutcome {
    Dropped(String),
    Accepted,
    Continues,
}

/// One packet's path through the chains of one table.
struct PacketWalk<'a> {
    packet: Packet<'a>,
    chains: &'a HashMap<&'a str, &'a FirewallChain>,
    /// An earlier rule may have accepted some of these packets, so a later drop does not block all of them.
    doubt: bool,
    steps: usize,
}

impl PacketWalk<'_> {
    /// Passes the packet through a chain. `every` is false in a chain that only some such packets enter.
    fn pass(&mut self, chain: &FirewallChain, every: bool, depth: usize) -> ChainOutcome {
        if depth > MAX_DEPTH {
            return ChainOutcome::Continues;
        }
        for rule in &chain.rules {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.doubt = true;
                return ChainOutcome::Accepted;
            }
            let matched = match rule.matches_packet(&self.packet) {
                PacketMatch::No => continue,
                PacketMatch::Some => false,
                PacketMatch::All => every,
            };
            match &rule.verdict {
                RuleVerdict::Drop | RuleVerdict::Reject if matched && !self.doubt => {
                    return ChainOutcome::Dropped(format!("{}{}", through(chain), rule.text));
                }
                RuleVerdict::Drop | RuleVerdict::Reject | RuleVerdict::Divert | RuleVerdict::Continue => {}
                RuleVerdict::Accept if matched => return ChainOutcome::Accepted,
                RuleVerdict::Return if matched => return ChainOutcome::Continues,
                RuleVerdict::Accept | RuleVerdict::Return => self.doubt = true,
                RuleVerdict::Jump(name) | RuleVerdict::Goto(name) => {
                    // A target that is not a chain is an unknown target; packets may be accepted there.
                    let Some(next) = self.chains.get(name.as_str()).copied() else {
                        self.doubt = true;
                        continue;
                    };
                    let flow = self.pass(next, matched, depth + 1);
                    match flow {
                        ChainOutcome::Continues
                            if matched && matches!(rule.verdict, RuleVerdict::Goto(_)) =>
                        {
                            return ChainOutcome::Continues;
                        }
                        ChainOutcome::Continues => {}
                        ChainOutcome::Accepted if !matched => self.doubt = true,
                        ChainOutcome::Accepted | ChainOutcome::Dropped(_) => return flow,
                    }
                }
            }
        }
        ChainOutcome::Continues
    }
}

/// The chain's name as a prefix, for a chain reached by a jump: nftables' rule text does not contain it.
fn through(chain: &FirewallChain) -> String {
    if chain.hook.is_some() { String::new() } else { format!("{}: ", chain.name) }
}

/// Finds rules that divert the kubelet's port to another destination.
pub fn port_conflicts(ruleset: &Ruleset) -> Vec<String> {
    let diverts = |rule: &&FirewallRule| rule.verdict == RuleVerdict::Divert && rule.names_port(KUBELET_PORT);
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
