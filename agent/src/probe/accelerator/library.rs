//! Turns what only NVIDIA's own library (NVML) tells into GPUs that are too hot, or have too little power.
//!
//! Its counts of uncorrectable memory errors are not asked for: since the A100 an error that the GPU contained (Xid 94)
//! counts there too, and the node is good. Which errors are not contained, the driver writes to the kernel's log.
//! <https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/index.html>

use std::{
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, some_gpus, subject};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{child::Runner, nvml::Gpu},
};

const THERMAL: &str = "NvidiaThermalError";
const POWER: &str = "NvidiaPowerError";
const INTERVAL: Duration = Duration::from_secs(60);
/// A driver that nobody uses loads its GPUs anew for each who asks, which takes a second or two a GPU.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Sixteen GPUs are 2 KiB.
const MAX_OUTPUT: u64 = 64 * 1024;
/// Where the distributions for EKS keep it: Amazon Linux, Ubuntu on either processor, Bottlerocket.
const LIBRARIES: [&str; 5] = [
    "usr/lib64/libnvidia-ml.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/nvidia/tesla/libnvidia-ml.so.1",
    "usr/lib/libnvidia-ml.so.1",
];

/// The agent's own subcommand that loads the library.
const SUBCOMMAND: &str = "nvidia-library";

pub(super) struct Library {
    root: PathBuf,
    runner: Runner,
    standing: Standing,
}

impl Library {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), runner: Runner::default(), standing: Standing::default() }
    }

    fn ask(&mut self) -> Result<Vec<Gpu>, NotCheckable> {
        let Some(library) = LIBRARIES.iter().map(|path| self.root.join(path)).find(|path| path.exists())
        else {
            return Err(not_checkable("NVIDIA's library is not where drivers put it"));
        };
        let program = std::env::current_exe()
            .map_err(|error| not_checkable(format!("failed to find the agent's own program: {error}")))?;
        let answer = self.runner.read(
            Command::new(program).arg(SUBCOMMAND).arg(&library),
            TIMEOUT,
            |output| -> Result<Result<Vec<Gpu>, String>, serde_json::Error> {
                serde_json::from_reader(BufReader::new(output.take(MAX_OUTPUT)))
            },
        );
        let failed = |why: String| {
            not_checkable(format!("failed to ask NVIDIA's library {}: {why}", library.display()))
        };
        answer.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

impl Probe for Library {
    fn name(&self) -> &'static str {
        "nvidia-library"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[THERMAL, POWER]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        some_gpus(&self.root)?;
        let gpus = self.ask()?;
        if gpus.is_empty() {
            return Err(not_checkable("NVIDIA's library knows of no GPU that says why it slows down"));
        }
        Ok(self.standing.update(judge(&gpus), now))
    }
}

fn judge(gpus: &[Gpu]) -> Vec<Judged> {
    let mut judged = vec![Judged::well(THERMAL), Judged::well(POWER)];
    for gpu in gpus {
        let about = |reason, wrong: bool, message: &str| {
            Judged::when(reason, wrong.then(|| message.to_owned())).about(subject(&gpu.address))
        };
        judged.push(about(THERMAL, gpu.thermal_slowdown, "its hardware slows it down: it is too hot"));
        judged.push(about(POWER, gpu.power_brake, "its hardware slows it down: the power supply brakes it"));
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::trees;

    fn gpu(number: usize, thermal_slowdown: bool, power_brake: bool) -> Gpu {
        Gpu { address: trees::address(number), thermal_slowdown, power_brake }
    }

    #[test]
    fn each_gpu_is_told_for_itself_and_each_cause() {
        let wrong = |gpus: &[Gpu]| judge(gpus).iter().filter(|judged| judged.is_wrong()).count();
        assert_eq!(wrong(&[gpu(0, false, false), gpu(1, false, false)]), 0);
        assert_eq!(wrong(&[gpu(0, true, false), gpu(1, false, true)]), 2);
        assert_eq!(wrong(&[gpu(0, true, true)]), 2);
    }

    #[test]
    fn a_node_without_the_library_is_told_so() {
        let root = trees::instance("g5.xlarge", 1);
        let why = trees::read(&mut Library::new(root.path())).expect_err("nothing to read");
        assert_eq!(why, "NVIDIA's library is not where drivers put it");
    }
}
