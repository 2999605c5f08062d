//! Evaluates a pattern's conditions on a JSON message, in one pass and without building a tree of its values.
//!
//! All selectors of a pattern form one tree of steps. The message is read along that tree: the JSON reader
//! skips what no selector leads to, which is most of an audit event.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Name(String),
    Index(usize),
    /// `[*]`
    Element,
    /// `.*`
    Field,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Compare(Operator, Wanted),
    Null,
    Bool(bool),
    NotExists,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Condition(usize),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Set if an unquoted value is a number.
    pub(super) number: Option<Number>,
    text: Glob,
}

/// A string with a wildcard at its ends only. An earlier edition of the guide, under "Matching terms in JSON
/// log events": "Ev*ent will only match the actual string Ev*ent". Later editions do not contradict it.
#[derive(Debug, Clone, PartialEq)]
struct Glob {
    text: String,
    open_start: bool,
    open_end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// Whole numbers are compared exactly; an f64 would mix up account and resource numbers past 2^53.
    Whole(i128),
    Real(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        // `f64` would also read `inf`, `NaN` and `infinity`.
        if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        text.parse().ok().filter(|real: &f64| real.is_finite()).map(Self::Real)
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(left), Self::Whole(right)) => Some(left.cmp(&right)),
            _ => self.real().partial_cmp(&other.real()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with a fraction, a whole number is a real one")]
    fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }
}

impl Glob {
    fn new(pattern: &str) -> Self {
        let (open_start, text) = pattern.strip_prefix('*').map_or((false, pattern), |text| (true, text));
        let (open_end, text) = text.strip_suffix('*').map_or((false, text), |text| (true, text));
        // A lone `*` is one wildcard, not two.
        Self { text: text.to_owned(), open_start, open_end: open_end || pattern == "*" }
    }

    fn matches(&self, text: &str) -> bool {
        match (self.open_start, self.open_end) {
            (false, false) => text == self.text,
            (true, false) => text.ends_with(&self.text),
            (false, true) => text.starts_with(&self.text),
            (true, true) => text.contains(&self.text),
        }
    }

    fn open(&self) -> bool {
        self.open_start || self.open_end
    }
}

impl Wanted {
    pub(super) fn quoted(text: &str) -> Self {
        Self { number: None, text: Glob::new(text) }
    }

    pub(super) fn unquoted(text: &str) -> Self {
        Self { number: Number::parse(text), text: Glob::new(text) }
    }

    fn matches(&self, operator: Operator, value: &Value<'_>) -> bool {
        let order = match value {
            Value::Number(literal) => match (self.number, Number::parse(literal)) {
                (Some(wanted), Some(found)) => found.compare(wanted),
                (None, _) if self.text.open() && self.text.matches(literal) => Some(Ordering::Equal),
                // A number never equals a string.
                _ => None,
            },
            Value::String(text) if self.text.matches(text) => Some(Ordering::Equal),
            Value::String(_) => None,
            Value::Null | Value::Bool(_) | Value::Tree => return false,
        };
        match operator {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::NotEqual => order != Some(Ordering::Equal),
            // Only numbers have an order, even if the strings are equal.
            _ if !matches!(value, Value::Number(_)) => false,
            Operator::Less => order == Some(Ordering::Less),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Node {
    children: Vec<(Step, usize)>,
    /// The conditions whose selector ends here.
    conditions: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matcher {
    expression: Expression,
    tests: Vec<Test>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Builder {
    tests: Vec<Test>,
    nodes: Vec<Node>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { tests: Vec::new(), nodes: vec![Node::default()] }
    }
}

impl Builder {
    pub(super) fn condition(&mut self, selector: Vec<Step>, test: Test) -> Expression {
        let mut node = 0;
        for step in selector {
            let known = self.nodes[node].children.iter().find(|(other, _)| *other == step);
            node = match known {
                Some((_, child)) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes[node].children.push((step, child));
                    self.nodes.push(Node::default());
                    child
                }
            };
        }
        let condition = self.tests.len();
        self.tests.push(test);
        self.nodes[node].conditions.push(condition);
        Expression::Condition(condition)
    }

    pub(super) fn finish(self, expression: Expression) -> Matcher {
        Matcher { expression, tests: self.tests, nodes: self.nodes }
    }
}

impl Matcher {
    pub(super) fn matches(&self, message: &str) -> bool {
        // Only an object can match, and all of it must be JSON.
        if !message.trim_ascii_start().starts_with('{') {
            return false;
        }
        let mut results: Vec<bool> = self.tests.iter().map(|test| *test == Test::NotExists).collect();
        let mut json = serde_json::Deserializer::from_str(message);
        let walk = Walk { matcher: self, nodes: &[0], results: &mut results };
        if json.deserialize_any(walk).and_then(|()| json.end()).is_err() {
            return false;
        }
        is_true(&self.expression, &results)
    }
}

/// The parser's limit on parentheses also limits this recursion.
fn is_true(expression: &Expression, results: &[bool]) -> bool {
    match expression {
        Expression::Condition(condition) => results[*condition],
        Expression::All(all) => all.iter().all(|one| is_true(one, results)),
        Expression::Any(any) => any.iter().any(|one| is_true(one, results)),
    }
}

enum Value<'a> {
    Null,
    Bool(bool),
    /// The digits as they are written.
    Number(&'a str),
    String(&'a str),
    /// An array or an object: not a value node, according to the guide.
    Tree,
}

/// Reads one value along all the nodes that lead to it: more than one where a wildcard is among them.
struct Walk<'m, 't> {
    matcher: &'m Matcher,
    nodes: &'t [usize],
    results: &'t mut Vec<bool>,
}

impl Walk<'_, '_> {
    fn visit(&mut self, value: &Value<'_>) {
        for &node in self.nodes {
            for &condition in &self.matcher.nodes[node].conditions {
                match (&self.matcher.tests[condition], value) {
                    (Test::NotExists, _) => self.results[condition] = false,
                    (Test::Null, Value::Null) => self.results[condition] = true,
                    (Test::Bool(wanted), Value::Bool(found)) => self.results[condition] |= wanted == found,
                    (Test::Compare(operator, wanted), value) => {
                        self.results[condition] |= wanted.matches(*operator, value);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The nodes that a field or an element leads to. It allocates only if there is one.
    fn follow(&self, leads: impl Fn(&Step) -> bool) -> Vec<usize> {
        let children = self.nodes.iter().flat_map(|&node| &self.matcher.nodes[node].children);
        children.filter(|(step, _)| leads(step)).map(|(_, child)| *child).collect()
    }

    fn has_children(&self) -> bool {
        self.nodes.iter().any(|&node| !self.matcher.nodes[node].children.is_empty())
    }

    fn has_comparisons(&self) -> bool {
        let mut conditions = self.nodes.iter().flat_map(|&node| &self.matcher.nodes[node].conditions);
        conditions.any(|&condition| matches!(self.matcher.tests[condition], Test::Compare(..)))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        let descends = self.has_children();
        // Where nothing is compared on the way, one pass is enough: two take two thirds longer.
        if descends && !self.has_comparisons() {
            return deserializer.deserialize_any(self);
        }
        // A value that is compared is read as it is written: a number would lose digits otherwise.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes().first() {
            Some(b'"') => {
                let text: Text<'_> = serde_json::from_str(raw).map_err(D::Error::custom)?;
                self.visit(&Value::String(&text.0));
            }
            Some(b'{' | b'[') if descends => {
                let mut json = serde_json::Deserializer::from_str(raw);
                json.deserialize_any(self).map_err(D::Error::custom)?;
            }
            Some(b'{' | b'[') => self.visit(&Value::Tree),
            Some(b'n') => self.visit(&Value::Null),
            Some(b't') => self.visit(&Value::Bool(true)),
            Some(b'f') => self.visit(&Value::Bool(false)),
            _ => self.visit(&Value::Number(raw)),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.visit(&Value::Tree);
        while let Some(key) = map.next_key::<Text<'de>>()? {
            let nodes = self.follow(|step| match step {
                Step::Name(name) => *name == key.0,
                Step::Field => true,
                Step::Index(_) | Step::Element => false,
            });
            if nodes.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Walk { matcher: self.matcher, nodes: &nodes, results: self.results })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.visit(&Value::Tree);
        for index in 0.. {
            let nodes = self.follow(|step| match step {
                Step::Index(wanted) => *wanted == index,
                Step::Element => true,
                Step::Name(_) | Step::Field => false,
            });
            let more = if nodes.is_empty() {
                seq.next_element::<IgnoredAny>()?.is_some()
            } else {
                let walk = Walk { matcher: self.matcher, nodes: &nodes, results: self.results };
                seq.next_element_seed(walk)?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    // The values below are compared with nothing: `Walk::deserialize` reads those that are.

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.visit(&Value::String(text));
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.visit(&Value::Bool(value));
        Ok(())
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.visit(&Value::Null);
        Ok(())
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.visit(&Value::Number(""));
        Ok(())
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.visit(&Value::Number(""));
        Ok(())
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.visit(&Value::Number(""));
        Ok(())
    }
}
