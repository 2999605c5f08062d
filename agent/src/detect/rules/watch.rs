//! Turns lines into what users' rules say of them.
//!
//! All rules of one file that look at one log are tried in one pass over the line; only a pattern that may span
//! lines is tried on the lines joined.

use std::collections::VecDeque;

use regex::{Regex, RegexSet, RegexSetBuilder};

use super::{
    super::{DetectorError, Trust, head, shape::message},
    Rule, RuleFile, RuleSource,
};
use crate::{
    finding::{Change, Finding},
    signal::{Line, Origin},
};

/// What a rule sees of a line.
const MAX_TEXT: usize = 4096;
/// What the rules of one log may take together.
const MAX_SET: usize = 16 << 20;
const MAX_SUBJECT: usize = 256;

/// All users' rules, at work.
#[derive(Debug)]
pub(in crate::detect) struct Watch {
    logs: Vec<Log>,
}

/// The rules of one file about one log.
#[derive(Debug)]
struct Log {
    source: RuleSource,
    extract: Option<Regex>,
    /// The patterns of `rules`, then those that clear, in the order of `clearing`.
    set: RegexSet,
    rules: Vec<Rule>,
    clearing: Vec<usize>,
    spanning: Vec<Rule>,
    buffer: Buffer,
}

impl Watch {
    pub(in crate::detect) fn new(files: &[RuleFile]) -> Result<Self, DetectorError> {
        let mut logs = Vec::new();
        for file in files {
            let mut sources: Vec<&RuleSource> = Vec::new();
            for source in file.sources() {
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
            for source in sources {
                logs.push(Log::new(file, source)?);
            }
        }
        Ok(Self { logs })
    }

    pub(in crate::detect) fn look(&mut self, line: &Line<'_>, trust: Trust, out: &mut Vec<Change>) {
        for log in &mut self.logs {
            if log.hears(&line.origin, trust) {
                log.look(line, out);
            }
        }
    }
}

impl Log {
    fn new(file: &RuleFile, source: &RuleSource) -> Result<Self, DetectorError> {
        let of_source = file.rules.iter().filter(|rule| rule.source == *source).cloned();
        let (spanning, rules): (Vec<_>, Vec<_>) = of_source.partition(|rule| rule.spans_lines);
        let clearing: Vec<usize> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.cleared_by.is_some())
            .map(|(place, _)| place)
            .collect();
        let patterns = rules.iter().map(|rule| &rule.pattern);
        let patterns: Vec<&str> = patterns
            .chain(rules.iter().filter_map(|rule| rule.cleared_by.as_ref()))
            .map(Regex::as_str)
            .collect();
        let set = RegexSetBuilder::new(&patterns).size_limit(MAX_SET).build().map_err(|source| {
            DetectorError::Pattern { pattern: file.name.clone(), source: Box::new(source) }
        })?;
        let buffer = Buffer::new(if spanning.is_empty() { 0 } else { file.buffer });
        Ok(Self {
            source: source.clone(),
            extract: file.extract.clone(),
            set,
            rules,
            clearing,
            spanning,
            buffer,
        })
    }

    fn hears(&self, origin: &Origin<'_>, trust: Trust) -> bool {
        if !self.source.has(origin) {
            return false;
        }
        match (&self.source, origin) {
            (RuleSource::Kernel { any_facility }, Origin::Kernel { facility, .. }) => {
                *facility == 0 || *any_facility || trust == Trust::AnyFacility
            }
            _ => true,
        }
    }

    fn look(&mut self, line: &Line<'_>, out: &mut Vec<Change>) {
        let mut text = head(&line.text, MAX_TEXT);
        if let Some(extract) = &self.extract {
            let Some(inner) = extract.captures(text).and_then(|found| found.get(1)) else { return };
            text = inner.as_str();
        }
        if self.set.is_match(text) {
            for place in &self.set.matches(text) {
                match self.rules.get(place) {
                    Some(rule) => out.push(Change::Raised(found(rule, line, text))),
                    None => out.push(cleared(&self.rules[self.clearing[place - self.rules.len()]], line)),
                }
            }
        }
        if self.spanning.is_empty() {
            return;
        }
        self.buffer.push(text);
        for rule in &self.spanning {
            if let Some(lines) = rule.pattern.find(self.buffer.as_str()) {
                out.push(Change::Raised(found(rule, line, &lines.as_str().replace('\n', " | "))));
            }
        }
    }
}

fn found(rule: &Rule, line: &Line<'_>, text: &str) -> Finding {
    let names_subject = rule.pattern.capture_names().flatten().any(|name| name == "subject");
    let subject = names_subject
        .then(|| rule.pattern.captures(text)?.name("subject"))
        .flatten()
        .map(|subject| head(subject.as_str(), MAX_SUBJECT).to_owned());
    Finding {
        reason: rule.reason.clone(),
        condition: rule.condition.clone(),
        severity: rule.severity,
        subject,
        message: message(text, ""),
        at: line.at,
        debounce: rule.debounce,
        clears: rule.clears,
    }
}

fn cleared(rule: &Rule, line: &Line<'_>) -> Change {
    Change::Cleared { reason: rule.reason.clone(), subject: None, at: line.at }
}

/// The last lines, joined by line breaks.
#[derive(Debug)]
struct Buffer {
    lines: usize,
    joined: String,
    lengths: VecDeque<usize>,
}

impl Buffer {
    fn new(lines: usize) -> Self {
        Self { lines, joined: String::new(), lengths: VecDeque::new() }
    }

    fn push(&mut self, text: &str) {
        if self.lengths.len() == self.lines
            && let Some(first) = self.lengths.pop_front()
        {
            self.joined.drain(..(first + 1).min(self.joined.len()));
        }
        if !self.lengths.is_empty() {
            self.joined.push('\n');
        }
        self.joined.push_str(text);
        self.lengths.push_back(text.len());
    }

    fn as_str(&self) -> &str {
        &self.joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_holds_the_last_lines_and_no_more() {
        let mut buffer = Buffer::new(3);
        for (line, expected) in
            [("a", "a"), ("", "a\n"), ("ccc", "a\n\nccc"), ("d", "\nccc\nd"), ("e", "ccc\nd\ne")]
        {
            buffer.push(line);
            assert_eq!(buffer.as_str(), expected);
        }
        let mut one = Buffer::new(1);
        one.push("a");
        one.push("b");
        assert_eq!(one.as_str(), "b");
    }
}
