//! Turns what EBS volumes count into those of which more was asked than they, or their instance, have to give.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, read_small};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::nvme::{self, Exceeded, NvmeError},
};

const VOLUME_IOPS: &str = "EBSVolumeIOPSExceeded";
const VOLUME_THROUGHPUT: &str = "EBSVolumeThroughputExceeded";
const INSTANCE_IOPS: &str = "EBSInstanceIOPSExceeded";
const INSTANCE_THROUGHPUT: &str = "EBSInstanceThroughputExceeded";

const INTERVAL: Duration = Duration::from_secs(60);
const MODEL: &str = "Amazon Elastic Block Store";
/// The largest instances have 128 attachments.
const MAX_CONTROLLERS: usize = 512;

type Limit = (&'static str, &'static str, fn(&Exceeded) -> u64);

const LIMITS: [Limit; 4] = [
    (VOLUME_IOPS, "the volume's operations a second", |counted| counted.volume_iops),
    (VOLUME_THROUGHPUT, "the volume's throughput", |counted| counted.volume_throughput),
    (INSTANCE_IOPS, "the instance's EBS operations a second", |counted| counted.instance_iops),
    (INSTANCE_THROUGHPUT, "the instance's EBS throughput", |counted| counted.instance_throughput),
];

pub(super) struct Volumes {
    root: PathBuf,
    ask: fn(&Path) -> Result<Exceeded, NvmeError>,
    /// What each volume had counted when it was read last.
    counted: BTreeMap<Volume, Exceeded>,
    standing: Standing,
}

/// A volume where it is attached: attached again it counts from zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Volume {
    id: String,
    controller: String,
}

impl Volumes {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ask: nvme::read,
            counted: BTreeMap::new(),
            standing: Standing::default(),
        }
    }

    /// The EBS volumes among the NVMe controllers.
    fn attached(&self) -> Vec<Volume> {
        let folder = self.root.join("sys/class/nvme");
        let Ok(controllers) = fs::read_dir(&folder) else {
            return Vec::new();
        };
        let names = controllers.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let volume = |controller: String| {
            let says = |file: &str| read_small(&folder.join(&controller).join(file)).ok();
            (says("model")?.trim() == MODEL).then_some(())?;
            let id =
                volume_id(says("serial").unwrap_or_default().trim()).unwrap_or_else(|| controller.clone());
            Some(Volume { id, controller })
        };
        names.take(MAX_CONTROLLERS).filter_map(volume).collect()
    }
}

impl Probe for Volumes {
    fn name(&self) -> &'static str {
        "ebs-volumes"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[VOLUME_IOPS, VOLUME_THROUGHPUT, INSTANCE_IOPS, INSTANCE_THROUGHPUT]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let volumes = self.attached();
        if volumes.is_empty() {
            self.counted.clear();
            return Err(not_checkable("no EBS volume is attached as an NVMe device"));
        }
        let mut counted = BTreeMap::new();
        let mut judged = Vec::new();
        let mut refused = None;
        for volume in volumes {
            match (self.ask)(&self.root.join("dev").join(&volume.controller)) {
                Ok(present) => {
                    if let Some(before) = self.counted.get(&volume) {
                        judged.extend(judge(&volume, before, &present));
                    }
                    counted.insert(volume, present);
                }
                Err(error) => refused = Some((volume.controller, clause(&error))),
            }
        }
        self.counted = counted;
        match refused {
            _ if !judged.is_empty() => Ok(self.standing.update(judged, now)),
            Some((controller, why)) if self.counted.is_empty() => {
                Err(not_checkable(format!("no EBS volume tells its statistics: {controller}: {why}")))
            }
            _ => Err(not_checkable("there is no earlier reading yet to compare with")),
        }
    }
}

/// What grew; nothing at all if any number went back, since then it counts anew.
fn judge(volume: &Volume, before: &Exceeded, present: &Exceeded) -> Vec<Judged> {
    if LIMITS.iter().any(|(_, _, pick)| pick(present) < pick(before)) {
        return Vec::new();
    }
    let judged = |(reason, limit, pick): Limit| {
        let grown = pick(present) - pick(before);
        let message = (grown > 0).then(|| {
            let (seconds, millis) = (grown / 1_000_000, grown / 1_000 % 1_000);
            format!(
                "{limit} was exceeded for {seconds}.{millis:03} s since the last reading ({} as {})",
                volume.id, volume.controller
            )
        });
        Judged::when(reason, message).about(&volume.id)
    };
    LIMITS.map(judged).into()
}

/// A volume's serial number is its id without the dash.
fn volume_id(serial: &str) -> Option<String> {
    let digits = serial.strip_prefix("vol")?.trim_start_matches('-');
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| format!("vol-{digits}"))
}

fn clause(error: &NvmeError) -> String {
    match error {
        NvmeError::Io(source) => format!("{error}: {source}"),
        NvmeError::Status(_) | NvmeError::NoStatistics => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Instance {
        root: tempfile::TempDir,
        probe: Volumes,
    }

    impl Instance {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            let mut probe = Volumes::new(root.path());
            probe.ask = |device| nvme::decode(&fs::read(device)?).ok_or(NvmeError::NoStatistics);
            Self { root, probe }
        }

        fn attach(&self, controller: &str, model: &str, serial: &str) {
            let folder = self.root.path().join("sys/class/nvme").join(controller);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("model"), format!("{model:<40}\n")).expect("written");
            fs::write(folder.join("serial"), format!("{serial}\n")).expect("written");
        }

        fn count(&self, controller: &str, exceeded: [u64; 4]) {
            let mut page = 0x3c23_b510_u64.to_le_bytes().to_vec();
            page.extend([0; 48]);
            page.extend(exceeded.into_iter().flat_map(u64::to_le_bytes));
            self.answer(controller, &page);
        }

        fn answer(&self, controller: &str, page: &[u8]) {
            let folder = self.root.path().join("dev");
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(controller), page).expect("written");
        }

        fn read(&mut self) -> Result<Vec<Change>, String> {
            self.probe.read(Timestamp::UNIX_EPOCH).map_err(|nothing| nothing.why.into_owned())
        }

        fn raised(&mut self) -> Vec<(String, Option<String>)> {
            let changes = self.read().expect("a reading");
            let raised = changes.into_iter().filter_map(|change| match change {
                Change::Raised(finding) => Some((finding.reason.into_owned(), finding.subject)),
                Change::Cleared { .. } => None,
            });
            raised.collect()
        }
    }

    #[test]
    fn each_number_that_grew_is_its_own_reason_and_what_grows_no_more_is_well() {
        let mut instance = Instance::new();
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        instance.count("nvme1", [5, 5, 5, 5]);
        assert!(instance.read().expect_err("a base").contains("no earlier reading"));
        for (place, reason) in
            [VOLUME_IOPS, VOLUME_THROUGHPUT, INSTANCE_IOPS, INSTANCE_THROUGHPUT].into_iter().enumerate()
        {
            let mut grown = [5, 5, 5, 5];
            grown[..place].fill(6);
            instance.count("nvme1", grown);
            let _ = instance.read();
            grown[place] = 6;
            instance.count("nvme1", grown);
            assert_eq!(
                instance.raised(),
                [(reason.to_owned(), Some("vol-0123456789abcdef0".to_owned()))],
                "{place}"
            );
            let changes = instance.read().expect("a reading");
            assert!(changes.iter().any(
                |change| matches!(change, Change::Cleared { reason: cleared, .. } if cleared == reason)
            ));
        }
    }

    #[test]
    fn numbers_that_went_back_are_a_new_base() {
        let mut instance = Instance::new();
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        for (counted, growth) in [([9, 9, 9, 9], 0), ([20, 8, 9, 9], 0), ([20, 8, 10, 9], 1)] {
            instance.count("nvme1", counted);
            let raised = instance.read().unwrap_or_default();
            let raised = raised.iter().filter(|change| matches!(change, Change::Raised(_))).count();
            assert_eq!(raised, growth, "{counted:?}");
        }
    }

    #[test]
    fn one_volume_that_does_not_tell_hides_no_other() {
        let mut instance = Instance::new();
        instance.attach("nvme0", MODEL, "vol0aaaaaaaaaaaaaaaa");
        instance.attach("nvme1", MODEL, "vol0bbbbbbbbbbbbbbbb");
        instance.attach("nvme2", "Amazon EC2 NVMe Instance Storage", "AWS0123");
        instance.answer("nvme0", b"garbage");
        instance.count("nvme1", [0, 0, 0, 0]);
        assert!(instance.read().is_err());
        instance.count("nvme1", [0, 7, 0, 0]);
        assert_eq!(
            instance.raised(),
            [(VOLUME_THROUGHPUT.to_owned(), Some("vol-0bbbbbbbbbbbbbbbb".to_owned()))]
        );
    }

    #[test]
    fn without_volumes_or_permission_there_is_nothing_to_check() {
        let mut instance = Instance::new();
        assert!(instance.read().expect_err("no controller").contains("no EBS volume is attached"));
        instance.attach("nvme0", "Amazon EC2 NVMe Instance Storage", "AWS0123");
        assert!(instance.read().expect_err("no volume").contains("no EBS volume is attached"));
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        assert!(
            instance.read().expect_err("no device").contains("nvme1: failed to ask the device: No such file")
        );
    }

    #[test]
    fn a_serial_number_is_the_volumes_id_without_its_dash() {
        for (serial, id) in [
            ("vol0123456789abcdef0", Some("vol-0123456789abcdef0")),
            ("vol-0123456789abcdef0", Some("vol-0123456789abcdef0")),
            ("vol", None),
            ("AWS61A3C2FD5CE5F1B1", None),
            ("vol0123\u{7}", None),
            ("", None),
        ] {
            assert_eq!(volume_id(serial).as_deref(), id, "{serial}");
        }
    }

    #[test]
    fn this_machines_volumes_tell_or_it_has_none() {
        let nothing = Volumes::new(Path::new("/")).read(Timestamp::UNIX_EPOCH).expect_err("at most a base");
        assert!(
            nothing.why.contains("EBS volume") || nothing.why.contains("no earlier reading"),
            "{nothing}"
        );
    }
}
