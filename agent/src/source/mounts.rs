//! Reads the host's mount table.
//!
//! It is read from process 1. The agent's own table has the container's mounts, some of which are read-only although
//! the host's are writable.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// A node has some dozens of mounts of its own and some hundreds of its pods'.
const MAX_MOUNTS: usize = 65_536;
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Parts of the paths of mounts that belong to pods. On nodes with local disks the kubelet's directory is mounted
/// from a disk, so each pod's volume appears twice: below `/var/lib/kubelet` and below the disk's mount point.
const POD_DIRECTORIES: [&str; 6] = [
    "/kubelet/pods/",
    "/kubelet/plugins/",
    "/run/containerd/",
    "/lib/containerd/",
    "/containerd/io.containerd.",
    "/run/netns/",
];

/// A line of the table, as [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)
/// describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The mount ID, unique while it is mounted.
    pub id: &'a str,
    /// `major:minor` of the filesystem's device.
    pub number: &'a str,
    /// The mount point, with some characters escaped.
    pub point: &'a str,
    /// The options of this mount.
    pub options: &'a str,
    pub kind: &'a str,
    /// The source of the mount, such as a device.
    pub source: &'a str,
    /// The options of the filesystem, shared by all its mounts.
    pub superblock: &'a str,
}

/// Reads the host's table. Invalid UTF-8 in one line does not affect the others.
pub fn read(root: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(root.join("proc/1/mountinfo"))?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Parses a table, in the order in which the mounts were created. Lines that cannot be parsed are skipped.
pub fn parse(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().take(MAX_MOUNTS).filter_map(parse_line)
}

fn parse_line(line: &str) -> Option<Mount<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ');
    let (id, number) = (front.next()?, front.nth(1)?);
    let (point, options) = (front.nth(1)?, front.next()?);
    let mut back = back.split(' ');
    let (kind, source, superblock) = (back.next()?, back.next()?, back.next()?);
    Some(Mount { id, number, point, options, kind, source, superblock })
}

impl Mount<'_> {
    /// Whether it belongs to a pod.
    pub fn is_of_a_pod(&self) -> bool {
        POD_DIRECTORIES.iter().any(|directory| self.point.contains(directory))
    }

    /// The block device by its name in the kernel log; `None` without a device, or for a loop device.
    pub fn device(&self) -> Option<String> {
        let device = self.source.strip_prefix("/dev/")?;
        if device.starts_with("mapper/") {
            // The table has the path of a device-mapper volume, the log has its number.
            let (major, minor) = self.number.split_once(':')?;
            return (major != "0").then(|| format!("dm-{minor}"));
        }
        (!device.starts_with("loop")).then(|| device.to_owned())
    }

    /// The mount point with escapes decoded.
    pub fn path(&self) -> PathBuf {
        let mut bytes = Vec::with_capacity(self.point.len());
        let mut rest = self.point.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let octal =
                tail.get(..3).filter(|_| first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
            if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                bytes.push(byte);
                rest = &tail[3..];
            } else {
                bytes.push(first);
                rest = tail;
            }
        }
        PathBuf::from(OsString::from_vec(bytes))
    }

    /// Whether this mount is read-only.
    pub fn is_read_only(&self) -> bool {
        has(self.options, "ro")
    }

    /// Whether the filesystem has this option.
    pub fn superblock_has(&self, option: &str) -> bool {
        has(self.superblock, option)
    }
}

fn has(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_is_parsed_with_any_optional_fields() {
        for fields in ["", "shared:1 ", "shared:1 master:2 propagate_from:3 "] {
            let line =
                format!("22 1 259:1 / /a\\040b rw,noatime {fields}- xfs /dev/nvme0n1p1 ro,attr2,inode64");
            let mount = parse_line(&line).expect("a mount");
            assert_eq!((mount.id, mount.number, mount.kind), ("22", "259:1", "xfs"), "{fields}");
            assert_eq!(mount.path(), Path::new("/a b"));
            assert_eq!(mount.device().as_deref(), Some("nvme0n1p1"));
            assert!(!mount.is_read_only() && mount.superblock_has("ro") && !mount.superblock_has("attr"));
        }
    }

    #[test]
    fn lines_that_are_cut_or_no_mounts_are_passed_over() {
        let table = "\n22\n22 1 259:1 / /\n22 1 259:1 / / rw - xfs\n22 1 259:1 / / rw - xfs /dev/a\nwords - and more words";
        assert_eq!(parse(table).count(), 0);
    }

    #[test]
    fn an_escape_that_is_none_stays_as_it_is() {
        for (point, path) in
            [("/a\\04", "/a\\04"), ("/a\\999b", "/a\\999b"), ("/\\134", "/\\"), ("/é\\", "/é\\")]
        {
            let line = format!("22 1 259:1 / {point} rw - xfs /dev/a rw");
            assert_eq!(parse_line(&line).expect("a mount").path(), Path::new(path), "{point}");
        }
    }

    #[test]
    fn a_mount_below_the_disk_of_the_kubelets_directory_is_a_pods_volume_too() {
        let is_of_a_pod = |point: &str| {
            let line = format!("22 1 259:1 / {point} rw - ext4 /dev/nvme2n1 rw");
            parse_line(&line).expect("a mount").is_of_a_pod()
        };
        for point in [
            "/var/lib/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount",
            "/mnt/k8s-disks/0/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount",
            "/mnt/k8s-disks/0/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/ab/globalmount",
            "/mnt/k8s-disks/0/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs",
        ] {
            assert!(is_of_a_pod(point), "{point}");
        }
        for point in ["/", "/var/lib/kubelet", "/var/lib/containerd", "/mnt/k8s-disks/0", "/var/log/pods"] {
            assert!(!is_of_a_pod(point), "{point}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other_mount() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("proc/1")).expect("a directory");
        let table = b"21 1 8:1 / /\xff rw - ext4 /dev/sda1 rw\n22 1 8:2 / / rw - ext4 /dev/sda2 rw\n";
        fs::write(root.path().join("proc/1/mountinfo"), table).expect("written");
        assert_eq!(parse(&read(root.path()).expect("a table")).count(), 2);
    }
}
