//! Evaluates users' rules on log lines.
//!
//! All rules of one file that read one log are matched in one pass over the line. Only a pattern that may span lines
//! is matched against the buffer of joined lines.

use std::collections::VecDeque;

use regex::{Regex, RegexSet, RegexSetBuilder};

use super::{
    super::{matcher::DetectorError, pattern::message, text::head, writers::Trust},
    LogRule, RuleFile, RuleSource,
};
use crate::{
    finding::{DetectedFinding, FindingChange},
    signal::{LogLine, Origin},
};

/// The maximum length of a line that a rule sees.
const MAX_TEXT: usize = 4096;
/// The maximum compiled size of all rules of one log, in bytes.
const MAX_SET: usize = 16 << 20;
const MAX_SUBJECT: usize = 256;

/// All rules of all files.
#[derive(Debug)]
pub(in crate::detect) struct RuleEvaluator {
    logs: Vec<LogRules>,
}

/// The rules of one file that read one log.
#[derive(Debug)]
struct LogRules {
    source: RuleSource,
    extract: Option<Regex>,
    /// The patterns of `rules`, then the patterns that clear, in the order of `clearing`.
    set: RegexSet,
    rules: Vec<LogRule>,
    clearing: Vec<usize>,
    spanning: Vec<LogRule>,
    buffer: LineBuffer,
}

impl RuleEvaluator {
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
                logs.push(LogRules::new(file, source)?);
            }
        }
        Ok(Self { logs })
    }

    pub(in crate::detect) fn evaluate(
        &mut self,
        line: &LogLine<'_>,
        trust: Trust,
        out: &mut Vec<FindingChange>,
    ) {
        for log in &mut self.logs {
            if log.reads(&line.origin, trust) {
                log.evaluate(line, out);
            }
        }
    }
}

impl LogRules {
    fn new(file: &RuleFile, source: &RuleSource) -> Result<Self, DetectorError> {
        let of_source = file.rules.iter().filter(|rule| rule.source == *source).cloned();
        let (spanning, rules): (Vec<_>, Vec<_>) = of_source.partition(|rule| rule.spans_lines);
        let clearing: Vec<usize> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.cleared_by.is_some())
            .map(|(index, _)| index)
            .collect();
        let patterns = rules.iter().map(|rule| &rule.pattern);
        let patterns: Vec<&str> = patterns
            .chain(rules.iter().filter_map(|rule| rule.cleared_by.as_ref()))
            .map(Regex::as_str)
            .collect();
        let set = RegexSetBuilder::new(&patterns).size_limit(MAX_SET).build().map_err(|source| {
            DetectorError::Pattern { pattern: file.name.clone(), source: Box::new(source) }
        })?;
        let buffer = LineBuffer::new(if spanning.is_empty() { 0 } else { file.buffer });
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

    fn reads(&self, origin: &Origin<'_>, trust: Trust) -> bool {
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

    fn evaluate(&mut self, line: &LogLine<'_>, out: &mut Vec<FindingChange>) {
        let mut text = head(&line.text, MAX_TEXT);
        if let Some(extract) = &self.extract {
            let Some(inner) = extract.captures(text).and_then(|found| found.get(1)) else { return };
            text = inner.as_str();
        }
        if self.set.is_match(text) {
            for index in &self.set.matches(text) {
                match self.rules.get(index) {
                    Some(rule) => out.push(FindingChange::Raised(found(rule, line, text))),
                    None => out.push(cleared(&self.rules[self.clearing[index - self.rules.len()]], line)),
                }
            }
        }
        if self.spanning.is_empty() {
            return;
        }
        self.buffer.push(text);
        for rule in &self.spanning {
            if let Some(lines) = rule.pattern.find(self.buffer.as_str()) {
                out.push(FindingChange::Raised(found(rule, line, &lines.as_str().replace('\n', " | "))));
            }
        }
    }
}

fn found(rule: &LogRule, line: &LogLine<'_>, text: &str) -> DetectedFinding {
    let names_subject = rule.pattern.capture_names().flatten().any(|name| name == "subject");
    let subject = names_subject
        .then(|| rule.pattern.captures(text)?.name("subject"))
        .flatten()
        .map(|subject| head(subject.as_str(), MAX_SUBJECT).to_owned());
    DetectedFinding {
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

fn cleared(rule: &LogRule, line: &LogLine<'_>) -> FindingChange {
    FindingChange::Cleared { reason: rule.reason.clone(), subject: None, at: line.at }
}

/// The last `lines` lines, joined by line breaks.
#[derive(Debug)]
struct LineBuffer {
    lines: usize,
    joined: String,
    lengths: VecDeque<usize>,
}

impl LineBuffer {
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
        let mut buffer = LineBuffer::new(3);
        for (line, expected) in
            [("a", "a"), ("", "a\n"), ("ccc", "a\n\nccc"), ("d", "\nccc\nd"), ("e", "ccc\nd\ne")]
        {
            buffer.push(line);
            assert_eq!(buffer.as_str(), expected);
        }
        let mut one = LineBuffer::new(1);
        one.push("a");
        one.push("b");
        assert_eq!(one.as_str(), "b");
    }
}
