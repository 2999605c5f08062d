//! Reads the kernel's nftables rules, including those of `iptables-nft`, which current distributions install as
//! `iptables`.
//!
//! The rules come from the kernel over netlink, so no tool has to match the host's version. Sets are not read: a
//! lookup in a set is a match that is not understood.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    FirewallChain, FirewallRule, IpFamily, NetfilterHook, Network, RuleMatch, RuleVerdict, Ruleset, save,
    xtables,
};
use crate::source::netlink::{
    self, NetlinkError, dump,
    message::{attribute, attributes, text, u32_be},
};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
/// `struct nfgenmsg`, with any family.
const HEADER: usize = 4;
/// More rules than this are counted as unreadable.
const MAX_RULES: usize = 100_000;

const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Identifies a chain: family, table, name.
type ChainKey = (u8, String, String);

/// Reads all chains and rules.
pub fn read() -> Result<Ruleset, NetlinkError> {
    let chains = dump(
        netlink::NetlinkFamily::Netfilter,
        GET_CHAIN,
        &[0; HEADER],
        "nftables chains",
        |chains: &mut Vec<(ChainKey, FirewallChain)>, message| {
            if message.kind == NEW_CHAIN {
                chains.extend(parse_chain(message.payload));
            }
        },
    );
    let chains = match chains {
        Ok(chains) => chains,
        // A kernel without nftables has no such rules.
        Err(error) if error.errno().is_some_and(is_unknown) => return Ok(Ruleset::default()),
        Err(error) => return Err(error),
    };
    let indexes: HashMap<&ChainKey, usize> =
        chains.iter().enumerate().map(|(index, (key, _))| (key, index)).collect();
    let what = "nftables rules";
    let (rules, unreadable) = dump(
        netlink::NetlinkFamily::Netfilter,
        GET_RULE,
        &[0; HEADER],
        what,
        |(rules, unreadable): &mut (Vec<(usize, FirewallRule)>, u64), message| {
            if message.kind != NEW_RULE || !is_ip(message.payload) {
                return;
            }
            let Some((key, rule)) = parse_rule(message.payload) else {
                *unreadable += 1;
                return;
            };
            if !rule.matters(&key.1) {
                return;
            }
            match indexes.get(&key) {
                Some(index) if rules.len() < MAX_RULES => rules.push((*index, rule)),
                _ => *unreadable += 1,
            }
        },
    )?;
    let mut chains: Vec<FirewallChain> = chains.into_iter().map(|(_, chain)| chain).collect();
    for (index, rule) in rules {
        chains[index].rules.push(rule);
    }
    Ok(Ruleset { chains, unreadable })
}

/// The errors for a subsystem that the kernel does not have.
fn is_unknown(number: i32) -> bool {
    [rustix::io::Errno::INVAL, rustix::io::Errno::PROTONOSUPPORT, rustix::io::Errno::OPNOTSUPP]
        .iter()
        .any(|errno| errno.raw_os_error() == number)
}

fn is_ip(payload: &[u8]) -> bool {
    payload.first().is_some_and(|family| matches!(*family, INET | IPV4 | IPV6))
}

/// Parses an `NFT_MSG_NEWCHAIN` message; `None` for a family other than IP.
pub fn parse_chain(payload: &[u8]) -> Option<(ChainKey, FirewallChain)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    let family = match *payload.first()? {
        INET => IpFamily::Both,
        IPV4 => IpFamily::V4,
        IPV6 => IpFamily::V6,
        _ => return None,
    };
    let body = payload.get(HEADER..)?;
    let (table, name) = (text(attribute(body, TABLE)?), text(attribute(body, NAME)?));
    let hook =
        attribute(body, HOOK).and_then(|hook| u32_be(attribute(hook, HOOK_NUMBER)?)).map(
            |number| match number {
                3 => NetfilterHook::Output,
                4 => NetfilterHook::Postrouting,
                _ => NetfilterHook::Other,
            },
        );
    let policy_drops = attribute(body, POLICY).and_then(u32_be) == Some(0);
    let key = (payload[0], table.clone(), name.clone());
    Some((key, FirewallChain { family, table, name, hook, policy_drops, rules: Vec::new() }))
}

/// Parses an `NFT_MSG_NEWRULE` message.
pub fn parse_rule(payload: &[u8]) -> Option<(ChainKey, FirewallRule)> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    const USERDATA: u16 = 7;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let family = *payload.first()?;
    let body = payload.get(HEADER..)?;
    let key = (family, text(attribute(body, TABLE)?), text(attribute(body, CHAIN)?));
    let mut parser = RuleParser {
        family,
        registers: HashMap::new(),
        matches: Vec::new(),
        verdict: RuleVerdict::Continue,
        comment: attribute(body, USERDATA).and_then(comment).unwrap_or_default(),
    };
    for expression in attributes(attribute(body, EXPRESSIONS).unwrap_or_default()) {
        let Some(name) = attribute(expression.value, NAME) else { continue };
        let data = attribute(expression.value, DATA).unwrap_or_default();
        // An expression that cannot be parsed still restricts the rule.
        if parser.expression(&text(name), data).is_none() {
            parser.matches.push(RuleMatch::Other);
        }
    }
    let text = parser.text();
    let RuleParser { matches, verdict, comment, .. } = parser;
    Some((key, FirewallRule { matches, verdict, comment, text }))
}

/// The comment in a rule's user data: type, length, value.
fn comment(mut data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    loop {
        let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
        let value = data.get(2..2 + length)?;
        if kind == COMMENT {
            return Some(text(value));
        }
        data = &data[2 + length..];
    }
}

/// The packet data in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RegisterContent {
    IpFamily,
    Protocol,
    Destination,
    DestinationPort,
    State { mask: u32 },
    Mark,
    OutInterface,
    MaskedDestination { prefix: u8 },
    Unknown,
}

struct RuleParser {
    family: u8,
    registers: HashMap<u32, RegisterContent>,
    matches: Vec<RuleMatch>,
    verdict: RuleVerdict,
    comment: String,
}

impl RuleParser {
    fn expression(&mut self, name: &str, data: &[u8]) -> Option<()> {
        let number = |kind: u16| attribute(data, kind).and_then(u32_be);
        match name {
            "meta" => {
                // Without a destination register it sets a value, such as a mark.
                if let Some(register) = number(1) {
                    let content = match number(2)? {
                        3 => RegisterContent::Mark,
                        7 => RegisterContent::OutInterface,
                        15 => RegisterContent::IpFamily,
                        16 => RegisterContent::Protocol,
                        _ => RegisterContent::Unknown,
                    };
                    self.registers.insert(register, content);
                }
            }
            "payload" => {
                if let Some(register) = number(1) {
                    let content = self.payload(number(2)?, number(3)?, number(4)?);
                    self.registers.insert(register, content);
                }
            }
            "ct" => {
                if let Some(register) = number(1) {
                    let state = number(2)? == 0;
                    let content = if state {
                        RegisterContent::State { mask: u32::MAX }
                    } else {
                        RegisterContent::Unknown
                    };
                    self.registers.insert(register, content);
                }
            }
            "bitwise" => self.mask(number(1)?, number(2)?, value(attribute(data, 4))),
            "cmp" => self.compare(number(1)?, number(2)?, value(attribute(data, 3))?),
            "range" => {
                self.range(number(1)?, number(2)?, value(attribute(data, 3))?, value(attribute(data, 4))?);
            }
            "immediate" => {
                if let Some(verdict) = attribute(data, 2).and_then(|data| attribute(data, 2)) {
                    self.verdict = verdict_of(verdict)?;
                } else {
                    self.registers.insert(number(1)?, RegisterContent::Unknown);
                }
            }
            "reject" => self.verdict = RuleVerdict::Reject,
            "nat" if number(1)? == 1 => self.verdict = RuleVerdict::Divert,
            "redir" => self.verdict = RuleVerdict::Divert,
            "target" => {
                // Some targets have no known verdict: the packet continues.
                self.verdict = save::target(&text(attribute(data, 1)?)).unwrap_or(RuleVerdict::Continue);
            }
            "match" => {
                let info = attribute(data, 3).unwrap_or_default();
                match xtables::read(&text(attribute(data, 1)?), number(2).unwrap_or(0), info) {
                    xtables::ParsedMatch::Matches(matches) => self.matches.extend(matches),
                    xtables::ParsedMatch::Comment(comment) => self.comment = comment,
                }
            }
            "counter" | "log" | "nat" | "masq" | "notrack" | "objref" | "last" | "flow_offload" | "dup" => {}
            _ => return None,
        }
        Some(())
    }

    fn payload(&self, base: u32, offset: u32, length: u32) -> RegisterContent {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match (base, offset, length) {
            (NETWORK, 16, 1..=4) if self.family != IPV6 => RegisterContent::Destination,
            (NETWORK, 24, 1..=16) if self.family != IPV4 => RegisterContent::Destination,
            (NETWORK, 9, 1) if self.family != IPV6 => RegisterContent::Protocol,
            (TRANSPORT, 2, 2) => RegisterContent::DestinationPort,
            _ => RegisterContent::Unknown,
        }
    }

    fn mask(&mut self, from: u32, to: u32, mask: Option<&[u8]>) {
        let content = match (self.registers.get(&from), mask) {
            (Some(RegisterContent::Destination), Some(mask)) => match prefix(mask) {
                Some(prefix) => RegisterContent::MaskedDestination { prefix },
                None => RegisterContent::Unknown,
            },
            (Some(RegisterContent::State { .. }), Some(mask)) => match mask.first_chunk() {
                Some(chunk) => RegisterContent::State { mask: u32::from_ne_bytes(*chunk) },
                None => RegisterContent::Unknown,
            },
            (Some(RegisterContent::Mark), Some(_)) => RegisterContent::Mark,
            _ => RegisterContent::Unknown,
        };
        self.registers.insert(to, content);
    }

    fn compare(&mut self, register: u32, operation: u32, value: &[u8]) {
        let negated = match operation {
            0 => false,
            1 => true,
            // Ordering comparisons are only parsed for ports.
            _ => return self.order(register, operation, value),
        };
        let zero = value.iter().all(|byte| *byte == 0);
        let rule_match = match self.registers.get(&register) {
            Some(RegisterContent::IpFamily) => match (value.first(), negated) {
                // The following expressions are parsed for this family.
                (Some(&family @ (IPV4 | IPV6)), false) => {
                    self.family = family;
                    Some(everywhere(family))
                }
                _ => None,
            },
            Some(RegisterContent::Protocol) => {
                value.first().map(|number| RuleMatch::Protocol { number: *number, negated })
            }
            Some(RegisterContent::Destination) => destination(value, None, negated),
            Some(RegisterContent::MaskedDestination { prefix }) => destination(value, Some(*prefix), negated),
            Some(RegisterContent::DestinationPort) => {
                port(value).map(|port| RuleMatch::DestinationPort { ranges: vec![(port, port)], negated })
            }
            // Usually `state & mask != 0`; otherwise `state == value`.
            Some(RegisterContent::State { mask }) if zero => Some(xtables::states(*mask, !negated)),
            Some(RegisterContent::State { .. }) => {
                value.first_chunk().map(|chunk| xtables::states(u32::from_ne_bytes(*chunk), negated))
            }
            Some(RegisterContent::Mark) => Some(RuleMatch::Mark { unmarked: zero != negated }),
            Some(RegisterContent::OutInterface) => {
                interface(value).map(|name| RuleMatch::OutInterface { name, negated })
            }
            Some(RegisterContent::Unknown) | None => None,
        };
        self.matches.push(rule_match.unwrap_or(RuleMatch::Other));
    }

    fn order(&mut self, register: u32, operation: u32, value: &[u8]) {
        let ports = match (self.registers.get(&register), port(value), operation) {
            (Some(RegisterContent::DestinationPort), Some(port), 2) => {
                port.checked_sub(1).map(|last| (0, last))
            }
            (Some(RegisterContent::DestinationPort), Some(port), 3) => Some((0, port)),
            (Some(RegisterContent::DestinationPort), Some(port), 4) => {
                port.checked_add(1).map(|first| (first, u16::MAX))
            }
            (Some(RegisterContent::DestinationPort), Some(port), 5) => Some((port, u16::MAX)),
            _ => None,
        };
        self.matches.push(match ports {
            Some(range) => RuleMatch::DestinationPort { ranges: vec![range], negated: false },
            None => RuleMatch::Other,
        });
    }

    fn range(&mut self, register: u32, operation: u32, from: &[u8], to: &[u8]) {
        let rule_match = match (self.registers.get(&register), port(from), port(to)) {
            (Some(RegisterContent::DestinationPort), Some(first), Some(last)) => {
                RuleMatch::DestinationPort { ranges: vec![(first, last)], negated: operation == 1 }
            }
            _ => RuleMatch::Other,
        };
        self.matches.push(rule_match);
    }

    /// The rule in iptables' syntax.
    fn text(&self) -> String {
        let mut parts: Vec<String> = self.matches.iter().map(RuleMatch::to_string).collect();
        parts.dedup();
        if !self.comment.is_empty() {
            parts.push(format!("--comment {:?}", self.comment));
        }
        parts.push(self.verdict.to_string());
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    }
}

fn value(data: Option<&[u8]>) -> Option<&[u8]> {
    attribute(data?, 1)
}

fn verdict_of(data: &[u8]) -> Option<RuleVerdict> {
    let chain = || attribute(data, 2).map(text);
    Some(match u32_be(attribute(data, 1)?)? as i32 {
        0 => RuleVerdict::Drop,
        1 => RuleVerdict::Accept,
        -3 => RuleVerdict::Jump(chain()?),
        -4 => RuleVerdict::Goto(chain()?),
        -5 => RuleVerdict::Return,
        _ => RuleVerdict::Continue,
    })
}

fn everywhere(family: u8) -> RuleMatch {
    let address = match family {
        IPV4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    RuleMatch::Destination { network: Network { address, prefix: 0 }, negated: false }
}

/// The first bytes of an address: a prefix of whole bytes is compared with those only.
fn destination(value: &[u8], prefix: Option<u8>, negated: bool) -> Option<RuleMatch> {
    let address = match value.len() {
        length @ 1..=4 => {
            let mut bytes = [0; 4];
            bytes[..length].copy_from_slice(value);
            IpAddr::V4(Ipv4Addr::from(bytes))
        }
        16 => IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?)),
        _ => return None,
    };
    let whole = (value.len() * 8) as u8;
    let network = Network { address, prefix: prefix.unwrap_or(whole).min(whole) };
    Some(RuleMatch::Destination { network, negated })
}

fn port(value: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes)
}

fn prefix(mask: &[u8]) -> Option<u8> {
    let ones = mask.iter().take_while(|byte| **byte == 0xff).count();
    let rest = mask.get(ones).map_or(0, |byte| byte.leading_ones());
    let exact = mask.iter().skip(ones).enumerate().all(|(index, byte)| match index {
        0 => byte.checked_shl(rest).unwrap_or(0) == 0,
        _ => *byte == 0,
    });
    exact.then_some((ones as u32 * 8 + rest) as u8)
}

/// An interface name, or a prefix of one, which is compared without the terminating zero.
fn interface(value: &[u8]) -> Option<String> {
    let whole = value.contains(&0);
    let name = text(value);
    (!name.is_empty()).then(|| if whole { name } else { format!("{name}+") })
}
