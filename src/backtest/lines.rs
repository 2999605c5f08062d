//! Turns a stream of bytes into lines of bounded length, without copying those that lie whole in the buffer.

use std::io::{self, Read};

/// CloudWatch Logs takes no event over 1 MB, and the audit reader none over 2: what is longer is no log line.
pub(super) const MAX_LINE: usize = 2 * 1024 * 1024 + 64;
const CHUNK: usize = 128 * 1024;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Text(&'a [u8]),
    /// Longer than any log line; it was left out.
    TooLong,
}

/// Reads lines.
pub(super) struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    /// Why it ended, if not because it was at its end. Told when what was read before is taken.
    failed: Option<io::Error>,
    /// How many lines were read.
    number: u64,
    /// How many bytes were read.
    bytes: u64,
}

impl<R: Read> Lines<R> {
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

    /// The number of the line that was read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes came out of the stream so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is in the buffer and was not taken yet: at least so much, where there is so much.
    pub(super) fn peek(&mut self, length: usize) -> &[u8] {
        while self.end - self.start < length && !self.ended {
            self.fill();
        }
        &self.buffer[self.start..self.end]
    }

    /// Takes everything that is in the buffer, and some more where it is empty; nothing at the end.
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

    /// The next line; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut looked_at = 0;
        let mut too_long = false;
        loop {
            let unread = &self.buffer[self.start + looked_at..self.end];
            if let Some(place) = memchr::memchr(b'\n', unread) {
                let line = self.start..self.start + looked_at + place;
                self.start = line.end + 1;
                self.number += 1;
                return Ok(Some(if too_long {
                    Line::TooLong
                } else {
                    Line::Text(trimmed(&self.buffer[line]))
                }));
            }
            looked_at = self.end - self.start;
            if looked_at > MAX_LINE {
                too_long = true;
                (self.start, looked_at) = (self.end, 0);
            }
            if self.ended {
                if self.start == self.end && !too_long {
                    return self.failed.take().map_or(Ok(None), Err);
                }
                let line = self.start..self.end;
                self.start = self.end;
                self.number += 1;
                return Ok(Some(if too_long {
                    Line::TooLong
                } else {
                    Line::Text(trimmed(&self.buffer[line]))
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

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces_they_are_read_in() {
        let long = "x".repeat(3 * CHUNK);
        let text = format!("a\r\n\n{long}\nlast");
        let mut lines = Lines::new(text.as_bytes());
        let mut read = Vec::new();
        while let Some(line) = lines.next().expect("read") {
            let Line::Text(line) = line else { panic!("too long") };
            read.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        assert_eq!(read, ["a", "", &long, "last"]);
        assert_eq!((lines.number(), lines.bytes()), (4, text.len() as u64));
    }

    #[test]
    fn what_is_longer_than_any_log_line_is_left_out_and_the_rest_goes_on() {
        let text = format!("a\n{}\nb\n{}", "x".repeat(3 * MAX_LINE), "y".repeat(2 * MAX_LINE));
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.next().expect("read"), Some(Line::Text(b"a")));
        assert_eq!(lines.next().expect("read"), Some(Line::TooLong));
        assert_eq!(lines.next().expect("read"), Some(Line::Text(b"b")));
        assert_eq!(lines.next().expect("read"), Some(Line::TooLong));
        assert_eq!(lines.next().expect("read"), None);
        assert!(lines.buffer.len() <= 4 * MAX_LINE, "{}", lines.buffer.len());
    }
}
