//! Probes of the node's network.

mod allocation;
mod allowance;
mod efa;
mod firewall;
mod forwarding;
mod interfaces;
mod ipamd;
mod mac_policy;
mod metadata;
mod pod_routes;
mod resolution;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use regex::Regex;

use super::{NotCheckable, Probe, not_checkable};
use crate::{config::Config, identity::IMDS, source::host};

/// The kubelet stores the logs of its pods here with every runtime.
const POD_LOGS: &str = "/var/log/pods";
const NETWORK_PLUGINS: &str = "/etc/cni/net.d";

/// Settings of the network probes.
#[derive(Debug, Clone)]
pub struct NetworkProbeOptions {
    /// Interfaces that may be down; empty means the built-in exclusions.
    pub exclude_interfaces: Vec<Regex>,
    /// Chains whose rejecting rules are expected, as (table, chain).
    pub expected_reject_chains: Vec<(String, String)>,
    /// The metadata service's address; `None` if it must not be queried.
    pub imds: Option<SocketAddr>,
    /// The address of the VPC CNI daemon's introspection endpoint.
    pub introspection: SocketAddr,
}

impl Default for NetworkProbeOptions {
    fn default() -> Self {
        Self {
            exclude_interfaces: Vec::new(),
            expected_reject_chains: Vec::new(),
            imds: Some(IMDS),
            introspection: SocketAddr::from((Ipv4Addr::LOCALHOST, 61_679)),
        }
    }
}

impl From<&Config> for NetworkProbeOptions {
    fn from(config: &Config) -> Self {
        Self {
            exclude_interfaces: config.exclude_interfaces.clone(),
            expected_reject_chains: config.expected_reject_chains.clone(),
            imds: config.query_imds.then_some(IMDS),
            ..Self::default()
        }
    }
}

pub fn probes(root: &Path, options: &NetworkProbeOptions) -> Vec<Box<dyn Probe>> {
    let mut probes: Vec<Box<dyn Probe>> = vec![
        Box::new(interfaces::InterfaceProbe::new(options.exclude_interfaces.clone())),
        Box::new(firewall::Firewall::new(root, options.expected_reject_chains.clone())),
        Box::new(forwarding::Forwarding::new(root)),
        Box::new(resolution::DnsProbe::new(root)),
        Box::new(allowance::Allowances::new(root)),
        Box::new(efa::Efa::new(root)),
        Box::new(ipamd::IpamdProbe::new(root)),
        Box::new(allocation::Allocations::new(root)),
        Box::new(pod_routes::PodRoutes::new(options.introspection)),
        Box::new(mac_policy::MacPolicy::new(root)),
    ];
    if let Some(address) = options.imds {
        probes.push(Box::new(metadata::MetadataService::new(root, address)));
    }
    probes
}

/// Checks that this machine routes packets of pods: a kubelet stores pod logs here, and a network plugin is
/// configured. Before that, and on other machines, the owner may set the kernel's options freely.
fn carries_pods(root: &Path) -> Result<(), NotCheckable> {
    let unreadable = |path: &str, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => not_checkable("this machine is not a Kubernetes node"),
        _ => not_checkable(format!("{path} cannot be read: {error}")),
    };
    host::names(root, POD_LOGS).map_err(|error| unreadable(POD_LOGS, error))?;
    let plugins = host::names(root, NETWORK_PLUGINS).map_err(|error| unreadable(NETWORK_PLUGINS, error))?;
    // The file names that libcni reads as plugin configurations.
    let is_plugin = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    if plugins.iter().any(is_plugin) { Ok(()) } else { Err(not_checkable("no network plugin is configured")) }
}
