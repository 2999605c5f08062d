use std::{fs, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::*;
use crate::finding::FindingChange;

/// A directory tree with these files.
pub(super) fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    put(root.path(), files);
    root
}

/// Writes files; existing ones are replaced.
pub(super) fn put(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
}

/// The changes of a reading: `+Reason subject` if raised, `-Reason subject` if cleared.
pub(super) fn changes(probe: &mut dyn Probe) -> Result<Vec<String>, String> {
    let read = probe.read(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24));
    let changes = read.map_err(|nothing| nothing.why.into_owned())?;
    Ok(changes.iter().map(shown).collect())
}

fn shown(change: &FindingChange) -> String {
    let (sign, reason, subject) = match change {
        FindingChange::Raised(finding) => ('+', &finding.reason, &finding.subject),
        FindingChange::Cleared { reason, subject, .. } => ('-', reason, subject),
    };
    match subject {
        Some(subject) => format!("{sign}{reason} {subject}"),
        None => format!("{sign}{reason}"),
    }
}

#[test]
fn on_this_machine_every_probe_reads_or_returns_why_not() {
    for mut probe in probes(Path::new("/")) {
        match probe.read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => {
                let known = changes.iter().all(|change| match change {
                    FindingChange::Raised(finding) => probe.reasons().contains(&&*finding.reason),
                    FindingChange::Cleared { reason, .. } => probe.reasons().contains(&&**reason),
                });
                assert!(known, "{}: {changes:?}", probe.name());
            }
            Err(nothing) => assert!(!nothing.why.is_empty(), "{}", probe.name()),
        }
    }
}

#[test]
fn probes_of_common_kernel_files_can_read_this_kernel() {
    for name in ["tasks", "open-files", "zombies", "environments", "clock"] {
        let mut probes = probes(Path::new("/"));
        let probe = probes.iter_mut().find(|probe| probe.name() == name).expect("a probe");
        assert!(probe.read(Timestamp::UNIX_EPOCH).is_ok(), "{name}");
    }
}

#[test]
fn a_root_without_anything_is_no_fault_and_clears_nothing() {
    let root = tree(&[]);
    for mut probe in probes(root.path()) {
        // The clock does not depend on the root.
        if probe.name() != "clock" {
            assert!(probe.read(Timestamp::UNIX_EPOCH).is_err(), "{}", probe.name());
        }
    }
}

#[test]
#[ignore = "measures this machine"]
fn reading_everything_takes_a_small_part_of_the_agents_share() {
    const READINGS: u32 = 20;
    let processor_time = || {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).expect("nanoseconds"))
    };
    let pods = full_node();
    let mut measured = probes(Path::new("/"));
    measured.push(Box::new(pods::PodPids::new(pods.path())));
    let mut idle = 0.0;
    for mut probe in measured {
        let state =
            probe.read(Timestamp::UNIX_EPOCH).err().map_or_else(String::new, |nothing| nothing.to_string());
        let start = processor_time();
        for _ in 0..READINGS {
            let _ = probe.read(Timestamp::UNIX_EPOCH);
        }
        let each = (processor_time() - start) / READINGS;
        let share = 100.0 * each.as_secs_f64() / probe.interval().as_secs_f64();
        idle += share;
        println!("{:<18}{each:>12.1?} {share:.5} % of a core {state}", probe.name());
    }
    println!("all of them: {idle:.5} % of a core");
    assert!(idle < 0.05, "half of the agent's CPU limit");
}

/// As many pods as most instance types support, with three containers each.
fn full_node() -> TempDir {
    let root = tree(&[]);
    for pod in 0..110 {
        let directory = format!("sys/fs/cgroup/kubepods/burstable/pod{pod:032x}");
        for cgroup in
            [directory.clone(), format!("{directory}/a"), format!("{directory}/b"), format!("{directory}/c")]
        {
            put(
                root.path(),
                &[(&format!("{cgroup}/pids.max"), "100"), (&format!("{cgroup}/pids.current"), "9")],
            );
            for other in 0..40 {
                put(root.path(), &[(&format!("{cgroup}/memory.{other}"), "")]);
            }
        }
    }
    root
}
