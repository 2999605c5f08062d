//! Turns the compact JSON that CloudWatch Logs writes into unescaped texts, in one pass.
//!
//! The careful path in `parse` looks at each byte of a message twice, once to find the string's end and once to
//! unescape it, and a report is full of escaped quotes. This path does both at once, eight bytes at a time. It
//! gives up at anything that is not exactly the usual shape, be it white space, an unknown field in a log event
//! or a bad record, and leaves it to the careful path to say what that is. So it decides nothing by itself: what
//! it accepts, the careful path reads the same (a property test holds them to it).

use std::ops::Range;

use jiff::Timestamp;

use super::{MAX_EVENTS, MAX_FILTERS, text};

/// How many bytes are copied at once; the output has so much room behind its end.
const STRIDE: usize = 8;

/// A whole message as ranges of the output.
pub(super) struct Body {
    pub(super) message_type: Range<usize>,
    pub(super) owner: Range<usize>,
    pub(super) log_group: Range<usize>,
    pub(super) log_stream: Range<usize>,
    pub(super) subscription_filters: Vec<Range<usize>>,
}

/// A log event as ranges of the output.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: Range<usize>,
    pub(super) timestamp: Timestamp,
    pub(super) message: Range<usize>,
}

/// Reads `json` into `out` and `slots`; tells how much of `out` is filled. `None` leaves both as they may be.
pub(super) fn read(json: &str, out: &mut Vec<u8>, slots: &mut Vec<Slot>) -> Option<(Body, usize)> {
    slots.clear();
    // Unescaping never lengthens a text. The buffer is never shortened, so that only growth pays for the zeros.
    let room = json.len() + STRIDE;
    if out.len() < room {
        out.resize(room, 0);
    }
    let mut reader = Reader { json, at: 0, out, filled: 0 };
    let body = reader.body(slots)?;
    (reader.at == json.len()).then_some((body, reader.filled))
}

struct Reader<'a> {
    json: &'a str,
    at: usize,
    out: &'a mut [u8],
    filled: usize,
}

impl Reader<'_> {
    fn body(&mut self, slots: &mut Vec<Slot>) -> Option<Body> {
        let [mut message_type, mut owner, mut log_group, mut log_stream] = [None, None, None, None];
        let mut filters = None;
        let mut has_events = false;
        self.expect(b'{')?;
        loop {
            let field = match self.key()? {
                b"messageType" => &mut message_type,
                b"owner" => &mut owner,
                b"logGroup" => &mut log_group,
                b"logStream" => &mut log_stream,
                b"subscriptionFilters" if filters.is_none() => {
                    filters = Some(self.filters()?);
                    if self.ends(b'}')? { break } else { continue }
                }
                b"logEvents" if !has_events => {
                    has_events = true;
                    self.events(slots)?;
                    if self.ends(b'}')? { break } else { continue }
                }
                // Account-level subscriptions add `policyLevel`.
                b"policyLevel" => &mut None,
                _ => return None,
            };
            if field.is_some() {
                return None;
            }
            *field = Some(self.string()?);
            if self.ends(b'}')? {
                break;
            }
        }
        has_events.then_some(Body {
            message_type: message_type?,
            owner: owner?,
            log_group: log_group?,
            log_stream: log_stream?,
            subscription_filters: filters?,
        })
    }

    fn filters(&mut self) -> Option<Vec<Range<usize>>> {
        let mut filters = Vec::new();
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(filters);
        }
        loop {
            if filters.len() == MAX_FILTERS {
                return None;
            }
            filters.push(self.string()?);
            if self.ends(b']')? {
                return Some(filters);
            }
        }
    }

    fn events(&mut self, slots: &mut Vec<Slot>) -> Option<()> {
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            if slots.len() == MAX_EVENTS {
                return None;
            }
            let event = self.event()?;
            slots.push(event);
            if self.ends(b']')? {
                return Some(());
            }
        }
    }

    fn event(&mut self) -> Option<Slot> {
        let (mut id, mut timestamp, mut message) = (None, None, None);
        self.expect(b'{')?;
        loop {
            match self.key()? {
                b"id" if id.is_none() => id = Some(self.string()?),
                b"timestamp" if timestamp.is_none() => timestamp = Some(self.timestamp()?),
                b"message" if message.is_none() => message = Some(self.string()?),
                _ => return None,
            }
            if self.ends(b'}')? {
                return Some(Slot { id: id?, timestamp: timestamp?, message: message? });
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Whether the list ends here, or a comma says that it goes on.
    fn ends(&mut self, end: u8) -> Option<bool> {
        let found = self.peek()?;
        self.at += 1;
        if found == end { Some(true) } else { (found == b',').then_some(false) }
    }

    /// A field's name up to and with its colon. A name that is escaped is none of ours.
    fn key(&mut self) -> Option<&[u8]> {
        self.expect(b'"')?;
        let rest = &self.json.as_bytes()[self.at..];
        let length = rest.iter().position(|byte| *byte == b'"')?;
        self.at += length + 1;
        self.expect(b':')?;
        Some(&rest[..length])
    }

    fn timestamp(&mut self) -> Option<Timestamp> {
        let rest = &self.json[self.at..];
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let length = digits.bytes().position(|byte| !byte.is_ascii_digit())?;
        // JSON has no leading zeros, and the careful path says so.
        if length > 1 && digits.starts_with('0') {
            return None;
        }
        let length = rest.len() - digits.len() + length;
        self.at += length;
        Timestamp::from_millisecond(rest[..length].parse().ok()?).ok()
    }

    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let bytes = self.json.as_bytes();
        let start = self.filled;
        loop {
            if let Some(chunk) = bytes[self.at..].first_chunk::<STRIDE>() {
                self.out[self.filled..self.filled + STRIDE].copy_from_slice(chunk);
                let plain = plain_bytes(*chunk);
                self.at += plain;
                self.filled += plain;
                if plain == STRIDE {
                    continue;
                }
            }
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(start..self.filled);
                }
                b'\\' => self.escape()?,
                0..0x20 => return None,
                // Fewer bytes than a stride are left.
                byte => self.push(byte),
            }
        }
    }

    fn push(&mut self, byte: u8) {
        self.out[self.filled] = byte;
        self.filled += 1;
        self.at += 1;
    }

    fn escape(&mut self) -> Option<()> {
        let escaped = *self.json.as_bytes().get(self.at + 1)?;
        if escaped == b'u' {
            let (character, length) = text::unicode(&self.json[self.at..]).ok()?;
            let written = character.encode_utf8(&mut self.out[self.filled..]).len();
            self.filled += written;
            self.at += length;
            return Some(());
        }
        let byte = text::unescaped(escaped)?;
        self.at += 1;
        self.push(byte);
        Some(())
    }
}

/// How many bytes stand before the first quote, backslash or control character.
///
/// The usual test for a zero byte in a word: it may mark bytes above a true one by mistake, never below it, and
/// only the lowest counts.
fn plain_bytes(chunk: [u8; STRIDE]) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    let word = u64::from_le_bytes(chunk);
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    let marks = (below(word, 0x20) | quote | backslash) & (ONES * 0x80);
    (marks.trailing_zeros() / 8) as usize
}
