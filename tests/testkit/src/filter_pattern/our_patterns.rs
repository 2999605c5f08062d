//! What the patterns of our subscriptions deliver, tested with log lines of agents and of the control plane.

use std::{fs, path::Path};

use nodemend_ports::subscription::our_patterns::{AGENT, CONTROL_PLANE, control_plane_matches};
use serde_json::{Value, json};

use super::{
    MAX_PATTERN, Pattern,
    tests::{check, matches},
};

#[test]
fn the_agents_pattern_delivers_their_version_and_nothing_else() {
    check(&[
        (AGENT, r#"{"v":1,"kind":"report"}"#, true),
        (AGENT, r#"{"kind":"report","v":1}"#, true),
        (AGENT, r#"{"v":2,"kind":"report"}"#, false),
        (AGENT, r#"{"v":10}"#, false),
        (AGENT, r#"{"kind":{"v":1}}"#, false),
        (AGENT, "panicked at src/main.rs", false),
    ]);
}

macro_rules! audit {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../functions/ports/fixtures/audit/", $name, ".json")))
    };
}

/// All but the last two use constructed events; see the fixtures' README.
#[test]
fn the_control_plane_pattern_delivers_what_intake_uses() {
    assert!(CONTROL_PLANE.chars().count() <= MAX_PATTERN * 3 / 4, "there must be room to narrow it further");
    let pattern = Pattern::parse(CONTROL_PLANE).expect("the pattern");
    let rows = [
        (audit!("kubelet-patch-nodestatus-ready-false"), true),
        (audit!("node-controller-update-NodeStatusUnknown"), true),
        (audit!("kubelet-create-node-registration"), true),
        (audit!("ccm-delete-node-instance-gone"), true),
        (audit!("kubectl-delete-node-access-entry"), true),
        (audit!("kubelet-patch-nodestatus-heartbeat-only"), false),
        (audit!("node-manager-cordon"), true),
        (audit!("node-controller-patch-unreachable-taint"), false),
        (audit!("kubelet-csr-serving"), false),
        (audit!("kubelet-patch-podstatus"), false),
        (audit!("kubelet-lease-update-gce"), false),
    ];
    for ((name, event), expected) in rows {
        assert_eq!(pattern.matches(event), expected, "{name}");
    }
}

#[test]
fn the_control_plane_pattern_drops_what_failed_and_what_only_looks_alike() {
    let (_, delete) = audit!("kubectl-delete-node-access-entry");
    let rows = [
        delete.replace(
            r#""responseStatus":{"metadata":{},"status":"Success","code":200"#,
            r#""responseStatus":{"code":403"#,
        ),
        // An earlier stage has no response.
        delete.replace(r#""responseStatus":"#, r#""requestedStatus":"#),
        delete.replace(r#""resource":"nodes""#, r#""resource":"nodes","subresource":"proxy""#),
        delete.replace(r#""verb":"delete""#, r#""verb":"get""#),
        delete.replace(r#""requestURI":"/api/v1/nodes/"#, r#""requestURI":"/api/v1/nodes/a?dryRun=All&b="#),
        delete
            .replace(r#""stage":"#, r#""requestObject":{"kind":"DeleteOptions","dryRun":["All"]},"stage":"#),
    ];
    for event in rows {
        assert_ne!(event, delete);
        assert!(!matches(CONTROL_PLANE, &event), "{event}");
    }
}

#[test]
fn the_control_plane_pattern_delivers_a_shortened_line() {
    let (_, delete) = audit!("kubectl-delete-node-access-entry");
    let mut event: Value = serde_json::from_str(delete).expect("JSON");
    let event_fields = event.as_object_mut().expect("an object");
    for field in ["stage", "requestURI", "auditID", "level"] {
        event_fields.remove(field);
    }
    assert!(matches(CONTROL_PLANE, &event.to_string()));
}

/// The audit events of every incident in `events/`, and the fixtures.
fn audit_events() -> Vec<Value> {
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let files = fs::read_dir(events).expect("events/").map(|entry| entry.expect("an entry").path());
    let lines = files.filter_map(|path| fs::read_to_string(path.join("events.jsonl")).ok());
    let mut found = Vec::new();
    for value in lines.flat_map(|text| text.lines().map(serde_json::from_str).collect::<Vec<_>>()) {
        let value: Value = value.expect("JSON");
        let message = value["message"].as_str().map(|message| serde_json::from_str(message).expect("JSON"));
        found.push(message.unwrap_or(value));
    }
    let (_, fixture) = audit!("kubelet-lease-update-gce");
    found.push(serde_json::from_str(fixture).expect("JSON"));
    found.retain(|value| value["kind"] == "Event");
    found
}

/// Replays use a native matcher instead of CloudWatch Logs. It decides as the pattern does for any value of a
/// field.
#[test]
fn the_native_matcher_decides_as_the_control_plane_pattern() {
    let pattern = Pattern::parse(CONTROL_PLANE).expect("the pattern");
    let fields = [
        "/objectRef/resource",
        "/objectRef/subresource",
        "/responseStatus/code",
        "/requestURI",
        "/requestObject/dryRun",
        "/requestObject/status/conditions",
        "/requestObject/status/conditions/0/status",
        "/requestObject",
        "/user/username",
        "/verb",
    ];
    let values = [
        json!(null),
        json!(true),
        json!(""),
        json!(201),
        json!(299.5),
        json!(404),
        json!([]),
        json!({}),
        json!("nodes"),
        json!("status"),
        json!("create"),
        json!("deletecollection"),
        json!("update"),
        json!("system:node:a"),
        json!("system:serviceaccount:a:b"),
        json!("/api/v1/nodes/a?dryRun=All"),
        json!([{ "type": "Ready", "status": "True" }, null, "status"]),
        json!([{ "type": "Ready" }]),
    ];
    let events = audit_events();
    let (mut matched, mut compared) = (0, 0);
    let mut compare = |line: &str| {
        let expected = pattern.matches(line);
        assert_eq!(control_plane_matches(line), expected, "{line}");
        matched += usize::from(expected);
        compared += 1;
    };
    for (number, event) in events.iter().enumerate() {
        compare(&event.to_string());
        // Each field with each value, on every ninth event: they are of few kinds.
        for (path, value) in fields.iter().flat_map(|path| values.iter().map(move |value| (path, value))) {
            let (parent, name) = path.rsplit_once('/').expect("a path");
            if number % 9 != 0 {
                break;
            }
            let mut changed = event.clone();
            match changed.pointer_mut(parent) {
                Some(Value::Object(parent)) => drop(parent.insert(name.to_owned(), value.clone())),
                Some(_) | None => continue,
            }
            compare(&changed.to_string());
            if let Some(Value::Object(parent)) = changed.pointer_mut(parent) {
                parent.remove(name);
            }
            compare(&changed.to_string());
        }
    }
    for line in ["", "[]", "\"nodes\"", "{", "{} {}"] {
        compare(line);
    }
    assert!(matched > 1_000 && compared - matched > 1_000, "{matched} of {compared} match");
}
