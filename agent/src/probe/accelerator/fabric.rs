//! Turns an NVSwitch and what systemd says of its manager into whether the GPUs can be joined.
//!
//! The manager programs the switches; without it no job that uses more than one GPU starts. Only `failed` is a fault: a
//! manager that was stopped was stopped by somebody, and one that is being started may yet come up. Where it has no
//! unit, or runs in spite of a unit that failed, it runs in a container (the GPU operator's), and that container's
//! health is Kubernetes' business. Without a driver it can't but fail, and no new node would mend that.
//! From the fifth generation of NVLink on (B200) the switches are no PCI functions, and are not seen here.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{NVIDIA, not_checkable};
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        pci,
        systemd::{self, Unit},
    },
};

const NOT_RUNNING: &str = "FabricManagerNotRunning";
const DRIVER: &str = "proc/driver/nvidia";
/// `nv-fabricmanager`, as much of it as the kernel keeps.
const PROCESS: &str = "nv-fabricmanage";
const UNIT: &str = "nvidia-fabricmanager.service";
/// A bridge of a kind of its own.
const SWITCH: u16 = 0x0680;

const INTERVAL: Duration = Duration::from_secs(60);
/// A driver that is being replaced takes the manager down with it for moments.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(90) };

pub(super) struct FabricManager {
    root: PathBuf,
    standing: Standing,
}

impl FabricManager {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
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
        let wrong = judge(switches, &unit)?;
        if wrong.is_some() && runs(&self.root, PROCESS) {
            return Err(not_checkable(format!("{unit}, and yet a fabric manager runs, in a container say")));
        }
        let judged = Judged::when(NOT_RUNNING, wrong).after(TWICE);
        Ok(self.standing.update(vec![judged], now))
    }
}

fn judge(switches: usize, unit: &Unit) -> Result<Option<String>, NotCheckable> {
    if !unit.is_loaded() {
        return Err(not_checkable("the fabric manager is no unit of this node's systemd"));
    }
    if unit.is_failed() {
        return Ok(Some(format!("{unit}, and there are {switches} NVSwitches")));
    }
    if unit.is_active() {
        return Ok(None);
    }
    Err(not_checkable(format!("{unit}: it was not started, or is being started")))
}

/// Whether any process has this name; asked only when a unit failed, for it looks at all of them.
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
    use crate::probe::accelerator::trees::{self, read};

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
    fn only_a_manager_that_failed_is_a_fault_and_only_one_that_runs_is_well() {
        let wrong = "nvidia-fabricmanager.service is failed (failed), and there are 4 NVSwitches";
        for (load, active, sub, expected) in [
            ("loaded", "active", "running", Ok(None)),
            ("loaded", "reloading", "reload", Ok(None)),
            ("loaded", "failed", "failed", Ok(Some(wrong))),
            // Its file was removed after it failed: somebody runs it otherwise.
            ("not-found", "failed", "failed", Err("the fabric manager is no unit of this node's systemd")),
            ("not-found", "inactive", "dead", Err("the fabric manager is no unit of this node's systemd")),
            ("masked", "inactive", "dead", Err("the fabric manager is no unit of this node's systemd")),
            (
                "loaded",
                "inactive",
                "dead",
                Err(
                    "nvidia-fabricmanager.service is inactive (dead): it was not started, or is being started",
                ),
            ),
            (
                "loaded",
                "activating",
                "start",
                Err(
                    "nvidia-fabricmanager.service is activating (start): it was not started, or is being started",
                ),
            ),
        ] {
            let judged = judge(4, &unit(load, active, sub));
            let judged = judged.as_ref().map(Option::as_deref).map_err(|nothing| nothing.why.as_ref());
            assert_eq!(judged, expected, "{load} {active} {sub}");
        }
    }

    #[test]
    fn systemd_is_asked_only_where_there_is_a_switch() {
        let root = trees::instance("p5.48xlarge", 8);
        let mut probe = FabricManager::new(root.path());
        assert_eq!(read(&mut probe), Err("no NVSwitch".to_owned()));
        // A bridge of another maker is none.
        trees::device(root.path(), "0000:00:01.0", "0x8086", "0x068000");
        assert_eq!(read(&mut probe), Err("no NVSwitch".to_owned()));
        trees::device(root.path(), "0000:50:00.0", "0x10de", "0x068000");
        let why = read(&mut probe).expect_err("no systemd");
        assert!(why.starts_with("systemd can't be asked"), "{why}");
        fs::remove_dir_all(root.path().join("proc/driver")).expect("a folder");
        assert_eq!(read(&mut probe), Err("no NVIDIA driver is loaded".to_owned()));
    }

    #[test]
    fn a_manager_in_a_container_is_known_by_its_process() {
        let root = trees::instance("p5.48xlarge", 8);
        assert!(!runs(root.path(), PROCESS));
        for (process, name) in [("17", "kubelet\n"), ("tty", "nv-fabricmanage\n")] {
            fs::create_dir_all(root.path().join("proc").join(process)).expect("a folder");
            fs::write(root.path().join("proc").join(process).join("comm"), name).expect("a file");
        }
        assert!(!runs(root.path(), PROCESS));
        fs::write(root.path().join("proc/17/comm"), "nv-fabricmanage\n").expect("a file");
        assert!(runs(root.path(), PROCESS));
    }
}
