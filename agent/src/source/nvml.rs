//! Reads GPU slowdowns from NVIDIA's management library (NVML).
//!
//! The library belongs to the host's driver. If the agent loaded it, the driver could not be replaced, a crash of the
//! library would be the agent's, and a call may block on a GPU that no longer responds. So a child process loads it:
//! the agent's own binary, started for one reading, which prints the result and exits.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The state of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// The PCI address: `0000:10:00.0`.
    pub address: String,
    /// Whether the hardware reduces the clock because of the temperature.
    pub thermal_slowdown: bool,
    /// Whether the hardware reduces the clock because of the power supply's brake signal.
    pub power_brake: bool,
}

/// Loads the library and reads all GPUs; an error text if that fails. Call it in a child process.
#[cfg(not(target_env = "musl"))]
pub fn read_gpus(library: &Path) -> Result<Vec<Gpu>, String> {
    use nvml_wrapper::{Nvml, bitmasks::device::ThrottleReasons, error::NvmlError};

    let read = || -> Result<Vec<Gpu>, NvmlError> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init()?;
        let mut gpus = Vec::new();
        for number in 0..nvml.device_count()? {
            let device = nvml.device_by_index(number)?;
            let reasons = match device.current_throttle_reasons() {
                Ok(reasons) => reasons,
                // Some GPUs do not support this query; the others are still read.
                Err(NvmlError::NotSupported) => continue,
                Err(error) => return Err(error),
            };
            // A slowdown without a cause is ignored: GPUs also report it during clock changes.
            gpus.push(Gpu {
                address: as_the_kernel_writes(&device.pci_info()?.bus_id),
                thermal_slowdown: reasons.contains(ThrottleReasons::HW_THERMAL_SLOWDOWN),
                power_brake: reasons.contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
            });
        }
        Ok(gpus)
    };
    read().map_err(|error| error.to_string())
}

/// A static binary cannot load the library.
#[cfg(target_env = "musl")]
pub fn read_gpus(_: &Path) -> Result<Vec<Gpu>, String> {
    Err("a static binary cannot load a library".to_owned())
}

/// The library writes `00000000:10:00.0`; the kernel writes a domain of four digits, in lower case.
fn as_the_kernel_writes(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    match address.split_once(':') {
        Some((domain, rest)) => format!("{:0>4}:{rest}", domain.trim_start_matches('0')),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_kernels() {
        for (theirs, kernels) in
            [("00000000:1E:00.0", "0000:1e:00.0"), ("00010000:01:00.0", "10000:01:00.0"), ("odd", "odd")]
        {
            assert_eq!(as_the_kernel_writes(theirs), kernels);
        }
    }
}
