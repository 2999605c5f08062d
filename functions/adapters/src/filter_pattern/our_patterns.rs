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

#[cfg(test)]
mod tests {
    //! What they let through, on records as they are logged.

    use super::super::tests::{check, matches};
    use super::super::{MAX_PATTERN, Pattern};
    use super::*;

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
            ($name, include_str!(concat!("../../fixtures/audit/", $name, ".json")))
        };
    }

    /// These rest on constructed records, but for the last two; see the fixtures' README.
    #[test]
    fn the_control_plane_pattern_lets_through_what_is_acted_on() {
        assert!(CONTROL_PLANE.chars().count() <= MAX_PATTERN / 2, "there is room to narrow it further");
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
            delete.replace(r#""verb":"delete""#, r#""verb":"deletecollection""#),
            delete.replace(r#""verb":"delete""#, r#""verb":"get""#),
            delete
                .replace(r#""requestURI":"/api/v1/nodes/"#, r#""requestURI":"/api/v1/nodes/a?dryRun=All&b="#),
            delete.replace(
                r#""stage":"#,
                r#""requestObject":{"kind":"DeleteOptions","dryRun":["All"]},"stage":"#,
            ),
        ];
        for record in rows {
            assert_ne!(record, delete);
            assert!(!matches(CONTROL_PLANE, &record), "{record}");
        }
    }
}
