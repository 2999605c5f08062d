//! Encodes records so that all but the damaged ones can be read back from an incomplete or damaged file.
//!
//! A record is a marker, a length, a checksum and the payload. The marker lets a reader find the next record after
//! damage. The checksum also covers the length, so a marker inside a text is not mistaken for a record.

use jiff::Timestamp;

use super::{RecordClass, SpoolRecord};

const MARK: [u8; 4] = [0xF5, b'n', b'm', 0xFF];
/// Marker, length, checksum.
const HEAD: usize = 12;
/// Number and timestamp.
const FIXED: usize = 16;
/// A report is at most 4 KiB; a larger length was never written.
const MAX_TEXT: usize = 16 * 1024;

/// The result of reading a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SegmentScan {
    /// Damaged sections that are followed by another record.
    pub damaged: u64,
    /// The end of the last whole record; the bytes after it are an incomplete write.
    pub end: usize,
}

/// Appends a record. A text longer than any report is cut, because it could not be read back.
pub fn write(number: u64, at: Timestamp, text: &str, into: &mut Vec<u8>) {
    let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
    into.extend_from_slice(&MARK);
    let length = u32::try_from(FIXED + text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let number = number.to_le_bytes();
    let at = at.as_millisecond().to_le_bytes();
    into.extend_from_slice(&length);
    into.extend_from_slice(&checksum(&[&length, &number, &at, text]).to_le_bytes());
    into.extend_from_slice(&number);
    into.extend_from_slice(&at);
    into.extend_from_slice(text);
}

/// Reads all whole records.
pub fn scan(class: RecordClass, bytes: &[u8], mut visit: impl FnMut(SpoolRecord)) -> SegmentScan {
    let mut scan = SegmentScan::default();
    let mut offset = 0;
    while offset < bytes.len() {
        if let Some((record, end)) = read(class, bytes, offset) {
            if offset > scan.end {
                scan.damaged += 1;
            }
            visit(record);
            (offset, scan.end) = (end, end);
        } else {
            offset = next_mark(bytes, offset + 1);
        }
    }
    scan
}

fn read(class: RecordClass, bytes: &[u8], offset: usize) -> Option<(SpoolRecord, usize)> {
    let head = bytes.get(offset..offset + HEAD)?;
    let (mark, rest) = head.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, _) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if *mark != MARK || !(FIXED..=FIXED + MAX_TEXT).contains(&size) {
        return None;
    }
    let end = offset + HEAD + size;
    let body = bytes.get(offset + HEAD..end)?;
    if checksum(&[length, body]) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (number, rest) = body.split_first_chunk::<8>()?;
    let (at, text) = rest.split_first_chunk::<8>()?;
    let record = SpoolRecord {
        number: u64::from_le_bytes(*number),
        class,
        at: Timestamp::from_millisecond(i64::from_le_bytes(*at)).ok()?,
        text: String::from_utf8(text.to_vec()).ok()?,
    };
    Some((record, end))
}

fn next_mark(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MARK.len()).position(|window| window == MARK).map_or(bytes.len(), |found| from + found)
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
