//! The patterns that our subscriptions have.

/// The agents' group holds nothing but reports, and `v` is the version of their format.
pub const AGENT: &str = "{ $.v = 1 }";

/// What the audit log tells about nodes that we act on: registrations, deletions, and status writes in which at
/// least one condition carries a status. A kubelet's heartbeat is a strategic merge patch whose unchanged
/// conditions carry none, so this drops the bulk of them.
///
/// It cannot say:
/// - that a status differs from the one before: a whole update, and agents that patch whole conditions, pass at
///   every heartbeat;
/// - that the condition with a status is of a type we know: each wildcard finds an element of its own;
/// - which node a `deletecollection` hits, so that verb is left out;
/// - anything about records over 1 MB, which arrive cut and are no JSON.
///
/// Cordons and taints pass no status, and are left out on purpose. So are dry runs, which the API server logs with code
/// 200: it says so in the query (most verbs) or in the body (kubectl's DELETE) alone.
pub const CONTROL_PLANE: &str = concat!(
    r#"{ ($.objectRef.resource = "nodes") && ($.stage = "ResponseComplete") && ($.responseStatus.code < 300) && "#,
    r#"($.requestURI != "*dryRun=*") && ($.requestObject.dryRun NOT EXISTS) && ("#,
    r#"(($.objectRef.subresource NOT EXISTS) && (($.verb = "create") || ($.verb = "delete"))) || "#,
    r#"(($.objectRef.subresource = "status") && (($.verb = "patch") || ($.verb = "update")) && "#,
    r#"($.requestObject.status.conditions[*].status = "*"))) }"#,
);
