//! Calls the ethtool ioctl to read a network driver's pages.
//!
//! `SIOCETHTOOL` takes a pointer inside a structure, and the driver decides how much the kernel writes there. So only
//! this module issues the commands, and it allocates more room than any driver's counters need.

use std::{io, os::fd::OwnedFd};

use rustix::{
    ioctl::{Opcode, Updater, ioctl},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use super::{NAME, NAMES_HEADER, VALUE, VALUES_HEADER};

/// From `linux/sockios.h`.
const SIOCETHTOOL: Opcode = 0x8946;
/// From `linux/ethtool.h`.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
/// `struct ethtool_sset_info`: command, reserved, the sets as bits; then one count for each.
const SET_HEADER: usize = 16;

/// ENA has some 40 counters for each of at most 128 queues.
const MAX_COUNTERS: usize = 8 * 1024;
/// Older kernels write as many entries as the driver has at that moment, whatever the page's count is; newer ones
/// write nothing unless both are equal. Zeroed pages that are never written cost no memory.
const ROOM: usize = 2 * MAX_COUNTERS;

/// `IFNAMSIZ`: the size of an interface name.
const INTERFACE: usize = 16;

/// `struct ifreq` with its union's pointer.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; INTERFACE],
    page: *mut u8,
    rest: [u8; 16],
}

// With shorter pointers the union has another layout; EKS has no such nodes.
const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// An interface's driver and the number of its counters.
pub(super) struct EthtoolDriver {
    socket: OwnedFd,
    name: [u8; INTERFACE],
    count: u32,
}

impl EthtoolDriver {
    pub(super) fn of(interface: &str) -> io::Result<Self> {
        let mut name = [0; INTERFACE];
        // The name ends with a zero.
        if interface.is_empty() || interface.len() >= INTERFACE || interface.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface's name"));
        }
        name[..interface.len()].copy_from_slice(interface.as_bytes());
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let mut driver = Self { socket, name, count: 0 };
        let page = driver.fill(&[ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS, 0], SET_HEADER, 4, 1)?;
        let count = page[SET_HEADER..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if count as usize > MAX_COUNTERS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{count} counters are too many")));
        }
        driver.count = count;
        Ok(driver)
    }

    pub(super) fn names(&self) -> io::Result<Vec<u8>> {
        self.fill(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, self.count], NAMES_HEADER, NAME, self.count as usize)
    }

    pub(super) fn values(&self) -> io::Result<Vec<u8>> {
        self.fill(&[ETHTOOL_GSTATS, self.count], VALUES_HEADER, VALUE, self.count as usize)
    }

    /// Reads a page whose header has these words, and cuts it after `count` entries.
    fn fill(&self, words: &[u32], header: usize, entry: usize, count: usize) -> io::Result<Vec<u8>> {
        let mut page = vec![0_u8; header + entry * ROOM];
        for (chunk, word) in page.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        let mut request = InterfaceRequest { name: self.name, page: page.as_mut_ptr(), rest: [0; 16] };
        // SAFETY: SIOCETHTOOL takes a `struct ifreq`, whose layout `Request` has, with a zero-terminated name. The
        // kernel reads the header behind the pointer and writes the header and one entry for each counter: the page
        // has room for twice as many as the driver may have had when it was queried. Both live until the call
        // returns, and the kernel stores neither.
        unsafe { ioctl(&self.socket, Updater::<SIOCETHTOOL, InterfaceRequest>::new(&mut request))? };
        page.truncate(header + entry * count);
        Ok(page)
    }
}
