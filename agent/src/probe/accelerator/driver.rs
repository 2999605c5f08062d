//! Finds GPUs that the NVIDIA driver failed to initialize.
//!
//! Evidence is a GPU without a driver while the NVIDIA driver runs others: the driver takes every GPU that it can
//! when it loads. These are not evidence:
//! - A missing or empty list: the driver is not loaded (an operator loads it later), or runs none of the GPUs, which
//!   is a problem of the driver rather than of the GPUs.
//! - A GPU that has or is reserved for another driver, such as vfio-pci: it was passed to a guest.
//! - A GPU that the driver runs and does not list: the visible list is incomplete. NVIDIA's container runtime mounts
//!   a list over it that contains only the container's GPUs.
//! - Device nodes. `/dev/nvidia0` is created by the first program that needs it (nvidia-modprobe), in a container's
//!   `/dev` as often as in the host's, and is not removed. MIG devices use another form, `/dev/nvidia-caps`. A GPU
//!   without a device node works as soon as it is used, and a device node without a GPU is visible on the bus and in
//!   the list.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    instance::{INTERVAL, MISMATCH, TWICE},
    not_checkable, some_gpus, subject,
};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::pci::PciFunction,
};

const LIST: &str = "proc/driver/nvidia/gpus";
const DRIVER: &str = "nvidia";
/// The subject that separates this finding from the PCI bus's.
const IN_THE_LIST: &str = "driver";

pub(super) struct DriverGpus {
    root: PathBuf,
    latch: ConditionLatch,
}

impl DriverGpus {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }

    /// The addresses of the GPUs that the driver runs.
    fn list(&self) -> Result<BTreeSet<String>, NotCheckable> {
        let entries = fs::read_dir(self.root.join(LIST)).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().to_ascii_lowercase())).collect()
        });
        entries.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => not_checkable("no NVIDIA driver is loaded"),
            _ => not_checkable(format!("failed to read {LIST}: {error}")),
        })
    }
}

impl Probe for DriverGpus {
    fn name(&self) -> &'static str {
        "nvidia-driver"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[MISMATCH]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let gpus = some_gpus(&self.root)?;
        let problem = evaluate(&gpus, &self.list()?).map_err(not_checkable)?;
        let evaluated = Evaluation::new(MISMATCH, problem).about(IN_THE_LIST).after(TWICE);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

fn evaluate(gpus: &[PciFunction], list: &BTreeSet<String>) -> Result<Option<String>, &'static str> {
    let is_listed = |gpu: &&PciFunction| list.contains(&gpu.address.to_ascii_lowercase());
    let driven = gpus.iter().filter(|gpu| gpu.driver.as_deref() == Some(DRIVER));
    let (listed, hidden): (Vec<_>, Vec<_>) = driven.partition(is_listed);
    if !hidden.is_empty() {
        return Err("the visible list of the NVIDIA driver's GPUs is incomplete");
    }
    if listed.is_empty() {
        return Err("the NVIDIA driver is loaded and runs no GPU");
    }
    let left: Vec<_> = gpus
        .iter()
        .filter(|gpu| gpu.driver.is_none() && gpu.reserved_for.as_deref().is_none_or(|name| name == DRIVER))
        .map(|gpu| subject(&gpu.address))
        .collect();
    Ok((!left.is_empty()).then(|| {
        format!("the NVIDIA driver runs {} GPUs and failed to initialize {}", listed.len(), left.join(", "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::fixture::{self, read};

    fn healthy() -> Result<Vec<String>, String> {
        Ok(vec!["-driver".to_owned()])
    }

    #[test]
    fn a_gpu_that_the_driver_failed_to_initialize_is_broken_until_it_runs() {
        let root = fixture::instance("p5.48xlarge", 7);
        let left = fixture::gpu(root.path(), 7);
        let mut probe = DriverGpus::new(root.path());
        let problem = "+driver: the NVIDIA driver runs 7 GPUs and failed to initialize 0000:17:00".to_owned();
        assert_eq!(read(&mut probe), Ok(vec![problem]));
        fixture::bind(&left, "nvidia");
        fixture::list(root.path(), 7);
        assert_eq!(read(&mut probe), healthy());
    }

    #[test]
    fn a_driver_that_is_not_loaded_yet_is_no_fault() {
        let root = fixture::instance("p5.48xlarge", 0);
        for number in 0..8 {
            fixture::gpu(root.path(), number);
        }
        let mut probe = DriverGpus::new(root.path());
        assert_eq!(read(&mut probe), Err("no NVIDIA driver is loaded".to_owned()));
        fs::create_dir_all(root.path().join(LIST)).expect("a directory");
        assert_eq!(read(&mut probe), Err("the NVIDIA driver is loaded and runs no GPU".to_owned()));
    }

    #[test]
    fn a_gpu_for_a_guest_is_not_the_drivers() {
        let root = fixture::instance("p5.48xlarge", 6);
        fixture::bind(&fixture::gpu(root.path(), 6), "vfio-pci");
        let waiting = fixture::gpu(root.path(), 7);
        fs::write(waiting.join("driver_override"), "vfio-pci\n").expect("a file");
        assert_eq!(read(&mut DriverGpus::new(root.path())), healthy());
        fs::write(waiting.join("driver_override"), "nvidia\n").expect("a file");
        assert!(
            matches!(read(&mut DriverGpus::new(root.path())), Ok(changes) if changes[0].contains("0000:17:00"))
        );
    }

    #[test]
    fn an_incomplete_list_of_the_drivers_gpus_is_not_trusted() {
        let root = fixture::instance("p5.48xlarge", 8);
        fs::remove_dir(root.path().join(LIST).join(fixture::address(3))).expect("a directory");
        let why = read(&mut DriverGpus::new(root.path())).expect_err("a list with a gap");
        assert_eq!(why, "the visible list of the NVIDIA driver's GPUs is incomplete");
    }

    #[test]
    fn device_nodes_decide_nothing() {
        let root = fixture::instance("p5.48xlarge", 8);
        let dev = root.path().join("dev");
        fs::create_dir_all(dev.join("nvidia-caps")).expect("a directory");
        assert_eq!(read(&mut DriverGpus::new(root.path())), healthy(), "no device nodes yet");
        for name in ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia9", "nvidia-caps/nvidia-cap1"] {
            fs::write(dev.join(name), "").expect("a file");
        }
        assert_eq!(read(&mut DriverGpus::new(root.path())), healthy());
    }

    #[test]
    fn addresses_are_compared_without_case() {
        let root = fixture::instance("g5.xlarge", 0);
        fixture::bind(&fixture::device(root.path(), "0000:0a:00.0", "0x10de", "0x030200"), "nvidia");
        fs::create_dir_all(root.path().join(LIST).join("0000:0A:00.0")).expect("a directory");
        assert_eq!(read(&mut DriverGpus::new(root.path())), healthy());
    }
}
