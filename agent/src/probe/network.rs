//! Turns the state of a node's network into changes: one probe for each thing that is read.

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

/// The kubelet keeps the logs of its pods there, whatever the runtime.
const POD_LOGS: &str = "/var/log/pods";
const NETWORK_PLUGINS: &str = "/etc/cni/net.d";

/// What may be set of these probes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Interfaces that may be down; empty means the built-in ones.
    pub exclude_interfaces: Vec<Regex>,
    /// Chains, by table and name, whose rejecting rules are expected.
    pub expected_reject_chains: Vec<(String, String)>,
    /// The metadata service, unless it is not to be asked.
    pub imds: Option<SocketAddr>,
    /// Where the VPC CNI's daemon answers questions about itself.
    pub introspection: SocketAddr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            exclude_interfaces: Vec::new(),
            expected_reject_chains: Vec::new(),
            imds: Some(IMDS),
            introspection: SocketAddr::from((Ipv4Addr::LOCALHOST, 61_679)),
        }
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            exclude_interfaces: config.exclude_interfaces.clone(),
            expected_reject_chains: config.expected_reject_chains.clone(),
            imds: config.ask_imds.then_some(IMDS),
            ..Self::default()
        }
    }
}

/// All probes of the network.
pub fn probes(root: &Path, options: &Options) -> Vec<Box<dyn Probe>> {
    let mut probes: Vec<Box<dyn Probe>> = vec![
        Box::new(interfaces::Interfaces::new(options.exclude_interfaces.clone())),
        Box::new(firewall::Firewall::new(root, options.expected_reject_chains.clone())),
        Box::new(forwarding::Forwarding::new(root)),
        Box::new(resolution::Resolution::new(root)),
        Box::new(allowance::Allowances::new(root)),
        Box::new(efa::Efa::new(root)),
        Box::new(ipamd::Ipamd::new(root)),
        Box::new(allocation::Allocations::new(root)),
        Box::new(pod_routes::PodRoutes::new(options.introspection)),
        Box::new(mac_policy::MacPolicy::new(root)),
    ];
    if let Some(address) = options.imds {
        probes.push(Box::new(metadata::MetadataService::new(root, address)));
    }
    probes
}

/// Whether packets of pods pass through this machine: a kubelet keeps its pods' logs here, and a network plugin has set
/// itself up. Before that, and on a machine that runs something else, the kernel may be set as its owner likes.
fn carries_pods(root: &Path) -> Result<(), NotCheckable> {
    let unreadable = |path: &str, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => not_checkable("this machine is no Kubernetes node"),
        _ => not_checkable(format!("{path} can't be read: {error}")),
    };
    host::names(root, POD_LOGS).map_err(|error| unreadable(POD_LOGS, error))?;
    let plugins = host::names(root, NETWORK_PLUGINS).map_err(|error| unreadable(NETWORK_PLUGINS, error))?;
    // What libcni takes for a plugin's configuration.
    let is_plugin = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    if plugins.iter().any(is_plugin) {
        Ok(())
    } else {
        Err(not_checkable("no network plugin has set itself up"))
    }
}
