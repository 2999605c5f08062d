//! The answers of a Kubernetes API server.

use nodemend_ports::clock::Clock;
use nodemend_testkit::http::{Answer, Request, answer};
use serde_json::{Value, json};

use crate::environment::{Environment, NODE, Pod};

/// The answer to one request.
pub(crate) fn respond(environment: &Environment, request: &Request) -> Answer {
    let now = environment.clock.now();
    let mut state = environment.state();
    state.requests.push(format!("{} {}", request.method, request.path));
    let token = request.headers.get("authorization").cloned().unwrap_or_default();
    state.tokens.push(token);
    if state.unavailable_until.is_some_and(|until| now < until) {
        return answer(503, "apiserver is shutting down");
    }
    if state.rejected_tokens > 0 {
        state.rejected_tokens -= 1;
        return status(401, "Unauthorized", json!({}));
    }
    if state.denied {
        return status(403, "nodes is forbidden: User \"nodemend\" cannot get it", json!({}));
    }
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["api", "v1", "nodes", name]) if *name == NODE && state.node_exists => {
            let dead = state.not_ready_from.is_some_and(|at| at <= now);
            let node = json!({
                "kind": "Node",
                "metadata": { "name": NODE },
                "spec": { "providerID": state.provider_id, "unschedulable": state.cordoned.is_some() },
                "status": { "conditions": [
                    { "type": "MemoryPressure", "status": "False" },
                    { "type": "Ready", "status": if dead { "Unknown" } else { state.ready } },
                ] },
            });
            answer(200, node.to_string())
        }
        ("PATCH", ["api", "v1", "nodes", name]) if *name == NODE && state.node_exists => {
            assert_eq!(request.headers["content-type"], "application/merge-patch+json");
            let patch: Value = serde_json::from_str(&request.body).expect("a patch");
            assert_eq!(patch, json!({ "spec": { "unschedulable": true } }));
            state.cordoned.get_or_insert(now);
            answer(200, "{}")
        }
        ("GET", ["api", "v1", "pods"]) => {
            assert_eq!(request.query["fieldSelector"], format!("spec.nodeName={NODE}"));
            let from = request.query.get("continue").map_or(0, |from| {
                from.strip_prefix("from=").and_then(|from| from.parse().ok()).expect("a place")
            });
            let end = (from + state.pods_a_page).min(state.pods.len());
            let items: Vec<Value> = state.pods[from.min(end)..end].iter().map(object).collect();
            let more = if end < state.pods.len() { format!("from={end}") } else { String::new() };
            answer(
                200,
                json!({ "kind": "PodList", "metadata": { "continue": more }, "items": items }).to_string(),
            )
        }
        ("POST", ["api", "v1", "namespaces", "shop", "pods", name, "eviction"]) => {
            let body: Value = serde_json::from_str(&request.body).expect("an eviction");
            assert_eq!((&body["apiVersion"], &body["kind"]), (&json!("policy/v1"), &json!("Eviction")));
            assert_eq!(body["metadata"], json!({ "namespace": "shop", "name": name }));
            let uid = body["deleteOptions"]["preconditions"]["uid"].as_str().expect("a uid");
            let name = (*name).to_owned();
            let answer = match state.pods.iter_mut().find(|pod| pod.name == name) {
                None => status(404, "pods not found", json!({})),
                Some(pod) if pod.uid != uid => {
                    status(409, "the UID in the precondition does not match", json!({}))
                }
                Some(pod) if pod.forbidden => status(403, "pods/eviction is forbidden", json!({})),
                Some(pod) if pod.budget_blocks_until.is_some_and(|until| now < until) => status(
                    429,
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    json!({ "causes": [{ "reason": "DisruptionBudget", "message": "needs 2" }] }),
                ),
                Some(pod) => {
                    pod.deleted.get_or_insert(now);
                    status(201, "", json!({}))
                }
            };
            state.evictions.push((name, answer.status));
            answer
        }
        _ => status(404, "not found", json!({})),
    }
}

fn object(pod: &Pod) -> Value {
    let annotations = if pod.mirror { json!({ "kubernetes.io/config.mirror": "0123" }) } else { json!(null) };
    let owners = pod.controller.map(|kind| json!([{ "kind": kind, "name": "x", "controller": true }]));
    json!({
        "metadata": {
            "namespace": "shop",
            "name": pod.name,
            "uid": pod.uid,
            "annotations": annotations,
            "ownerReferences": owners,
            "deletionTimestamp": pod.deleted.map(|at| at.to_string()),
        },
        "spec": { "nodeName": NODE, "volumes": [{ "name": "scratch", "emptyDir": {} }] },
        "status": { "phase": pod.phase },
    })
}

fn status(code: u16, message: &str, details: Value) -> Answer {
    let body = json!({ "kind": "Status", "code": code, "message": message, "details": details });
    answer(code, body.to_string())
}
