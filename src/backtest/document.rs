//! Turns one large JSON document, as the AWS CLI prints it, into the elements of its list of events, one by one.

use std::io::{self, Read};

use super::lines::{Lines, MAX_LINE};

/// The lists whose elements are events: of `filter-log-events`, of `lookup-events`, of CloudTrail's files.
const LISTS: [&str; 3] = ["events", "Events", "Records"];
/// An event with its envelope, and every quote in it escaped.
const MAX_ELEMENT: usize = 2 * MAX_LINE;

/// One element.
#[derive(Debug)]
pub(super) struct Element<'a> {
    /// In which list; none for a document that is a list itself.
    pub(super) list: Option<&'static str>,
    /// The line on which it begins.
    pub(super) line: u64,
    /// Its JSON; none where it is longer than any event.
    pub(super) json: Option<&'a [u8]>,
}

/// How the bytes before this one nest.
#[derive(Default)]
struct Place {
    /// Whether each level is a list.
    lists: Vec<bool>,
    in_string: bool,
    escaped: bool,
    /// The last string, while it can be the key of a list: only the outermost object's are kept.
    key: Vec<u8>,
    line: u64,
}

/// Hands every element to `take`; how many documents ended amid something.
pub(super) fn elements(lines: &mut Lines<impl Read>, mut take: impl FnMut(Element<'_>)) -> io::Result<usize> {
    let mut place = Place { line: 1, ..Place::default() };
    let mut list: Option<&'static str> = None;
    let mut element: Vec<u8> = Vec::new();
    let (mut begun, mut too_long) = (None, false);
    loop {
        let chunk = lines.take_chunk()?;
        if chunk.is_empty() {
            return Ok(usize::from(!place.lists.is_empty()));
        }
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            // Within a string, everything up to the next quote or escape is of no account.
            let length = if place.in_string && !place.escaped {
                memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len()).max(1)
            } else {
                1
            };
            let (piece, after) = rest.split_at(length);
            rest = after;
            let depth = place.lists.len();
            if begun.is_none() && !place.in_string && byte == b'{' {
                let in_list = depth == 2 && place.lists == [false, true] && list.is_some();
                if in_list || (depth == 1 && place.lists == [true]) {
                    begun = Some((depth, place.line));
                    element.clear();
                    too_long = false;
                }
            }
            if begun.is_some() {
                too_long |= element.len() + length > MAX_ELEMENT;
                if !too_long {
                    element.extend_from_slice(piece);
                }
            }
            let opened = place.step(piece);
            if opened && place.lists == [false, true] {
                list = LISTS.into_iter().find(|name| name.as_bytes() == place.key);
            }
            if let Some((depth, line)) = begun
                && place.lists.len() == depth
                && byte == b'}'
                && !place.in_string
            {
                take(Element {
                    list: if depth == 1 { None } else { list },
                    line,
                    json: (!too_long).then_some(&element[..]),
                });
                begun = None;
            }
        }
    }
}

impl Place {
    /// Goes past one byte, or a piece of a string; whether a list was opened.
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
            // A line break within a string is not JSON, but it is a line.
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
        let mut lines = Lines::new(text.as_bytes());
        let broken = elements(&mut lines, |element| {
            let json = element.json.map(|json| String::from_utf8(json.to_vec()).expect("text"));
            found.push((element.list, element.line, json.unwrap_or_default()));
        });
        (found, broken.expect("read"))
    }

    #[test]
    fn the_elements_of_every_known_list_are_found_and_those_of_others_are_not() {
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
    fn a_document_that_is_cut_off_says_so() {
        let (found, broken) = read("{\"events\": [{\"a\": 1}, {\"b\": ");
        assert_eq!((found.len(), broken), (1, 1));
    }
}
