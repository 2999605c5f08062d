//! Turns the kernel's nftables into rules: those of `nft`, and those of `iptables-nft`, which is what today's
//! distributions mean by `iptables`.
//!
//! The kernel is asked itself, so no tool is needed whose version would have to fit the host's. Sets are not looked
//! into: a rule that asks one has a condition that is not understood.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Chain, Condition, Family, Hook, Network, Rule, Ruleset, Verdict, save, xtables};
use crate::source::netlink::{
    self, NetlinkError, dump,
    message::{attribute, attributes, text, u32_be},
};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
/// `struct nfgenmsg`, of any family.
const HEADER: usize = 4;
/// Of so many rules kept, more add nothing to a judgement.
const MAX_RULES: usize = 100_000;

const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Tells one chain from another.
type Key = (u8, String, String);

/// Reads all chains and rules.
pub fn read() -> Result<Ruleset, NetlinkError> {
    let chains = dump(
        netlink::Family::Netfilter,
        GET_CHAIN,
        &[0; HEADER],
        "nftables chains",
        |chains: &mut Vec<(Key, Chain)>, message| {
            if message.kind == NEW_CHAIN {
                chains.extend(parse_chain(message.payload));
            }
        },
    );
    let chains = match chains {
        Ok(chains) => chains,
        // A kernel without nftables has no such rules.
        Err(error) if error.refusal().is_some_and(is_unknown) => return Ok(Ruleset::default()),
        Err(error) => return Err(error),
    };
    let places: HashMap<&Key, usize> =
        chains.iter().enumerate().map(|(place, (key, _))| (key, place)).collect();
    let what = "nftables rules";
    let (rules, unreadable) = dump(
        netlink::Family::Netfilter,
        GET_RULE,
        &[0; HEADER],
        what,
        |(rules, unreadable): &mut (Vec<(usize, Rule)>, u64), message| {
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
            match places.get(&key) {
                Some(place) if rules.len() < MAX_RULES => rules.push((*place, rule)),
                _ => *unreadable += 1,
            }
        },
    )?;
    let mut chains: Vec<Chain> = chains.into_iter().map(|(_, chain)| chain).collect();
    for (place, rule) in rules {
        chains[place].rules.push(rule);
    }
    Ok(Ruleset { chains, unreadable })
}

/// What the kernel answers about a subsystem that it has not.
fn is_unknown(number: i32) -> bool {
    [rustix::io::Errno::INVAL, rustix::io::Errno::PROTONOSUPPORT, rustix::io::Errno::OPNOTSUPP]
        .iter()
        .any(|errno| errno.raw_os_error() == number)
}

fn is_ip(payload: &[u8]) -> bool {
    payload.first().is_some_and(|family| matches!(*family, INET | IPV4 | IPV6))
}

/// Reads a `NFT_MSG_NEWCHAIN` message; none for a family that carries no IP of the host's own.
pub fn parse_chain(payload: &[u8]) -> Option<(Key, Chain)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    let family = match *payload.first()? {
        INET => Family::Both,
        IPV4 => Family::V4,
        IPV6 => Family::V6,
        _ => return None,
    };
    let body = payload.get(HEADER..)?;
    let (table, name) = (text(attribute(body, TABLE)?), text(attribute(body, NAME)?));
    let hook =
        attribute(body, HOOK).and_then(|hook| u32_be(attribute(hook, HOOK_NUMBER)?)).map(
            |number| match number {
                3 => Hook::Output,
                4 => Hook::Postrouting,
                _ => Hook::Other,
            },
        );
    let policy_drops = attribute(body, POLICY).and_then(u32_be) == Some(0);
    let key = (payload[0], table.clone(), name.clone());
    Some((key, Chain { family, table, name, hook, policy_drops, rules: Vec::new() }))
}

/// Reads a `NFT_MSG_NEWRULE` message.
pub fn parse_rule(payload: &[u8]) -> Option<(Key, Rule)> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    const USERDATA: u16 = 7;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let family = *payload.first()?;
    let body = payload.get(HEADER..)?;
    let key = (family, text(attribute(body, TABLE)?), text(attribute(body, CHAIN)?));
    let mut reading = Reading {
        family,
        registers: HashMap::new(),
        conditions: Vec::new(),
        verdict: Verdict::Continue,
        comment: attribute(body, USERDATA).and_then(comment).unwrap_or_default(),
    };
    for expression in attributes(attribute(body, EXPRESSIONS).unwrap_or_default()) {
        let Some(name) = attribute(expression.value, NAME) else { continue };
        let data = attribute(expression.value, DATA).unwrap_or_default();
        // One that can't be read still narrows the rule down.
        if reading.expression(&text(name), data).is_none() {
            reading.conditions.push(Condition::Other);
        }
    }
    let text = reading.text();
    let Reading { conditions, verdict, comment, .. } = reading;
    Some((key, Rule { conditions, verdict, comment, text }))
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

/// What a register holds of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loaded {
    Family,
    Protocol,
    Destination,
    DestinationPort,
    State { mask: u32 },
    Mark,
    OutInterface,
    MaskedDestination { prefix: u8 },
    Unknown,
}

struct Reading {
    family: u8,
    registers: HashMap<u32, Loaded>,
    conditions: Vec<Condition>,
    verdict: Verdict,
    comment: String,
}

impl Reading {
    fn expression(&mut self, name: &str, data: &[u8]) -> Option<()> {
        let number = |kind: u16| attribute(data, kind).and_then(u32_be);
        match name {
            "meta" => {
                // Without a destination register it sets something, such as a mark.
                if let Some(register) = number(1) {
                    let loaded = match number(2)? {
                        3 => Loaded::Mark,
                        7 => Loaded::OutInterface,
                        15 => Loaded::Family,
                        16 => Loaded::Protocol,
                        _ => Loaded::Unknown,
                    };
                    self.registers.insert(register, loaded);
                }
            }
            "payload" => {
                if let Some(register) = number(1) {
                    let loaded = self.payload(number(2)?, number(3)?, number(4)?);
                    self.registers.insert(register, loaded);
                }
            }
            "ct" => {
                if let Some(register) = number(1) {
                    let state = number(2)? == 0;
                    let loaded = if state { Loaded::State { mask: u32::MAX } } else { Loaded::Unknown };
                    self.registers.insert(register, loaded);
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
                    self.registers.insert(number(1)?, Loaded::Unknown);
                }
            }
            "reject" => self.verdict = Verdict::Reject,
            "nat" if number(1)? == 1 => self.verdict = Verdict::Divert,
            "redir" => self.verdict = Verdict::Divert,
            "target" => {
                // Some targets are written without their verdict: they pass the packet on.
                self.verdict = save::target(&text(attribute(data, 1)?)).unwrap_or(Verdict::Continue);
            }
            "match" => {
                let info = attribute(data, 3).unwrap_or_default();
                match xtables::read(&text(attribute(data, 1)?), number(2).unwrap_or(0), info) {
                    xtables::Match::Conditions(conditions) => self.conditions.extend(conditions),
                    xtables::Match::Comment(comment) => self.comment = comment,
                }
            }
            "counter" | "log" | "nat" | "masq" | "notrack" | "objref" | "last" | "flow_offload" | "dup" => {}
            _ => return None,
        }
        Some(())
    }

    fn payload(&self, base: u32, offset: u32, length: u32) -> Loaded {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match (base, offset, length) {
            (NETWORK, 16, 1..=4) if self.family != IPV6 => Loaded::Destination,
            (NETWORK, 24, 1..=16) if self.family != IPV4 => Loaded::Destination,
            (NETWORK, 9, 1) if self.family != IPV6 => Loaded::Protocol,
            (TRANSPORT, 2, 2) => Loaded::DestinationPort,
            _ => Loaded::Unknown,
        }
    }

    fn mask(&mut self, from: u32, to: u32, mask: Option<&[u8]>) {
        let loaded = match (self.registers.get(&from), mask) {
            (Some(Loaded::Destination), Some(mask)) => match prefix(mask) {
                Some(prefix) => Loaded::MaskedDestination { prefix },
                None => Loaded::Unknown,
            },
            (Some(Loaded::State { .. }), Some(mask)) => match mask.first_chunk() {
                Some(chunk) => Loaded::State { mask: u32::from_ne_bytes(*chunk) },
                None => Loaded::Unknown,
            },
            (Some(Loaded::Mark), Some(_)) => Loaded::Mark,
            _ => Loaded::Unknown,
        };
        self.registers.insert(to, loaded);
    }

    fn compare(&mut self, register: u32, operation: u32, value: &[u8]) {
        let negated = match operation {
            0 => false,
            1 => true,
            // Less or greater: only ports are worth it.
            _ => return self.order(register, operation, value),
        };
        let zero = value.iter().all(|byte| *byte == 0);
        let condition = match self.registers.get(&register) {
            Some(Loaded::Family) => match (value.first(), negated) {
                // What follows is read as of this family.
                (Some(&family @ (IPV4 | IPV6)), false) => {
                    self.family = family;
                    Some(everywhere(family))
                }
                _ => None,
            },
            Some(Loaded::Protocol) => {
                value.first().map(|number| Condition::Protocol { number: *number, negated })
            }
            Some(Loaded::Destination) => destination(value, None, negated),
            Some(Loaded::MaskedDestination { prefix }) => destination(value, Some(*prefix), negated),
            Some(Loaded::DestinationPort) => {
                port(value).map(|port| Condition::DestinationPort { ranges: vec![(port, port)], negated })
            }
            // `state & mask != 0`, as it is mostly written; or `state == value`.
            Some(Loaded::State { mask }) if zero => Some(xtables::states(*mask, !negated)),
            Some(Loaded::State { .. }) => {
                value.first_chunk().map(|chunk| xtables::states(u32::from_ne_bytes(*chunk), negated))
            }
            Some(Loaded::Mark) => Some(Condition::Mark { unmarked: zero != negated }),
            Some(Loaded::OutInterface) => {
                interface(value).map(|name| Condition::OutInterface { name, negated })
            }
            Some(Loaded::Unknown) | None => None,
        };
        self.conditions.push(condition.unwrap_or(Condition::Other));
    }

    fn order(&mut self, register: u32, operation: u32, value: &[u8]) {
        let ports = match (self.registers.get(&register), port(value), operation) {
            (Some(Loaded::DestinationPort), Some(port), 2) => port.checked_sub(1).map(|last| (0, last)),
            (Some(Loaded::DestinationPort), Some(port), 3) => Some((0, port)),
            (Some(Loaded::DestinationPort), Some(port), 4) => {
                port.checked_add(1).map(|first| (first, u16::MAX))
            }
            (Some(Loaded::DestinationPort), Some(port), 5) => Some((port, u16::MAX)),
            _ => None,
        };
        self.conditions.push(match ports {
            Some(range) => Condition::DestinationPort { ranges: vec![range], negated: false },
            None => Condition::Other,
        });
    }

    fn range(&mut self, register: u32, operation: u32, from: &[u8], to: &[u8]) {
        let condition = match (self.registers.get(&register), port(from), port(to)) {
            (Some(Loaded::DestinationPort), Some(first), Some(last)) => {
                Condition::DestinationPort { ranges: vec![(first, last)], negated: operation == 1 }
            }
            _ => Condition::Other,
        };
        self.conditions.push(condition);
    }

    /// The rule as `iptables` would write it.
    fn text(&self) -> String {
        let mut words: Vec<String> = self.conditions.iter().map(Condition::to_string).collect();
        words.dedup();
        if !self.comment.is_empty() {
            words.push(format!("--comment {:?}", self.comment));
        }
        words.push(self.verdict.to_string());
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

fn value(data: Option<&[u8]>) -> Option<&[u8]> {
    attribute(data?, 1)
}

fn verdict_of(data: &[u8]) -> Option<Verdict> {
    let chain = || attribute(data, 2).map(text);
    Some(match u32_be(attribute(data, 1)?)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => Verdict::Continue,
    })
}

fn everywhere(family: u8) -> Condition {
    let address = match family {
        IPV4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Condition::Destination { network: Network { address, prefix: 0 }, negated: false }
}

/// The first bytes of an address: a prefix of whole bytes is compared by these alone.
fn destination(value: &[u8], prefix: Option<u8>, negated: bool) -> Option<Condition> {
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
    Some(Condition::Destination { network, negated })
}

fn port(value: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes)
}

fn prefix(mask: &[u8]) -> Option<u8> {
    let ones = mask.iter().take_while(|byte| **byte == 0xff).count();
    let rest = mask.get(ones).map_or(0, |byte| byte.leading_ones());
    let exact = mask.iter().skip(ones).enumerate().all(|(place, byte)| match place {
        0 => byte.checked_shl(rest).unwrap_or(0) == 0,
        _ => *byte == 0,
    });
    exact.then_some((ones as u32 * 8 + rest) as u8)
}

/// A name, or the begin of one: that is compared without its closing zero.
fn interface(value: &[u8]) -> Option<String> {
    let whole = value.contains(&0);
    let name = text(value);
    (!name.is_empty()).then(|| if whole { name } else { format!("{name}+") })
}
