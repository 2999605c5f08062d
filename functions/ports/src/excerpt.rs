//! Excerpts of lines from outside, for log lines and records.

/// The first 256 characters of a line, without control characters.
pub fn excerpt(line: &str) -> String {
    line.chars().take(256).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
