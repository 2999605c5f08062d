//! Splits a large JSON document, as the AWS CLI prints it, into the elements of its list of events, without holding it
//! in memory.

use std::io::{self, Read};

use super::lines::{LineReader, MAX_LINE};

/// The lists whose elements are events: in `filter-log-events`, in `lookup-events`, in CloudTrail's log files.
const LISTS: [&str; 3] = ["events", "Events", "Records"];
/// The longest element: an event with its envelope, and each byte escaped.
const MAX_ELEMENT: usize = 2 * MAX_LINE;

/// One element of a list of events.
#[derive(Debug)]
pub(super) struct ListElement<'a> {
    /// The name of the list; none where the document itself is a list.
    pub(super) list: Option<&'static str>,
    /// The line on which the element starts.
    pub(super) line: u64,
    /// Its JSON; none where it is longer than [`MAX_ELEMENT`].
    pub(super) json: Option<&'a [u8]>,
}

/// The state of the parser after the bytes so far.
#[derive(Default)]
struct ParserState {
    /// For each open level, whether it is a list.
    lists: Vec<bool>,
    in_string: bool,
    escaped: bool,
    /// The last string of the outermost object, which may be the key of a list.
    key: Vec<u8>,
    line: u64,
}

/// Passes every element to `take`; returns 1 if the document is incomplete, else 0.
pub(super) fn elements(
    lines: &mut LineReader<impl Read>,
    mut take: impl FnMut(ListElement<'_>),
) -> io::Result<usize> {
    let mut state = ParserState { line: 1, ..ParserState::default() };
    let mut list: Option<&'static str> = None;
    let mut element: Vec<u8> = Vec::new();
    let (mut started, mut too_long) = (None, false);
    loop {
        let chunk = lines.take_chunk()?;
        if chunk.is_empty() {
            return Ok(usize::from(!state.lists.is_empty()));
        }
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            // Within a string, skip to the next quote or escape.
            let length = if state.in_string && !state.escaped {
                memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len()).max(1)
            } else {
                1
            };
            let (piece, after) = rest.split_at(length);
            rest = after;
            let depth = state.lists.len();
            if started.is_none() && !state.in_string && byte == b'{' {
                let in_list = depth == 2 && state.lists == [false, true] && list.is_some();
                if in_list || (depth == 1 && state.lists == [true]) {
                    started = Some((depth, state.line));
                    element.clear();
                    too_long = false;
                }
            }
            if started.is_some() {
                too_long |= element.len() + length > MAX_ELEMENT;
                if !too_long {
                    element.extend_from_slice(piece);
                }
            }
            let opened = state.step(piece);
            if opened && state.lists == [false, true] {
                list = LISTS.into_iter().find(|name| name.as_bytes() == state.key);
            }
            if let Some((depth, line)) = started
                && state.lists.len() == depth
                && byte == b'}'
                && !state.in_string
            {
                take(ListElement {
                    list: if depth == 1 { None } else { list },
                    line,
                    json: (!too_long).then_some(&element[..]),
                });
                started = None;
            }
        }
    }
}

impl ParserState {
    /// Consumes one byte, or a piece of a string; returns whether a list was opened.
    fn step(&mut self, piece: &[u8]) -> bool {
        let byte = piece[0];
        if self.in_string {
            if self.lists.len() == 1 && self.key.len() < 16 {
                self.key.extend(piece.iter().take(16).filter(|byte| **byte != b'"'));
            }
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
            }
            // A line break within a string is invalid JSON, but it counts as a line.
            self.line += memchr::memchr_iter(b'\n', piece).count() as u64;
            return false;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.lists.len() == 1 {
                    self.key.clear();
                }
            }
            b'{' => self.lists.push(false),
            b'[' => {
                self.lists.push(true);
                return true;
            }
            b'}' | b']' => {
                self.lists.pop();
            }
            b'\n' => self.line += 1,
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = (Option<&'static str>, u64, String);

    fn read(text: &str) -> (Vec<Found>, usize) {
        let mut found = Vec::new();
        let mut lines = LineReader::new(text.as_bytes());
        let broken = elements(&mut lines, |element| {
            let json = element.json.map(|json| String::from_utf8(json.to_vec()).expect("text"));
            found.push((element.list, element.line, json.unwrap_or_default()));
        });
        (found, broken.expect("read"))
    }

    #[test]
    fn elements_of_known_lists_are_found_and_no_others() {
        let text = "{\n  \"nextToken\": \"events\",\n  \"searchedLogStreams\": [{\"a\": 1}],\n  \"events\": [\n    \
                    {\"message\": \"{\\\"x\\\": [\\\"}]\\\"]}\"},\n    {\"y\": {\"z\": []}}\n  ]\n}\n";
        let (found, broken) = read(text);
        let expected = [
            (Some("events"), 5, r#"{"message": "{\"x\": [\"}]\"]}"}"#.to_owned()),
            (Some("events"), 6, r#"{"y": {"z": []}}"#.to_owned()),
        ];
        assert_eq!((&found[..], broken), (&expected[..], 0));
        assert_eq!(read("[\n{\"a\":1},{\"b\":2}]").0.len(), 2);
        assert_eq!(read("{\"Records\":[{}]}{\"Events\":[{}]}").0.len(), 2, "one document after the other");
    }

    #[test]
    fn an_incomplete_document_is_reported() {
        let (found, broken) = read("{\"events\": [{\"a\": 1}, {\"b\": ");
        assert_eq!((found.len(), broken), (1, 1));
    }
}
