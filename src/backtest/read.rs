//! Turns files of any known form into one history: each is read once, as a stream, and what can't matter is let go at once.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;

use super::{
    BacktestError,
    files::File,
    progress::Bar,
    shape::{Asked, Reader},
    spill::{History, Spill},
};

/// How many unreadable lines are named.
const MAX_NAMED: usize = 20;
/// How often the bar is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// What became of the lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// How many there were.
    pub(super) lines: u64,
    /// How many bytes they had, when unpacked.
    pub(super) bytes: u64,
    /// How many can't change any case.
    pub(super) nothing: u64,
    /// How many were one more of the same heartbeat.
    pub(super) in_runs: u64,
    /// How many are outside the time that was asked for.
    pub(super) outside: u64,
    /// The first and the last time.
    pub(super) span: Option<(Timestamp, Timestamp)>,
    /// How many could not be read.
    pub(super) unreadable: u64,
    /// The first of them: file, line and why.
    pub(super) named: Vec<(u32, u64, String)>,
}

/// What was read.
pub(super) struct Reading {
    pub(super) history: History,
    pub(super) counts: Counts,
    pub(super) packed: u64,
    pub(super) took: Duration,
    pub(super) threads: usize,
}

impl Counts {
    pub(super) fn saw(&mut self, at: Timestamp) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }

    pub(super) fn bad(&mut self, file: u32, line: u64, why: String) {
        self.unreadable += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push((file, line, why));
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.nothing += other.nothing;
        self.in_runs += other.in_runs;
        self.outside += other.outside;
        if let Some((first, last)) = other.span {
            self.saw(first);
            self.saw(last);
        }
        self.unreadable += other.unreadable;
        self.named.extend(other.named);
        self.named.sort();
        self.named.truncate(MAX_NAMED);
    }
}

/// How far the reading is.
#[derive(Debug, Default)]
struct Progress {
    packed: AtomicU64,
    unpacked: AtomicU64,
}

/// Counts what is read of a file.
struct Counted<'a> {
    file: fs::File,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.progress.packed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

struct Unpacked<'a, R> {
    from: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Unpacked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.progress.unpacked.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads every file, each by one of so many threads.
pub(super) fn read(
    files: &[File],
    asked: Asked,
    threads: usize,
    mut bar: Option<Bar>,
) -> Result<Reading, BacktestError> {
    let begun = Instant::now();
    let progress = Progress::default();
    let packed: u64 = files.iter().map(|file| file.bytes).sum();
    // The largest first, or the last thread would still be at it when the others are done.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(files[*index].bytes));
    let next = AtomicUsize::new(0);
    let threads = threads.clamp(1, files.len().max(1));
    let done: Mutex<Vec<Result<(Spill, Counts), BacktestError>>> = Mutex::default();
    thread::scope(|scope| {
        let (alive, ended) = mpsc::channel::<()>();
        for _ in 0..threads {
            let alive = alive.clone();
            scope.spawn({
                let (next, order, progress, done) = (&next, &order, &progress, &done);
                move || {
                    let mut reader = Reader::new(asked);
                    let mut result = Ok(());
                    while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        result = one(&mut reader, *index, &files[*index], progress);
                        if result.is_err() {
                            break;
                        }
                    }
                    let read = result.map(|()| reader.into_parts());
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(read);
                    drop(alive);
                }
            });
        }
        drop(alive);
        // Nobody ever sends: the wait ends when the last thread has let go of its end.
        while ended.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Some(bar) = &mut bar {
                let (read, unpacked) = (&progress.packed, &progress.unpacked);
                bar.draw(
                    read.load(Ordering::Relaxed) as f64 / packed.max(1) as f64,
                    unpacked.load(Ordering::Relaxed),
                    begun.elapsed(),
                );
            }
        }
    });
    if let Some(bar) = bar {
        bar.clear();
    }
    let mut counts = Counts::default();
    let mut spills = Vec::new();
    for read in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (spill, some) = read?;
        counts.add(some);
        spills.push(spill);
    }
    Ok(Reading { history: History::new(spills), counts, packed, took: begun.elapsed(), threads })
}

fn one(reader: &mut Reader, index: usize, file: &File, progress: &Progress) -> Result<(), BacktestError> {
    let failed = |source| BacktestError::Read { path: file.path.clone(), source };
    let index = u32::try_from(index).map_err(|_| BacktestError::TooManyFiles)?;
    let open = fs::File::open(&file.path).map_err(failed)?;
    let mut packed = BufReader::with_capacity(64 * 1024, Counted { file: open, progress });
    let is_gzip = packed.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let read = if is_gzip {
        // What comes out is bounded where it is used: as lines, none longer than a log line.
        reader.file(index, file, Unpacked { from: MultiGzDecoder::new(packed), progress })
    } else {
        reader.file(index, file, Unpacked { from: packed, progress })
    };
    read.map_err(BacktestError::Spill)
}
