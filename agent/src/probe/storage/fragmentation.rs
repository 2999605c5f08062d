//! Finds XFS filesystems whose free space is split into small pieces.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::fstatvfs;

use super::{hosts, not_checkable, reach};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        fsmap::{self, FreeSpace},
        mounts::{self, Mount},
    },
};

const SMALL: &str = "XFSSmallAverageClusterSize";
/// Fragmentation grows over days.
const INTERVAL: Duration = Duration::from_secs(3600);
/// The minimum average size of a free extent, in blocks.
const LEAST_AVERAGE: u64 = 16;

pub(super) struct Fragmentation {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Fragmentation {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }

    /// The free space, and the block size in bytes.
    fn free(&self, mount: &Mount<'_>) -> Result<(FreeSpace, u64), String> {
        let path = reach(&self.root, mount).ok_or("it is not accessible")?;
        let directory = File::open(path).map_err(|error| error.to_string())?;
        let block = fstatvfs(&directory).map_err(|error| error.to_string())?.f_bsize;
        Ok((fsmap::free(&directory).map_err(|error| error.to_string())?, block))
    }
}

impl Probe for Fragmentation {
    fn name(&self) -> &'static str {
        "xfs-fragmentation"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[SMALL]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let table = mounts::read(&self.root)
            .map_err(|error| not_checkable(format!("the host's mounts cannot be read: {error}")))?;
        let mut evaluated = Vec::new();
        let mut failed = None;
        for mount in hosts(&mounts::parse(&table).collect::<Vec<_>>(), &["xfs"]) {
            match self.free(mount) {
                Ok((free, block)) => {
                    evaluated.push(Evaluation::new(SMALL, evaluate(mount, free, block)).about(mount.point));
                }
                Err(why) => {
                    failed = Some(format!("no free space map is available: {}: {why}", mount.point));
                }
            }
        }
        if evaluated.is_empty() {
            let why = failed.unwrap_or_else(|| "the host has no XFS filesystem".to_owned());
            return Err(not_checkable(why));
        }
        evaluated.push(Evaluation::healthy(SMALL));
        Ok(self.latch.update(evaluated, now))
    }
}

fn evaluate(mount: &Mount<'_>, free: FreeSpace, block: u64) -> Option<String> {
    let blocks = u128::from(free.bytes) / u128::from(block.max(1));
    let small = blocks < u128::from(free.extents) * u128::from(LEAST_AVERAGE);
    small.then(|| {
        format!(
            "{blocks} free blocks are in {} pieces on the XFS filesystem at {}, less than {LEAST_AVERAGE} in each",
            free.extents, mount.point
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pieces_of_less_than_sixteen_blocks_on_average_are_small() {
        let mount = mounts::parse("22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw").next().expect("a mount");
        for (extents, blocks, block, small) in [
            (10, 160, 4096, false),
            (10, 159, 4096, true),
            (10, 159, 512, true),
            // A full filesystem has no free extents.
            (0, 0, 4096, false),
            (1, 0, 4096, true),
            (1, 16, 1, false),
        ] {
            let free = FreeSpace { extents, bytes: blocks * block };
            assert_eq!(evaluate(&mount, free, block).is_some(), small, "{blocks} blocks in {extents} pieces");
        }
        assert!(evaluate(&mount, FreeSpace { extents: u64::MAX, bytes: u64::MAX }, 0).is_some());
    }

    #[test]
    fn without_xfs_or_a_way_to_it_there_is_nothing_to_check() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("proc/1/root")).expect("a directory");
        let read = |table: &str| {
            fs::write(root.path().join("proc/1/mountinfo"), table).expect("written");
            let nothing =
                Fragmentation::new(root.path()).read(Timestamp::UNIX_EPOCH).expect_err("no reading");
            nothing.why
        };
        assert!(read("22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n").contains("no XFS"));
        assert!(read("22 1 259:77 / / rw - xfs /dev/nvme0n1p1 rw\n").contains("is not accessible"));
    }

    #[test]
    fn this_machine_is_read_or_has_no_xfs() {
        match Fragmentation::new(Path::new("/")).read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => assert!(!changes.is_empty()),
            Err(nothing) => assert!(nothing.why.contains("host") || nothing.why.contains("map"), "{nothing}"),
        }
    }
}
