//! Finds network interfaces that are down or have no carrier.

use std::sync::LazyLock;

use regex::Regex;

use crate::source::netlink::route::Link;

/// Bridges of runtimes that EKS does not use, interfaces that tunnel modules create when they load, and InfiniBand
/// ports, which may be intentionally unconnected.
const EXCLUDED: &str = r"^(?:docker.*|gre\d.*|gretap\d.*|erspan\d.*|ip6gre\d.*|ip6gretap\d.*|tunl\d.*|sit\d.*|ip6tnl\d.*|ibp?\d.*)$";

/// Interface kinds that carry no traffic in any state: kube-proxy's `kube-ipvs0` and the node-local DNS cache's
/// `nodelocaldns` are dummy interfaces that are never set up.
const NEVER_CARRIES: [&str; 2] = ["dummy", "ifb"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceState {
    /// Up, with a carrier or without the need for one.
    Healthy,
    /// Administratively down.
    NotUp,
    /// Administratively up, without a carrier.
    NotRunning,
}

/// Evaluates the interfaces that matter. A non-empty `excluded` replaces the built-in exclusions.
pub fn evaluate<'a>(links: &'a [Link], excluded: &[Regex]) -> Vec<(&'a Link, InterfaceState)> {
    static DEFAULT: LazyLock<Regex> = LazyLock::new(|| Regex::new(EXCLUDED).expect("a regular expression"));
    let is_excluded = |name: &str| match excluded {
        [] => DEFAULT.is_match(name),
        own => own.iter().any(|regex| regex.is_match(name)),
    };
    links
        .iter()
        .filter(|link| !link.loopback && link.reaches_many && !is_excluded(&link.name))
        .filter(|link| !NEVER_CARRIES.contains(&link.kind.as_str()))
        .map(|link| (link, state(link)))
        .collect()
}

fn state(link: &Link) -> InterfaceState {
    match (link.up, link.running) {
        (false, _) => InterfaceState::NotUp,
        // A bridge without ports has no carrier and carries no traffic.
        (true, false) if link.kind != "bridge" => InterfaceState::NotRunning,
        (true, _) => InterfaceState::Healthy,
    }
}

/// Whether a loopback interface exists and is up.
pub fn has_loopback(links: &[Link]) -> bool {
    links.iter().any(|link| link.loopback && link.up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, up: bool, running: bool) -> Link {
        Link {
            index: 2,
            name: name.to_owned(),
            kind: kind.to_owned(),
            up,
            running,
            loopback: name == "lo",
            reaches_many: name != "tun0",
        }
    }

    #[test]
    fn an_interface_that_is_down_or_without_carrier_is_unhealthy() {
        for (name, kind, up, running, expected) in [
            ("ens5", "", true, true, Some(InterfaceState::Healthy)),
            ("ens5", "", false, false, Some(InterfaceState::NotUp)),
            ("ens6", "", true, false, Some(InterfaceState::NotRunning)),
            ("eni3f1c2a", "veth", true, false, Some(InterfaceState::NotRunning)),
            ("vlan.eth.1", "vlan", false, false, Some(InterfaceState::NotUp)),
            ("cni0", "bridge", true, false, Some(InterfaceState::Healthy)),
            ("cni0", "bridge", false, false, Some(InterfaceState::NotUp)),
            ("greylan", "", false, false, Some(InterfaceState::NotUp)),
            ("docker0", "bridge", false, false, None),
            ("kube-ipvs0", "dummy", false, false, None),
            ("nodelocaldns", "dummy", false, false, None),
            ("ifb0", "ifb", false, false, None),
            ("gretap0", "gretap", false, false, None),
            ("sit0", "sit", false, false, None),
            ("ib0", "", false, false, None),
            ("ibp65s0", "", false, false, None),
            ("tun0", "tun", false, false, None),
            ("lo", "", false, false, None),
        ] {
            let links = [link(name, kind, up, running)];
            let evaluated = evaluate(&links, &[]);
            assert_eq!(evaluated.first().map(|(_, state)| *state), expected, "{name}");
        }
    }

    #[test]
    fn own_exclusions_replace_the_built_in_ones() {
        let links = [link("docker0", "bridge", false, false), link("ens6", "", false, false)];
        let own = [Regex::new("^(?:ens.*)$").expect("a regular expression")];
        let names: Vec<_> = evaluate(&links, &own).into_iter().map(|(link, _)| link.name.as_str()).collect();
        assert_eq!(names, ["docker0"]);
    }

    #[test]
    fn a_loopback_must_be_up() {
        assert!(has_loopback(&[link("lo", "", true, true)]));
        assert!(!has_loopback(&[link("lo", "", false, false)]));
        assert!(!has_loopback(&[link("ens5", "", true, true)]));
    }
}
