//! Turns a line into the shapes that it has.
//!
//! One walk over the line by an automaton of all words says which shapes can match at all; nearly always none.
//! Only then are expressions tried. So a line that says nothing costs one look at each of its bytes.

use std::cell::OnceCell;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, StartKind};
use regex::Regex;

use super::{
    DetectorError, head,
    shape::{Seen, Shape, State, Writers},
};
use crate::{finding::Change, signal::Line};

/// What is looked at of a line: the kernel cuts its own at 1 KiB, and a service says what matters at the front.
const MAX_TEXT: usize = 8 * 1024;

/// Shapes, ready to be looked for.
pub(super) struct Matcher {
    words: AhoCorasick,
    /// For each word the shape that wants it.
    owners: Vec<u8>,
    shapes: Vec<(Shape, Lazy)>,
}

/// A pattern that is compiled when a line first wants it: a node sees few of its shapes in its life, and all of them
/// compiled are a quarter of the agent's memory.
#[derive(Default)]
struct Lazy(OnceCell<Option<Regex>>);

impl Lazy {
    /// Our own patterns compile, a test holds them to that.
    fn get(&self, pattern: &str) -> Option<&Regex> {
        self.0.get_or_init(|| compile(pattern).ok()).as_ref()
    }
}

impl Matcher {
    /// A matcher for at most 64 shapes.
    pub(super) fn new(shapes: Vec<Shape>) -> Result<Self, DetectorError> {
        let mut words = Vec::new();
        let mut owners = Vec::new();
        for (place, shape) in (0..64).zip(&shapes) {
            for word in shape.words {
                words.push(*word);
                owners.push(place);
            }
        }
        let words = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .start_kind(StartKind::Unanchored)
            .kind(Some(AhoCorasickKind::DFA))
            .build(words)
            .map_err(DetectorError::Words)?;
        let shapes = shapes.into_iter().map(|shape| (shape, Lazy::default())).collect();
        Ok(Self { words, owners, shapes })
    }

    /// Looks at a line of these writers and adds what it changes.
    pub(super) fn look(&self, writers: Writers, line: &Line<'_>, state: &mut State, out: &mut Vec<Change>) {
        let text = head(&line.text, MAX_TEXT);
        let mut candidates: u64 = 0;
        for found in self.words.find_overlapping_iter(text) {
            candidates |= 1 << self.owners[found.pattern().as_usize()];
        }
        while candidates != 0 {
            let (shape, lazy) = &self.shapes[candidates.trailing_zeros() as usize];
            candidates &= candidates - 1;
            if !shape.writers.meet(writers) {
                continue;
            }
            if let Some(captures) = lazy.get(shape.pattern).and_then(|pattern| pattern.captures(text)) {
                (shape.judge)(&mut Seen { shape, line, captures: &captures, state, out });
            }
        }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("shapes", &self.shapes.len()).finish_non_exhaustive()
    }
}

/// Compiles a pattern within the limits that a user's own must keep too.
pub(super) fn compile(pattern: &str) -> Result<Regex, DetectorError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|source| DetectorError::Pattern { pattern: pattern.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::{super::shape, *};

    #[test]
    fn each_half_has_room_for_its_shapes() {
        let kernel = shape::all().filter(|shape| shape.writers == Writers::KERNEL).count();
        let services = shape::all().count() - kernel;
        assert!(kernel <= 64 && services <= 64, "{kernel} and {services}");
    }

    #[test]
    fn every_pattern_compiles() {
        for shape in shape::all() {
            compile(shape.pattern).expect("a pattern");
        }
    }

    #[test]
    fn every_shape_has_words_of_some_length() {
        for shape in shape::all() {
            assert!(!shape.words.is_empty(), "{:?}", shape.reasons);
            assert!(shape.words.iter().all(|word| word.len() >= 4), "{:?}", shape.words);
        }
    }
}
