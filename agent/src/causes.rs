//! Turns an error and all that caused it into one sentence.

use std::{error::Error, iter};

/// The error, then each cause that the text before it does not end with already: many errors say their own.
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
    fn each_cause_is_said_once() {
        let source = || io::Error::other("no such thing");
        for error in [Outer::Short { source: source() }, Outer::Long { source: source() }] {
            assert_eq!(chain(&error), "failed to read it: no such thing");
        }
    }
}
