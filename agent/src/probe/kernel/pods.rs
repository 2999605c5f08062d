//! Finds pods that reached their process limit, from the pods' cgroups.
//!
//! The kubelet creates `kubepods`, below it one cgroup for each quality of service class, then one for each pod, and
//! the containers in the pod's
//! (`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b_….slice/cri-containerd-….scope` or
//! `kubepods/burstable/pod1a2b-…/…`). Each of them may have a limit, which counts everything below it.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, short, usage::Usage};
use crate::{
    detect::cgroup,
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

/// The kernel log line about a rejected fork raises the same reason for the same pod.
const EXHAUSTED: &str = "PodPidsExhausted";
const EXHAUSTED_PERCENT: u8 = 95;
const INTERVAL: Duration = Duration::from_secs(2 * 60);

/// cgroup v2 and v1, each with the systemd and the cgroupfs driver.
const ROOTS: [&str; 4] = [
    "sys/fs/cgroup/kubepods.slice",
    "sys/fs/cgroup/kubepods",
    "sys/fs/cgroup/pids/kubepods.slice",
    "sys/fs/cgroup/pids/kubepods",
];
/// The depth of container cgroups below the root. Cgroups that containers create below their own are not read.
const CONTAINER_LEVEL: usize = 3;
/// A node has at most some hundred pods, with a few containers each.
const MAX_CGROUPS: usize = 4096;

pub(super) struct PodPids {
    root: PathBuf,
    latch: ConditionLatch,
}

/// The result of reading all cgroups of pods.
#[derive(Debug, Default)]
struct CgroupWalk {
    cgroups: usize,
    /// The number of cgroups with a `pids.max` file, even if it contains `max`.
    limits: usize,
    /// The problem of each pod, or of each level above the pods.
    subjects: BTreeMap<String, Option<String>>,
}

impl PodPids {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl CgroupWalk {
    fn enter(&mut self, directory: &Path, level: usize) {
        if self.cgroups == MAX_CGROUPS {
            return;
        }
        self.cgroups += 1;
        self.read_limit(directory);
        if level == CONTAINER_LEVEL {
            return;
        }
        // A pod may end while it is read.
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.enter(&entry.path(), level + 1);
            }
        }
    }

    fn read_limit(&mut self, directory: &Path) {
        let Ok(limit) = short(&directory.join("pids.max")) else { return };
        self.limits += 1;
        let subject = subject(directory);
        let Ok(limit) = limit.trim_ascii().parse() else {
            // `max`: the pod exists and has no limit, so a finding that a line raised about it is cleared.
            self.subjects.entry(subject).or_default();
            return;
        };
        let used =
            short(&directory.join("pids.current")).ok().and_then(|used| used.trim_ascii().parse().ok());
        let Some(used) = used else { return };
        let usage = Usage { used, limit };
        let problem =
            usage.reaches(EXHAUSTED_PERCENT).then(|| format!("processes and threads of {subject}: {usage}"));
        let known = self.subjects.entry(subject).or_default();
        if known.is_none() {
            *known = problem;
        }
    }
}

/// The pod's UID, or the cgroup's name for a level above the pods.
fn subject(directory: &Path) -> String {
    cgroup::pod(&directory.to_string_lossy())
        .unwrap_or_else(|| directory.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

impl Probe for PodPids {
    fn name(&self) -> &'static str {
        "pod-pids"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[EXHAUSTED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let mut walk = CgroupWalk::default();
        for root in ROOTS.map(|root| self.root.join(root)) {
            match fs::metadata(&root) {
                Ok(_) => walk.enter(&root, 0),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(not_checkable(format!("pod cgroups cannot be read: {error}"))),
            }
        }
        if walk.cgroups == 0 {
            return Err(not_checkable("there are no pod cgroups"));
        }
        if walk.limits == 0 {
            return Err(not_checkable("the pod cgroups do not count processes"));
        }
        let evaluated = walk
            .subjects
            .into_iter()
            .map(|(subject, problem)| Evaluation::new(EXHAUSTED, problem).about(subject));
        if walk.cgroups == MAX_CGROUPS {
            let problem: Vec<_> = evaluated.filter(Evaluation::is_unhealthy).collect();
            if problem.is_empty() {
                return Err(not_checkable("too many pod cgroups to read all of them"));
            }
            return Ok(self.latch.add(problem, now));
        }
        Ok(self.latch.update(evaluated.chain([Evaluation::healthy(EXHAUSTED)]).collect(), now))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{changes, put, tree},
        *,
    };

    const UID: &str = "968a06fb-9ab9-4819-8caf-0392ddff3d9b";
    const OTHER: &str = "11111111-9ab9-4819-8caf-0392ddff3d9b";

    fn slice(uid: &str) -> String {
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
            uid.replace('-', "_")
        )
    }

    fn limit(root: &Path, cgroup: &str, current: &str, max: &str) {
        let directory = format!("sys/fs/cgroup/{cgroup}");
        put(
            root,
            &[(&format!("{directory}/pids.current"), current), (&format!("{directory}/pids.max"), max)],
        );
    }

    #[test]
    fn a_pod_at_its_limit_is_named_under_either_version_and_driver() {
        let systemd = slice(UID);
        for cgroup in [
            systemd.clone(),
            format!("pids/{systemd}"),
            format!("kubepods/burstable/pod{UID}"),
            format!("pids/kubepods/pod{UID}"),
            format!("{systemd}/cri-containerd-0f32.scope"),
        ] {
            for (current, max, expected) in [
                ("95", "100", format!("+{EXHAUSTED} {UID}")),
                ("100", "100\n", format!("+{EXHAUSTED} {UID}")),
                ("94\n", "100\n", format!("-{EXHAUSTED}")),
                ("100000\n", "max\n", format!("-{EXHAUSTED}")),
            ] {
                let root = tree(&[]);
                limit(root.path(), &cgroup, current, max);
                let changes = changes(&mut PodPids::new(root.path()));
                assert_eq!(changes, Ok(vec![expected]), "{current} of {max} in {cgroup}");
            }
        }
    }

    #[test]
    fn a_pod_that_recovered_is_cleared_while_another_is_not() {
        let root = tree(&[]);
        let mut probe = PodPids::new(root.path());
        limit(root.path(), &slice(UID), "100", "100");
        limit(root.path(), &slice(OTHER), "99", "100");
        let both = vec![format!("+{EXHAUSTED} {OTHER}"), format!("+{EXHAUSTED} {UID}")];
        assert_eq!(changes(&mut probe), Ok(both));
        limit(root.path(), &slice(UID), "10", "100");
        let one = vec![format!("-{EXHAUSTED} {UID}"), format!("+{EXHAUSTED} {OTHER}")];
        assert_eq!(changes(&mut probe), Ok(one));
        fs::remove_dir_all(root.path().join("sys/fs/cgroup").join(slice(OTHER))).expect("a directory");
        assert_eq!(changes(&mut probe), Ok(vec![format!("-{EXHAUSTED}")]));
    }

    #[test]
    fn a_pod_without_a_limit_is_cleared_while_another_is_unhealthy() {
        let root = tree(&[]);
        limit(root.path(), &slice(UID), "10", "max");
        limit(root.path(), &slice(OTHER), "99", "100");
        let expected = vec![format!("-{EXHAUSTED} {UID}"), format!("+{EXHAUSTED} {OTHER}")];
        assert_eq!(changes(&mut PodPids::new(root.path())), Ok(expected));
    }

    #[test]
    fn a_limit_that_all_pods_share_is_named_by_its_cgroup() {
        let root = tree(&[]);
        limit(root.path(), "kubepods.slice", "990", "1000");
        limit(root.path(), &slice(UID), "10", "100");
        let expected = vec![format!("-{EXHAUSTED} {UID}"), format!("+{EXHAUSTED} kubepods.slice")];
        assert_eq!(changes(&mut PodPids::new(root.path())), Ok(expected));
    }

    #[test]
    fn cgroups_below_containers_and_of_services_are_not_read() {
        let root = tree(&[]);
        limit(root.path(), "kubepods.slice", "10", "max");
        limit(root.path(), &format!("{}/cri-containerd-0f32.scope/init.scope", slice(UID)), "100", "100");
        limit(root.path(), "system.slice/containerd.service", "100", "100");
        assert_eq!(changes(&mut PodPids::new(root.path())), Ok(vec![format!("-{EXHAUSTED}")]));
    }

    #[test]
    fn broken_files_are_skipped_and_a_node_without_limits_is_not_checkable() {
        let root = tree(&[]);
        limit(root.path(), &slice(UID), "many", "100");
        limit(root.path(), &slice(OTHER), "100", "many");
        assert_eq!(changes(&mut PodPids::new(root.path())), Ok(vec![format!("-{EXHAUSTED}")]));
        let no_controller = tree(&[("sys/fs/cgroup/kubepods.slice/cgroup.procs", "")]);
        assert!(changes(&mut PodPids::new(no_controller.path())).is_err());
        let no_pods = tree(&[("sys/fs/cgroup/system.slice/pids.max", "100")]);
        assert!(changes(&mut PodPids::new(no_pods.path())).is_err());
    }

    #[test]
    fn an_incomplete_walk_raises_findings_but_clears_none() {
        let root = tree(&[]);
        limit(root.path(), "kubepods.slice", "10", "100");
        for number in 0..MAX_CGROUPS {
            let directory = root.path().join(format!("sys/fs/cgroup/kubepods.slice/{number}"));
            fs::create_dir(directory).expect("a directory");
        }
        let mut probe = PodPids::new(root.path());
        assert!(changes(&mut probe).is_err());
        limit(root.path(), "kubepods.slice", "99", "100");
        assert_eq!(changes(&mut probe), Ok(vec![format!("+{EXHAUSTED} kubepods.slice")]));
        limit(root.path(), "kubepods.slice", "10", "100");
        assert!(changes(&mut probe).is_err());
    }
}
