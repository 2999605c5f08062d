//! Assembles a file's bytes into whole lines without prefixes.
//!
//! Chunks of bytes end anywhere. An incomplete line is buffered until its line break arrives, because half a line may
//! match a pattern that the whole line does not. A container's line that the runtime split is joined again. Both are
//! bounded; what exceeds the bound is cut and reported.

use std::borrow::Cow;

use jiff::Timestamp;

use super::prefix::{self, ContainerStream, Stripped};
use crate::source::LINE_LIMIT;

/// The maximum length of a line with its prefix: a container runtime splits at 16 KiB of text, without the prefix.
const RAW_LIMIT: usize = LINE_LIMIT + 256;

/// The output of the assembler.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Line {
        /// The time in the line's prefix, if there is one.
        at: Option<Timestamp>,
        text: Cow<'a, str>,
    },
    /// The previous line exceeded the limit.
    Truncated,
}

/// Assembles bytes into lines.
#[derive(Debug)]
pub(super) struct Assembler {
    /// The file offset of the next byte.
    offset: u64,
    /// The start of a line whose line break has not arrived.
    held: Vec<u8>,
    /// The file offset of that line.
    held_from: u64,
    /// Whether that line was too long and was emitted already: the rest is skipped.
    skipping: bool,
    /// A container's split line, one for each stream.
    open: [Option<SplitLine>; 2],
}

/// A container's line that continues in the next record.
#[derive(Debug)]
struct SplitLine {
    from: u64,
    at: Option<Timestamp>,
    text: String,
    truncated: bool,
}

impl Assembler {
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, held: Vec::new(), held_from: offset, skipping: false, open: [None, None] }
    }

    /// Starts in the middle of a line, whose rest is skipped.
    pub(super) fn within(offset: u64) -> Self {
        Self { skipping: true, ..Self::at(offset) }
    }

    /// The file offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The file offset before which everything was emitted.
    pub(super) fn emitted_offset(&self) -> u64 {
        self.open.iter().flatten().map(|open| open.from).fold(self.held_from, u64::min)
    }

    /// Processes the following bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let next = self.offset + as_offset(end + 1);
            if self.skipping {
                self.skipping = false;
            } else if self.held.is_empty() {
                self.line(line, emit);
            } else {
                let mut held = std::mem::take(&mut self.held);
                held.extend_from_slice(&line[..line.len().min(RAW_LIMIT + 1)]);
                self.line(&held, emit);
                held.clear();
                self.held = held;
            }
            self.offset = next;
            self.held_from = next;
            bytes = rest;
        }
        self.offset += as_offset(bytes.len());
        if self.skipping {
            return;
        }
        let room = (RAW_LIMIT + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.held.len() > RAW_LIMIT {
            // The first part is emitted now, since the end may never arrive. Until it does, the line counts as not
            // emitted: after a restart it is repeated, and its rest is not mistaken for a line.
            let held = std::mem::take(&mut self.held);
            self.line(&held, emit);
            self.skipping = true;
        }
    }

    /// Emits the buffered lines: no more bytes follow.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.line(&held, emit);
        }
        self.held_from = self.offset;
        self.skipping = false;
        for slot in 0..self.open.len() {
            self.close(slot, emit);
        }
    }

    fn line(&mut self, raw: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        let whole = raw.len() <= RAW_LIMIT;
        let raw = &raw[..raw.len().min(RAW_LIMIT)];
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        let line = String::from_utf8_lossy(raw);
        let Stripped { at, stream, partial, text } = prefix::strip(&line);
        if let Some(stream) = stream {
            let slot = match stream {
                ContainerStream::Out => 0,
                ContainerStream::Err => 1,
            };
            if partial || self.open[slot].is_some() {
                let from = self.held_from;
                let open = self.open[slot].get_or_insert_with(|| SplitLine {
                    from,
                    at,
                    text: String::new(),
                    truncated: false,
                });
                let room = LINE_LIMIT.saturating_sub(open.text.len());
                let piece = &text[..text.floor_char_boundary(room)];
                open.text.push_str(piece);
                open.truncated |= !whole || piece.len() < text.len();
                if !partial {
                    self.close(slot, emit);
                }
                return;
            }
        }
        let shortened = &text[..text.floor_char_boundary(LINE_LIMIT)];
        emit(Piece::Line { at, text: Cow::Borrowed(shortened) });
        if !whole || shortened.len() < text.len() {
            emit(Piece::Truncated);
        }
    }

    fn close(&mut self, slot: usize, emit: &mut impl FnMut(Piece<'_>)) {
        if let Some(open) = self.open[slot].take() {
            emit(Piece::Line { at: open.at, text: prefix::whole(&open.text) });
            if open.truncated {
                emit(Piece::Truncated);
            }
        }
    }
}

fn as_offset(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(assembler: &mut Assembler, bytes: &str) -> Vec<String> {
        let mut seen = Vec::new();
        assembler.feed(bytes.as_bytes(), &mut |piece| {
            seen.push(match piece {
                Piece::Line { text, .. } => text.into_owned(),
                Piece::Truncated => "TRUNCATED".to_owned(),
            });
        });
        seen
    }

    #[test]
    fn an_incomplete_line_waits_for_its_end() {
        let mut assembler = Assembler::at(10);
        assert_eq!(feed(&mut assembler, "one\ntw"), ["one"]);
        assert_eq!((assembler.emitted_offset(), assembler.offset()), (14, 16));
        assert_eq!(feed(&mut assembler, "o\r\n\nthree"), ["two", ""]);
        assert_eq!((assembler.emitted_offset(), assembler.offset()), (20, 25));
        let mut seen = Vec::new();
        assembler.finish(&mut |piece| seen.push(format!("{piece:?}")));
        assert_eq!(seen, [r#"Line { at: None, text: "three" }"#]);
        assert_eq!(assembler.emitted_offset(), 25);
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_beyond_is_cut_once() {
        let mut assembler = Assembler::at(0);
        let fits = "x".repeat(LINE_LIMIT);
        assert_eq!(feed(&mut assembler, &format!("{fits}\n")), [fits.as_str()]);
        assert_eq!(feed(&mut assembler, &format!("{fits}y\nnext\n")), [fits.as_str(), "TRUNCATED", "next"]);
        // In pieces and without end: reported once.
        let start = assembler.offset();
        assert_eq!(feed(&mut assembler, &fits), [""; 0]);
        assert_eq!(feed(&mut assembler, &fits), [fits.as_str(), "TRUNCATED"]);
        assert_eq!(feed(&mut assembler, &fits), [""; 0]);
        assert_eq!(assembler.emitted_offset(), start, "a restart repeats it");
        assert_eq!(feed(&mut assembler, "end\nnext\n"), ["next"]);
        assert_eq!(assembler.emitted_offset(), assembler.offset());
    }

    #[test]
    fn a_containers_cut_line_is_put_together_stream_by_stream() {
        let mut assembler = Assembler::at(0);
        let at = "2024-05-01T10:00:00Z";
        assert_eq!(feed(&mut assembler, &format!("{at} stdout P one \n")), [""; 0]);
        assert_eq!(assembler.emitted_offset(), 0);
        assert_eq!(feed(&mut assembler, &format!("{at} stderr F between\n")), ["between"]);
        assert_eq!(
            feed(&mut assembler, &format!("{at} stdout P two \n{at} stdout F three\n")),
            ["one two three"]
        );
        assert_eq!(assembler.emitted_offset(), assembler.offset());
        // A JSON line that was split is parsed as JSON again.
        let json = format!(r#"{at} stdout P {{"ts":"{at}","m"#);
        assert_eq!(feed(&mut assembler, &format!("{json}\n{at} stdout F sg\":\"said\"}}\n")), ["said"]);
    }

    #[test]
    fn a_containers_line_of_endless_pieces_is_cut() {
        let mut assembler = Assembler::at(0);
        let piece = format!("2024-05-01T10:00:00Z stdout P {}\n", "x".repeat(LINE_LIMIT));
        for _ in 0..3 {
            assert_eq!(feed(&mut assembler, &piece), [""; 0]);
        }
        let seen = feed(&mut assembler, "2024-05-01T10:00:00Z stdout F end\n");
        assert_eq!((seen[0].len(), seen[1].as_str()), (LINE_LIMIT, "TRUNCATED"));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_change_nothing(
            text in "([a-z {}\n\r\u{e9}]{0,30}(2024-05-01T10:00:00Z std(out|err) [FP] [a-z]{0,9}\n)?){0,8}",
            sizes in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let whole = feed(&mut Assembler::at(0), &text);
            let mut assembler = Assembler::at(0);
            let mut seen = Vec::new();
            let mut rest = text.as_bytes();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*size).min(rest.len()));
                assembler.feed(chunk, &mut |piece| if let Piece::Line { text, .. } = piece {
                    seen.push(text.into_owned());
                });
                prop_assert!(assembler.emitted_offset() <= assembler.offset());
                rest = tail;
            }
            prop_assert_eq!(seen, whole);
        }
    }
}
