//! Finds pod addresses that leaked, from the VPC CNI daemon's allocations and containerd's tasks.
//!
//! containerd has a directory for each task, and a sandbox is a task. An address whose sandbox has no task is
//! allocated to nothing. The opposite, a sandbox without an address, is not a problem: pods in the host's network
//! have none.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{ipamd, not_checkable};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::host,
};

const INCONSISTENT: &str = "IPAMDInconsistentState";
/// `/var/run` is a link to `/run` in all of EKS's images.
const ALLOCATIONS: &str = "/run/aws-node/ipam.json";
/// Valid for containerd 1.3 and later, with every shim.
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// A few hundred bytes for each of at most 737 pods.
const MAX_ALLOCATIONS: u64 = 2 * 1024 * 1024;
const VERSION: &str = "vpc-cni-ipam/1";
const INTERVAL: Duration = Duration::from_secs(120);
/// A sandbox gets its address before its task, and the kubelet releases a dead sandbox's address when it next syncs
/// the pod.
const LASTING: Debounce = Debounce::Lasting(SignedDuration::from_mins(10));

pub(super) struct Allocations {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Allocations {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

/// An allocated address and its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Allocation {
    #[serde(rename = "containerID")]
    sandbox: String,
    #[serde(default)]
    ipv4: String,
    #[serde(default)]
    ipv6: String,
    #[serde(default)]
    metadata: PodMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PodMetadata {
    #[serde(rename = "k8sPodNamespace")]
    namespace: String,
    #[serde(rename = "k8sPodName")]
    name: String,
}

fn parse(text: &[u8]) -> Result<Vec<Allocation>, String> {
    #[derive(Deserialize)]
    struct Checkpoint {
        version: String,
        /// Null if there are none.
        allocations: Option<Vec<Allocation>>,
    }
    let checkpoint: Checkpoint = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if checkpoint.version != VERSION {
        return Err(format!("version {:?}", checkpoint.version));
    }
    Ok(checkpoint.allocations.unwrap_or_default())
}

fn evaluate(allocations: &[Allocation], tasks: &HashSet<String>) -> Vec<Evaluation> {
    let mut evaluated = vec![Evaluation::healthy(INCONSISTENT)];
    for allocation in allocations.iter().filter(|allocation| !tasks.contains(&allocation.sandbox)) {
        let address = if allocation.ipv4.is_empty() { &allocation.ipv6 } else { &allocation.ipv4 };
        let PodMetadata { namespace, name } = &allocation.metadata;
        let message = format!(
            "the VPC CNI has {address} allocated to {namespace}/{name}, whose sandbox {:.12} does not run",
            allocation.sandbox
        );
        // The address may be allocated to another sandbox later, which is another finding.
        let subject = format!("{address} {:.12}", allocation.sandbox);
        evaluated.push(Evaluation::unhealthy(INCONSISTENT, message).about(subject).after(LASTING));
    }
    evaluated
}

impl Probe for Allocations {
    fn name(&self) -> &'static str {
        "ipamd-allocations"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[INCONSISTENT]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        // The file remains after the VPC CNI is removed.
        let allocations = if ipamd::is_installed(&self.root)? {
            match host::read(&self.root, ALLOCATIONS, MAX_ALLOCATIONS) {
                Ok(text) => {
                    parse(&text).map_err(|why| not_checkable(format!("{ALLOCATIONS} is invalid: {why}")))?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(not_checkable("the VPC CNI daemon has no allocations file"));
                }
                Err(error) => return Err(not_checkable(format!("{ALLOCATIONS} cannot be read: {error}"))),
            }
        } else {
            Vec::new()
        };
        // Read after the allocations, so that a sandbox that is created in between has its task.
        let tasks = host::names(&self.root, TASKS)
            .map_err(|error| not_checkable(format!("containerd's tasks cannot be listed: {error}")))?;
        Ok(self.latch.update(evaluate(&allocations, &tasks.into_iter().collect()), now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SANDBOX: &str = "5f1c2a9e8b7d6c5b4a39281706f5e4d3c2b1a0998877665544332211ffeeddcc";

    fn checkpoint(sandbox: &str) -> String {
        format!(
            r#"{{"version":"vpc-cni-ipam/1","allocations":[{{"networkName":"aws-cni","containerID":"{sandbox}",
            "ifName":"eth0","ipv4":"10.0.1.5","allocationTimestamp":1700000000000000000,"metadata":
            {{"k8sPodNamespace":"default","k8sPodName":"web-1","interfacesCount":1}}}}]}}"#
        )
    }

    #[test]
    fn only_the_daemons_format_is_accepted() {
        assert_eq!(parse(checkpoint("a").as_bytes()).map(|read| read.len()), Ok(1));
        assert_eq!(parse(br#"{"version":"vpc-cni-ipam/1","allocations":null}"#), Ok(Vec::new()));
        for text in [
            "",
            "{}",
            "[]",
            r#"{"version":"vpc-cni-ipam/2","allocations":[]}"#,
            r#"{"version":"vpc-cni-ipam/1","allocations":[{}]}"#,
            &checkpoint("a")[..120],
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_whose_sandbox_does_not_run_leaked() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = |path: &str| fs::create_dir_all(root.path().join(path)).expect("a directory");
        let mut probe = Allocations::new(root.path());
        let mut read = || probe.read(Timestamp::UNIX_EPOCH);
        assert!(read().is_err(), "no pods at all");
        directory("var/log/pods/kube-system_aws-node-x_1/aws-vpc-cni-init");
        assert!(read().is_err(), "no allocations");
        directory("run/aws-node");
        let write = |text: &str| fs::write(root.path().join("run/aws-node/ipam.json"), text).expect("a file");
        write(&checkpoint(SANDBOX));
        assert!(read().is_err(), "no containerd");
        directory("run/containerd/io.containerd.runtime.v2.task/k8s.io/0123");
        let changes = read().expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Raised(finding)]
                if finding.subject.as_deref() == Some("10.0.1.5 5f1c2a9e8b7d") && finding.debounce == LASTING
                    && finding.message.contains("default/web-1")),
            "{changes:?}"
        );
        directory(&format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{SANDBOX}"));
        assert!(matches!(&read().expect("a reading")[..], [FindingChange::Cleared { subject: None, .. }]));
        write(&checkpoint("another"));
        assert!(matches!(&read().expect("a reading")[..], [FindingChange::Raised(_)]));
        fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-x_1"))
            .expect("a removed directory");
        assert!(
            matches!(&read().expect("a reading")[..], [FindingChange::Cleared { .. }]),
            "the VPC CNI is gone"
        );
    }
}
