//! Turns bytes of a journal file into its header and objects.
//!
//! The format is systemd's, <https://systemd.io/JOURNAL_FILE_FORMAT/>: little-endian, only ever appended to,
//! and each object says its size. What is read here is as little as following needs: the header, the chain of
//! entry arrays, entries, and the data that entries point to. Indexes and seals are left alone.

/// How much of the header is read: as much as every version has.
pub(super) const HEADER: usize = 208;
/// An entry up to its items.
pub(super) const ENTRY: usize = 64;
/// An entry array up to its items.
pub(super) const ARRAY: usize = 24;

const KIND_DATA: u8 = 1;
const KIND_ENTRY: u8 = 3;
const KIND_ARRAY: u8 = 6;

const FILE_XZ: u32 = 1;
const FILE_LZ4: u32 = 2;
const FILE_KEYED_HASH: u32 = 4;
const FILE_ZSTD: u32 = 8;
const FILE_COMPACT: u32 = 16;

/// An entry array doubles with each link, and a field can hold what crashed; neither is read whole.
const OBJECT_LIMIT: u64 = 1024 * 1024 * 1024;
/// No entry has more than 1,024 fields, at 16 bytes each.
const ENTRY_LIMIT: usize = 64 * 1024;

/// Why bytes are no journal, or none that we can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not a journal.
    #[error("failed to read a journal file: it does not start as one")]
    Signature,
    /// A flag says that it cannot be read without knowing what the flag means.
    #[error("failed to read a journal file: its format is newer than this program (flags {0:#x})")]
    Flags(u32),
    /// It ends within something.
    #[error("failed to read a journal file: it ends within {0}")]
    Short(&'static str),
    /// Something else is where an object should be.
    #[error("failed to read a journal file: no {0} where one should be")]
    Object(&'static str),
    /// Compressed in a way that is not supported.
    #[error("failed to read a journal file: a field is compressed with {0}")]
    Compression(&'static str),
}

/// A 128-bit id.
pub(super) type Id = [u8; 16];

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Offsets take 4 bytes instead of 8.
    pub(super) compact: bool,
    /// Whose sequence numbers they are: those of one journald, over all its files.
    pub(super) sequence: Id,
    /// How many entries there are.
    pub(super) entries: u64,
    /// The first entry's number.
    pub(super) head: u64,
    /// When the first entry was written, in microseconds.
    pub(super) head_micros: u64,
    /// Where the first entry array is; 0 for none.
    pub(super) array: u64,
}

/// Reads the header.
pub(super) fn header(bytes: &[u8]) -> Result<Header, FormatError> {
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
    Ok(Header {
        compact: flags & FILE_COMPACT != 0,
        sequence: id(bytes, 72).ok_or(FormatError::Short("its header"))?,
        entries: field(152)?,
        head: field(168)?,
        array: field(176)?,
        head_micros: field(184)?,
    })
}

/// How a field is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// With xz: systemd before 246, where it was built so.
    Xz,
    /// With LZ4.
    Lz4,
    /// With Zstandard: the default since systemd 246.
    Zstd,
}

/// The size of an entry array, its first part included.
pub(super) fn array(bytes: &[u8]) -> Result<(u64, u64), FormatError> {
    let size = object(bytes, KIND_ARRAY, ARRAY, "entry array")?;
    Ok((size, long(bytes, 16).ok_or(FormatError::Short("an entry array"))?))
}

/// How long an entry is, and its number, boot and time.
pub(super) fn entry(bytes: &[u8]) -> Result<Entry, FormatError> {
    let size = object(bytes, KIND_ENTRY, ENTRY, "entry")?;
    let short = FormatError::Short("an entry");
    let size = usize::try_from(size).ok().filter(|size| *size <= ENTRY_LIMIT);
    Ok(Entry {
        size: size.ok_or(FormatError::Object("entry"))?,
        number: long(bytes, 16).ok_or(short)?,
        micros: long(bytes, 24).ok_or(short)?,
    })
}

/// An entry, without its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// How long it is with them.
    pub(super) size: usize,
    /// Its number.
    pub(super) number: u64,
    /// When it was written, in microseconds since 1970.
    pub(super) micros: u64,
}

/// Where the fields of an entry are, from what follows its first part.
pub(super) fn items(bytes: &[u8], compact: bool) -> impl Iterator<Item = u64> {
    // In full files each item carries a hash after its offset.
    let step = if compact { 4 } else { 16 };
    bytes.chunks_exact(step).filter_map(move |item| if compact { word(item, 0) } else { long(item, 0) })
}

/// Where a field's payload starts within its object, how long it is, and how it is compressed.
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

/// The size of an object, which must be of this kind and at least so long.
fn object(bytes: &[u8], kind: u8, least: usize, name: &'static str) -> Result<u64, FormatError> {
    let size = long(bytes, 8).ok_or(FormatError::Short("an object"))?;
    let long_enough = u64::try_from(least).is_ok_and(|least| size >= least);
    if bytes.first() != Some(&kind) || !long_enough || size > OBJECT_LIMIT {
        return Err(FormatError::Object(name));
    }
    Ok(size)
}

fn id(bytes: &[u8], offset: usize) -> Option<Id> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// Eight bytes.
pub(super) fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Four bytes.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)))
}
