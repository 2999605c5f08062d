//! Turns questions to the node's name servers into whether the API server's name resolves.

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
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        dns::{self, Answer, Failure, Kind},
        host,
        netlink::route,
    },
};

const FAILING: &str = "NodeDNSFailing";
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_secs(120) };
const INTERVAL: Duration = Duration::from_secs(30);
/// A server in the same VPC answers within milliseconds, or asks another first.
const TIMEOUT: Duration = Duration::from_secs(1);
const PORT: u16 = 53;
/// Where kubelets keep the way to their API server: EKS's own images, Bottlerocket, kubeadm. An agent in a pod does not
/// see the kubelet's own folder, but what EKS's images were made a node with.
const KUBECONFIGS: [&str; 4] = [
    "/var/lib/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet.conf",
    "/run/eks/nodeadm/config.json",
];
/// A kubeconfig that holds certificates itself has a few pages.
const MAX_KUBECONFIG: u64 = 64 * 1024;
const MAX_RESOLV_CONF: u64 = 16 * 1024;
const MAX_HOSTS: u64 = 1024 * 1024;
/// `MAXNS` of resolv.conf(5): the C library knows no more.
const MAX_SERVERS: usize = 3;

pub(super) struct Resolution {
    root: PathBuf,
    port: u16,
    standing: Standing,
}

impl Resolution {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), port: PORT, standing: Standing::default() }
    }

    /// The API server's name.
    fn api_server(&self) -> Result<String, NotCheckable> {
        for path in KUBECONFIGS {
            match host::text(&self.root, path, MAX_KUBECONFIG) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(not_checkable(format!("{path} can't be read: {error}"))),
                Ok(text) => {
                    let server =
                        server(&text).ok_or_else(|| not_checkable(format!("{path} names no API server")))?;
                    return match host_of(&server) {
                        Some(name) if name.parse::<IpAddr>().is_ok() => {
                            Err(not_checkable("the API server is known by its address"))
                        }
                        Some(name) => Ok(name.to_owned()),
                        None => Err(not_checkable(format!("{path} names an API server that has no name"))),
                    };
                }
            }
        }
        Err(not_checkable("no file says where the API server is"))
    }

    /// What is wrong, if the name does not resolve.
    fn failure(&self, name: &str) -> Result<Option<String>, NotCheckable> {
        // Local clusters on Outposts keep their API server's addresses there, so that they outlive the network.
        if host::text(&self.root, "/etc/hosts", MAX_HOSTS).is_ok_and(|hosts| is_listed(&hosts, name)) {
            return Ok(None);
        }
        let text = match host::text(&self.root, "/etc/resolv.conf", MAX_RESOLV_CONF) {
            Ok(text) => text,
            // The C library then asks the node itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(not_checkable(format!("/etc/resolv.conf can't be read: {error}"))),
        };
        let mut failures = Vec::new();
        for server in servers(&text) {
            match resolve(SocketAddr::new(server, self.port), name)? {
                Ok(()) => return Ok(None),
                Err(Trouble { why, last }) => {
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

struct Trouble {
    why: String,
    /// The C library asks the next server only if this one failed.
    last: bool,
}

fn resolve(server: SocketAddr, name: &str) -> Result<Result<(), Trouble>, NotCheckable> {
    for kind in [Kind::A, Kind::Aaaa] {
        let question = dns::question(fastrand::u16(..), name, kind)
            .ok_or_else(|| not_checkable(format!("{name:?} is no name that can be asked for")))?;
        let trouble = |why: String, last| Ok(Err(Trouble { why, last }));
        match dns::ask(server, &question, TIMEOUT) {
            Ok(Answer::Addresses) => return Ok(Ok(())),
            Ok(Answer::None) => {}
            Ok(Answer::Failed(failure)) => {
                return trouble(failure.to_string(), failure == Failure::NoSuchName);
            }
            Err(error) => return trouble(error.to_string(), false),
        }
    }
    Ok(Err(Trouble { why: "the name has no addresses".to_owned(), last: true }))
}

/// The API server's address as a kubeconfig says it, the first cluster's, as a kubelet knows one; or as nodeadm does.
fn server(kubeconfig: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Kubeconfig {
        #[serde(default)]
        clusters: Vec<Named>,
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    struct Spec {
        cluster: Details,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Details {
        api_server_endpoint: Option<String>,
    }
    #[derive(Deserialize)]
    struct Named {
        cluster: Cluster,
    }
    #[derive(Deserialize)]
    struct Cluster {
        server: Option<String>,
    }
    let kubeconfig: Kubeconfig = serde_saphyr::from_str(kubeconfig).ok()?;
    let clusters = kubeconfig.clusters.into_iter();
    let endpoint = kubeconfig.spec.and_then(|spec| spec.cluster.api_server_endpoint);
    clusters.filter_map(|named| named.cluster.server).next().or(endpoint)
}

/// The host in a URL.
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

/// Whether hosts(5) has the name.
fn is_listed(hosts: &str, name: &str) -> bool {
    hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|listed| listed.eq_ignore_ascii_case(name))
    })
}

/// The servers of resolv.conf(5). A link-local one, whose address needs an interface, is passed over.
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

/// Without any interface the name can't resolve, and the interfaces have a probe of their own.
fn is_connected(links: &[route::Link]) -> bool {
    links.iter().any(|link| !link.loopback && link.up && link.running)
}

impl Probe for Resolution {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[FAILING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let name = self.api_server()?;
        let failure = self.failure(&name)?;
        if failure.is_some() {
            let links = route::links().map_err(|error| not_checkable(error.clause()))?;
            if !is_connected(&links) {
                return Err(not_checkable("no interface is up"));
            }
        }
        Ok(self.standing.update(vec![Judged::when(FAILING, failure).after(THREE_TIMES)], now))
    }
}

#[cfg(test)]
mod tests;
