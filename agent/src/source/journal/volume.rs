//! Turns one journal file into what the wanted units said, in the order in which it was written.
//!
//! A journal file stores each field once and lets entries point to it, so that whether an entry is of a wanted
//! unit shows in its offsets alone, once the unit's field has been met. The file is read, not mapped: a mapping
//! of a file that is cut short would kill the agent. journald counts an entry in the header only when it can be
//! read, so a look takes what the header counts and nothing more.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use super::{
    format::{self, Compression, Entry, FormatError, Header},
    payload,
};
use crate::source::LINE_LIMIT;

/// What is read at once; entries lie close to each other, and new fields right before their entry.
const WINDOW: usize = 64 * 1024;
/// How much of it lies before what was asked for.
const BEHIND: usize = 16 * 1024;
/// How many fields are remembered; some thousand are common to the entries of a node.
const KNOWN: usize = 16 * 1024;
/// As much of a field as shows what it is: the longest unit name is 255 bytes.
const GLANCE: usize = 72 + 16 + 256;

/// How much of a compressed field is read: more than any message takes.
const PACKED_LIMIT: usize = 1024 * 1024;

const MESSAGE: &[u8] = b"MESSAGE=";

/// Why a journal file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    /// The file does not read.
    #[error("failed to read a journal file")]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// What an entry came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A wanted unit said something.
    Said {
        /// Which one: its place in the list.
        unit: usize,
        /// When, in microseconds since 1970.
        micros: u64,
        /// What.
        text: String,
        /// It was longer.
        cut: bool,
    },
    /// Of no wanted unit.
    Other,
    /// So many entries do not read.
    Unreadable(u64),
    /// There is no other entry yet.
    End,
}

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The unit whose process wrote it, as journald saw it.
    Of(usize),
    /// The unit that it is about, as its writer says; believed of systemd itself.
    About(usize),
    /// Written by process 1.
    Manager,
    Message,
    /// Stored so that a glance does not show it.
    Packed,
    Other,
}

/// A journal file, open.
#[derive(Debug)]
pub(super) struct Volume {
    file: File,
    header: Header,
    /// The entry array that is being read, how far, and where the next one is.
    array: Option<Array>,
    /// How many entries have been taken, over all arrays.
    taken: u64,
    known: HashMap<u64, Field>,
    window: Vec<u8>,
    window_at: u64,
    number: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Array {
    at: u64,
    capacity: u64,
    index: u64,
    next: u64,
}

impl Volume {
    /// A shorter file has no whole header.
    pub(super) const LEAST: u64 = format::HEADER as u64;

    pub(super) fn open(path: &Path) -> Result<Self, VolumeError> {
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

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Device and inode.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Looks how many entries there are now.
    pub(super) fn refresh(&mut self) -> Result<(), VolumeError> {
        let header = read_header(&self.file)?;
        if header.entries != self.header.entries {
            // What was read ahead may have been written since.
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

    /// All that was there at the last look has been read.
    pub(super) fn is_drained(&self) -> bool {
        self.taken >= self.header.entries
    }

    /// The number of the last entry that was taken or passed over.
    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    /// Takes what is left as unreadable; how much that is.
    pub(super) fn give_up(&mut self) -> u64 {
        let rest = self.header.entries.saturating_sub(self.taken);
        self.taken = self.header.entries;
        rest
    }

    /// Passes over the entries before the first that `wanted` accepts. It must accept all after that one too.
    pub(super) fn pass(&mut self, wanted: impl Fn(&Entry) -> bool) -> Result<(), VolumeError> {
        while self.taken < self.header.entries {
            let Some(array) = self.advance()? else { return Ok(()) };
            let count = (array.capacity - array.index).min(self.header.entries - self.taken);
            // An entry that does not read counts as wanted: nothing may be passed over unseen.
            let unwanted = |place: u64| {
                let entry = self.entry_at(&array, array.index + place).ok();
                entry.filter(|entry| !wanted(entry))
            };
            let (mut from, mut to) = (0, count);
            let mut number = None;
            // The last one first: most arrays are passed over whole.
            let mut place = count - 1;
            while from < to {
                if let Some(entry) = unwanted(place) {
                    from = place + 1;
                    number = Some(entry.number);
                } else {
                    to = place;
                }
                place = from + (to - from) / 2;
            }
            self.number = number.or(self.number);
            self.taken += from;
            self.array = Some(Array { index: array.index + from, ..array });
            if from < count {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next entry.
    pub(super) fn step(&mut self, units: &[Box<str>]) -> Step {
        if self.taken >= self.header.entries {
            return Step::End;
        }
        let array = match self.advance() {
            Ok(Some(array)) => array,
            // The chain is broken: what it led to is out of reach.
            Ok(None) | Err(_) => {
                return Step::Unreadable(self.give_up());
            }
        };
        self.taken += 1;
        self.array = Some(Array { index: array.index + 1, ..array });
        self.entry(&array, units).unwrap_or(Step::Unreadable(1))
    }

    fn entry(&mut self, array: &Array, units: &[Box<str>]) -> Result<Step, VolumeError> {
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
                Ok(Field::Of(unit)) => of = Some(unit),
                Ok(Field::About(unit)) => about = Some(unit),
                Ok(Field::Manager) => manager = true,
                Ok(Field::Message) => message = Some(offset),
                Ok(Field::Packed) => packed.push(offset),
                Ok(Field::Other) => {}
                Err(_) => damaged += 1,
            }
        }
        if let Some(unit) = of.or(about.filter(|_| manager)) {
            for offset in message.into_iter().chain(packed) {
                match self.unpack(offset, MESSAGE.len() + LINE_LIMIT) {
                    Ok((bytes, cut)) => {
                        if let Some(text) = bytes.strip_prefix(MESSAGE) {
                            let text = String::from_utf8_lossy(text).into_owned();
                            return Ok(Step::Said { unit, micros: entry.micros, text, cut });
                        }
                    }
                    Err(_) => damaged += 1,
                }
            }
        }
        // What cannot be read may have been the unit, or what it said.
        Ok(if damaged > 0 { Step::Unreadable(1) } else { Step::Other })
    }

    /// What a field is.
    fn field(&mut self, offset: u64, units: &[Box<str>]) -> Result<Field, VolumeError> {
        if let Some(field) = self.known.get(&offset) {
            return Ok(*field);
        }
        let compact = self.header.compact;
        let mut glance = [0; GLANCE];
        let glance = self.glance(offset, &mut glance)?;
        let (start, length, compression) = format::data(glance, compact)?;
        let field = if compression == Compression::None {
            // What lies after it belongs to another.
            let payload = &glance[start.min(glance.len())..];
            classify(&payload[..payload.len().min(length)], length, units)
        } else {
            Field::Packed
        };
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(offset, field);
        Ok(field)
    }

    fn unpack(&self, offset: u64, limit: usize) -> Result<(Vec<u8>, bool), VolumeError> {
        let mut glance = [0; format::ENTRY];
        self.file.read_exact_at(&mut glance, offset)?;
        let (start, length, compression) = format::data(&glance, self.header.compact)?;
        let most = if compression == Compression::None { limit + 1 } else { PACKED_LIMIT };
        let length = length.min(most);
        let mut stored = Vec::new();
        // By what is there, not by what is claimed.
        let from = offset.saturating_add(to_offset(start));
        if self.file.metadata()?.len() < from.saturating_add(to_offset(length)) {
            return Err(FormatError::Short("a field").into());
        }
        stored.resize(length, 0);
        self.file.read_exact_at(&mut stored, from)?;
        Ok(payload::unpack(&stored, compression, limit)?)
    }

    /// The array that holds the next entry; none where the chain ends before the entries do.
    fn advance(&mut self) -> Result<Option<Array>, VolumeError> {
        loop {
            let next = match self.array {
                Some(array) if array.index < array.capacity => return Ok(Some(array)),
                Some(array) => array.next,
                None => self.header.array,
            };
            // Arrays are appended: a chain that goes back would go round for ever.
            if next == 0 || self.array.is_some_and(|array| next <= array.at) {
                return Ok(None);
            }
            let mut bytes = [0; format::ARRAY];
            self.file.read_exact_at(&mut bytes, next)?;
            let (size, after) = format::array(&bytes)?;
            let width = if self.header.compact { 4 } else { 8 };
            // By what is there, not by what is claimed: each item costs a read.
            let there = self.file.metadata()?.len().saturating_sub(next);
            let capacity = size.min(there).saturating_sub(to_offset(format::ARRAY)) / width;
            self.array = Some(Array { at: next, capacity, index: 0, next: after });
        }
    }

    fn entry_at(&self, array: &Array, index: u64) -> Result<Entry, VolumeError> {
        let mut bytes = [0; format::ENTRY];
        self.file.read_exact_at(&mut bytes, self.offset_at(array, index)?)?;
        Ok(format::entry(&bytes)?)
    }

    fn offset_at(&self, array: &Array, index: u64) -> Result<u64, VolumeError> {
        let mut bytes = [0; 8];
        let width = if self.header.compact { 4 } else { 8 };
        let bytes = &mut bytes[..width];
        let at = array.at + to_offset(format::ARRAY) + index * to_offset(width);
        self.file.read_exact_at(bytes, at)?;
        let offset = if width == 4 { format::word(bytes, 0) } else { format::long(bytes, 0) };
        offset.filter(|offset| *offset != 0).ok_or(VolumeError::Format(FormatError::Object("entry")))
    }

    /// Bytes near those that were read before.
    fn near(&mut self, offset: u64, length: usize) -> Result<&[u8], VolumeError> {
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

    /// The first bytes of a field, or as many as the file has.
    fn glance<'a>(&'a self, offset: u64, room: &'a mut [u8; GLANCE]) -> Result<&'a [u8], VolumeError> {
        if let Some(range) = self.within(offset, GLANCE) {
            return Ok(&self.window[range]);
        }
        let length = read_up_to(&self.file, room, offset)?;
        Ok(&room[..length])
    }
}

fn classify(payload: &[u8], length: usize, units: &[Box<str>]) -> Field {
    let place = |name: &[u8]| {
        // Only a name that was seen whole.
        let whole = payload.len() == length;
        units.iter().position(|unit| whole && unit.as_bytes() == name)
    };
    if payload.starts_with(MESSAGE) {
        Field::Message
    } else if payload == b"_PID=1" {
        Field::Manager
    } else if let Some(name) = payload.strip_prefix(b"_SYSTEMD_UNIT=") {
        place(name).map_or(Field::Other, Field::Of)
    } else if let Some(name) = payload.strip_prefix(b"UNIT=") {
        place(name).map_or(Field::Other, Field::About)
    } else {
        Field::Other
    }
}

fn read_header(file: &File) -> Result<Header, VolumeError> {
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
