//! What people write on a Node object itself: an annotation that holds it, and a cordon.
//!
//! The annotation `nodemend.io/hold: "<until> <reason>"` needs no access to nodemend: whoever may write the Node can place
//! it. Its author is the user of the audit event that set it; a Node that was only read does not name one.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ident::NodeName, timestamp};

/// The annotation that holds a node.
pub const HOLD_ANNOTATION: &str = "nodemend.io/hold";
/// How long a node is held whose annotation has no end that can be read.
pub const UNREADABLE_FOR: SignedDuration = SignedDuration::from_hours(24);
/// The most characters of an annotation that are kept.
const MAX_TEXT: usize = 256;
/// The most characters of a user's name that are kept.
const MAX_USER: usize = 128;
/// A list of Nodes can be older than a line of the audit log by so much.
const CACHE_AGE: SignedDuration = SignedDuration::from_mins(1);

/// The marks on one Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeMarks {
    /// The annotation's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<Mark>,
    /// Empty text: the node is cordoned.
    #[serde(skip_serializing_if = "Option::is_none")]
    cordon: Option<Mark>,
}

/// One mark, as it was last set or taken off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// None: it was taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Box<str>>,
    /// When it was first seen so.
    #[serde(with = "timestamp")]
    at: Timestamp,
    /// The user of the audit event that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Box<str>>,
}

/// What a write of a Node changes of its marks. `None`: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkChange {
    /// The annotation's value; `Some(None)`: it was taken off.
    pub hold: Option<Option<String>>,
    /// Whether it was cordoned or uncordoned.
    pub cordoned: Option<bool>,
}

/// A hold that the annotation of a Node places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHold {
    /// Who set it, as a clause for operators.
    pub who: String,
    /// Whether a person is known to have set it: a user of the cluster that is no kubelet and no account of the system.
    pub by_a_person: bool,
    /// The end.
    pub until: Timestamp,
    /// The reason, or why it cannot be read.
    pub reason: String,
}

impl MarkChange {
    /// What the request of an update, a merge patch or a JSON patch changes. A whole object sets all marks.
    pub fn of_request(request: &Value, whole: bool) -> Self {
        match request {
            Value::Array(operations) => Self::of_operations(operations),
            object => Self::of_object(object, whole),
        }
    }

    fn of_object(object: &Value, whole: bool) -> Self {
        let annotations = object.pointer("/metadata/annotations");
        let hold = match annotations {
            Some(Value::Object(annotations)) => annotations.get(HOLD_ANNOTATION).map(text_of),
            // All of them are taken off.
            Some(Value::Null) => Some(None),
            _ => None,
        };
        let cordoned = object.pointer("/spec/unschedulable").map(|cordoned| *cordoned == Value::Bool(true));
        Self { hold: hold.or(whole.then_some(None)), cordoned: cordoned.or(whole.then_some(false)) }
    }

    fn of_operations(operations: &[Value]) -> Self {
        let mut change = Self::default();
        for operation in operations {
            let text = |member: &str| operation.get(member).and_then(Value::as_str).unwrap_or_default();
            let value = match text("op") {
                "add" | "replace" => operation.get("value").unwrap_or(&Value::Null),
                "remove" => &Value::Null,
                _ => continue,
            };
            match text("path") {
                "/metadata/annotations/nodemend.io~1hold" => change.hold = Some(text_of(value)),
                "/metadata/annotations" => change.hold = Some(value.get(HOLD_ANNOTATION).and_then(text_of)),
                "/spec/unschedulable" => change.cordoned = Some(*value == Value::Bool(true)),
                _ => {}
            }
        }
        change
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The text of an annotation, shortened and without control characters.
pub fn annotation_text(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(annotation_text)
}

impl NodeMarks {
    /// Whether nothing was ever marked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies a write that the audit log has.
    pub(crate) fn apply(&mut self, change: &MarkChange, by: &str, at: Timestamp) {
        let by: Box<str> = by.chars().take(MAX_USER).collect();
        if let Some(hold) = &change.hold {
            note(&mut self.hold, hold.as_deref(), Some(&by), at);
        }
        if let Some(cordoned) = change.cordoned {
            note(&mut self.cordon, cordoned.then_some(""), Some(&by), at);
        }
    }

    /// Applies the marks of a Node that was read. One from a cache can be older than the newest line.
    pub(crate) fn apply_current(
        &mut self,
        hold: Option<&str>,
        cordoned: bool,
        cached: bool,
        read_at: Timestamp,
    ) {
        for (mark, text) in [(&mut self.hold, hold), (&mut self.cordon, cordoned.then_some(""))] {
            let newer = |known: &Mark| cached && read_at.duration_since(known.at) < CACHE_AGE;
            if !mark.as_ref().is_some_and(newer) {
                note(mark, text, None, read_at);
            }
        }
    }

    /// Forgets what was written on an earlier Node object.
    pub(crate) fn begin_node_object(&mut self, at: Timestamp) {
        for mark in [&mut self.hold, &mut self.cordon] {
            mark.take_if(|mark| mark.at < at);
        }
    }

    /// The hold that the annotation places on this node, whether or not it is over.
    pub fn hold(&self, node: Option<&NodeName>) -> Option<NodeHold> {
        let mark = self.hold.as_ref()?;
        let text = mark.text.as_deref()?;
        let (end, reason) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let (until, reason) = match end.parse::<Timestamp>() {
            Ok(until) if reason.trim().is_empty() => (until, "no reason given".to_owned()),
            Ok(until) => (until, reason.trim().to_owned()),
            Err(_) => (
                mark.at.checked_add(UNREADABLE_FOR).unwrap_or(Timestamp::MAX),
                format!(
                    "{text:?} does not begin with a time like 2026-12-01T08:00:00Z, so it is held for 24h"
                ),
            ),
        };
        Some(NodeHold { who: mark.who(node), by_a_person: mark.is_by_a_person(), until, reason })
    }

    /// Who cordoned the node, if it is cordoned, as a clause.
    pub fn cordoned_by(&self, node: Option<&NodeName>) -> Option<String> {
        let mark = self.cordon.as_ref().filter(|mark| mark.text.is_some())?;
        Some(mark.who(node))
    }
}

impl Mark {
    fn who(&self, node: Option<&NodeName>) -> String {
        match (self.by.as_deref(), self.kubelet()) {
            (None, _) => "somebody whose write the audit log did not show".to_owned(),
            (Some(user), Some(kubelet)) if node.is_some_and(|node| node.as_str() == kubelet) => {
                format!("the node's own kubelet ({user})")
            }
            (Some(user), _) => user.to_owned(),
        }
    }

    fn kubelet(&self) -> Option<&str> {
        self.by.as_deref()?.strip_prefix("system:node:")
    }

    fn is_by_a_person(&self) -> bool {
        self.by.as_deref().is_some_and(|user| !user.starts_with("system:"))
    }
}

/// Notes the state of a mark. What is known already keeps its time, and gets its author.
fn note(mark: &mut Option<Mark>, text: Option<&str>, by: Option<&str>, at: Timestamp) {
    match mark {
        Some(known) if known.text.as_deref() == text => {
            if known.by.is_none() && at <= known.at {
                known.by = by.map(Into::into);
            }
            known.at = known.at.min(at);
        }
        Some(known) if known.at > at => {}
        None if text.is_none() => {}
        _ => *mark = Some(Mark { text: text.map(Into::into), at, by: by.map(Into::into) }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
    }

    fn hold_of(text: &str) -> NodeHold {
        let mut marks = NodeMarks::default();
        marks.apply_current(Some(text), false, false, at(0));
        marks.hold(None).expect("a hold")
    }

    #[test]
    fn an_annotation_that_cannot_be_read_holds_for_a_day_and_says_so() {
        let hold = hold_of("2026-12-01T08:00:00Z  kernel test ");
        assert_eq!(
            (hold.until, hold.reason.as_str()),
            ("2026-12-01T08:00:00Z".parse().expect("a time"), "kernel test")
        );
        assert_eq!(hold_of("2026-12-01T08:00:00+01:00").reason, "no reason given");
        for text in ["", "tomorrow", "2026-12-01", "kernel test", "true"] {
            let hold = hold_of(text);
            assert_eq!(hold.until, at(24 * 60), "{text}");
            assert!(hold.reason.contains("24h"), "{hold:?}");
        }
    }

    #[test]
    fn reading_the_same_annotation_again_does_not_prolong_it() {
        let mut marks = NodeMarks::default();
        marks.apply_current(Some("forever"), false, false, at(0));
        marks.apply_current(Some("forever"), false, false, at(600));
        assert_eq!(marks.hold(None).expect("a hold").until, at(24 * 60));
        marks.apply_current(None, false, false, at(700));
        assert_eq!(marks.hold(None), None);
    }

    #[test]
    fn the_author_is_the_one_of_the_line_in_any_order() {
        let change = MarkChange { hold: Some(Some("x".to_owned())), cordoned: Some(true) };
        let mut late = NodeMarks::default();
        late.apply_current(Some("x"), true, false, at(5));
        late.apply(&change, "alice", at(4));
        let mut early = NodeMarks::default();
        early.apply(&change, "alice", at(4));
        early.apply_current(Some("x"), true, false, at(5));
        assert_eq!(late, early);
        let hold = late.hold(None).expect("a hold");
        assert_eq!((hold.who.as_str(), hold.by_a_person), ("alice", true));
        assert_eq!(late.cordoned_by(None).as_deref(), Some("alice"));
        // Another label of the same node changes no author; an older line undoes nothing.
        late.apply(&MarkChange { hold: Some(Some("x".to_owned())), cordoned: None }, "bob", at(6));
        late.apply(&MarkChange { hold: Some(None), cordoned: Some(false) }, "bob", at(3));
        assert_eq!(late, early);
    }

    #[test]
    fn a_kubelet_is_named_as_such_and_is_no_person() {
        let node = NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name");
        let mut marks = NodeMarks::default();
        let change = MarkChange { hold: Some(Some("x".to_owned())), cordoned: None };
        marks.apply(&change, "system:node:ip-10-0-0-1.ec2.internal", at(0));
        let hold = marks.hold(Some(&node)).expect("a hold");
        assert!(hold.who.starts_with("the node's own kubelet") && !hold.by_a_person, "{hold:?}");
    }

    #[test]
    fn a_cached_list_does_not_undo_a_newer_line() {
        let mut marks = NodeMarks::default();
        marks.apply(&MarkChange { hold: Some(Some("x".to_owned())), cordoned: None }, "alice", at(0));
        marks.apply_current(None, false, true, at(0) + SignedDuration::from_secs(30));
        assert!(marks.hold(None).is_some());
        marks.apply_current(None, false, true, at(5));
        assert!(marks.hold(None).is_none());
    }

    #[test]
    fn every_form_of_a_write_is_read() {
        let held = |text: &str| MarkChange { hold: Some(Some(text.to_owned())), cordoned: None };
        let off = MarkChange { hold: Some(None), cordoned: None };
        for (request, whole, expected) in [
            (json!({"metadata":{"annotations":{"nodemend.io/hold":"x"}}}), false, held("x")),
            (json!({"metadata":{"annotations":{"nodemend.io/hold":null}}}), false, off.clone()),
            (json!({"metadata":{"annotations":{"other":"x"}}}), false, MarkChange::default()),
            (json!({"metadata":{"annotations":null}}), false, off.clone()),
            (json!({"spec":{"unschedulable":true}}), false, MarkChange { hold: None, cordoned: Some(true) }),
            (json!({"spec":{"unschedulable":null}}), false, MarkChange { hold: None, cordoned: Some(false) }),
            (json!({"metadata":{"labels":{"a":"b"}}}), false, MarkChange::default()),
            (
                json!({"metadata":{"name":"n"},"spec":{}}),
                true,
                MarkChange { hold: Some(None), cordoned: Some(false) },
            ),
            (
                json!([{"op":"add","path":"/metadata/annotations/nodemend.io~1hold","value":"x"}]),
                false,
                held("x"),
            ),
            (json!([{"op":"remove","path":"/metadata/annotations/nodemend.io~1hold"}]), false, off),
            (json!([{"op":"test","path":"/spec/unschedulable","value":true}]), false, MarkChange::default()),
            (
                json!([{"op":"replace","path":"/spec/unschedulable","value":true}]),
                false,
                MarkChange { hold: None, cordoned: Some(true) },
            ),
        ] {
            assert_eq!(MarkChange::of_request(&request, whole), expected, "{request}");
        }
    }
}
