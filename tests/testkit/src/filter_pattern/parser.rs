//! Turns `{ $.a.b = "x" && … }` into a matcher.
//!
//! The guide, under "compound expressions": `()` binds before `&&`, and `&&` before `||`.

use super::PatternError;
use super::eval::{Builder, Expression, Matcher, Operator, Step, Test, Wanted};
use super::lexer::Lexer;

/// How deep parentheses may be nested: the guide names no limit, and the stack has one.
const MAX_DEPTH: usize = 64;

/// The guide: "up to three wildcard selectors in a filter pattern with compound expressions".
const MAX_WILDCARDS: usize = 3;

pub(super) fn parse(lexer: &mut Lexer<'_>) -> Result<Matcher, PatternError> {
    lexer.take("{");
    let mut parser = Parser { lexer, builder: Builder::default(), wildcards: 0 };
    let expression = parser.any_of(0)?;
    let lexer = parser.lexer;
    if !lexer.take("}") {
        return Err(lexer.expected("&&, || or }"));
    }
    lexer.skip_space();
    if lexer.peek().is_some() {
        return Err(lexer.expected("nothing after the closing brace"));
    }
    Ok(parser.builder.finish(expression))
}

struct Parser<'l, 'a> {
    lexer: &'l mut Lexer<'a>,
    builder: Builder,
    wildcards: usize,
}

impl Parser<'_, '_> {
    fn any_of(&mut self, depth: usize) -> Result<Expression, PatternError> {
        let mut all = vec![self.all_of(depth)?];
        while self.lexer.take("||") {
            all.push(self.all_of(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::Any(all) })
    }

    fn all_of(&mut self, depth: usize) -> Result<Expression, PatternError> {
        let mut all = vec![self.operand(depth)?];
        while self.lexer.take("&&") {
            all.push(self.operand(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::All(all) })
    }

    fn operand(&mut self, depth: usize) -> Result<Expression, PatternError> {
        self.lexer.skip_space();
        let expression = match self.lexer.peek() {
            Some('(') => {
                if depth == MAX_DEPTH {
                    let message = format!("parentheses are nested more than {MAX_DEPTH} deep");
                    return Err(self.lexer.error(message));
                }
                self.lexer.next();
                let inner = self.any_of(depth + 1)?;
                if !self.lexer.take(")") {
                    return Err(self.lexer.expected("&&, || or )"));
                }
                inner
            }
            Some('$') => {
                let selector = self.selector()?;
                let test = self.test()?;
                self.builder.condition(selector, test)
            }
            _ => return Err(self.lexer.expected("a selector that starts with $, or (")),
        };
        self.lexer.skip_space();
        Ok(expression)
    }

    fn selector(&mut self) -> Result<Vec<Step>, PatternError> {
        let start = self.lexer.clone();
        self.lexer.next();
        let mut steps = Vec::new();
        loop {
            let dotted = self.lexer.take(".");
            match self.lexer.peek() {
                Some('[') => {
                    let bracket = self.lexer.clone();
                    let step = self.bracket()?;
                    let array = matches!(step, Step::Index(_) | Step::Element);
                    if array && (dotted || steps.is_empty()) {
                        return Err(bracket.error("an array element must follow the name of a property"));
                    }
                    steps.push(step);
                }
                Some('*') if dotted => {
                    self.lexer.next();
                    steps.push(Step::Field);
                }
                _ if dotted => {
                    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                    match self.lexer.take_while(name) {
                        "" => return Err(self.lexer.expected("the name of a property after the dot")),
                        name => steps.push(Step::Name(name.to_owned())),
                    }
                }
                _ if steps.is_empty() => return Err(self.lexer.expected("a dot after $")),
                _ => break,
            }
        }
        let wildcards = steps.iter().filter(|step| matches!(step, Step::Field | Step::Element)).count();
        if wildcards > 1 {
            return Err(start.error("a selector may have only one wildcard"));
        }
        self.wildcards += wildcards;
        if self.wildcards > MAX_WILDCARDS {
            return Err(start.error(format!("a pattern may have only {MAX_WILDCARDS} wildcard selectors")));
        }
        Ok(steps)
    }

    fn bracket(&mut self) -> Result<Step, PatternError> {
        self.lexer.next();
        let step = match self.lexer.peek() {
            Some('*') => {
                self.lexer.next();
                Step::Element
            }
            Some('\'') => {
                let start = self.lexer.clone();
                self.lexer.next();
                let name = self.lexer.take_while(|c| c != '\'').to_owned();
                if !self.lexer.take("'") {
                    return Err(start.error("the name is never closed"));
                }
                Step::Name(name)
            }
            Some('"') => return Err(self.lexer.error("a name in brackets is written in single quotes")),
            _ => {
                let start = self.lexer.clone();
                let digits = self.lexer.take_while(|c| c.is_ascii_digit());
                let expected = || start.expected("the number of an element, * or a name in single quotes");
                Step::Index(digits.parse().map_err(|_| expected())?)
            }
        };
        if !self.lexer.take("]") {
            return Err(self.lexer.expected("]"));
        }
        Ok(step)
    }

    fn test(&mut self) -> Result<Test, PatternError> {
        self.lexer.skip_space();
        let start = self.lexer.clone();
        let operator = if self.lexer.take("!=") {
            Operator::NotEqual
        } else if self.lexer.take("<=") {
            Operator::LessOrEqual
        } else if self.lexer.take(">=") {
            Operator::GreaterOrEqual
        } else if self.lexer.take("=") {
            Operator::Equal
        } else if self.lexer.take("<") {
            Operator::Less
        } else if self.lexer.take(">") {
            Operator::Greater
        } else {
            return self.keywords(&start);
        };
        self.lexer.skip_space();
        let start = self.lexer.clone();
        let wanted = self.wanted()?;
        let orders = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if orders && wanted.number.is_none() {
            return Err(start.expected("a number, as only numbers have an order"));
        }
        Ok(Test::Compare(operator, wanted))
    }

    fn keywords(&mut self, start: &Lexer<'_>) -> Result<Test, PatternError> {
        let first = self.lexer.keyword();
        self.lexer.skip_space();
        match first {
            "IS" => match self.lexer.clone().keyword() {
                "NULL" => self.keyword(Test::Null),
                "TRUE" => self.keyword(Test::Bool(true)),
                "FALSE" => self.keyword(Test::Bool(false)),
                "NOT" => Err(start.error("IS NOT is not supported by CloudWatch Logs")),
                _ => Err(self.lexer.expected("NULL, TRUE or FALSE")),
            },
            "NOT" => match self.lexer.clone().keyword() {
                "EXISTS" => self.keyword(Test::NotExists),
                _ => Err(self.lexer.expected("EXISTS")),
            },
            "EXISTS" => Err(start.error("EXISTS is not supported by CloudWatch Logs: use = \"*\"")),
            _ => Err(start.expected("=, !=, <, >, <=, >=, IS or NOT EXISTS")),
        }
    }

    fn keyword(&mut self, test: Test) -> Result<Test, PatternError> {
        self.lexer.keyword();
        Ok(test)
    }

    fn wanted(&mut self) -> Result<Wanted, PatternError> {
        match self.lexer.peek() {
            Some('"') => Ok(Wanted::quoted(&self.lexer.quoted()?)),
            Some('%') => {
                Err(self.lexer.error("regular expressions in filter patterns are not evaluated locally"))
            }
            _ => {
                let start = self.lexer.clone();
                // The guide's own example `123.123.*` has no quotes, although the guide requires them around
                // anything but letters, digits and underscores.
                let unquoted =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '*' | '.' | '+' | '-');
                let text = self.lexer.take_while(unquoted);
                let wanted = Wanted::unquoted(text);
                if text.is_empty() {
                    Err(start.expected("a number, an unquoted string or a string in double quotes"))
                } else if wanted.number.is_none() && text.contains(['+', '-']) {
                    Err(start
                        .error(format!("{text:?} is not a number, and a string must be in double quotes")))
                } else {
                    Ok(wanted)
                }
            }
        }
    }
}
