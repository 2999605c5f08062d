//! Turns the kernel's table of the host's mounts into mounts.
//!
//! It is read from process 1: the agent's own table shows a container's mounts, read-only ones of what the host mounts
//! to be written.

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
/// What stands in the path of a mount that belongs to a pod. On nodes with local disks the kubelet's folder is mounted
/// from one of them, and each pod's volume shows twice: below `/var/lib/kubelet` and below the disk.
const PODS_FOLDERS: [&str; 6] = [
    "/kubelet/pods/",
    "/kubelet/plugins/",
    "/run/containerd/",
    "/lib/containerd/",
    "/containerd/io.containerd.",
    "/run/netns/",
];

/// A line of the table, as
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html) describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// It tells this mount from others for as long as it is mounted.
    pub id: &'a str,
    /// `major:minor` of the filesystem's device.
    pub number: &'a str,
    /// Where it is mounted, with some characters escaped.
    pub point: &'a str,
    /// How this mount was asked for.
    pub options: &'a str,
    /// The filesystem's type.
    pub kind: &'a str,
    /// What is mounted.
    pub source: &'a str,
    /// How the filesystem itself is, however often it is mounted.
    pub superblock: &'a str,
}

/// The host's table as it stands. A name that is no UTF-8 spoils nobody else's line.
pub fn read(root: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(root.join("proc/1/mountinfo"))?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The mounts of a table, in the order in which they were made; lines that can't be read are passed over.
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
    /// Whether it belongs to a pod, not to the host.
    pub fn is_of_a_pod(&self) -> bool {
        PODS_FOLDERS.iter().any(|folder| self.point.contains(folder))
    }

    /// The disk or partition below, as the kernel's log calls it; none for what needs no disk and for files that are
    /// mounted as disks.
    pub fn device(&self) -> Option<String> {
        let device = self.source.strip_prefix("/dev/")?;
        if device.starts_with("mapper/") {
            // The table gives the path of a device-mapper volume; the log gives its number.
            let (major, minor) = self.number.split_once(':')?;
            return (major != "0").then(|| format!("dm-{minor}"));
        }
        (!device.starts_with("loop")).then(|| device.to_owned())
    }

    /// Where it is mounted.
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

    /// Whether this mount can't be written through.
    pub fn is_read_only(&self) -> bool {
        has(self.options, "ro")
    }

    /// Whether the filesystem says this of itself.
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
    fn a_line_is_read_whatever_optional_fields_it_has() {
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
    fn a_volume_of_a_pod_is_one_below_the_disk_that_carries_the_kubelets_folder_too() {
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
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("proc/1")).expect("a folder");
        let table = b"21 1 8:1 / /\xff rw - ext4 /dev/sda1 rw\n22 1 8:2 / / rw - ext4 /dev/sda2 rw\n";
        fs::write(root.path().join("proc/1/mountinfo"), table).expect("written");
        assert_eq!(parse(&read(root.path()).expect("a table")).count(), 2);
    }
}
