//! Finds filesystems that an error made read-only, from the host's mounts.
//!
//! A mount has its own options, which its owner sets, and a filesystem has some, which the kernel changes on an
//! error. A mount that is made read-only intentionally changes both. So only a read-only filesystem below writable
//! mounts is a problem.
//!
//! Since Linux 6.12, and in the stable kernels of that time (CVE-2024-50191), ext4 does not show an error this way:
//! the table still contains `rw`. Later kernels add `emergency_ro`, as observed with Linux 6.18. In between only the
//! kernel's log line reports the error, so there a table with `rw` does not clear the finding that the line raised.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, read_small};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::mounts::{self, Mount},
};

const READONLY: &str = "ReadonlyFilesystem";
const INTERVAL: Duration = Duration::from_secs(30);
/// During shutdown the system remounts all filesystems read-only.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(75) };
/// Filesystems that an error makes read-only. XFS shuts down instead and reports it only in the kernel log.
const KINDS: [&str; 4] = ["ext2", "ext3", "ext4", "btrfs"];
/// The first kernel version whose mount table shows ext4's errors.
const FIRST_KERNEL_WITH_ERRORS: (u32, u32) = (6, 18);

pub(super) struct Readonly {
    root: PathBuf,
    last_states: BTreeMap<String, LastState>,
    latch: ConditionLatch,
}

/// What the last reading found about a device's filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LastState {
    /// Whether an error had made it read-only.
    broken: bool,
    /// The read-only mounts at the time when the filesystem was last writable.
    read_only_mounts: Option<BTreeSet<String>>,
}

/// The state of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilesystemState {
    Writable,
    /// An error made it read-only.
    Broken,
    /// It was made read-only intentionally or possibly so, or the kernel does not show the state.
    Unknown,
}

/// Facts beside the mount table.
#[derive(Debug, Clone, Copy)]
struct MountContext {
    /// Whether this kernel's mount table shows ext4's errors.
    kernel_shows_errors: bool,
    /// Whether the block device is read-only, with dm-verity for example.
    read_only_device: bool,
}

impl Readonly {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last_states: BTreeMap::new(), latch: ConditionLatch::default() }
    }

    fn kernel_shows_errors(&self) -> bool {
        let release = read_small(&self.root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
        version(&release).is_some_and(|version| version >= FIRST_KERNEL_WITH_ERRORS)
    }

    /// The device's name in the kernel log. The table shows `/dev/root` for a root that the kernel mounted.
    fn name(&self, mount: &Mount<'_>) -> Option<String> {
        let shown = mount.device()?;
        let link = fs::read_link(self.root.join("sys/dev/block").join(mount.number));
        let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        Some(name.unwrap_or(shown))
    }

    fn is_read_only_device(&self, device: &str) -> bool {
        // A partition has its disk's setting in its own file.
        read_small(&self.root.join("sys/class/block").join(device).join("ro"))
            .is_ok_and(|text| text.trim() == "1")
    }
}

impl Probe for Readonly {
    fn name(&self) -> &'static str {
        "readonly-filesystems"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[READONLY]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let table = mounts::read(&self.root)
            .map_err(|error| not_checkable(format!("the host's mounts cannot be read: {error}")))?;
        let mut devices: BTreeMap<String, Vec<Mount<'_>>> = BTreeMap::new();
        for mount in mounts::parse(&table).filter(|mount| KINDS.contains(&mount.kind) && !mount.is_of_a_pod())
        {
            if let Some(name) = self.name(&mount) {
                devices.entry(name).or_default().push(mount);
            }
        }
        if devices.is_empty() && self.last_states.is_empty() {
            return Err(not_checkable("the host has no filesystem that an error makes read-only"));
        }
        let kernel_shows_errors = self.kernel_shows_errors();
        let mut evaluated = Vec::new();
        let mut last_states = BTreeMap::new();
        let mut all_known = true;
        for (device, mounts) in devices {
            let context =
                MountContext { kernel_shows_errors, read_only_device: self.is_read_only_device(&device) };
            let before = self.last_states.remove(&device).unwrap_or_default();
            let state = evaluate(&mounts, context, &before);
            match state {
                FilesystemState::Broken => evaluated.push(
                    Evaluation::unhealthy(READONLY, message(&device, &mounts)).about(&device).after(TWICE),
                ),
                FilesystemState::Writable => evaluated.push(Evaluation::healthy(READONLY).about(&device)),
                FilesystemState::Unknown => all_known = false,
            }
            last_states.insert(device, last_state(&mounts, state, before));
        }
        // A filesystem that is no longer mounted is cleared.
        evaluated.extend(self.last_states.keys().map(|device| Evaluation::healthy(READONLY).about(device)));
        if all_known {
            evaluated.push(Evaluation::healthy(READONLY));
        }
        self.last_states = last_states;
        Ok(self.latch.update(evaluated, now))
    }
}

fn evaluate(mounts: &[Mount<'_>], context: MountContext, before: &LastState) -> FilesystemState {
    let any = |option| mounts.iter().any(|mount| mount.superblock_has(option));
    if any("emergency_ro") {
        return FilesystemState::Broken;
    }
    if !any("ro") {
        let shows_errors = context.kernel_shows_errors || mounts.iter().all(|mount| mount.kind == "btrfs");
        // ext4 never makes a filesystem writable again after an error, so this one was mounted again.
        return if shows_errors || before.broken {
            FilesystemState::Writable
        } else {
            FilesystemState::Unknown
        };
    }
    if before.broken {
        return FilesystemState::Broken;
    }
    // An intentional remount also makes the mount read-only. A mount that was read-only before is not evidence of
    // one.
    let was_read_only = |id: &str| {
        before.read_only_mounts.as_ref().is_some_and(|read_only_mounts| read_only_mounts.contains(id))
    };
    let open = mounts.iter().any(|mount| !mount.is_read_only());
    let newly_read_only = mounts.iter().any(|mount| mount.is_read_only() && !was_read_only(mount.id));
    if open && !newly_read_only && !context.read_only_device {
        FilesystemState::Broken
    } else {
        FilesystemState::Unknown
    }
}

fn last_state(mounts: &[Mount<'_>], state: FilesystemState, before: LastState) -> LastState {
    let read_only_mounts = if mounts.iter().any(|mount| mount.superblock_has("ro")) {
        before.read_only_mounts
    } else {
        let read_only_mounts = mounts.iter().filter(|mount| mount.is_read_only());
        Some(read_only_mounts.map(|mount| mount.id.to_owned()).collect())
    };
    LastState { broken: state == FilesystemState::Broken, read_only_mounts }
}

fn message(device: &str, mounts: &[Mount<'_>]) -> String {
    let mount = mounts.iter().find(|mount| !mount.is_read_only()).or_else(|| mounts.first());
    let (kind, point) = mount.map_or(("", ""), |mount| (mount.kind, mount.point));
    format!("{kind} filesystem {device} at {point} was made read-only by an error")
}

/// The major and minor version of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: MountContext = MountContext { kernel_shows_errors: false, read_only_device: false };
    const NEW: MountContext = MountContext { kernel_shows_errors: true, read_only_device: false };

    fn evaluate_table(table: &str, context: MountContext, before: &LastState) -> FilesystemState {
        evaluate(&mounts::parse(table).collect::<Vec<_>>(), context, before)
    }

    fn after(table: &str, context: MountContext) -> LastState {
        let mounts: Vec<_> = mounts::parse(table).collect();
        let state = evaluate(&mounts, context, &LastState::default());
        last_state(&mounts, state, LastState::default())
    }

    const HEALTHY: &str = "22 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard";
    const BROKEN: &str = "22 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 ro,discard";
    const EMERGENCY: &str =
        "22 1 259:1 / / rw,relatime - ext4 /dev/nvme0n1p1 rw,errors=remount-ro,emergency_ro";
    const CHOSEN: &str = "22 1 259:1 / / ro,noatime shared:1 - ext4 /dev/nvme0n1p1 ro,discard";

    #[test]
    fn a_filesystem_that_refuses_what_its_mount_was_to_take_is_broken() {
        let none = LastState::default();
        for (table, context, state) in [
            (HEALTHY, NEW, FilesystemState::Writable),
            (HEALTHY, OLD, FilesystemState::Unknown),
            (BROKEN, NEW, FilesystemState::Broken),
            (BROKEN, OLD, FilesystemState::Broken),
            (EMERGENCY, NEW, FilesystemState::Broken),
            (EMERGENCY, OLD, FilesystemState::Broken),
            (CHOSEN, NEW, FilesystemState::Unknown),
            ("22 1 0:30 / / rw - btrfs /dev/nvme0n1p1 rw,subvol=/", OLD, FilesystemState::Writable),
            ("22 1 0:30 / / rw - btrfs /dev/nvme0n1p1 ro,subvol=/", OLD, FilesystemState::Broken),
            ("22 1 259:1 / / ro,noatime - ext4 /dev/nvme0n1p1 rw", NEW, FilesystemState::Writable),
            // `errors=remount-ro` is the configured action, not a state.
            ("22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw,errors=remount-ro", NEW, FilesystemState::Writable),
        ] {
            assert_eq!(evaluate_table(table, context, &none), state, "{table}");
        }
    }

    #[test]
    fn a_device_that_itself_cannot_be_written_is_no_fault() {
        let verity = MountContext { read_only_device: true, ..NEW };
        assert_eq!(evaluate_table(BROKEN, verity, &LastState::default()), FilesystemState::Unknown);
        assert_eq!(evaluate_table(CHOSEN, verity, &LastState::default()), FilesystemState::Unknown);
    }

    #[test]
    fn an_intentional_remount_makes_a_writable_mount_read_only() {
        let bound = |first: &str, second: &str, superblock: &str| {
            format!(
                "22 1 259:1 / / {first} - ext4 /dev/nvme0n1p1 {superblock}\n\
                 40 22 259:1 /srv /srv {second} - ext4 /dev/nvme0n1p1 {superblock}\n"
            )
        };
        let open = after(&bound("rw", "rw", "rw"), NEW);
        assert_eq!(evaluate_table(&bound("ro", "rw", "ro"), NEW, &open), FilesystemState::Unknown);
        assert_eq!(evaluate_table(&bound("rw", "ro", "ro"), NEW, &open), FilesystemState::Unknown);
        assert_eq!(evaluate_table(&bound("rw", "rw", "ro"), NEW, &open), FilesystemState::Broken);
        // A bind mount that was always read-only is not evidence. Without an earlier reading the state is unknown.
        let read_only_mounts = after(&bound("rw", "ro", "rw"), NEW);
        assert_eq!(evaluate_table(&bound("rw", "ro", "ro"), NEW, &read_only_mounts), FilesystemState::Broken);
        assert_eq!(
            evaluate_table(&bound("rw", "ro", "ro"), NEW, &LastState::default()),
            FilesystemState::Unknown
        );
        assert_eq!(
            evaluate_table(&bound("ro", "ro", "ro"), NEW, &read_only_mounts),
            FilesystemState::Unknown
        );
    }

    #[test]
    fn a_broken_filesystem_stays_broken_until_it_is_mounted_again() {
        let broken = after(BROKEN, OLD);
        assert!(broken.broken);
        assert_eq!(evaluate_table(CHOSEN, OLD, &broken), FilesystemState::Broken);
        assert_eq!(evaluate_table(HEALTHY, OLD, &broken), FilesystemState::Writable);
    }

    #[test]
    fn a_kernels_release_gives_its_first_two_numbers() {
        for (release, expected) in [
            ("6.18.44-fc-v669\n", Some((6, 18))),
            ("6.1.131-143.221.amzn2023.x86_64", Some((6, 1))),
            ("5.10", Some((5, 10))),
            ("7.0-rc1", Some((7, 0))),
            ("6", None),
            ("", None),
            ("linux", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    struct MountHost(tempfile::TempDir);

    impl MountHost {
        fn new(release: &str) -> Self {
            let host = Self(tempfile::tempdir().expect("a directory"));
            host.write("proc/sys/kernel/osrelease", release);
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("written");
        }

        fn mount(&self, table: &str) {
            self.write("proc/1/mountinfo", table);
        }
    }

    fn read(probe: &mut Readonly) -> Vec<String> {
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let reported = |change: FindingChange| match change {
            FindingChange::Raised(finding) => format!("+{}", finding.subject.unwrap_or_default()),
            FindingChange::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
        };
        changes.into_iter().map(reported).collect()
    }

    #[test]
    fn a_finding_of_a_kernel_line_is_cleared_only_by_a_table_that_can_show_it() {
        for (release, reported) in [("6.18.1", vec!["-"]), ("6.12.40", vec![]), ("6.1.131", vec![])] {
            let host = MountHost::new(release);
            host.mount(HEALTHY);
            let mut probe = Readonly::new(host.0.path());
            assert_eq!(read(&mut probe), reported, "{release}");
            host.mount(EMERGENCY);
            assert_eq!(read(&mut probe), ["+nvme0n1p1"]);
            host.mount(HEALTHY);
            assert!(
                read(&mut probe).iter().any(|reported| reported == "-nvme0n1p1" || reported == "-"),
                "{release}"
            );
        }
    }

    #[test]
    fn a_filesystem_that_is_gone_is_cleared() {
        let host = MountHost::new("6.1.131");
        host.mount(&format!("{HEALTHY}\n30 22 259:7 / /data rw - ext4 /dev/nvme1n1 ro\n"));
        let mut probe = Readonly::new(host.0.path());
        assert_eq!(read(&mut probe), ["+nvme1n1"]);
        host.mount(HEALTHY);
        assert_eq!(read(&mut probe), ["-nvme1n1"]);
        assert!(read(&mut probe).is_empty());
    }

    #[test]
    fn pods_volumes_images_and_verified_roots_are_ignored() {
        let host = MountHost::new("6.1.131");
        host.write("sys/class/block/dm-0/ro", "1\n");
        host.mount(
            "\
22 1 253:0 / / rw,relatime - ext4 /dev/dm-0 ro,seclabel
30 22 7:1 / /snap/core rw - ext4 /dev/loop1 ro
31 22 7:2 / /snap/more rw - squashfs /dev/loop2 ro
32 22 11:0 / /media rw - iso9660 /dev/sr0 ro
33 22 259:5 / /var/lib/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount rw - ext4 /dev/nvme2n1 ro
34 22 259:6 / /boot ro - ext4 /dev/nvme0n1p2 ro
35 22 259:8 / /data rw - xfs /dev/nvme0n1p3 ro
",
        );
        assert!(read(&mut Readonly::new(host.0.path())).is_empty());
    }

    #[test]
    fn a_root_that_the_kernel_mounted_has_the_name_that_its_log_gives() {
        let host = MountHost::new("6.18.0");
        fs::create_dir_all(host.0.path().join("sys/dev/block")).expect("a directory");
        std::os::unix::fs::symlink(
            "../../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/nvme0n1p1",
            host.0.path().join("sys/dev/block/259:1"),
        )
        .expect("a link");
        host.mount("22 1 259:1 / / rw - ext4 /dev/root rw,emergency_ro");
        assert_eq!(read(&mut Readonly::new(host.0.path())), ["+nvme0n1p1"]);
    }

    #[test]
    fn without_mounts_there_is_nothing_to_check() {
        let host = MountHost::new("6.18.0");
        let mut probe = Readonly::new(host.0.path());
        assert!(
            probe.read(Timestamp::UNIX_EPOCH).expect_err("no table").why.contains("mounts cannot be read")
        );
        host.mount("22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n\0\u{1}garbage");
        assert!(probe.read(Timestamp::UNIX_EPOCH).expect_err("no such kind").why.contains("no filesystem"));
    }

    #[test]
    fn this_machine_has_no_broken_filesystem() {
        match Readonly::new(Path::new("/")).read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => {
                assert!(
                    changes.iter().all(|change| matches!(change, FindingChange::Cleared { .. })),
                    "{changes:?}"
                );
            }
            Err(nothing) => assert!(nothing.why.contains("host"), "{nothing}"),
        }
    }
}
