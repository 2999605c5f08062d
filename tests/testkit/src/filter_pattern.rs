//! Evaluates subscription filter patterns of CloudWatch Logs: whether a subscription would deliver a message.
//!
//! The rules are those of "Filter pattern syntax for metric filters, subscription filters, filter log events,
//! and Live Tail" in the CloudWatch Logs User Guide, named "the guide" below. Where the guide specifies
//! nothing, this module delivers less rather than more, so that a pattern that is shown to work here does not
//! depend on a guess:
//!
//! - `!=` needs a value to compare: it does not match when the field is absent. The guide specifies this for
//!   arrays and objects ("JSON special considerations"), and specifies nothing for absent fields.
//! - A value node is a string or a number, according to the guide: `=` and `!=` match neither booleans nor
//!   null, which have `IS`.
//! - An unquoted value of letters and digits is a string and, if it can be read as one, also a number:
//!   `$.a = 1` matches `1` and `"1"`, and `$.a = "1"` matches only the latter. A wildcard matches a number's
//!   digits too.
//! - A wildcard selector matches when any of the values matches, also with `!=`.
//! - Keywords are accepted in capitals only, as the guide writes them.
//!
//! Regular expressions and space-delimited patterns are refused: we use neither, and a subset that is almost
//! CloudWatch's would be worse than none.

mod eval;
mod lexer;
#[cfg(test)]
mod our_patterns;
mod parser;
mod terms;
#[cfg(test)]
mod tests;

use thiserror::Error;

/// The most characters of a pattern that `PutSubscriptionFilter` accepts.
pub const MAX_PATTERN: usize = 1024;

/// Why a pattern is invalid, or is not evaluated here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (at character {at})")]
pub struct PatternError {
    /// Where in the pattern, in characters from 0.
    pub at: usize,
    /// What is wrong there.
    pub message: String,
}

/// A valid filter pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    All,
    Terms(terms::Terms),
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
            Some(_) => Form::Terms(terms::parse(&mut lexer)?),
        };
        Ok(Self(form))
    }

    /// Whether a subscription with this pattern would deliver `message`.
    #[must_use]
    pub fn matches(&self, message: &str) -> bool {
        match &self.0 {
            Form::All => true,
            Form::Terms(terms) => terms.matches(message),
            Form::Json(matcher) => matcher.matches(message),
        }
    }
}
