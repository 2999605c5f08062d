//! Turns records into frames that a torn or damaged file gives back, all but the damaged ones.
//!
//! A frame is a mark, a length, a checksum and the record. The mark lets a reader that met damage find the next
//! frame; the checksum covers the length, too, so that a mark within a text is not taken for one.

use jiff::Timestamp;

use super::{Class, Record};

const MARK: [u8; 4] = [0xF5, b'n', b'm', 0xFF];
/// Mark, length, checksum.
const HEAD: usize = 12;
/// Number and time.
const FIXED: usize = 16;
/// A report takes 4 KiB at most: no length beyond this was ever written.
const MAX_TEXT: usize = 16 * 1024;

/// What was found in a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Stretches of damage that other frames follow.
    pub damaged: u64,
    /// Where the last whole frame ends: what follows was cut off while it was written.
    pub end: usize,
}

/// Appends a frame. A text longer than any report is cut: it can't be read back otherwise.
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

/// Reads all frames that are whole.
pub fn scan(class: Class, bytes: &[u8], mut visit: impl FnMut(Record)) -> Scan {
    let mut scan = Scan::default();
    let mut place = 0;
    while place < bytes.len() {
        if let Some((record, end)) = read(class, bytes, place) {
            if place > scan.end {
                scan.damaged += 1;
            }
            visit(record);
            (place, scan.end) = (end, end);
        } else {
            place = next_mark(bytes, place + 1);
        }
    }
    scan
}

fn read(class: Class, bytes: &[u8], place: usize) -> Option<(Record, usize)> {
    let head = bytes.get(place..place + HEAD)?;
    let (mark, rest) = head.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, _) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if *mark != MARK || !(FIXED..=FIXED + MAX_TEXT).contains(&size) {
        return None;
    }
    let end = place + HEAD + size;
    let body = bytes.get(place + HEAD..end)?;
    if checksum(&[length, body]) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (number, rest) = body.split_first_chunk::<8>()?;
    let (at, text) = rest.split_first_chunk::<8>()?;
    let record = Record {
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
