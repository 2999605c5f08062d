//! Turns a page's number into the page, through the kernel's passthrough for NVMe commands.
//!
//! The one command that is made here only reads. The kernel has no file that shows a log page, and no library that is
//! built in wraps the call, so that this module alone may be unsafe.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io, marker::PhantomData};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::{NvmeError, PAGE_BYTES};

/// Get Log Page, in the NVMe base specification.
const GET_LOG_PAGE: u8 = 0x02;
/// EBS volumes have this one.
const NAMESPACE: u32 = 1;

/// `struct nvme_admin_cmd` of the kernel's `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct Command {
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
    /// The driver's own limit: a command that takes longer than it allows makes it reset the controller, so that
    /// nothing shorter is asked for.
    timeout_milliseconds: u32,
    result: u32,
}

/// Commands address memory in steps of four bytes.
#[repr(C, align(8))]
struct Page([u8; PAGE_BYTES]);

/// A command that fills a page, which it keeps borrowed.
struct Fill<'a> {
    command: Command,
    page: PhantomData<&'a mut Page>,
}

// SAFETY: `NVME_IOCTL_ADMIN_CMD` reads and writes a `Command`, which is laid out as the kernel's own and lives in
// `self`; besides it writes at most `bytes` bytes at `address`, which `log_page` makes a page's whole length and place.
unsafe impl Ioctl for Fill<'_> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Command>(b'N', 0x41)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.command).cast()
    }

    unsafe fn output_from_ptr(status: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(status)
    }
}

/// A log page from its beginning.
pub(super) fn log_page(device: &File, page: u8) -> Result<Box<[u8; PAGE_BYTES]>, NvmeError> {
    let mut filled = Page([0; PAGE_BYTES]);
    let words = (PAGE_BYTES / 4 - 1) as u32;
    let fill = Fill {
        command: Command {
            opcode: GET_LOG_PAGE,
            namespace: NAMESPACE,
            address: (&raw mut filled).expose_provenance() as u64,
            bytes: PAGE_BYTES as u32,
            // The number of words, of which there is one more than is said, fits into the upper half.
            words_10_to_15: [u32::from(page) | words << 16, 0, 0, 0, 0, 0],
            ..Command::default()
        },
        page: PhantomData,
    };
    // SAFETY: what is passed is what the call expects, as said above. A device of another kind refuses a number that
    // bears NVMe's letter and this command's size.
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
        let fill = Fill { command: Command::default(), page: PhantomData };
        assert_eq!(fill.opcode(), 0xc048_4e41);
        assert_eq!(size_of::<Command>(), 72);
        assert_eq!(std::mem::offset_of!(Command, address), 24);
        assert_eq!(std::mem::offset_of!(Command, words_10_to_15), 40);
    }
}
