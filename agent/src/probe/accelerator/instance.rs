//! Finds missing GPUs, from the instance type and the PCI bus.
//!
//! Only fewer GPUs than AWS documents is a problem: a type that gains GPUs must not make its nodes unhealthy. A GPU
//! that was passed to a guest (vfio-pci) is still on the bus and counts.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{gpus, not_checkable};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::pci,
};

pub(super) const MISMATCH: &str = "NvidiaDeviceCountMismatch";
/// The subject that separates this finding from the driver list's.
const ON_THE_BUS: &str = "bus";

pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// While a driver loads or reloads, its list is incomplete for a moment.
pub(super) const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(90) };

/// The file in which Nitro publishes the instance type. Xen writes `HVM domU`, so P2, G3 and most P3 instances are
/// not compared.
const PRODUCT_NAME: &str = "sys/devices/virtual/dmi/id/product_name";

/// NVIDIA GPUs by instance type: AWS's [accelerated computing specifications][1], and for P3 those of previous
/// generations. Types with a fraction of a GPU (G6f, Gr6f) are left out, because AWS does not document what is on
/// their PCI bus.
///
/// [1]: https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html
const PUBLISHED: &[(&str, &[&str], usize)] = &[
    ("p3dn", &["24xlarge"], 8),
    ("p4d", &["24xlarge"], 8),
    ("p4de", &["24xlarge"], 8),
    ("p5", &["4xlarge"], 1),
    ("p5", &["48xlarge"], 8),
    ("p5e", &["48xlarge"], 8),
    ("p5en", &["48xlarge"], 8),
    ("p6-b200", &["48xlarge"], 8),
    ("p6-b300", &["48xlarge"], 8),
    ("p6e-gb200", &["36xlarge"], 4),
    ("g4dn", &["xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"], 1),
    ("g4dn", &["12xlarge"], 4),
    ("g4dn", &["metal"], 8),
    ("g5", &["xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"], 1),
    ("g5", &["12xlarge", "24xlarge"], 4),
    ("g5", &["48xlarge"], 8),
    ("g5g", &["xlarge", "2xlarge", "4xlarge", "8xlarge"], 1),
    ("g5g", &["16xlarge", "metal"], 2),
    ("g6", &["xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"], 1),
    ("g6", &["12xlarge", "24xlarge"], 4),
    ("g6", &["48xlarge"], 8),
    ("gr6", &["4xlarge", "8xlarge"], 1),
    ("g6e", &["xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"], 1),
    ("g6e", &["12xlarge", "24xlarge"], 4),
    ("g6e", &["48xlarge"], 8),
    ("g7e", &["2xlarge", "4xlarge", "8xlarge"], 1),
    ("g7e", &["12xlarge"], 2),
    ("g7e", &["24xlarge"], 4),
    ("g7e", &["48xlarge"], 8),
];

pub(super) struct InstanceGpus {
    root: PathBuf,
    latch: ConditionLatch,
}

impl InstanceGpus {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for InstanceGpus {
    fn name(&self) -> &'static str {
        "nvidia-gpus"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[MISMATCH]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let found = gpus(&self.root)?.len();
        let kind = pci::attribute(&self.root.join(PRODUCT_NAME)).unwrap_or_default();
        let Some(published) = published(&kind) else {
            return Err(not_checkable(if found == 0 {
                "no NVIDIA GPU"
            } else {
                "the number of GPUs of this instance type is unknown"
            }));
        };
        let evaluated =
            Evaluation::new(MISMATCH, evaluate(&kind, published, found)).about(ON_THE_BUS).after(TWICE);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

fn evaluate(kind: &str, published: usize, found: usize) -> Option<String> {
    (found < published)
        .then(|| format!("{found} of the {published} NVIDIA GPUs of a {kind} are on the PCI bus"))
}

fn published(kind: &str) -> Option<usize> {
    let (family, size) = kind.split_once('.')?;
    PUBLISHED.iter().find(|(name, sizes, _)| *name == family && sizes.contains(&size)).map(|row| row.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::fixture::{self, read};

    #[test]
    fn a_type_has_the_documented_number_of_gpus_and_an_unknown_one_none() {
        for (kind, count) in [
            ("p5.48xlarge", Some(8)),
            ("p5.4xlarge", Some(1)),
            ("p6-b200.48xlarge", Some(8)),
            ("g4dn.16xlarge", Some(1)),
            ("g4dn.12xlarge", Some(4)),
            ("g5g.metal", Some(2)),
            ("g6f.xlarge", None),
            ("gr6f.4xlarge", None),
            ("p5.24xlarge", None),
            ("p9.48xlarge", None),
            ("g4ad.xlarge", None),
            ("HVM domU", None),
            ("p5", None),
            ("", None),
        ] {
            assert_eq!(published(kind), count, "{kind}");
        }
    }

    #[test]
    fn no_type_is_listed_twice() {
        let mut types: Vec<_> = PUBLISHED
            .iter()
            .flat_map(|(family, sizes, _)| sizes.iter().map(move |size| (family, size)))
            .collect();
        types.sort_unstable();
        assert!(types.windows(2).all(|pair| pair[0] != pair[1]), "{types:?}");
    }

    #[test]
    fn a_gpu_that_is_not_on_the_bus_is_missing_and_one_that_is_back_is_not() {
        let root = fixture::instance("p5.48xlarge", 7);
        let mut probe = InstanceGpus::new(root.path());
        let missing = "+bus: 7 of the 8 NVIDIA GPUs of a p5.48xlarge are on the PCI bus".to_owned();
        assert_eq!(read(&mut probe), Ok(vec![missing]));
        fixture::gpu(root.path(), 7);
        assert_eq!(read(&mut probe), Ok(vec!["-bus".to_owned()]), "with or without a driver");
    }

    #[test]
    fn all_gpus_may_be_missing() {
        let root = fixture::instance("g5.xlarge", 0);
        let missing = "+bus: 0 of the 1 NVIDIA GPUs of a g5.xlarge are on the PCI bus".to_owned();
        assert_eq!(read(&mut InstanceGpus::new(root.path())), Ok(vec![missing]));
    }

    #[test]
    fn it_takes_two_readings_a_minute_apart() {
        let root = fixture::instance("g5.xlarge", 0);
        let changes = InstanceGpus::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Raised(finding)] if finding.debounce == TWICE),
            "{changes:?}"
        );
    }

    #[test]
    fn more_than_published_and_an_unknown_type_are_no_faults() {
        let more = fixture::instance("g5.xlarge", 2);
        assert_eq!(read(&mut InstanceGpus::new(more.path())), Ok(vec!["-bus".to_owned()]));
        let unknown = fixture::instance("p9.48xlarge", 7);
        let why = read(&mut InstanceGpus::new(unknown.path())).expect_err("an unknown type");
        assert_eq!(why, "the number of GPUs of this instance type is unknown");
    }

    #[test]
    fn a_bus_that_cannot_be_read_is_not_checkable() {
        let root = fixture::instance("p5.48xlarge", 8);
        std::fs::remove_dir_all(root.path().join("sys/bus")).expect("a directory");
        assert!(read(&mut InstanceGpus::new(root.path())).is_err(), "no bus");
        std::fs::create_dir_all(root.path().join("sys/bus/pci/devices")).expect("a directory");
        let why = read(&mut InstanceGpus::new(root.path())).expect_err("an empty bus");
        assert_eq!(why, "the PCI bus has no devices");
    }
}
