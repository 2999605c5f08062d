//! Splits a pattern's characters into the few lexemes that both of its forms share.

use super::PatternError;

#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    rest: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(pattern: &'a str) -> Self {
        Self { rest: pattern, at: 0 }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> PatternError {
        PatternError { at: self.at, message: message.into() }
    }

    /// An error that names what was expected here, and what was found.
    pub(super) fn expected(&self, what: &str) -> PatternError {
        self.error(match self.peek() {
            Some(found) => format!("expected {what}, found {found:?}"),
            None => format!("expected {what}, found the end of the pattern"),
        })
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        self.at += 1;
        Some(next)
    }

    pub(super) fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    /// Takes `what` if it comes next.
    pub(super) fn take(&mut self, what: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(what) else {
            return false;
        };
        self.rest = rest;
        self.at += what.chars().count();
        true
    }

    /// Takes characters as long as they are `wanted`.
    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.at += taken.chars().count();
        taken
    }

    /// Takes a keyword: letters only, so that `ISNULL` is not `IS`.
    pub(super) fn keyword(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphabetic())
    }

    /// Takes a string in double quotes; `\"` and `\\` are its escapes.
    pub(super) fn quoted(&mut self) -> Result<String, PatternError> {
        let start = self.clone();
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(start.error("the string is never closed")),
                Some('"') => return Ok(text),
                Some('\\') => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.next();
                        text.push(escaped);
                    }
                    _ => return Err(self.expected("a double quote or a backslash after a backslash")),
                },
                Some(other) => text.push(other),
            }
        }
    }
}
