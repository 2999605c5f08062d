use std::fs;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::catalogue;
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
fn every_reason_is_in_the_catalogue_and_every_name_is_given_once() {
    let probes = probes(Path::new("/"));
    let mut names: Vec<_> = probes.iter().map(|probe| probe.name()).collect();
    for reason in probes.iter().flat_map(|probe| probe.reasons()) {
        assert!(catalogue::lookup(reason).is_some(), "{reason}");
    }
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
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
fn one_reading_of_everything_is_cheap() {
    const READINGS: u32 = 20;
    let mut idle = 0.0;
    for mut probe in probes(Path::new("/")) {
        let first = probe.read(Timestamp::UNIX_EPOCH).err();
        let start = std::time::Instant::now();
        for _ in 0..READINGS {
            let _ = probe.read(Timestamp::UNIX_EPOCH);
        }
        let each = start.elapsed() / READINGS;
        let share = 100.0 * each.as_secs_f64() / probe.interval().as_secs_f64();
        idle += share;
        println!(
            "{:<18} {each:>12.1?} {share:.6} % of a core {}",
            probe.name(),
            first.map_or_else(String::new, |nothing| nothing.to_string())
        );
    }
    println!("all: {idle:.6} % of a core");
    assert!(idle < 0.05, "half of what the whole agent may take");
}
