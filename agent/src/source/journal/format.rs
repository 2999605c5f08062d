//! Parses the structures of a journal file.
//!
//! The format is systemd's, <https://systemd.io/JOURNAL_FILE_FORMAT/>: little-endian and append-only, and each object
//! has its size. Only what following needs is parsed: the header, the chain of entry arrays, entries, and the data
//! objects that entries reference. Hash tables and seals are not.

/// The part of the header that every version has, in bytes.
pub(super) const HEADER: usize = 208;
/// The size of an entry without its items.
pub(super) const ENTRY: usize = 64;
/// The size of an entry array without its items.
pub(super) const ARRAY: usize = 24;

const KIND_DATA: u8 = 1;
const KIND_ENTRY: u8 = 3;
const KIND_ARRAY: u8 = 6;

const FILE_XZ: u32 = 1;
const FILE_LZ4: u32 = 2;
const FILE_KEYED_HASH: u32 = 4;
const FILE_ZSTD: u32 = 8;
const FILE_COMPACT: u32 = 16;

/// The maximum size of an object: an entry array doubles with each link, and a field can contain a core dump. Neither
/// is read whole.
const OBJECT_LIMIT: u64 = 1024 * 1024 * 1024;
/// An entry has at most 1,024 fields of 16 bytes each.
const ENTRY_LIMIT: usize = 64 * 1024;

/// Why bytes are not a readable journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The signature is missing.
    #[error("failed to read a journal file: the signature is missing")]
    Signature,
    /// An incompatible flag is set that this program does not know.
    #[error("failed to read a journal file: its format is newer than this program (flags {0:#x})")]
    Flags(u32),
    /// The file ends within a structure.
    #[error("failed to read a journal file: it ends within {0}")]
    Short(&'static str),
    /// An offset does not point to an object of the expected type.
    #[error("failed to read a journal file: no {0} at the expected offset")]
    Object(&'static str),
    /// The field's compression is not supported.
    #[error("failed to read a journal file: a field is compressed with {0}")]
    Compression(&'static str),
}

pub(super) type SequenceId = [u8; 16];

/// The fields of the header that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalHeader {
    /// Whether offsets take 4 bytes instead of 8.
    pub(super) compact: bool,
    /// The sequence of the entry numbers: one for all files of a journald.
    pub(super) sequence: SequenceId,
    /// The number of entries.
    pub(super) entries: u64,
    /// The number of the first entry.
    pub(super) head: u64,
    /// The time of the first entry, in microseconds since 1970.
    pub(super) head_micros: u64,
    /// The offset of the first entry array; 0 if there is none.
    pub(super) array: u64,
}

pub(super) fn header(bytes: &[u8]) -> Result<JournalHeader, FormatError> {
    if !bytes.starts_with(b"LPKSHHRH") {
        return Err(FormatError::Signature);
    }
    let flags = long(bytes, 8).ok_or(FormatError::Short("its header"))?;
    let flags = u32::try_from(flags >> 32).unwrap_or(u32::MAX);
    let unknown = flags & !(FILE_XZ | FILE_LZ4 | FILE_KEYED_HASH | FILE_ZSTD | FILE_COMPACT);
    if unknown != 0 {
        return Err(FormatError::Flags(unknown));
    }
    let field = |offset| long(bytes, offset).ok_or(FormatError::Short("its header"));
    Ok(JournalHeader {
        compact: flags & FILE_COMPACT != 0,
        sequence: id(bytes, 72).ok_or(FormatError::Short("its header"))?,
        entries: field(152)?,
        head: field(168)?,
        array: field(176)?,
        head_micros: field(184)?,
    })
}

/// The compression of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// xz, which systemd before 246 used if built with it.
    Xz,
    /// LZ4, with the size in front.
    Lz4,
    /// Zstandard, the default since systemd 246.
    Zstd,
}

/// The size of an entry array including its header, and the offset of the next one.
pub(super) fn array(bytes: &[u8]) -> Result<(u64, u64), FormatError> {
    let size = object(bytes, KIND_ARRAY, ARRAY, "entry array")?;
    Ok((size, long(bytes, 16).ok_or(FormatError::Short("an entry array"))?))
}

/// Parses an entry without its items.
pub(super) fn entry(bytes: &[u8]) -> Result<EntryHeader, FormatError> {
    let size = object(bytes, KIND_ENTRY, ENTRY, "entry")?;
    let short = FormatError::Short("an entry");
    let size = usize::try_from(size).ok().filter(|size| *size <= ENTRY_LIMIT);
    Ok(EntryHeader {
        size: size.ok_or(FormatError::Object("entry"))?,
        number: long(bytes, 16).ok_or(short)?,
        micros: long(bytes, 24).ok_or(short)?,
    })
}

/// An entry without its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHeader {
    /// The size including the items.
    pub(super) size: usize,
    pub(super) number: u64,
    /// The time when it was written, in microseconds since 1970.
    pub(super) micros: u64,
}

/// The offsets of an entry's fields, from the bytes after its header.
pub(super) fn items(bytes: &[u8], compact: bool) -> impl Iterator<Item = u64> {
    // In the regular layout a hash follows each offset.
    let result = if compact { 4 } else { 16 };
    bytes.chunks_exact(result).filter_map(move |item| if compact { word(item, 0) } else { long(item, 0) })
}

/// The start of a field's payload within its object, its length, and its compression.
pub(super) fn data(bytes: &[u8], compact: bool) -> Result<(usize, usize, Compression), FormatError> {
    let start = if compact { 72 } else { 64 };
    let size = object(bytes, KIND_DATA, start, "field")?;
    let compression = match bytes.get(1).map_or(0, |flags| flags & 7) {
        0 => Compression::None,
        1 => Compression::Xz,
        2 => Compression::Lz4,
        _ => Compression::Zstd,
    };
    let size = usize::try_from(size).map_err(|_| FormatError::Short("a field"))?;
    Ok((start, size - start, compression))
}

/// The size of an object, which must have this type and minimum size.
fn object(bytes: &[u8], kind: u8, least: usize, name: &'static str) -> Result<u64, FormatError> {
    let size = long(bytes, 8).ok_or(FormatError::Short("an object"))?;
    let long_enough = u64::try_from(least).is_ok_and(|least| size >= least);
    if bytes.first() != Some(&kind) || !long_enough || size > OBJECT_LIMIT {
        return Err(FormatError::Object(name));
    }
    Ok(size)
}

fn id(bytes: &[u8], offset: usize) -> Option<SequenceId> {
    bytes.get(offset..)?.first_chunk().copied()
}

pub(super) fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)))
}
