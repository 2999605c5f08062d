//! Calls the fsmap ioctl.
//!
//! None of our dependencies wraps this call, so this module contains the unsafe code. The call only reads.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::FsmapEntry;

/// The number of entries in one call: 32 KiB.
const ENTRIES: usize = 512;

/// `struct fsmap_head` with room for entries.
#[repr(C)]
pub(super) struct FsmapRequest {
    head: FsmapHead,
    entries: [FsmapEntry; ENTRIES],
}

#[repr(C)]
struct FsmapHead {
    flags_in: u32,
    flags_out: u32,
    /// The number of entries that fit.
    room: u32,
    /// The number of entries that the kernel returned.
    returned: u32,
    reserved: [u64; 6],
    after: FsmapEntry,
    until: FsmapEntry,
}

struct GetFsmap<'a>(&'a mut FsmapRequest);

// SAFETY: `FS_IOC_GETFSMAP` reads and writes a `Head` and writes at most `room` entries after it; both have the
// kernel's layout, and `room` is never more than the array's length. Every bit pattern is a valid entry.
unsafe impl Ioctl for GetFsmap<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<FsmapHead>(b'X', 59)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl FsmapRequest {
    /// A request for the whole map.
    pub(super) fn new() -> Box<Self> {
        let until = FsmapEntry {
            device: u32::MAX,
            flags: u32::MAX,
            physical: u64::MAX,
            owner: u64::MAX,
            offset: u64::MAX,
            ..FsmapEntry::default()
        };
        let head = FsmapHead {
            flags_in: 0,
            flags_out: 0,
            room: ENTRIES as u32,
            returned: 0,
            reserved: [0; 6],
            after: FsmapEntry::default(),
            until,
        };
        Box::new(Self { head, entries: [FsmapEntry::default(); ENTRIES] })
    }

    /// The next entries; empty at the end of the map.
    pub(super) fn next(&mut self, directory: &File) -> io::Result<&[FsmapEntry]> {
        self.head.returned = 0;
        // SAFETY: the argument is what the call expects, as explained above.
        unsafe { ioctl(directory, GetFsmap(self)) }?;
        let returned = &self.entries[..ENTRIES.min(self.head.returned as usize)];
        if let Some(last) = returned.last() {
            self.head.after = *last;
        }
        Ok(returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_has_the_number_and_the_request_the_size_that_the_kernels_header_gives() {
        assert_eq!(GetFsmap(&mut FsmapRequest::new()).opcode(), 0xc0c0_583b);
        assert_eq!((size_of::<FsmapHead>(), size_of::<FsmapEntry>()), (192, 64));
        assert_eq!(std::mem::offset_of!(FsmapRequest, entries), 192);
    }
}
