//! Turns the node's processes into whether the VPC CNI's daemon runs where it is installed.
//!
//! This reason has nodes replaced, so what is not seen is not yet gone: an agent that sees only its own container's
//! processes would find the daemon on no node at all. Only where the kubelet is seen is the daemon missed.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{POD_LOGS, not_checkable};
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::host,
};

const NOT_RUNNING: &str = "IPAMDNotRunning";
/// A daemon that restarts is away for moments, and its first start waits for its image.
const LASTING: Debounce = Debounce::Lasting(SignedDuration::from_mins(5));
const INTERVAL: Duration = Duration::from_secs(30);
const DAEMON: &str = "aws-k8s-agent";
const KUBELET: &str = "kubelet";
const DAEMON_PODS: &str = "kube-system_aws-node-";
/// Only the VPC CNI's own pods have it.
const INIT_CONTAINER: &str = "aws-vpc-cni-init";

pub(super) struct Ipamd {
    root: PathBuf,
    /// Where the daemon was seen last: there it is looked for first, as a node may have thousands of processes.
    last: Option<String>,
    standing: Standing,
}

/// What was seen among the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Daemon,
    KubeletAlone,
    Neither,
}

impl Ipamd {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: None, standing: Standing::default() }
    }

    fn look(&mut self) -> io::Result<Seen> {
        if let Some(last) = &self.last
            && self.runs(last, DAEMON)
        {
            return Ok(Seen::Daemon);
        }
        self.last = None;
        let mut seen = Seen::Neither;
        for process in host::names(&self.root, "/proc")? {
            if !process.starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            if self.runs(&process, DAEMON) {
                self.last = Some(process);
                return Ok(Seen::Daemon);
            }
            if seen == Seen::Neither && self.runs(&process, KUBELET) {
                seen = Seen::KubeletAlone;
            }
        }
        Ok(seen)
    }

    /// Whether that is a process of that name; one that ended and was not collected has no command line.
    fn runs(&self, process: &str, name: &str) -> bool {
        host::text(&self.root, &format!("/proc/{process}/comm"), 64).is_ok_and(|comm| comm.trim_end() == name)
            && !matches!(
                host::read(&self.root, &format!("/proc/{process}/cmdline"), 64 * 1024).as_deref(),
                Ok([])
            )
    }
}

/// Whether the VPC CNI's pod is on the node; the kubelet removes the folder soon after the pod.
pub(super) fn is_installed(root: &Path) -> Result<bool, NotCheckable> {
    let pods = host::names(root, POD_LOGS)
        .map_err(|error| not_checkable(format!("{POD_LOGS} can't be listed: {error}")))?;
    Ok(pods.iter().filter(|pod| pod.starts_with(DAEMON_PODS)).any(|pod| {
        host::names(root, &format!("{POD_LOGS}/{pod}"))
            .is_ok_and(|containers| containers.iter().any(|container| container == INIT_CONTAINER))
    }))
}

impl Probe for Ipamd {
    fn name(&self) -> &'static str {
        "ipamd"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_RUNNING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let judged = if is_installed(&self.root)? {
            match self.look() {
                Ok(Seen::Daemon) => Judged::well(NOT_RUNNING),
                Ok(Seen::KubeletAlone) => Judged::wrong(
                    NOT_RUNNING,
                    format!("the VPC CNI is installed, but no process {DAEMON} runs"),
                )
                .after(LASTING),
                Ok(Seen::Neither) => {
                    return Err(not_checkable(
                        "no kubelet is seen, so the node's processes may be out of sight",
                    ));
                }
                Err(error) => return Err(not_checkable(format!("/proc can't be listed: {error}"))),
            }
        } else {
            // Who removes the VPC CNI has nothing left that must run.
            Judged::well(NOT_RUNNING)
        };
        Ok(self.standing.update(vec![judged], now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().expect("a folder"));
            for pod in ["kube-system_aws-node-x7k2p_1b2c/aws-vpc-cni-init", "default_web-1_3d4e/web"] {
                fs::create_dir_all(node.0.path().join("var/log/pods").join(pod)).expect("a folder");
            }
            fs::create_dir_all(node.0.path().join("proc/sys")).expect("a folder");
            node
        }

        fn start(&self, process: &str, comm: &str, cmdline: &str) {
            let folder = self.0.path().join("proc").join(process);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("comm"), format!("{comm}\n")).expect("a file");
            fs::write(folder.join("cmdline"), cmdline).expect("a file");
        }

        fn end(&self, process: &str) {
            fs::remove_dir_all(self.0.path().join("proc").join(process)).expect("no folder");
        }
    }

    fn is_wrong(probe: &mut Ipamd) -> Result<bool, String> {
        match probe.read(Timestamp::UNIX_EPOCH).map_err(|error| error.to_string())?.as_slice() {
            [Change::Raised(finding)] if finding.debounce == LASTING => Ok(true),
            [Change::Cleared { subject: None, .. }] => Ok(false),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_daemon_that_ends_is_missed_and_found_again_wherever_it_starts() {
        let node = Node::new();
        node.start("900", "kubelet", "/usr/bin/kubelet");
        node.start("1000", "aws-k8s-agent", "./aws-k8s-agent");
        let mut probe = Ipamd::new(node.0.path());
        assert_eq!(is_wrong(&mut probe), Ok(false));
        node.end("1000");
        assert_eq!(is_wrong(&mut probe), Ok(true));
        // Another program has the number now.
        node.start("1000", "sleep", "sleep");
        assert_eq!(is_wrong(&mut probe), Ok(true));
        node.start("70000", "aws-k8s-agent", "./aws-k8s-agent");
        assert_eq!(is_wrong(&mut probe), Ok(false));
        node.start("70000", "aws-k8s-agent", "");
        assert_eq!(is_wrong(&mut probe), Ok(true), "dead, and not collected");
    }

    #[test]
    fn where_the_kubelet_is_out_of_sight_the_daemon_may_be_too() {
        let node = Node::new();
        node.start("1", "nodemend-agent", "nodemend-agent");
        let mut probe = Ipamd::new(node.0.path());
        assert!(is_wrong(&mut probe).is_err());
        node.start("900", "kubelet", "");
        assert!(is_wrong(&mut probe).is_err(), "a dead kubelet is none");
        node.start("901", "kubelet-helper", "kubelet-helper");
        assert!(is_wrong(&mut probe).is_err());
    }

    #[test]
    fn without_the_vpc_cni_nothing_is_missed() {
        let node = Node::new();
        node.start("900", "kubelet", "/usr/bin/kubelet");
        let mut probe = Ipamd::new(node.0.path());
        assert_eq!(is_wrong(&mut probe), Ok(true));
        let pods = node.0.path().join("var/log/pods");
        // Somebody's own pod of that name.
        fs::rename(
            pods.join("kube-system_aws-node-x7k2p_1b2c/aws-vpc-cni-init"),
            pods.join("kube-system_aws-node-x7k2p_1b2c/init"),
        )
        .expect("a folder");
        assert_eq!(is_wrong(&mut probe), Ok(false));
        fs::remove_dir_all(pods.join("kube-system_aws-node-x7k2p_1b2c")).expect("no folder");
        assert_eq!(is_wrong(&mut probe), Ok(false));
        fs::remove_dir_all(&pods).expect("no folder");
        assert!(is_wrong(&mut probe).is_err());
    }

    #[test]
    fn this_machines_own_processes_are_read() {
        let mut probe = Ipamd::new(Path::new("/"));
        assert!(probe.look().is_ok());
        let own = std::process::id().to_string();
        let comm = fs::read_to_string("/proc/self/comm").expect("a name");
        assert!(probe.runs(&own, comm.trim_end()));
        assert!(!probe.runs(&own, DAEMON));
    }
}
