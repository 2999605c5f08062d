//! Turns what the VPC CNI's daemon knows of its pods' addresses, and the kernel's routing, into pods that are cut off.
//!
//! The VPC CNI gives each pod a rule of priority 512 that leads to the main table, and there a route to the pod's
//! interface. A pod whose address is of a secondary network interface also has a rule of priority 1536, by its
//! source, to that interface's own table, which holds a default route.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::not_checkable;
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        http,
        netlink::route::{self, MAIN_TABLE, Network, Route, Rule},
    },
};

const MISSING_RULES: &str = "MissingIPRules";
const MISSING_ROUTES: &str = "MissingIPRoutes";
const MISSING_DEFAULT: &str = "MissingDefaultRoutes";
/// Raised by the daemon's log alone; a daemon that answers is ready.
const NOT_READY: &str = "IPAMDNotReady";

const TO_POD: u32 = 512;
const FROM_POD: u32 = 1536;

const ENIS: &str = "/v1/enis";
/// The largest instances have 15 interfaces of 50 addresses, and some 500 bytes are said of each.
const MAX_ANSWER: u64 = 2 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(60);
/// An address is given a moment before its rules are made, and in use for a moment after they are gone.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(150) };

pub(super) struct PodRoutes {
    introspection: SocketAddr,
    standing: Standing,
}

impl PodRoutes {
    pub(super) fn new(introspection: SocketAddr) -> Self {
        Self { introspection, standing: Standing::default() }
    }
}

/// A pod's address, as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    address: IpAddr,
    /// `namespace/name`, empty where the daemon doesn't say.
    name: String,
    /// Whether the address is of another network interface than the node's first.
    secondary: bool,
}

/// Reads the daemon's answer: the addresses that are in use.
fn parse(answer: &[u8]) -> Result<Vec<Pod>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Pool {
        /// May be null, but another server's answer doesn't have it.
        #[serde(rename = "ENIs", deserialize_with = "Option::deserialize")]
        enis: Option<HashMap<String, Eni>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Eni {
        device_number: i64,
        #[serde(rename = "AvailableIPv4Cidrs", default)]
        v4: Option<HashMap<String, Cidr>>,
        #[serde(rename = "IPv6Cidrs", default)]
        v6: Option<HashMap<String, Cidr>>,
    }
    #[derive(Deserialize)]
    struct Cidr {
        #[serde(rename = "IPAddresses")]
        addresses: Option<HashMap<String, Address>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Address {
        address: IpAddr,
        #[serde(rename = "IPAMKey")]
        key: Key,
        #[serde(rename = "IPAMMetadata", default)]
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Key {
        /// Empty while nobody has the address.
        #[serde(rename = "containerID")]
        container: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Metadata {
        #[serde(rename = "k8sPodNamespace")]
        namespace: String,
        #[serde(rename = "k8sPodName")]
        name: String,
    }
    let pool: Pool = serde_json::from_slice(answer)?;
    let mut pods = Vec::new();
    for eni in pool.enis.into_iter().flatten().map(|(_, eni)| eni) {
        let cidrs = eni.v4.into_iter().chain(eni.v6).flatten().map(|(_, cidr)| cidr);
        for (_, address) in cidrs.filter_map(|cidr| cidr.addresses).flatten() {
            if address.key.container.is_empty() {
                continue;
            }
            let Metadata { namespace, name } = address.metadata;
            let name = if name.is_empty() { name } else { format!("{namespace}/{name}") };
            pods.push(Pod { address: address.address, name, secondary: eni.device_number > 0 });
        }
    }
    // The answer is in no order; only so many are told of, and they should be the same each time.
    pods.sort_unstable_by_key(|pod| pod.address);
    Ok(pods)
}

fn judge(pods: &[Pod], rules: &[Rule], routes: &[Route]) -> Vec<Judged> {
    let hosts = |networks: &mut dyn Iterator<Item = Option<Network>>| -> HashSet<Network> {
        networks.flatten().collect()
    };
    let to_pods = hosts(
        &mut rules
            .iter()
            .filter(|rule| rule.priority == TO_POD && rule.table == MAIN_TABLE)
            .map(|rule| rule.destination),
    );
    let from_pods = hosts(&mut rules.iter().filter(|rule| rule.priority == FROM_POD).map(|rule| rule.source));
    let reached = hosts(
        &mut routes
            .iter()
            .filter(|route| route.table == MAIN_TABLE && route.passes)
            .map(|route| route.destination),
    );

    let mut judged: Vec<Judged> =
        [MISSING_RULES, MISSING_ROUTES, MISSING_DEFAULT, NOT_READY].into_iter().map(Judged::well).collect();
    let wrong =
        |reason, subject: String, message: String| Judged::wrong(reason, message).about(subject).after(TWICE);
    for pod in pods {
        let host = Network::host(pod.address);
        let who = if pod.name.is_empty() { "a pod" } else { &pod.name };
        let missing = match (to_pods.contains(&host), !pod.secondary || from_pods.contains(&host)) {
            (false, false) => Some(format!("rules of priority {TO_POD} and {FROM_POD}")),
            (false, true) => Some(format!("rule of priority {TO_POD}")),
            (true, false) => Some(format!("rule of priority {FROM_POD}")),
            (true, true) => None,
        };
        if let Some(missing) = missing {
            let message = format!("the address {} of {who} has no {missing}", pod.address);
            judged.push(wrong(MISSING_RULES, pod.address.to_string(), message));
        }
        if !reached.contains(&host) {
            let message = format!("the address {} of {who} has no route", pod.address);
            judged.push(wrong(MISSING_ROUTES, pod.address.to_string(), message));
        }
    }

    let addresses: HashSet<Network> = pods.iter().map(|pod| Network::host(pod.address)).collect();
    let used: BTreeSet<(bool, u32)> = rules
        .iter()
        .filter(|rule| rule.priority == FROM_POD && rule.table != MAIN_TABLE && rule.table != 0)
        .filter(|rule| rule.source.is_some_and(|source| addresses.contains(&source)))
        .map(|rule| (rule.v6, rule.table))
        .collect();
    let lead_outside: HashSet<(bool, u32)> = routes
        .iter()
        .filter(|route| route.destination.is_none() && route.passes)
        .map(|route| (route.v6, route.table))
        .collect();
    for (v6, table) in used.difference(&lead_outside.into_iter().collect()) {
        let subject = format!("table {table}{}", if *v6 { " of IPv6" } else { "" });
        let message = format!("the routing {subject}, which pods are sent to, has no default route");
        judged.push(wrong(MISSING_DEFAULT, subject, message));
    }
    judged
}

impl Probe for PodRoutes {
    fn name(&self) -> &'static str {
        "pod-routes"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[MISSING_RULES, MISSING_ROUTES, MISSING_DEFAULT]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let answer = http::get(self.introspection, ENIS, MAX_ANSWER, TIMEOUT).map_err(|error| {
            not_checkable(format!(
                "the VPC CNI's daemon does not answer at {}{ENIS}: {error}",
                self.introspection
            ))
        })?;
        let pods = parse(&answer).map_err(|error| {
            not_checkable(format!("what answers at {}{ENIS} is not understood: {error}", self.introspection))
        })?;
        let rules = route::rules().map_err(|error| not_checkable(error.clause()))?;
        let routes = route::routes().map_err(|error| not_checkable(error.clause()))?;
        Ok(self.standing.update(judge(&pods, &rules, &routes), now))
    }
}

#[cfg(test)]
mod tests;
