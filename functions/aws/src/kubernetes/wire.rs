//! Parses objects of the Kubernetes API, only the fields that a drain needs.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use nodemend_domain::{
    drain::{Evicted, Node, Pod, PodId},
    ident::InstanceId,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The annotation of a mirror pod, the API object of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The most bytes of a message that is stored or shown.
const MAX_MESSAGE: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeObject {
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct NodeSpec {
    #[serde(default, rename = "providerID")]
    provider_id: String,
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Deserialize, Default)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<NodeCondition>,
}

#[derive(Deserialize)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct PodList {
    #[serde(default)]
    metadata: ListMeta,
    // `null` instead of an empty list is possible.
    items: Option<Vec<PodObject>>,
}

#[derive(Deserialize, Default)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct PodObject {
    metadata: PodMeta,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodMeta {
    namespace: String,
    name: String,
    uid: String,
    deletion_timestamp: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize, Default)]
struct PodStatus {
    #[serde(default)]
    phase: String,
}

/// The API's error object.
#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: StatusDetails,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct StatusDetails {
    causes: Option<Vec<Cause>>,
    #[serde(default)]
    retry_after_seconds: i64,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
}

pub(super) fn node(body: &[u8]) -> Result<Node, serde_json::Error> {
    let NodeObject { spec, status } = serde_json::from_slice(body)?;
    // `aws:///<zone>/<instance>`. A node without an instance, as with Fargate, is not drained.
    let instance_id = spec.provider_id.rsplit('/').next().and_then(|id| InstanceId::new(id).ok());
    let ready = status.conditions.into_iter().find(|condition| condition.kind == "Ready");
    Ok(Node { instance_id, ready: ready.map(|ready| ready.status), cordoned: spec.unschedulable })
}

/// A page of pods, and the token of the next one.
pub(super) fn pods(body: &[u8]) -> Result<(Vec<Pod>, Option<String>), serde_json::Error> {
    let list: PodList = serde_json::from_slice(body)?;
    let more = Some(list.metadata.more).filter(|more| !more.is_empty());
    Ok((list.items.unwrap_or_default().into_iter().map(pod).collect(), more))
}

fn pod(object: PodObject) -> Pod {
    let PodMeta { namespace, name, uid, deletion_timestamp, annotations, owner_references } = object.metadata;
    let controller = owner_references.unwrap_or_default().into_iter().find(|owner| owner.controller);
    Pod {
        id: PodId { namespace, name, uid },
        controller: controller.map(|owner| owner.kind),
        mirror: annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)),
        finished: matches!(object.status.phase.as_str(), "Succeeded" | "Failed"),
        terminating: deletion_timestamp.is_some(),
    }
}

pub(super) fn cordoned() -> Value {
    json!({ "spec": { "unschedulable": true } })
}

/// The eviction of this pod: the UID excludes a later pod of the same name. The pod's own grace period applies.
pub(super) fn eviction(pod: &PodId) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "namespace": pod.namespace, "name": pod.name },
        "deleteOptions": { "preconditions": { "uid": pod.uid } },
    })
}

/// The result of an eviction, or `None` if the answer is not about this pod.
pub(super) fn evicted(status: u16, body: &[u8], retry_after: Option<i64>) -> Option<Evicted> {
    let answered: Status = serde_json::from_slice(body).unwrap_or_default();
    let why = || message(status, body);
    let causes = answered.details.causes.unwrap_or_default();
    let after = retry_after.or(Some(answered.details.retry_after_seconds)).filter(|seconds| *seconds > 0);
    match status {
        200..=299 => Some(Evicted::Accepted),
        // Conflict: the UID does not match, so the pod is gone and another has its name.
        404 | 409 => Some(Evicted::Gone),
        429 => Some(Evicted::NotNow { why: why(), after: after.map(SignedDuration::from_secs) }),
        // Its namespace is being deleted, and the pod with it.
        403 if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => {
            Some(Evicted::NotNow { why: why(), after: None })
        }
        400 | 403 | 405 | 422 => Some(Evicted::Never(why())),
        // Two disruption budgets for one pod are an internal error of the API, not an overload.
        500 => Some(Evicted::NotNow { why: why(), after: None }),
        _ => None,
    }
}

/// Whether a body is the API server's own report that there is no such object. A proxy's 404 is not.
pub(super) fn is_not_found(body: &[u8]) -> bool {
    let answered: Status = serde_json::from_slice(body).unwrap_or_default();
    answered.reason == "NotFound"
}

/// The message of an answer, as one short line.
pub(super) fn message(status: u16, body: &[u8]) -> String {
    let answered: Status = serde_json::from_slice(body).unwrap_or_default();
    let text = if answered.message.is_empty() {
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_MESSAGE)]);
        format!("HTTP {status}: {text}")
    } else {
        answered.message
    };
    let text = &text[..text.floor_char_boundary(MAX_MESSAGE)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_instance_and_ready_status() {
        let read = |text: &str| node(text.as_bytes()).expect("a node");
        let full = read(
            r#"{"kind":"Node","spec":{"providerID":"aws:///eu-west-1a/i-0ab76e62066c9730c","unschedulable":true},
            "status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"Unknown"}]}}"#,
        );
        let expected = Node {
            instance_id: InstanceId::new("i-0ab76e62066c9730c").ok(),
            ready: Some("Unknown".to_owned()),
            cordoned: true,
        };
        assert_eq!(full, expected);
        let none = Node { instance_id: None, ready: None, cordoned: false };
        assert_eq!(read("{}"), none);
        assert_eq!(read(r#"{"spec":{"providerID":"aws:///eu-west-1a/fargate-ip-10-0-0-1"}}"#), none);
        assert!(node(b"[").is_err());
    }

    #[test]
    fn a_list_is_read_without_its_optional_fields() {
        let text = r#"{"metadata":{"continue":"abc"},"items":[
            {"metadata":{"namespace":"a","name":"b","uid":"c","ownerReferences":[
                {"kind":"Other"},{"kind":"DaemonSet","controller":true}]},"status":{"phase":"Running"}},
            {"metadata":{"namespace":"kube-system","name":"proxy","uid":"d",
                "annotations":{"kubernetes.io/config.mirror":"x"},"deletionTimestamp":"2026-08-20T09:55:00Z"}},
            {"metadata":{"namespace":"a","name":"job","uid":"e"},"status":{"phase":"Succeeded"}}]}"#;
        let (pods, more) = pods(text.as_bytes()).expect("pods");
        assert_eq!(more.as_deref(), Some("abc"));
        assert_eq!(pods.len(), 3);
        assert_eq!(pods[0].controller.as_deref(), Some("DaemonSet"));
        assert_eq!((pods[1].mirror, pods[1].terminating, pods[1].finished), (true, true, false));
        assert_eq!((pods[2].controller.as_deref(), pods[2].finished), (None, true));
        let (none, more) = super::pods(br#"{"items":null}"#).expect("none");
        assert_eq!((none.len(), more), (0, None));
        assert!(super::pods(br#"{"items":[{"metadata":{"name":"x"}}]}"#).is_err());
    }

    #[test]
    fn an_eviction_is_accepted_deferred_or_rejected() {
        let budget = br#"{"kind":"Status","status":"Failure","reason":"TooManyRequests","code":429,
            "message":"Cannot evict pod as it would violate the pod's disruption budget.",
            "details":{"causes":[{"reason":"DisruptionBudget","message":"needs 2"}],"retryAfterSeconds":7}}"#;
        let why = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
        let not_now = |seconds: i64| {
            Some(Evicted::NotNow { why: why.clone(), after: Some(SignedDuration::from_secs(seconds)) })
        };
        assert_eq!(evicted(201, b"{}", None), Some(Evicted::Accepted));
        assert_eq!(evicted(429, budget, None), not_now(7));
        assert_eq!(evicted(429, budget, Some(3)), not_now(3));
        assert_eq!(evicted(404, b"", None), Some(Evicted::Gone));
        assert_eq!(evicted(409, b"", None), Some(Evicted::Gone));
        let forbidden = br#"{"message":"pods \"a\" is forbidden"}"#;
        assert_eq!(evicted(403, forbidden, None), Some(Evicted::Never("pods \"a\" is forbidden".to_owned())));
        let ending = br#"{"message":"ending","details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        assert!(matches!(evicted(403, ending, None), Some(Evicted::NotNow { .. })));
        assert!(matches!(evicted(500, b"two budgets", None), Some(Evicted::NotNow { .. })));
        assert_eq!(evicted(401, b"", None), None);
        assert_eq!(evicted(503, b"", None), None);
    }
}
