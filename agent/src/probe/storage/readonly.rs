//! Turns the host's mounts into filesystems that were to be written and went read-only by an error.
//!
//! A mount has options of its own, which somebody asked for, and its filesystem has some of its own, which the kernel
//! changes when it meets an error. Who mounts read-only by choice changes both, so that only a filesystem that refuses
//! to be written below mounts that were to be written is a fault.
//!
//! Since Linux 6.12, and in the stable kernels of that time (CVE-2024-50191), ext4 does not show an error that way:
//! the table goes on saying `rw`. Later kernels add `emergency_ro`, which Linux 6.18 was seen to do. In between the
//! kernel's line alone tells, so that there a table that says `rw` is no reason to take back what the line said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, read_small};
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::mounts::{self, Mount},
};

const READONLY: &str = "ReadonlyFilesystem";
const INTERVAL: Duration = Duration::from_secs(30);
/// A node that shuts down remounts everything read-only in its last moments.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(75) };
/// The filesystems that go read-only by an error. XFS shuts down instead, and says so in the kernel's log alone.
const KINDS: [&str; 4] = ["ext2", "ext3", "ext4", "btrfs"];
/// From here on ext4's errors are in the table.
const TELLING_KERNEL: (u32, u32) = (6, 18);

pub(super) struct Readonly {
    root: PathBuf,
    seen: BTreeMap<String, Seen>,
    standing: Standing,
}

/// What the last reading saw of a device's filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// It was found to be read-only by an error.
    broken: bool,
    /// The mounts that could not be written through while the filesystem could be written.
    closed: Option<BTreeSet<String>>,
}

/// How a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It can be written.
    Writable,
    /// It went read-only by an error.
    Broken,
    /// Somebody wanted it so, or nothing shows that nobody did; or the kernel would not tell.
    Unsure,
}

/// What is known beside the mounts.
#[derive(Debug, Clone, Copy)]
struct Around {
    /// The kernel says in the table whether ext4 met an error.
    kernel_tells: bool,
    /// The device itself can't be written: verified by dm-verity, say.
    closed_device: bool,
}

impl Readonly {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), seen: BTreeMap::new(), standing: Standing::default() }
    }

    fn kernel_tells(&self) -> bool {
        let release = read_small(&self.root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
        version(&release).is_some_and(|version| version >= TELLING_KERNEL)
    }

    /// The device's name in the kernel's log. A root that the kernel itself mounted is `/dev/root` in the table.
    fn name(&self, mount: &Mount<'_>) -> Option<String> {
        let shown = mount.device()?;
        let link = fs::read_link(self.root.join("sys/dev/block").join(mount.number));
        let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        Some(name.unwrap_or(shown))
    }

    fn is_closed(&self, device: &str) -> bool {
        // A partition is as closed as its disk, and says so itself.
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let table = mounts::read(&self.root)
            .map_err(|error| not_checkable(format!("the host's mounts can't be read: {error}")))?;
        let mut devices: BTreeMap<String, Vec<Mount<'_>>> = BTreeMap::new();
        for mount in mounts::parse(&table).filter(|mount| KINDS.contains(&mount.kind) && !mount.is_of_a_pod())
        {
            if let Some(name) = self.name(&mount) {
                devices.entry(name).or_default().push(mount);
            }
        }
        if devices.is_empty() && self.seen.is_empty() {
            return Err(not_checkable(
                "the host has no filesystem of a kind that goes read-only by an error",
            ));
        }
        let kernel_tells = self.kernel_tells();
        let mut judged = Vec::new();
        let mut seen = BTreeMap::new();
        let mut all_known = true;
        for (device, mounts) in devices {
            let around = Around { kernel_tells, closed_device: self.is_closed(&device) };
            let before = self.seen.remove(&device).unwrap_or_default();
            let state = judge(&mounts, around, &before);
            match state {
                State::Broken => judged
                    .push(Judged::wrong(READONLY, message(&device, &mounts)).about(&device).after(TWICE)),
                State::Writable => judged.push(Judged::well(READONLY).about(&device)),
                State::Unsure => all_known = false,
            }
            seen.insert(device, see(&mounts, state, before));
        }
        // What is not mounted any more is nobody's trouble.
        judged.extend(self.seen.keys().map(|device| Judged::well(READONLY).about(device)));
        if all_known {
            judged.push(Judged::well(READONLY));
        }
        self.seen = seen;
        Ok(self.standing.update(judged, now))
    }
}

fn judge(mounts: &[Mount<'_>], around: Around, before: &Seen) -> State {
    let any = |option| mounts.iter().any(|mount| mount.superblock_has(option));
    if any("emergency_ro") {
        return State::Broken;
    }
    if !any("ro") {
        let tells = around.kernel_tells || mounts.iter().all(|mount| mount.kind == "btrfs");
        // ext4 lets nobody make a filesystem writable again that met an error: this one was mounted anew.
        return if tells || before.broken { State::Writable } else { State::Unsure };
    }
    if before.broken {
        return State::Broken;
    }
    // Who remounts read-only closes the mount too; one that was closed before is not the one.
    let closed_before = |id: &str| before.closed.as_ref().is_some_and(|closed| closed.contains(id));
    let open = mounts.iter().any(|mount| !mount.is_read_only());
    let closed_since = mounts.iter().any(|mount| mount.is_read_only() && !closed_before(mount.id));
    if open && !closed_since && !around.closed_device { State::Broken } else { State::Unsure }
}

fn see(mounts: &[Mount<'_>], state: State, before: Seen) -> Seen {
    let closed = if mounts.iter().any(|mount| mount.superblock_has("ro")) {
        before.closed
    } else {
        let closed = mounts.iter().filter(|mount| mount.is_read_only());
        Some(closed.map(|mount| mount.id.to_owned()).collect())
    };
    Seen { broken: state == State::Broken, closed }
}

fn message(device: &str, mounts: &[Mount<'_>]) -> String {
    let mount = mounts.iter().find(|mount| !mount.is_read_only()).or_else(|| mounts.first());
    let (kind, point) = mount.map_or(("", ""), |mount| (mount.kind, mount.point));
    format!("{kind} filesystem {device} at {point} was to be written and went read-only by an error")
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Around = Around { kernel_tells: false, closed_device: false };
    const NEW: Around = Around { kernel_tells: true, closed_device: false };

    fn judge_table(table: &str, around: Around, before: &Seen) -> State {
        judge(&mounts::parse(table).collect::<Vec<_>>(), around, before)
    }

    fn after(table: &str, around: Around) -> Seen {
        let mounts: Vec<_> = mounts::parse(table).collect();
        let state = judge(&mounts, around, &Seen::default());
        see(&mounts, state, Seen::default())
    }

    const WELL: &str = "22 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard";
    const BROKEN: &str = "22 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 ro,discard";
    const EMERGENCY: &str =
        "22 1 259:1 / / rw,relatime - ext4 /dev/nvme0n1p1 rw,errors=remount-ro,emergency_ro";
    const CHOSEN: &str = "22 1 259:1 / / ro,noatime shared:1 - ext4 /dev/nvme0n1p1 ro,discard";

    #[test]
    fn a_filesystem_that_refuses_what_its_mount_was_to_take_is_broken() {
        let none = Seen::default();
        for (table, around, state) in [
            (WELL, NEW, State::Writable),
            (WELL, OLD, State::Unsure),
            (BROKEN, NEW, State::Broken),
            (BROKEN, OLD, State::Broken),
            (EMERGENCY, NEW, State::Broken),
            (EMERGENCY, OLD, State::Broken),
            (CHOSEN, NEW, State::Unsure),
            ("22 1 0:30 / / rw - btrfs /dev/nvme0n1p1 rw,subvol=/", OLD, State::Writable),
            ("22 1 0:30 / / rw - btrfs /dev/nvme0n1p1 ro,subvol=/", OLD, State::Broken),
            ("22 1 259:1 / / ro,noatime - ext4 /dev/nvme0n1p1 rw", NEW, State::Writable),
            // `errors=remount-ro` is what is to be done, not what was.
            ("22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw,errors=remount-ro", NEW, State::Writable),
        ] {
            assert_eq!(judge_table(table, around, &none), state, "{table}");
        }
    }

    #[test]
    fn a_device_that_itself_cannot_be_written_is_no_fault() {
        let verity = Around { closed_device: true, ..NEW };
        assert_eq!(judge_table(BROKEN, verity, &Seen::default()), State::Unsure);
        assert_eq!(judge_table(CHOSEN, verity, &Seen::default()), State::Unsure);
    }

    #[test]
    fn who_remounts_read_only_by_choice_closes_a_mount_that_was_open() {
        let bound = |first: &str, second: &str, superblock: &str| {
            format!(
                "22 1 259:1 / / {first} - ext4 /dev/nvme0n1p1 {superblock}\n\
                 40 22 259:1 /srv /srv {second} - ext4 /dev/nvme0n1p1 {superblock}\n"
            )
        };
        let open = after(&bound("rw", "rw", "rw"), NEW);
        assert_eq!(judge_table(&bound("ro", "rw", "ro"), NEW, &open), State::Unsure);
        assert_eq!(judge_table(&bound("rw", "ro", "ro"), NEW, &open), State::Unsure);
        assert_eq!(judge_table(&bound("rw", "rw", "ro"), NEW, &open), State::Broken);
        // A bind mount that was read-only all the while tells nothing; without having seen it so, nobody knows.
        let closed = after(&bound("rw", "ro", "rw"), NEW);
        assert_eq!(judge_table(&bound("rw", "ro", "ro"), NEW, &closed), State::Broken);
        assert_eq!(judge_table(&bound("rw", "ro", "ro"), NEW, &Seen::default()), State::Unsure);
        assert_eq!(judge_table(&bound("ro", "ro", "ro"), NEW, &closed), State::Unsure);
    }

    #[test]
    fn what_broke_stays_broken_until_it_is_mounted_anew() {
        let broken = after(BROKEN, OLD);
        assert!(broken.broken);
        assert_eq!(judge_table(CHOSEN, OLD, &broken), State::Broken);
        assert_eq!(judge_table(WELL, OLD, &broken), State::Writable);
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

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(release: &str) -> Self {
            let host = Self(tempfile::tempdir().expect("a folder"));
            host.write("proc/sys/kernel/osrelease", release);
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        }

        fn mount(&self, table: &str) {
            self.write("proc/1/mountinfo", table);
        }
    }

    fn read(probe: &mut Readonly) -> Vec<String> {
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let told = |change: Change| match change {
            Change::Raised(finding) => format!("+{}", finding.subject.unwrap_or_default()),
            Change::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
        };
        changes.into_iter().map(told).collect()
    }

    #[test]
    fn what_the_kernels_line_raised_is_cleared_only_by_a_table_that_would_show_it() {
        for (release, told) in [("6.18.1", vec!["-"]), ("6.12.40", vec![]), ("6.1.131", vec![])] {
            let host = Host::new(release);
            host.mount(WELL);
            let mut probe = Readonly::new(host.0.path());
            assert_eq!(read(&mut probe), told, "{release}");
            host.mount(EMERGENCY);
            assert_eq!(read(&mut probe), ["+nvme0n1p1"]);
            host.mount(WELL);
            assert!(read(&mut probe).iter().any(|told| told == "-nvme0n1p1" || told == "-"), "{release}");
        }
    }

    #[test]
    fn a_filesystem_that_is_gone_is_well() {
        let host = Host::new("6.1.131");
        host.mount(&format!("{WELL}\n30 22 259:7 / /data rw - ext4 /dev/nvme1n1 ro\n"));
        let mut probe = Readonly::new(host.0.path());
        assert_eq!(read(&mut probe), ["+nvme1n1"]);
        host.mount(WELL);
        assert_eq!(read(&mut probe), ["-nvme1n1"]);
        assert!(read(&mut probe).is_empty());
    }

    #[test]
    fn pods_volumes_images_and_verified_roots_are_nobodys_fault() {
        let host = Host::new("6.1.131");
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
        let host = Host::new("6.18.0");
        fs::create_dir_all(host.0.path().join("sys/dev/block")).expect("a folder");
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
        let host = Host::new("6.18.0");
        let mut probe = Readonly::new(host.0.path());
        assert!(
            probe.read(Timestamp::UNIX_EPOCH).expect_err("no table").why.contains("mounts can't be read")
        );
        host.mount("22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n\0\u{1}garbage");
        assert!(probe.read(Timestamp::UNIX_EPOCH).expect_err("no such kind").why.contains("no filesystem"));
    }

    #[test]
    fn this_machine_has_no_broken_filesystem() {
        match Readonly::new(Path::new("/")).read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => {
                assert!(changes.iter().all(|change| matches!(change, Change::Cleared { .. })), "{changes:?}");
            }
            Err(nothing) => assert!(nothing.why.contains("host"), "{nothing}"),
        }
    }
}
