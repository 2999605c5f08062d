//! Turns a filesystem's own map of its space into how its free space is cut up.
//!
//! The map may have millions of entries: a bounded part of it is read.

mod call;

use std::{fs::File, io};

/// Entries that are read at most. XFS gives 8,000 in a millisecond.
const MAX_ENTRIES: usize = 262_144;
/// `FMR_OF_SPECIAL_OWNER` and `FMR_OWN_FREE` of the kernel's `linux/fsmap.h`.
const SPECIAL: u32 = 0x10;
const FREE: u64 = 1;
/// `FMR_OF_LAST`.
const LAST: u32 = 0x20;

/// Free space, as far as the map was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Free {
    /// How many pieces it is in.
    pub extents: u64,
    /// All of them together.
    pub bytes: u64,
}

/// `struct fsmap`: an entry of the map, as
/// [ioctl_getfsmap(2)](https://man7.org/linux/man-pages/man2/ioctl_getfsmap.2.html) describes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// The free space of the filesystem that a file or folder is on.
pub fn free(folder: &File) -> io::Result<Free> {
    let mut request = call::Request::new();
    let mut free = Free::default();
    let mut read = 0;
    while read < MAX_ENTRIES {
        let entries = request.next(folder)?;
        read += entries.len();
        free.add(entries);
        if entries.last().is_none_or(|entry| entry.flags & LAST != 0) {
            break;
        }
    }
    Ok(free)
}

impl Free {
    fn add(&mut self, entries: &[Entry]) {
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
    fn only_what_belongs_to_nobody_is_free() {
        let entry = |flags, owner, length| Entry { flags, owner, length, ..Entry::default() };
        let mut free = Free::default();
        free.add(&[
            entry(SPECIAL, FREE, 4096),
            entry(SPECIAL | LAST, FREE, 8192),
            // Inode 1, and the filesystem's own.
            entry(0, FREE, 65_536),
            entry(SPECIAL, 2, 65_536),
        ]);
        assert_eq!(free, Free { extents: 2, bytes: 12_288 });
        free.add(&[entry(SPECIAL, FREE, u64::MAX)]);
        assert_eq!(free.bytes, u64::MAX);
    }

    #[test]
    fn a_filesystem_without_a_map_is_an_error_and_another_has_no_more_free_space_than_it_says() {
        let null = File::open("/proc/self").expect("a folder");
        assert!(free(&null).is_err());
        let root = File::open("/").expect("a folder");
        if let Ok(free) = free(&root) {
            let counts = rustix::fs::fstatvfs(&root).expect("counts");
            assert!(free.bytes <= counts.f_blocks * counts.f_frsize, "{free:?}");
        }
    }
}
