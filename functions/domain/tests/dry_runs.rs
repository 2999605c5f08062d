//! The API server logs a dry run like the deed, with code 200: it changed nothing, and must start no clock.

use nodemend_domain::control_plane_log::{self, ParsedEvent};
use serde_json::{Value, json};

fn delete(verb: &str, uri: &str, body: Value) -> ParsedEvent {
    let event = json!({
        "kind": "Event",
        "stage": "ResponseComplete",
        "requestURI": uri,
        "verb": verb,
        "user": { "username": "arn:aws:sts::123456789012:assumed-role/ops/alice" },
        "userAgent": "kubectl/v1.33.5 (linux/amd64) kubernetes/0f2a3b1",
        "objectRef": { "resource": "nodes", "name": "ip-10-0-1-26.ec2.internal", "apiVersion": "v1" },
        "responseStatus": { "metadata": {}, "status": "Success", "code": 200 },
        "requestObject": body,
        "stageTimestamp": "2026-11-29T21:15:14.000000Z",
    });
    control_plane_log::read(&event.to_string()).expect("an audit event")
}

const NODE: &str = "/api/v1/nodes/ip-10-0-1-26.ec2.internal";

#[test]
fn a_deletion_that_was_only_tried_is_no_observation() {
    let options = |dry_run: Value| json!({ "kind": "DeleteOptions", "propagationPolicy": "Background", "dryRun": dry_run });
    let query = |query: &str| format!("{NODE}?{query}");
    for (what, uri, body) in [
        ("kubectl delete --dry-run=server", NODE.to_owned(), options(json!(["All"]))),
        ("in the query", query("dryRun=All"), Value::Null),
        ("after another parameter", query("gracePeriodSeconds=0&dryRun=All"), Value::Null),
        ("percent-encoded", query("dry%52un=All"), Value::Null),
    ] {
        assert!(matches!(delete("delete", &uri, body), ParsedEvent::Irrelevant(_)), "{what}");
    }
}

#[test]
fn a_deletion_that_was_made_is_one_whatever_its_options() {
    for (what, uri, body) in [
        ("no body", NODE.to_owned(), Value::Null),
        (
            "options without dryRun",
            NODE.to_owned(),
            json!({ "kind": "DeleteOptions", "gracePeriodSeconds": 30 }),
        ),
        ("an empty dryRun", NODE.to_owned(), json!({ "kind": "DeleteOptions", "dryRun": [] })),
        ("dryRun null", NODE.to_owned(), json!({ "kind": "DeleteOptions", "dryRun": null })),
        ("a value that only looks like it", format!("{NODE}?fieldManager=dryRun=All"), Value::Null),
    ] {
        assert!(matches!(delete("delete", &uri, body), ParsedEvent::Observations(_)), "{what}");
    }
}

#[test]
fn a_status_or_a_registration_that_was_only_tried_is_no_observation() {
    let conditions =
        json!([{ "type": "NetworkingReady", "status": "False", "reason": "Broken", "message": "" }]);
    for (verb, subresource, uri) in [
        ("patch", "status", format!("{NODE}/status?dryRun=All")),
        ("update", "status", format!("{NODE}/status?dryRun=All&fieldManager=kubectl-edit")),
        ("create", "", "/api/v1/nodes?dryRun=All&fieldManager=kubelet".to_owned()),
    ] {
        let mut event = json!({
            "kind": "Event",
            "stage": "ResponseComplete",
            "requestURI": uri,
            "verb": verb,
            "user": { "username": "system:node:ip-10-0-1-26.ec2.internal" },
            "objectRef": { "resource": "nodes", "subresource": subresource, "name": "ip-10-0-1-26.ec2.internal" },
            "responseStatus": { "code": 200 },
            "requestObject": { "status": { "conditions": conditions } },
            "stageTimestamp": "2026-11-29T21:15:14.000000Z",
        });
        let read = |event: &Value| control_plane_log::read(&event.to_string()).expect("an audit event");
        assert!(matches!(read(&event), ParsedEvent::Irrelevant(_)), "{verb}");
        event["requestURI"] = json!(uri.replace("dryRun=All", "timeout=10s"));
        assert!(matches!(read(&event), ParsedEvent::Observations(_)), "{verb}");
    }
}
