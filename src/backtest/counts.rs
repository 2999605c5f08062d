//! Counts what readers did with the lines of the history.

use jiff::Timestamp;

/// How many unreadable lines are reported one by one.
pub(super) const MAX_REPORTED: usize = 20;

/// What became of the lines.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadCounts {
    pub(super) lines: u64,
    /// Bytes after decompression.
    pub(super) bytes: u64,
    /// Lines that cannot change any case.
    pub(super) irrelevant: u64,
    /// Heartbeats that repeat the one before.
    pub(super) repeated: u64,
    /// Lines outside the requested time range.
    pub(super) outside: u64,
    /// The first and the last time.
    pub(super) span: Option<(Timestamp, Timestamp)>,
    pub(super) unreadable: u64,
    /// The first unreadable lines: file, line and cause.
    pub(super) reported: Vec<(u32, u64, String)>,
}

impl ReadCounts {
    pub(super) fn extend_span(&mut self, at: Timestamp) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }

    pub(super) fn add_unreadable(&mut self, file: u32, line: u64, why: String) {
        self.unreadable += 1;
        if self.reported.len() < MAX_REPORTED {
            self.reported.push((file, line, why));
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.irrelevant += other.irrelevant;
        self.repeated += other.repeated;
        self.outside += other.outside;
        if let Some((first, last)) = other.span {
            self.extend_span(first);
            self.extend_span(last);
        }
        self.unreadable += other.unreadable;
        self.reported.extend(other.reported);
        self.reported.sort();
        self.reported.truncate(MAX_REPORTED);
    }
}
