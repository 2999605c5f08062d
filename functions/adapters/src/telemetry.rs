//! Turns what happened into one line of JSON each on stdout, where Lambda's logs are read from.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a line. A log that can't be written stops nothing that matters more.
pub fn log(line: &impl Serialize) {
    let _ = write_line(&mut io::stdout().lock(), line);
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    // One write for the whole line, so that lines of two writers never mix.
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    out.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_it_says() {
        let mut out = Vec::new();
        write_line(&mut out, &json!({ "detail": "one\ntwo" })).expect("written");
        assert_eq!(out, b"{\"detail\":\"one\\ntwo\"}\n");
    }
}
