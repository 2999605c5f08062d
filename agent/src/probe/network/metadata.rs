//! Finds an unreachable instance metadata service, by connecting to it.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::not_checkable;
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::netlink::route,
};

const BLOCKED: &str = "MetadataServiceBlocked";
const BY_TRIAL: &str = "connection";
/// It responds within milliseconds or not at all.
const TIMEOUT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_secs(120) };
const VENDOR: &str = "sys/devices/virtual/dmi/id/sys_vendor";

pub(super) struct MetadataService {
    root: PathBuf,
    address: SocketAddr,
    latch: ConditionLatch,
}

impl MetadataService {
    pub(super) fn new(root: &Path, address: SocketAddr) -> Self {
        Self { root: root.to_owned(), address, latch: ConditionLatch::default() }
    }

    /// Whether this machine is an EC2 instance, by the vendor in the firmware's tables (Nitro or Xen). Without
    /// firmware tables it counts as one.
    fn is_instance(&self) -> bool {
        match fs::read_to_string(self.root.join(VENDOR)) {
            Ok(vendor) => matches!(vendor.trim(), "Amazon EC2" | "Xen"),
            Err(_) => true,
        }
    }

    fn has_route(&self) -> Result<bool, NotCheckable> {
        let routes = route::routes().map_err(|error| not_checkable(error.clause()))?;
        let leads = |route: &route::Route| {
            route.passes
                && route.v6 == self.address.is_ipv6()
                && route.destination.is_none_or(|network| network.contains(self.address.ip()))
        };
        Ok(routes.iter().any(leads))
    }
}

impl Probe for MetadataService {
    fn name(&self) -> &'static str {
        "metadata-service"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[BLOCKED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        if !self.is_instance() {
            return Err(not_checkable("this machine is not an EC2 instance"));
        }
        let problem = match TcpStream::connect_timeout(&self.address, TIMEOUT) {
            Ok(_) => None,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied
                ) =>
            {
                if !self.has_route()? {
                    return Err(not_checkable("there is no route to the instance metadata service"));
                }
                Some(format!("the instance metadata service at {} does not respond: {error}", self.address))
            }
            Err(error) => {
                return Err(not_checkable(format!(
                    "failed to connect to the instance metadata service: {error}"
                )));
            }
        };
        let evaluated = Evaluation::new(BLOCKED, problem).about(BY_TRIAL).after(THREE_TIMES);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn read(address: SocketAddr) -> Vec<FindingChange> {
        // A directory without firmware tables.
        let mut probe = MetadataService::new(Path::new("/nonexistent"), address);
        probe.read(Timestamp::UNIX_EPOCH).expect("a reading")
    }

    #[test]
    fn a_service_that_accepts_connections_is_healthy_and_one_that_refuses_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        assert!(
            matches!(&read(address)[..], [FindingChange::Cleared { subject: Some(subject), .. }] if subject == BY_TRIAL)
        );
        drop(listener);
        assert!(
            matches!(&read(address)[..], [FindingChange::Raised(finding)] if finding.debounce == THREE_TIMES)
        );
    }
}
