//! Turns the plain form of a pattern into terms that a message must, may or must not hold.

use super::PatternError;
use super::lexer::Lexer;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Text {
    required: Vec<String>,
    optional: Vec<String>,
    excluded: Vec<String>,
}

impl Text {
    /// A term is found anywhere, also within a word: the guide's `AUTHORIZED` finds `UNAUTHORIZED`.
    pub(super) fn matches(&self, message: &str) -> bool {
        let has = |term: &String| message.contains(term.as_str());
        // "If you combine "?" with other filter patterns, all question mark terms will be ignored", says the
        // guide under "Match optional terms".
        let alone = self.required.is_empty() && self.excluded.is_empty();
        self.required.iter().all(has)
            && !self.excluded.iter().any(has)
            && (!alone || self.optional.is_empty() || self.optional.iter().any(has))
    }
}

pub(super) fn parse(lexer: &mut Lexer<'_>) -> Result<Text, PatternError> {
    let mut text = Text::default();
    loop {
        lexer.skip_space();
        let Some(first) = lexer.peek() else {
            return Ok(text);
        };
        let terms = match first {
            '?' => &mut text.optional,
            '-' => &mut text.excluded,
            _ => &mut text.required,
        };
        if matches!(first, '?' | '-') {
            lexer.next();
        }
        terms.push(term(lexer)?);
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
            "" => Err(lexer.expected("a term: letters, digits and underscores, or a text in double quotes")),
            word => Ok(word.to_owned()),
        },
    }
}
