//! Measures the fragmentation of free space, from a filesystem's space map.
//!
//! The map may have millions of entries, so only a limited part is read.

mod call;

use std::{fs::File, io};

/// The maximum number of entries that are read. XFS returns 8,000 in a millisecond.
const MAX_ENTRIES: usize = 262_144;
/// `FMR_OF_SPECIAL_OWNER` and `FMR_OWN_FREE` of the kernel's `linux/fsmap.h`.
const SPECIAL: u32 = 0x10;
const FREE: u64 = 1;
/// `FMR_OF_LAST` of the kernel's `linux/fsmap.h`.
const LAST: u32 = 0x20;

/// The free space in the part of the map that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreeSpace {
    /// The number of free extents.
    pub extents: u64,
    pub bytes: u64,
}

/// `struct fsmap`: an entry of the map, as
/// [ioctl_getfsmap(2)](https://man7.org/linux/man-pages/man2/ioctl_getfsmap.2.html) describes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct FsmapEntry {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// The free space of the filesystem that contains a file or directory.
pub fn free(directory: &File) -> io::Result<FreeSpace> {
    let mut request = call::FsmapRequest::new();
    let mut free = FreeSpace::default();
    let mut read = 0;
    while read < MAX_ENTRIES {
        let entries = request.next(directory)?;
        read += entries.len();
        free.add(entries);
        if entries.last().is_none_or(|entry| entry.flags & LAST != 0) {
            break;
        }
    }
    Ok(free)
}

impl FreeSpace {
    fn add(&mut self, entries: &[FsmapEntry]) {
        for entry in entries.iter().filter(|entry| entry.flags & SPECIAL != 0 && entry.owner == FREE) {
            self.extents += 1;
            self.bytes = self.bytes.saturating_add(entry.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extents_without_an_owner_are_free() {
        let entry = |flags, owner, length| FsmapEntry { flags, owner, length, ..FsmapEntry::default() };
        let mut free = FreeSpace::default();
        free.add(&[
            entry(SPECIAL, FREE, 4096),
            entry(SPECIAL | LAST, FREE, 8192),
            // An entry of inode 1, and one of the filesystem itself.
            entry(0, FREE, 65_536),
            entry(SPECIAL, 2, 65_536),
        ]);
        assert_eq!(free, FreeSpace { extents: 2, bytes: 12_288 });
        free.add(&[entry(SPECIAL, FREE, u64::MAX)]);
        assert_eq!(free.bytes, u64::MAX);
    }

    #[test]
    fn a_filesystem_without_a_map_is_an_error_and_another_has_at_most_its_size_free() {
        let null = File::open("/proc/self").expect("a directory");
        assert!(free(&null).is_err());
        let root = File::open("/").expect("a directory");
        if let Ok(free) = free(&root) {
            let counts = rustix::fs::fstatvfs(&root).expect("counts");
            assert!(free.bytes <= counts.f_blocks * counts.f_frsize, "{free:?}");
        }
    }
}
