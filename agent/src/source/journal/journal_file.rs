//! Reads one journal file: the messages of the wanted units in order.
//!
//! A journal file stores each field once, and entries reference it. So once a unit's field was read, its offset alone
//! shows whether an entry belongs to the unit. The file is read, not mapped: a truncated mapped file would kill the
//! agent. journald counts an entry in the header only after it is complete, so only counted entries are read.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use super::{
    format::{self, Compression, EntryHeader, FormatError, JournalHeader},
    payload,
};
use crate::source::LINE_LIMIT;

/// The size of one read: entries are close together, and new fields directly precede their entry.
const WINDOW: usize = 64 * 1024;
/// The part of a read before the requested offset.
const BEHIND: usize = 16 * 1024;
/// The maximum number of fields whose meaning is cached; the entries of a node share some thousand.
const KNOWN: usize = 16 * 1024;
/// The part of a field that shows its meaning: a unit name has at most 255 bytes.
const GLANCE: usize = 72 + 16 + 256;

/// The maximum size of a compressed field that is read: larger than any message.
const PACKED_LIMIT: usize = 1024 * 1024;

const MESSAGE: &[u8] = b"MESSAGE=";

/// Why a journal file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalFileError {
    #[error("failed to read a journal file")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// The result of reading an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryResult {
    /// A message of a wanted unit.
    Message {
        /// The unit's index in the list.
        unit: usize,
        /// The time, in microseconds since 1970.
        micros: u64,
        text: String,
        /// Whether the message was longer.
        truncated: bool,
    },
    /// An entry of another unit.
    Other,
    /// This many entries are unreadable.
    Unreadable(u64),
    /// There are no more entries yet.
    End,
}

/// The meaning of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldMeaning {
    /// The unit of the writing process, as journald recorded it.
    Unit(usize),
    /// The unit that the message is about, as its writer claims. Trusted only from systemd itself.
    AboutUnit(usize),
    /// Written by process 1.
    Manager,
    Message,
    /// Compressed, so its meaning is not known without decompression.
    Compressed,
    Other,
}

/// An open journal file.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    header: JournalHeader,
    /// The current entry array and the position in it.
    array: Option<EntryArray>,
    /// The number of entries read, over all arrays.
    taken: u64,
    known: HashMap<u64, FieldMeaning>,
    window: Vec<u8>,
    window_at: u64,
    number: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct EntryArray {
    at: u64,
    capacity: u64,
    index: u64,
    next: u64,
}

impl JournalFile {
    /// The minimum size of a file with a complete header.
    pub(super) const MIN_BYTES: u64 = format::HEADER as u64;

    pub(super) fn open(path: &Path) -> Result<Self, JournalFileError> {
        let file = File::open(path)?;
        let header = read_header(&file)?;
        Ok(Self {
            file,
            header,
            array: None,
            taken: 0,
            known: HashMap::new(),
            window: Vec::new(),
            window_at: 0,
            number: None,
        })
    }

    pub(super) fn header(&self) -> &JournalHeader {
        &self.header
    }

    /// Device and inode.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Reads the current number of entries.
    pub(super) fn refresh(&mut self) -> Result<(), JournalFileError> {
        let header = read_header(&self.file)?;
        if header.entries != self.header.entries {
            // The buffer may contain bytes from before they were written.
            self.window.clear();
            if let Some(array) = &mut self.array {
                let mut bytes = [0; format::ARRAY];
                self.file.read_exact_at(&mut bytes, array.at)?;
                array.next = format::array(&bytes)?.1;
            }
        }
        self.header = header;
        Ok(())
    }

    /// Whether all counted entries were read.
    pub(super) fn is_drained(&self) -> bool {
        self.taken >= self.header.entries
    }

    /// The number of the last entry that was read or skipped.
    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    /// Treats the remaining entries as unreadable. Returns their number.
    pub(super) fn abandon(&mut self) -> u64 {
        let rest = self.header.entries.saturating_sub(self.taken);
        self.taken = self.header.entries;
        rest
    }

    /// Skips the entries before the first that `wanted` accepts. `wanted` must also accept all later ones.
    pub(super) fn skip(&mut self, wanted: impl Fn(&EntryHeader) -> bool) -> Result<(), JournalFileError> {
        while self.taken < self.header.entries {
            let Some(array) = self.advance()? else { return Ok(()) };
            let count = (array.capacity - array.index).min(self.header.entries - self.taken);
            // An unreadable entry counts as wanted, because no message may be skipped unseen.
            let unwanted = |index: u64| {
                let entry = self.entry_at(&array, array.index + index).ok();
                entry.filter(|entry| !wanted(entry))
            };
            let (mut from, mut to) = (0, count);
            let mut number = None;
            // The last entry first: most arrays are skipped as a whole.
            let mut index = count - 1;
            while from < to {
                if let Some(entry) = unwanted(index) {
                    from = index + 1;
                    number = Some(entry.number);
                } else {
                    to = index;
                }
                index = from + (to - from) / 2;
            }
            self.number = number.or(self.number);
            self.taken += from;
            self.array = Some(EntryArray { index: array.index + from, ..array });
            if from < count {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next entry.
    pub(super) fn next_entry(&mut self, units: &[Box<str>]) -> EntryResult {
        if self.taken >= self.header.entries {
            return EntryResult::End;
        }
        let array = match self.advance() {
            Ok(Some(array)) => array,
            // The chain is broken, so the remaining entries are unreachable.
            Ok(None) | Err(_) => {
                return EntryResult::Unreadable(self.abandon());
            }
        };
        self.taken += 1;
        self.array = Some(EntryArray { index: array.index + 1, ..array });
        self.entry(&array, units).unwrap_or(EntryResult::Unreadable(1))
    }

    fn entry(&mut self, array: &EntryArray, units: &[Box<str>]) -> Result<EntryResult, JournalFileError> {
        let at = self.offset_at(array, array.index)?;
        let entry = format::entry(self.near(at, format::ENTRY)?)?;
        self.number = Some(entry.number);
        let compact = self.header.compact;
        let bytes = self.near(at, entry.size)?;
        let offsets: Vec<u64> = format::items(&bytes[format::ENTRY..], compact).collect();

        let (mut of, mut about, mut manager, mut message) = (None, None, false, None);
        let mut damaged = 0_u32;
        let mut packed = Vec::new();
        for offset in offsets {
            match self.field(offset, units) {
                Ok(FieldMeaning::Unit(unit)) => of = Some(unit),
                Ok(FieldMeaning::AboutUnit(unit)) => about = Some(unit),
                Ok(FieldMeaning::Manager) => manager = true,
                Ok(FieldMeaning::Message) => message = Some(offset),
                Ok(FieldMeaning::Compressed) => packed.push(offset),
                Ok(FieldMeaning::Other) => {}
                Err(_) => damaged += 1,
            }
        }
        if let Some(unit) = of.or(about.filter(|_| manager)) {
            for offset in message.into_iter().chain(packed) {
                match self.unpack(offset, MESSAGE.len() + LINE_LIMIT) {
                    Ok((bytes, truncated)) => {
                        if let Some(text) = bytes.strip_prefix(MESSAGE) {
                            let text = String::from_utf8_lossy(text).into_owned();
                            return Ok(EntryResult::Message { unit, micros: entry.micros, text, truncated });
                        }
                    }
                    Err(_) => damaged += 1,
                }
            }
        }
        // The unreadable field may have been the unit or the message.
        Ok(if damaged > 0 { EntryResult::Unreadable(1) } else { EntryResult::Other })
    }

    /// The meaning of a field.
    fn field(&mut self, offset: u64, units: &[Box<str>]) -> Result<FieldMeaning, JournalFileError> {
        if let Some(field) = self.known.get(&offset) {
            return Ok(*field);
        }
        let compact = self.header.compact;
        let mut glance = [0; GLANCE];
        let glance = self.glance(offset, &mut glance)?;
        let (start, length, compression) = format::data(glance, compact)?;
        let field = if compression == Compression::None {
            // The following bytes belong to another object.
            let payload = &glance[start.min(glance.len())..];
            classify(&payload[..payload.len().min(length)], length, units)
        } else {
            FieldMeaning::Compressed
        };
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(offset, field);
        Ok(field)
    }

    fn unpack(&self, offset: u64, limit: usize) -> Result<(Vec<u8>, bool), JournalFileError> {
        let mut glance = [0; format::ENTRY];
        self.file.read_exact_at(&mut glance, offset)?;
        let (start, length, compression) = format::data(&glance, self.header.compact)?;
        let most = if compression == Compression::None { limit + 1 } else { PACKED_LIMIT };
        let length = length.min(most);
        let mut stored = Vec::new();
        // Limited by the file's size, not by the claimed length.
        let from = offset.saturating_add(to_offset(start));
        if self.file.metadata()?.len() < from.saturating_add(to_offset(length)) {
            return Err(FormatError::Short("a field").into());
        }
        stored.resize(length, 0);
        self.file.read_exact_at(&mut stored, from)?;
        Ok(payload::unpack(&stored, compression, limit)?)
    }

    /// The array that contains the next entry; `None` if the chain ends before the entries do.
    fn advance(&mut self) -> Result<Option<EntryArray>, JournalFileError> {
        loop {
            let next = match self.array {
                Some(array) if array.index < array.capacity => return Ok(Some(array)),
                Some(array) => array.next,
                None => self.header.array,
            };
            // Arrays are appended: a link that points back would cause an endless loop.
            if next == 0 || self.array.is_some_and(|array| next <= array.at) {
                return Ok(None);
            }
            let mut bytes = [0; format::ARRAY];
            self.file.read_exact_at(&mut bytes, next)?;
            let (size, after) = format::array(&bytes)?;
            let width = if self.header.compact { 4 } else { 8 };
            // Limited by the file's size, not by the claimed size, because each item costs a read.
            let there = self.file.metadata()?.len().saturating_sub(next);
            let capacity = size.min(there).saturating_sub(to_offset(format::ARRAY)) / width;
            self.array = Some(EntryArray { at: next, capacity, index: 0, next: after });
        }
    }

    fn entry_at(&self, array: &EntryArray, index: u64) -> Result<EntryHeader, JournalFileError> {
        let mut bytes = [0; format::ENTRY];
        self.file.read_exact_at(&mut bytes, self.offset_at(array, index)?)?;
        Ok(format::entry(&bytes)?)
    }

    fn offset_at(&self, array: &EntryArray, index: u64) -> Result<u64, JournalFileError> {
        let mut bytes = [0; 8];
        let width = if self.header.compact { 4 } else { 8 };
        let bytes = &mut bytes[..width];
        let at = array.at + to_offset(format::ARRAY) + index * to_offset(width);
        self.file.read_exact_at(bytes, at)?;
        let offset = if width == 4 { format::word(bytes, 0) } else { format::long(bytes, 0) };
        offset.filter(|offset| *offset != 0).ok_or(JournalFileError::Format(FormatError::Object("entry")))
    }

    /// Bytes close to those of the last read, through the buffer.
    fn near(&mut self, offset: u64, length: usize) -> Result<&[u8], JournalFileError> {
        if self.within(offset, length).is_none() {
            self.window_at = offset.saturating_sub(to_offset(BEHIND));
            let lead = usize::try_from(offset - self.window_at).unwrap_or(0);
            self.window.resize(WINDOW.max(lead.saturating_add(length)), 0);
            let read = read_up_to(&self.file, &mut self.window, self.window_at)?;
            self.window.truncate(read);
        }
        let range = self.within(offset, length).ok_or(FormatError::Short("an entry"))?;
        Ok(&self.window[range])
    }

    fn within(&self, offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset.checked_sub(self.window_at)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.window.len()).then_some(start..end)
    }

    /// The first bytes of a field, as far as the file has them.
    fn glance<'a>(&'a self, offset: u64, room: &'a mut [u8; GLANCE]) -> Result<&'a [u8], JournalFileError> {
        if let Some(range) = self.within(offset, GLANCE) {
            return Ok(&self.window[range]);
        }
        let length = read_up_to(&self.file, room, offset)?;
        Ok(&room[..length])
    }
}

fn classify(payload: &[u8], length: usize, units: &[Box<str>]) -> FieldMeaning {
    let index = |name: &[u8]| {
        // Compared only if the name was read completely.
        let whole = payload.len() == length;
        units.iter().position(|unit| whole && unit.as_bytes() == name)
    };
    if payload.starts_with(MESSAGE) {
        FieldMeaning::Message
    } else if payload == b"_PID=1" {
        FieldMeaning::Manager
    } else if let Some(name) = payload.strip_prefix(b"_SYSTEMD_UNIT=") {
        index(name).map_or(FieldMeaning::Other, FieldMeaning::Unit)
    } else if let Some(name) = payload.strip_prefix(b"UNIT=") {
        index(name).map_or(FieldMeaning::Other, FieldMeaning::AboutUnit)
    } else {
        FieldMeaning::Other
    }
}

fn read_header(file: &File) -> Result<JournalHeader, JournalFileError> {
    let mut bytes = [0; format::HEADER];
    let length = read_up_to(file, &mut bytes, 0)?;
    Ok(format::header(&bytes[..length])?)
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + to_offset(length)) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn to_offset(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
