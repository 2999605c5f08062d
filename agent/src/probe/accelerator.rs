//! Probes of accelerators.
//!
//! The agent reads sysfs and systemd itself, and NVIDIA's library in a child process. A missing Neuron device has no
//! reason in the catalogue: EKS has none.

mod driver;
mod errors;
mod fabric;
mod instance;
mod library;

use std::path::Path;

use super::{NotCheckable, Probe, not_checkable};
use crate::source::pci::{self, PciFunction};

const NVIDIA: u16 = 0x10de;
/// PCI classes of display controllers: with a display output, and compute only.
const GPU_KINDS: [u16; 2] = [0x0300, 0x0302];

pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(instance::InstanceGpus::new(root)),
        Box::new(driver::DriverGpus::new(root)),
        Box::new(errors::BusErrors::new(root)),
        Box::new(fabric::FabricManager::new(root)),
        Box::new(library::NvidiaLibrary::new(root)),
    ]
}

/// The GPUs on the PCI bus. A virtual function of a GPU is not counted.
fn gpus(root: &Path) -> Result<Vec<PciFunction>, NotCheckable> {
    let mut functions = pci::functions(root, NVIDIA).map_err(|error| not_checkable(error.to_string()))?;
    functions.retain(|function| GPU_KINDS.contains(&function.kind()) && !function.is_virtual);
    Ok(functions)
}

/// The GPUs on the PCI bus; not checkable on a node without any.
fn some_gpus(root: &Path) -> Result<Vec<PciFunction>, NotCheckable> {
    let gpus = gpus(root)?;
    if gpus.is_empty() { Err(not_checkable("no NVIDIA GPU")) } else { Ok(gpus) }
}

/// A GPU's address as the driver writes it in the kernel log, so that all findings about a GPU have the same subject.
fn subject(address: &str) -> &str {
    address.strip_suffix(".0").unwrap_or(address)
}

#[cfg(test)]
mod fixture {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
    };

    use jiff::Timestamp;
    use tempfile::TempDir;

    use crate::{finding::FindingChange, probe::Probe};

    /// A root with an instance's PCI bus: a network interface and `gpus` GPUs that the driver runs.
    pub(super) fn instance(kind: &str, gpus: usize) -> TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let dmi = root.path().join("sys/devices/virtual/dmi/id");
        fs::create_dir_all(&dmi).expect("a directory");
        fs::write(dmi.join("product_name"), format!("{kind}\n")).expect("a file");
        device(root.path(), "0000:00:05.0", "0x1d0f", "0x020000");
        for number in 0..gpus {
            bind(&gpu(root.path(), number), "nvidia");
            list(root.path(), number);
        }
        root
    }

    pub(super) fn address(number: usize) -> String {
        format!("0000:{:02x}:00.0", 0x10 + number)
    }

    pub(super) fn gpu(root: &Path, number: usize) -> PathBuf {
        device(root, &address(number), "0x10de", "0x030200")
    }

    pub(super) fn device(root: &Path, address: &str, vendor: &str, class: &str) -> PathBuf {
        let directory = root.join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("vendor"), format!("{vendor}\n")).expect("a file");
        fs::write(directory.join("class"), format!("{class}\n")).expect("a file");
        directory
    }

    pub(super) fn bind(directory: &Path, driver: &str) {
        // The device may have a driver already.
        let _ = fs::remove_file(directory.join("driver"));
        symlink(format!("../../../bus/pci/drivers/{driver}"), directory.join("driver")).expect("a link");
    }

    /// Adds a GPU to the driver's list.
    pub(super) fn list(root: &Path, number: usize) {
        fs::create_dir_all(root.join("proc/driver/nvidia/gpus").join(address(number))).expect("a directory");
    }

    /// A reading as short texts: `+subject: message` if raised, `-subject` if cleared; or why it is not checkable.
    pub(super) fn read(probe: &mut dyn Probe) -> Result<Vec<String>, String> {
        read_at(probe, 0)
    }

    pub(super) fn read_at(probe: &mut dyn Probe, second: i64) -> Result<Vec<String>, String> {
        let now = Timestamp::from_second(second).expect("a time");
        let changes = probe.read(now).map_err(|nothing| nothing.to_string())?;
        Ok(changes
            .into_iter()
            .map(|change| match change {
                FindingChange::Raised(finding) => {
                    format!("+{}: {}", finding.subject.unwrap_or_default(), finding.message)
                }
                FindingChange::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::{catalogue, condition::ConditionType};

    use super::*;

    #[test]
    fn every_reason_is_an_accelerators_and_every_name_is_given_once() {
        let probes = probes(Path::new("/"));
        let mut names: Vec<_> = probes.iter().map(|probe| probe.name()).collect();
        for reason in probes.iter().flat_map(|probe| probe.reasons()) {
            let found = catalogue::lookup(reason).expect("a catalogued reason");
            assert_eq!(found.condition, ConditionType::AcceleratedHardwareReady, "{reason}");
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn a_node_without_accelerators_has_nothing_to_check() {
        let root = fixture::instance("m5.large", 0);
        for mut probe in probes(root.path()) {
            let why = fixture::read(&mut *probe).expect_err("nothing to check");
            assert!(matches!(why.as_str(), "no NVIDIA GPU" | "no NVSwitch"), "{}: {why}", probe.name());
        }
    }

    #[test]
    fn a_slice_of_a_gpu_is_not_a_gpu() {
        let root = fixture::instance("g5.xlarge", 1);
        let slice = fixture::gpu(root.path(), 7);
        std::os::unix::fs::symlink(format!("../{}", fixture::address(0)), slice.join("physfn"))
            .expect("a link");
        assert_eq!(gpus(root.path()).expect("GPUs").len(), 1);
    }
}
