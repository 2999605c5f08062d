//! Says what only NVIDIA's own library could tell, and that it is not asked.
//!
//! The count of uncorrectable memory errors, and why a GPU slows itself down, are in neither procfs nor sysfs. The
//! library (NVML) must be the host driver's very version, needs the dynamic loader that a static binary hasn't, and
//! holds the driver while it is open, so that no operator could replace it. What the driver itself writes to the
//! kernel's log, uncorrectable errors among it, is read all the same.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, some_gpus};
use crate::{
    finding::Change,
    probe::{NotCheckable, Probe},
};

/// There is nothing to read, only to say once.
const INTERVAL: Duration = Duration::from_secs(3600);

pub(super) struct Library {
    root: PathBuf,
}

impl Library {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Probe for Library {
    fn name(&self) -> &'static str {
        "nvidia-library"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, _: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        some_gpus(&self.root)?;
        Err(not_checkable(
            "heat, power and the count of memory errors are told by NVIDIA's library alone, which is not loaded",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::trees;

    #[test]
    fn a_node_with_gpus_is_told_what_is_not_checked() {
        let root = trees::instance("g5.xlarge", 1);
        let why = trees::read(&mut Library::new(root.path())).expect_err("nothing to read");
        assert!(why.contains("heat, power and the count of memory errors"), "{why}");
    }
}
