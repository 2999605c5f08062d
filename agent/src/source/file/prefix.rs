//! Turns a line of a log file into its time and its text, whoever wrote the file.
//!
//! Two writers put their own prefix before what a program said: the container runtime
//! (`2016-10-06T00:17:09.669794202Z stdout F text`) and the VPC CNI's plugin, whose lines are JSON. Detectors
//! look at what was said, so both are taken off here. A line that looks like neither is left as it is.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// A line without its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripped<'a> {
    /// When it was written, where the prefix says so.
    pub at: Option<Timestamp>,
    /// The container's stream that it went to.
    pub stream: Option<Stream>,
    /// Whether the container runtime has cut the line here, and the next one of that stream goes on.
    pub partial: bool,
    /// What was said.
    pub text: Cow<'a, str>,
}

/// A container's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `stdout`.
    Out,
    /// `stderr`.
    Err,
}

/// A JSON line as the VPC CNI writes it.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    ts: Cow<'a, str>,
    #[serde(borrow)]
    msg: Cow<'a, str>,
    /// What it was about, apart from the message: the detectors' patterns may be in either.
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
}

/// Takes the prefix off a line; of a container's line that is JSON itself, both.
pub fn strip(line: &str) -> Stripped<'_> {
    let Some((at, stream, partial, said)) = container(line) else {
        return said_at(None, None, false, line);
    };
    said_at(Some(at), Some(stream), partial, said)
}

fn said_at(at: Option<Timestamp>, stream: Option<Stream>, partial: bool, said: &str) -> Stripped<'_> {
    // A piece of a JSON line is no JSON.
    match json(said).filter(|_| !partial) {
        Some((written, text)) => Stripped { at: Some(written), stream, partial, text },
        None => Stripped { at, stream, partial, text: Cow::Borrowed(said) },
    }
}

/// The whole of a container's line, when its pieces have been put together: JSON, or as it is.
pub(super) fn whole(text: &str) -> Cow<'_, str> {
    json(text).map_or(Cow::Borrowed(text), |(_, text)| text)
}

/// `<RFC 3339 time> <stdout|stderr> <F|P[:more tags]> <text>`
fn container(line: &str) -> Option<(Timestamp, Stream, bool, &str)> {
    // Cheap, and right for every year until 3000.
    if !matches!(line.as_bytes().first(), Some(b'1' | b'2')) {
        return None;
    }
    let (time, rest) = line.split_once(' ')?;
    let (stream, rest) = rest.split_once(' ')?;
    // An empty line ends with its tag.
    let (tags, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let stream = match stream {
        "stdout" => Stream::Out,
        "stderr" => Stream::Err,
        _ => return None,
    };
    let partial = match tags.split(':').next() {
        Some("P") => true,
        Some("F") => false,
        _ => return None,
    };
    Some((time.parse().ok()?, stream, partial, text))
}

fn json(line: &str) -> Option<(Timestamp, Cow<'_, str>)> {
    if !line.starts_with('{') {
        return None;
    }
    let Json { ts, msg, error } = serde_json::from_str(line).ok()?;
    let at = ts.parse().ok()?;
    let text = match error {
        Some(error) if !error.is_empty() => Cow::Owned(format!("{msg}: {error}")),
        _ => msg,
    };
    Some((at, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_containers_line_loses_its_prefix() {
        let stripped =
            strip("2024-05-01T10:00:00.123456789Z stderr F E0501 10:00:00 reflector.go:148] Failed");
        assert_eq!(stripped.at, Some("2024-05-01T10:00:00.123456789Z".parse().expect("a time")));
        assert_eq!(stripped.stream, Some(Stream::Err));
        assert_eq!(stripped.text, "E0501 10:00:00 reflector.go:148] Failed");
        assert!(!stripped.partial);
        assert!(matches!(stripped.text, Cow::Borrowed(_)));
    }

    #[test]
    fn the_cnis_json_becomes_its_message() {
        for line in [
            r#"{"level":"error","ts":"2024-05-01T10:00:00.123Z","caller":"ipamd/ipamd.go:512","msg":"Unable to reach API Server"}"#,
            r#"2024-05-01T12:00:00+02:00 stdout F {"level":"error","ts":"2024-05-01T10:00:00.123Z","msg":"Unable to reach API Server"}"#,
        ] {
            let stripped = strip(line);
            assert_eq!(stripped.text, "Unable to reach API Server");
            assert_eq!(stripped.at, Some("2024-05-01T10:00:00.123Z".parse().expect("a time")));
        }
        assert_eq!(
            strip(r#"{"ts":"2024-05-01T10:00:00Z","msg":"Failed to assign","error":"InsufficientFreeAddressesInSubnet: \"none\""}"#).text,
            "Failed to assign: InsufficientFreeAddressesInSubnet: \"none\"",
        );
    }

    #[test]
    fn a_line_with_an_offset_keeps_its_instant() {
        let there = strip("2024-05-01T12:00:00.5+02:00 stdout F x").at;
        assert_eq!(there, Some("2024-05-01T10:00:00.5Z".parse().expect("a time")));
    }

    #[test]
    fn a_piece_of_a_line_says_so() {
        let piece = strip(r#"2024-05-01T10:00:00Z stdout P {"ts":"2024-05-01T10:00:00Z","msg":"x"}"#);
        assert!(piece.partial && piece.text.starts_with('{'));
        assert!(!strip("2024-05-01T10:00:00Z stdout F:later-tag end").partial);
    }

    #[test]
    fn an_empty_line_is_one() {
        assert_eq!(strip("2024-05-01T10:00:00Z stdout F ").text, "");
        assert_eq!(strip("2024-05-01T10:00:00Z stdout F").text, "");
        assert_eq!(strip("").text, "");
    }

    #[test]
    fn what_only_looks_like_a_prefix_is_left() {
        for line in [
            "2024-05-01T10:00:00Z stdin F text",
            "2024-05-01T10:00:00Z stdout X text",
            "2024-05-01T10:00:00Z stdout text",
            "2024-13-01T10:00:00Z stdout F text",
            "yesterday stdout F text",
            "1 packet dropped F",
            "{not json",
            r#"{"msg":"no time"}"#,
            r#"{"ts":1714557600.5,"msg":"a time that is no text"}"#,
            r#"{"ts":"yesterday","msg":"text"}"#,
            "May  1 10:00:00 host crond[1]: (root) CMD (run)",
        ] {
            let stripped = strip(line);
            assert_eq!((stripped.text.as_ref(), stripped.at, stripped.partial), (line, None, false));
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}") {
            let _ = strip(&line);
        }

        #[test]
        fn what_the_runtime_prefixes_comes_back(text in "[^{\\n].{0,100}", seconds in 0_i64..4_000_000_000) {
            let at = Timestamp::from_second(seconds).expect("a time");
            let line = format!("{at} stdout F {text}");
            let stripped = strip(&line);
            prop_assert_eq!(stripped.text.as_ref(), text.as_str());
            prop_assert_eq!(stripped.at, Some(at));
        }
    }
}
