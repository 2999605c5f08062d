//! Turns records of one class into segment files, oldest first, and back.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{Class, Record, frame};
use crate::durable::sync_folder;

/// No segment grows beyond this, whatever its file's size says.
const MAX_SEGMENT_FILE: u64 = 16 * 1024 * 1024;

/// What opening a lane found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) last: u64,
    pub(super) damaged: u64,
    pub(super) torn: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    last: u64,
    waiting: u64,
}

/// The records of one class.
#[derive(Debug)]
pub(super) struct Lane {
    class: Class,
    folder: PathBuf,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    /// The last segment, while it is written to.
    file: Option<File>,
}

impl Lane {
    /// Reads what an earlier run left.
    pub(super) fn open(
        class: Class,
        folder: &Path,
        segment_bytes: u64,
        acked: u64,
    ) -> io::Result<(Self, Found)> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| number_of(class, path).is_some())
            .collect();
        paths.sort();
        let mut lane =
            Self { class, folder: folder.to_owned(), segment_bytes, segments: VecDeque::new(), file: None };
        let mut found = Found::default();
        for path in paths {
            found.last = found.last.max(number_of(class, &path).unwrap_or(0));
            let Ok(bytes) = contents(&path) else {
                found.damaged += 1;
                continue;
            };
            let (mut last, mut waiting) = (0, 0);
            let scan = frame::scan(class, &bytes, |record| {
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
            lane.segments.push_back(Segment { path, bytes: scan.end as u64, last, waiting });
        }
        Ok((lane, found))
    }

    /// How much disk it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// How many records wait.
    pub(super) fn waiting(&self) -> u64 {
        self.segments.iter().map(|segment| segment.waiting).sum()
    }

    /// Appends frames and makes them durable. After an error nothing of them counts as stored.
    pub(super) fn append(&mut self, frames: &[u8], first: u64, last: u64, number: u64) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= self.segment_bytes);
        if full || self.file.is_none() {
            self.begin(first)?;
        }
        let (Some(file), Some(segment)) = (self.file.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        let written = file.write_all(frames).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What was half written would be half read; the next records go to a segment of their own.
            let _ = file.set_len(segment.bytes);
            self.file = None;
            if self.segments.back().is_some_and(|segment| segment.bytes == 0) {
                self.remove_last();
            }
            return Err(error);
        }
        segment.bytes += frames.len() as u64;
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
        let path = self.folder.join(format!("{}{first:020}.seg", prefix(self.class)));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        self.segments.push_back(Segment { path: path.clone(), bytes: 0, last: first, waiting: 0 });
        if let Err(error) = sync_folder(&path) {
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

    /// The oldest records after `acked`, until there are enough; damage is counted.
    pub(super) fn read(
        &mut self,
        acked: u64,
        records: usize,
        bytes: usize,
        damaged: &mut u64,
    ) -> Vec<Record> {
        let mut read = Vec::new();
        let mut size = 0;
        let mut place = 0;
        while place < self.segments.len() && read.len() < records && size < bytes {
            let segment = &self.segments[place];
            if segment.waiting == 0 {
                place += 1;
                continue;
            }
            let Ok(contents) = contents(&segment.path) else {
                // Left where it is: the next start tries again.
                *damaged += segment.waiting;
                self.forget(place);
                continue;
            };
            let mut found = 0;
            frame::scan(self.class, &contents, |record| {
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
                self.segments[place].waiting = found;
            }
            if found == 0 {
                self.forget(place);
                continue;
            }
            place += 1;
        }
        read
    }

    fn forget(&mut self, place: usize) {
        if place + 1 == self.segments.len() {
            self.file = None;
        }
        self.segments.remove(place);
    }

    /// Lets go of what is delivered. An error leaves a file behind, for the next start to remove.
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
                    frame::scan(class, &contents, |record| waiting += u64::from(record.number > acked));
                    segment.waiting = waiting.min(segment.waiting);
                }
                break;
            }
            segment.waiting = 0;
            // A segment that is still written to is kept while it is small: few reports a day need few files.
            if only && segment.bytes < self.segment_bytes / 2 {
                break;
            }
            outcome = outcome.and(self.remove_first());
        }
        outcome
    }

    /// Drops the oldest segment; how many records that waited went with it, none if there is no segment.
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

fn prefix(class: Class) -> &'static str {
    match class {
        Class::Change => "change-",
        Class::Heartbeat => "heartbeat-",
    }
}

/// The number of a segment's first record, from its name; none for any other file.
fn number_of(class: Class, path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix(prefix(class))?.strip_suffix(".seg")?;
    number.parse().ok().filter(|_| number.len() == 20)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SEGMENT_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
