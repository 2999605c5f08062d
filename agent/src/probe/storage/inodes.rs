//! Finds filesystems that are almost out of inodes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::statvfs;

use super::{hosts, not_checkable, reach};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::mounts::{self, Mount},
};

const EXHAUSTED: &str = "InodesExhausted";
const INTERVAL: Duration = Duration::from_secs(60);
/// Local filesystems with a fixed number of inodes. btrfs creates inodes as needed, and a network filesystem may
/// never respond.
const KINDS: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "f2fs"];
/// The minimum share of free inodes, in percent.
const LEAST_FREE: u64 = 2;

pub(super) struct Inodes {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Inodes {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }

    /// (total, free) inodes.
    fn count(&self, mount: &Mount<'_>) -> Option<(u64, u64)> {
        let counts = statvfs(&reach(&self.root, mount)?).ok()?;
        Some((counts.f_files, counts.f_ffree))
    }
}

impl Probe for Inodes {
    fn name(&self) -> &'static str {
        "inodes"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[EXHAUSTED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let table = mounts::read(&self.root)
            .map_err(|error| not_checkable(format!("the host's mounts cannot be read: {error}")))?;
        let mut evaluated = Vec::new();
        for mount in hosts(&mounts::parse(&table).collect::<Vec<_>>(), &KINDS) {
            if let Some((total, free)) = self.count(mount) {
                evaluated.push(Evaluation::new(EXHAUSTED, evaluate(mount, total, free)).about(mount.point));
            }
        }
        if evaluated.is_empty() {
            return Err(not_checkable("none of the host's filesystems with inode counts is accessible"));
        }
        // A filesystem that was unmounted, or is hidden below another mount, is cleared.
        evaluated.push(Evaluation::healthy(EXHAUSTED));
        Ok(self.latch.update(evaluated, now))
    }
}

fn evaluate(mount: &Mount<'_>, total: u64, free: u64) -> Option<String> {
    let few = u128::from(free) * 100 < u128::from(total) * u128::from(LEAST_FREE);
    few.then(|| {
        format!("{} of {total} inodes are free on the {} filesystem at {}", free, mount.kind, mount.point)
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use rustix::fs::{major, minor};

    use super::*;

    #[test]
    fn less_than_two_percent_free_are_few() {
        let mount = mounts::parse("22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw").next().expect("a mount");
        for (total, free, problem) in [
            (100, 2, false),
            (100, 1, true),
            (1_000_000, 20_000, false),
            (1_000_000, 19_999, true),
            (65_536, 0, true),
            // A filesystem without inode counts reports 0 of 0.
            (0, 0, false),
            (u64::MAX, u64::MAX, false),
            (u64::MAX, 0, true),
        ] {
            assert_eq!(evaluate(&mount, total, free).is_some(), problem, "{free} of {total}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_not_taken_for_the_filesystem() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("proc/1/root")).expect("a directory");
        fs::write(root.path().join("proc/1/mountinfo"), "22 1 259:77 / / rw - xfs /dev/nvme0n1p1 rw\n")
            .expect("written");
        let why = Inodes::new(root.path()).read(Timestamp::UNIX_EPOCH).expect_err("another device").why;
        assert!(why.contains("none of the host's filesystems"), "{why}");
    }

    #[test]
    fn a_filesystem_with_free_inodes_clears_and_one_that_is_gone_too() {
        let root = tempfile::tempdir().expect("a directory");
        let there = root.path().join("proc/1/root");
        fs::create_dir_all(&there).expect("a directory");
        let device = fs::metadata(&there).expect("a directory").dev();
        let table = format!("22 1 {}:{} / / rw - ext4 /dev/nvme0n1p1 rw\n", major(device), minor(device));
        fs::write(root.path().join("proc/1/mountinfo"), &table).expect("written");
        let mut probe = Inodes::new(root.path());
        probe
            .latch
            .update(vec![Evaluation::unhealthy(EXHAUSTED, "few").about("/gone")], Timestamp::UNIX_EPOCH);
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(matches!(&changes[..], [FindingChange::Cleared { subject: None, .. }]), "{changes:?}");
    }

    #[test]
    fn this_machine_has_free_inodes_or_is_not_checkable() {
        match Inodes::new(Path::new("/")).read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => assert!(!changes.is_empty()),
            Err(nothing) => assert!(nothing.why.contains("host"), "{nothing}"),
        }
    }
}
