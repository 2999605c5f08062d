//! A filter pattern: any text, and then any pattern that means something, by a second evaluator.

use std::fmt::Write;

use nodemend_testkit::filter_pattern::Pattern;

/// A pattern, and behind the first line break a message.
pub fn hold_text(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (pattern, message) = text.split_once('\n').unwrap_or((text, "{}"));
    match Pattern::parse(pattern) {
        Ok(parsed) => {
            let matched = parsed.matches(message);
            // Space around a pattern or a message means nothing.
            let spaced = Pattern::parse(&format!(" {pattern} "));
            assert!(spaced.is_err() || spaced.is_ok_and(|spaced| spaced.matches(message) == matched));
        }
        Err(error) => assert!(error.at <= pattern.chars().count(), "{error}"),
    }
}

/// Bytes that choose a pattern and a message: both evaluators must say the same.
pub fn hold_meaning(bytes: &[u8]) {
    let mut choose = Choices { bytes, wildcards: 3 };
    let expression = choose.expression(3);
    let message = Tree::Object(choose.fields(4));
    let mut pattern = String::from("{");
    expression.write(&mut pattern);
    pattern.push('}');
    if pattern.chars().count() > nodemend_testkit::filter_pattern::MAX_PATTERN {
        return;
    }
    let mut json = String::new();
    message.write(&mut json);
    let parsed = Pattern::parse(&pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    assert_eq!(parsed.matches(&json), expression.holds(&message), "{pattern} on {json}");
    // What is not JSON to its end matches nothing.
    assert!(!parsed.matches(&json[..json.len() - 1]), "{pattern} on a part of {json}");
}

/// Bytes as decisions; at their end everything is zero.
struct Choices<'a> {
    bytes: &'a [u8],
    wildcards: usize,
}

enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Condition(Vec<Step>, Test),
}

enum Step {
    Name(&'static str),
    Index(usize),
    Element,
    Field,
}

enum Test {
    Null,
    Bool(bool),
    NotExists,
    Compare(&'static str, Wanted),
}

/// What stands in the pattern, and whether in quotes.
struct Wanted {
    text: &'static str,
    quoted: bool,
}

enum Tree {
    Null,
    Bool(bool),
    Number(&'static str),
    Text(&'static str),
    Array(Vec<Tree>),
    Object(Vec<(&'static str, Tree)>),
}

const NAMES: [&str; 5] = ["a", "b", "c-1", "with space", "dé.f"];
const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "2",
    "10",
    "1.5",
    "-2.25",
    "9007199254740993",
    "9007199254740992",
    "123456789012345678901",
];
const TEXTS: [&str; 12] =
    ["", "1", "ab", "abc", "bc", "b", "a*c", "x\"y", "back\\slash", "1.5", "True", "ünïcode"];
const PATTERNS: [&str; 14] =
    ["", "*", "ab*", "*bc", "*b*", "a*c", "1", "1*", "*5", "x\"y", "back\\*", "**", "*ü*", "True"];
const WORDS: [&str; 9] = ["ab", "ab*", "*bc", "*b*", "1*", "*", "True", "*.5", "a*c"];

impl Choices<'_> {
    fn below(&mut self, most: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % most
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn expression(&mut self, depth: usize) -> Expression {
        match self.below(if depth == 0 { 1 } else { 4 }) {
            1 => Expression::All((0..2 + self.below(2)).map(|_| self.expression(depth - 1)).collect()),
            2 => Expression::Any((0..2 + self.below(2)).map(|_| self.expression(depth - 1)).collect()),
            _ => {
                let selector = self.selector();
                Expression::Condition(selector, self.test())
            }
        }
    }

    fn selector(&mut self) -> Vec<Step> {
        let mut steps = vec![Step::Name(self.of(&NAMES))];
        let mut wild = self.wildcards == 0;
        for _ in 0..self.below(4) {
            let step = match self.below(6) {
                0 | 1 => Step::Index(self.below(3)),
                2 if !wild => Step::Element,
                3 if !wild => Step::Field,
                _ => Step::Name(self.of(&NAMES)),
            };
            if matches!(step, Step::Element | Step::Field) {
                (wild, self.wildcards) = (true, self.wildcards - 1);
            }
            steps.push(step);
        }
        steps
    }

    fn test(&mut self) -> Test {
        match self.below(8) {
            0 => Test::Null,
            1 => Test::Bool(true),
            2 => Test::Bool(false),
            3 => Test::NotExists,
            4 => Test::Compare(
                self.of(&["<", ">", "<=", ">="]),
                Wanted { text: self.of(&NUMBERS), quoted: false },
            ),
            5 => Test::Compare(self.of(&["=", "!="]), Wanted { text: self.of(&NUMBERS), quoted: false }),
            6 => Test::Compare(self.of(&["=", "!="]), Wanted { text: self.of(&WORDS), quoted: false }),
            _ => Test::Compare(self.of(&["=", "!="]), Wanted { text: self.of(&PATTERNS), quoted: true }),
        }
    }

    fn tree(&mut self, depth: usize) -> Tree {
        match self.below(if depth == 0 { 5 } else { 9 }) {
            0 => Tree::Null,
            1 => Tree::Bool(self.below(2) == 1),
            2 | 3 => Tree::Number(self.of(&NUMBERS)),
            4 => Tree::Text(self.of(&TEXTS)),
            5 | 6 => Tree::Array((0..self.below(4)).map(|_| self.tree(depth - 1)).collect()),
            _ => Tree::Object(self.fields(depth - 1)),
        }
    }

    /// A name that comes twice means nothing that anybody promises.
    fn fields(&mut self, depth: usize) -> Vec<(&'static str, Tree)> {
        let mut fields: Vec<(&'static str, Tree)> = Vec::new();
        for _ in 0..self.below(5) {
            let name = self.of(&NAMES);
            if fields.iter().all(|(known, _)| *known != name) {
                fields.push((name, self.tree(depth)));
            }
        }
        fields
    }
}

impl Expression {
    fn write(&self, out: &mut String) {
        match self {
            Self::All(all) => Self::join(all, "&&", out),
            Self::Any(any) => Self::join(any, "||", out),
            Self::Condition(selector, test) => {
                out.push('$');
                for step in selector {
                    let written = match step {
                        Step::Name(name) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                            write!(out, ".{name}")
                        }
                        Step::Name(name) => write!(out, "['{name}']"),
                        Step::Index(index) => write!(out, "[{index}]"),
                        Step::Element => write!(out, "[*]"),
                        Step::Field => write!(out, ".*"),
                    };
                    written.expect("a String takes any write");
                }
                out.push_str(&match test {
                    Test::Null => " IS NULL".to_owned(),
                    Test::Bool(true) => " IS TRUE".to_owned(),
                    Test::Bool(false) => " IS FALSE".to_owned(),
                    Test::NotExists => " NOT EXISTS".to_owned(),
                    Test::Compare(operator, Wanted { text, quoted: false }) => format!("{operator}{text}"),
                    Test::Compare(operator, Wanted { text, .. }) => {
                        format!(" {operator} \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                    }
                });
            }
        }
    }

    fn join(parts: &[Expression], with: &str, out: &mut String) {
        for (number, part) in parts.iter().enumerate() {
            out.push_str(if number == 0 { "(" } else { with });
            // `()` says what belongs together, also where the order of && and || would.
            out.push('(');
            part.write(out);
            out.push(')');
        }
        out.push(')');
    }

    fn holds(&self, message: &Tree) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.holds(message)),
            Self::Any(any) => any.iter().any(|one| one.holds(message)),
            Self::Condition(selector, test) => {
                let found = selector.iter().fold(vec![message], |values, step| {
                    values.into_iter().flat_map(|value| value.step(step)).collect()
                });
                match test {
                    Test::NotExists => found.is_empty(),
                    test => found.into_iter().any(|value| value.passes(test)),
                }
            }
        }
    }
}

impl Tree {
    fn write(&self, out: &mut String) {
        let text = |text: &str| serde_json::to_string(text).expect("a text is JSON");
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(digits) => out.push_str(digits),
            Self::Text(value) => out.push_str(&text(value)),
            Self::Array(values) => {
                out.push('[');
                for (number, value) in values.iter().enumerate() {
                    out.push_str(if number == 0 { "" } else { ", " });
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (number, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if number == 0 { "" } else { "," });
                    out.push_str(&text(name));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn step(&self, step: &Step) -> Vec<&Tree> {
        match (self, step) {
            (Self::Object(fields), Step::Name(name)) => {
                fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect()
            }
            (Self::Object(fields), Step::Field) => fields.iter().map(|(_, value)| value).collect(),
            (Self::Array(values), Step::Index(index)) => values.get(*index).into_iter().collect(),
            (Self::Array(values), Step::Element) => values.iter().collect(),
            _ => Vec::new(),
        }
    }

    fn passes(&self, test: &Test) -> bool {
        match (self, test) {
            (Self::Null, Test::Null) => true,
            (Self::Bool(value), Test::Bool(wanted)) => value == wanted,
            (Self::Text(text), Test::Compare("=", wanted)) => wanted.is_like(text),
            (Self::Text(text), Test::Compare("!=", wanted)) => !wanted.is_like(text),
            (Self::Number(digits), Test::Compare(operator, wanted)) => {
                let order = match (decimal(wanted.text), wanted.quoted) {
                    (Some(wanted), false) => decimal(digits).map(|number| number.cmp(&wanted)),
                    _ => {
                        let wild = wanted.text.starts_with('*') || wanted.text.ends_with('*');
                        (wild && wanted.is_like(digits)).then_some(std::cmp::Ordering::Equal)
                    }
                };
                match *operator {
                    "=" => order.is_some_and(std::cmp::Ordering::is_eq),
                    "!=" => !order.is_some_and(std::cmp::Ordering::is_eq),
                    "<" => order.is_some_and(std::cmp::Ordering::is_lt),
                    ">" => order.is_some_and(std::cmp::Ordering::is_gt),
                    "<=" => order.is_some_and(std::cmp::Ordering::is_le),
                    _ => order.is_some_and(std::cmp::Ordering::is_ge),
                }
            }
            _ => false,
        }
    }
}

impl Wanted {
    /// A star is one at either end only, and anything in between.
    fn is_like(&self, text: &str) -> bool {
        match self.text {
            "*" => true,
            wanted => match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
                (Some(_), Some(_)) => text.contains(&wanted[1..wanted.len() - 1]),
                (Some(end), None) => text.ends_with(end),
                (None, Some(start)) => text.starts_with(start),
                (None, None) => text == wanted,
            },
        }
    }
}

/// A decimal number of ours, in hundredths: exact, where a float is not.
fn decimal(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{part:0<2}");
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let whole: i128 = whole.parse().ok()?;
    Some(whole * 100 + sign * part.parse::<i128>().ok()?)
}
