//! Reads the host's packet filters, legacy iptables and nftables, into one representation.
//!
//! A rule has what the evaluation needs: the packets that it matches, as far as known, and its verdict. A match that
//! is not understood is kept as [`RuleMatch::Other`], never dropped.

pub mod legacy;
pub mod nft;
pub mod save;
mod xtables;

use std::{fmt, net::IpAddr};

pub use crate::source::netlink::route::Network;

/// The rules of one packet filter. A packet passes only if all filters accept it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains with their rules.
    pub chains: Vec<FirewallChain>,
    /// The number of rules that could not be parsed.
    pub unreadable: u64,
}

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallChain {
    /// The IP versions of its packets.
    pub family: IpFamily,
    pub table: String,
    pub name: String,
    /// The hook where packets enter the chain; `None` for a chain that is only reached by jumps.
    pub hook: Option<NetfilterHook>,
    /// Whether packets that reach the end of the chain are dropped.
    pub policy_drops: bool,
    /// The rules that may matter to the evaluation, in order.
    pub rules: Vec<FirewallRule>,
}

/// The IP versions of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    V4,
    V6,
    Both,
}

impl IpFamily {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Both => "IPv4 and IPv6",
        }
    }
}

/// The netfilter hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetfilterHook {
    /// Packets that the host itself sends.
    Output,
    /// Packets that leave the host, including forwarded ones.
    Postrouting,
    Other,
}

/// A packet filter rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallRule {
    /// The packets that it matches: all matches must apply.
    pub matches: Vec<RuleMatch>,
    pub verdict: RuleVerdict,
    /// The comment in the rule.
    pub comment: String,
    /// The rule in iptables' syntax, as far as it was parsed.
    pub text: String,
}

/// The verdict of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleVerdict {
    /// Accepts the packet in this table.
    Accept,
    Drop,
    /// Drops the packet and sends an error.
    Reject,
    /// Evaluates another chain, then continues here.
    Jump(String),
    /// Evaluates another chain and does not continue here.
    Goto(String),
    /// Continues in the calling chain.
    Return,
    /// Redirects the packet to another address or port.
    Divert,
    /// Continues with the next rule.
    Continue,
}

/// A match of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleMatch {
    Destination {
        network: Network,
        /// Whether the destination must be outside the network.
        negated: bool,
    },
    Protocol {
        /// The IP protocol number; 0 means any.
        number: u8,
        /// Whether the protocol must be another.
        negated: bool,
    },
    DestinationPort {
        /// The first and last port of each range.
        ranges: Vec<(u16, u16)>,
        /// Whether the port must be outside the ranges.
        negated: bool,
    },
    /// The connection tracking state.
    State(ConntrackStates),
    OutInterface {
        /// The name; a trailing `+` matches any suffix.
        name: String,
        /// Whether the interface must be another.
        negated: bool,
    },
    Mark {
        /// Whether a packet without a mark matches.
        unmarked: bool,
    },
    /// A match that is not understood: some packets may match.
    Other,
}

/// Connection tracking states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConntrackStates {
    /// The first packet of a connection.
    pub new: bool,
    /// A packet that belongs to no connection.
    pub invalid: bool,
    /// Established or related.
    pub known: bool,
}

/// Whether a rule matches a kind of packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketMatch {
    /// No such packet matches.
    No,
    /// Some such packets may match.
    Some,
    /// Every such packet matches.
    All,
}

/// The first packet of a TCP connection that the host opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pub destination: IpAddr,
    pub port: u16,
    /// The outgoing interface, if known.
    pub interface: Option<&'a str>,
}

const TCP: u8 = 6;
/// The kubelet's API port.
pub const KUBELET_PORT: u16 = 10250;

impl RuleVerdict {
    /// Whether the packet is lost.
    pub fn loses_packet(&self) -> bool {
        matches!(self, Self::Drop | Self::Reject)
    }
}

impl FirewallRule {
    /// Whether the evaluation may need this rule. The `nat` table loses no packets and has some rules for each
    /// endpoint of each service in a large cluster; only those for the kubelet's port matter.
    fn matters(&self, table: &str) -> bool {
        match self.verdict {
            RuleVerdict::Continue => false,
            RuleVerdict::Divert => self.names_port(KUBELET_PORT),
            RuleVerdict::Drop | RuleVerdict::Reject => true,
            RuleVerdict::Accept | RuleVerdict::Jump(_) | RuleVerdict::Goto(_) | RuleVerdict::Return => {
                table != "nat"
            }
        }
    }

    /// Whether it matches a port explicitly, alone or within a range.
    pub fn names_port(&self, port: u16) -> bool {
        self.matches.iter().any(|rule_match| match rule_match {
            RuleMatch::DestinationPort { ranges, negated: false } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
            }
            _ => false,
        })
    }

    /// Whether this rule matches such a packet.
    pub fn matches_packet(&self, packet: &Packet<'_>) -> PacketMatch {
        self.matches
            .iter()
            .map(|rule_match| rule_match.matches_packet(packet))
            .min()
            .unwrap_or(PacketMatch::All)
    }
}

impl RuleMatch {
    fn matches_packet(&self, packet: &Packet<'_>) -> PacketMatch {
        let sure = |fulfilled: bool| if fulfilled { PacketMatch::All } else { PacketMatch::No };
        match self {
            Self::Destination { network, negated } => sure(network.contains(packet.destination) != *negated),
            Self::Protocol { number, negated } => sure(matches!(*number, 0 | TCP) != *negated),
            Self::DestinationPort { ranges, negated } => {
                let within = ranges.iter().any(|(first, last)| (*first..=*last).contains(&packet.port));
                sure(within != *negated)
            }
            Self::State(states) => sure(states.new),
            Self::OutInterface { name, negated } => match packet.interface {
                Some(interface) => {
                    let matched = match name.strip_suffix('+') {
                        Some(start) => interface.starts_with(start),
                        None => interface == name,
                    };
                    sure(matched != *negated)
                }
                None if name == "lo" => sure(*negated),
                None => PacketMatch::Some,
            },
            // The first packet of the host's own connection has no mark.
            Self::Mark { unmarked } => sure(*unmarked),
            Self::Other => PacketMatch::Some,
        }
    }
}

impl fmt::Display for RuleMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { "! " } else { "" };
        match self {
            Self::Destination { network, negated: false } if network.prefix == 0 => Ok(()),
            Self::Destination { network, negated } => write!(f, "{}-d {network}", not(*negated)),
            Self::Protocol { number: TCP, negated } => write!(f, "{}-p tcp", not(*negated)),
            Self::Protocol { number: 17, negated } => write!(f, "{}-p udp", not(*negated)),
            Self::Protocol { number, negated } => write!(f, "{}-p {number}", not(*negated)),
            Self::DestinationPort { ranges, negated } => {
                write!(f, "{}--dport ", not(*negated))?;
                for (index, (first, last)) in ranges.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    if first == last {
                        write!(f, "{comma}{first}")?;
                    } else {
                        write!(f, "{comma}{first}:{last}")?;
                    }
                }
                Ok(())
            }
            Self::State(states) => {
                let names =
                    [(states.new, "NEW"), (states.known, "ESTABLISHED,RELATED"), (states.invalid, "INVALID")];
                let names: Vec<_> = names.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
                write!(f, "--ctstate {}", names.join(","))
            }
            Self::OutInterface { name, negated } => write!(f, "{}-o {name}", not(*negated)),
            Self::Mark { unmarked: true } => f.write_str("--mark 0"),
            Self::Mark { unmarked: false } => f.write_str("--mark …"),
            Self::Other => f.write_str("…"),
        }
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Reject => f.write_str("-j REJECT"),
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Goto(chain) => write!(f, "-g {chain}"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Divert => f.write_str("-j DNAT"),
            Self::Continue => Ok(()),
        }
    }
}
