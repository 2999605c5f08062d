//! Finds EBS volumes that exceed their limits or their instance's, from the volumes' counters.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, read_small};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::nvme::{self, ExceededLimits, NvmeError},
};

const VOLUME_IOPS: &str = "EBSVolumeIOPSExceeded";
const VOLUME_THROUGHPUT: &str = "EBSVolumeThroughputExceeded";
const INSTANCE_IOPS: &str = "EBSInstanceIOPSExceeded";
const INSTANCE_THROUGHPUT: &str = "EBSInstanceThroughputExceeded";

const INTERVAL: Duration = Duration::from_secs(60);
const MODEL: &str = "Amazon Elastic Block Store";
/// The largest instances have 128 attachments.
const MAX_CONTROLLERS: usize = 512;

type EbsLimit = (&'static str, &'static str, fn(&ExceededLimits) -> u64);

const LIMITS: [EbsLimit; 4] = [
    (VOLUME_IOPS, "the volume's operations a second", |counters| counters.volume_iops),
    (VOLUME_THROUGHPUT, "the volume's throughput", |counters| counters.volume_throughput),
    (INSTANCE_IOPS, "the instance's EBS operations a second", |counters| counters.instance_iops),
    (INSTANCE_THROUGHPUT, "the instance's EBS throughput", |counters| counters.instance_throughput),
];

pub(super) struct Volumes {
    root: PathBuf,
    read_counters: fn(&Path) -> Result<ExceededLimits, NvmeError>,
    /// The counters of each volume at the last reading.
    counters: BTreeMap<EbsVolume, ExceededLimits>,
    latch: ConditionLatch,
}

/// A volume and its controller: a volume that is attached again counts from zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EbsVolume {
    id: String,
    controller: String,
}

impl Volumes {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            read_counters: nvme::read,
            counters: BTreeMap::new(),
            latch: ConditionLatch::default(),
        }
    }

    /// The EBS volumes among the NVMe controllers.
    fn attached(&self) -> Vec<EbsVolume> {
        let directory = self.root.join("sys/class/nvme");
        let Ok(controllers) = fs::read_dir(&directory) else {
            return Vec::new();
        };
        let names = controllers.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let volume = |controller: String| {
            let attribute = |file: &str| read_small(&directory.join(&controller).join(file)).ok();
            (attribute("model")?.trim() == MODEL).then_some(())?;
            let id = volume_id(attribute("serial").unwrap_or_default().trim())
                .unwrap_or_else(|| controller.clone());
            Some(EbsVolume { id, controller })
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let volumes = self.attached();
        if volumes.is_empty() {
            self.counters.clear();
            return Err(not_checkable("no EBS volume is attached as an NVMe device"));
        }
        let mut counters = BTreeMap::new();
        let mut evaluated = Vec::new();
        let mut failed = None;
        for volume in volumes {
            match (self.read_counters)(&self.root.join("dev").join(&volume.controller)) {
                Ok(present) => {
                    if let Some(before) = self.counters.get(&volume) {
                        evaluated.extend(evaluate(&volume, before, &present));
                    }
                    counters.insert(volume, present);
                }
                Err(error) => failed = Some((volume.controller, clause(&error))),
            }
        }
        self.counters = counters;
        match failed {
            _ if !evaluated.is_empty() => Ok(self.latch.update(evaluated, now)),
            Some((controller, why)) if self.counters.is_empty() => {
                Err(not_checkable(format!("no EBS volume returns statistics: {controller}: {why}")))
            }
            _ => Err(not_checkable("the first reading of the counters only sets the start values")),
        }
    }
}

/// The evaluation of each limit; empty if any counter decreased, because then all were reset.
fn evaluate(volume: &EbsVolume, before: &ExceededLimits, present: &ExceededLimits) -> Vec<Evaluation> {
    if LIMITS.iter().any(|(_, _, pick)| pick(present) < pick(before)) {
        return Vec::new();
    }
    let evaluated = |(reason, limit, pick): EbsLimit| {
        let grown = pick(present) - pick(before);
        let message = (grown > 0).then(|| {
            let (seconds, millis) = (grown / 1_000_000, grown / 1_000 % 1_000);
            format!(
                "{limit} was exceeded for {seconds}.{millis:03} s since the last reading ({} as {})",
                volume.id, volume.controller
            )
        });
        Evaluation::new(reason, message).about(&volume.id)
    };
    LIMITS.map(evaluated).into()
}

/// A volume's serial number is its ID without the hyphen.
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

    struct EbsInstance {
        root: tempfile::TempDir,
        probe: Volumes,
    }

    impl EbsInstance {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let mut probe = Volumes::new(root.path());
            probe.read_counters = |device| nvme::decode(&fs::read(device)?).ok_or(NvmeError::NoStatistics);
            Self { root, probe }
        }

        fn attach(&self, controller: &str, model: &str, serial: &str) {
            let directory = self.root.path().join("sys/class/nvme").join(controller);
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join("model"), format!("{model:<40}\n")).expect("written");
            fs::write(directory.join("serial"), format!("{serial}\n")).expect("written");
        }

        fn count(&self, controller: &str, exceeded: [u64; 4]) {
            let mut page = 0x3c23_b510_u64.to_le_bytes().to_vec();
            page.extend([0; 48]);
            page.extend(exceeded.into_iter().flat_map(u64::to_le_bytes));
            self.response(controller, &page);
        }

        fn response(&self, controller: &str, page: &[u8]) {
            let directory = self.root.path().join("dev");
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join(controller), page).expect("written");
        }

        fn read(&mut self) -> Result<Vec<FindingChange>, String> {
            self.probe.read(Timestamp::UNIX_EPOCH).map_err(|nothing| nothing.why.into_owned())
        }

        fn raised(&mut self) -> Vec<(String, Option<String>)> {
            let changes = self.read().expect("a reading");
            let raised = changes.into_iter().filter_map(|change| match change {
                FindingChange::Raised(finding) => Some((finding.reason.into_owned(), finding.subject)),
                FindingChange::Cleared { .. } => None,
            });
            raised.collect()
        }
    }

    #[test]
    fn each_counter_that_grew_has_its_reason_and_clears_when_it_stops() {
        let mut instance = EbsInstance::new();
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        instance.count("nvme1", [5, 5, 5, 5]);
        assert!(instance.read().expect_err("a first reading").contains("first reading"));
        for (index, reason) in
            [VOLUME_IOPS, VOLUME_THROUGHPUT, INSTANCE_IOPS, INSTANCE_THROUGHPUT].into_iter().enumerate()
        {
            let mut grown = [5, 5, 5, 5];
            grown[..index].fill(6);
            instance.count("nvme1", grown);
            let _ = instance.read();
            grown[index] = 6;
            instance.count("nvme1", grown);
            assert_eq!(
                instance.raised(),
                [(reason.to_owned(), Some("vol-0123456789abcdef0".to_owned()))],
                "{index}"
            );
            let changes = instance.read().expect("a reading");
            assert!(changes.iter().any(
                |change| matches!(change, FindingChange::Cleared { reason: cleared, .. } if cleared == reason)
            ));
        }
    }

    #[test]
    fn numbers_that_went_back_are_a_new_base() {
        let mut instance = EbsInstance::new();
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        for (counters, growth) in [([9, 9, 9, 9], 0), ([20, 8, 9, 9], 0), ([20, 8, 10, 9], 1)] {
            instance.count("nvme1", counters);
            let raised = instance.read().unwrap_or_default();
            let raised = raised.iter().filter(|change| matches!(change, FindingChange::Raised(_))).count();
            assert_eq!(raised, growth, "{counters:?}");
        }
    }

    #[test]
    fn one_volume_without_statistics_hides_no_other() {
        let mut instance = EbsInstance::new();
        instance.attach("nvme0", MODEL, "vol0aaaaaaaaaaaaaaaa");
        instance.attach("nvme1", MODEL, "vol0bbbbbbbbbbbbbbbb");
        instance.attach("nvme2", "Amazon EC2 NVMe Instance Storage", "AWS0123");
        instance.response("nvme0", b"garbage");
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
        let mut instance = EbsInstance::new();
        assert!(instance.read().expect_err("no controller").contains("no EBS volume is attached"));
        instance.attach("nvme0", "Amazon EC2 NVMe Instance Storage", "AWS0123");
        assert!(instance.read().expect_err("no volume").contains("no EBS volume is attached"));
        instance.attach("nvme1", MODEL, "vol0123456789abcdef0");
        assert!(
            instance
                .read()
                .expect_err("no device")
                .contains("nvme1: failed to query the device: No such file")
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
    fn this_machines_volumes_are_read_or_it_has_none() {
        let nothing =
            Volumes::new(Path::new("/")).read(Timestamp::UNIX_EPOCH).expect_err("at most a first reading");
        assert!(nothing.why.contains("EBS volume") || nothing.why.contains("first reading"), "{nothing}");
    }
}
