//! Splits a stream into lines of bounded length, without copying lines that are whole in the buffer.

use std::io::{self, Read};

/// CloudWatch Logs accepts log events up to 1 MB, and the reader of audit events 2 MB: a longer line is no log event.
pub(super) const MAX_LINE: usize = 2 * 1024 * 1024 + 64;
const CHUNK: usize = 128 * 1024;

/// One line without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogLine<'a> {
    Text(&'a [u8]),
    /// Longer than [`MAX_LINE`]; its text was dropped.
    TooLong,
}

/// Reads lines from a stream.
pub(super) struct LineReader<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    /// The error that ended the stream, returned after the lines that were read before it.
    failed: Option<io::Error>,
    /// Lines read so far.
    number: u64,
    /// Bytes read so far.
    bytes: u64,
}

impl<R: Read> LineReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            buffer: vec![0; 2 * CHUNK],
            start: 0,
            end: 0,
            ended: false,
            failed: None,
            number: 0,
            bytes: 0,
        }
    }

    /// The number of the last line, counted from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes read from the stream so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The unread part of the buffer: at least `length` bytes, unless the stream ends before.
    pub(super) fn peek(&mut self, length: usize) -> &[u8] {
        while self.end - self.start < length && !self.ended {
            self.fill();
        }
        &self.buffer[self.start..self.end]
    }

    /// Takes the unread part of the buffer and fills it first where it is empty; empty at the end of the stream.
    pub(super) fn take_chunk(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.ended {
            self.fill();
        }
        if self.start == self.end
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        let chunk = self.start..self.end;
        self.start = self.end;
        Ok(&self.buffer[chunk])
    }

    /// The next line; none at the end of the stream.
    pub(super) fn next(&mut self) -> io::Result<Option<LogLine<'_>>> {
        let mut searched = 0;
        let mut too_long = false;
        loop {
            let unread = &self.buffer[self.start + searched..self.end];
            if let Some(offset) = memchr::memchr(b'\n', unread) {
                let line = self.start..self.start + searched + offset;
                self.start = line.end + 1;
                self.number += 1;
                return Ok(Some(if too_long {
                    LogLine::TooLong
                } else {
                    LogLine::Text(without_carriage_return(&self.buffer[line]))
                }));
            }
            searched = self.end - self.start;
            if searched > MAX_LINE {
                too_long = true;
                (self.start, searched) = (self.end, 0);
            }
            if self.ended {
                if self.start == self.end && !too_long {
                    return self.failed.take().map_or(Ok(None), Err);
                }
                let line = self.start..self.end;
                self.start = self.end;
                self.number += 1;
                return Ok(Some(if too_long {
                    LogLine::TooLong
                } else {
                    LogLine::Text(without_carriage_return(&self.buffer[line]))
                }));
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        if self.buffer.len() - self.end < CHUNK {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < CHUNK {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let read = loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error);
                    break 0;
                }
            }
        };
        self.end += read;
        self.bytes += read as u64;
        self.ended = read == 0;
    }
}

fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_the_stream_is_split() {
        let long = "x".repeat(3 * CHUNK);
        let text = format!("a\r\n\n{long}\nlast");
        let mut lines = LineReader::new(text.as_bytes());
        let mut read = Vec::new();
        while let Some(line) = lines.next().expect("read") {
            let LogLine::Text(line) = line else { panic!("too long") };
            read.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        assert_eq!(read, ["a", "", &long, "last"]);
        assert_eq!((lines.number(), lines.bytes()), (4, text.len() as u64));
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_is_read() {
        let text = format!("a\n{}\nb\n{}", "x".repeat(3 * MAX_LINE), "y".repeat(2 * MAX_LINE));
        let mut lines = LineReader::new(text.as_bytes());
        assert_eq!(lines.next().expect("read"), Some(LogLine::Text(b"a")));
        assert_eq!(lines.next().expect("read"), Some(LogLine::TooLong));
        assert_eq!(lines.next().expect("read"), Some(LogLine::Text(b"b")));
        assert_eq!(lines.next().expect("read"), Some(LogLine::TooLong));
        assert_eq!(lines.next().expect("read"), None);
        assert!(lines.buffer.len() <= 4 * MAX_LINE, "{}", lines.buffer.len());
    }
}
