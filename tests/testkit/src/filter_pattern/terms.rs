//! Turns a pattern for unstructured log events into terms that a message must, may or must not contain.

use super::PatternError;
use super::lexer::Lexer;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Terms {
    required: Vec<String>,
    optional: Vec<String>,
    excluded: Vec<String>,
}

impl Terms {
    /// A term is found anywhere, also inside a longer one: the guide's `AUTHORIZED` finds `UNAUTHORIZED`.
    pub(super) fn matches(&self, message: &str) -> bool {
        let has = |term: &String| message.contains(term.as_str());
        // The guide, under "Match optional terms": "If you combine "?" with other filter patterns, all
        // question mark terms will be ignored".
        let alone = self.required.is_empty() && self.excluded.is_empty();
        self.required.iter().all(has)
            && !self.excluded.iter().any(has)
            && (!alone || self.optional.is_empty() || self.optional.iter().any(has))
    }
}

pub(super) fn parse(lexer: &mut Lexer<'_>) -> Result<Terms, PatternError> {
    let mut terms = Terms::default();
    loop {
        lexer.skip_space();
        let Some(first) = lexer.peek() else {
            return Ok(terms);
        };
        let kind = match first {
            '?' => &mut terms.optional,
            '-' => &mut terms.excluded,
            _ => &mut terms.required,
        };
        if matches!(first, '?' | '-') {
            lexer.next();
        }
        kind.push(term(lexer)?);
        if lexer.peek().is_some_and(|c| !c.is_whitespace()) {
            return Err(lexer.expected("a space, as a term with such a character must be in double quotes"));
        }
    }
}

fn term(lexer: &mut Lexer<'_>) -> Result<String, PatternError> {
    match lexer.peek() {
        Some('"') => {
            let phrase = lexer.quoted()?;
            // `" "` is the guide's way to match everything; an empty term is found everywhere.
            Ok(if phrase.trim().is_empty() { String::new() } else { phrase })
        }
        Some('%') => Err(lexer.error("regular expressions in filter patterns are not evaluated locally")),
        _ => match lexer.take_while(|c| c.is_alphanumeric() || c == '_') {
            "" => {
                Err(lexer.expected("a term: letters, digits and underscores, or a string in double quotes"))
            }
            term => Ok(term.to_owned()),
        },
    }
}
