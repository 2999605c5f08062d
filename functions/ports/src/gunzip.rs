//! Decompresses gzip, up to a limit.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;

/// The first size of the buffer, enough for a payload of about a hundred reports.
const FIRST_SIZE: usize = 64 * 1024;

/// Why data could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum GunzipError {
    /// Not a whole gzip stream.
    #[error("failed to decompress gzip")]
    Gzip(#[source] io::Error),
    /// More data than the caller accepts.
    #[error("the data decompresses to more than the cap of {cap} bytes")]
    OverCap {
        /// The cap in force.
        cap: usize,
    },
}

/// Decompresses all members of `gzip` into the beginning of `plain`. Returns the number of bytes.
///
/// Only this function may decompress, because it applies the cap: 1 MB of gzip can contain 1 GB of zeros. The buffer
/// grows explicitly, because `read_to_end` would double it past the cap. It never shrinks, so that only growth writes
/// zeros.
pub fn gunzip(gzip: &[u8], plain: &mut Vec<u8>, cap: usize) -> Result<usize, GunzipError> {
    let limit = cap.saturating_add(1);
    let mut reader = MultiGzDecoder::new(gzip).take(limit as u64);
    let mut filled = 0;
    loop {
        if filled == plain.len() {
            let length = plain.len().saturating_mul(2).max(FIRST_SIZE).min(limit);
            if filled == length {
                return Err(GunzipError::OverCap { cap });
            }
            plain.reserve_exact(length - plain.len());
            plain.resize(length, 0);
        }
        match reader.read(&mut plain[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(GunzipError::Gzip(error)),
        }
    }
    if filled > cap { Err(GunzipError::OverCap { cap }) } else { Ok(filled) }
}
