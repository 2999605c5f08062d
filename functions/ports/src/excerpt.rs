//! The beginning of a line that anybody may have written, for a log line or a record of ours.

/// The beginning of a line, fit to be shown.
pub fn excerpt(line: &str) -> String {
    line.chars().take(256).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
