//! Turns the process limits of pods' cgroups into the pods that have used theirs up.
//!
//! The kubelet keeps pods in `kubepods`, a level for each quality of service below it, and a pod's containers in the
//! pod's own (`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b_….slice/cri-containerd-….scope` or
//! `kubepods/burstable/pod1a2b-…/…`). Any of them may have a limit, which counts whatever lives below it.

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
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

/// The same that a line of the kernel's raises about the same pod when a fork is refused.
const EXHAUSTED: &str = "PodPidsExhausted";
const EXHAUSTED_PERCENT: u8 = 95;
const INTERVAL: Duration = Duration::from_secs(2 * 60);

/// Version 2 of cgroups and version 1, each with systemd as driver and without.
const ROOTS: [&str; 4] = [
    "sys/fs/cgroup/kubepods.slice",
    "sys/fs/cgroup/kubepods",
    "sys/fs/cgroup/pids/kubepods.slice",
    "sys/fs/cgroup/pids/kubepods",
];
/// Containers are so far below the root; what they make below themselves is their own business.
const CONTAINER_LEVEL: usize = 3;
/// Nodes have at most some hundred pods, with a few containers each.
const MAX_CGROUPS: usize = 4096;

pub(super) struct PodPids {
    root: PathBuf,
    standing: Standing,
}

/// What a walk through the cgroups saw.
#[derive(Debug, Default)]
struct Walk {
    cgroups: usize,
    /// How many have a limit to read, if only to say that there is none.
    limits: usize,
    /// Each pod, or level above the pods, and what is wrong with it.
    subjects: BTreeMap<String, Option<String>>,
}

impl PodPids {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
    }
}

impl Walk {
    fn enter(&mut self, folder: &Path, level: usize) {
        if self.cgroups == MAX_CGROUPS {
            return;
        }
        self.cgroups += 1;
        self.look(folder);
        if level == CONTAINER_LEVEL {
            return;
        }
        // A pod may end while it is looked at.
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.enter(&entry.path(), level + 1);
            }
        }
    }

    fn look(&mut self, folder: &Path) {
        let Ok(limit) = short(&folder.join("pids.max")) else { return };
        self.limits += 1;
        let subject = subject(folder);
        let Ok(limit) = limit.trim_ascii().parse() else {
            // `max`: the pod is known, so that whatever a line said of it can be cleared.
            self.subjects.entry(subject).or_default();
            return;
        };
        let used = short(&folder.join("pids.current")).ok().and_then(|used| used.trim_ascii().parse().ok());
        let Some(used) = used else { return };
        let usage = Usage { used, limit };
        let wrong =
            usage.reaches(EXHAUSTED_PERCENT).then(|| format!("processes and threads of {subject}: {usage}"));
        let known = self.subjects.entry(subject).or_default();
        if known.is_none() {
            *known = wrong;
        }
    }
}

/// The pod, or the name of the level that all pods share.
fn subject(folder: &Path) -> String {
    cgroup::pod(&folder.to_string_lossy())
        .unwrap_or_else(|| folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let mut walk = Walk::default();
        for root in ROOTS.map(|root| self.root.join(root)) {
            match fs::metadata(&root) {
                Ok(_) => walk.enter(&root, 0),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(not_checkable(format!("cgroups of pods can't be read: {error}"))),
            }
        }
        if walk.cgroups == 0 {
            return Err(not_checkable("there are no cgroups of pods"));
        }
        if walk.limits == 0 {
            return Err(not_checkable("the cgroups of pods don't count processes"));
        }
        let judged =
            walk.subjects.into_iter().map(|(subject, wrong)| Judged::when(EXHAUSTED, wrong).about(subject));
        if walk.cgroups == MAX_CGROUPS {
            let wrong: Vec<_> = judged.filter(Judged::is_wrong).collect();
            if wrong.is_empty() {
                return Err(not_checkable("there are too many cgroups of pods to look at all of them"));
            }
            return Ok(self.standing.add(wrong, now));
        }
        Ok(self.standing.update(judged.chain([Judged::well(EXHAUSTED)]).collect(), now))
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
        let folder = format!("sys/fs/cgroup/{cgroup}");
        put(root, &[(&format!("{folder}/pids.current"), current), (&format!("{folder}/pids.max"), max)]);
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
    fn a_pod_that_is_well_again_is_cleared_while_another_is_not() {
        let root = tree(&[]);
        let mut probe = PodPids::new(root.path());
        limit(root.path(), &slice(UID), "100", "100");
        limit(root.path(), &slice(OTHER), "99", "100");
        let both = vec![format!("+{EXHAUSTED} {OTHER}"), format!("+{EXHAUSTED} {UID}")];
        assert_eq!(changes(&mut probe), Ok(both));
        limit(root.path(), &slice(UID), "10", "100");
        let one = vec![format!("-{EXHAUSTED} {UID}"), format!("+{EXHAUSTED} {OTHER}")];
        assert_eq!(changes(&mut probe), Ok(one));
        fs::remove_dir_all(root.path().join("sys/fs/cgroup").join(slice(OTHER))).expect("a folder");
        assert_eq!(changes(&mut probe), Ok(vec![format!("-{EXHAUSTED}")]));
    }

    #[test]
    fn a_pod_without_a_limit_is_cleared_of_what_a_line_said_while_another_is_wrong() {
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
    fn what_containers_make_below_themselves_and_other_services_are_not_looked_at() {
        let root = tree(&[]);
        limit(root.path(), "kubepods.slice", "10", "max");
        limit(root.path(), &format!("{}/cri-containerd-0f32.scope/init.scope", slice(UID)), "100", "100");
        limit(root.path(), "system.slice/containerd.service", "100", "100");
        assert_eq!(changes(&mut PodPids::new(root.path())), Ok(vec![format!("-{EXHAUSTED}")]));
    }

    #[test]
    fn broken_files_are_passed_over_and_a_node_without_limits_says_nothing() {
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
    fn a_walk_that_is_cut_short_raises_what_it_saw_and_clears_nothing() {
        let root = tree(&[]);
        limit(root.path(), "kubepods.slice", "10", "100");
        for number in 0..MAX_CGROUPS {
            let folder = root.path().join(format!("sys/fs/cgroup/kubepods.slice/{number}"));
            fs::create_dir(folder).expect("a folder");
        }
        let mut probe = PodPids::new(root.path());
        assert!(changes(&mut probe).is_err());
        limit(root.path(), "kubepods.slice", "99", "100");
        assert_eq!(changes(&mut probe), Ok(vec![format!("+{EXHAUSTED} kubepods.slice")]));
        limit(root.path(), "kubepods.slice", "10", "100");
        assert!(changes(&mut probe).is_err());
    }
}
