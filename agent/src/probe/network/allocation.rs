//! Turns what the VPC CNI's daemon keeps of its allocations, and containerd's tasks, into addresses that leaked.
//!
//! containerd keeps a folder for each task, and a sandbox is one as well. An address whose sandbox has none is held
//! for nobody. The other way round, whether a sandbox should have an address, only the runtime could say: pods in the
//! host's network have none.

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
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::host,
};

const INCONSISTENT: &str = "IPAMDInconsistentState";
/// `/var/run` is a link to `/run` on all of EKS's images.
const ALLOCATIONS: &str = "/run/aws-node/ipam.json";
/// Of containerd since 1.3, whatever the shim.
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// A few hundred bytes for each of at most 737 pods.
const MAX_ALLOCATIONS: u64 = 2 * 1024 * 1024;
const VERSION: &str = "vpc-cni-ipam/1";
const INTERVAL: Duration = Duration::from_secs(120);
/// A sandbox has its address before its task, and the kubelet gives back the address of one that died when it next
/// looks at the pod.
const LASTING: Debounce = Debounce::Lasting(SignedDuration::from_mins(10));

pub(super) struct Allocations {
    root: PathBuf,
    standing: Standing,
}

impl Allocations {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
    }
}

/// An address that is held, and for which sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Allocation {
    #[serde(rename = "containerID")]
    sandbox: String,
    #[serde(default)]
    ipv4: String,
    #[serde(default)]
    ipv6: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "k8sPodNamespace")]
    namespace: String,
    #[serde(rename = "k8sPodName")]
    name: String,
}

fn parse(text: &[u8]) -> Result<Vec<Allocation>, String> {
    #[derive(Deserialize)]
    struct Checkpoint {
        version: String,
        /// Null where there are none.
        allocations: Option<Vec<Allocation>>,
    }
    let checkpoint: Checkpoint = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if checkpoint.version != VERSION {
        return Err(format!("version {:?}", checkpoint.version));
    }
    Ok(checkpoint.allocations.unwrap_or_default())
}

fn judge(allocations: &[Allocation], tasks: &HashSet<String>) -> Vec<Judged> {
    let mut judged = vec![Judged::well(INCONSISTENT)];
    for allocation in allocations.iter().filter(|allocation| !tasks.contains(&allocation.sandbox)) {
        let address = if allocation.ipv4.is_empty() { &allocation.ipv6 } else { &allocation.ipv4 };
        let Metadata { namespace, name } = &allocation.metadata;
        let message = format!(
            "the VPC CNI holds {address} for {namespace}/{name}, whose sandbox {:.12} does not run",
            allocation.sandbox
        );
        // The address may be given to another sandbox, which is another matter.
        let subject = format!("{address} {:.12}", allocation.sandbox);
        judged.push(Judged::wrong(INCONSISTENT, message).about(subject).after(LASTING));
    }
    judged
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        // The file outlives the VPC CNI.
        let allocations = if ipamd::is_installed(&self.root)? {
            match host::read(&self.root, ALLOCATIONS, MAX_ALLOCATIONS) {
                Ok(text) => parse(&text)
                    .map_err(|why| not_checkable(format!("{ALLOCATIONS} is not understood: {why}")))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(not_checkable("the VPC CNI's daemon keeps no allocations here"));
                }
                Err(error) => return Err(not_checkable(format!("{ALLOCATIONS} can't be read: {error}"))),
            }
        } else {
            Vec::new()
        };
        // After the allocations: a sandbox that is made meanwhile is not missed.
        let tasks = host::names(&self.root, TASKS)
            .map_err(|error| not_checkable(format!("containerd's tasks can't be listed: {error}")))?;
        Ok(self.standing.update(judge(&allocations, &tasks.into_iter().collect()), now))
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
    fn only_the_daemons_own_format_is_understood() {
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
        let root = tempfile::tempdir().expect("a folder");
        let folder = |path: &str| fs::create_dir_all(root.path().join(path)).expect("a folder");
        let mut probe = Allocations::new(root.path());
        let mut read = || probe.read(Timestamp::UNIX_EPOCH);
        assert!(read().is_err(), "no pods at all");
        folder("var/log/pods/kube-system_aws-node-x_1/aws-vpc-cni-init");
        assert!(read().is_err(), "no allocations");
        folder("run/aws-node");
        let write = |text: &str| fs::write(root.path().join("run/aws-node/ipam.json"), text).expect("a file");
        write(&checkpoint(SANDBOX));
        assert!(read().is_err(), "no containerd");
        folder("run/containerd/io.containerd.runtime.v2.task/k8s.io/0123");
        let changes = read().expect("a reading");
        assert!(
            matches!(&changes[..], [Change::Raised(finding)]
                if finding.subject.as_deref() == Some("10.0.1.5 5f1c2a9e8b7d") && finding.debounce == LASTING
                    && finding.message.contains("default/web-1")),
            "{changes:?}"
        );
        folder(&format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{SANDBOX}"));
        assert!(matches!(&read().expect("a reading")[..], [Change::Cleared { subject: None, .. }]));
        write(&checkpoint("another"));
        assert!(matches!(&read().expect("a reading")[..], [Change::Raised(_)]));
        fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-x_1")).expect("no folder");
        assert!(matches!(&read().expect("a reading")[..], [Change::Cleared { .. }]), "the VPC CNI is gone");
    }
}
