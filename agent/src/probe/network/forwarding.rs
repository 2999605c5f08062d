//! Finds disabled IP forwarding, which cuts pods off from other nodes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{carries_pods, not_checkable};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::host,
};

const OFF: &str = "NetworkSysctl";
/// The kernel shows the value of the reader's network namespace, no matter where procfs is mounted.
const SWITCH: &str = "proc/sys/net/ipv4/ip_forward";

pub(super) struct Forwarding {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Forwarding {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

/// The problem, if the value has one; `None` if the text is not a number.
fn evaluate(text: &str) -> Option<Option<String>> {
    match text.trim().parse::<i32>().ok()? {
        // The kernel treats every other number as on; `sysctl` writes 1.
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        carries_pods(&self.root)?;
        let text = host::text(&self.root, SWITCH, 64)
            .map_err(|error| not_checkable(format!("/{SWITCH} cannot be read: {error}")))?;
        let problem =
            evaluate(&text).ok_or_else(|| not_checkable(format!("/{SWITCH} does not contain a number")))?;
        Ok(self.latch.update(vec![Evaluation::new(OFF, problem)], now))
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
            assert_eq!(evaluate(text).map(|problem| problem.is_some()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_machine_without_a_kubelet_or_a_network_plugin_is_not_checkable() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        write(SWITCH, "0\n");
        let mut probe = Forwarding::new(root.path());
        let mut read = || probe.read(Timestamp::UNIX_EPOCH);
        assert!(read().is_err());
        fs::create_dir_all(root.path().join("var/log/pods")).expect("a directory");
        assert!(read().is_err());
        write("etc/cni/net.d/README", "");
        assert!(read().is_err());
        write("etc/cni/net.d/10-aws.conflist", "{}");
        assert!(
            matches!(&read().expect("a reading")[..], [FindingChange::Raised(finding)] if finding.reason == OFF)
        );
        write(SWITCH, "1\n");
        assert!(matches!(&read().expect("a reading")[..], [FindingChange::Cleared { .. }]));
        write(SWITCH, "?\n");
        assert!(read().is_err());
    }
}
