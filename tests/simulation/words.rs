//! Turns what is so in the simulated world into the words in which the handlers hear of it.

use jiff::Timestamp;
use nodemend_adapters::subscription::{Batch, LogEvent};
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, ConditionState, Finding, Report},
};
use serde_json::{Value, json};

use super::{CLUSTER, GROUP, Kind};

pub(crate) fn name_of(instance_id: &InstanceId) -> String {
    format!("ip-{}.ec2.internal", instance_id.as_str().trim_start_matches("i-").trim_start_matches('0'))
}

/// What one agent says of its one condition.
pub(crate) struct Saying {
    pub(crate) kind: Kind,
    pub(crate) boot: u32,
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
    pub(crate) bad: bool,
    pub(crate) since: Timestamp,
    pub(crate) sound_secs: Option<u64>,
}

impl Saying {
    pub(crate) fn line(&self, instance_id: &InstanceId) -> String {
        let (condition, reason) = match self.kind {
            Kind::Replace => (ConditionType::NetworkingReady, "InterfaceNotUp"),
            Kind::RebootCures | Kind::RebootInVain => {
                (ConditionType::AcceleratedHardwareReady, "NvidiaXID95Error")
            }
        };
        let finding = Finding {
            reason: reason.into(),
            severity: Severity::Condition,
            since: self.since,
            last: self.at,
            count: 1,
            message: "as asked for".into(),
        };
        let report = Report {
            cluster: ClusterName::new(CLUSTER).expect("a name"),
            node: NodeName::new(name_of(instance_id)).expect("a name"),
            instance_id: instance_id.clone(),
            zone: None,
            boot_id: BootId::new(format!("00000000-0000-4000-8000-{:012}", self.boot)).expect("an id"),
            seq: self.seq,
            at: self.at,
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition,
                status: if self.bad { Status::False } else { Status::True },
                since: self.since,
                sound_secs: self.sound_secs,
                findings: if self.bad { vec![finding] } else { Vec::new() },
            }),
        };
        report.encode()
    }
}

pub(crate) fn batch(group: &str, stream: &str, at: Timestamp, message: &str) -> Batch<'static> {
    Batch {
        owner: "123456789012".into(),
        log_group: group.to_owned().into(),
        log_stream: stream.to_owned().into(),
        subscription_filters: Vec::new(),
        events: vec![LogEvent { id: "1".into(), timestamp: at, message: message.to_owned().into() }],
        rejected: Vec::new(),
    }
}

/// The kubelet registers its node, not ready yet.
pub(crate) fn registration(instance_id: &InstanceId, at: Timestamp) -> String {
    kubelet(instance_id, at, "create", "", 201, "False")
}

/// The kubelet says that its node is ready.
pub(crate) fn readiness(instance_id: &InstanceId, at: Timestamp) -> String {
    kubelet(instance_id, at, "patch", "status", 200, "True")
}

fn kubelet(
    instance_id: &InstanceId,
    at: Timestamp,
    verb: &str,
    subresource: &str,
    code: u16,
    ready: &str,
) -> String {
    let node = name_of(instance_id);
    json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": verb,
        "user": { "username": format!("system:node:{node}"), "extra": { "sessionName": [instance_id] } },
        "objectRef": { "resource": "nodes", "name": node, "subresource": subresource },
        "responseStatus": { "code": code },
        "requestObject": { "status": { "conditions": [
            { "type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "" },
        ] } },
        "stageTimestamp": at.to_string(),
    })
    .to_string()
}

pub(crate) fn launch(instance_id: &InstanceId, at: Timestamp) -> Value {
    json!({
        "detail-type": "EC2 Instance Launch Successful", "source": "aws.autoscaling", "time": at.to_string(),
        "detail": {
            "AutoScalingGroupName": GROUP, "EC2InstanceId": instance_id, "EndTime": at.to_string(),
            "Details": { "Availability Zone": "us-east-1a" },
        },
    })
}

pub(crate) fn state_change(instance_id: &InstanceId, at: Timestamp) -> Value {
    json!({
        "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2", "time": at.to_string(),
        "detail": { "instance-id": instance_id, "state": "shutting-down" },
    })
}

/// CloudTrail's event of a call: our record of it where we have one, else what AWS alone would know.
pub(crate) fn cloud_trail(ours: Option<Value>, instance_id: &InstanceId, name: &str, at: Timestamp) -> Value {
    let second = Timestamp::from_second(at.as_second()).expect("a time").to_string();
    let detail = ours.unwrap_or_else(|| {
        let reboot = name == "RebootInstances";
        json!({
            "eventVersion": "1.08", "eventTime": second, "eventName": name, "awsRegion": "us-east-1",
            "userIdentity": { "type": "AssumedRole", "arn": super::ARN, "accountId": "123456789012" },
            "eventSource": if reboot { "ec2.amazonaws.com" } else { "autoscaling.amazonaws.com" },
            "requestParameters": if reboot {
                json!({ "instancesSet": { "items": [{ "instanceId": instance_id }] } })
            } else {
                json!({ "instanceId": instance_id, "shouldDecrementDesiredCapacity": false })
            },
            "responseElements": null,
            "requestID": format!("lost-{instance_id}-{name}"),
            "eventID": format!("event-{instance_id}-{name}"),
        })
    });
    json!({
        "detail-type": "AWS API Call via CloudTrail", "source": "aws.autoscaling", "time": second, "detail": detail,
    })
}
