//! Finds a systemd setting on Ubuntu that changes the MAC addresses of pod interfaces.
//!
//! The VPC CNI configures a pod with its gateway's MAC address at the time the interface is created. If systemd-udevd
//! changes that address afterwards, no packet from the pod arrives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{ipamd, not_checkable};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        host,
        link_file::{self, LinkInterface},
    },
};

const MISCONFIGURED: &str = "MACAddressPolicyMisconfigured";
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// It changes only with the system's packages.
const INTERVAL: Duration = Duration::from_secs(600);
/// The VPC CNI names the host side of a pod's veth pair `eni` and eleven digits of a hash.
const POD: LinkInterface<'_> = LinkInterface { name: "eni0123456789a", driver: "veth" };

pub(super) struct MacPolicy {
    root: PathBuf,
    latch: ConditionLatch,
}

impl MacPolicy {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }

    fn is_ubuntu(&self) -> Result<bool, NotCheckable> {
        let text = OS_RELEASE.iter().find_map(|path| host::text(&self.root, path, 16 * 1024).ok());
        let text = text.ok_or_else(|| not_checkable("there is no os-release file"))?;
        Ok(text.lines().any(|line| {
            line.trim().strip_prefix("ID=").is_some_and(|id| id.trim_matches(['"', '\'']) == "ubuntu")
        }))
    }
}

impl Probe for MacPolicy {
    fn name(&self) -> &'static str {
        "mac-address-policy"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[MISCONFIGURED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        if !self.is_ubuntu()? {
            return Err(not_checkable("this system is not Ubuntu"));
        }
        let problem = if ipamd::is_installed(&self.root)? {
            let policy = link_file::policy(&self.root, POD).map_err(|error| not_checkable(error.clause()))?;
            policy.and_then(|policy| {
                let value = policy.mac_address.filter(|value| value != "none")?;
                Some(format!("MACAddressPolicy is {value} in {}, but must be none", policy.file))
            })
        } else {
            // Without the VPC CNI the setting does no harm.
            None
        };
        Ok(self.latch.update(vec![Evaluation::new(MISCONFIGURED, problem)], now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ubuntu_with_the_vpc_cni_must_leave_addresses_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        let problem = || match MacPolicy::new(root.path()).read(Timestamp::UNIX_EPOCH).ok()?.as_slice() {
            [FindingChange::Raised(finding)] => Some(Some(finding.message.clone())),
            [FindingChange::Cleared { .. }] => Some(None),
            other => panic!("{other:?}"),
        };
        let policy = "usr/lib/systemd/network/99-default.link";
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n");
        assert_eq!(problem(), None, "no os-release");
        write("etc/os-release", "NAME=\"Amazon Linux\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\n");
        fs::create_dir_all(root.path().join("var/log/pods/kube-system_aws-node-1_2/aws-vpc-cni-init"))
            .expect("a directory");
        assert_eq!(problem(), None, "no Ubuntu");
        write("etc/os-release", "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n");
        let message =
            "MACAddressPolicy is persistent in /usr/lib/systemd/network/99-default.link, but must be none";
        assert_eq!(problem(), Some(Some(message.to_owned())));
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=none\n");
        assert_eq!(problem(), Some(None));
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=random\n");
        assert!(matches!(problem(), Some(Some(_))));
        fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-1_2"))
            .expect("a removed directory");
        assert_eq!(problem(), Some(None), "the VPC CNI is gone");
        fs::remove_dir_all(root.path().join("var/log/pods")).expect("a removed directory");
        assert_eq!(problem(), None);
    }
}
