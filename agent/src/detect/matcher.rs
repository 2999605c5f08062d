//! Finds the patterns that a line matches.
//!
//! One pass of an Aho-Corasick automaton over the line finds which patterns have a required literal in it; nearly
//! always none has. Only those patterns' regular expressions run, so a line that matches nothing costs one step a
//! byte.

use std::cell::OnceCell;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, StartKind};
use regex::Regex;

use super::{
    pattern::{LineMatch, LinePattern},
    state::DetectorState,
    text::head,
    writers::Writers,
};
use crate::{finding::FindingChange, signal::LogLine};

/// The maximum length of a line that is matched. The kernel cuts its own records at 1 KiB, and services put what
/// matters at the start.
const MAX_TEXT: usize = 8 * 1024;

/// Why a detector cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// A pattern does not compile.
    #[error("failed to compile pattern {pattern:?}")]
    Pattern {
        pattern: String,
        #[source]
        source: Box<regex::Error>,
    },
    /// The automaton of required literals does not compile.
    #[error("failed to compile the required literals")]
    Literals(#[source] aho_corasick::BuildError),
}

/// A set of patterns with their prefilter.
pub(super) struct Matcher {
    literals: AhoCorasick,
    /// For each literal, the index of the pattern that requires it.
    owners: Vec<u8>,
    line_patterns: Vec<(LinePattern, LazyRegex)>,
}

/// A regular expression that is compiled on first use. A node meets few of the patterns in its lifetime, and all of
/// them compiled are a quarter of the agent's memory.
#[derive(Default)]
struct LazyRegex(OnceCell<Option<Regex>>);

impl LazyRegex {
    /// `None` never happens for built-in patterns: a test compiles all of them.
    fn get(&self, pattern: &str) -> Option<&Regex> {
        self.0.get_or_init(|| compile(pattern).ok()).as_ref()
    }
}

impl Matcher {
    /// Builds a matcher for at most 64 patterns, the bits of the candidate set.
    pub(super) fn new(line_patterns: Vec<LinePattern>) -> Result<Self, DetectorError> {
        let mut literals = Vec::new();
        let mut owners = Vec::new();
        for (index, line_pattern) in (0..64).zip(&line_patterns) {
            for literal in line_pattern.literals {
                literals.push(*literal);
                owners.push(index);
            }
        }
        let literals = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .start_kind(StartKind::Unanchored)
            .kind(Some(AhoCorasickKind::DFA))
            .build(literals)
            .map_err(DetectorError::Literals)?;
        let line_patterns =
            line_patterns.into_iter().map(|line_pattern| (line_pattern, LazyRegex::default())).collect();
        Ok(Self { literals, owners, line_patterns })
    }

    /// Matches a line of these writers and appends the resulting changes to `out`.
    pub(super) fn match_line(
        &self,
        writers: Writers,
        line: &LogLine<'_>,
        state: &mut DetectorState,
        out: &mut Vec<FindingChange>,
    ) {
        let text = head(&line.text, MAX_TEXT);
        let mut candidates: u64 = 0;
        for found in self.literals.find_overlapping_iter(text) {
            candidates |= 1 << self.owners[found.pattern().as_usize()];
        }
        while candidates != 0 {
            let (line_pattern, lazy) = &self.line_patterns[candidates.trailing_zeros() as usize];
            candidates &= candidates - 1;
            if !line_pattern.writers.meet(writers) {
                continue;
            }
            if let Some(captures) = lazy.get(line_pattern.regex).and_then(|pattern| pattern.captures(text)) {
                (line_pattern.evaluate)(&mut LineMatch {
                    line_pattern,
                    line,
                    captures: &captures,
                    state,
                    out,
                });
            }
        }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("patterns", &self.line_patterns.len()).finish_non_exhaustive()
    }
}

/// Compiles a pattern within the size limits that also apply to users' patterns.
pub(super) fn compile(pattern: &str) -> Result<Regex, DetectorError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|source| DetectorError::Pattern { pattern: pattern.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::{super::built_in_patterns, *};

    #[test]
    fn each_matcher_has_at_most_64_patterns() {
        let kernel =
            built_in_patterns().filter(|line_pattern| line_pattern.writers == Writers::KERNEL).count();
        let services = built_in_patterns().count() - kernel;
        assert!(kernel <= 64 && services <= 64, "{kernel} and {services}");
    }

    #[test]
    fn every_pattern_compiles() {
        for line_pattern in built_in_patterns() {
            compile(line_pattern.regex).expect("a pattern");
        }
    }

    #[test]
    fn every_pattern_has_literals_of_at_least_four_bytes() {
        for line_pattern in built_in_patterns() {
            assert!(!line_pattern.literals.is_empty(), "{:?}", line_pattern.reasons);
            assert!(
                line_pattern.literals.iter().all(|literal| literal.len() >= 4),
                "{:?}",
                line_pattern.literals
            );
        }
    }
}
