//! Reads all files, in parallel and each once as a stream, into one sorted history.

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

use super::{
    counts::ReadCounts,
    error::BacktestError,
    external_sort::{SortBuffer, SortedHistory},
    files::HistoryFile,
    format::{FormatReader, Selection},
    progress::ProgressBar,
};
use crate::file::FileError;

/// How often the progress bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// The history, and how it was read.
pub(super) struct ReadHistory {
    pub(super) history: SortedHistory,
    pub(super) counts: ReadCounts,
    pub(super) bytes_on_disk: u64,
    pub(super) took: Duration,
    pub(super) threads: usize,
}

/// Bytes read so far, by all threads.
#[derive(Debug, Default)]
struct Progress {
    compressed: AtomicU64,
    uncompressed: AtomicU64,
}

/// Counts the bytes that are read from a file.
struct CountingFile<'a> {
    file: fs::File,
    progress: &'a Progress,
}

impl Read for CountingFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.progress.compressed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Counts the bytes that decompression yields.
struct CountingDecoder<'a, R> {
    from: R,
    progress: &'a Progress,
}

impl<R: Read> Read for CountingDecoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.progress.uncompressed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads every file; each is read by one of `threads` threads.
pub(super) fn read(
    files: &[HistoryFile],
    selection: Selection,
    threads: usize,
    mut bar: Option<ProgressBar>,
) -> Result<ReadHistory, BacktestError> {
    let started = Instant::now();
    let progress = Progress::default();
    let bytes_on_disk: u64 = files.iter().map(|file| file.bytes).sum();
    // The largest first, so that no thread starts a large file when the others are done.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(files[*index].bytes));
    let next = AtomicUsize::new(0);
    let threads = threads.clamp(1, files.len().max(1));
    let done: Mutex<Vec<Result<(SortBuffer, ReadCounts), BacktestError>>> = Mutex::default();
    thread::scope(|scope| {
        let (alive, ended) = mpsc::channel::<()>();
        for _ in 0..threads {
            let alive = alive.clone();
            scope.spawn({
                let (next, order, progress, done) = (&next, &order, &progress, &done);
                move || {
                    let mut reader = FormatReader::new(selection);
                    let mut result = Ok(());
                    while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        result = read_file(&mut reader, *index, &files[*index], progress);
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
        // Nothing is ever sent: the wait ends when the last thread drops its sender.
        while ended.recv_timeout(DRAW_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Some(bar) = &mut bar {
                let (read, uncompressed) = (&progress.compressed, &progress.uncompressed);
                bar.draw(
                    read.load(Ordering::Relaxed) as f64 / bytes_on_disk.max(1) as f64,
                    uncompressed.load(Ordering::Relaxed),
                    started.elapsed(),
                );
            }
        }
    });
    if let Some(bar) = bar {
        bar.clear();
    }
    let mut counts = ReadCounts::default();
    let mut buffers = Vec::new();
    for read in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (buffer, more) = read?;
        counts.add(more);
        buffers.push(buffer);
    }
    Ok(ReadHistory {
        history: SortedHistory::new(buffers),
        counts,
        bytes_on_disk,
        took: started.elapsed(),
        threads,
    })
}

fn read_file(
    reader: &mut FormatReader,
    index: usize,
    file: &HistoryFile,
    progress: &Progress,
) -> Result<(), BacktestError> {
    let failed = FileError::reading(&file.path);
    let index = u32::try_from(index).map_err(|_| BacktestError::TooManyFiles)?;
    let open = fs::File::open(&file.path).map_err(failed)?;
    let mut compressed = BufReader::with_capacity(64 * 1024, CountingFile { file: open, progress });
    let is_gzip = compressed.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let read = if is_gzip {
        // The decompressed bytes are bounded by the reader of lines, which drops lines that are too long.
        reader.file(index, file, CountingDecoder { from: MultiGzDecoder::new(compressed), progress })
    } else {
        reader.file(index, file, CountingDecoder { from: compressed, progress })
    };
    read.map_err(BacktestError::TemporaryFile)
}
