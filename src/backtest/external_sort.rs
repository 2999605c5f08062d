//! Sorts inputs of many files by time in bounded memory: an external merge sort.
//!
//! What exceeds the buffer is sorted and appended to an unnamed temporary file; the sorted runs are merged when the
//! history is read, which may be several times.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use jiff::Timestamp;

/// The size of the buffer of each reading thread.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How much of each sorted run is read at once.
const READ_BYTES: usize = 16 * 1024;

/// The sort key: the time of arrival, then the position in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HistoryKey {
    pub(super) at: Timestamp,
    pub(super) file: u32,
    pub(super) ordinal: u64,
}

const KEY_BYTES: usize = 8 + 4 + 4 + 8;

/// Collects entries in any order. One for each reading thread.
#[derive(Debug, Default)]
pub(super) struct SortBuffer {
    bytes: Vec<u8>,
    /// Key, offset and length of each entry in `bytes`.
    index: Vec<(HistoryKey, usize, usize)>,
    file: Option<File>,
    written: u64,
    /// Start and end of each sorted run in the file.
    runs: Vec<(u64, u64)>,
    count: u64,
}

/// One encoded input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HistoryEntry {
    pub(super) key: HistoryKey,
    pub(super) bytes: Vec<u8>,
}

impl SortBuffer {
    /// The number of entries.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, key: HistoryKey, bytes: &[u8]) -> io::Result<()> {
        self.count += 1;
        self.index.push((key, self.bytes.len(), bytes.len()));
        self.bytes.extend_from_slice(bytes);
        let used = self.bytes.len() + self.index.len() * size_of::<(HistoryKey, usize, usize)>();
        if used < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    /// Appends the buffer to the file as a sorted run.
    fn write(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        self.index.sort_unstable_by_key(|(key, ..)| *key);
        let Some(file) = &self.file else { return Ok(()) };
        let start_of_run = self.written;
        let mut out = io::BufWriter::with_capacity(64 * 1024, file);
        for (key, start, length) in &self.index {
            let mut head = [0; KEY_BYTES + 4];
            head[..KEY_BYTES].copy_from_slice(&key.bytes());
            let length_bytes = u32::try_from(*length).map_err(io::Error::other)?.to_le_bytes();
            head[KEY_BYTES..].copy_from_slice(&length_bytes);
            out.write_all(&head)?;
            out.write_all(&self.bytes[*start..*start + *length])?;
            self.written += (head.len() + length) as u64;
        }
        out.flush()?;
        drop(out);
        self.runs.push((start_of_run, self.written));
        self.index.clear();
        self.bytes.clear();
        Ok(())
    }
}

impl HistoryKey {
    fn bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&self.at.as_second().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.at.subsec_nanosecond().to_le_bytes());
        bytes[12..16].copy_from_slice(&self.file.to_le_bytes());
        bytes[16..].copy_from_slice(&self.ordinal.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let eight = |at: usize| bytes[at..at + 8].try_into().ok();
        let four = |at: usize| bytes[at..at + 4].try_into().ok();
        let at = Timestamp::new(i64::from_le_bytes(eight(0)?), i32::from_le_bytes(four(8)?)).ok()?;
        Some(Self { at, file: u32::from_le_bytes(four(12)?), ordinal: u64::from_le_bytes(eight(16)?) })
    }
}

/// All entries, readable any number of times.
#[derive(Debug)]
pub(super) struct SortedHistory {
    buffers: Vec<Arc<SortBuffer>>,
}

impl SortedHistory {
    pub(super) fn new(buffers: Vec<SortBuffer>) -> Self {
        let sorted = |mut buffer: SortBuffer| {
            buffer.index.sort_unstable_by_key(|(key, ..)| *key);
            Arc::new(buffer)
        };
        Self { buffers: buffers.into_iter().map(sorted).collect() }
    }

    /// Adds the entries of another buffer.
    #[cfg(feature = "aws")]
    pub(super) fn add(&mut self, buffer: SortBuffer) {
        self.buffers.append(&mut Self::new(vec![buffer]).buffers);
    }

    /// The number of entries.
    pub(super) fn count(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.count()).sum()
    }

    /// The entries by time.
    pub(super) fn by_time(&self) -> io::Result<MergeIterator> {
        let mut merge = MergeIterator { heads: BinaryHeap::new() };
        for buffer in &self.buffers {
            merge.push(SortedRun { buffer: buffer.clone(), position: RunPosition::Memory { next: 0 } })?;
            for (start, end) in &buffer.runs {
                let part = FilePart { bytes: Vec::new(), used: 0, at: *start, end: *end };
                merge.push(SortedRun { buffer: buffer.clone(), position: RunPosition::File(part) })?;
            }
        }
        Ok(merge)
    }
}

/// A sorted run, and how far it was read.
struct SortedRun {
    buffer: Arc<SortBuffer>,
    position: RunPosition,
}

enum RunPosition {
    Memory { next: usize },
    File(FilePart),
}

/// The part of a run that was read from the file and not used yet.
struct FilePart {
    bytes: Vec<u8>,
    used: usize,
    at: u64,
    end: u64,
}

impl SortedRun {
    fn next(&mut self) -> io::Result<Option<HistoryEntry>> {
        match &mut self.position {
            RunPosition::Memory { next } => {
                let Some((key, start, length)) = self.buffer.index.get(*next) else { return Ok(None) };
                *next += 1;
                Ok(Some(HistoryEntry {
                    key: *key,
                    bytes: self.buffer.bytes[*start..*start + *length].to_vec(),
                }))
            }
            RunPosition::File(part) => {
                let Some(file) = &self.buffer.file else { return Ok(None) };
                if part.used == part.bytes.len() && part.at == part.end {
                    return Ok(None);
                }
                let broken = || io::Error::other("the temporary file was changed");
                let head: [u8; KEY_BYTES] = part.take(file, KEY_BYTES)?.try_into().map_err(|_| broken())?;
                let length: [u8; 4] = part.take(file, 4)?.try_into().map_err(|_| broken())?;
                let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
                let bytes = part.take(file, length)?.to_vec();
                Ok(Some(HistoryEntry { key: HistoryKey::read(&head).ok_or_else(broken)?, bytes }))
            }
        }
    }
}

impl FilePart {
    fn take(&mut self, file: &File, length: usize) -> io::Result<&[u8]> {
        if self.bytes.len() - self.used < length {
            self.bytes.drain(..self.used);
            self.used = 0;
            let known = self.bytes.len();
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let wanted = READ_BYTES.max(length - known).min(left);
            self.bytes.resize(known + wanted, 0);
            file.read_exact_at(&mut self.bytes[known..], self.at)?;
            self.at += wanted as u64;
        }
        let taken = self.used..self.used + length;
        self.used = taken.end;
        self.bytes.get(taken).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Merges sorted runs.
pub(super) struct MergeIterator {
    heads: BinaryHeap<Reverse<RunHead>>,
}

/// The next entry of a run, and the rest of the run.
struct RunHead {
    entry: HistoryEntry,
    rest: SortedRun,
}

impl PartialEq for RunHead {
    fn eq(&self, other: &Self) -> bool {
        self.entry.key == other.entry.key
    }
}

impl Eq for RunHead {}

impl PartialOrd for RunHead {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RunHead {
    fn cmp(&self, other: &Self) -> Ordering {
        self.entry.key.cmp(&other.entry.key)
    }
}

impl MergeIterator {
    fn push(&mut self, mut rest: SortedRun) -> io::Result<()> {
        if let Some(entry) = rest.next()? {
            self.heads.push(Reverse(RunHead { entry, rest }));
        }
        Ok(())
    }
}

impl Iterator for MergeIterator {
    type Item = io::Result<HistoryEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse(RunHead { entry, rest }) = self.heads.pop()?;
        Some(self.push(rest).map(|()| entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_by_time_even_if_they_do_not_fit_in_memory() {
        let key = |n: u64| HistoryKey {
            at: Timestamp::new(1_790_000_000 + (n as i64 * 7_919) % 10_007, 5).expect("a time"),
            file: (n % 3) as u32,
            ordinal: n,
        };
        let length = |n: u64| if n.is_multiple_of(1_000) { 100_000 } else { (n % 4_000) as usize };
        let mut buffers = vec![SortBuffer::default(), SortBuffer::default(), SortBuffer::default()];
        let mut expected: Vec<(HistoryKey, usize)> = Vec::new();
        for n in 0..10_000 {
            buffers[(n % 2) as usize].push(key(n), &vec![n as u8; length(n)]).expect("pushed");
            expected.push((key(n), length(n)));
        }
        assert!(buffers[0].runs.len() >= 2, "nothing was written to the file");
        expected.sort();
        let history = SortedHistory::new(buffers);
        assert_eq!(history.count(), 10_000);
        for _ in 0..2 {
            let read: Vec<(HistoryKey, usize)> = history
                .by_time()
                .expect("read")
                .map(|entry| entry.map(|entry| (entry.key, entry.bytes.len())).expect("an entry"))
                .collect();
            assert!(read == expected);
        }
    }
}
