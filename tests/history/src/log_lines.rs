//! Turns the state of an instance into the log lines that its agent and the API server write about it.

use std::io::Write;

use jiff::Timestamp;

use super::{Fault, FaultKind, Instance, MINUTE, START};

/// A time in seconds since [`START`], as `2026-07-01T00:05:00`.
pub(super) fn timestamp(at: i64) -> impl std::fmt::Display {
    Timestamp::from_second(START + at).expect("a time").strftime("%Y-%m-%dT%H:%M:%S")
}

/// Appends the fields of a condition in an agent's report: False because of the fault, or healthy if there is
/// none.
pub(super) fn condition_fields(
    line: &mut Vec<u8>,
    condition: &str,
    fault: Option<&Fault>,
    healthy_since: i64,
    now: i64,
) {
    let _ = match fault {
        None => {
            write!(
                line,
                r#""condition":"{condition}","status":"True","since":"{}.000Z""#,
                timestamp(healthy_since)
            )
        }
        Some(Fault { from, kind: FaultKind::Agent(_, reason), .. }) => write!(
            line,
            r#""condition":"{condition}","status":"False","since":"{0}.000Z","findings":[{{"reason":"{reason}","severity":"Condition","since":"{0}.000Z","last":"{1}.000Z","count":{2},"message":"example"}}]"#,
            timestamp(*from),
            timestamp(now),
            1 + (now - from) / MINUTE,
        ),
        Some(_) => Ok(()),
    };
}

/// A request to the API server, as its audit event has it.
struct Request<'a> {
    level: &'a str,
    verb: &'a str,
    user: &'a str,
    object: &'a str,
    code: u16,
    /// The bodies of the request and of the response, as fields of the event.
    bodies: &'a str,
}

/// An audit event as the API server writes it.
fn event(Request { level, verb, user, object, code, bodies }: &Request<'_>, at: i64) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"0e507148-8b16-4dfb-934b-{at:012x}","stage":"ResponseComplete","requestURI":"/api/v1/nodes?timeout=10s","verb":"{verb}","user":{user},"sourceIPs":["10.0.10.170"],"userAgent":"kubelet/v1.31.13 (linux/amd64) kubernetes/ecaa3a6","objectRef":{object},"responseStatus":{{"metadata":{{}},"code":{code}}},{bodies}"requestReceivedTimestamp":"{0}.014671Z","stageTimestamp":"{0}.021370Z","annotations":{{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}}}"#,
        timestamp(at)
    )
}

fn user(instance: &Instance) -> String {
    format!(
        r#"{{"username":"system:node:{}","uid":"aws-iam-authenticator:123456789012:AROA2PRXA4MTEFOJD26WP","groups":["system:nodes","system:authenticated"],"extra":{{"accessKeyId":["ASIAIOSFODNN7EXAMPLE"],"arn":["arn:aws:sts::123456789012:assumed-role/main-eks-node-group/{1}"],"canonicalArn":["arn:aws:iam::123456789012:role/main-eks-node-group"],"principalId":["AROA2PRXA4MTEFOJD26WP"],"sessionName":["{1}"],"sigs.k8s.io/aws-iam-authenticator/principalId":["AROA2PRXA4MTEFOJD26WP"]}}}}"#,
        instance.node, instance.id
    )
}

pub(super) fn kubelet_request(
    instance: &Instance,
    verb: &str,
    subresource: &str,
    status: &str,
    at: i64,
) -> String {
    let subresource =
        if subresource.is_empty() { String::new() } else { format!(r#","subresource":"{subresource}""#) };
    let object =
        format!(r#"{{"resource":"nodes","name":"{}","apiVersion":"v1"{subresource}}}"#, instance.node);
    let spec = if verb == "create" {
        format!(r#""spec":{{"providerID":"aws:///{}/{}"}},"#, instance.zone, instance.id)
    } else {
        String::new()
    };
    let bodies = format!(r#""requestObject":{{{spec}"status":{status}}},"#);
    let code = if verb == "create" { 201 } else { 200 };
    let user = &user(instance);
    event(&Request { level: "Request", verb, user, object: &object, code, bodies: &bodies }, at)
}

const ORDER: &str = r#""$setElementOrder/conditions":[{"type":"MemoryPressure"},{"type":"DiskPressure"},{"type":"PIDPressure"},{"type":"Ready"}]"#;

pub(super) fn kubelet_heartbeat(instance: &Instance, at: i64) -> String {
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .map(|kind| format!(r#"{{"lastHeartbeatTime":"{}Z","type":"{kind}"}}"#, timestamp(at)));
    kubelet_request(
        instance,
        "patch",
        "status",
        &format!(r#"{{{ORDER},"conditions":[{}]}}"#, conditions.join(",")),
        at,
    )
}

pub(super) fn kubelet_ready(
    instance: &Instance,
    status: &str,
    reason: &str,
    message: &str,
    at: i64,
) -> String {
    let condition = format!(
        r#"{{"lastHeartbeatTime":"{0}Z","lastTransitionTime":"{0}Z","message":"{message}","reason":"{reason}","status":"{status}","type":"Ready"}}"#,
        timestamp(at)
    );
    kubelet_request(instance, "patch", "status", &format!(r#"{{{ORDER},"conditions":[{condition}]}}"#), at)
}

pub(super) fn node_controller_unknown(instance: &Instance, at: i64) -> String {
    let condition = format!(
        r#"{{"type":"Ready","status":"Unknown","lastTransitionTime":"{}Z","reason":"NodeStatusUnknown","message":"Kubelet stopped posting node status."}}"#,
        timestamp(at)
    );
    let object = format!(
        r#"{{"metadata":{{"name":"{}"}},"spec":{{"providerID":"aws:///{}/{}"}},"status":{{"conditions":[{condition}]}}}}"#,
        instance.node, instance.zone, instance.id
    );
    let user = r#"{"username":"system:serviceaccount:kube-system:node-controller","groups":["system:serviceaccounts"]}"#;
    let reference = format!(
        r#"{{"resource":"nodes","name":"{}","apiVersion":"v1","subresource":"status"}}"#,
        instance.node
    );
    let bodies = &format!(r#""requestObject":{object},"responseObject":{object},"#);
    let request =
        Request { level: "RequestResponse", verb: "update", user, object: &reference, code: 200, bodies };
    event(&request, at)
}

pub(super) fn node_deleted(instance: &Instance, at: i64) -> String {
    let user = r#"{"username":"eks:cloud-controller-manager","groups":["system:authenticated"]}"#;
    let reference = format!(r#"{{"resource":"nodes","name":"{}","apiVersion":"v1"}}"#, instance.node);
    let request =
        Request { level: "RequestResponse", verb: "delete", user, object: &reference, code: 200, bodies: "" };
    event(&request, at)
}

pub(super) fn pod_status(at: i64) -> String {
    let user = r#"{"username":"system:serviceaccount:kube-system:replicaset-controller","groups":["system:serviceaccounts"]}"#;
    let reference = r#"{"resource":"pods","namespace":"default","name":"web-0","apiVersion":"v1","subresource":"status"}"#;
    let bodies = r#""requestObject":{"status":{"conditions":[{"type":"Ready","status":"False"}]}},"#;
    event(&Request { level: "Request", verb: "patch", user, object: reference, code: 200, bodies }, at)
}
