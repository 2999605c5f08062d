//! Decompresses fields, up to a limit.

use std::io::Read as _;

use super::format::{Compression, FormatError, long};

/// LZ4 decompresses a field only as a whole; no service's message is longer.
const LZ4_LIMIT: u64 = 1024 * 1024;

/// The first `limit` bytes of a field, and whether it is longer.
pub(super) fn unpack(
    stored: &[u8],
    compression: Compression,
    limit: usize,
) -> Result<(Vec<u8>, bool), FormatError> {
    let mut bytes = Vec::new();
    match compression {
        Compression::None => bytes.extend_from_slice(&stored[..stored.len().min(limit + 1)]),
        Compression::Xz => return Err(FormatError::Compression("xz")),
        Compression::Lz4 => {
            let damaged = FormatError::Compression("LZ4 and is damaged");
            let size = long(stored, 0).filter(|size| *size <= LZ4_LIMIT).ok_or(damaged)?;
            bytes.resize(usize::try_from(size).map_err(|_| damaged)?, 0);
            let length = lz4_flex::block::decompress_into(&stored[8..], &mut bytes).map_err(|_| damaged)?;
            bytes.truncate(length.min(limit + 1));
        }
        Compression::Zstd => {
            let damaged = FormatError::Compression("Zstandard and is damaged");
            let decoder = ruzstd::decoding::StreamingDecoder::new(stored).map_err(|_| damaged)?;
            let most = u64::try_from(limit + 1).unwrap_or(u64::MAX);
            decoder.take(most).read_to_end(&mut bytes).map_err(|_| damaged)?;
        }
    }
    let longer = bytes.len() > limit;
    bytes.truncate(limit);
    Ok((bytes, longer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lz4(text: &[u8]) -> Vec<u8> {
        let mut stored = u64::try_from(text.len()).expect("a length").to_le_bytes().to_vec();
        stored.extend(lz4_flex::block::compress(text));
        stored
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn each_way_gives_the_same_bytes_up_to_the_limit() {
        let text = b"MESSAGE=word ".repeat(100);
        for (stored, compression) in [
            (text.clone(), Compression::None),
            (lz4(&text), Compression::Lz4),
            (zstd(&text), Compression::Zstd),
        ] {
            assert_eq!(unpack(&stored, compression, 5000), Ok((text.clone(), false)), "{compression:?}");
            assert_eq!(unpack(&stored, compression, 1300), Ok((text.clone(), false)), "{compression:?}");
            assert_eq!(unpack(&stored, compression, 10), Ok((text[..10].to_vec(), true)), "{compression:?}");
        }
        assert!(unpack(&text, Compression::Xz, 10).is_err());
    }

    #[test]
    fn a_size_that_would_take_all_memory_is_refused() {
        let mut stored = lz4(b"MESSAGE=x");
        stored[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(unpack(&stored, Compression::Lz4, 10).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(stored in prop::collection::vec(any::<u8>(), 0..300), limit in 0_usize..100) {
            for compression in [Compression::None, Compression::Xz, Compression::Lz4, Compression::Zstd] {
                if let Ok((bytes, _)) = unpack(&stored, compression, limit) {
                    prop_assert!(bytes.len() <= limit);
                }
            }
        }
    }
}
