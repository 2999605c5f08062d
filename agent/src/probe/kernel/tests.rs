use std::{fs, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::*;
use crate::finding::Change;

/// A tree of such files.
pub(super) fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a folder");
    put(root.path(), files);
    root
}

/// Writes files, new or over old ones.
pub(super) fn put(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
}

/// What a reading changes: `+Reason subject` is raised, `-Reason subject` cleared.
pub(super) fn changes(probe: &mut dyn Probe) -> Result<Vec<String>, String> {
    let read = probe.read(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24));
    let changes = read.map_err(|nothing| nothing.why.into_owned())?;
    Ok(changes.iter().map(shown).collect())
}

fn shown(change: &Change) -> String {
    let (sign, reason, subject) = match change {
        Change::Raised(finding) => ('+', &finding.reason, &finding.subject),
        Change::Cleared { reason, subject, .. } => ('-', reason, subject),
    };
    match subject {
        Some(subject) => format!("{sign}{reason} {subject}"),
        None => format!("{sign}{reason}"),
    }
}

#[test]
fn on_this_machine_every_probe_reads_or_says_why_not() {
    for mut probe in probes(Path::new("/")) {
        match probe.read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => {
                let known = changes.iter().all(|change| match change {
                    Change::Raised(finding) => probe.reasons().contains(&&*finding.reason),
                    Change::Cleared { reason, .. } => probe.reasons().contains(&&**reason),
                });
                assert!(known, "{}: {changes:?}", probe.name());
            }
            Err(nothing) => assert!(!nothing.why.is_empty(), "{}", probe.name()),
        }
    }
}

#[test]
fn this_kernel_answers_what_every_kernel_can() {
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
        // The clock is this kernel's, whatever the root.
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
    assert!(idle < 0.05, "half of what the whole agent may take");
}

/// As many pods as most instances take, with three containers each.
fn full_node() -> TempDir {
    let root = tree(&[]);
    for pod in 0..110 {
        let folder = format!("sys/fs/cgroup/kubepods/burstable/pod{pod:032x}");
        for cgroup in [folder.clone(), format!("{folder}/a"), format!("{folder}/b"), format!("{folder}/c")] {
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
