//! Parses the binary form of iptables' matches.
//!
//! `iptables-nft` passes some of its matches to nftables unchanged: structures of `linux/netfilter/xt_*.h`, in the
//! host's byte order.

use super::{ConntrackStates, RuleMatch};
use crate::source::netlink::message::{text, u16_at, u32_at};

/// What a match adds to its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ParsedMatch {
    Matches(Vec<RuleMatch>),
    Comment(String),
}

/// Parses a match by name. One that cannot be parsed is [`RuleMatch::Other`].
pub(super) fn read(name: &str, revision: u32, info: &[u8]) -> ParsedMatch {
    let matches = match (name, revision) {
        ("comment", _) => return ParsedMatch::Comment(text(info)),
        ("tcp", _) => tcp(info),
        ("udp", _) => udp(info),
        ("multiport", _) => multiport(info),
        ("conntrack", 3) => conntrack(info),
        ("state", _) => u32_at(info, 0).map(|mask| vec![states(mask, false)]),
        ("mark", 1) => mark(info),
        _ => None,
    };
    ParsedMatch::Matches(matches.unwrap_or_else(|| vec![RuleMatch::Other]))
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);

fn range(info: &[u8], at: usize) -> Option<(u16, u16)> {
    Some((u16_at(info, at)?, u16_at(info, at + 2)?))
}

/// `struct xt_tcp`.
fn tcp(info: &[u8]) -> Option<Vec<RuleMatch>> {
    const SYN: u8 = 0x02;
    const INVERTED_FLAGS: u8 = 0x04;
    let (option, mask, set, inverted) = (*info.get(8)?, *info.get(9)?, *info.get(10)?, *info.get(11)?);
    let mut matches = ports(range(info, 0)?, range(info, 4)?, inverted);
    let first = set == SYN && mask & SYN != 0 && inverted & INVERTED_FLAGS == 0;
    if option != 0 || (mask != 0 && !first) {
        matches.push(RuleMatch::Other);
    }
    Some(matches)
}

/// `struct xt_udp`.
fn udp(info: &[u8]) -> Option<Vec<RuleMatch>> {
    Some(ports(range(info, 0)?, range(info, 4)?, *info.get(8)?))
}

fn ports(source: (u16, u16), destination: (u16, u16), inverted: u8) -> Vec<RuleMatch> {
    let mut matches = Vec::new();
    if source != ANY_PORT {
        matches.push(RuleMatch::Other);
    }
    if destination != ANY_PORT {
        matches.push(RuleMatch::DestinationPort { ranges: vec![destination], negated: inverted & 0x02 != 0 });
    }
    matches
}

/// `struct xt_multiport_v1`: up to 15 ports; a port may be flagged as the start of a range.
fn multiport(info: &[u8]) -> Option<Vec<RuleMatch>> {
    const DESTINATION: u8 = 1;
    let (direction, count) = (*info.first()?, usize::from(*info.get(1)?).min(15));
    if direction != DESTINATION {
        return None;
    }
    let mut ranges = Vec::new();
    let mut index = 0;
    while index < count {
        let first = u16_at(info, 2 + 2 * index)?;
        let begins = *info.get(32 + index)? != 0;
        index += usize::from(begins);
        ranges.push((first, u16_at(info, 2 + 2 * index)?));
        index += 1;
    }
    Some(vec![RuleMatch::DestinationPort { ranges, negated: *info.get(47)? != 0 }])
}

/// `struct xt_conntrack_mtinfo3`, if it matches the state and nothing else.
fn conntrack(info: &[u8]) -> Option<Vec<RuleMatch>> {
    const STATE: u16 = 1;
    let (flags, inverted, mask) = (u16_at(info, 146)?, u16_at(info, 148)?, u16_at(info, 150)?);
    (flags == STATE).then(|| vec![states(u32::from(mask), inverted & STATE != 0)])
}

/// `XT_CONNTRACK_STATE_*`, whose bits nftables uses as well.
pub(super) fn states(mask: u32, negated: bool) -> RuleMatch {
    let has = |bits: u32| (mask & bits != 0) != negated;
    RuleMatch::State(ConntrackStates { invalid: has(1), known: has(2 | 4), new: has(8) })
}

/// `struct xt_mark_mtinfo1`.
fn mark(info: &[u8]) -> Option<Vec<RuleMatch>> {
    let (value, inverted) = (u32_at(info, 0)?, *info.get(8)? != 0);
    Some(vec![RuleMatch::Mark { unmarked: (value == 0) != inverted }])
}
