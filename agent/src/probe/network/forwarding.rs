//! Turns the kernel's switch of IP forwarding into whether pods reach beyond the node.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{carries_pods, not_checkable};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::host,
};

const OFF: &str = "NetworkSysctl";
/// The kernel shows it for the network namespace of whoever reads, wherever procfs is mounted.
const SWITCH: &str = "proc/sys/net/ipv4/ip_forward";

pub(super) struct Forwarding {
    root: PathBuf,
    standing: Standing,
}

impl Forwarding {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
    }
}

/// What is wrong with the switch's text, if anything; none if it is no number.
fn judge(text: &str) -> Option<Option<String>> {
    match text.trim().parse::<i32>().ok()? {
        // The kernel takes any other number for on, and `sysctl` writes a 1.
        0 => Some(Some("net.ipv4.ip_forward is 0: the node does not forward its pods' packets".to_owned())),
        _ => Some(None),
    }
}

impl Probe for Forwarding {
    fn name(&self) -> &'static str {
        "ip-forwarding"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[OFF]
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        carries_pods(&self.root)?;
        let text = host::text(&self.root, SWITCH, 64)
            .map_err(|error| not_checkable(format!("/{SWITCH} can't be read: {error}")))?;
        let wrong = judge(&text).ok_or_else(|| not_checkable(format!("/{SWITCH} holds no number")))?;
        Ok(self.standing.update(vec![Judged::when(OFF, wrong)], now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nothing_but_zero_is_off() {
        for (text, expected) in [
            ("0\n", Some(true)),
            ("1\n", Some(false)),
            ("2\n", Some(false)),
            ("-1\n", Some(false)),
            ("", None),
            ("on\n", None),
        ] {
            assert_eq!(judge(text).map(|wrong| wrong.is_some()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_machine_without_a_kubelet_or_without_a_network_plugin_may_do_as_it_likes() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        write(SWITCH, "0\n");
        let mut probe = Forwarding::new(root.path());
        let mut read = || probe.read(Timestamp::UNIX_EPOCH);
        assert!(read().is_err());
        fs::create_dir_all(root.path().join("var/log/pods")).expect("a folder");
        assert!(read().is_err());
        write("etc/cni/net.d/README", "");
        assert!(read().is_err());
        write("etc/cni/net.d/10-aws.conflist", "{}");
        assert!(
            matches!(&read().expect("a reading")[..], [Change::Raised(finding)] if finding.reason == OFF)
        );
        write(SWITCH, "1\n");
        assert!(matches!(&read().expect("a reading")[..], [Change::Cleared { .. }]));
        write(SWITCH, "?\n");
        assert!(read().is_err());
    }
}
