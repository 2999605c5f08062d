//! Finds a VPC CNI daemon that is installed and does not run.
//!
//! This reason leads to a replacement, so a process that is not visible is not assumed to be missing. An agent that
//! sees only its own container's processes would find the daemon on no node. The daemon counts as missing only if the
//! kubelet is visible.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{POD_LOGS, not_checkable};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::host,
};

const NOT_RUNNING: &str = "IPAMDNotRunning";
/// A restart takes a moment, and the first start waits for the image.
const LASTING: Debounce = Debounce::Lasting(SignedDuration::from_mins(5));
const INTERVAL: Duration = Duration::from_secs(30);
const DAEMON: &str = "aws-k8s-agent";
const KUBELET: &str = "kubelet";
const DAEMON_PODS: &str = "kube-system_aws-node-";
/// Only the VPC CNI's own pods have this container.
const INIT_CONTAINER: &str = "aws-vpc-cni-init";

pub(super) struct IpamdProbe {
    root: PathBuf,
    /// The daemon's last process ID, which is checked first: a node may have thousands of processes.
    last: Option<String>,
    latch: ConditionLatch,
}

/// The relevant processes that are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VisibleProcesses {
    Daemon,
    KubeletAlone,
    Neither,
}

impl IpamdProbe {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: None, latch: ConditionLatch::default() }
    }

    fn find_processes(&mut self) -> io::Result<VisibleProcesses> {
        if let Some(last) = &self.last
            && self.runs(last, DAEMON)
        {
            return Ok(VisibleProcesses::Daemon);
        }
        self.last = None;
        let mut visible = VisibleProcesses::Neither;
        for process in host::names(&self.root, "/proc")? {
            if !process.starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            if self.runs(&process, DAEMON) {
                self.last = Some(process);
                return Ok(VisibleProcesses::Daemon);
            }
            if visible == VisibleProcesses::Neither && self.runs(&process, KUBELET) {
                visible = VisibleProcesses::KubeletAlone;
            }
        }
        Ok(visible)
    }

    /// Whether this process has this name and runs; a zombie has no command line.
    fn runs(&self, process: &str, name: &str) -> bool {
        host::text(&self.root, &format!("/proc/{process}/comm"), 64).is_ok_and(|comm| comm.trim_end() == name)
            && !matches!(
                host::read(&self.root, &format!("/proc/{process}/cmdline"), 64 * 1024).as_deref(),
                Ok([])
            )
    }
}

/// Whether the VPC CNI's pod is on the node. The kubelet removes the directory soon after the pod.
pub(super) fn is_installed(root: &Path) -> Result<bool, NotCheckable> {
    let pods = host::names(root, POD_LOGS)
        .map_err(|error| not_checkable(format!("{POD_LOGS} cannot be listed: {error}")))?;
    Ok(pods.iter().filter(|pod| pod.starts_with(DAEMON_PODS)).any(|pod| {
        host::names(root, &format!("{POD_LOGS}/{pod}"))
            .is_ok_and(|containers| containers.iter().any(|container| container == INIT_CONTAINER))
    }))
}

impl Probe for IpamdProbe {
    fn name(&self) -> &'static str {
        "ipamd"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_RUNNING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let evaluated = if is_installed(&self.root)? {
            match self.find_processes() {
                Ok(VisibleProcesses::Daemon) => Evaluation::healthy(NOT_RUNNING),
                Ok(VisibleProcesses::KubeletAlone) => Evaluation::unhealthy(
                    NOT_RUNNING,
                    format!("the VPC CNI is installed, but no process {DAEMON} runs"),
                )
                .after(LASTING),
                Ok(VisibleProcesses::Neither) => {
                    return Err(not_checkable(
                        "the kubelet is not visible, so the node's processes may not be visible",
                    ));
                }
                Err(error) => return Err(not_checkable(format!("/proc cannot be listed: {error}"))),
            }
        } else {
            // If the VPC CNI was removed, its daemon need not run.
            Evaluation::healthy(NOT_RUNNING)
        };
        Ok(self.latch.update(vec![evaluated], now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct IpamdNode(tempfile::TempDir);

    impl IpamdNode {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().expect("a directory"));
            for pod in ["kube-system_aws-node-x7k2p_1b2c/aws-vpc-cni-init", "default_web-1_3d4e/web"] {
                fs::create_dir_all(node.0.path().join("var/log/pods").join(pod)).expect("a directory");
            }
            fs::create_dir_all(node.0.path().join("proc/sys")).expect("a directory");
            node
        }

        fn start(&self, process: &str, comm: &str, cmdline: &str) {
            let directory = self.0.path().join("proc").join(process);
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join("comm"), format!("{comm}\n")).expect("a file");
            fs::write(directory.join("cmdline"), cmdline).expect("a file");
        }

        fn end(&self, process: &str) {
            fs::remove_dir_all(self.0.path().join("proc").join(process)).expect("a removed directory");
        }
    }

    fn is_unhealthy(probe: &mut IpamdProbe) -> Result<bool, String> {
        match probe.read(Timestamp::UNIX_EPOCH).map_err(|error| error.to_string())?.as_slice() {
            [FindingChange::Raised(finding)] if finding.debounce == LASTING => Ok(true),
            [FindingChange::Cleared { subject: None, .. }] => Ok(false),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_daemon_that_ends_is_reported_until_a_new_one_runs() {
        let node = IpamdNode::new();
        node.start("900", "kubelet", "/usr/bin/kubelet");
        node.start("1000", "aws-k8s-agent", "./aws-k8s-agent");
        let mut probe = IpamdProbe::new(node.0.path());
        assert_eq!(is_unhealthy(&mut probe), Ok(false));
        node.end("1000");
        assert_eq!(is_unhealthy(&mut probe), Ok(true));
        // Another program reuses the process ID.
        node.start("1000", "sleep", "sleep");
        assert_eq!(is_unhealthy(&mut probe), Ok(true));
        node.start("70000", "aws-k8s-agent", "./aws-k8s-agent");
        assert_eq!(is_unhealthy(&mut probe), Ok(false));
        node.start("70000", "aws-k8s-agent", "");
        assert_eq!(is_unhealthy(&mut probe), Ok(true), "a zombie");
    }

    #[test]
    fn without_access_to_the_kubelets_process_the_daemon_is_not_checkable() {
        let node = IpamdNode::new();
        node.start("1", "nodemend-agent", "nodemend-agent");
        let mut probe = IpamdProbe::new(node.0.path());
        assert!(is_unhealthy(&mut probe).is_err());
        node.start("900", "kubelet", "");
        assert!(is_unhealthy(&mut probe).is_err(), "a zombie kubelet does not count");
        node.start("901", "kubelet-helper", "kubelet-helper");
        assert!(is_unhealthy(&mut probe).is_err());
    }

    #[test]
    fn without_the_vpc_cni_nothing_is_reported() {
        let node = IpamdNode::new();
        node.start("900", "kubelet", "/usr/bin/kubelet");
        let mut probe = IpamdProbe::new(node.0.path());
        assert_eq!(is_unhealthy(&mut probe), Ok(true));
        let pods = node.0.path().join("var/log/pods");
        // A user's own pod with the same name prefix.
        fs::rename(
            pods.join("kube-system_aws-node-x7k2p_1b2c/aws-vpc-cni-init"),
            pods.join("kube-system_aws-node-x7k2p_1b2c/init"),
        )
        .expect("a directory");
        assert_eq!(is_unhealthy(&mut probe), Ok(false));
        fs::remove_dir_all(pods.join("kube-system_aws-node-x7k2p_1b2c")).expect("a removed directory");
        assert_eq!(is_unhealthy(&mut probe), Ok(false));
        fs::remove_dir_all(&pods).expect("a removed directory");
        assert!(is_unhealthy(&mut probe).is_err());
    }

    #[test]
    fn this_machines_own_processes_are_read() {
        let mut probe = IpamdProbe::new(Path::new("/"));
        assert!(probe.find_processes().is_ok());
        let own = std::process::id().to_string();
        let comm = fs::read_to_string("/proc/self/comm").expect("a name");
        assert!(probe.runs(&own, comm.trim_end()));
        assert!(!probe.runs(&own, DAEMON));
    }
}
