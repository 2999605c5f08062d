//! Turns one made-up node into what its agent and the control plane write of it.
//!
//! The agent's words are written by the agent's own format. The control plane's are the captured records of `events/`,
//! with this node's names and times.

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

/// What the captured records say, and a node's own words stand for.
const NAME: &str = "ip-10-0-10-170.ec2.internal";
const INSTANCE: &str = "i-08736224042c4ee75";
const ZONE: &str = "us-east-1a";
const BOOT: &str = "3c2f687e-27bd-4642-bee9-8503552bada0";

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub name: NodeName,
    /// Its instance.
    pub instance_id: InstanceId,
    /// Its zone.
    pub zone: Zone,
    /// Whether it can report: not if its instance is gone, or its network is down.
    pub is_heard: bool,
    boot_id: BootId,
    sequence: u64,
    /// Its conditions, in the order of the agent's.
    states: Vec<ConditionState<'static>>,
}

impl Node {
    /// A node that is well.
    pub fn new(
        cluster: ClusterName,
        name: NodeName,
        instance_id: InstanceId,
        zone: Zone,
        now: Timestamp,
    ) -> Result<Self, InvalidName> {
        let states = ConditionType::AGENT.into_iter().map(|condition| sound(condition, now)).collect();
        let boot_id = BootId::new(ids::uuid())?;
        Ok(Self { cluster, name, instance_id, zone, is_heard: true, boot_id, sequence: 0, states })
    }

    /// A new boot: all is well, and what was said before counts no more.
    pub fn reboot(&mut self, now: Timestamp) -> Result<(), InvalidName> {
        let well = Self::new(
            self.cluster.clone(),
            self.name.clone(),
            self.instance_id.clone(),
            self.zone.clone(),
            now,
        )?;
        *self = well;
        Ok(())
    }

    /// The agent's heartbeat.
    pub fn heartbeat(&mut self, now: Timestamp) -> String {
        let states = self.states.clone();
        self.report(Body::Heartbeat(states), now)
    }

    /// The agent tells of something that by itself repairs nothing.
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

    /// A condition goes bad.
    pub fn fail(
        &mut self,
        condition: ConditionType,
        reason: &'static str,
        message: &'static str,
        now: Timestamp,
    ) -> String {
        let before = self.states.iter().find(|state| state.condition == condition).map(|state| state.since);
        let sound_secs = before.map(|since| now.duration_since(since).as_secs().max(0).unsigned_abs());
        self.set(
            ConditionState {
                status: Status::False,
                sound_secs,
                findings: vec![finding(reason, message, Severity::Condition, now)],
                ..sound(condition, now)
            },
            now,
        )
    }

    /// A condition goes well again.
    pub fn recover(&mut self, condition: ConditionType, now: Timestamp) -> String {
        self.set(sound(condition, now), now)
    }

    fn set(&mut self, state: ConditionState<'static>, now: Timestamp) -> String {
        if let Some(known) = self.states.iter_mut().find(|known| known.condition == state.condition) {
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

    /// The kubelet registers the node.
    pub fn registers(&self, now: Timestamp) -> String {
        self.result(REGISTRATION, now, |_| {})
    }

    /// The kubelet says that the node is ready, in this boot.
    pub fn ready(&self, now: Timestamp) -> String {
        self.result(STATUS, now, |record| {
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

    /// The node controller has seen no update by the kubelet for 40 seconds.
    pub fn unknown(&self, now: Timestamp) -> String {
        self.result(UNKNOWN, now, |_| {})
    }

    fn result(&self, template: &str, now: Timestamp, change: impl FnOnce(&mut Value)) -> String {
        let text = template
            .replace(NAME, self.name.as_str())
            .replace(INSTANCE, self.instance_id.as_str())
            .replace(ZONE, self.zone.as_str())
            .replace(BOOT, self.boot_id.as_str());
        // The templates are files of ours, and a test reads them all.
        let mut record: Value = serde_json::from_str(&text).unwrap_or_default();
        let (millis, seconds) = (timestamp::millis(now), timestamp::seconds(now));
        stamped(&mut record, &seconds);
        record["auditID"] = ids::uuid().into();
        record["requestReceivedTimestamp"] = millis.as_str().into();
        record["stageTimestamp"] = millis.into();
        change(&mut record);
        record.to_string()
    }
}

/// The times within a Node object are those of the record.
fn stamped(value: &mut Value, now: &str) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if matches!(name.as_str(), "lastHeartbeatTime" | "lastTransitionTime") {
                    *value = now.into();
                } else {
                    stamped(value, now);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| stamped(value, now)),
        _ => {}
    }
}

fn sound(condition: ConditionType, now: Timestamp) -> ConditionState<'static> {
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
    fn an_agents_words_are_reports_that_the_subscription_lets_through() {
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
    fn the_control_planes_words_are_facts_of_this_node_that_the_subscription_lets_through() {
        let node = node();
        let pattern = Pattern::parse(our_patterns::CONTROL_PLANE).expect("a pattern");
        let read = |line: String| -> Observation {
            assert!(pattern.matches(&line), "{line}");
            let ParsedEvent::Observations(observations) = control_plane_log::read(&line).expect("an event")
            else {
                panic!("a fact: {line}")
            };
            let [observation] = <[Observation; 1]>::try_from(observations).expect("one node");
            assert_eq!(
                (&observation.node, &observation.zone.clone().unwrap_or(node.zone.clone())),
                (&node.name, &node.zone)
            );
            assert_eq!((observation.at, observation.instance_id.as_ref()), (now(), Some(&node.instance_id)));
            observation
        };
        assert!(matches!(read(node.registers(now())).what, What::Registered { .. }));
        let ready = |observation: &Observation| match &observation.what {
            What::Conditions { conditions, .. } => conditions
                .iter()
                .find(|condition| condition.condition == ConditionType::Ready)
                .map(|found| found.health),
            _ => None,
        };
        let back = read(node.ready(now()));
        assert_eq!((ready(&back), back.boot_id.as_ref()), (Some(Health::Healthy), Some(&node.boot_id)));
        let lost = read(node.unknown(now()));
        assert_eq!((ready(&lost), lost.boot_id.as_ref()), (Some(Health::Unknown), Some(&node.boot_id)));
    }
}
