//! A Kubernetes audit event, by two readers: ours, which leaves as soon as it can, and one that reads the whole tree.

use std::sync::LazyLock;

use jiff::Timestamp;
use nodemend_domain::{
    control_plane_log::{self, ParsedEvent},
    observation::{Observation, ObservedCondition, StatusWriter, What},
};
use nodemend_ports::subscription::our_patterns::{CONTROL_PLANE, control_plane_matches};
use nodemend_testkit::filter_pattern::Pattern;
use serde_json::Value;

fn our_pattern() -> &'static Pattern {
    static PATTERN: LazyLock<Pattern> = LazyLock::new(|| Pattern::parse(CONTROL_PLANE).expect("our pattern"));
    &PATTERN
}

/// Bytes that stand for one line of the API server's.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(reading) = control_plane_log::read(text) else { return };
    // What is left out may be what a whole tree can't hold: half a surrogate pair, too deep a nest.
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let whole = value.to_string();
    assert_eq!(
        control_plane_matches(&whole),
        our_pattern().matches(&whole),
        "replays filter as CloudWatch Logs does"
    );
    match reading {
        ParsedEvent::Irrelevant(why) => {
            // A third party's, or a heartbeat with nothing in it: the tree alone can't tell.
            let of_conditions = value["verb"] == "patch" || value["verb"] == "update";
            assert!(of_conditions || may_be_a_dry_run(&value) || !is_about_a_node(&value), "left out: {why}");
        }
        ParsedEvent::Observations(observations) => {
            assert!(is_about_a_node(&value) && !observations.is_empty(), "{observations:?}");
            assert!(observations.len() == 1 || value["verb"] == "deletecollection", "{observations:?}");
            observations.iter().for_each(|observation| check(observation, &value));
        }
    }
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The rules of `control_plane_log`, by a reader that has everything at hand.
fn is_about_a_node(value: &Value) -> bool {
    let code = value.pointer("/responseStatus/code").and_then(Value::as_u64);
    let user = text(value, "/user/username");
    // Impersonation makes nobody a kubelet, neither the one who impersonates nor the other.
    let own = user.strip_prefix("system:node:").filter(|_| value["impersonatedUser"].is_null());
    let of_itself = own == Some(text(value, "/objectRef/name"));
    text(value, "/kind") == "Event"
        && ["", "ResponseComplete"].contains(&text(value, "/stage"))
        && text(value, "/objectRef/resource") == "nodes"
        && code.is_none_or(|code| code < 400)
        && match (text(value, "/verb"), text(value, "/objectRef/subresource")) {
            ("patch" | "update", "status") => own.is_none() || of_itself,
            // What people write on the Node itself, too.
            ("patch" | "update", "") => true,
            ("create", "") => own.is_none_or(|own| own == created_name(value)),
            ("delete", "") => true,
            ("deletecollection", "") => !listed(value, "/responseObject/items").is_empty(),
            _ => false,
        }
}

/// The name of a node that was created: `generateName` leaves the request without one.
fn created_name(value: &Value) -> &str {
    match text(value, "/objectRef/name") {
        "" if value["responseObject"].is_null() => text(value, "/requestObject/metadata/name"),
        "" => text(value, "/responseObject/metadata/name"),
        name => name,
    }
}

fn listed<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a text stands anywhere in a JSON patch: an index alone names no condition, and a `test` beside it can.
fn mentions(value: &Value, matches: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => matches(text),
        Value::Array(values) => values.iter().any(|value| mentions(value, matches)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, matches)),
        _ => false,
    }
}

/// Whether a field says so in any form: a name in the query may be escaped, and the pattern looks for a part of the text.
fn may_be_a_dry_run(value: &Value) -> bool {
    let uri = text(value, "/requestURI");
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    uri.contains("dryRun=")
        || query.contains("dryRun")
        || query.contains('%')
        || value.pointer("/requestObject/dryRun").is_some()
}

fn check(observation: &Observation, value: &Value) {
    match text(value, "/verb") {
        "deletecollection" => assert!(listed(value, "/responseObject/items").iter().any(|node| text(
            node,
            "/metadata/name"
        )
            == observation.node.as_str())),
        "create" => assert_eq!(observation.node.as_str(), created_name(value)),
        _ => assert_eq!(observation.node.as_str(), text(value, "/objectRef/name")),
    }
    let timestamp = |field| value.get(field).and_then(Value::as_str).and_then(|at| at.parse().ok());
    let at: Option<Timestamp> = timestamp("stageTimestamp").or_else(|| timestamp("requestReceivedTimestamp"));
    assert_eq!(Some(observation.at), at);
    let (conditions, by): (&[ObservedCondition], _) = match &observation.what {
        What::Conditions { conditions, by, .. } => (conditions, Some(*by)),
        What::Registered { conditions } => (conditions, None),
        What::Created { user, conditions } => {
            assert!(!user.contains(char::is_control));
            (conditions, None)
        }
        What::Marked { by: user, .. } | What::Deleted { user, .. } => {
            return assert!(!user.contains(char::is_control));
        }
    };
    let asked = listed(value, "/requestObject/status/conditions");
    let answered = listed(value, "/responseObject/status/conditions");
    let json_patch = Some(&value["requestObject"]).filter(|patch| patch.is_array());
    for condition in conditions {
        let name = condition.condition.as_str();
        assert!(
            !condition.message.contains(char::is_control) && !condition.reason.contains(char::is_control)
        );
        assert!(!name.contains(char::is_control), "{name:?}");
        // What belongs in no name is shown as a question mark. A longer name is cut, and has no polarity then but by chance.
        let shown = |c: char| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '?' };
        let is_name = |text: &str| text.chars().map(shown).collect::<String>().starts_with(name);
        let named = |one: &Value| is_name(text(one, "/type")) && one["status"].is_string();
        let in_patch = json_patch.is_some_and(|patch| mentions(patch, &is_name));
        assert!(in_patch || asked.iter().chain(answered).any(named), "{name} is nowhere in it");
    }
    // What a kubelet says goes through the pattern that our subscription has, or nobody ever hears it.
    let code = value.pointer("/responseStatus/code").and_then(Value::as_u64);
    // Every event has its request's URI. The pattern leaves dry runs out by it, and matches no event without one.
    // A kubelet sends merge patches, and never a JSON patch.
    if by == Some(StatusWriter::Kubelet)
        && !conditions.is_empty()
        && json_patch.is_none()
        && value["requestURI"].is_string()
        && !may_be_a_dry_run(value)
        && text(value, "/stage") == "ResponseComplete"
        && code.is_some_and(|code| code < 300)
    {
        assert!(our_pattern().matches(&value.to_string()), "our own pattern lets it not through");
    }
}
