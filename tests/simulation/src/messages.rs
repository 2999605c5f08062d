//! Writes what happens in the simulated cluster as the bytes that the handlers receive.
//!
//! CloudTrail's events are written from the call and AWS's answer, never from our own record of them.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, CallOutcome},
    condition::{ConditionType, Severity, Status},
    ident::BootId,
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_ports::subscription::{Batch, LogEvent};
use nodemend_testkit::fixture::{self, ACCOUNT, AGENT_LOGS, AUDIT_STREAM, CONTROL_PLANE_LOGS, REPAIR_ROLE};
use serde_json::{Value, json};

use crate::{
    episodes::{Source, Track, cure},
    oracle::node::{AgentFact, Fact, Node},
    plan::{Decided, Lie},
};

/// A log event of a stream, and the facts that it carries.
#[derive(Debug)]
pub(crate) struct LogLine {
    /// The account of its log group.
    pub(crate) owner: &'static str,
    pub(crate) log_group: &'static str,
    pub(crate) log_stream: String,
    pub(crate) at: Timestamp,
    pub(crate) message: String,
    pub(crate) facts: Vec<(usize, Fact)>,
}

impl LogLine {
    /// As a subscription filter delivers it.
    pub(crate) fn batch(&self) -> Batch<'_> {
        let event = LogEvent { id: "1".into(), timestamp: self.at, message: self.message.as_str().into() };
        Batch {
            owner: self.owner.into(),
            log_group: self.log_group.into(),
            log_stream: self.log_stream.as_str().into(),
            subscription_filters: Vec::new(),
            events: vec![event],
            rejected: Vec::new(),
        }
    }
}

fn state(node: &Node, number: usize, at: Timestamp, seq: u64) -> (ConditionState<'static>, AgentFact) {
    let track = &node.tracks[number];
    let known_from = node.agent_since.max(node.booted);
    // The agent measures ages, and gives each in the time of its clock when it reports.
    let timestamp = |began: Timestamp| node.clock(at) - at.duration_since(began);
    let (period, episode) = (track.period(at), track.episode(at));
    let mut fact = AgentFact {
        track: number,
        boot: node.boot,
        seq,
        sent_at: at,
        bad: period.is_some(),
        episode: episode.filter(|_| period.is_some()).map(|episode| episode.first),
        began: at,
        acting: None,
        idle: period.is_some_and(|period| period.reasons.iter().any(|reason| cure(reason).is_none())),
        cure: period.and_then(|period| period.cure()),
    };
    let condition = track.condition.clone();
    let (Some(period), Some(episode)) = (period, episode) else {
        let since = track.healthy_since(at).unwrap_or(known_from).max(known_from);
        let state = ConditionState {
            condition,
            status: Status::True,
            since: timestamp(since),
            sound_secs: None,
            findings: Vec::new(),
        };
        return (state, fact);
    };
    fact.began = episode.from.max(known_from);
    fact.acting = episode.acting_from.filter(|_| fact.cure.is_some()).map(|from| from.max(known_from));
    let first_of = |reason: &str| {
        let with = |period: &&crate::episodes::BadPeriod| {
            period.from >= episode.from && period.reasons.contains(&reason)
        };
        track.periods.iter().find(with).map_or(period.from, |period| period.from).max(known_from)
    };
    let findings = period.reasons.iter().map(|reason| Finding {
        reason: (*reason).into(),
        severity: Severity::Condition,
        since: timestamp(first_of(reason)),
        last: timestamp(at),
        count: 1,
        message: "simulated".into(),
    });
    let remembers = known_from <= episode.from;
    let state = ConditionState {
        condition,
        status: if period.unknown { Status::Unknown } else { Status::False },
        since: timestamp(episode.from.max(known_from)),
        sound_secs: episode
            .healthy_before
            .filter(|_| remembers)
            .and_then(|healthy| u64::try_from(healthy.as_secs()).ok()),
        findings: if period.unknown { Vec::new() } else { findings.collect() },
    };
    (state, fact)
}

fn report(node: &mut Node, at: Timestamp, zone: &nodemend_domain::ident::Zone, body: Body<'_>) -> String {
    let mut body = body;
    let lie = node.lie.take();
    let states = match &mut body {
        Body::Condition(state) => std::slice::from_mut(state),
        Body::Heartbeat(states) => states.as_mut_slice(),
        Body::Event { .. } => &mut [],
    };
    for state in states.iter_mut().filter(|_| lie == Some(Lie::Age)) {
        state.since = Timestamp::UNIX_EPOCH;
        state.findings.iter_mut().for_each(|finding| finding.since = Timestamp::UNIX_EPOCH);
    }
    let boot = if lie == Some(Lie::Boot) { fixture::boot_id(9_999) } else { boot_id(node.boot) };
    let future = SignedDuration::from_hours(if lie == Some(Lie::Time) { 240 } else { 0 });
    let report = Report {
        cluster: fixture::cluster(),
        node: node.name.clone(),
        instance_id: node.instance.clone(),
        zone: Some(zone.clone()),
        boot_id: boot,
        seq: if lie == Some(Lie::Number) { u64::MAX } else { node.seq },
        at: node.clock(at) + future,
        agent: "0.1.0".into(),
        body,
    };
    report.encode()
}

/// Hardly any schedule has a node that boots more often.
static BOOTS: LazyLock<Vec<BootId>> = LazyLock::new(|| (0..8).map(fixture::boot_id).collect());

pub(crate) fn boot_id(boot: u32) -> BootId {
    BOOTS.get(boot as usize).cloned().unwrap_or_else(|| fixture::boot_id(boot.into()))
}

/// An agent reports one condition, or sends a heartbeat with all.
pub(crate) fn agent(
    node: &mut Node,
    number: usize,
    only: Option<usize>,
    at: Timestamp,
    zone: &nodemend_domain::ident::Zone,
) -> LogLine {
    node.seq += 1;
    let seq = node.seq;
    // A made-up boot is none.
    let honest = node.lie != Some(Lie::Boot);
    let mut facts = Vec::new();
    if honest {
        facts.push((number, Fact::Alive { boot: node.boot, posted: None }));
    }
    let mut states = Vec::new();
    let agents = |(_, track): &(usize, &Track)| track.source == Source::Agent;
    for (track, _) in node.tracks.iter().enumerate().filter(agents) {
        if only.is_none_or(|only| only == track) {
            let (state, fact) = state(node, track, at, seq);
            states.push(state);
            if honest {
                facts.push((number, Fact::Agent(fact)));
            }
        }
    }
    let body = match (only, states.len()) {
        (Some(_), 1) => Body::Condition(states.remove(0)),
        (_, 0) => Body::Heartbeat(vec![ConditionState {
            condition: ConditionType::KernelReady,
            status: Status::True,
            since: node.clock(at) - at.duration_since(node.agent_since),
            sound_secs: None,
            findings: Vec::new(),
        }]),
        _ => Body::Heartbeat(states),
    };
    let message = report(node, at, zone, body);
    LogLine {
        owner: ACCOUNT,
        log_group: AGENT_LOGS,
        log_stream: node.instance.to_string(),
        at,
        message,
        facts,
    }
}

fn control_plane(at: Timestamp, message: String, facts: Vec<(usize, Fact)>) -> LogLine {
    let log_stream = AUDIT_STREAM.to_owned();
    LogLine { owner: ACCOUNT, log_group: CONTROL_PLANE_LOGS, log_stream, at, message, facts }
}

/// The uid of a Node object.
pub(crate) fn uid(object: u32) -> String {
    format!("{object:08x}-0000-4000-8000-000000000000")
}

/// The kubelet writes whether its node is ready.
pub(crate) fn kubelet_status(node: &Node, number: usize, at: Timestamp, ready: bool) -> LogLine {
    let (status, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    let facts = vec![
        (number, Fact::Alive { boot: node.boot, posted: Some(at) }),
        (number, Fact::Ready { at, bad: !ready, cure: cure(reason), uid: None }),
    ];
    let (name, id, boot) = (&node.name, &node.instance, boot_id(node.boot));
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"patch","user":{{"username":"system:node:{name}","extra":{{"sessionName":["{id}"]}}}},"objectRef":{{"resource":"nodes","name":"{name}","subresource":"status"}},"responseStatus":{{"code":200}},"requestObject":{{"status":{{"conditions":[{{"type":"Ready","status":"{status}","reason":"{reason}","message":"simulated"}}],"nodeInfo":{{"bootID":"{boot}"}}}}}},"stageTimestamp":"{at:.3}"}}"#
    );
    control_plane(at, line, facts)
}

/// The kubelet registers its node, not ready yet.
pub(crate) fn registration(node: &Node, number: usize, at: Timestamp) -> LogLine {
    let object = node.object_uid();
    let facts = vec![
        (number, Fact::Registered { at, uid: object }),
        (number, Fact::Ready { at, bad: true, cure: cure("KubeletNotReady"), uid: None }),
    ];
    let (name, id, boot, uid) = (&node.name, &node.instance, boot_id(node.boot), uid(object));
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"create","user":{{"username":"system:node:{name}","extra":{{"sessionName":["{id}"]}}}},"objectRef":{{"resource":"nodes","name":"{name}"}},"responseStatus":{{"code":201}},"responseObject":{{"metadata":{{"name":"{name}","uid":"{uid}"}},"status":{{"conditions":[{{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"simulated"}}],"nodeInfo":{{"bootID":"{boot}"}}}}}},"stageTimestamp":"{at:.3}"}}"#
    );
    control_plane(at, line, facts)
}

/// The node controller writes that the kubelet stopped posting.
pub(crate) fn node_controller_status(node: &Node, number: usize, at: Timestamp, zone: &str) -> LogLine {
    let object = node.object_uid();
    let (name, id, uid) = (&node.name, &node.instance, uid(object));
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"update","user":{{"username":"system:serviceaccount:kube-system:node-controller"}},"objectRef":{{"resource":"nodes","name":"{name}","subresource":"status"}},"responseStatus":{{"code":200}},"responseObject":{{"metadata":{{"name":"{name}","uid":"{uid}"}},"spec":{{"providerID":"aws:///{zone}/{id}"}},"status":{{"conditions":[{{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown","message":"Kubelet stopped posting node status."}}]}}}},"stageTimestamp":"{at:.3}"}}"#
    );
    let fact = Fact::Ready { at, bad: true, cure: cure("NodeStatusUnknown"), uid: Some(object) };
    control_plane(at, line, vec![(number, fact)])
}

/// Users who delete Node objects.
pub(crate) const PERSON: &str = "kubernetes-admin";
pub(crate) const CLOUD_CONTROLLER: &str = "eks:cloud-controller-manager";

/// A user deletes a Node object, because its instance is gone or not.
pub(crate) fn deletion(node: &Node, number: usize, at: Timestamp, user: &str) -> LogLine {
    let object = node.object_uid();
    let (name, uid) = (&node.name, uid(object));
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"delete","user":{{"username":"{user}"}},"objectRef":{{"resource":"nodes","name":"{name}"}},"responseStatus":{{"code":200,"details":{{"uid":"{uid}"}}}},"stageTimestamp":"{at:.3}"}}"#
    );
    let fact = Fact::NodeDeleted { at, gone: node.is_out(), uid: object };
    control_plane(at, line, vec![(number, fact)])
}

/// A person tries a deletion out.
pub(crate) fn dry_run(node: &Node, at: Timestamp) -> LogLine {
    let name = &node.name;
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","requestURI":"/api/v1/nodes/{name}?dryRun=All","verb":"delete","user":{{"username":"kubernetes-admin"}},"objectRef":{{"resource":"nodes","name":"{name}"}},"requestObject":{{"dryRun":["All"]}},"responseStatus":{{"code":200}},"stageTimestamp":"{at:.3}"}}"#
    );
    control_plane(at, line, Vec::new())
}

/// A person restores a Node object, without a status.
pub(crate) fn restoration(node: &Node, number: usize, at: Timestamp, zone: &str) -> LogLine {
    let object = node.object_uid();
    let (name, id, uid) = (&node.name, &node.instance, uid(object));
    let line = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"create","user":{{"username":"kubernetes-admin"}},"objectRef":{{"resource":"nodes","name":"{name}"}},"responseStatus":{{"code":201}},"responseObject":{{"metadata":{{"name":"{name}","uid":"{uid}"}},"spec":{{"providerID":"aws:///{zone}/{id}"}}}},"stageTimestamp":"{at:.3}"}}"#
    );
    control_plane(at, line, vec![(number, Fact::Created { at, uid: object })])
}

fn event(kind: &str, source: &str, at: Timestamp, detail: Value) -> Vec<u8> {
    let mut event = json!({ "detail-type": kind, "source": source, "time": format!("{at:.0}") });
    // `json!` would copy it.
    event["detail"] = detail;
    serde_json::to_vec(&event).expect("JSON")
}

/// Auto Scaling has launched an instance, or drawn it from the warm pool.
pub(crate) fn launch(node: &Node, group: &str, zone: &str, at: Timestamp) -> Vec<u8> {
    let origin = if node.pooled { "WarmPool" } else { "EC2" };
    let detail = json!({
        "AutoScalingGroupName": group, "EC2InstanceId": node.instance, "EndTime": format!("{at:.3}"),
        "Details": { "Availability Zone": zone }, "Origin": origin, "Destination": "AutoScalingGroup",
    });
    event("EC2 Instance Launch Successful", "aws.autoscaling", at, detail)
}

/// Auto Scaling failed to launch an instance.
pub(crate) fn launch_failed(group: &str, at: Timestamp) -> Vec<u8> {
    let detail = json!({
        "AutoScalingGroupName": group, "EndTime": format!("{at:.3}"),
        "StatusMessage": "We currently do not have sufficient capacity in the Availability Zone you requested.",
    });
    event("EC2 Instance Launch Unsuccessful", "aws.autoscaling", at, detail)
}

/// An instance shuts down.
pub(crate) fn shutting_down(node: &Node, at: Timestamp) -> Vec<u8> {
    let detail = json!({ "instance-id": node.instance, "state": "shutting-down" });
    event("EC2 Instance State-change Notification", "aws.ec2", at, detail)
}

/// Auto Scaling has terminated an instance: for a call of ours, or because EC2 no longer has it.
pub(crate) fn terminated(node: &Node, group: &str, at: Timestamp) -> Vec<u8> {
    let began = node.terminated.unwrap_or(at);
    let id = &node.instance;
    let cause = match node.decided {
        Some(Decided::ScaleIn) => format!(
            "At {began:.0} a monitor alarm idle in state ALARM triggered policy fewer changing the desired capacity from 5 to \
             4.  At {began:.0} an instance was taken out of service in response to a difference between desired and actual \
             capacity, shrinking the capacity from 5 to 4.  At {began:.0} instance {id} was selected for termination."
        ),
        Some(Decided::Refresh) => {
            format!("At {began:.0} an instance was taken out of service in response to an instance refresh.")
        }
        None if node.ours => {
            format!("At {began:.0} instance {id} was taken out of service in response to a user request.")
        }
        None => format!(
            "At {began:.0} an instance was taken out of service in response to an EC2 health check indicating it has been \
             terminated or stopped."
        ),
    };
    let detail = json!({
        "AutoScalingGroupName": group, "EC2InstanceId": node.instance, "StartTime": format!("{began:.3}"),
        "EndTime": format!("{at:.3}"), "Cause": cause,
    });
    event("EC2 Instance Terminate Successful", "aws.autoscaling", at, detail)
}

/// CloudTrail's event of the TerminateInstances by which Auto Scaling carries that out.
pub(crate) fn executed(node: &Node, at: Timestamp) -> Vec<u8> {
    let role = "AWSServiceRoleForAutoScaling";
    let before = if node.ours || node.decided.is_some() { "running" } else { "terminated" };
    let detail = json!({
        "eventVersion": "1.11", "eventTime": format!("{at:.0}"), "eventSource": "ec2.amazonaws.com",
        "eventName": "TerminateInstances", "awsRegion": "us-east-1",
        "userIdentity": {
            "type": "AssumedRole", "invokedBy": "autoscaling.amazonaws.com",
            "arn": format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/AutoScaling"),
            "sessionContext": { "sessionIssuer": { "type": "Role", "userName": role, "arn":
                format!("arn:aws:iam::{ACCOUNT}:role/aws-service-role/autoscaling.amazonaws.com/{role}") } },
        },
        "requestParameters": { "instancesSet": { "items": [{ "instanceId": node.instance }] } },
        "responseElements": { "instancesSet": { "items": [{
            "instanceId": node.instance, "previousState": { "name": before },
        }] } },
        "requestID": format!("executed-{}", node.instance), "eventID": format!("executed-{}", node.instance),
    });
    event("AWS API Call via CloudTrail", "aws.ec2", at, detail)
}

fn us_english(at: Timestamp) -> String {
    at.strftime("%b %-d, %Y, %-I:%M:%S %p").to_string()
}

/// CloudTrail's event of a call of ours.
pub(crate) fn cloud_trail(call: &ApiCall, answer: &CallAnswer, at: Timestamp, number: usize) -> Vec<u8> {
    let id = call.instance_id();
    let (source, name, parameters) = match call {
        ApiCall::TerminateInstanceInAutoScalingGroup { .. } => (
            "autoscaling.amazonaws.com",
            "TerminateInstanceInAutoScalingGroup",
            json!({ "instanceId": id, "shouldDecrementDesiredCapacity": false }),
        ),
        ApiCall::RebootInstances { .. } => (
            "ec2.amazonaws.com",
            "RebootInstances",
            json!({ "instancesSet": { "items": [{ "instanceId": id }] } }),
        ),
    };
    let mut detail = json!({
        "eventVersion": "1.08", "eventTime": format!("{at:.0}"), "eventSource": source, "eventName": name,
        "awsRegion": "us-east-1", "sourceIPAddress": "198.51.100.7", "requestParameters": parameters,
        "userIdentity": { "type": "AssumedRole", "arn": REPAIR_ROLE, "accountId": ACCOUNT },
        "responseElements": null, "requestID": answer.request_id, "eventID": format!("{:08x}-0000-4000-8000-000000000000", number),
        "readOnly": false, "eventType": "AwsApiCall", "managementEvent": true,
        "recipientAccountId": "123456789012", "eventCategory": "Management",
    });
    match &answer.outcome {
        CallOutcome::Accepted { activity: Some(activity) } => {
            detail["responseElements"] = json!({ "activity": {
                "activityId": activity.activity_id, "autoScalingGroupName": activity.auto_scaling_group_name,
                "description": activity.description, "cause": activity.cause,
                "startTime": us_english(activity.start_time), "statusCode": "InProgress", "progress": 0,
                "details": activity.details,
            } });
        }
        CallOutcome::Accepted { activity: None } => {
            detail["responseElements"] = json!({ "requestId": answer.request_id, "_return": true });
        }
        CallOutcome::Failed { code, message } => {
            detail["errorCode"] = code.as_str().into();
            detail["errorMessage"] = message.as_str().into();
            // CloudTrail leaves the parameters out if the call was throttled or denied.
            if matches!(code.as_str(), "Throttling" | "AccessDenied") {
                detail["requestParameters"] = Value::Null;
            }
        }
        CallOutcome::Unanswered { .. } => {}
    }
    event("AWS API Call via CloudTrail", "aws.autoscaling", at, detail)
}

/// CloudTrail's event of a foreign termination.
pub(crate) fn foreign(node: &Node, at: Timestamp) -> Vec<u8> {
    let detail = json!({
        "eventVersion": "1.08", "eventTime": format!("{at:.0}"), "eventSource": "ec2.amazonaws.com",
        "eventName": "TerminateInstances", "awsRegion": "us-east-1",
        "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/alice", "userName": "alice" },
        "requestParameters": { "instancesSet": { "items": [{ "instanceId": node.instance }] } },
        "responseElements": null, "requestID": format!("foreign-{}", node.instance),
        "eventID": format!("foreign-{}", node.instance),
    });
    event("AWS API Call via CloudTrail", "aws.ec2", at, detail)
}

/// The interval of an agent's heartbeats.
pub(crate) const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);
