//! The filter patterns of our subscriptions.

use serde_json::Value;

/// The agents' log group has only reports, and `v` is the version of their format.
pub const AGENT: &str = "{ $.v = 1 }";

/// The events of the control-plane audit log that intake applies: creations and deletions of Nodes, and writes of their
/// status. A kubelet's heartbeat is a strategic merge patch whose unchanged conditions have no status, so of a kubelet's
/// writes only those match in which at least one condition has one: this drops most of them. Other writers also take
/// conditions off a node, and write JSON patches: all their writes of a status match. The node controller was seen to write
/// the whole Node, too.
///
/// The pattern language cannot express:
/// - that a status has changed: whole updates, and agents that patch whole conditions, match at every heartbeat;
/// - that the condition with a status is of a known type: each wildcard can match another element;
/// - anything about records over 1 MB, which are truncated and not JSON.
///
/// Users of the cluster write the annotation that holds a node, or cordon it: all of their patches of a Node match, and a
/// kubelet's, which writes its status instead, so that an annotation of its own is known as such. What other accounts of the
/// system patch without a status does not match, on purpose: their taints. Neither do dry runs, which the API server logs with code
/// 200: only the query (most verbs) or the body (kubectl's DELETE) shows that it is one.
///
/// A write has a response code at its last stage alone. A line that was shortened, as in examples, may lack its URI.
///
/// CloudWatch Logs takes 1,024 characters.
pub const CONTROL_PLANE: &str = concat!(
    r#"{ ($.objectRef.resource = "nodes") && ($.responseStatus.code < 300) && "#,
    r#"(($.requestURI NOT EXISTS) || ($.requestURI != "*dryRun=*")) && ($.requestObject.dryRun NOT EXISTS) && ("#,
    r#"(($.objectRef.subresource NOT EXISTS) && (($.verb = "create") || ($.verb = "delete*") || "#,
    r#"($.verb = "update") || (($.verb = "patch") && "#,
    r#"(($.user.username != "system:*") || ($.user.username = "system:node:*"))))) || "#,
    r#"(($.objectRef.subresource = "status") && (($.verb = "patch") || ($.verb = "update")) && "#,
    r#"(($.user.username != "system:node:*") || ($.requestObject.status.conditions[*].status = "*")))) }"#,
);

/// Whether [`CONTROL_PLANE`] matches a line, where CloudWatch Logs is not there to evaluate it: in replays, and in a cluster
/// in memory. A test holds it to the pattern.
pub fn control_plane_matches(line: &str) -> bool {
    let Ok(event @ Value::Object(_)) = serde_json::from_str(line) else { return false };
    let text = |path| event.pointer(path).and_then(Value::as_str);
    let exists = |path| event.pointer(path).is_some();
    // `!=` does not match where the field is absent, a boolean or null.
    let differs = |path, is_the_same: fn(&str) -> bool| match event.pointer(path) {
        Some(Value::String(text)) => !is_the_same(text),
        Some(Value::Number(_)) => true,
        _ => false,
    };
    let carried_out = text("/objectRef/resource") == Some("nodes")
        && event.pointer("/responseStatus/code").and_then(Value::as_f64).is_some_and(|code| code < 300.0)
        && (!exists("/requestURI") || differs("/requestURI", |uri| uri.contains("dryRun=")))
        && !exists("/requestObject/dryRun");
    let verb = text("/verb").unwrap_or_default();
    let of_the_node = !exists("/objectRef/subresource")
        && (verb == "create"
            || verb.starts_with("delete")
            || verb == "update"
            || verb == "patch"
                && (differs("/user/username", |user| user.starts_with("system:"))
                    || text("/user/username").is_some_and(|user| user.starts_with("system:node:"))));
    let has_status =
        |condition: &Value| matches!(condition.get("status"), Some(Value::String(_) | Value::Number(_)));
    let of_its_status = text("/objectRef/subresource") == Some("status")
        && matches!(verb, "patch" | "update")
        && (differs("/user/username", |user| user.starts_with("system:node:"))
            || event
                .pointer("/requestObject/status/conditions")
                .and_then(Value::as_array)
                .is_some_and(|conditions| conditions.iter().any(has_status)));
    carried_out && (of_the_node || of_its_status)
}
