//! Finds GPUs that slow down for heat or power, from NVIDIA's library (NVML).
//!
//! NVML's counts of uncorrectable memory errors are not read: since the A100 an error that the GPU contained (XID 94)
//! counts there too, although the node stays healthy. The driver logs uncontained errors in the kernel log.
//!
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
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{child::Runner, nvml::Gpu},
};

const THERMAL: &str = "NvidiaThermalError";
const POWER: &str = "NvidiaPowerError";
const INTERVAL: Duration = Duration::from_secs(60);
/// A driver without clients re-initializes its GPUs for each client, which takes one or two seconds a GPU.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The output for sixteen GPUs is 2 KiB.
const MAX_OUTPUT: u64 = 64 * 1024;
/// The library's paths in the distributions for EKS: Amazon Linux, Ubuntu on both architectures, Bottlerocket.
const LIBRARIES: [&str; 5] = [
    "usr/lib64/libnvidia-ml.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/nvidia/tesla/libnvidia-ml.so.1",
    "usr/lib/libnvidia-ml.so.1",
];

/// The agent's subcommand that loads the library.
const SUBCOMMAND: &str = "nvidia-library";

pub(super) struct NvidiaLibrary {
    root: PathBuf,
    runner: Runner,
    latch: ConditionLatch,
}

impl NvidiaLibrary {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), runner: Runner::default(), latch: ConditionLatch::default() }
    }

    fn read_gpus(&mut self) -> Result<Vec<Gpu>, NotCheckable> {
        let Some(library) = LIBRARIES.iter().map(|path| self.root.join(path)).find(|path| path.exists())
        else {
            return Err(not_checkable("NVIDIA's library is not in any known directory"));
        };
        let program = std::env::current_exe()
            .map_err(|error| not_checkable(format!("failed to find the agent's own program: {error}")))?;
        let response = self.runner.read(
            Command::new(program).arg(SUBCOMMAND).arg(&library),
            TIMEOUT,
            |output| -> Result<Result<Vec<Gpu>, String>, serde_json::Error> {
                serde_json::from_reader(BufReader::new(output.take(MAX_OUTPUT)))
            },
        );
        let failed = |why: String| {
            not_checkable(format!("failed to query NVIDIA's library {}: {why}", library.display()))
        };
        response.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

impl Probe for NvidiaLibrary {
    fn name(&self) -> &'static str {
        "nvidia-library"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[THERMAL, POWER]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        some_gpus(&self.root)?;
        let gpus = self.read_gpus()?;
        if gpus.is_empty() {
            return Err(not_checkable("no GPU reports its slowdown causes to NVIDIA's library"));
        }
        Ok(self.latch.update(evaluate(&gpus), now))
    }
}

fn evaluate(gpus: &[Gpu]) -> Vec<Evaluation> {
    let mut evaluated = vec![Evaluation::healthy(THERMAL), Evaluation::healthy(POWER)];
    for gpu in gpus {
        let about = |reason, problem: bool, message: &str| {
            Evaluation::new(reason, problem.then(|| message.to_owned())).about(subject(&gpu.address))
        };
        evaluated.push(about(THERMAL, gpu.thermal_slowdown, "hardware slowdown: the GPU is too hot"));
        evaluated.push(about(
            POWER,
            gpu.power_brake,
            "hardware slowdown: the power supply signals a power brake",
        ));
    }
    evaluated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::accelerator::fixture;

    fn gpu(number: usize, thermal_slowdown: bool, power_brake: bool) -> Gpu {
        Gpu { address: fixture::address(number), thermal_slowdown, power_brake }
    }

    #[test]
    fn each_gpu_and_each_cause_is_a_finding() {
        let problem =
            |gpus: &[Gpu]| evaluate(gpus).iter().filter(|evaluated| evaluated.is_unhealthy()).count();
        assert_eq!(problem(&[gpu(0, false, false), gpu(1, false, false)]), 0);
        assert_eq!(problem(&[gpu(0, true, false), gpu(1, false, true)]), 2);
        assert_eq!(problem(&[gpu(0, true, true)]), 2);
    }

    #[test]
    fn a_node_without_the_library_is_not_checkable() {
        let root = fixture::instance("g5.xlarge", 1);
        let why = fixture::read(&mut NvidiaLibrary::new(root.path())).expect_err("nothing to read");
        assert_eq!(why, "NVIDIA's library is not in any known directory");
    }
}
