//! Turns a CloudWatch Logs subscription filter pattern into the decision what it would let through.
//!
//! The rules are those of "Filter pattern syntax for metric filters, subscription filters, filter log events,
//! and Live Tail" in the CloudWatch Logs User Guide, named "the guide" below. Where the guide is silent, the
//! reading that lets less through was taken, so that a pattern that is shown to work here does not rest on a
//! guess:
//!
//! - `!=` needs a value to compare: it does not match when the field is absent. The guide says so of arrays
//!   and objects ("JSON special considerations") and nothing of absent fields.
//! - A value node is a string or a number, says the guide: `=` and `!=` match neither booleans nor null, which
//!   have `IS`.
//! - A bare word of letters and digits is a string as well as, perhaps, a number: `$.a = 1` matches `1` and
//!   `"1"`, and `$.a = "1"` matches only the latter. A wildcard matches a number's digits too.
//! - A wildcard selector matches when any of the values matches, also with `!=`.
//! - Keywords are taken in capitals only, as the guide writes them.
//!
//! Regular expressions and space-delimited patterns are refused: we use neither, and a subset that is almost
//! CloudWatch's would be worse than none.

mod eval;
mod lexer;
#[cfg(test)]
mod our_patterns;
mod parser;
#[cfg(test)]
mod tests;
mod text;

use thiserror::Error;

/// The most characters of a pattern, as `PutSubscriptionFilter` has it.
pub const MAX_PATTERN: usize = 1024;

/// Why a pattern was not understood, or is not evaluated here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (at character {at})")]
pub struct PatternError {
    /// Where in the pattern, in characters from 0.
    pub at: usize,
    /// What is wrong there.
    pub message: String,
}

/// A filter pattern that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    All,
    Text(text::Text),
    Json(eval::Matcher),
}

impl Pattern {
    /// Reads a pattern as `PutSubscriptionFilter` would.
    ///
    /// # Errors
    /// When the guide does not allow the pattern, or it is of a form that is not evaluated here.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        let length = pattern.chars().count();
        if length > MAX_PATTERN {
            let message =
                format!("the pattern has {length} characters, and at most {MAX_PATTERN} are allowed");
            return Err(PatternError { at: MAX_PATTERN, message });
        }
        let mut lexer = lexer::Lexer::new(pattern);
        lexer.skip_space();
        let form = match lexer.peek() {
            None => Form::All,
            Some('{') => Form::Json(parser::parse(&mut lexer)?),
            Some('[') => return Err(lexer.error("space-delimited patterns are not evaluated locally")),
            Some(_) => Form::Text(text::parse(&mut lexer)?),
        };
        Ok(Self(form))
    }

    /// Whether a subscription with this pattern would deliver `message`.
    #[must_use]
    pub fn matches(&self, message: &str) -> bool {
        match &self.0 {
            Form::All => true,
            Form::Text(text) => text.matches(message),
            Form::Json(matcher) => matcher.matches(message),
        }
    }
}
