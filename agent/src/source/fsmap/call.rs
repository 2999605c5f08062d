//! Turns a place in a filesystem's map into the entries that follow it.
//!
//! No library that is built in wraps this call, so that this module alone may be unsafe. It only reads.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::Entry;

/// Entries of one call: 32 KiB of them.
const ENTRIES: usize = 512;

/// `struct fsmap_head` with room for entries.
#[repr(C)]
pub(super) struct Request {
    head: Head,
    entries: [Entry; ENTRIES],
}

#[repr(C)]
struct Head {
    flags_in: u32,
    flags_out: u32,
    /// How many entries there is room for.
    room: u32,
    /// How many came.
    came: u32,
    reserved: [u64; 6],
    after: Entry,
    until: Entry,
}

struct Fill<'a>(&'a mut Request);

// SAFETY: `FS_IOC_GETFSMAP` reads and writes a `Head` and writes at most `room` entries behind it; both are laid out as
// the kernel's own, and `room` is never more than there are. Every bit pattern is an entry.
unsafe impl Ioctl for Fill<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Head>(b'X', 59)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl Request {
    /// For a whole map, from its beginning.
    pub(super) fn new() -> Box<Self> {
        let until = Entry {
            device: u32::MAX,
            flags: u32::MAX,
            physical: u64::MAX,
            owner: u64::MAX,
            offset: u64::MAX,
            ..Entry::default()
        };
        let head = Head {
            flags_in: 0,
            flags_out: 0,
            room: ENTRIES as u32,
            came: 0,
            reserved: [0; 6],
            after: Entry::default(),
            until,
        };
        Box::new(Self { head, entries: [Entry::default(); ENTRIES] })
    }

    /// The next entries; none at the map's end.
    pub(super) fn next(&mut self, folder: &File) -> io::Result<&[Entry]> {
        self.head.came = 0;
        // SAFETY: what is passed is what the call expects, as said above.
        unsafe { ioctl(folder, Fill(self)) }?;
        let came = &self.entries[..ENTRIES.min(self.head.came as usize)];
        if let Some(last) = came.last() {
            self.head.after = *last;
        }
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_has_the_number_and_the_request_the_size_that_the_kernels_header_gives() {
        assert_eq!(Fill(&mut Request::new()).opcode(), 0xc0c0_583b);
        assert_eq!((size_of::<Head>(), size_of::<Entry>()), (192, 64));
        assert_eq!(std::mem::offset_of!(Request, entries), 192);
    }
}
