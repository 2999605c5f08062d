//! Unescapes JSON strings, and makes excerpts of text.

use std::ops::Range;

/// A text that borrows from the payload, or is in the buffer of unescaped strings.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Plain(&'a str),
    Unescaped(Range<usize>),
}

impl<'a> Piece<'a> {
    pub(super) fn resolve(self, unescaped: &'a str) -> &'a str {
        match self {
            Piece::Plain(text) => text,
            // The range was taken from this buffer, on boundaries of whole pushes.
            Piece::Unescaped(range) => unescaped.get(range).unwrap_or_default(),
        }
    }
}

/// Unescapes the text between a JSON string's quotes.
///
/// The caller's parser has checked the form of the escapes, but not that surrogates are in pairs: a writer that
/// truncates a line by UTF-16 units can leave half of a pair.
pub(super) fn unescape<'a>(inner: &'a str, out: &mut String) -> Result<Piece<'a>, &'static str> {
    let start = out.len();
    let mut remaining = inner;
    while let Some(at) = remaining.bytes().position(|byte| byte == b'\\') {
        out.push_str(&remaining[..at]);
        let escape = remaining.as_bytes().get(at + 1).copied();
        let mut end = at + 2;
        let character = match escape {
            Some(b'u') => {
                let (character, length) = unicode(&remaining[at..])?;
                end = at + length;
                character
            }
            Some(byte) => char::from(unescaped(byte).ok_or("an unknown escape")?),
            None => return Err("an unknown escape"),
        };
        out.push(character);
        remaining = &remaining[end..];
    }
    if out.len() == start && remaining.len() == inner.len() {
        return Ok(Piece::Plain(inner));
    }
    out.push_str(remaining);
    Ok(Piece::Unescaped(start..out.len()))
}

/// The byte of a short escape.
fn unescaped(letter: u8) -> Option<u8> {
    Some(match letter {
        b'"' | b'\\' | b'/' => letter,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Reads `\uXXXX`, or both halves of a surrogate pair, at the start of `text`. Returns the length in bytes too.
fn unicode(text: &str) -> Result<(char, usize), &'static str> {
    const HALF: &str = "half of a surrogate pair";
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        let digits = escape.strip_prefix("\\u")?;
        // `from_str_radix` also accepts a sign.
        if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
    };
    let high = unit(0).ok_or("a broken \\u escape")?;
    if let Some(character) = char::from_u32(high) {
        return Ok((character, 6));
    }
    let low = unit(6).ok_or(HALF)?;
    if !(0xD800..0xDC00).contains(&high) || !(0xDC00..0xE000).contains(&low) {
        return Err(HALF);
    }
    let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    char::from_u32(code).map(|character| (character, 12)).ok_or(HALF)
}

/// The first `most` characters of `text`, with control characters replaced so that a log line stays one line.
pub(super) fn excerpt(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
