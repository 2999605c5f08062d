//! What commands print: tables, timelines, JSON lines and pictures, shared by replay, up, operate and backtest.
//!
//! Text from logs, nodes and policies is untrusted: what goes to a terminal passes [`printable`], what goes into SVG
//! passes [`escape`], and the HTML page is escaped by its template engine.

mod case_summary;
pub mod json;
pub(crate) mod policy_effect;
pub(crate) mod pretty_json;
pub(crate) mod svg;
pub(crate) mod table;
pub mod timeline;

use std::{error::Error, fmt::Display};

use anstyle::{Effects, Style};
use clap::ValueEnum;
use jiff::SignedDuration;
use nodemend_domain::timestamp;

/// The width of timelines and audit records: two terminals side by side, or a printed page.
pub(crate) const WIDTH: usize = 116;
/// The most input lines that a summary names.
pub(crate) const MAX_LINES_NAMED: usize = 10;
pub(crate) const BOLD: Style = Style::new().effects(Effects::BOLD);
pub(crate) const DIM: Style = Style::new().effects(Effects::DIMMED);

/// The output format of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // No doc comments: clap would switch every help text to its long layout.
    Text,
    Json,
}

/// The text on one line, with each control character replaced by a space: a log line must not control the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text for SVG. Control characters and noncharacters, which XML forbids, become spaces.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push(' '),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// An error and its sources, as one line. A source that the text has already is left out: some errors repeat theirs.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// At most `length` characters; a cut is marked with an ellipsis.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// A duration like `1h 30m`.
pub(crate) fn duration_of_seconds(seconds: i64) -> String {
    timestamp::duration(SignedDuration::from_secs(seconds))
}

/// `1 node`, `2 nodes`.
pub(crate) fn counted<N: PartialEq + From<u8> + Display>(number: N, noun: &str) -> String {
    format!("{number} {noun}{}", if number == N::from(1) { "" } else { "s" })
}

/// `512 B`, `3.4 MB`, `12 GB`: decimal units, as disks and networks use.
pub(crate) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let number = bytes as f64 / unit;
    if number < 10.0 { format!("{number:.1} {name}") } else { format!("{number:.0} {name}") }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::replay::ReplayError;

    #[test]
    fn untrusted_text_cannot_add_markup_or_control_characters() {
        assert_eq!(
            escape("</title><script>\"&'\u{1b}\u{0}"),
            "&lt;/title&gt;&lt;script&gt;&quot;&amp;&#39;  "
        );
        assert_eq!(printable("a\u{1b}[2J\nb"), "a [2J b");
    }

    #[test]
    fn text_is_shortened_by_characters_not_bytes() {
        assert_eq!(shortened("äöü", 2), "ä…");
        assert_eq!(shortened("äöü", 3), "äöü");
    }

    #[test]
    fn an_error_is_followed_by_each_source_once() {
        let io = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = ReplayError::Output(io());
        assert_eq!(error_chain(&error), format!("{error}: no such file"));
        let repeated = io::Error::other(io());
        assert_eq!(error_chain(&repeated), "no such file");
    }

    #[test]
    fn numbers_read_as_english() {
        assert_eq!(counted(1u64, "line"), "1 line");
        assert_eq!(counted(0u64, "line"), "0 lines");
        assert_eq!([bytes(999), bytes(3_400_000), bytes(12_000_000_000)], ["999 B", "3.4 MB", "12 GB"]);
        assert_eq!(duration_of_seconds(5_400), "1h 30m");
    }
}
