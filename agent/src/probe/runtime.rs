//! Turns the state of the kubelet, the container runtime and the services around them into changes.

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

use super::{NotCheckable, Probe};

/// The kubelet's `healthzPort`, unless its configuration names another.
const KUBELET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_248);

/// All probes of the kubelet, the container runtime and of systemd's services.
pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(kubelet::Kubelet::new(root, KUBELET)),
        Box::new(cri::ContainerRuntime::new(root)),
        Box::new(services::Services::new(root)),
        Box::new(restarts::Restarts::new(root)),
        Box::new(containerd::Configuration::new(root)),
    ]
}

fn not_checkable(why: impl Into<std::borrow::Cow<'static, str>>) -> NotCheckable {
    NotCheckable { why: why.into() }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::catalogue;

    use super::*;

    #[test]
    fn every_reason_is_in_the_catalogue_and_every_name_is_given_once() {
        let probes = probes(Path::new("/"));
        let mut names: Vec<_> = probes.iter().map(|probe| probe.name()).collect();
        for reason in probes.iter().flat_map(|probe| probe.reasons()) {
            assert!(catalogue::lookup(reason).is_some(), "{reason}");
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
