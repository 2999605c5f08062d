//! Turns the state of network interfaces into those that cut somebody off.

use std::sync::LazyLock;

use regex::Regex;

use crate::source::netlink::route::Link;

/// Bridges of a runtime that EKS doesn't use, what tunnel modules leave behind when they are loaded, and InfiniBand
/// ports, which are cabled or not as their owner likes.
const EXCLUDED: &str = r"^(?:docker.*|gre\d.*|gretap\d.*|erspan\d.*|ip6gre\d.*|ip6gretap\d.*|tunl\d.*|sit\d.*|ip6tnl\d.*|ibp?\d.*)$";

/// Interfaces that carry nothing, whatever their state: kube-proxy's `kube-ipvs0` and the node-local DNS cache's
/// `nodelocaldns` are dummies that nobody sets up.
const NEVER_CARRIES: [&str; 2] = ["dummy", "ifb"];

/// How an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It carries packets, or can.
    Well,
    /// It is not set up.
    NotUp,
    /// It is set up and has no carrier.
    NotRunning,
}

/// Judges the interfaces that matter; `excluded` takes the place of the built-in exclusions unless it is empty.
pub fn judge<'a>(links: &'a [Link], excluded: &[Regex]) -> Vec<(&'a Link, Health)> {
    static DEFAULT: LazyLock<Regex> = LazyLock::new(|| Regex::new(EXCLUDED).expect("a regular expression"));
    let is_excluded = |name: &str| match excluded {
        [] => DEFAULT.is_match(name),
        own => own.iter().any(|regex| regex.is_match(name)),
    };
    links
        .iter()
        .filter(|link| !link.loopback && link.reaches_many && !is_excluded(&link.name))
        .filter(|link| !NEVER_CARRIES.contains(&link.kind.as_str()))
        .map(|link| (link, health(link)))
        .collect()
}

fn health(link: &Link) -> Health {
    match (link.up, link.running) {
        (false, _) => Health::NotUp,
        // A bridge without ports has no carrier, and nobody to carry for.
        (true, false) if link.kind != "bridge" => Health::NotRunning,
        (true, _) => Health::Well,
    }
}

/// Whether there is a loopback that is up.
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
    fn an_interface_that_is_down_or_without_carrier_is_wrong() {
        for (name, kind, up, running, expected) in [
            ("ens5", "", true, true, Some(Health::Well)),
            ("ens5", "", false, false, Some(Health::NotUp)),
            ("ens6", "", true, false, Some(Health::NotRunning)),
            ("eni3f1c2a", "veth", true, false, Some(Health::NotRunning)),
            ("vlan.eth.1", "vlan", false, false, Some(Health::NotUp)),
            ("cni0", "bridge", true, false, Some(Health::Well)),
            ("cni0", "bridge", false, false, Some(Health::NotUp)),
            ("greylan", "", false, false, Some(Health::NotUp)),
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
            let judged = judge(&links, &[]);
            assert_eq!(judged.first().map(|(_, health)| *health), expected, "{name}");
        }
    }

    #[test]
    fn own_exclusions_take_the_place_of_the_built_in_ones() {
        let links = [link("docker0", "bridge", false, false), link("ens6", "", false, false)];
        let own = [Regex::new("^(?:ens.*)$").expect("a regular expression")];
        let names: Vec<_> = judge(&links, &own).into_iter().map(|(link, _)| link.name.as_str()).collect();
        assert_eq!(names, ["docker0"]);
    }

    #[test]
    fn a_loopback_must_be_up() {
        assert!(has_loopback(&[link("lo", "", true, true)]));
        assert!(!has_loopback(&[link("lo", "", false, false)]));
        assert!(!has_loopback(&[link("ens5", "", true, true)]));
    }
}
