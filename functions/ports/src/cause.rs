//! The error behind a port's error, and the one line in which a whole chain of errors is printed.
//!
//! - A port's error never repeats its source in `Display`: [`chain`] prints both.
//! - What is printed is bounded and has no control characters, whatever an outside service answered.

use std::{error::Error, fmt, iter, sync::Arc};

/// The most bytes of a printed chain. AWS's and Kubernetes' messages are far shorter.
const MAX_BYTES: usize = 1_024;

/// The source of a port's error: the SDK's error, a decoder's, or a message where there is no error behind it. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Keeps an error, or a message, as the source of another.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }
}

impl From<String> for Cause {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Cause {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string()))
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Errors of other crates cannot be compared. Two causes are equal if they print the same chain.
impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        chain(self) == chain(other)
    }
}

impl Eq for Cause {}

/// An error and its sources, in one line: `failed to reach the store: ThrottlingException: Rate exceeded`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in iter::successors(error.source(), |cause| (**cause).source()) {
        let cause = cause.to_string();
        // A transparent error prints the same as its source, and errors of other crates may repeat theirs.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    one_line(&text)
}

/// A text from outside as one line of at most 1,024 bytes.
pub fn one_line(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_BYTES)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Outer(#[source] std::io::Error);

    fn refused() -> StoreError {
        StoreError::Unavailable(Cause::new(Outer(std::io::Error::other("connection refused"))))
    }

    #[test]
    fn a_chain_names_each_error_once_down_to_the_first() {
        let error = refused();
        assert_eq!(error.to_string(), "failed to reach the store");
        assert_eq!(chain(&error), "failed to reach the store: dispatch failure: connection refused");
        let first =
            iter::successors(Some(&error as &(dyn Error + 'static)), |error| (**error).source()).last();
        assert!(first.is_some_and(|first| first.is::<std::io::Error>()), "the source itself, not its text");
        // `WriteError::Read` is transparent.
        assert_eq!(chain(&crate::write::WriteError::Read(error.clone())), chain(&error));
        assert_eq!(error, refused());
        assert_ne!(error, StoreError::Unavailable("dispatch failure".into()));
    }

    #[test]
    fn outside_text_is_one_bounded_line() {
        let error = StoreError::Broken(format!("a\nb\u{1b}[31m{}", "é".repeat(2_000)).into());
        for text in [chain(&error), error.source().expect("its cause").to_string()] {
            assert!(text.len() <= MAX_BYTES && !text.contains(char::is_control), "{text:?}");
        }
    }
}
