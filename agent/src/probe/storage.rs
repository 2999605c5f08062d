//! Probes of the node's storage.

mod delays;
mod ebs;
mod fragmentation;
mod inodes;
mod pressure;
mod readonly;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{major, minor};

use super::{Probe, not_checkable};
use crate::source::mounts::Mount;

/// Files of procfs and sysfs with a line or two.
const MAX_SMALL: u64 = 4096;

/// Filesystems whose server may be unreachable. A path through one is never accessed, since the access may block.
const REMOTE: [&str; 10] =
    ["nfs", "cifs", "smb", "ceph", "lustre", "9p", "afs", "autofs", "glusterfs", "fuse"];

pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(readonly::Readonly::new(root)),
        Box::new(inodes::Inodes::new(root)),
        Box::new(fragmentation::Fragmentation::new(root)),
        Box::new(pressure::Pressure::new(root)),
        Box::new(delays::Delays::new(root)),
        Box::new(ebs::Volumes::new(root)),
    ]
}

/// Reads a small file of procfs or sysfs.
fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SMALL).read_to_string(&mut text)?;
    Ok(text)
}

/// One mount for each of the host's own filesystems of these types, except behind remote filesystems.
fn hosts<'a>(mounts: &'a [Mount<'a>], kinds: &[&str]) -> Vec<&'a Mount<'a>> {
    let remote: Vec<&str> = mounts
        .iter()
        .filter(|mount| REMOTE.iter().any(|kind| mount.kind.starts_with(kind)))
        .map(|mount| mount.point)
        .collect();
    let behind = |point: &str| {
        remote.iter().any(|remote| {
            let rest = point.strip_prefix(remote.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let mut numbers = BTreeSet::new();
    mounts
        .iter()
        .filter(|mount| kinds.contains(&mount.kind) && mount.device().is_some() && !mount.is_of_a_pod())
        .filter(|mount| !behind(mount.point) && numbers.insert(mount.number))
        .collect()
}

/// A path to a mount's filesystem, if one still leads to it.
fn reach(root: &Path, mount: &Mount<'_>) -> Option<PathBuf> {
    let point = mount.path();
    let point = point.strip_prefix("/").ok()?;
    let leads_there = |path: &PathBuf| {
        let device = fs::metadata(path).map(|found| found.dev());
        device.is_ok_and(|device| mount.number == format!("{}:{}", major(device), minor(device)))
    };
    // Process 1's root shows all of the host's directories, but needs a privilege; the agent's container has some of
    // them mounted.
    [root.join("proc/1/root").join(point), root.join(point)].into_iter().find(leads_there)
}

#[cfg(test)]
mod tests {
    use nodemend_domain::{catalogue, condition::ConditionType};

    use super::*;
    use crate::source::mounts;

    const TABLE: &str = "\
22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw
30 22 259:1 /srv /srv rw - xfs /dev/nvme0n1p1 rw
31 22 0:50 / /mnt/nfs rw - nfs4 fs-1.efs:/ rw
32 31 259:3 / /mnt/nfs/disk rw - ext4 /dev/nvme1n1 rw
33 22 259:4 / /mnt/nfsdisk rw - ext4 /dev/nvme2n1 rw
34 22 0:51 / /data rw - btrfs /dev/nvme3n1 rw
35 22 259:5 / /var/lib/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount rw - ext4 /dev/nvme4n1 rw
36 22 7:1 / /snap/core ro - ext4 /dev/loop1 ro
37 22 0:52 / /run rw - tmpfs tmpfs rw
38 22 259:6 / /over rw - ext4 /dev/nvme5n1 rw
39 38 0:53 / /over rw - nfs4 fs-1.efs:/ rw
";

    #[test]
    fn every_reason_is_storages_in_the_catalogue_and_every_name_is_given_once() {
        let probes = probes(Path::new("/"));
        for reason in probes.iter().flat_map(|probe| probe.reasons()) {
            let found = catalogue::lookup(reason).expect("a catalogued reason");
            assert_eq!(found.condition, ConditionType::StorageReady, "{reason}");
        }
        let names: BTreeSet<_> = probes.iter().map(|probe| probe.name()).collect();
        assert_eq!(names.len(), probes.len());
    }

    #[test]
    fn each_local_filesystem_of_the_host_is_read_once_and_no_network_filesystem() {
        let mounts: Vec<_> = mounts::parse(TABLE).collect();
        let points: Vec<_> = hosts(&mounts, &["ext4", "xfs"]).iter().map(|mount| mount.point).collect();
        assert_eq!(points, ["/", "/mnt/nfsdisk"]);
    }
}
