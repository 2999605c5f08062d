//! Reads a vendor's PCI functions from sysfs.
//!
//! A function that cannot be read completely is an error, never a missing function: a missing device makes the node
//! unhealthy.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

const DEVICES: &str = "sys/bus/pci/devices";
/// A sysfs attribute is at most a page.
const ATTRIBUTE_LIMIT: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// The address in the kernel's format: `0000:00:1e.0`.
    pub address: String,
    /// Base class, subclass and programming interface.
    pub class: u32,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// The only driver that may bind to it, if `driver_override` is set.
    pub reserved_for: Option<String>,
    /// Whether it is a virtual function of another function (SR-IOV).
    pub is_virtual: bool,
}

impl PciFunction {
    /// Base class and subclass, which are the kind of device.
    pub fn kind(&self) -> u16 {
        u16::try_from(self.class >> 8 & 0xffff).unwrap_or(0)
    }
}

/// Why the PCI bus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    #[error("failed to read {path}: {source}")]
    Io {
        /// The path below the root.
        path: String,
        source: io::Error,
    },
    /// The bus has no devices, so it is hidden: an instance's own network and disks are on it.
    #[error("the PCI bus has no devices")]
    Empty,
}

/// All functions of a vendor, sorted by address.
pub fn functions(root: &Path, vendor: u16) -> Result<Vec<PciFunction>, PciError> {
    let entries = fs::read_dir(root.join(DEVICES)).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| PciError::Io { path: DEVICES.to_owned(), source })?;
    if entries.is_empty() {
        return Err(PciError::Empty);
    }
    let mut functions = Vec::new();
    for entry in entries {
        let address = entry.file_name().to_string_lossy().into_owned();
        let failed =
            |name: &str, source| PciError::Io { path: format!("{DEVICES}/{address}/{name}"), source };
        let directory = entry.path();
        let number = |name: &str| {
            let text = attribute(&directory.join(name)).map_err(|source| failed(name, source))?;
            let number = text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
            number.ok_or_else(|| failed(name, io::ErrorKind::InvalidData.into()))
        };
        if number("vendor")? != u32::from(vendor) {
            continue;
        }
        let driver = match optional(fs::read_link(directory.join("driver"))) {
            Ok(link) => link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
            Err(source) => return Err(failed("driver", source)),
        };
        let reserved_for = optional(attribute(&directory.join("driver_override")))
            .map_err(|source| failed("driver_override", source))?;
        functions.push(PciFunction {
            class: number("class")?,
            driver,
            // The kernel's text for a null pointer.
            reserved_for: reserved_for.filter(|name| !matches!(name.as_str(), "" | "(null)")),
            is_virtual: fs::symlink_metadata(directory.join("physfn")).is_ok(),
            address,
        });
    }
    functions.sort_unstable_by(|one, other| one.address.cmp(&other.address));
    Ok(functions)
}

/// A file of a function's PCIe error counters, such as `aer_dev_correctable`; `None` if the kernel has none.
pub fn counters(root: &Path, address: &str, name: &str) -> io::Result<Option<String>> {
    optional(attribute(&root.join(DEVICES).join(address).join(name)))
}

/// The text of a small kernel file, such as a sysfs attribute, without surrounding whitespace.
pub fn attribute(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(ATTRIBUTE_LIMIT).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn optional<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn add(root: &Path, address: &str, vendor: &str, class: &str) -> std::path::PathBuf {
        let directory = root.join(DEVICES).join(address);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("vendor"), vendor).expect("a file");
        fs::write(directory.join("class"), class).expect("a file");
        directory
    }

    #[test]
    fn functions_of_the_vendor_are_read_with_their_driver() {
        let root = tempfile::tempdir().expect("a directory");
        add(root.path(), "0000:00:05.0", "0x1d0f\n", "0x020000\n");
        let free = add(root.path(), "0000:00:1f.0", "0x10de\n", "0x030200\n");
        fs::write(free.join("driver_override"), "(null)\n").expect("a file");
        let held = add(root.path(), "0000:00:1e.0", "0x10de\n", "0x068000\n");
        symlink("../../../bus/pci/drivers/vfio-pci", held.join("driver")).expect("a link");
        fs::write(held.join("driver_override"), "vfio-pci\n").expect("a file");
        symlink("../0000:00:1f.0", held.join("physfn")).expect("a link");

        let read = functions(root.path(), 0x10de).expect("functions");
        let (held, free) = (&read[0], &read[1]);
        assert_eq!((held.address.as_str(), held.kind(), held.is_virtual), ("0000:00:1e.0", 0x0680, true));
        assert_eq!(held.driver.as_deref(), Some("vfio-pci"));
        assert_eq!(held.reserved_for.as_deref(), Some("vfio-pci"));
        assert_eq!((free.kind(), free.is_virtual), (0x0302, false));
        assert_eq!((&free.driver, &free.reserved_for), (&None, &None));
    }

    #[test]
    fn a_bus_that_is_read_in_part_is_not_read() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(matches!(functions(root.path(), 0x10de), Err(PciError::Io { .. })), "no bus");
        fs::create_dir_all(root.path().join(DEVICES)).expect("a directory");
        assert!(matches!(functions(root.path(), 0x10de), Err(PciError::Empty)));
        add(root.path(), "0000:00:1e.0", "0x10de\n", "0x030200\n");
        let broken = add(root.path(), "0000:00:1f.0", "10de\n", "0x030200\n");
        let error = functions(root.path(), 0x10de).expect_err("no prefix");
        assert!(error.to_string().contains("sys/bus/pci/devices/0000:00:1f.0/vendor"), "{error}");
        fs::remove_file(broken.join("vendor")).expect("a file");
        assert!(functions(root.path(), 0x10de).is_err(), "no vendor");
    }
}
