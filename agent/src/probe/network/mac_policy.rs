//! Turns systemd's settings on Ubuntu into whether it changes the addresses of pods' interfaces behind their back.
//!
//! The VPC CNI tells a pod its gateway's address as it was when the interface was made; systemd-udevd may give the
//! interface another one a moment later, and from then on nothing from the pod arrives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{ipamd, not_checkable};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        host,
        link_file::{self, Interface},
    },
};

const MISCONFIGURED: &str = "MACAddressPolicyMisconfigured";
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// It changes with the system's packages, if ever.
const INTERVAL: Duration = Duration::from_secs(600);
/// The VPC CNI names the node's end of a pod's pair so, and ends it with eleven digits of a hash.
const POD: Interface<'_> = Interface { name: "eni0123456789a", driver: "veth" };

pub(super) struct MacPolicy {
    root: PathBuf,
    standing: Standing,
}

impl MacPolicy {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
    }

    fn is_ubuntu(&self) -> Result<bool, NotCheckable> {
        let text = OS_RELEASE.iter().find_map(|path| host::text(&self.root, path, 16 * 1024).ok());
        let text = text.ok_or_else(|| not_checkable("no os-release says which system this is"))?;
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        if !self.is_ubuntu()? {
            return Err(not_checkable("this system is not Ubuntu"));
        }
        let wrong = if ipamd::is_installed(&self.root)? {
            let policy = link_file::policy(&self.root, POD).map_err(|error| not_checkable(error.clause()))?;
            policy.and_then(|policy| {
                let word = policy.mac_address.filter(|word| word != "none")?;
                Some(format!("MACAddressPolicy is {word} in {}, and must be none", policy.file))
            })
        } else {
            // Without the VPC CNI nobody is harmed.
            None
        };
        Ok(self.standing.update(vec![Judged::when(MISCONFIGURED, wrong)], now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ubuntu_with_the_vpc_cni_must_leave_addresses_alone() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        let wrong = || match MacPolicy::new(root.path()).read(Timestamp::UNIX_EPOCH).ok()?.as_slice() {
            [Change::Raised(finding)] => Some(Some(finding.message.clone())),
            [Change::Cleared { .. }] => Some(None),
            other => panic!("{other:?}"),
        };
        let policy = "usr/lib/systemd/network/99-default.link";
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n");
        assert_eq!(wrong(), None, "no os-release");
        write("etc/os-release", "NAME=\"Amazon Linux\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\n");
        fs::create_dir_all(root.path().join("var/log/pods/kube-system_aws-node-1_2/aws-vpc-cni-init"))
            .expect("a folder");
        assert_eq!(wrong(), None, "no Ubuntu");
        write("etc/os-release", "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n");
        let message =
            "MACAddressPolicy is persistent in /usr/lib/systemd/network/99-default.link, and must be none";
        assert_eq!(wrong(), Some(Some(message.to_owned())));
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=none\n");
        assert_eq!(wrong(), Some(None));
        write(policy, "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=random\n");
        assert!(matches!(wrong(), Some(Some(_))));
        fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-1_2")).expect("no folder");
        assert_eq!(wrong(), Some(None), "the VPC CNI is gone");
        fs::remove_dir_all(root.path().join("var/log/pods")).expect("no folder");
        assert_eq!(wrong(), None);
    }
}
