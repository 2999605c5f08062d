//! What the events of a real API server's audit log report about a Node, and what they do not.

use nodemend_domain::{
    condition::{ConditionType, Health},
    control_plane_log::{self, ParsedEvent},
    observation::{Deleter, Observation, Removed, StatusWriter, What},
};
use serde_json::{Value, json};

const NAME: &str = "ip-10-0-1-26.ec2.internal";
const UID: &str = "2c82579a-e0f3-4271-95aa-4250955441ca";
const ALICE: &str = "arn:aws:sts::123456789012:assumed-role/ops/alice";

/// An event of a user on the node, with these fields over the usual ones.
fn event(user: &str, verb: &str, subresource: &str, fields: Value) -> Value {
    let mut event = json!({
        "kind": "Event",
        "stage": "ResponseComplete",
        "requestURI": format!("/api/v1/nodes/{NAME}"),
        "verb": verb,
        "user": { "username": user },
        "userAgent": "kubectl/v1.33.5",
        "objectRef": { "resource": "nodes", "name": NAME, "subresource": subresource },
        "responseStatus": { "code": 200 },
        "stageTimestamp": "2026-11-29T21:15:14.000000Z",
    });
    for (name, value) in fields.as_object().expect("fields") {
        event[name] = value.clone();
    }
    event
}

fn observations(event: &Value) -> Vec<Observation> {
    match control_plane_log::read(&event.to_string()).expect("an audit event") {
        ParsedEvent::Observations(observations) => observations,
        ParsedEvent::Irrelevant(why) => panic!("irrelevant: {why}"),
    }
}

fn observation(event: &Value) -> Observation {
    observations(event).pop().expect("an observation")
}

fn irrelevant(event: &Value) -> bool {
    matches!(control_plane_log::read(&event.to_string()), Ok(ParsedEvent::Irrelevant(_)))
}

fn conditions(event: &Value) -> (Vec<(String, Health)>, Removed) {
    match observation(event).what {
        What::Conditions { conditions, removed, .. } => {
            let conditions = conditions.into_iter().map(|one| (one.condition.to_string(), one.health));
            (conditions.collect(), removed)
        }
        other => panic!("{other:?}"),
    }
}

fn kind(name: &str) -> ConditionType {
    name.parse().expect("a condition type")
}

#[test]
fn a_deletion_names_the_object_by_its_uid() {
    let answers = [
        json!({ "responseStatus": { "code": 200, "status": "Success", "details": { "uid": UID } } }),
        // A finalizer holds the object: the answer is the object itself.
        json!({ "responseObject": { "kind": "Node", "metadata": { "name": NAME, "uid": UID } } }),
    ];
    for answer in answers {
        let deleted = observation(&event(ALICE, "delete", "", answer));
        assert_eq!(deleted.uid.expect("a uid").as_str(), UID);
        assert_eq!(deleted.what, What::Deleted { by: Deleter::Manual, user: ALICE.to_owned() });
    }
    let nameless = observation(&event(ALICE, "delete", "", json!({ "responseObject": null })));
    assert_eq!(nameless.uid, None);
}

#[test]
fn a_deletion_of_a_collection_names_each_node_in_its_response() {
    // Recorded on Kubernetes 1.33.5.
    let recorded: Value = serde_json::from_str(include_str!("lines/deletecollection.json")).expect("JSON");
    let deleted = observations(&recorded);
    assert!(!deleted.is_empty());
    for observation in &deleted {
        assert!(observation.uid.is_some() && observation.instance_id.is_some(), "{observation:?}");
        assert!(matches!(observation.what, What::Deleted { by: Deleter::Manual, .. }));
    }
    // Cut above 1 MB: nothing is known of whose objects it deleted.
    let mut cut = recorded;
    cut["responseObject"] = Value::Null;
    assert!(irrelevant(&cut));
}

#[test]
fn whoever_creates_the_object_ends_its_deletion() {
    let object = json!({
        "kind": "Node",
        "metadata": { "name": NAME, "uid": UID },
        "spec": { "providerID": "aws:///us-east-1a/i-0000000000abc0001" },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    });
    let body = json!({ "responseStatus": { "code": 201 }, "responseObject": object });
    let restored = observation(&event(ALICE, "create", "", body.clone()));
    assert!(matches!(restored.what, What::Created { .. }), "{:?}", restored.what);
    assert_eq!(restored.instance_id.expect("an instance").as_str(), "i-0000000000abc0001");
    let registered = observation(&event(&format!("system:node:{NAME}"), "create", "", body.clone()));
    assert!(matches!(registered.what, What::Registered { .. }), "{:?}", registered.what);
    let mut refused = event(ALICE, "create", "", body);
    refused["responseStatus"]["code"] = 409.into();
    assert!(irrelevant(&refused), "the object exists already");
}

#[test]
fn impersonation_is_attributed_to_the_user_who_impersonates() {
    let kubelet = format!("system:node:{NAME}");
    let impersonated = |user: &str, as_user: &str, verb: &str, subresource: &str, body: Value| {
        let mut event = event(user, verb, subresource, body);
        event["impersonatedUser"] = json!({ "username": as_user });
        event
    };
    let deleted = impersonated(ALICE, "eks:cloud-controller-manager", "delete", "", json!({}));
    assert_eq!(observation(&deleted).what, What::Deleted { by: Deleter::Manual, user: ALICE.to_owned() });
    let ready =
        json!({ "requestObject": { "status": { "conditions": [{ "type": "Ready", "status": "True" }] } } });
    assert!(irrelevant(&impersonated(ALICE, &kubelet, "patch", "status", ready.clone())));
    // A kubelet's credential that impersonates somebody is no kubelet's report either.
    assert!(irrelevant(&impersonated(&kubelet, ALICE, "patch", "status", ready)));
}

#[test]
fn a_condition_that_is_taken_off_the_node_is_over() {
    let agent = "system:serviceaccount:monitoring:agent";
    let patch = |conditions: Value| {
        event(
            agent,
            "patch",
            "status",
            json!({ "requestObject": { "status": { "conditions": conditions } } }),
        )
    };
    let (kept, removed) = conditions(&patch(json!([{ "$patch": "delete", "type": "KernelReady" }])));
    assert!(kept.is_empty());
    assert_eq!(removed, Removed::Only(vec![kind("KernelReady")]));
    assert_eq!(conditions(&patch(Value::Null)), (Vec::new(), Removed::AllBut(Vec::new())));
    // A PUT, and the response to any patch, hold all that there is.
    let whole = json!({ "status": { "conditions": [{ "type": "StorageReady", "status": "True" }] } });
    for (verb, field) in [("update", "requestObject"), ("patch", "responseObject")] {
        let (kept, removed) = conditions(&event(agent, verb, "status", json!({ field: whole.clone() })));
        assert_eq!(kept, [("StorageReady".to_owned(), Health::Healthy)], "{verb}");
        assert!(removed.contains(&kind("KernelReady")) && !removed.contains(&kind("StorageReady")), "{verb}");
    }
    // A strategic merge patch does not change what it does not list.
    let (_, removed) = conditions(&patch(json!([{ "type": "StorageReady", "status": "False" }])));
    assert_eq!(removed, Removed::default());
}

#[test]
fn json_patches_are_read() {
    let agent = "system:serviceaccount:monitoring:agent";
    let patch = |operations: Value| event(agent, "patch", "status", json!({ "requestObject": operations }));
    let bad = |kind: &str| (vec![(kind.to_owned(), Health::Bad)], Removed::default());
    let kernel = json!({ "type": "KernelReady", "status": "False", "reason": "ForkFailed" });
    assert_eq!(
        conditions(&patch(json!([{ "op": "add", "path": "/status/conditions/-", "value": kernel }]))),
        bad("KernelReady")
    );
    assert_eq!(
        conditions(&patch(json!([{ "op": "replace", "path": "/status/conditions/4", "value": kernel }]))),
        bad("KernelReady")
    );
    assert_eq!(
        conditions(&patch(json!([
            { "op": "test", "path": "/status/conditions/4/type", "value": "KernelReady" },
            { "op": "replace", "path": "/status/conditions/4/status", "value": "False" },
        ]))),
        bad("KernelReady")
    );
    let (_, removed) = conditions(&patch(json!([
        { "op": "test", "path": "/status/conditions/4", "value": kernel },
        { "op": "remove", "path": "/status/conditions/4" },
    ])));
    assert_eq!(removed, Removed::Only(vec![kind("KernelReady")]));
    let (kept, removed) =
        conditions(&patch(json!([{ "op": "replace", "path": "/status/conditions", "value": [kernel] }])));
    assert_eq!(kept, bad("KernelReady").0);
    assert!(removed.contains(&kind("StorageReady")));
    // An index alone names no condition, and what a test states is no report.
    let by_index = json!([{ "op": "replace", "path": "/status/conditions/4/status", "value": "False" }]);
    assert!(irrelevant(&patch(by_index)));
    assert!(irrelevant(&patch(json!([{ "op": "test", "path": "/status/conditions/4", "value": kernel }]))));
    // Not about conditions at all.
    assert!(irrelevant(&patch(json!([{ "op": "remove", "path": "/metadata/labels/x" }]))));
}

#[test]
fn a_status_without_lists_is_read_as_an_empty_one() {
    let kubelet = format!("system:node:{NAME}");
    for body in [json!({}), json!({ "status": null }), json!({ "spec": null, "status": {} }), Value::Null] {
        let heartbeat = observation(&event(&kubelet, "patch", "status", json!({ "requestObject": body })));
        let expected = What::Conditions {
            by: StatusWriter::Kubelet,
            conditions: Vec::new(),
            removed: Removed::default(),
        };
        assert_eq!(heartbeat.what, expected, "{body}");
    }
}
