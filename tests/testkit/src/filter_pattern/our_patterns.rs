//! What the patterns of our subscriptions let through, on records as they are logged.

use nodemend_ports::subscription::our_patterns::{AGENT, CONTROL_PLANE};

use super::{
    MAX_PATTERN, Pattern,
    tests::{check, matches},
};

#[test]
fn the_agents_pattern_lets_their_version_through_and_nothing_else() {
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

/// These rest on constructed records, but for the last two; see the fixtures' README.
#[test]
fn the_control_plane_pattern_lets_through_what_is_acted_on() {
    assert!(CONTROL_PLANE.chars().count() <= MAX_PATTERN * 3 / 4, "there is room to narrow it further");
    let pattern = Pattern::parse(CONTROL_PLANE).expect("the pattern");
    let rows = [
        (audit!("kubelet-patch-nodestatus-ready-false"), true),
        (audit!("node-controller-update-NodeStatusUnknown"), true),
        (audit!("kubelet-create-node-registration"), true),
        (audit!("ccm-delete-node-instance-gone"), true),
        (audit!("kubectl-delete-node-access-entry"), true),
        (audit!("kubelet-patch-nodestatus-heartbeat-only"), false),
        (audit!("node-manager-cordon"), false),
        (audit!("node-controller-patch-unreachable-taint"), false),
        (audit!("kubelet-csr-serving"), false),
        (audit!("kubelet-patch-podstatus"), false),
        (audit!("kubelet-lease-update-gce"), false),
    ];
    for ((name, record), expected) in rows {
        assert_eq!(pattern.matches(record), expected, "{name}");
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
        delete.replace(r#""stage":"ResponseComplete""#, r#""stage":"RequestReceived""#),
        delete.replace(r#""resource":"nodes""#, r#""resource":"nodes","subresource":"proxy""#),
        delete.replace(r#""verb":"delete""#, r#""verb":"get""#),
        delete.replace(r#""requestURI":"/api/v1/nodes/"#, r#""requestURI":"/api/v1/nodes/a?dryRun=All&b="#),
        delete
            .replace(r#""stage":"#, r#""requestObject":{"kind":"DeleteOptions","dryRun":["All"]},"stage":"#),
    ];
    for record in rows {
        assert_ne!(record, delete);
        assert!(!matches(CONTROL_PLANE, &record), "{record}");
    }
}
