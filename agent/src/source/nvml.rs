//! Turns what NVIDIA's management library (NVML) says into the GPUs that slow themselves down.
//!
//! The library belongs to the host's driver. Loaded, it would keep the driver from being replaced, bring its own
//! crashes, and may wait for a GPU that answers no more. So another process loads it: the agent's own program, started
//! for one reading, that prints what it read and ends.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A GPU, as far as it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Its address on the bus: `0000:10:00.0`.
    pub address: String,
    /// Whether its hardware slows it down because it is too hot.
    pub thermal_slowdown: bool,
    /// Whether its hardware slows it down because the power supply asks for that.
    pub power_brake: bool,
}

/// Loads the library and asks it; a sentence where it can't be done. To be called in a process of its own.
#[cfg(not(target_env = "musl"))]
pub fn ask(library: &Path) -> Result<Vec<Gpu>, String> {
    use nvml_wrapper::{Nvml, bitmasks::device::ThrottleReasons, error::NvmlError};

    let read = || -> Result<Vec<Gpu>, NvmlError> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init()?;
        let mut gpus = Vec::new();
        for number in 0..nvml.device_count()? {
            let device = nvml.device_by_index(number)?;
            let reasons = match device.current_throttle_reasons() {
                Ok(reasons) => reasons,
                // Some GPUs can't say. The others are asked all the same.
                Err(NvmlError::NotSupported) => continue,
                Err(error) => return Err(error),
            };
            // A slowdown that names no cause is not counted: GPUs report it whenever their clocks change, too.
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

/// Says that it can't be loaded.
#[cfg(target_env = "musl")]
pub fn ask(_: &Path) -> Result<Vec<Gpu>, String> {
    Err("this program is static, and loads no library".to_owned())
}

/// The library writes `00000000:10:00.0`, the kernel four digits of domain, in lower case.
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
