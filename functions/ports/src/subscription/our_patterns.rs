//! The filter patterns of our subscriptions.

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
/// Cordons and taints write no status, and do not match on purpose. Neither do dry runs, which the API server logs with code
/// 200: only the query (most verbs) or the body (kubectl's DELETE) shows that it is one.
///
/// CloudWatch Logs takes 1,024 characters.
pub const CONTROL_PLANE: &str = concat!(
    r#"{ ($.objectRef.resource = "nodes") && ($.stage = "ResponseComplete") && ($.responseStatus.code < 300) && "#,
    r#"($.requestURI != "*dryRun=*") && ($.requestObject.dryRun NOT EXISTS) && ("#,
    r#"(($.objectRef.subresource NOT EXISTS) && (($.verb = "create") || ($.verb = "delete*") || "#,
    r#"(($.verb = "update") && ($.user.username = "system:*")))) || "#,
    r#"(($.objectRef.subresource = "status") && (($.verb = "patch") || ($.verb = "update")) && "#,
    r#"(($.user.username != "system:node:*") || ($.requestObject.status.conditions[*].status = "*")))) }"#,
);
