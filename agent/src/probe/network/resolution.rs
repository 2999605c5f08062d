//! Finds failing DNS, by resolving the API server's name with the node's name servers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
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
        dns::{self, DnsAnswer, DnsFailure, RecordType},
        host,
        netlink::route,
    },
};

const FAILING: &str = "NodeDNSFailing";
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_secs(120) };
const INTERVAL: Duration = Duration::from_secs(30);
/// A server in the VPC responds within milliseconds, or forwards the query first.
const TIMEOUT: Duration = Duration::from_secs(1);
const PORT: u16 = 53;
/// The kubelet's configuration with the API server's URL: EKS's own images, Bottlerocket, kubeadm. An agent in a pod
/// does not see the kubelet's own directory, but sees nodeadm's configuration.
const KUBECONFIGS: [&str; 4] = [
    "/var/lib/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet.conf",
    "/run/eks/nodeadm/config.json",
];
/// A kubeconfig with embedded certificates has a few pages.
const MAX_KUBECONFIG: u64 = 64 * 1024;
const MAX_RESOLV_CONF: u64 = 16 * 1024;
const MAX_HOSTS: u64 = 1024 * 1024;
/// `MAXNS` of resolv.conf(5): the C library uses no more.
const MAX_SERVERS: usize = 3;

pub(super) struct DnsProbe {
    root: PathBuf,
    port: u16,
    latch: ConditionLatch,
}

impl DnsProbe {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), port: PORT, latch: ConditionLatch::default() }
    }

    /// The host name of the API server.
    fn api_server(&self) -> Result<String, NotCheckable> {
        for path in KUBECONFIGS {
            match host::text(&self.root, path, MAX_KUBECONFIG) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(not_checkable(format!("{path} cannot be read: {error}"))),
                Ok(text) => {
                    let server =
                        server(&text).ok_or_else(|| not_checkable(format!("{path} has no API server")))?;
                    return match host_of(&server) {
                        Some(name) if name.parse::<IpAddr>().is_ok() => {
                            Err(not_checkable("the API server is configured by IP address"))
                        }
                        Some(name) => Ok(name.to_owned()),
                        None => Err(not_checkable(format!("{path} has an API server URL without a host"))),
                    };
                }
            }
        }
        Err(not_checkable("no kubeconfig has the API server's address"))
    }

    /// The error, if the name does not resolve.
    fn failure(&self, name: &str) -> Result<Option<String>, NotCheckable> {
        // Local clusters on Outposts list their API server's addresses there, so that they work without the network.
        if host::text(&self.root, "/etc/hosts", MAX_HOSTS).is_ok_and(|hosts| is_listed(&hosts, name)) {
            return Ok(None);
        }
        let text = match host::text(&self.root, "/etc/resolv.conf", MAX_RESOLV_CONF) {
            Ok(text) => text,
            // The C library then queries the node itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(not_checkable(format!("/etc/resolv.conf cannot be read: {error}"))),
        };
        let mut failures = Vec::new();
        for server in servers(&text) {
            match resolve(SocketAddr::new(server, self.port), name)? {
                Ok(()) => return Ok(None),
                Err(LookupFailure { why, last }) => {
                    failures.push(format!("{server}: {why}"));
                    if last {
                        break;
                    }
                }
            }
        }
        Ok(Some(format!("{name} does not resolve: {}", failures.join(", "))))
    }
}

struct LookupFailure {
    why: String,
    /// Whether the search ends here. The C library queries the next server only if this one failed.
    last: bool,
}

fn resolve(server: SocketAddr, name: &str) -> Result<Result<(), LookupFailure>, NotCheckable> {
    for kind in [RecordType::A, RecordType::Aaaa] {
        let query = dns::query(fastrand::u16(..), name, kind)
            .ok_or_else(|| not_checkable(format!("{name:?} is not a valid DNS name")))?;
        let lookup_failure = |why: String, last| Ok(Err(LookupFailure { why, last }));
        match dns::send_query(server, &query, TIMEOUT) {
            Ok(DnsAnswer::Addresses) => return Ok(Ok(())),
            Ok(DnsAnswer::None) => {}
            Ok(DnsAnswer::Error(failure)) => {
                return lookup_failure(failure.to_string(), failure == DnsFailure::NoSuchName);
            }
            Err(error) => return lookup_failure(error.to_string(), false),
        }
    }
    Ok(Err(LookupFailure { why: "the name has no addresses".to_owned(), last: true }))
}

/// The API server's URL: of the first cluster in a kubeconfig, or of nodeadm's configuration.
fn server(kubeconfig: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Kubeconfig {
        #[serde(default)]
        clusters: Vec<NamedCluster>,
        spec: Option<NodeConfigSpec>,
    }
    #[derive(Deserialize)]
    struct NodeConfigSpec {
        cluster: ClusterDetails,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClusterDetails {
        api_server_endpoint: Option<String>,
    }
    #[derive(Deserialize)]
    struct NamedCluster {
        cluster: ClusterEndpoint,
    }
    #[derive(Deserialize)]
    struct ClusterEndpoint {
        server: Option<String>,
    }
    let kubeconfig: Kubeconfig = serde_saphyr::from_str(kubeconfig).ok()?;
    let clusters = kubeconfig.clusters.into_iter();
    let endpoint = kubeconfig.spec.and_then(|spec| spec.cluster.api_server_endpoint);
    clusters.filter_map(|named| named.cluster.server).next().or(endpoint)
}

/// The host of a URL.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split_once(']')?.0,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then_some(host)
}

/// Whether hosts(5) contains the name.
fn is_listed(hosts: &str, name: &str) -> bool {
    hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|listed| listed.eq_ignore_ascii_case(name))
    })
}

/// The name servers of resolv.conf(5). A link-local address with an interface is skipped.
fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        servers.push(Ipv4Addr::LOCALHOST.into());
    }
    servers
}

/// Without a working interface no name resolves, and the interfaces have a probe of their own.
fn is_connected(links: &[route::Link]) -> bool {
    links.iter().any(|link| !link.loopback && link.up && link.running)
}

impl Probe for DnsProbe {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[FAILING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let name = self.api_server()?;
        let failure = self.failure(&name)?;
        if failure.is_some() {
            let links = route::links().map_err(|error| not_checkable(error.clause()))?;
            if !is_connected(&links) {
                return Err(not_checkable("no interface is up"));
            }
        }
        Ok(self.latch.update(vec![Evaluation::new(FAILING, failure).after(THREE_TIMES)], now))
    }
}

#[cfg(test)]
mod tests;
