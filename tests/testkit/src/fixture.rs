//! The names, times, policies and messages of a small cluster.
//!
//! A number stands for a node: instance `i-…01` runs node `ip-10-0-0-1`, in group `workers` of cluster `prod`. Times
//! count from one start, which is the same in all tests.

mod logs;
mod report;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, Caller},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    policy::{Hold, Limit, Policy},
};
use nodemend_ports::{cloud::Fleet, store::CaseKey};
use serde_json::{Value, json};

pub use self::{
    logs::{
        AGENT_LOGS, AUDIT_STREAM, AuditUser, CONTROL_PLANE_LOGS, agent_payload, batch, control_plane_payload,
        kubelet_ready, node_controller_unknown, node_deleted, node_marked, node_status,
    },
    report::{GPU_ERROR, INTERFACE_DOWN, Problem, ReportBuilder, cleared, raised},
};

/// The account of the deployment.
pub const ACCOUNT: &str = "123456789012";

/// The role session with which the repair function makes calls.
pub const REPAIR_ROLE: &str = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair";

const START: i64 = 1_790_000_000;

/// So many seconds after the start.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(START + seconds)
}

/// So many minutes after the start.
pub fn minutes(minutes: i64) -> Timestamp {
    at(minutes * 60)
}

/// The cluster that the deployment serves.
pub fn cluster() -> ClusterName {
    cluster_named("prod")
}

/// A cluster with a name of its own.
pub fn cluster_named(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a cluster name")
}

/// The Auto Scaling group of all nodes.
pub fn group() -> GroupName {
    group_named("workers")
}

/// A group with a name of its own.
pub fn group_named(name: &str) -> GroupName {
    GroupName::new(name).expect("a group name")
}

/// The Availability Zone of all nodes.
pub fn zone() -> Zone {
    zone_named("us-east-1a")
}

/// A zone with a name of its own.
pub fn zone_named(name: &str) -> Zone {
    Zone::new(name).expect("a zone name")
}

/// The instance of a node.
pub fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an instance ID")
}

/// The name of a node.
pub fn node(number: u64) -> NodeName {
    let octets = [number / 62_500, number / 250 % 250, number % 250].map(|octet| octet.to_string());
    NodeName::new(format!("ip-10-{}.ec2.internal", octets.join("-"))).expect("a node name")
}

/// The ID of a boot. Each node counts its own.
pub fn boot_id(boot: u64) -> BootId {
    BootId::new(format!("00000000-0000-4000-8000-{boot:012}")).expect("a boot ID")
}

/// Where the case of a node is stored.
pub fn key(number: u64) -> CaseKey {
    CaseKey { cluster: cluster(), instance_id: instance(number) }
}

/// The identity with which the repair function makes calls.
pub fn caller() -> Caller {
    Caller {
        account: ACCOUNT.to_owned(),
        region: "us-east-1".to_owned(),
        arn: REPAIR_ROLE.to_owned(),
        principal_id: None,
        user_agent: None,
    }
}

/// Nodes 1 to `nodes`, in service in the group. They alternate between the zones.
pub fn fleet(nodes: u64, zones: &[Zone]) -> Fleet {
    let mut fleet = Fleet::default();
    for (number, zone) in (1..=nodes).zip(zones.iter().cycle()) {
        fleet.join(&group(), Some(&cluster()), &instance(number), zone);
    }
    fleet
}

/// EKS's own behavior, with repair enabled: no guard looks beyond a group, and repairs do not begin with one. A silent
/// agent is no problem: most tests report once.
pub fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    policy.outage.gradual = false;
    policy.outage.max_unhealthy = 1_000;
    policy.silence.agent_silent_after = None;
    policy
}

/// The same with so many repairs at once. The guards that count unhealthy nodes never block.
pub fn policy_with_limit(repairs: u32) -> Policy {
    let mut policy = policy();
    policy.node_repair_config.max_parallel_nodes_repaired = Some(Limit::Count(repairs));
    policy.node_repair_config.max_unhealthy_node_threshold = Some(Limit::Count(1_000));
    policy.zones.min_unhealthy = 1_000;
    policy
}

/// Alice's hold on everything.
pub fn hold_until(until: Timestamp) -> Hold {
    Hold {
        cluster: None,
        group: None,
        node: None,
        owner: "alice".to_owned(),
        reason: "kernel test".to_owned(),
        from: None,
        until,
    }
}

/// The call that replaces a node.
pub fn terminate(number: u64) -> ApiCall {
    ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(number) }
}

/// The call that reboots a node.
pub fn reboot(number: u64) -> ApiCall {
    ApiCall::RebootInstances { instance_id: instance(number) }
}

/// CloudTrail's event about a call, as EventBridge delivers it.
pub fn cloudtrail_event(detail: &Value) -> Value {
    json!({
        "version": "0", "detail-type": "AWS API Call via CloudTrail", "source": "aws.autoscaling",
        "account": ACCOUNT, "region": "us-east-1", "time": detail["eventTime"], "detail": detail,
    })
}

/// CloudTrail's event about a call of ours: the fields of our record of it, and those that only CloudTrail knows.
pub fn cloudtrail_event_of_record(line: &str) -> Value {
    let mut detail: Value = serde_json::from_str(line).expect("a record is JSON");
    detail.as_object_mut().expect("a record is an object").remove("nodemend");
    detail["eventID"] = "6f1a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8".into();
    detail["sourceIPAddress"] = "203.0.113.10".into();
    detail["tlsDetails"] = json!({ "tlsVersion": "TLSv1.3" });
    cloudtrail_event(&detail)
}
