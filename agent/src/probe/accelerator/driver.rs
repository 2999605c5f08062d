//! Turns the PCI bus and the NVIDIA driver's own list into GPUs that the driver could not take.
//!
//! Evidence is a GPU that no driver has while the NVIDIA driver runs others: the driver takes every GPU that it can when
//! it is loaded. What is no evidence, and why:
//! - No list, or an empty one: the driver is not loaded (an operator loads it later), or takes none of the GPUs, which
//!   says more about the driver than about them.
//! - A GPU that another driver has or is to have: it was handed to a guest, by vfio-pci say.
//! - A GPU that the driver has and does not list: the list that is seen here is not the whole one. NVIDIA's container
//!   runtime mounts one over it that shows a container's GPUs alone.
//! - Device nodes. `/dev/nvidia0` is made by whoever first needs it (nvidia-modprobe), in a container's `/dev` as often
//!   as in the host's, and is not unmade; MIG's are of another form, `/dev/nvidia-caps`. A GPU without a node works as
//!   soon as it is used, and a node without a GPU has no GPU on the bus or in the list either.

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
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::pci::Function,
};

const LIST: &str = "proc/driver/nvidia/gpus";
const DRIVER: &str = "nvidia";
/// What is told apart from what the bus shows.
const IN_THE_LIST: &str = "driver";

pub(super) struct Driven {
    root: PathBuf,
    standing: Standing,
}

impl Driven {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
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

impl Probe for Driven {
    fn name(&self) -> &'static str {
        "nvidia-driver"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[MISMATCH]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let gpus = some_gpus(&self.root)?;
        let wrong = judge(&gpus, &self.list()?).map_err(not_checkable)?;
        let judged = Judged::when(MISMATCH, wrong).about(IN_THE_LIST).after(TWICE);
        Ok(self.standing.update(vec![judged], now))
    }
}

fn judge(gpus: &[Function], list: &BTreeSet<String>) -> Result<Option<String>, &'static str> {
    let is_listed = |gpu: &&Function| list.contains(&gpu.address.to_ascii_lowercase());
    let driven = gpus.iter().filter(|gpu| gpu.driver.as_deref() == Some(DRIVER));
    let (listed, hidden): (Vec<_>, Vec<_>) = driven.partition(is_listed);
    if !hidden.is_empty() {
        return Err("the NVIDIA driver has GPUs that its list, as it is seen here, leaves out");
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
        format!("the NVIDIA driver runs {} GPUs and could not take {}", listed.len(), left.join(", "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::trees::{self, read};

    fn well() -> Result<Vec<String>, String> {
        Ok(vec!["-driver".to_owned()])
    }

    #[test]
    fn a_gpu_that_the_driver_left_while_it_took_others_is_broken_until_it_is_taken() {
        let root = trees::instance("p5.48xlarge", 7);
        let left = trees::gpu(root.path(), 7);
        let mut probe = Driven::new(root.path());
        let wrong = "+driver: the NVIDIA driver runs 7 GPUs and could not take 0000:17:00".to_owned();
        assert_eq!(read(&mut probe), Ok(vec![wrong]));
        trees::bind(&left, "nvidia");
        trees::list(root.path(), 7);
        assert_eq!(read(&mut probe), well());
    }

    #[test]
    fn a_driver_that_is_not_loaded_yet_is_no_fault() {
        let root = trees::instance("p5.48xlarge", 0);
        for number in 0..8 {
            trees::gpu(root.path(), number);
        }
        let mut probe = Driven::new(root.path());
        assert_eq!(read(&mut probe), Err("no NVIDIA driver is loaded".to_owned()));
        fs::create_dir_all(root.path().join(LIST)).expect("a folder");
        assert_eq!(read(&mut probe), Err("the NVIDIA driver is loaded and runs no GPU".to_owned()));
    }

    #[test]
    fn a_gpu_for_a_guest_is_not_the_drivers() {
        let root = trees::instance("p5.48xlarge", 6);
        trees::bind(&trees::gpu(root.path(), 6), "vfio-pci");
        let waiting = trees::gpu(root.path(), 7);
        fs::write(waiting.join("driver_override"), "vfio-pci\n").expect("a file");
        assert_eq!(read(&mut Driven::new(root.path())), well());
        fs::write(waiting.join("driver_override"), "nvidia\n").expect("a file");
        assert!(
            matches!(read(&mut Driven::new(root.path())), Ok(changes) if changes[0].contains("0000:17:00"))
        );
    }

    #[test]
    fn a_list_that_shows_some_of_the_drivers_gpus_is_not_believed() {
        let root = trees::instance("p5.48xlarge", 8);
        fs::remove_dir(root.path().join(LIST).join(trees::address(3))).expect("a folder");
        let why = read(&mut Driven::new(root.path())).expect_err("a list with a gap");
        assert_eq!(why, "the NVIDIA driver has GPUs that its list, as it is seen here, leaves out");
    }

    #[test]
    fn device_nodes_decide_nothing() {
        let root = trees::instance("p5.48xlarge", 8);
        let dev = root.path().join("dev");
        fs::create_dir_all(dev.join("nvidia-caps")).expect("a folder");
        assert_eq!(read(&mut Driven::new(root.path())), well(), "none made yet");
        for name in ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia9", "nvidia-caps/nvidia-cap1"] {
            fs::write(dev.join(name), "").expect("a file");
        }
        assert_eq!(read(&mut Driven::new(root.path())), well());
    }

    #[test]
    fn addresses_are_compared_whatever_their_letters() {
        let root = trees::instance("g5.xlarge", 0);
        trees::bind(&trees::device(root.path(), "0000:0a:00.0", "0x10de", "0x030200"), "nvidia");
        fs::create_dir_all(root.path().join(LIST).join("0000:0A:00.0")).expect("a folder");
        assert_eq!(read(&mut Driven::new(root.path())), well());
    }
}
