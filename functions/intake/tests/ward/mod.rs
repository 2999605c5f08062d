//! Log lines of a few nodes, and the store that they go into: what the tests of intake share.
#![allow(dead_code, reason = "each test binary uses its part")]

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Fault},
    ident::{ClusterName, InstanceId},
    policy::Policy,
};
use nodemend_intake::{Intake, IntakeError, IntakeResult};
use nodemend_ports::{
    store::{CaseKey, MemoryStore, Store},
    subscription::{Batch, Decoder, LogEvent, encode},
};
use serde_json::json;

pub(crate) const AGENTS: &str = "/nodemend/prod/nodes";
pub(crate) const CONTROL_PLANE: &str = "/aws/eks/prod/cluster";
pub(crate) const AUDIT_STREAM: &str = "kube-apiserver-audit-0123456789abcdef";

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

pub(crate) fn cluster() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

pub(crate) fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an id")
}

pub(crate) fn node(number: u64) -> String {
    format!("ip-10-0-0-{number}.ec2.internal")
}

pub(crate) fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    policy.silence.agent_silent_after = None;
    policy
}

pub(crate) fn store() -> MemoryStore {
    let store = MemoryStore::default();
    store.set_policy(&cluster(), policy());
    store
}

/// One report: the network of a node is bad since then, or well.
pub(crate) fn report(number: u64, seq: u64, written: i64, bad_since: Option<i64>) -> String {
    let since = at(bad_since.unwrap_or(written)).to_string();
    let finding = json!({
        "reason": "InterfaceNotUp", "severity": "Condition", "since": since, "last": at(written).to_string(),
        "count": 1, "message": "eth1 is down",
    });
    json!({
        "v": 1, "kind": "condition", "cluster": "prod", "node": node(number), "instanceId": instance(number),
        "bootId": "00000000-0000-4000-8000-000000000001", "seq": seq, "at": at(written).to_string(),
        "condition": "NetworkingReady", "status": if bad_since.is_some() { "False" } else { "True" },
        "since": since, "findings": if bad_since.is_some() { json!([finding]) } else { json!([]) },
        "agent": "0.1.0",
    })
    .to_string()
}

/// One audit event: a kubelet, or the node controller, writes a node's Ready.
pub(crate) fn ready(number: u64, seconds: i64, status: &str, by_controller: bool) -> String {
    let user = if by_controller {
        json!({ "username": "system:serviceaccount:kube-system:node-controller" })
    } else {
        json!({
            "username": format!("system:node:{}", node(number)),
            "extra": { "sessionName": [instance(number)] },
        })
    };
    let reason = if by_controller { "NodeStatusUnknown" } else { "KubeletNotReady" };
    json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": "patch", "user": user,
        "objectRef": { "resource": "nodes", "name": node(number), "subresource": "status" },
        "responseStatus": { "code": 200 },
        "requestObject": { "status": { "conditions": [
            { "type": "Ready", "status": status, "reason": reason, "message": "as asked for" },
        ] } },
        "stageTimestamp": at(seconds).to_string(),
    })
    .to_string()
}

pub(crate) fn batch(group: &str, stream: &str, lines: &[String]) -> Batch<'static> {
    let event = |(number, line): (usize, &String)| LogEvent {
        id: number.to_string().into(),
        timestamp: at(0),
        message: line.clone().into(),
    };
    Batch {
        owner: "123456789012".into(),
        log_group: group.to_owned().into(),
        log_stream: stream.to_owned().into(),
        subscription_filters: vec!["nodemend".into()],
        events: lines.iter().enumerate().map(event).collect(),
        rejected: Vec::new(),
    }
}

/// What Lambda hands over when a node's agent wrote these lines.
pub(crate) fn of_agent(number: u64, lines: &[String]) -> Vec<u8> {
    encode(&batch(AGENTS, instance(number).as_str(), lines)).into_bytes()
}

/// What Lambda hands over when the API server wrote these lines.
pub(crate) fn of_api_server(lines: &[String]) -> Vec<u8> {
    encode(&batch(CONTROL_PLANE, AUDIT_STREAM, lines)).into_bytes()
}

pub(crate) fn try_take<S: Store>(store: S, payload: &[u8], now: i64) -> Result<IntakeResult, IntakeError> {
    pollster::block_on(Intake::new(store).handle(&mut Decoder::new(), payload, at(now)))
}

pub(crate) fn take(store: &MemoryStore, payload: &[u8], now: i64) -> IntakeResult {
    try_take(store.clone(), payload, now).expect("taken in")
}

pub(crate) fn find(store: &MemoryStore, number: u64) -> Option<Box<Case>> {
    let key = CaseKey { cluster: cluster(), instance_id: instance(number) };
    pollster::block_on(store.case(&key)).expect("a memory")
}

pub(crate) fn case(store: &MemoryStore, number: u64) -> Case {
    *find(store, number).expect("a case")
}

/// What is wrong with a node, as far as a decision looks at it.
pub(crate) fn faults(store: &MemoryStore, number: u64) -> Vec<Fault> {
    case(store, number).faults(&policy().default_rules(), &policy(), at(3_600))
}

/// Everything that a case holds but how often it was written.
pub(crate) fn state(store: &MemoryStore) -> Vec<Case> {
    let mut cases = store.cases();
    cases.sort_by_key(CaseKey::of);
    cases.iter_mut().for_each(|case| nodemend_testkit::edit(case, serde_json::json!({ "version": 0 })));
    cases
}

pub(crate) fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}
