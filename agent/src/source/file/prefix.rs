//! Splits a log file's line into time and text.
//!
//! Two writers add their own prefix: the container runtime (`2016-10-06T00:17:09.669794202Z stdout F text`), and the
//! VPC CNI's plugin, whose lines are JSON. Patterns match the text only, so both prefixes are removed here. Any other
//! line stays unchanged.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// A line without its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripped<'a> {
    /// The time in the prefix, if there is one.
    pub at: Option<Timestamp>,
    /// The container's output stream.
    pub stream: Option<ContainerStream>,
    /// Whether the container runtime split the line here; the stream's next record continues it.
    pub partial: bool,
    pub text: Cow<'a, str>,
}

/// A container's output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStream {
    Out,
    Err,
}

/// A JSON line of the VPC CNI.
#[derive(Deserialize)]
struct CniJson<'a> {
    #[serde(borrow)]
    ts: Cow<'a, str>,
    #[serde(borrow)]
    msg: Cow<'a, str>,
    /// The error beside the message: a pattern may match either.
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
}

/// Removes the prefix of a line; both prefixes of a container's JSON line.
pub fn strip(line: &str) -> Stripped<'_> {
    let Some((at, stream, partial, text)) = container(line) else {
        return strip_json(None, None, false, line);
    };
    strip_json(Some(at), Some(stream), partial, text)
}

fn strip_json(
    at: Option<Timestamp>,
    stream: Option<ContainerStream>,
    partial: bool,
    text: &str,
) -> Stripped<'_> {
    // A part of a JSON line is not valid JSON.
    match json(text).filter(|_| !partial) {
        Some((written, text)) => Stripped { at: Some(written), stream, partial, text },
        None => Stripped { at, stream, partial, text: Cow::Borrowed(text) },
    }
}

/// The text of a joined container line: a JSON line's message, or the line itself.
pub(super) fn whole(text: &str) -> Cow<'_, str> {
    json(text).map_or(Cow::Borrowed(text), |(_, text)| text)
}

/// `<RFC 3339 time> <stdout|stderr> <F|P[:more tags]> <text>`
fn container(line: &str) -> Option<(Timestamp, ContainerStream, bool, &str)> {
    // A cheap check that is correct for the years 1000 to 2999.
    if !matches!(line.as_bytes().first(), Some(b'1' | b'2')) {
        return None;
    }
    let (time, rest) = line.split_once(' ')?;
    let (stream, rest) = rest.split_once(' ')?;
    // An empty line ends after its tag.
    let (tags, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let stream = match stream {
        "stdout" => ContainerStream::Out,
        "stderr" => ContainerStream::Err,
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
    let CniJson { ts, msg, error } = serde_json::from_str(line).ok()?;
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
        assert_eq!(stripped.stream, Some(ContainerStream::Err));
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
    fn a_part_of_a_line_is_marked() {
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
    fn text_that_only_resembles_a_prefix_stays() {
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
        fn any_text_with_a_runtime_prefix_is_recovered(text in "[^{\\n].{0,100}", seconds in 0_i64..4_000_000_000) {
            let at = Timestamp::from_second(seconds).expect("a time");
            let line = format!("{at} stdout F {text}");
            let stripped = strip(&line);
            prop_assert_eq!(stripped.text.as_ref(), text.as_str());
            prop_assert_eq!(stripped.at, Some(at));
        }
    }
}
