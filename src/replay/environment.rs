//! The AWS side of a replay: which instances exist, and how AWS answered calls.
//!
//! It is derived from the events. Without `--fleet`, every instance in them is InService in one group from the start;
//! an instance that is launched or registers joins at that time. With it, an instance that no group has runs outside of any,
//! until an event ends it. A call that nodemend made when the events were
//! captured gets the answer that it got then.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::AutoScalingEvent;
use nodemend_domain::{
    audit_log::{Activity, ApiCall, CallAnswer, CallOutcome, Caller, CloudTrailEvent},
    control_plane_log::{self, ParsedEvent},
    group::{Group, Lifecycle},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeUid, Zone},
    observation::{Deleter, Observation, StatusWriter, What},
    policy::Policy,
    report::Report,
};
use nodemend_ports::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud, Recorded},
    subscription::{Decoder, Message},
};

use super::input::{Input, LogGroup, Payload};

/// The zone of an instance whose events name none.
const UNKNOWN_ZONE: &str = "unknown";

/// What an instance writes so soon after the deletion of its Node was under way when it ended.
const SHUTDOWN: SignedDuration = SignedDuration::from_mins(2);

/// One change of the fleet.
#[derive(Debug, Clone)]
pub(crate) enum FleetChange {
    /// An instance joins a group.
    Join { group: GroupName, instance_id: InstanceId },
    /// An instance is in the warm pool of a group.
    Warm { group: GroupName, instance_id: InstanceId },
    /// An instance of the warm pool is drawn into its group.
    Draw { group: GroupName, instance_id: InstanceId },
    /// An instance is terminated.
    Leave(InstanceId),
}

/// What the events contain about AWS.
#[derive(Debug, Default)]
pub(crate) struct ReplayEnvironment {
    /// The cluster of events that name none.
    pub(crate) cluster: Option<ClusterName>,
    /// The cluster's account. What others report is not about its instances, whatever their ids. None, it may be any.
    account: Option<AccountId>,
    /// Terminations, in the order of the events.
    fleet_changes: Vec<(Timestamp, FleetChange)>,
    /// When the cloud controller deleted the Nodes of instances.
    node_deletions: Vec<(Timestamp, InstanceId)>,
    /// When each instance, its agent or its kubelet, last wrote.
    last_written: BTreeMap<InstanceId, Timestamp>,
    instances: BTreeMap<InstanceId, Option<Zone>>,
    nodes: BTreeMap<String, InstanceId>,
    uids: BTreeMap<NodeUid, InstanceId>,
    arrivals: BTreeMap<InstanceId, (Timestamp, Option<GroupName>)>,
    drawn: BTreeSet<InstanceId>,
    group: Option<GroupName>,
    calls: Vec<CloudTrailEvent>,
    caller: Option<Caller>,
}

impl ReplayEnvironment {
    /// Of a cluster with these policies.
    pub(crate) fn new<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> Self {
        let mut accounts = policies.into_iter().map(|policy| &policy.account);
        let first = accounts.next().cloned().flatten();
        Self {
            account: first.filter(|first| accounts.all(|other| other.as_ref() == Some(first))),
            ..Self::default()
        }
    }

    fn is_of_other_account(&self, account: Option<&str>) -> bool {
        self.account.as_ref().zip(account).is_some_and(|(ours, account)| ours.as_str() != account)
    }

    /// Adds one input. Call it in the order of arrival.
    pub(crate) fn observe(&mut self, input: &Input) {
        match &input.payload {
            Payload::Subscription(bytes) => {
                if let Ok(Message::Data(batch)) = Decoder::new().decode(bytes) {
                    for event in &batch.events {
                        self.observe_message(&batch.log_group, &event.message);
                    }
                }
            }
            Payload::Log { group, message, .. } => {
                let group = match group {
                    LogGroup::Named(name) => name.as_str(),
                    LogGroup::AnyControlPlane => "",
                };
                self.observe_message(group, message);
            }
            Payload::Event(value) => {
                if let Ok((account, event)) = AutoScalingEvent::read_of_account(value.to_string().as_bytes())
                    && !self.is_of_other_account(account.as_ref().map(AccountId::as_str))
                {
                    self.observe_event(event);
                }
            }
            Payload::CloudTrail(event) if self.is_of_other_account(event.recipient_account_id.as_deref()) => {
            }
            Payload::CloudTrail(event) => self.observe_call(event),
        }
    }

    fn add_instance(&mut self, instance_id: &InstanceId, zone: Option<Zone>) {
        let known = self.instances.entry(instance_id.clone()).or_default();
        if known.is_none() {
            *known = zone;
        }
    }

    fn observe_message(&mut self, log_group: &str, message: &str) {
        let named = log_group.strip_prefix("/aws/eks/").and_then(|rest| rest.strip_suffix("/cluster"));
        if let Some(cluster) = named.and_then(|name| ClusterName::new(name).ok()) {
            self.cluster.get_or_insert(cluster);
        }
        if let Ok(report) = Report::decode(message) {
            self.add_instance(&report.instance_id, report.zone.clone());
            self.note_written(&report.instance_id, report.at);
            self.nodes.insert(report.node.to_string(), report.instance_id);
            self.cluster.get_or_insert(report.cluster);
        } else if let Ok(ParsedEvent::Observations(observations)) = control_plane_log::read(message) {
            observations.iter().for_each(|observation| self.observe_node(observation));
        }
    }

    fn observe_node(&mut self, observation: &Observation) {
        if let Some(instance_id) = &observation.instance_id {
            self.add_instance(instance_id, observation.zone.clone());
            self.nodes.insert(observation.node.to_string(), instance_id.clone());
            // A kubelet whose name an older object has writes to that object.
            let by_kubelet = matches!(observation.what, What::Conditions { by: StatusWriter::Kubelet, .. });
            if by_kubelet {
                self.note_written(instance_id, observation.at);
            }
            if let Some(uid) = observation.uid.as_ref().filter(|_| !by_kubelet) {
                self.uids.insert(uid.clone(), instance_id.clone());
            }
            if matches!(observation.what, What::Registered { .. }) {
                self.arrivals.entry(instance_id.clone()).or_insert((observation.at, None));
                // The cloud controller was wrong, or early: what registers again was not gone.
                self.fleet_changes
                    .retain(|(_, change)| !matches!(change, FleetChange::Leave(left) if left == instance_id));
                self.node_deletions.retain(|(_, left)| left != instance_id);
            }
        }
        if let What::Deleted { by: Deleter::CloudController, .. } = &observation.what
            && let Some(instance_id) = self.instance_of(observation)
        {
            self.node_deletions.push((observation.at, instance_id.clone()));
        }
    }

    fn note_written(&mut self, instance_id: &InstanceId, at: Timestamp) {
        let last = self.last_written.entry(instance_id.clone()).or_insert(at);
        *last = at.max(*last);
    }

    /// The instances that were gone when the cloud controller deleted their Nodes: they wrote nothing afterwards.
    fn gone_with_their_nodes(&self) -> impl Iterator<Item = (Timestamp, FleetChange)> {
        let wrote_later = |at: Timestamp, instance_id: &InstanceId| {
            self.last_written.get(instance_id).is_some_and(|last| last.duration_since(at) > SHUTDOWN)
        };
        let gone = self.node_deletions.iter().filter(move |(at, instance_id)| !wrote_later(*at, instance_id));
        gone.map(|(at, instance_id)| (*at, FleetChange::Leave(instance_id.clone())))
    }

    /// The instance of a deleted Node: by the uid of the object, and only where that is not known by its name.
    fn instance_of(&self, observation: &Observation) -> Option<&InstanceId> {
        let by_name = self.nodes.get(observation.node.as_str());
        match &observation.uid {
            Some(uid) => self.uids.get(uid).or_else(|| {
                by_name.filter(|instance_id| !self.uids.values().any(|known| known == *instance_id))
            }),
            None => by_name,
        }
    }

    fn observe_event(&mut self, event: AutoScalingEvent) {
        match event {
            AutoScalingEvent::Launched { group, instance_id, zone, at, from_warm_pool } => {
                self.add_instance(&instance_id, zone);
                self.group.get_or_insert_with(|| group.clone());
                if from_warm_pool {
                    // Without the events before, it is in the pool of its group from the start.
                    self.drawn.insert(instance_id.clone());
                    self.fleet_changes.push((at, FleetChange::Draw { group, instance_id }));
                } else {
                    self.arrivals.insert(instance_id, (at, Some(group)));
                }
            }
            AutoScalingEvent::Warmed { group, instance_id, at, returned } => {
                self.add_instance(&instance_id, None);
                self.group.get_or_insert_with(|| group.clone());
                if !returned {
                    self.arrivals.insert(instance_id.clone(), (at, Some(group.clone())));
                }
                self.fleet_changes.push((at, FleetChange::Warm { group, instance_id }));
            }
            AutoScalingEvent::Left { instance_id, at, .. } => {
                self.fleet_changes.push((at, FleetChange::Leave(instance_id)));
            }
            AutoScalingEvent::LaunchFailed { group, .. } => {
                self.group.get_or_insert(group);
            }
            AutoScalingEvent::LeftStandby { .. }
            | AutoScalingEvent::ApiCall(_)
            | AutoScalingEvent::Announced { .. }
            | AutoScalingEvent::Irrelevant => {}
        }
    }

    fn observe_call(&mut self, event: &CloudTrailEvent) {
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
            for instance_id in event.instance_ids().into_iter().filter(|id| !event.ended_before(id)) {
                self.fleet_changes.push((event.event_time, FleetChange::Leave(instance_id)));
            }
        }
        // An instance that only CloudTrail names may be of any group, so it is not added.
    }

    /// AWS before the first event, and the changes of the fleet by time.
    pub(crate) fn build(
        &self,
        clock: &VirtualClock,
        groups: Option<&[Group]>,
    ) -> (MemoryCloud, Vec<(Timestamp, FleetChange)>) {
        let mut fleet = Fleet::default();
        let Ok(unknown_zone) = Zone::new(UNKNOWN_ZONE) else { unreachable!("a valid constant") };
        let fallback = self.group.clone().or_else(|| GroupName::new("nodes").ok());
        for group in groups.into_iter().flatten() {
            fleet.add_group(group.clone());
        }
        let mut changes = self.fleet_changes.clone();
        changes.extend(self.gone_with_their_nodes());
        changes.sort_by_key(|(at, _)| *at);
        for (instance_id, zone) in &self.instances {
            let arrival = self.arrivals.get(instance_id);
            let group = arrival.and_then(|(_, group)| group.clone()).or_else(|| fallback.clone());
            let Some(group) = group else { continue };
            match arrival {
                Some((at, named)) if !fleet.knows(instance_id) && (named.is_some() || groups.is_none()) => {
                    changes.push((*at, FleetChange::Join { group, instance_id: instance_id.clone() }));
                }
                None if groups.is_none() => {
                    let zone = zone.as_ref().unwrap_or(&unknown_zone);
                    fleet.join(&group, self.cluster.as_ref(), instance_id, zone);
                    if self.drawn.contains(instance_id) {
                        fleet.set_lifecycle(instance_id, Lifecycle::WarmPool);
                    }
                }
                // EC2 knows it: its kubelet or its agent wrote.
                _ if !fleet.knows(instance_id) => fleet.add_ungrouped(instance_id.clone()),
                _ => {}
            }
        }
        changes.sort_by_key(|(at, _)| *at);
        let caller = self.caller.clone().unwrap_or_else(|| Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        });
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        for event in &self.calls {
            cloud.record(recorded_answer(event));
        }
        (cloud, changes)
    }

    /// Whether the events contain the call with this request id, and so its effects, too.
    pub(crate) fn contains_call(&self, request_id: &str) -> bool {
        self.calls.iter().any(|event| event.request_id.as_deref() == Some(request_id))
    }

    /// Applies one change of the fleet.
    pub(crate) fn apply(&self, cloud: &MemoryCloud, change: &FleetChange) {
        match change {
            FleetChange::Leave(instance_id) => cloud.change(|fleet| fleet.leave(instance_id)),
            FleetChange::Warm { group, instance_id } => {
                self.apply(
                    cloud,
                    &FleetChange::Draw { group: group.clone(), instance_id: instance_id.clone() },
                );
                cloud.change(|fleet| fleet.set_lifecycle(instance_id, Lifecycle::WarmPool));
            }
            FleetChange::Draw { instance_id, .. } if cloud.change(|fleet| fleet.knows(instance_id)) => {
                cloud.change(|fleet| fleet.set_lifecycle(instance_id, Lifecycle::InService));
            }
            FleetChange::Join { group, instance_id } | FleetChange::Draw { group, instance_id } => {
                let zone = self
                    .instances
                    .get(instance_id)
                    .cloned()
                    .flatten()
                    .or_else(|| Zone::new(UNKNOWN_ZONE).ok());
                if let Some(zone) = zone {
                    cloud.change(|fleet| fleet.join(group, self.cluster.as_ref(), instance_id, &zone));
                }
            }
        }
    }
}

/// Our identity when the events were captured: an assumed role with our name in its ARN.
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

/// The answer of AWS, from its CloudTrail event.
fn recorded_answer(event: &CloudTrailEvent) -> Recorded {
    let instance_id = event.instance_ids().into_iter().next();
    let call = instance_id.map(|instance_id| match event.event_name.as_str() {
        "RebootInstances" => ApiCall::RebootInstances { instance_id },
        _ => ApiCall::TerminateInstanceInAutoScalingGroup { instance_id },
    });
    let activity = event.response_elements.get("activity").cloned();
    let activity: Option<Activity> = activity.and_then(|activity| serde_json::from_value(activity).ok());
    let outcome = match &event.error_code {
        Some(code) => CallOutcome::Failed {
            code: code.clone(),
            message: event.error_message.clone().unwrap_or_default(),
        },
        None => CallOutcome::Accepted { activity },
    };
    let answer = CallAnswer { request_id: event.request_id.clone(), outcome };
    Recorded { call, event_name: event.event_name.clone(), at: event.event_time, answer }
}
