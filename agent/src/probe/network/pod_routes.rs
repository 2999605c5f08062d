//! Finds pods without routes, from the VPC CNI daemon's addresses and the kernel's routing.
//!
//! The VPC CNI creates a rule of priority 512 for each pod that leads to the main table, and a route to the pod's
//! interface there. A pod with an address of a secondary network interface also has a rule of priority 1536, by
//! source, to that interface's own table, which has a default route.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::not_checkable;
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        http,
        netlink::route::{self, MAIN_TABLE, Network, Route, RoutingRule},
    },
};

const MISSING_RULES: &str = "MissingIPRules";
const MISSING_ROUTES: &str = "MissingIPRoutes";
const MISSING_DEFAULT: &str = "MissingDefaultRoutes";
/// Raised only by the daemon's log lines; a daemon that responds is ready.
const NOT_READY: &str = "IPAMDNotReady";

const TO_POD: u32 = 512;
const FROM_POD: u32 = 1536;

const ENIS: &str = "/v1/enis";
/// The largest instances have 15 interfaces with 50 addresses, and the response has about 500 bytes for each.
const MAX_RESPONSE: usize = 2 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(60);
/// An address is allocated a moment before its rules exist, and released a moment after they are removed.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(150) };

pub(super) struct PodRoutes {
    introspection: SocketAddr,
    latch: ConditionLatch,
}

impl PodRoutes {
    pub(super) fn new(introspection: SocketAddr) -> Self {
        Self { introspection, latch: ConditionLatch::default() }
    }
}

/// A pod's address in the daemon's response.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PodAddress {
    address: IpAddr,
    /// `namespace/name`; empty if the response does not have it.
    name: String,
    /// Whether the address belongs to a network interface other than the primary.
    secondary: bool,
}

/// Parses the daemon's response. Returns the addresses that are in use.
fn parse(response: &[u8]) -> Result<Vec<PodAddress>, serde_json::Error> {
    #[derive(Deserialize)]
    struct EniPool {
        /// May be null, but must be present: another server's response does not have it.
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
        addresses: Option<HashMap<String, AssignedAddress>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct AssignedAddress {
        address: IpAddr,
        #[serde(rename = "IPAMKey")]
        key: AddressKey,
        #[serde(rename = "IPAMMetadata", default)]
        metadata: AddressMetadata,
    }
    #[derive(Deserialize)]
    struct AddressKey {
        /// Empty while the address is not in use.
        #[serde(rename = "containerID")]
        container: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct AddressMetadata {
        #[serde(rename = "k8sPodNamespace")]
        namespace: String,
        #[serde(rename = "k8sPodName")]
        name: String,
    }
    let pool: EniPool = serde_json::from_slice(response)?;
    let mut pods = Vec::new();
    for eni in pool.enis.into_iter().flatten().map(|(_, eni)| eni) {
        let cidrs = eni.v4.into_iter().chain(eni.v6).flatten().map(|(_, cidr)| cidr);
        for (_, address) in cidrs.filter_map(|cidr| cidr.addresses).flatten() {
            if address.key.container.is_empty() {
                continue;
            }
            let AddressMetadata { namespace, name } = address.metadata;
            let name = if name.is_empty() { name } else { format!("{namespace}/{name}") };
            pods.push(PodAddress { address: address.address, name, secondary: eni.device_number > 0 });
        }
    }
    // The response has no order. The number of findings is limited, so they should be the same each time.
    pods.sort_unstable_by_key(|pod| pod.address);
    Ok(pods)
}

fn evaluate(pods: &[PodAddress], rules: &[RoutingRule], routes: &[Route]) -> Vec<Evaluation> {
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

    let mut evaluated: Vec<Evaluation> = [MISSING_RULES, MISSING_ROUTES, MISSING_DEFAULT, NOT_READY]
        .into_iter()
        .map(Evaluation::healthy)
        .collect();
    let problem = |reason, subject: String, message: String| {
        Evaluation::unhealthy(reason, message).about(subject).after(TWICE)
    };
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
            let message = format!("address {} of {who} has no {missing}", pod.address);
            evaluated.push(problem(MISSING_RULES, pod.address.to_string(), message));
        }
        if !reached.contains(&host) {
            let message = format!("address {} of {who} has no route", pod.address);
            evaluated.push(problem(MISSING_ROUTES, pod.address.to_string(), message));
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
        let message = format!("routing {subject}, which pods use, has no default route");
        evaluated.push(problem(MISSING_DEFAULT, subject, message));
    }
    evaluated
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let response = http::get(self.introspection, ENIS, MAX_RESPONSE, TIMEOUT).map_err(|error| {
            not_checkable(format!(
                "the VPC CNI daemon at {}{ENIS} does not respond: {error}",
                self.introspection
            ))
        })?;
        let pods = parse(&response).map_err(|error| {
            not_checkable(format!("the response of {}{ENIS} is invalid: {error}", self.introspection))
        })?;
        let rules = route::rules().map_err(|error| not_checkable(error.clause()))?;
        let routes = route::routes().map_err(|error| not_checkable(error.clause()))?;
        Ok(self.latch.update(evaluate(&pods, &rules, &routes), now))
    }
}

#[cfg(test)]
mod tests;
