//! Turns the binary forms of iptables' own matches into conditions.
//!
//! `iptables-nft` hands some of its matches to nftables as they are: structures of `linux/netfilter/xt_*.h`, in the
//! host's byte order.

use super::{Condition, States};
use crate::source::netlink::message::{text, u16_at, u32_at};

/// What a match adds to its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    Conditions(Vec<Condition>),
    Comment(String),
}

/// Reads a match by its name; one that can't be read is a condition all the same.
pub(super) fn read(name: &str, revision: u32, info: &[u8]) -> Match {
    let conditions = match (name, revision) {
        ("comment", _) => return Match::Comment(text(info)),
        ("tcp", _) => tcp(info),
        ("udp", _) => udp(info),
        ("multiport", _) => multiport(info),
        ("conntrack", 3) => conntrack(info),
        ("state", _) => u32_at(info, 0).map(|mask| vec![states(mask, false)]),
        ("mark", 1) => mark(info),
        _ => None,
    };
    Match::Conditions(conditions.unwrap_or_else(|| vec![Condition::Other]))
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);

fn range(info: &[u8], at: usize) -> Option<(u16, u16)> {
    Some((u16_at(info, at)?, u16_at(info, at + 2)?))
}

/// `struct xt_tcp`.
fn tcp(info: &[u8]) -> Option<Vec<Condition>> {
    const SYN: u8 = 0x02;
    const INVERTED_FLAGS: u8 = 0x04;
    let (option, mask, set, inverted) = (*info.get(8)?, *info.get(9)?, *info.get(10)?, *info.get(11)?);
    let mut conditions = ports(range(info, 0)?, range(info, 4)?, inverted);
    let first = set == SYN && mask & SYN != 0 && inverted & INVERTED_FLAGS == 0;
    if option != 0 || (mask != 0 && !first) {
        conditions.push(Condition::Other);
    }
    Some(conditions)
}

/// `struct xt_udp`.
fn udp(info: &[u8]) -> Option<Vec<Condition>> {
    Some(ports(range(info, 0)?, range(info, 4)?, *info.get(8)?))
}

fn ports(source: (u16, u16), destination: (u16, u16), inverted: u8) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if source != ANY_PORT {
        conditions.push(Condition::Other);
    }
    if destination != ANY_PORT {
        conditions
            .push(Condition::DestinationPort { ranges: vec![destination], negated: inverted & 0x02 != 0 });
    }
    conditions
}

/// `struct xt_multiport_v1`: up to 15 ports, of which one may be flagged as the begin of a range.
fn multiport(info: &[u8]) -> Option<Vec<Condition>> {
    const DESTINATION: u8 = 1;
    let (direction, count) = (*info.first()?, usize::from(*info.get(1)?).min(15));
    if direction != DESTINATION {
        return None;
    }
    let mut ranges = Vec::new();
    let mut place = 0;
    while place < count {
        let first = u16_at(info, 2 + 2 * place)?;
        let begins = *info.get(32 + place)? != 0;
        place += usize::from(begins);
        ranges.push((first, u16_at(info, 2 + 2 * place)?));
        place += 1;
    }
    Some(vec![Condition::DestinationPort { ranges, negated: *info.get(47)? != 0 }])
}

/// `struct xt_conntrack_mtinfo3`, where it asks for the state and nothing else.
fn conntrack(info: &[u8]) -> Option<Vec<Condition>> {
    const STATE: u16 = 1;
    let (asked, inverted, mask) = (u16_at(info, 146)?, u16_at(info, 148)?, u16_at(info, 150)?);
    (asked == STATE).then(|| vec![states(u32::from(mask), inverted & STATE != 0)])
}

/// `XT_CONNTRACK_STATE_*`, which are nftables' own bits, too.
pub(super) fn states(mask: u32, negated: bool) -> Condition {
    let has = |bits: u32| (mask & bits != 0) != negated;
    Condition::State(States { invalid: has(1), known: has(2 | 4), new: has(8) })
}

/// `struct xt_mark_mtinfo1`.
fn mark(info: &[u8]) -> Option<Vec<Condition>> {
    let (value, inverted) = (u32_at(info, 0)?, *info.get(8)? != 0);
    Some(vec![Condition::Mark { unmarked: (value == 0) != inverted }])
}
