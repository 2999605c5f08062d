//! Reads an NVMe log page through the kernel's admin passthrough.
//!
//! The only command issued here reads. The kernel has no file for log pages, and none of our dependencies wraps the
//! call, so this module contains the unsafe code.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io, marker::PhantomData};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::{NvmeError, PAGE_BYTES};

/// Get Log Page, in the NVMe base specification.
const GET_LOG_PAGE: u8 = 0x02;
/// EBS volumes have this namespace.
const NAMESPACE: u32 = 1;

/// `struct nvme_admin_cmd` of the kernel's `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_and_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    bytes: u32,
    words_10_to_15: [u32; 6],
    /// 0 uses the driver's default. A command that exceeds its timeout makes the driver reset the controller, so no
    /// shorter one is requested.
    timeout_milliseconds: u32,
    result: u32,
}

/// Commands address memory in units of four bytes.
#[repr(C, align(8))]
struct LogPage([u8; PAGE_BYTES]);

/// A command that writes a page, which it borrows.
struct GetLogPage<'a> {
    command: NvmeCommand,
    page: PhantomData<&'a mut LogPage>,
}

// SAFETY: `NVME_IOCTL_ADMIN_CMD` reads and writes an `NvmeCommand`, which has the kernel's layout and lives in
// `self`; it also writes at most `bytes` bytes at `address`, which `log_page` sets to a page's size and address.
unsafe impl Ioctl for GetLogPage<'_> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<NvmeCommand>(b'N', 0x41)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.command).cast()
    }

    unsafe fn output_from_ptr(status: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(status)
    }
}

/// Reads a log page from its start.
pub(super) fn log_page(device: &File, page: u8) -> Result<Box<[u8; PAGE_BYTES]>, NvmeError> {
    let mut filled = LogPage([0; PAGE_BYTES]);
    let words = (PAGE_BYTES / 4 - 1) as u32;
    let fill = GetLogPage {
        command: NvmeCommand {
            opcode: GET_LOG_PAGE,
            namespace: NAMESPACE,
            address: (&raw mut filled).expose_provenance() as u64,
            bytes: PAGE_BYTES as u32,
            // The number of words minus one, in the upper half.
            words_10_to_15: [u32::from(page) | words << 16, 0, 0, 0, 0, 0],
            ..NvmeCommand::default()
        },
        page: PhantomData,
    };
    // SAFETY: the argument is what the call expects, as explained above. A device of another kind rejects a request
    // number with NVMe's letter and this command's size.
    let status = unsafe { ioctl(device, fill) }.map_err(io::Error::from)?;
    match u32::try_from(status) {
        Ok(0) => Ok(Box::new(filled.0)),
        Ok(status) => Err(NvmeError::Status(status)),
        Err(_) => Err(NvmeError::NoStatistics),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_has_the_number_and_the_command_the_size_that_the_kernels_header_gives() {
        let fill = GetLogPage { command: NvmeCommand::default(), page: PhantomData };
        assert_eq!(fill.opcode(), 0xc048_4e41);
        assert_eq!(size_of::<NvmeCommand>(), 72);
        assert_eq!(std::mem::offset_of!(NvmeCommand, address), 24);
        assert_eq!(std::mem::offset_of!(NvmeCommand, words_10_to_15), 40);
    }
}
