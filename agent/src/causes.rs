//! Formats an error and its sources as one line.

use std::{error::Error, iter};

/// Returns the error followed by each source whose text is not already its end: many errors include their source's
/// text.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in iter::successors(error.source(), |&cause| cause.source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("failed to read it")]
        Short { source: io::Error },
        #[error("failed to read it: {source}")]
        Long { source: io::Error },
    }

    #[test]
    fn each_cause_appears_once() {
        let source = || io::Error::other("no such thing");
        for error in [Outer::Short { source: source() }, Outer::Long { source: source() }] {
            assert_eq!(chain(&error), "failed to read it: no such thing");
        }
    }
}
