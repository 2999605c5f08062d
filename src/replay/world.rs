//! The world that the handlers ask: which instances there are, and what AWS answered when it was called.
//!
//! A replay learns it from the events themselves. Without a `--fleet` every instance that is seen is in service
//! in one group; one that is launched or registers joins when it does. A call that nodemend made when the events
//! were captured is answered as it was answered then.

use std::collections::BTreeMap;

use jiff::Timestamp;
use nodemend_adapters::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud, Recorded},
    subscription::{Decoder, Message},
};
use nodemend_audit::Happening;
use nodemend_domain::{
    audit_log::{self, Reading},
    group::Group,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    observation::{Deleter, What as Seen},
    report::Report,
    trail::{Activity, Answer, ApiCall, Caller, CloudTrailEvent, Outcome},
};

use super::input::{Group as LogGroup, Input, What};

/// Where an instance is whose events don't say.
const NO_ZONE: &str = "unknown";

/// What changes in the world, and when.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// An instance comes into a group.
    Join { group: GroupName, instance_id: InstanceId },
    /// An instance is no more.
    Leave(InstanceId),
}

/// What the events tell of the world.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// The cluster that unnamed events are of.
    pub(crate) cluster: Option<ClusterName>,
    /// What leaves, in the order in which it was told.
    turns: Vec<(Timestamp, Turn)>,
    seen: BTreeMap<InstanceId, Option<Zone>>,
    nodes: BTreeMap<String, InstanceId>,
    arrivals: BTreeMap<InstanceId, (Timestamp, Option<GroupName>)>,
    group: Option<GroupName>,
    calls: Vec<CloudTrailEvent>,
    caller: Option<Caller>,
}

impl World {
    /// Takes in what one more input tells, in the order in which they arrived.
    pub(crate) fn take_in(&mut self, input: &Input) {
        match &input.what {
            What::Payload(bytes) => {
                if let Ok(Message::Data(batch)) = Decoder::new().decode(bytes) {
                    for event in &batch.events {
                        self.see_message(&batch.log_group, &event.message);
                    }
                }
            }
            What::Log { group, message, .. } => {
                let group = match group {
                    LogGroup::Named(name) => name.as_str(),
                    LogGroup::AnyControlPlane => "",
                };
                self.see_message(group, message);
            }
            What::Event(value) => {
                if let Ok(happening) = Happening::read(value.to_string().as_bytes()) {
                    self.see_happening(happening);
                }
            }
            What::CloudTrail(event) => self.see_call(event),
        }
    }

    fn see(&mut self, instance_id: &InstanceId, zone: Option<Zone>) {
        let known = self.seen.entry(instance_id.clone()).or_default();
        if known.is_none() {
            *known = zone;
        }
    }

    fn see_message(&mut self, log_group: &str, message: &str) {
        let named = log_group.strip_prefix("/aws/eks/").and_then(|rest| rest.strip_suffix("/cluster"));
        if let Some(cluster) = named.and_then(|name| ClusterName::new(name).ok()) {
            self.cluster.get_or_insert(cluster);
        }
        if let Ok(report) = Report::decode(message) {
            self.see(&report.instance_id, report.zone.clone());
            self.nodes.insert(report.node.to_string(), report.instance_id);
            self.cluster.get_or_insert(report.cluster);
        } else if let Ok(Reading::Observation(observation)) = audit_log::read(message) {
            if let Some(instance_id) = &observation.instance_id {
                self.see(instance_id, observation.zone.clone());
                self.nodes.insert(observation.node.to_string(), instance_id.clone());
                if matches!(observation.what, Seen::Registered { .. }) {
                    self.arrivals.entry(instance_id.clone()).or_insert((observation.at, None));
                }
            }
            if let Seen::Deleted { by: Deleter::CloudController, .. } = &observation.what
                && let Some(instance_id) = self.nodes.get(observation.node.as_str())
            {
                self.turns.push((observation.at, Turn::Leave(instance_id.clone())));
            }
        }
    }

    fn see_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Launched { group, instance_id, zone, at } => {
                self.see(&instance_id, zone);
                self.group.get_or_insert_with(|| group.clone());
                self.arrivals.insert(instance_id, (at, Some(group)));
            }
            Happening::Left { instance_id, at, .. } => self.turns.push((at, Turn::Leave(instance_id))),
            Happening::LaunchFailed { group, .. } => {
                self.group.get_or_insert(group);
            }
            Happening::ApiCall(_) | Happening::Irrelevant => {}
        }
    }

    fn see_call(&mut self, event: &CloudTrailEvent) {
        let activity = event.response_elements.pointer("/activity/autoScalingGroupName");
        if let Some(group) =
            activity.and_then(|name| name.as_str()).and_then(|name| GroupName::new(name).ok())
        {
            self.group.get_or_insert(group);
        }
        if let Some(caller) = our_caller(event) {
            self.caller.get_or_insert(caller);
            self.calls.push(event.clone());
        } else if event.is_termination() && event.succeeded() {
            for instance_id in event.instance_ids() {
                self.turns.push((event.event_time, Turn::Leave(instance_id)));
            }
        }
        // An instance that only CloudTrail knows of may be in any group: it is none of ours.
    }

    /// The cloud that the handlers ask, as it stands before the first event, and what changes in it, by time.
    pub(crate) fn stage(
        &self,
        clock: &VirtualClock,
        groups: Option<&[Group]>,
    ) -> (MemoryCloud, Vec<(Timestamp, Turn)>) {
        let mut fleet = Fleet::default();
        let Ok(no_zone) = Zone::new(NO_ZONE) else { unreachable!("a constant") };
        let fallback = self.group.clone().or_else(|| GroupName::new("nodes").ok());
        for group in groups.into_iter().flatten() {
            fleet.add_group(group.clone());
        }
        let mut turns = self.turns.clone();
        turns.sort_by_key(|(at, _)| *at);
        for (instance_id, zone) in &self.seen {
            let arrival = self.arrivals.get(instance_id);
            let group = arrival.and_then(|(_, group)| group.clone()).or_else(|| fallback.clone());
            let Some(group) = group else { continue };
            match arrival {
                Some((at, named)) if !fleet.knows(instance_id) && (named.is_some() || groups.is_none()) => {
                    turns.push((*at, Turn::Join { group, instance_id: instance_id.clone() }));
                }
                None if groups.is_none() => {
                    let zone = zone.as_ref().unwrap_or(&no_zone);
                    fleet.join(&group, self.cluster.as_ref(), instance_id, zone);
                }
                _ => {}
            }
        }
        turns.sort_by_key(|(at, _)| *at);
        let caller = self.caller.clone().unwrap_or_else(|| Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        });
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        for event in &self.calls {
            cloud.record(recorded(event));
        }
        (cloud, turns)
    }

    /// Whether the events tell of the call with this id: what came of it is among them, too.
    pub(crate) fn tells_of(&self, request_id: &str) -> bool {
        self.calls.iter().any(|event| event.request_id.as_deref() == Some(request_id))
    }

    /// Makes one change.
    pub(crate) fn turn(&self, cloud: &MemoryCloud, turn: &Turn) {
        match turn {
            Turn::Leave(instance_id) => cloud.change(|fleet| fleet.leave(instance_id)),
            Turn::Join { group, instance_id } => {
                let zone = self.seen.get(instance_id).cloned().flatten().or_else(|| Zone::new(NO_ZONE).ok());
                if let Some(zone) = zone {
                    cloud.change(|fleet| fleet.join(group, self.cluster.as_ref(), instance_id, &zone));
                }
            }
        }
    }
}

/// Who we were when the events were captured: an assumed role with our name in it.
fn our_caller(event: &CloudTrailEvent) -> Option<Caller> {
    let identity = &event.user_identity;
    let arn =
        identity.arn.as_deref().filter(|arn| arn.contains(":assumed-role/") && arn.contains("nodemend"))?;
    Some(Caller {
        account: identity.account_id.clone().unwrap_or_default(),
        region: event.aws_region.clone().unwrap_or_default(),
        arn: arn.to_owned(),
        principal_id: identity.principal_id.clone(),
        user_agent: event.user_agent.clone(),
    })
}

/// What AWS answered, from CloudTrail's record of it.
fn recorded(event: &CloudTrailEvent) -> Recorded {
    let instance_id = event.instance_ids().into_iter().next();
    let call = instance_id.map(|instance_id| match event.event_name.as_str() {
        "RebootInstances" => ApiCall::RebootInstances { instance_id },
        _ => ApiCall::TerminateInstanceInAutoScalingGroup { instance_id },
    });
    let activity = event.response_elements.get("activity").cloned();
    let activity: Option<Activity> = activity.and_then(|activity| serde_json::from_value(activity).ok());
    let outcome = match &event.error_code {
        Some(code) => {
            Outcome::Failed { code: code.clone(), message: event.error_message.clone().unwrap_or_default() }
        }
        None => Outcome::Accepted { activity },
    };
    let answer = Answer { request_id: event.request_id.clone(), outcome };
    Recorded { call, event_name: event.event_name.clone(), at: event.event_time, answer }
}
