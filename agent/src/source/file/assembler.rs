//! Turns the bytes of a file, as they come, into whole lines without prefixes.
//!
//! Bytes come in chunks that end anywhere. What ends in no line break is held until it does: half a line can
//! match what the whole one does not mean. A container's line that its runtime has cut is put together again.
//! Both are bounded, and what is beyond the bound is cut and told.

use std::borrow::Cow;

use jiff::Timestamp;

use super::prefix::{self, Stream, Stripped};
use crate::source::LINE_LIMIT;

/// A line with its prefix: a container runtime cuts at 16 KiB of text, and its prefix comes on top.
const RAW_LIMIT: usize = LINE_LIMIT + 256;

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A line.
    Line {
        /// When it was written, where it says so.
        at: Option<Timestamp>,
        /// What it says.
        text: Cow<'a, str>,
    },
    /// The line before was longer than this.
    Cut,
}

/// Bytes into lines.
#[derive(Debug)]
pub(super) struct Assembler {
    /// Where the next byte comes from.
    offset: u64,
    /// The start of a line whose end has not come.
    held: Vec<u8>,
    /// Where that line starts.
    held_from: u64,
    /// That line was too long and has been handed on: its rest is passed over.
    passing: bool,
    /// A container's lines that go on, one for each stream.
    open: [Option<Open>; 2],
}

/// A container's line that goes on.
#[derive(Debug)]
struct Open {
    from: u64,
    at: Option<Timestamp>,
    text: String,
    cut: bool,
}

impl Assembler {
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, held: Vec::new(), held_from: offset, passing: false, open: [None, None] }
    }

    /// In the middle of a line, which is passed over.
    pub(super) fn within(offset: u64) -> Self {
        Self { passing: true, ..Self::at(offset) }
    }

    /// Where the next byte comes from.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Everything before this has been handed on.
    pub(super) fn handed_on(&self) -> u64 {
        self.open.iter().flatten().map(|open| open.from).fold(self.held_from, u64::min)
    }

    /// Takes the bytes that follow.
    pub(super) fn feed(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let next = self.offset + as_offset(end + 1);
            if self.passing {
                self.passing = false;
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
        if self.passing {
            return;
        }
        let room = (RAW_LIMIT + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.held.len() > RAW_LIMIT {
            // Its first part is worth more now than the whole of it never. Until its end comes it counts as
            // not handed on: a restart repeats it, instead of taking its rest for a line.
            let held = std::mem::take(&mut self.held);
            self.line(&held, emit);
            self.passing = true;
        }
    }

    /// Hands on what is held: nothing more will come.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.line(&held, emit);
        }
        self.held_from = self.offset;
        self.passing = false;
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
                Stream::Out => 0,
                Stream::Err => 1,
            };
            if partial || self.open[slot].is_some() {
                let from = self.held_from;
                let open =
                    self.open[slot].get_or_insert_with(|| Open { from, at, text: String::new(), cut: false });
                let room = LINE_LIMIT.saturating_sub(open.text.len());
                let piece = &text[..text.floor_char_boundary(room)];
                open.text.push_str(piece);
                open.cut |= !whole || piece.len() < text.len();
                if !partial {
                    self.close(slot, emit);
                }
                return;
            }
        }
        let kept = &text[..text.floor_char_boundary(LINE_LIMIT)];
        emit(Piece::Line { at, text: Cow::Borrowed(kept) });
        if !whole || kept.len() < text.len() {
            emit(Piece::Cut);
        }
    }

    fn close(&mut self, slot: usize, emit: &mut impl FnMut(Piece<'_>)) {
        if let Some(open) = self.open[slot].take() {
            emit(Piece::Line { at: open.at, text: prefix::whole(&open.text) });
            if open.cut {
                emit(Piece::Cut);
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
                Piece::Cut => "CUT".to_owned(),
            });
        });
        seen
    }

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        let mut assembler = Assembler::at(10);
        assert_eq!(feed(&mut assembler, "one\ntw"), ["one"]);
        assert_eq!((assembler.handed_on(), assembler.offset()), (14, 16));
        assert_eq!(feed(&mut assembler, "o\r\n\nthree"), ["two", ""]);
        assert_eq!((assembler.handed_on(), assembler.offset()), (20, 25));
        let mut seen = Vec::new();
        assembler.finish(&mut |piece| seen.push(format!("{piece:?}")));
        assert_eq!(seen, [r#"Line { at: None, text: "three" }"#]);
        assert_eq!(assembler.handed_on(), 25);
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_beyond_is_cut_once() {
        let mut assembler = Assembler::at(0);
        let fits = "x".repeat(LINE_LIMIT);
        assert_eq!(feed(&mut assembler, &format!("{fits}\n")), [fits.as_str()]);
        assert_eq!(feed(&mut assembler, &format!("{fits}y\nnext\n")), [fits.as_str(), "CUT", "next"]);
        // In pieces, and without end: told once, however much comes.
        let start = assembler.offset();
        assert_eq!(feed(&mut assembler, &fits), [""; 0]);
        assert_eq!(feed(&mut assembler, &fits), [fits.as_str(), "CUT"]);
        assert_eq!(feed(&mut assembler, &fits), [""; 0]);
        assert_eq!(assembler.handed_on(), start, "a restart repeats it");
        assert_eq!(feed(&mut assembler, "end\nnext\n"), ["next"]);
        assert_eq!(assembler.handed_on(), assembler.offset());
    }

    #[test]
    fn a_containers_cut_line_is_put_together_stream_by_stream() {
        let mut assembler = Assembler::at(0);
        let at = "2024-05-01T10:00:00Z";
        assert_eq!(feed(&mut assembler, &format!("{at} stdout P one \n")), [""; 0]);
        assert_eq!(assembler.handed_on(), 0);
        assert_eq!(feed(&mut assembler, &format!("{at} stderr F between\n")), ["between"]);
        assert_eq!(
            feed(&mut assembler, &format!("{at} stdout P two \n{at} stdout F three\n")),
            ["one two three"]
        );
        assert_eq!(assembler.handed_on(), assembler.offset());
        // A line of JSON that was cut is JSON again.
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
        assert_eq!((seen[0].len(), seen[1].as_str()), (LINE_LIMIT, "CUT"));
    }

    proptest! {
        #[test]
        fn where_the_chunks_end_changes_nothing(
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
                prop_assert!(assembler.handed_on() <= assembler.offset());
                rest = tail;
            }
            prop_assert_eq!(seen, whole);
        }
    }
}
