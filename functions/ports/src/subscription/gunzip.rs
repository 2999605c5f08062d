//! Turns gzip into at most so many bytes.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::SubscriptionError;

/// The first size of the buffer: what a payload of about a hundred reports needs.
const FIRST: usize = 64 * 1024;

/// Decompresses all members of `gzip` into the beginning of `plain` and tells how many bytes they are.
///
/// This is the one place that may decompress, because only here a cap is in force: 1 MB of gzip can hold 1 GB
/// of zeros. The buffer grows by hand, as `read_to_end` would double past the cap, and it is never shortened,
/// so that only growth pays for the zeros.
pub(super) fn gunzip(gzip: &[u8], plain: &mut Vec<u8>, cap: usize) -> Result<usize, SubscriptionError> {
    let limit = cap.saturating_add(1);
    let mut reader = MultiGzDecoder::new(gzip).take(limit as u64);
    let mut filled = 0;
    loop {
        if filled == plain.len() {
            let length = plain.len().saturating_mul(2).max(FIRST).min(limit);
            if filled == length {
                return Err(SubscriptionError::OverCap { cap });
            }
            plain.reserve_exact(length - plain.len());
            plain.resize(length, 0);
        }
        match reader.read(&mut plain[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(SubscriptionError::Gzip(error)),
        }
    }
    if filled > cap { Err(SubscriptionError::OverCap { cap }) } else { Ok(filled) }
}
