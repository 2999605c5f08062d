//! Reads an EBS volume's performance counters from its NVMe log page.
//!
//! The page is described in [EBS detailed performance
//! statistics](https://docs.aws.amazon.com/ebs/latest/userguide/nvme-detailed-performance-stats.html).

mod admin;

use std::{fs::File, io, path::Path};

/// The vendor-specific log page with the statistics.
const PAGE: u8 = 0xd0;
const MAGIC: u32 = 0x3c23_b510;
/// The size of the whole page, most of which are latency histograms.
pub const PAGE_BYTES: usize = 4096;

/// How long limits were exceeded, in microseconds since the volume was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExceededLimits {
    /// The volume's IOPS limit.
    pub volume_iops: u64,
    /// The volume's throughput limit.
    pub volume_throughput: u64,
    /// The instance's IOPS limit for all its EBS volumes.
    pub instance_iops: u64,
    /// The instance's throughput limit for all its EBS volumes.
    pub instance_throughput: u64,
}

/// Why a volume's statistics are not available.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// The device cannot be opened, or the kernel rejects the command.
    #[error("failed to query the device")]
    Io(#[from] io::Error),
    /// The device rejects the command.
    #[error("the device returned status {0:#x}")]
    Status(u32),
    /// The page has no EBS statistics.
    #[error("the device's response has no EBS statistics")]
    NoStatistics,
}

/// Reads the statistics of a controller (`/dev/nvme0`).
pub fn read(device: &Path) -> Result<ExceededLimits, NvmeError> {
    let file = File::open(device)?;
    let page = admin::log_page(&file, PAGE)?;
    decode(&page[..]).ok_or(NvmeError::NoStatistics)
}

/// Parses a page; `None` if it is too short or of another kind.
pub fn decode(page: &[u8]) -> Option<ExceededLimits> {
    let number = |offset: usize| {
        let bytes = page.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let magic = page.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    if magic != MAGIC {
        return None;
    }
    // Counters of operations, bytes and times precede these fields.
    Some(ExceededLimits {
        volume_iops: number(56)?,
        volume_throughput: number(64)?,
        instance_iops: number(72)?,
        instance_throughput: number(80)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up from 1 in the page's order, from total reads to the queue length.
    fn page() -> Vec<u8> {
        let mut page = MAGIC.to_le_bytes().to_vec();
        page.extend([0; 4]);
        page.extend((1..=11_u64).flat_map(u64::to_le_bytes));
        page.resize(PAGE_BYTES, 0xff);
        page
    }

    #[test]
    fn the_exceeded_times_are_the_four_numbers_before_the_queue_length() {
        let exceeded = ExceededLimits {
            volume_iops: 7,
            volume_throughput: 8,
            instance_iops: 9,
            instance_throughput: 10,
        };
        assert_eq!(decode(&page()), Some(exceeded));
        assert_eq!(decode(&page()[..88]), Some(exceeded));
    }

    #[test]
    fn a_page_that_is_cut_or_of_another_kind_is_none() {
        for length in 0..88 {
            assert_eq!(decode(&page()[..length]), None, "{length} bytes");
        }
        assert_eq!(decode(&[0; PAGE_BYTES]), None);
        // Instance store volumes have the same page with another signature.
        let mut local = page();
        local[..4].copy_from_slice(&0xec2c_0d7e_u32.to_le_bytes());
        assert_eq!(decode(&local), None);
    }

    #[test]
    fn a_device_that_is_not_nvme_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(matches!(read(file.path()), Err(NvmeError::Io(_))));
        assert!(matches!(read(Path::new("/dev/null")), Err(NvmeError::Io(_))));
        assert!(matches!(read(Path::new("/nonexistent")), Err(NvmeError::Io(_))));
    }
}
