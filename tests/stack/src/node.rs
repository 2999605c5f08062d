//! A simulated node: the log lines that its agent and the control plane write about it.
//!
//! The agent's lines are encoded by the code that encodes the real agent's reports. The control plane's lines
//! are the captured records of `events/`, with this node's names and times.

use jiff::Timestamp;
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, InvalidName, NodeName, Zone},
    report::{Body, ConditionState, Finding, Report},
    timestamp,
};
use serde_json::Value;

use super::ids;

const REGISTRATION: &str =
    include_str!("../../../events/templates/eks-audit-kubelet-create-node-registration.json");
const STATUS: &str =
    include_str!("../../../events/templates/eks-audit-kubelet-patch-nodestatus-ready-false.json");
const UNKNOWN: &str =
    include_str!("../../../events/templates/eks-audit-node-controller-update-NodeStatusUnknown.json");

/// The names in the captured records, which are replaced by the node's own.
const NAME: &str = "ip-10-0-10-170.ec2.internal";
const INSTANCE: &str = "i-08736224042c4ee75";
const ZONE: &str = "us-east-1a";
const BOOT: &str = "3c2f687e-27bd-4642-bee9-8503552bada0";

/// A node and the state that its agent reports.
#[derive(Debug, Clone)]
pub struct Node {
    /// The cluster of the node.
    pub cluster: ClusterName,
    /// The name of the Node object.
    pub name: NodeName,
    /// The ID of the instance.
    pub instance_id: InstanceId,
    /// The Availability Zone of the instance.
    pub zone: Zone,
    /// Whether the node can report: not if its instance is gone, or its network is down.
    pub reports: bool,
    boot_id: BootId,
    sequence: u64,
    /// The states of all conditions, in the agent's order.
    conditions: Vec<ConditionState<'static>>,
}

impl Node {
    /// A healthy node.
    pub fn new(
        cluster: ClusterName,
        name: NodeName,
        instance_id: InstanceId,
        zone: Zone,
        now: Timestamp,
    ) -> Result<Self, InvalidName> {
        let conditions = ConditionType::AGENT.into_iter().map(|condition| healthy(condition, now)).collect();
        let boot_id = BootId::new(ids::uuid())?;
        Ok(Self { cluster, name, instance_id, zone, reports: true, boot_id, sequence: 0, conditions })
    }

    /// Starts a new boot: all conditions are healthy, and reports of earlier boots no longer count.
    pub fn reboot(&mut self, now: Timestamp) -> Result<(), InvalidName> {
        let rebooted = Self::new(
            self.cluster.clone(),
            self.name.clone(),
            self.instance_id.clone(),
            self.zone.clone(),
            now,
        )?;
        *self = rebooted;
        Ok(())
    }

    /// The agent's heartbeat, with the states of all conditions.
    pub fn heartbeat(&mut self, now: Timestamp) -> String {
        let conditions = self.conditions.clone();
        self.report(Body::Heartbeat(conditions), now)
    }

    /// The agent's report of a finding that starts no repair.
    pub fn event(
        &mut self,
        condition: ConditionType,
        reason: &'static str,
        message: &'static str,
        now: Timestamp,
    ) -> String {
        let findings = vec![finding(reason, message, Severity::Event, now)];
        self.report(Body::Event { condition, findings }, now)
    }

    /// The agent's report that a condition became bad.
    pub fn fail(
        &mut self,
        condition: ConditionType,
        reason: &'static str,
        message: &'static str,
        now: Timestamp,
    ) -> String {
        let before =
            self.conditions.iter().find(|state| state.condition == condition).map(|state| state.since);
        let sound_secs = before.map(|since| now.duration_since(since).as_secs().max(0).unsigned_abs());
        self.set(
            ConditionState {
                status: Status::False,
                sound_secs,
                findings: vec![finding(reason, message, Severity::Condition, now)],
                ..healthy(condition, now)
            },
            now,
        )
    }

    /// The agent's report that a condition is healthy again.
    pub fn recover(&mut self, condition: ConditionType, now: Timestamp) -> String {
        self.set(healthy(condition, now), now)
    }

    fn set(&mut self, state: ConditionState<'static>, now: Timestamp) -> String {
        if let Some(known) = self.conditions.iter_mut().find(|known| known.condition == state.condition) {
            *known = state.clone();
        }
        self.report(Body::Condition(state), now)
    }

    fn report(&mut self, body: Body<'static>, now: Timestamp) -> String {
        self.sequence += 1;
        let report = Report {
            cluster: self.cluster.clone(),
            node: self.name.clone(),
            instance_id: self.instance_id.clone(),
            zone: Some(self.zone.clone()),
            boot_id: self.boot_id.clone(),
            seq: self.sequence,
            at: now,
            agent: env!("CARGO_PKG_VERSION").into(),
            body,
        };
        report.encode()
    }

    /// The audit event of the kubelet's registration of the node.
    pub fn registration(&self, now: Timestamp) -> String {
        self.audit_event(REGISTRATION, now, |_| {})
    }

    /// The audit event of the kubelet's report that the node is Ready, in this boot.
    pub fn ready(&self, now: Timestamp) -> String {
        self.audit_event(STATUS, now, |record| {
            let status = &mut record["requestObject"]["status"];
            status["nodeInfo"]["bootID"] = self.boot_id.as_str().into();
            let conditions = status["conditions"].as_array_mut();
            for condition in conditions.into_iter().flatten().filter(|condition| condition["type"] == "Ready")
            {
                condition["status"] = "True".into();
                condition["reason"] = "KubeletReady".into();
                condition["message"] = "kubelet is posting ready status".into();
            }
        })
    }

    /// The audit event of the node controller's change of Ready to Unknown, 40 seconds after the kubelet's
    /// last update.
    pub fn unknown(&self, now: Timestamp) -> String {
        self.audit_event(UNKNOWN, now, |_| {})
    }

    fn audit_event(&self, template: &str, now: Timestamp, change: impl FnOnce(&mut Value)) -> String {
        let text = template
            .replace(NAME, self.name.as_str())
            .replace(INSTANCE, self.instance_id.as_str())
            .replace(ZONE, self.zone.as_str())
            .replace(BOOT, self.boot_id.as_str());
        // This cannot fail: the templates are files of this repository, and a test reads all of them.
        let mut record: Value = serde_json::from_str(&text).unwrap_or_default();
        let (millis, seconds) = (timestamp::millis(now), timestamp::seconds(now));
        set_times(&mut record, &seconds);
        record["auditID"] = ids::uuid().into();
        record["requestReceivedTimestamp"] = millis.as_str().into();
        record["stageTimestamp"] = millis.into();
        change(&mut record);
        record.to_string()
    }
}

/// Sets the times of the conditions in the Node object.
fn set_times(value: &mut Value, now: &str) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if matches!(name.as_str(), "lastHeartbeatTime" | "lastTransitionTime") {
                    *value = now.into();
                } else {
                    set_times(value, now);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| set_times(value, now)),
        _ => {}
    }
}

fn healthy(condition: ConditionType, now: Timestamp) -> ConditionState<'static> {
    ConditionState { condition, status: Status::True, since: now, sound_secs: None, findings: Vec::new() }
}

fn finding(
    reason: &'static str,
    message: &'static str,
    severity: Severity,
    now: Timestamp,
) -> Finding<'static> {
    Finding { reason: reason.into(), severity, since: now, last: now, count: 1, message: message.into() }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::{
        condition::Health,
        control_plane_log::{self, ParsedEvent},
        observation::{Observation, What},
    };
    use nodemend_ports::subscription::our_patterns;
    use nodemend_testkit::filter_pattern::Pattern;

    use super::*;

    fn now() -> Timestamp {
        "2026-08-20T10:31:07.021Z".parse().expect("a time")
    }

    fn node() -> Node {
        let name = |name| NodeName::new(name).expect("a name");
        let instance_id = InstanceId::new("i-0ab76e62066c9730c").expect("an id");
        let (cluster, zone) =
            (ClusterName::new("local").expect("a name"), Zone::new("us-east-1b").expect("a zone"));
        Node::new(cluster, name("ip-172-31-0-4.ec2.internal"), instance_id, zone, now()).expect("a node")
    }

    #[test]
    fn agent_lines_are_reports_that_match_the_subscription_filter() {
        let mut node = node();
        let pattern = Pattern::parse(our_patterns::AGENT).expect("a pattern");
        let condition = ConditionType::NetworkingReady;
        for line in [
            node.heartbeat(now()),
            node.event(condition.clone(), "MetadataServiceBlocked", "blocked", now()),
            node.fail(condition.clone(), "InterfaceNotUp", "eth1 is down", now()),
            node.recover(condition, now()),
        ] {
            assert!(pattern.matches(&line), "{line}");
            let report = Report::decode(&line).expect("a report");
            assert_eq!((&report.node, &report.boot_id), (&node.name, &node.boot_id));
        }
        assert_eq!(node.sequence, 4);
    }

    #[test]
    fn control_plane_lines_are_observations_that_match_the_subscription_filter() {
        let node = node();
        let pattern = Pattern::parse(our_patterns::CONTROL_PLANE).expect("a pattern");
        let read = |line: String| -> Observation {
            assert!(pattern.matches(&line), "{line}");
            let ParsedEvent::Observations(observations) = control_plane_log::read(&line).expect("an event")
            else {
                panic!("no observations: {line}")
            };
            let [observation] = <[Observation; 1]>::try_from(observations).expect("one node");
            assert_eq!(
                (&observation.node, &observation.zone.clone().unwrap_or(node.zone.clone())),
                (&node.name, &node.zone)
            );
            assert_eq!((observation.at, observation.instance_id.as_ref()), (now(), Some(&node.instance_id)));
            observation
        };
        assert!(matches!(read(node.registration(now())).what, What::Registered { .. }));
        let ready = |observation: &Observation| match &observation.what {
            What::Conditions { conditions, .. } => conditions
                .iter()
                .find(|condition| condition.condition == ConditionType::Ready)
                .map(|found| found.health),
            _ => None,
        };
        let recovered = read(node.ready(now()));
        assert_eq!(
            (ready(&recovered), recovered.boot_id.as_ref()),
            (Some(Health::Healthy), Some(&node.boot_id))
        );
        let lost = read(node.unknown(now()));
        assert_eq!((ready(&lost), lost.boot_id.as_ref()), (Some(Health::Unknown), Some(&node.boot_id)));
    }
}
