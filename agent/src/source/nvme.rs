//! Turns the log page in which an EBS volume counts into what it counted.
//!
//! The page is described with
//! [EBS detailed performance statistics](https://docs.aws.amazon.com/ebs/latest/userguide/nvme-detailed-performance-stats.html).

mod admin;

use std::{fs::File, io, path::Path};

/// The vendor's own page that holds the statistics.
const PAGE: u8 = 0xd0;
const MAGIC: u32 = 0x3c23_b510;
/// The page as a whole; latencies fill most of it.
pub const PAGE_BYTES: usize = 4096;

/// How long more was asked of a volume than it is to give, in microseconds since it was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exceeded {
    /// More operations a second than the volume has.
    pub volume_iops: u64,
    /// More bytes a second than the volume has.
    pub volume_throughput: u64,
    /// More operations a second than the instance has for all its volumes.
    pub instance_iops: u64,
    /// More bytes a second than the instance has for all its volumes.
    pub instance_throughput: u64,
}

/// Why a volume's statistics can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// The device does not open, or the kernel refuses the command.
    #[error("failed to ask the device")]
    Io(#[from] io::Error),
    /// The device refuses the command.
    #[error("the device answers with status {0:#x}")]
    Status(u32),
    /// What came is no such page.
    #[error("the device's answer holds no EBS statistics")]
    NoStatistics,
}

/// Asks a controller (`/dev/nvme0`).
pub fn read(device: &Path) -> Result<Exceeded, NvmeError> {
    let file = File::open(device)?;
    let page = admin::log_page(&file, PAGE)?;
    decode(&page[..]).ok_or(NvmeError::NoStatistics)
}

/// Reads a page; none if it is too short or not such a page.
pub fn decode(page: &[u8]) -> Option<Exceeded> {
    let number = |offset: usize| {
        let bytes = page.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let magic = page.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    if magic != MAGIC {
        return None;
    }
    // Operations, bytes and times of what was read and written come before.
    Some(Exceeded {
        volume_iops: number(56)?,
        volume_throughput: number(64)?,
        instance_iops: number(72)?,
        instance_throughput: number(80)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up from 1 in the page's order, from total reads to the queue's length.
    fn page() -> Vec<u8> {
        let mut page = MAGIC.to_le_bytes().to_vec();
        page.extend([0; 4]);
        page.extend((1..=11_u64).flat_map(u64::to_le_bytes));
        page.resize(PAGE_BYTES, 0xff);
        page
    }

    #[test]
    fn what_was_exceeded_are_the_four_numbers_before_the_queue() {
        let exceeded =
            Exceeded { volume_iops: 7, volume_throughput: 8, instance_iops: 9, instance_throughput: 10 };
        assert_eq!(decode(&page()), Some(exceeded));
        assert_eq!(decode(&page()[..88]), Some(exceeded));
    }

    #[test]
    fn a_page_that_is_cut_or_of_another_kind_is_none() {
        for length in 0..88 {
            assert_eq!(decode(&page()[..length]), None, "{length} bytes");
        }
        assert_eq!(decode(&[0; PAGE_BYTES]), None);
        // Local disks of an instance have the same page by another name.
        let mut local = page();
        local[..4].copy_from_slice(&0xec2c_0d7e_u32.to_le_bytes());
        assert_eq!(decode(&local), None);
    }

    #[test]
    fn what_is_no_nvme_device_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(matches!(read(file.path()), Err(NvmeError::Io(_))));
        assert!(matches!(read(Path::new("/dev/null")), Err(NvmeError::Io(_))));
        assert!(matches!(read(Path::new("/nonexistent")), Err(NvmeError::Io(_))));
    }
}
