//! Reads interfaces, routing rules and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    NetlinkError, NetlinkFamily, dump,
    message::{attribute, attributes, text, u16_at, u32_at},
};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;

/// The size of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// The size of `struct rtmsg` and `struct fib_rule_hdr`.
const ROUTE_HEADER: usize = 12;

/// `IFF_*` of `linux/if.h`.
mod flag {
    pub(super) const UP: u32 = 1 << 0;
    pub(super) const BROADCAST: u32 = 1 << 1;
    pub(super) const LOOPBACK: u32 = 1 << 3;
    pub(super) const RUNNING: u32 = 1 << 6;
    pub(super) const MULTICAST: u32 = 1 << 12;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The kind of a virtual interface, such as `veth`; empty for hardware.
    pub kind: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    pub loopback: bool,
    /// Whether it supports broadcast or multicast; tunnels and point-to-point links support neither.
    pub reaches_many: bool,
}

/// A rule that selects a routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingRule {
    /// Whether it is for IPv6.
    pub v6: bool,
    /// Rules with a lower number are evaluated first.
    pub priority: u32,
    /// The source of matching packets; `None` matches any.
    pub source: Option<Network>,
    /// The destination of matching packets; `None` matches any.
    pub destination: Option<Network>,
    /// The table; 0 if the rule selects none.
    pub table: u32,
}

/// A route in a routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whether it is for IPv6.
    pub v6: bool,
    pub table: u32,
    /// The destination; `None` for a default route.
    pub destination: Option<Network>,
    /// The index of the outgoing interface.
    pub interface: Option<u32>,
    /// Whether packets are forwarded: false for blackhole, unreachable and prohibit.
    pub passes: bool,
}

/// The number of the main routing table.
pub const MAIN_TABLE: u32 = 254;

/// An address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    pub address: IpAddr,
    /// The prefix length in bits.
    pub prefix: u8,
}

impl Network {
    /// The network of a single address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |own: u128, other: u128, bits: u32| {
            let unused = bits.saturating_sub(u32::from(self.prefix));
            unused >= bits || own >> unused == other >> unused
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                shared(u128::from(u32::from(own)), u128::from(u32::from(other)), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => shared(u128::from(own), u128::from(other), 128),
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = ParseNetworkError;

    /// Accepts `10.0.0.0/8`, `10.0.0.1`, and the old form `10.0.0.0/255.0.0.0`.
    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let Some(prefix) = prefix else { return Ok(Self::host(address)) };
        let longest = Self::host(address).prefix;
        let prefix = match prefix.parse::<u8>() {
            Ok(prefix) => prefix,
            Err(_) => {
                let mask: u32 = prefix.parse::<Ipv4Addr>().map_err(|_| ParseNetworkError)?.into();
                let prefix = mask.leading_ones();
                if !address.is_ipv4() || mask.checked_shl(prefix).unwrap_or(0) != 0 {
                    return Err(ParseNetworkError);
                }
                prefix as u8
            }
        };
        if prefix > longest { Err(ParseNetworkError) } else { Ok(Self { address, prefix }) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The text is not an address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length")]
pub struct ParseNetworkError;

pub fn links() -> Result<Vec<Link>, NetlinkError> {
    dump(
        NetlinkFamily::Route,
        RTM_GETLINK,
        &[0; LINK_HEADER],
        "network interfaces",
        |links: &mut Vec<Link>, message| {
            if message.kind == RTM_NEWLINK {
                links.extend(parse_link(message.payload));
            }
        },
    )
}

/// Reads all routing rules of IPv4 and IPv6.
pub fn rules() -> Result<Vec<RoutingRule>, NetlinkError> {
    dump(
        NetlinkFamily::Route,
        RTM_GETRULE,
        &[0; ROUTE_HEADER],
        "routing rules",
        |rules: &mut Vec<RoutingRule>, message| {
            if message.kind == RTM_NEWRULE {
                rules.extend(parse_rule(message.payload));
            }
        },
    )
}

/// Reads all routes in all tables, of IPv4 and IPv6.
pub fn routes() -> Result<Vec<Route>, NetlinkError> {
    dump(
        NetlinkFamily::Route,
        RTM_GETROUTE,
        &[0; ROUTE_HEADER],
        "routes",
        |routes: &mut Vec<Route>, message| {
            if message.kind == RTM_NEWROUTE {
                routes.extend(parse_route(message.payload));
            }
        },
    )
}

/// Parses an `RTM_NEWLINK` message.
pub fn parse_link(payload: &[u8]) -> Option<Link> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    let index = u32_at(payload, 4)?;
    let flags = u32_at(payload, 8)?;
    let body = payload.get(LINK_HEADER..)?;
    let name = text(attribute(body, IFLA_IFNAME)?);
    let kind = attribute(body, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND)).map(text);
    Some(Link {
        index,
        name,
        kind: kind.unwrap_or_default(),
        up: flags & flag::UP != 0,
        running: flags & flag::RUNNING != 0,
        loopback: flags & flag::LOOPBACK != 0,
        reaches_many: flags & (flag::BROADCAST | flag::MULTICAST) != 0,
    })
}

/// Parses an `RTM_NEWRULE` message.
pub fn parse_rule(payload: &[u8]) -> Option<RoutingRule> {
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_PRIORITY: u16 = 6;
    const FRA_TABLE: u16 = 15;
    let (destination_prefix, source_prefix) = (*payload.get(1)?, *payload.get(2)?);
    let mut rule = RoutingRule {
        v6: is_v6(payload)?,
        priority: 0,
        source: None,
        destination: None,
        table: u32::from(*payload.get(4)?),
    };
    for attribute in attributes(payload.get(ROUTE_HEADER..)?) {
        match attribute.kind {
            FRA_DST => rule.destination = network(attribute.value, destination_prefix),
            FRA_SRC => rule.source = network(attribute.value, source_prefix),
            FRA_PRIORITY => rule.priority = u32_at(attribute.value, 0)?,
            FRA_TABLE => rule.table = u32_at(attribute.value, 0)?,
            _ => {}
        }
    }
    Some(rule)
}

/// Parses an `RTM_NEWROUTE` message.
pub fn parse_route(payload: &[u8]) -> Option<Route> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_TABLE: u16 = 15;
    const RTA_MULTIPATH: u16 = 9;
    /// The route types blackhole, unreachable, prohibit and throw.
    const CLOSED: std::ops::RangeInclusive<u8> = 6..=9;
    let prefix = *payload.get(1)?;
    let mut route = Route {
        v6: is_v6(payload)?,
        table: u32::from(*payload.get(4)?),
        destination: None,
        interface: None,
        passes: !CLOSED.contains(payload.get(7)?),
    };
    for attribute in attributes(payload.get(ROUTE_HEADER..)?) {
        match attribute.kind {
            RTA_DST => route.destination = network(attribute.value, prefix),
            RTA_OIF => route.interface = u32_at(attribute.value, 0),
            // The first of several next hops; `struct rtnexthop` has its interface at offset 4.
            RTA_MULTIPATH if u16_at(attribute.value, 0).is_some() => {
                route.interface = u32_at(attribute.value, 4);
            }
            RTA_TABLE => route.table = u32_at(attribute.value, 0)?,
            _ => {}
        }
    }
    // The IPv6 default route may have the destination `::/0`.
    route.destination = route.destination.filter(|destination| destination.prefix > 0);
    Some(route)
}

/// `None` for address families other than IPv4 and IPv6.
fn is_v6(payload: &[u8]) -> Option<bool> {
    match *payload.first()? {
        2 => Some(false),
        10 => Some(true),
        _ => None,
    }
}

fn network(value: &[u8], prefix: u8) -> Option<Network> {
    let address = match value.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?)),
        16 => IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?)),
        _ => return None,
    };
    (prefix <= Network::host(address).prefix).then_some(Network { address, prefix })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read_in_each_way_that_they_are_written() {
        for (text, expected) in [
            ("169.254.169.254", Some("169.254.169.254/32")),
            ("169.254.0.0/16", Some("169.254.0.0/16")),
            ("169.254.0.0/255.255.0.0", Some("169.254.0.0/16")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00:ec2::254/128", Some("fd00:ec2::254/128")),
            ("169.254.0.0/33", None),
            ("169.254.0.0/255.0.255.0", None),
            ("fd00::/255.0.0.0", None),
            ("everywhere", None),
        ] {
            let read = text.parse::<Network>().ok().map(|network| network.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_address_lies_within_the_networks_that_share_its_first_bits() {
        let metadata: IpAddr = "169.254.169.254".parse().expect("an address");
        for (network, within) in [
            ("169.254.169.254", true),
            ("169.254.0.0/16", true),
            ("0.0.0.0/0", true),
            ("169.254.169.252/31", false),
            ("169.254.170.2", false),
            ("::/0", false),
        ] {
            assert_eq!(network.parse::<Network>().expect(network).contains(metadata), within, "{network}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = (parse_link(&bytes), parse_rule(&bytes), parse_route(&bytes));
        }
    }
}
