//! The segment files of one class of records, oldest first.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{RecordClass, SpoolRecord, record};
use crate::durable::sync_directory;

/// No segment is larger than this; of a larger file only this much is read.
const MAX_SEGMENT_FILE: u64 = 16 * 1024 * 1024;

/// What was found when the segments were opened.
#[derive(Debug, Default)]
pub(super) struct OpenedSegments {
    pub(super) last: u64,
    pub(super) damaged: u64,
    pub(super) torn: u64,
}

#[derive(Debug)]
struct SegmentFile {
    path: PathBuf,
    bytes: u64,
    last: u64,
    waiting: u64,
}

/// A queue of records of one class, stored in segment files.
#[derive(Debug)]
pub(super) struct SegmentQueue {
    class: RecordClass,
    directory: PathBuf,
    segment_bytes: u64,
    segments: VecDeque<SegmentFile>,
    /// The last segment, while it is open for writing.
    file: Option<File>,
}

impl SegmentQueue {
    /// Opens the segments that an earlier process left.
    pub(super) fn open(
        class: RecordClass,
        directory: &Path,
        segment_bytes: u64,
        acked: u64,
    ) -> io::Result<(Self, OpenedSegments)> {
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| number_of(class, path).is_some())
            .collect();
        paths.sort();
        let mut queue = Self {
            class,
            directory: directory.to_owned(),
            segment_bytes,
            segments: VecDeque::new(),
            file: None,
        };
        let mut found = OpenedSegments::default();
        for path in paths {
            found.last = found.last.max(number_of(class, &path).unwrap_or(0));
            let Ok(bytes) = contents(&path) else {
                found.damaged += 1;
                continue;
            };
            let (mut last, mut waiting) = (0, 0);
            let scan = record::scan(class, &bytes, |record| {
                last = record.number.max(last);
                waiting += u64::from(record.number > acked);
            });
            found.damaged += scan.damaged;
            found.last = found.last.max(last);
            let torn = bytes.len() - scan.end;
            found.torn += torn as u64;
            if waiting == 0 {
                fs::remove_file(&path)?;
                continue;
            }
            if torn > 0 {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(scan.end as u64)?;
                file.sync_all()?;
            }
            queue.segments.push_back(SegmentFile { path, bytes: scan.end as u64, last, waiting });
        }
        Ok((queue, found))
    }

    /// The size on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The number of waiting records.
    pub(super) fn waiting(&self) -> u64 {
        self.segments.iter().map(|segment| segment.waiting).sum()
    }

    /// Appends encoded records and syncs them. After an error none of them counts as stored.
    pub(super) fn append(&mut self, encoded: &[u8], first: u64, last: u64, number: u64) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= self.segment_bytes);
        if full || self.file.is_none() {
            self.begin(first)?;
        }
        let (Some(file), Some(segment)) = (self.file.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        let written = file.write_all(encoded).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Removes an incomplete write, which would be read as damage. The next records go to a new segment.
            let _ = file.set_len(segment.bytes);
            self.file = None;
            if self.segments.back().is_some_and(|segment| segment.bytes == 0) {
                self.remove_last();
            }
            return Err(error);
        }
        segment.bytes += encoded.len() as u64;
        segment.last = last;
        segment.waiting += number;
        Ok(())
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        self.file = None;
        if let Some(last) = self.segments.back().filter(|segment| segment.bytes < self.segment_bytes) {
            self.file = Some(OpenOptions::new().append(true).open(&last.path)?);
            return Ok(());
        }
        let path = self.directory.join(format!("{}{first:020}.seg", prefix(self.class)));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        self.segments.push_back(SegmentFile { path: path.clone(), bytes: 0, last: first, waiting: 0 });
        if let Err(error) = sync_directory(&path) {
            self.remove_last();
            return Err(error);
        }
        self.file = Some(file);
        Ok(())
    }

    fn remove_last(&mut self) {
        if let Some(segment) = self.segments.pop_back() {
            let _ = fs::remove_file(segment.path);
        }
    }

    /// The oldest records after `acked`, up to the limits. Damage is added to `damaged`.
    pub(super) fn read(
        &mut self,
        acked: u64,
        records: usize,
        bytes: usize,
        damaged: &mut u64,
    ) -> Vec<SpoolRecord> {
        let mut read = Vec::new();
        let mut size = 0;
        let mut index = 0;
        while index < self.segments.len() && read.len() < records && size < bytes {
            let segment = &self.segments[index];
            if segment.waiting == 0 {
                index += 1;
                continue;
            }
            let Ok(contents) = contents(&segment.path) else {
                // The file stays; the next start tries to read it again.
                *damaged += segment.waiting;
                self.remove_at(index);
                continue;
            };
            let mut found = 0;
            record::scan(self.class, &contents, |record| {
                if record.number > acked {
                    found += 1;
                    if read.len() < records && size < bytes {
                        size += record.text.len();
                        read.push(record);
                    }
                }
            });
            if found < segment.waiting {
                *damaged += segment.waiting - found;
                self.segments[index].waiting = found;
            }
            if found == 0 {
                self.remove_at(index);
                continue;
            }
            index += 1;
        }
        read
    }

    fn remove_at(&mut self, index: usize) {
        if index + 1 == self.segments.len() {
            self.file = None;
        }
        self.segments.remove(index);
    }

    /// Removes delivered records. After an error a file may remain, which the next start removes.
    pub(super) fn ack(&mut self, acked: u64) -> io::Result<()> {
        let mut outcome = Ok(());
        loop {
            let only = self.segments.len() == 1 && self.file.is_some();
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            if segment.last > acked {
                let (class, mut waiting) = (self.class, 0);
                if let Ok(contents) = contents(&segment.path) {
                    record::scan(class, &contents, |record| waiting += u64::from(record.number > acked));
                    segment.waiting = waiting.min(segment.waiting);
                }
                break;
            }
            segment.waiting = 0;
            // A small segment that is still open for writing stays, so that few reports a day need few files.
            if only && segment.bytes < self.segment_bytes / 2 {
                break;
            }
            outcome = outcome.and(self.remove_first());
        }
        outcome
    }

    /// Drops the oldest segment. Returns how many waiting records it had; `None` without a segment.
    pub(super) fn drop_oldest(&mut self) -> Option<u64> {
        let waiting = self.segments.front()?.waiting;
        let _ = self.remove_first();
        Some(waiting)
    }

    fn remove_first(&mut self) -> io::Result<()> {
        if self.segments.len() == 1 {
            self.file = None;
        }
        match self.segments.pop_front() {
            Some(segment) => fs::remove_file(segment.path),
            None => Ok(()),
        }
    }
}

fn prefix(class: RecordClass) -> &'static str {
    match class {
        RecordClass::Change => "change-",
        RecordClass::Heartbeat => "heartbeat-",
    }
}

/// The number of a segment's first record, from its file name; `None` for any other file.
fn number_of(class: RecordClass, path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix(prefix(class))?.strip_suffix(".seg")?;
    number.parse().ok().filter(|_| number.len() == 20)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SEGMENT_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
