//! Turns what was kept of many files, in any order, into one history by time, in bounded memory: what does not fit is sorted
//! and put into a file without a name, and the sorted stretches are merged as they are read.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use jiff::Timestamp;

/// So much is sorted in memory, by each thread that reads.
const MAX_IN_MEMORY: usize = 4 * 1024 * 1024;
/// So much of each sorted stretch is read at once.
const MAX_AHEAD: usize = 16 * 1024;

/// Where something comes in the history: by its arrival, then as it stands in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) at: Timestamp,
    pub(super) file: u32,
    pub(super) ordinal: u64,
}

const KEY_BYTES: usize = 8 + 4 + 4 + 8;

/// Takes things in, in any order.
#[derive(Debug, Default)]
pub(super) struct Spill {
    bytes: Vec<u8>,
    places: Vec<(Key, usize, usize)>,
    file: Option<File>,
    written: u64,
    stretches: Vec<(u64, u64)>,
    count: u64,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) bytes: Vec<u8>,
}

impl Spill {
    /// How many things were taken in.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, key: Key, bytes: &[u8]) -> io::Result<()> {
        self.count += 1;
        self.places.push((key, self.bytes.len(), bytes.len()));
        self.bytes.extend_from_slice(bytes);
        let taken = self.bytes.len() + self.places.len() * size_of::<(Key, usize, usize)>();
        if taken < MAX_IN_MEMORY { Ok(()) } else { self.write() }
    }

    /// Puts what is in memory into the file.
    fn write(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        self.places.sort_unstable_by_key(|(key, ..)| *key);
        let Some(file) = &self.file else { return Ok(()) };
        let begin = self.written;
        let mut out = io::BufWriter::with_capacity(64 * 1024, file);
        for (key, start, length) in &self.places {
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
        self.stretches.push((begin, self.written));
        self.places.clear();
        self.bytes.clear();
        Ok(())
    }
}

impl Key {
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

/// Everything that was taken in, to be gone through any number of times.
#[derive(Debug)]
pub(super) struct History {
    spills: Vec<Arc<Spill>>,
}

impl History {
    pub(super) fn new(spills: Vec<Spill>) -> Self {
        let sorted = |mut spill: Spill| {
            spill.places.sort_unstable_by_key(|(key, ..)| *key);
            Arc::new(spill)
        };
        Self { spills: spills.into_iter().map(sorted).collect() }
    }

    /// Takes one more in.
    #[cfg(feature = "aws")]
    pub(super) fn add(&mut self, spill: Spill) {
        self.spills.append(&mut Self::new(vec![spill]).spills);
    }

    /// How many things there are.
    pub(super) fn count(&self) -> u64 {
        self.spills.iter().map(|spill| spill.count()).sum()
    }

    /// All of it, by time.
    pub(super) fn by_time(&self) -> io::Result<Merge> {
        let mut merge = Merge { heads: BinaryHeap::new() };
        for spill in &self.spills {
            merge.push(Stretch { spill: spill.clone(), place: Place::Memory { next: 0 } })?;
            for (begin, end) in &spill.stretches {
                let ahead = Ahead { bytes: Vec::new(), used: 0, at: *begin, end: *end };
                merge.push(Stretch { spill: spill.clone(), place: Place::File(ahead) })?;
            }
        }
        Ok(merge)
    }
}

/// A sorted stretch, as far as it was read.
struct Stretch {
    spill: Arc<Spill>,
    place: Place,
}

enum Place {
    Memory { next: usize },
    File(Ahead),
}

struct Ahead {
    bytes: Vec<u8>,
    used: usize,
    at: u64,
    end: u64,
}

impl Stretch {
    fn next(&mut self) -> io::Result<Option<Entry>> {
        match &mut self.place {
            Place::Memory { next } => {
                let Some((key, start, length)) = self.spill.places.get(*next) else { return Ok(None) };
                *next += 1;
                Ok(Some(Entry { key: *key, bytes: self.spill.bytes[*start..*start + *length].to_vec() }))
            }
            Place::File(ahead) => {
                let Some(file) = &self.spill.file else { return Ok(None) };
                if ahead.used == ahead.bytes.len() && ahead.at == ahead.end {
                    return Ok(None);
                }
                let broken = || io::Error::other("the temporary file is not as it was written");
                let head: [u8; KEY_BYTES] = ahead.take(file, KEY_BYTES)?.try_into().map_err(|_| broken())?;
                let length: [u8; 4] = ahead.take(file, 4)?.try_into().map_err(|_| broken())?;
                let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
                let bytes = ahead.take(file, length)?.to_vec();
                Ok(Some(Entry { key: Key::read(&head).ok_or_else(broken)?, bytes }))
            }
        }
    }
}

impl Ahead {
    fn take(&mut self, file: &File, length: usize) -> io::Result<&[u8]> {
        if self.bytes.len() - self.used < length {
            self.bytes.drain(..self.used);
            self.used = 0;
            let known = self.bytes.len();
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let wanted = MAX_AHEAD.max(length - known).min(left);
            self.bytes.resize(known + wanted, 0);
            file.read_exact_at(&mut self.bytes[known..], self.at)?;
            self.at += wanted as u64;
        }
        let taken = self.used..self.used + length;
        self.used = taken.end;
        self.bytes.get(taken).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Goes through sorted stretches by time.
pub(super) struct Merge {
    heads: BinaryHeap<Reverse<Head>>,
}

struct Head {
    entry: Entry,
    rest: Stretch,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.entry.key == other.entry.key
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.entry.key.cmp(&other.entry.key)
    }
}

impl Merge {
    fn push(&mut self, mut rest: Stretch) -> io::Result<()> {
        if let Some(entry) = rest.next()? {
            self.heads.push(Reverse(Head { entry, rest }));
        }
        Ok(())
    }
}

impl Iterator for Merge {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse(Head { entry, rest }) = self.heads.pop()?;
        Some(self.push(rest).map(|()| entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_in_any_order_comes_out_by_time_though_it_does_not_fit_in_memory() {
        let key = |n: u64| Key {
            at: Timestamp::new(1_790_000_000 + (n as i64 * 7_919) % 10_007, 5).expect("a time"),
            file: (n % 3) as u32,
            ordinal: n,
        };
        let length = |n: u64| if n.is_multiple_of(1_000) { 100_000 } else { (n % 4_000) as usize };
        let mut spills = vec![Spill::default(), Spill::default(), Spill::default()];
        let mut expected: Vec<(Key, usize)> = Vec::new();
        for n in 0..10_000 {
            spills[(n % 2) as usize].push(key(n), &vec![n as u8; length(n)]).expect("pushed");
            expected.push((key(n), length(n)));
        }
        assert!(spills[0].stretches.len() >= 2, "nothing was spilled");
        expected.sort();
        let history = History::new(spills);
        assert_eq!(history.count(), 10_000);
        for _ in 0..2 {
            let read: Vec<(Key, usize)> = history
                .by_time()
                .expect("read")
                .map(|entry| entry.map(|entry| (entry.key, entry.bytes.len())).expect("an entry"))
                .collect();
            assert!(read == expected);
        }
    }
}
