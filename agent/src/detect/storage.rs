//! Patterns for kernel and kubelet log lines about disks and filesystems.
//!
//! A broken filesystem makes the node unhealthy only if it is the host's. A pod's volume that was force-detached
//! looks the same in the kernel log, and replacing the node would not help.

use std::collections::BTreeSet;

use super::{
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};
use crate::source::mounts;

pub(super) const PATTERNS: &[LinePattern] = &[
    LinePattern::new(
        &["ReadonlyFilesystem"],
        Writers::KERNEL,
        &["emounting filesystem read-only", "forced readonly"],
        concat!(
            r"^(?:EXT[234]-fs (?:\((?<ext>[^)\s]+)\): )?(?:error: )?[Rr]emounting filesystem read-only",
            r"|BTRFS \w+ \(device (?<btrfs>[^):\s]+)[^)]*\): forced readonly)",
        ),
    )
    .evaluated_by(evaluate_filesystem),
    // An XFS filesystem that shut down logs its own message and stays writable in the mount table. A requested
    // shutdown (`xfs_io -c shutdown`) is not corruption.
    LinePattern::new(
        &["FilesystemCorruption"],
        Writers::KERNEL,
        &["EXT4-fs error ", "XFS ("],
        concat!(
            r"^(?:EXT4-fs error \(device (?<ext>[^)\s]+)\)",
            r"|XFS \((?<xfs>[^)\s]+)\): (?:.*\b[Cc]orruption\b|Metadata CRC error|Internal error ",
            r"|(?:[Ll]og|[Mm]etadata) I/O [Ee]rror.*[Ss]hutting down",
            r"|Filesystem has been shut down due to (?:log|metadata|I/O) ))",
        ),
    )
    .evaluated_by(evaluate_filesystem),
    // Floppy and optical drives without a medium fail to be read at every boot.
    LinePattern::new(
        &["BlockDeviceIOError"],
        Writers::KERNEL,
        &[" error, dev "],
        concat!(
            r"^(?:\w+: )?(?:I/O|critical medium|critical target|critical nexus|timeout|recoverable transport) error, ",
            r"dev (?<subject>(?:[a-eg-rt-z]|f[^d]|s[^r])[\w!-]*), sector [0-9]+",
        ),
    ),
    LinePattern::new(
        &["BlockDeviceIOError"],
        Writers::KERNEL,
        &["Buffer I/O error on dev"],
        r"^Buffer I/O error on dev(?:ice)? (?<subject>(?:[a-eg-rt-z]|f[^d]|s[^r])[\w!-]*), logical block [0-9]+",
    ),
    // `I/O 12 QID 3 timeout`; since Linux 6.1 `I/O tag 12 (100c) … QID 3 timeout`.
    LinePattern::new(
        &["BlockDeviceIOError"],
        Writers::KERNEL,
        &["nvme nvme"],
        r"^nvme (?<subject>nvme[0-9]+): (?:I/O (?:tag )?[0-9]+ .*\bQID [0-9]+ timeout|I/O [0-9]+ QID [0-9]+ timeout|controller is down; will reset)",
    ),
    LinePattern::new(
        &["KubeletDiskUsageSlow"],
        Writers::KUBELET,
        &["disk usage and inodes count on following dirs took"],
        r"fs: disk usage and inodes count on following dirs took ",
    ),
    LinePattern::new(
        &["EtcHostsMountFailed"],
        Writers::KUBELET.or(Writers::CONTAINERD),
        &["etc-hosts"],
        r#"error mounting \\*"[^"]*/pods/(?<subject>[0-9a-f-]{32,36})/etc-hosts\\*" to rootfs at \\*"/etc/hosts"#,
    ),
];

fn evaluate_filesystem(matched: &mut LineMatch<'_>) {
    let reason = matched.line_pattern.reasons[0];
    let device = ["ext", "btrfs", "xfs"].iter().find_map(|group| matched.captures.name(group));
    let device = device.map(|device| device.as_str().to_owned());
    let is_hosts = device.as_ref().is_some_and(|device| matched.state.host_devices.contains(device));
    if is_hosts {
        matched.raise(reason, device);
    } else {
        matched.raise_event(reason, device);
    }
}

/// The devices that carry the host's own filesystems, from the host's `/proc/1/mountinfo`.
pub fn host_devices(mountinfo: &str) -> BTreeSet<String> {
    mounts::parse(mountinfo).filter(|mount| !mount.is_of_a_pod()).filter_map(|mount| mount.device()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_of_a_pod_is_not_the_hosts() {
        let mountinfo = "\
22 1 259:1 / / rw,noatime shared:1 - xfs /dev/nvme0n1p1 rw,attr2,inode64
23 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=4096k
60 22 253:0 / /var/lib/data rw shared:30 - ext4 /dev/mapper/vg-data rw
61 22 259:9 / /var/lib/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/ab/globalmount rw - ext4 /dev/nvme2n1 rw
62 22 259:9 / /var/lib/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount rw - ext4 /dev/nvme2n1 rw
65 22 259:9 / /mnt/k8s-disks/0/kubelet/pods/968a06fb-9ab9-4819-8caf-0392ddff3d9b/volumes/x/mount rw - ext4 /dev/nvme2n1 rw
66 22 0:45 / /srv rw - btrfs /dev/mapper/vg-srv rw
63 22 7:0 / /var/lib/snapd/snap/x ro - squashfs /dev/loop0 ro
64 22 0:50 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs rw - overlay overlay rw,lowerdir=/a
not a mount
";
        let devices = host_devices(mountinfo);
        assert_eq!(devices.iter().map(String::as_str).collect::<Vec<_>>(), ["dm-0", "nvme0n1p1"]);
    }
}
