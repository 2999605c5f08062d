//! Formats an audit record as JSON to read: fields keep their order, and what fits on a line stays on one line.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// A JSON value whose objects keep the order of their members.
enum Tree {
    Leaf(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// One line of JSON as several, none wider than `width` where it can be broken.
pub(crate) fn format(json: &str, width: usize) -> Result<String, serde_json::Error> {
    let tree: Tree = serde_json::from_str(json)?;
    let mut text = String::new();
    tree.write(&mut text, 0, 0, width);
    Ok(text)
}

impl Tree {
    /// Writes the value after `used` columns of a line with this indent.
    fn write(&self, text: &mut String, indent: usize, used: usize, width: usize) {
        let flat = self.flat();
        if used + flat.chars().count() < width || matches!(self, Self::Leaf(_)) {
            text.push_str(&flat);
            return;
        }
        let (open, close) = if matches!(self, Self::Map(_)) { ("{", "}") } else { ("[", "]") };
        text.push_str(open);
        let inner = indent + 2;
        let mut write = |last: bool, key: &str, value: &Self| {
            text.push('\n');
            text.push_str(&" ".repeat(inner));
            text.push_str(key);
            value.write(text, inner, inner + key.chars().count(), width);
            if !last {
                text.push(',');
            }
        };
        match self {
            Self::Leaf(_) => {}
            Self::List(values) => {
                for (index, value) in values.iter().enumerate() {
                    write(index + 1 == values.len(), "", value);
                }
            }
            Self::Map(members) => {
                for (index, (key, value)) in members.iter().enumerate() {
                    write(index + 1 == members.len(), &format!("{key}: "), value);
                }
            }
        }
        text.push('\n');
        text.push_str(&" ".repeat(indent));
        text.push_str(close);
    }

    fn flat(&self) -> String {
        match self {
            Self::Leaf(text) => text.clone(),
            Self::List(values) => {
                format!("[{}]", values.iter().map(Self::flat).collect::<Vec<_>>().join(", "))
            }
            Self::Map(members) => {
                let members: Vec<_> =
                    members.iter().map(|(key, value)| format!("{key}: {}", value.flat())).collect();
                if members.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", members.join(", ")) }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(quoted(value)))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element()? {
            values.push(value);
        }
        Ok(Tree::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = access.next_entry::<String, Tree>()? {
            members.push((quoted(&key), value));
        }
        Ok(Tree::Map(members))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_on_one_line_and_members_keep_their_order() {
        let json = r#"{"b":{"y":1,"x":[]},"a":["one","two","three"],"c":null,"d":{}}"#;
        let expected = r#"{
  "b": { "y": 1, "x": [] },
  "a": [
    "one",
    "two",
    "three"
  ],
  "c": null,
  "d": {}
}"#;
        let text = format(json, 30).expect("JSON");
        assert_eq!(text, expected);
        let again: serde_json::Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(json).expect("JSON"));
        assert_eq!(
            format("[1, -2, 1.5, true, \"a\\\"b\"]", 80).expect("JSON"),
            r#"[1, -2, 1.5, true, "a\"b"]"#
        );
    }
}
