//! Probes of the kubelet, the container runtime and the services around them.

mod containerd;
mod cri;
mod kubelet;
mod restarts;
mod services;
mod settings;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use super::{Probe, not_checkable};

/// The kubelet's default `healthzPort`.
const KUBELET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_248);

pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(kubelet::Kubelet::new(root, KUBELET)),
        Box::new(cri::ContainerRuntime::new(root)),
        Box::new(services::Services::new(root)),
        Box::new(restarts::Restarts::new(root)),
        Box::new(containerd::Configuration::new(root)),
    ]
}
