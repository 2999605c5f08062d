//! Finds a failed NVSwitch fabric manager, from the PCI bus and systemd.
//!
//! The fabric manager programs the NVSwitches; without it no job that uses more than one GPU starts. Only the state
//! `failed` is a problem: a stopped manager was stopped intentionally, and one that is starting may still succeed. A
//! manager that has no unit, or runs although its unit failed, runs in a container (the GPU operator's), whose health
//! Kubernetes manages. Without a driver the manager always fails, and a new node would not help. The switches of
//! NVLink 5 and later (B200) are not PCI functions and are not found here.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{NVIDIA, not_checkable};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        pci,
        systemd::{self, Unit},
    },
};

const NOT_RUNNING: &str = "FabricManagerNotRunning";
const DRIVER: &str = "proc/driver/nvidia";
/// `nv-fabricmanager`, cut to the kernel's 15 characters.
const PROCESS: &str = "nv-fabricmanage";
const UNIT: &str = "nvidia-fabricmanager.service";
/// The PCI class "other bridge".
const SWITCH: u16 = 0x0680;

const INTERVAL: Duration = Duration::from_secs(60);
/// A driver update stops the manager for a moment.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(90) };

pub(super) struct FabricManager {
    root: PathBuf,
    latch: ConditionLatch,
}

impl FabricManager {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for FabricManager {
    fn name(&self) -> &'static str {
        "nvidia-fabric-manager"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_RUNNING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let functions =
            pci::functions(&self.root, NVIDIA).map_err(|error| not_checkable(error.to_string()))?;
        let switches = functions.iter().filter(|function| function.kind() == SWITCH).count();
        if switches == 0 {
            return Err(not_checkable("no NVSwitch"));
        }
        if !self.root.join(DRIVER).exists() {
            return Err(not_checkable("no NVIDIA driver is loaded"));
        }
        let unit = systemd::unit(&self.root, UNIT).map_err(|error| not_checkable(error.to_string()))?;
        let problem = evaluate(switches, &unit)?;
        if problem.is_some() && runs(&self.root, PROCESS) {
            return Err(not_checkable(format!(
                "{unit}, but a fabric manager process runs, possibly in a container"
            )));
        }
        let evaluated = Evaluation::new(NOT_RUNNING, problem).after(TWICE);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

fn evaluate(switches: usize, unit: &Unit) -> Result<Option<String>, NotCheckable> {
    if !unit.is_loaded() {
        return Err(not_checkable("the fabric manager is not a unit of this node"));
    }
    if unit.is_failed() {
        return Ok(Some(format!("{unit}, and there are {switches} NVSwitches")));
    }
    if unit.is_active() {
        return Ok(None);
    }
    Err(not_checkable(format!("{unit}: stopped, or still starting")))
}

/// Whether any process has this name. It reads all processes, so it runs only if a unit failed.
fn runs(root: &Path, name: &str) -> bool {
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    processes
        .filter(|process| {
            process.file_name().to_string_lossy().starts_with(|first: char| first.is_ascii_digit())
        })
        .any(|process| pci::attribute(&process.path().join("comm")).is_ok_and(|comm| comm == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::fixture::{self, read};

    fn unit(load: &str, active: &str, sub: &str) -> Unit {
        Unit {
            name: UNIT.to_owned(),
            load_state: load.to_owned(),
            active_state: active.to_owned(),
            sub_state: sub.to_owned(),
            file_state: "enabled".to_owned(),
            n_restarts: Some(0),
            active_enter: None,
            active_exit: None,
        }
    }

    #[test]
    fn only_a_failed_manager_is_unhealthy_and_only_a_running_one_is_healthy() {
        let problem = "nvidia-fabricmanager.service is failed (failed), and there are 4 NVSwitches";
        for (load, active, sub, expected) in [
            ("loaded", "active", "running", Ok(None)),
            ("loaded", "reloading", "reload", Ok(None)),
            ("loaded", "failed", "failed", Ok(Some(problem))),
            // Its unit file was removed after it failed: it is run in another way.
            ("not-found", "failed", "failed", Err("the fabric manager is not a unit of this node")),
            ("not-found", "inactive", "dead", Err("the fabric manager is not a unit of this node")),
            ("masked", "inactive", "dead", Err("the fabric manager is not a unit of this node")),
            (
                "loaded",
                "inactive",
                "dead",
                Err("nvidia-fabricmanager.service is inactive (dead): stopped, or still starting"),
            ),
            (
                "loaded",
                "activating",
                "start",
                Err("nvidia-fabricmanager.service is activating (start): stopped, or still starting"),
            ),
        ] {
            let evaluated = evaluate(4, &unit(load, active, sub));
            let evaluated = evaluated.as_ref().map(Option::as_deref).map_err(|nothing| nothing.why.as_ref());
            assert_eq!(evaluated, expected, "{load} {active} {sub}");
        }
    }

    #[test]
    fn systemd_is_queried_only_if_there_is_an_nvswitch() {
        let root = fixture::instance("p5.48xlarge", 8);
        let mut probe = FabricManager::new(root.path());
        assert_eq!(read(&mut probe), Err("no NVSwitch".to_owned()));
        // A bridge of another vendor.
        fixture::device(root.path(), "0000:00:01.0", "0x8086", "0x068000");
        assert_eq!(read(&mut probe), Err("no NVSwitch".to_owned()));
        fixture::device(root.path(), "0000:50:00.0", "0x10de", "0x068000");
        let why = read(&mut probe).expect_err("no systemd");
        assert!(why.starts_with("failed to query systemd"), "{why}");
        fs::remove_dir_all(root.path().join("proc/driver")).expect("a directory");
        assert_eq!(read(&mut probe), Err("no NVIDIA driver is loaded".to_owned()));
    }

    #[test]
    fn a_manager_in_a_container_is_known_by_its_process() {
        let root = fixture::instance("p5.48xlarge", 8);
        assert!(!runs(root.path(), PROCESS));
        for (process, name) in [("17", "kubelet\n"), ("tty", "nv-fabricmanage\n")] {
            fs::create_dir_all(root.path().join("proc").join(process)).expect("a directory");
            fs::write(root.path().join("proc").join(process).join("comm"), name).expect("a file");
        }
        assert!(!runs(root.path(), PROCESS));
        fs::write(root.path().join("proc/17/comm"), "nv-fabricmanage\n").expect("a file");
        assert!(runs(root.path(), PROCESS));
    }
}
