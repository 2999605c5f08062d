//! Turns the host's packet filters, legacy iptables and nftables alike, into one form that can be judged.
//!
//! What is kept of a rule is what a judgement needs: whom it concerns, as far as that can be told, and what becomes of
//! the packet. A condition that is not understood is kept as such, never taken for none.

pub mod legacy;
pub mod nft;
pub mod save;
mod xtables;

use std::{fmt, net::IpAddr};

pub use crate::source::netlink::route::Network;

/// Rules of one way of filtering: a packet passes only if all of them let it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains, each with its rules.
    pub chains: Vec<Chain>,
    /// Rules that can't be read.
    pub unreadable: u64,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The addresses that it is for.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where packets enter it; none for one that is only jumped to.
    pub hook: Option<Hook>,
    /// What becomes of a packet that reaches its end.
    pub policy_drops: bool,
    /// Those of its rules that can matter, in order.
    pub rules: Vec<Rule>,
}

/// The addresses that a chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl Family {
    /// As people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Both => "IPv4 and IPv6",
        }
    }
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What the host itself sends.
    Output,
    /// What leaves the host, its own and what it forwards.
    Postrouting,
    /// Anything else.
    Other,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The packets that it concerns.
    pub conditions: Vec<Condition>,
    /// What becomes of them.
    pub verdict: Verdict,
    /// What its author says.
    pub comment: String,
    /// The rule as a person would write it, as far as it is understood.
    pub text: String,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this chain and those before it.
    Accept,
    /// It is lost.
    Drop,
    /// It is sent back.
    Reject,
    /// Another chain decides, then this one goes on.
    Jump(String),
    /// Another chain decides.
    Goto(String),
    /// The calling chain goes on.
    Return,
    /// It goes to another address.
    Divert,
    /// It goes on.
    Continue,
}

/// What a packet must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It goes to one of these addresses, or to none of them.
    Destination {
        /// The network.
        network: Network,
        /// Whether it must lie outside.
        negated: bool,
    },
    /// It is of a protocol, or is not.
    Protocol {
        /// Its number; 0 is any.
        number: u8,
        /// Whether it must be another.
        negated: bool,
    },
    /// It goes to one of these ports, or to none of them.
    DestinationPort {
        /// First and last port of each range.
        ranges: Vec<(u16, u16)>,
        /// Whether it must lie outside.
        negated: bool,
    },
    /// Its connection is in one of these states.
    State(States),
    /// It leaves by an interface.
    OutInterface {
        /// Its name; a `+` at the end stands for any rest.
        name: String,
        /// Whether it must be another.
        negated: bool,
    },
    /// It carries a mark.
    Mark {
        /// Whether an unmarked packet fulfils it.
        unmarked: bool,
    },
    /// Something else: only some packets fulfil it.
    Other,
}

/// States of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct States {
    /// Its first packet.
    pub new: bool,
    /// A packet of no connection.
    pub invalid: bool,
    /// Established or related.
    pub known: bool,
}

/// How sure it is that a rule concerns a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concerns {
    /// It doesn't.
    No,
    /// Some such packets.
    Some,
    /// Every such packet.
    All,
}

/// The first packet of a connection that the host itself opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it goes.
    pub destination: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// The interface that it leaves by, where that is known.
    pub interface: Option<&'a str>,
}

const TCP: u8 = 6;
/// The kubelet's own port.
pub const KUBELET_PORT: u16 = 10250;

impl Verdict {
    /// Whether the packet is lost.
    pub fn loses(&self) -> bool {
        matches!(self, Self::Drop | Self::Reject)
    }
}

impl Rule {
    /// Whether a judgement may need it. In the table `nat` no packet is lost, but a large cluster has a few rules there
    /// for each endpoint of each service; only those for the kubelet's port matter.
    fn matters(&self, table: &str) -> bool {
        match self.verdict {
            Verdict::Continue => false,
            Verdict::Divert => self.names_port(KUBELET_PORT),
            Verdict::Drop | Verdict::Reject => true,
            Verdict::Accept | Verdict::Jump(_) | Verdict::Goto(_) | Verdict::Return => table != "nat",
        }
    }

    /// Whether it is for a port, or for a range that holds it.
    pub fn names_port(&self, port: u16) -> bool {
        self.conditions.iter().any(|condition| match condition {
            Condition::DestinationPort { ranges, negated: false } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
            }
            _ => false,
        })
    }

    /// Whether this rule concerns such a packet.
    pub fn concerns(&self, packet: &Packet<'_>) -> Concerns {
        self.conditions.iter().map(|condition| condition.concerns(packet)).min().unwrap_or(Concerns::All)
    }
}

impl Condition {
    fn concerns(&self, packet: &Packet<'_>) -> Concerns {
        let sure = |fulfilled: bool| if fulfilled { Concerns::All } else { Concerns::No };
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
                None => Concerns::Some,
            },
            // The host's own first packets carry none.
            Self::Mark { unmarked } => sure(*unmarked),
            Self::Other => Concerns::Some,
        }
    }
}

impl fmt::Display for Condition {
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
                for (place, (first, last)) in ranges.iter().enumerate() {
                    let comma = if place > 0 { "," } else { "" };
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

impl fmt::Display for Verdict {
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
