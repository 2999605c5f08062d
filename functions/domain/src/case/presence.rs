//! How a node joins and leaves: launches, registrations, replacements and departures.
//!
//! A new instance is matched with at most one terminated instance, once. A departure that our own call caused is the
//! result of that call, and is not recorded as a departure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Case, Effects, IllegalTransition, SourceState, TransitionContext};
use crate::{
    condition::{ConditionType, Health, RepairAction},
    group::GroupState,
    ident::{GroupName, InstanceId, Zone},
    instance_traits::InstanceTraits,
    observation::ObservedCondition,
    policy::Policy,
    repair::{LEASE, Replacement},
    repair_event::{RepairEvent, Step},
    timestamp,
};

/// The possible difference between our clock, which times an agent's first report, and the API server's, which times a
/// registration.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The reason of the events about an instance that we terminated, and that its group keeps for reuse.
pub const RETURNED_TO_WARM_POOL: &str = "ReturnedToWarmPool";

/// A launch into a group, as its event reports it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The Auto Scaling group.
    pub group: &'a GroupName,
    /// Its Availability Zone.
    pub zone: Option<&'a Zone>,
    /// The end of the launch activity.
    pub at: Timestamp,
    /// It was in the group's warm pool before.
    pub from_warm_pool: bool,
}

/// How a node joined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// When Auto Scaling launched its instance.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub launched: Option<Timestamp>,
    /// When the event of its launch arrived, by our clock.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Timestamp>,
    /// When its kubelet registered, or was first seen.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub registered: Option<Timestamp>,
    /// When its kubelet first reported Ready.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// The terminated instance that it replaces. Written in one transaction with the group's slot, so that a process
    /// that continues after a crash matches it with no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<InstanceId>,
    /// How much of this the group has recorded.
    #[serde(default)]
    pub recorded: JoinStage,
}

/// How much of an arrival its group has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum JoinStage {
    /// None of it.
    #[default]
    Unrecorded,
    /// That it failed to join in time.
    FailedToJoin,
    /// That it registered.
    Registered,
    /// That it is ready.
    Ready,
}

/// How a node left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// When it left.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// The cause, as one clause: `alice (IAM user) terminated it`.
    pub how: String,
    /// Whether an API call that nobody planned caused it.
    #[serde(default)]
    pub foreign: bool,
    /// What showed it.
    #[serde(default, skip_serializing_if = "Evidence::is_state")]
    pub evidence: Evidence,
    /// Whether CloudTrail recorded a successful call that terminates it: then it goes, even if Auto Scaling still calls it
    /// InService.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub called: bool,
    /// The deletion of its Node object by a controller that took its instance for gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_deletion: Option<NodeDeletion>,
}

/// What showed that an instance left, from what shows the least about its author to what shows the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Evidence {
    /// Its state in EC2, or its deleted Node object.
    #[default]
    State,
    /// CloudTrail's event of Auto Scaling's own TerminateInstances, which carries an activity out.
    Execution,
    /// Auto Scaling's activity, whose text names no author.
    Text,
    /// Auto Scaling's activity, whose text names what Auto Scaling did it for.
    Activity,
    /// CloudTrail's event of a call, by its caller.
    Caller,
}

impl Evidence {
    fn is_state(&self) -> bool {
        *self == Self::State
    }
}

impl Departure {
    /// Whether a successful call terminates it, of whoever it is.
    pub fn is_certain(&self) -> bool {
        self.foreign || self.called
    }

    /// Whether it is known that no call of ours caused it.
    pub fn is_anothers(&self) -> bool {
        self.is_certain() || self.evidence >= Evidence::Activity
    }

    /// Whether a controller took the instance for gone, and Auto Scaling still had it.
    pub(crate) fn is_contradicted(&self) -> bool {
        self.node_deletion.as_ref().is_some_and(|deletion| deletion.recorded)
    }
}

/// The deletion of a Node object by a controller. The instance may still be running: then a kubelet that has registered
/// once does not register again, and the node is missing from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDeletion {
    /// When it was deleted, by the API server's clock.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// When its line arrived, by our clock.
    #[serde(with = "timestamp")]
    pub arrived: Timestamp,
    /// The name of the user that deleted it.
    pub user: String,
    /// Auto Scaling still had the instance: the deletion is recorded as a fault.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
}

/// An instance that joined the group of a terminated one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInstance {
    /// The id of the new instance.
    pub instance_id: InstanceId,
    /// Its node's name, or its id.
    pub label: String,
    /// When its node registered.
    pub registered: Timestamp,
    /// When its node became Ready, if it is.
    pub ready: Option<Timestamp>,
}

impl Case {
    /// Records that Auto Scaling launched this instance into a group, or drew it from the group's warm pool.
    pub fn record_launch(
        &mut self,
        launch: &Launch<'_>,
        state: Option<&mut GroupState>,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        let Launch { group, zone, at, from_warm_pool } = *launch;
        self.account.clone_from(&ctx.policy.account);
        if !from_warm_pool {
            self.note_launch(group, zone, at, ctx.now);
            return Effects::of(self.plain_event(format!("launched into group {group}"), ctx));
        }
        // Delivered again, or the instance has been returned to the pool since.
        if self.in_service_since.max(self.warm_since).is_some_and(|known| known >= at) {
            return Effects::default();
        }
        let called = self.repair.as_ref().and_then(|repair| repair.effective_at());
        let terminated = called.filter(|_| self.action() == Some(RepairAction::Replace));
        // The event is late: it has registered since, or was first seen since, and what is known of it is of now.
        let is_late = self.registered.max(self.first_seen).is_some_and(|seen| seen >= at)
            && called.is_none_or(|called| called >= at);
        if is_late {
            (self.warm_since, self.in_service_since, self.join_recorded) = (None, Some(at), false);
            // Without the event it looked like an old instance, which replaces none.
            if let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.replaces.is_none()) {
                arrival.recorded = JoinStage::Unrecorded;
            }
            self.note_launch(group, zone, at, ctx.now);
            return Effects::default();
        }
        if let Some(state) = state {
            state.release_slot(&self.instance_id);
        }
        self.begin_anew(at);
        self.note_launch(group, zone, at, ctx.now);
        let detail = format!("drawn from the warm pool of group {group}");
        Effects::of(match terminated {
            Some(terminated) => self.returned_event(
                &format!("{detail}, although it was terminated at {}", timestamp::seconds(terminated)),
                ctx,
            ),
            None => self.plain_event(detail, ctx),
        })
    }

    /// Records that this instance is in the warm pool of its group. There it is no node: nothing that was reported of it
    /// counts until it is drawn. One that we terminated, and that the group keeps for reuse, comes back with its fault.
    pub fn record_warmed(
        &mut self,
        group: &GroupName,
        at: Timestamp,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        if self.in_service_since.max(self.warm_since).is_some_and(|known| known >= at) {
            return Effects::default();
        }
        self.warm_since = Some(at);
        if self.is_terminated_by_us() {
            let detail = format!(
                "returned to the warm pool of group {group} instead of being terminated (ReuseOnScaleIn): its fault can \
                 come back with it"
            );
            return Effects::of(self.returned_event(&detail, ctx));
        }
        (self.arrival, self.departure) = (None, None);
        Effects::of(self.plain_event(format!("returned to the warm pool of group {group}"), ctx))
    }

    fn plain_event(&self, detail: String, ctx: &TransitionContext<'_>) -> RepairEvent {
        RepairEvent::new(self, Step::Event, detail, ctx.now)
    }

    fn returned_event(&self, detail: &str, ctx: &TransitionContext<'_>) -> RepairEvent {
        let event = self.plain_event(detail.to_owned(), ctx);
        RepairEvent { reason: Some(RETURNED_TO_WARM_POOL.to_owned()), ..event }
    }

    /// The instance is in service again, in a new boot: what was reported of it before is over, and its case with it.
    fn begin_anew(&mut self, at: Timestamp) {
        self.end_repair();
        (self.closed, self.departure, self.blocked, self.arrival) = (None, None, None, None);
        (self.first_seen, self.silent_since, self.agent_last_seen) = (None, None, None);
        // Its old Node object may be gone, which is no deletion: until it registers it has not been a node.
        (self.registered, self.kubelet_last_seen, self.node_uid) = (None, None, None);
        (self.join_recorded, self.warm_since, self.in_service_since) = (false, None, Some(at));
        self.counters.clear();
        self.conditions.retain(|condition| matches!(condition.state, SourceState::ControlPlane(_)));
        for condition in &mut self.conditions {
            if let SourceState::ControlPlane(history) = &mut condition.state {
                history.restart(at);
            }
        }
    }

    /// Records that it was seen out of service: on standby, detached, or in the warm pool.
    pub(super) fn note_out_of_service(&mut self, now: Timestamp) {
        self.out_of_service_at = Some(now);
    }

    /// When it was last seen out of service by an evaluation.
    pub fn out_of_service_at(&self) -> Option<Timestamp> {
        self.out_of_service_at
    }

    /// Records that Auto Scaling returned it to service from standby.
    pub fn record_exit_from_standby(&mut self, at: Timestamp, ctx: &TransitionContext<'_>) -> Effects {
        if self.out_of_service_at.is_some_and(|known| known >= at) {
            return Effects::default();
        }
        self.out_of_service_at = Some(at);
        Effects::of(self.plain_event("returned to service from standby".to_owned(), ctx))
    }

    /// Whether something that the control plane wrote then is from before the instance was drawn from the warm pool.
    pub(super) fn is_of_an_earlier_life(&self, at: Timestamp) -> bool {
        self.in_service_since.is_some_and(|since| at < since)
    }

    /// Whether its instance is in the warm pool of its group, as far as events report.
    pub(super) fn is_warm(&self) -> bool {
        self.warm_since.is_some()
    }

    fn note_launch(&mut self, group: &GroupName, zone: Option<&Zone>, at: Timestamp, arrived: Timestamp) {
        self.group.get_or_insert_with(|| group.clone());
        if self.zone.is_none() {
            self.zone = zone.cloned();
        }
        if self.join_recorded {
            return;
        }
        let first_seen = self.first_seen;
        let arrival = self.arrival.get_or_insert_with(Arrival::default);
        if arrival.launched.is_none() {
            (arrival.launched, arrival.arrived) = (Some(at), Some(arrived));
        }
        if arrival.registered.is_none() {
            arrival.registered = first_seen;
        }
        self.note_known_ready();
    }

    /// Notes that its node was Ready then. Returns whether that is news of an arrival.
    pub(super) fn note_ready(&mut self, at: Timestamp) -> bool {
        let arrival = self.arrival.as_mut().filter(|arrival| arrival.ready.is_none());
        arrival.map(|arrival| arrival.ready = Some(at)).is_some()
    }

    /// An arrival that is reported late may be of a node whose Ready is known already.
    pub(super) fn note_known_ready(&mut self) {
        if let Some(at) = self.ready_known_since() {
            self.note_ready(at);
        }
    }

    /// Records that the instance left, unless our own call caused it.
    pub fn record_departure(&mut self, at: Timestamp, how: &str, ctx: &TransitionContext<'_>) -> Effects {
        if !self.is_terminated_by_us() && self.closed.is_none() {
            self.depart(at, how.to_owned());
        }
        Effects::of(RepairEvent::new(self, Step::Event, how.to_owned(), ctx.now))
    }

    /// Records that it left, if nothing else has shown that before. What AWS reports outweighs a controller that was
    /// contradicted once.
    pub(crate) fn depart(&mut self, at: Timestamp, how: String) {
        if self.closed.is_none() && self.departure.as_ref().is_none_or(Departure::is_contradicted) {
            self.departure = Some(Departure {
                at,
                how,
                foreign: false,
                evidence: Evidence::State,
                called: false,
                node_deletion: None,
            });
        }
    }

    /// A controller deleted the Node object because it took the instance for gone. Returns whether that is news.
    pub(super) fn depart_by_node_deletion(&mut self, how: &str, deletion: NodeDeletion) -> bool {
        if self.closed.is_some() {
            return false;
        }
        match &mut self.departure {
            // Another principal or AWS has ended it already: nothing to add.
            Some(Departure { node_deletion: None, .. }) => false,
            // The same line again, or an earlier deletion.
            Some(Departure { node_deletion: Some(known), .. }) if known.at >= deletion.at => {
                if known.at == deletion.at {
                    known.arrived = known.arrived.min(deletion.arrived);
                }
                false
            }
            departure => {
                let (at, how) = (deletion.at, how.to_owned());
                *departure = Some(Departure {
                    at,
                    how,
                    foreign: false,
                    evidence: Evidence::State,
                    called: false,
                    node_deletion: Some(deletion),
                });
                true
            }
        }
    }

    /// The deletion of its Node object that is not recorded as a fault yet.
    pub(crate) fn unrecorded_node_deletion(&self) -> Option<&NodeDeletion> {
        self.departure.as_ref()?.node_deletion.as_ref().filter(|deletion| !deletion.recorded)
    }

    /// Records that the node is missing since its Node object was deleted, because its instance is not gone.
    pub fn record_node_deletion(
        &mut self,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let deletion = self.departure.as_mut().and_then(|departure| departure.node_deletion.as_mut());
        let Some(deletion) = deletion.filter(|deletion| !deletion.recorded) else {
            return Err(self.refused("record the deleted node of"));
        };
        deletion.recorded = true;
        let (at, arrived) = (deletion.at, deletion.arrived);
        let gone = ObservedCondition {
            condition: ConditionType::Ready,
            health: Health::Bad,
            reason: "NodeDeleted".to_owned(),
            message: format!("{} deleted the Node object, and the instance is still there", deletion.user),
        };
        let mut changes = Vec::new();
        self.apply_conditions(&[gone], at, arrived, ctx.policy, &mut changes);
        let event = |change| RepairEvent::of_change(self, change, ctx.policy, ctx.now);
        Ok(Effects { events: changes.into_iter().filter_map(event).collect(), ..Effects::default() })
    }

    /// What is still to be recorded in its group about its arrival. An instance that joined has joined, whatever became
    /// of it since: another repair awaits it. While the call of its own repair may be in flight, nothing is recorded; a claim
    /// that is held for longer than a lease is the pause after AWS refused a call.
    pub fn join_to_record(&self, policy: &Policy, now: Timestamp) -> Option<JoinStage> {
        let arrival = self.arrival.as_ref()?;
        let has_lease = self.lease_end().is_some_and(|until| until <= now + LEASE);
        let may_be_calling = has_lease && self.blocked.is_none();
        let stage = match (arrival.ready, arrival.registered) {
            _ if may_be_calling && self.closed.is_none() => return None,
            (Some(_), _) => JoinStage::Ready,
            (None, Some(_)) => JoinStage::Registered,
            (None, None) if self.repair.is_some() || self.closed.is_some() => return None,
            (None, None) => {
                self.join_deadline(policy).filter(|late| *late <= now).map(|_| JoinStage::FailedToJoin)?
            }
        };
        (stage > arrival.recorded).then_some(stage)
    }

    /// Records that this instance failed to join: in its group, if a terminated instance waits for it. Where none does, it
    /// is no failed replacement, but an instance of a scale-out. Refused if it registered meanwhile.
    pub fn record_join_failure(
        &mut self,
        group: &mut GroupState,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        match &mut self.arrival {
            Some(arrival) if arrival.recorded < JoinStage::FailedToJoin && arrival.registered.is_none() => {
                arrival.recorded = JoinStage::FailedToJoin;
                let awaited = arrival.launched.and_then(|launched| group.awaits(launched));
                if let Some(terminated) = awaited {
                    group.record_failure(terminated, ctx.now);
                }
                let late = timestamp::duration(ctx.policy.join_timeout);
                let whose = match awaited {
                    Some(_) => "a terminated node awaits its replacement",
                    None => "no node awaits a replacement: it is of a scale-out",
                };
                let detail = format!("no node registered within {late} of the launch; {whose}");
                let event = self.plain_event(detail, ctx);
                let event = RepairEvent { reason: Some("FailedToJoin".to_owned()), ..event };
                Ok(Effects::of(event))
            }
            _ => Err(self.refused("record the join failure of")),
        }
    }

    /// Matches this new instance with the terminated one that it replaces, if any. The
    /// match is made once and does not change.
    pub fn match_replacement(
        &mut self,
        group: &mut GroupState,
        joined_at: Timestamp,
        traits: &InstanceTraits,
    ) -> Option<InstanceId> {
        let arrival = self.arrival.as_mut()?;
        if arrival.replaces.is_none() {
            arrival.replaces = group.match_replacement(&self.instance_id, joined_at, traits);
        }
        arrival.replaces.clone()
    }

    /// Records which instance replaced this terminated one, and when that became Ready. Then its slot is free, whatever
    /// CloudTrail reports about the call.
    pub fn record_replacement(
        &mut self,
        new: &NewInstance,
        group: Option<&mut GroupState>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let Some(repair) = self.repair.as_mut() else {
            return Err(self.refused("record the replacement of"));
        };
        let since = repair.fault.since;
        // A slower process may have read less of it than another has recorded meanwhile.
        let before = repair.replacement.take();
        let known = before.is_some();
        repair.replacement = Some(Replacement {
            instance_id: new.instance_id.clone(),
            label: new.label.clone(),
            registered: new.registered,
            ready: before
                .filter(|known| known.instance_id == new.instance_id)
                .and_then(|known| known.ready)
                .or(new.ready),
        });
        if let Some(group) = group.filter(|_| self.closed.is_none() && self.is_replaced()) {
            self.free_slot(group, ctx.now);
        }
        if known {
            return Ok(Effects::default());
        }
        let took = timestamp::duration(new.registered.duration_since(since));
        let detail = format!("{} ({}) registered, {took} after the fault", new.label, new.instance_id);
        Ok(Effects::of(RepairEvent::new(self, Step::Replaced, detail, ctx.now)))
    }

    /// Releases the slot of its repair, whose replacement is Ready: what that proves is counted once.
    pub(super) fn free_slot(&self, group: &mut GroupState, now: Timestamp) {
        if group.slot(&self.instance_id).is_some()
            && let Some(repair) = &self.repair
        {
            group.record_success(&repair.fault.reason, now);
            group.release_slot(&self.instance_id);
        }
    }

    /// Records how much of its arrival its group has recorded. Ready is the last stage. If the event of its launch came
    /// after `read`, that stage is left to the next run: without the event, it may have looked like an old instance, which
    /// replaces none.
    pub fn record_join_stage(&mut self, stage: JoinStage, read: &Arrival, group: Option<&GroupName>) {
        if let Some(group) = group {
            self.group.get_or_insert_with(|| group.clone());
        }
        if self.arrival.as_ref().is_some_and(|arrival| arrival.launched != read.launched) {
            return;
        }
        if let Some(arrival) = &mut self.arrival {
            arrival.recorded = arrival.recorded.max(stage);
        }
        if self.arrival.take_if(|arrival| arrival.recorded == JoinStage::Ready).is_some() {
            self.join_recorded = true;
        }
    }

    /// Assumes that an agent that has reported continues to do so until then. Returns whether that changed the case.
    /// For backtests, which apply only the first and the last of many equal heartbeats.
    pub fn assume_agent_reports_until(&mut self, until: Timestamp) -> bool {
        match self.agent_last_seen {
            Some(seen) if seen < until && self.closed.is_none() => {
                self.agent_last_seen = Some(until);
                true
            }
            _ => false,
        }
    }

    /// Whether the instance was launched, or its kubelet registered, after this time. When it was first seen does not
    /// count: its first reports can be late.
    pub(super) fn came_after(&self, at: Timestamp) -> bool {
        let launched = self.arrival.as_ref().and_then(|arrival| arrival.launched);
        launched.into_iter().chain(self.registered).any(|joined| joined > at)
    }

    /// Records that the node was seen: so it has joined.
    pub(super) fn joined(&mut self, at: Timestamp) {
        self.first_seen = Some(self.first_seen.map_or(at, |first| first.min(at)));
        if let Some(arrival) = &mut self.arrival {
            arrival.registered = Some(arrival.registered.map_or(at, |known| known.min(at)));
        }
    }

    /// A node that registers, or is Ready, is in no pool: the event that it was drawn is late or lost.
    pub(super) fn leave_warm_pool(&mut self, at: Timestamp) {
        if self.warm_since.take_if(|since| *since < at).is_some() {
            self.begin_anew(at);
        }
    }

    /// Records a registration. It is an arrival only if nothing of the node was seen before.
    pub(super) fn registered(&mut self, at: Timestamp) {
        if !self.join_recorded && self.first_seen.is_none_or(|first| at.duration_since(first) <= CLOCK_SKEW) {
            self.arrival.get_or_insert_with(Arrival::default);
        }
        self.joined(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ident::{ClusterName, InstanceId, NodeName},
        observation::{Deleter, Observation, Removed, StatusWriter, What},
        policy::Policy,
    };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
    }

    /// An observation of the node, which names no instance.
    fn observed(minute: i64, what: What) -> Observation {
        Observation {
            at: at(minute),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            uid: None,
            instance_id: None,
            zone: None,
            boot_id: None,
            what,
        }
    }

    #[test]
    fn a_late_observation_from_before_a_registration_starts_no_grace_period() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        let deleted = || What::Deleted { by: Deleter::Manual, user: "alice".to_owned() };
        case.apply_observation(&observed(4, What::Registered { conditions: Vec::new() }), at(4), &policy);
        case.apply_observation(&observed(5, deleted()), at(5), &policy);
        let since = |case: &Case| case.faults(&policy.default_rules(), &policy, at(6))[0].since;
        assert_eq!(since(&case), at(5));
        case.apply_observation(&observed(1, deleted()), at(1), &policy);
        assert_eq!(since(&case), at(5));
    }

    #[test]
    fn the_deletion_of_an_earlier_node_of_the_same_name_is_ignored() {
        let deleted_at = |minute: i64| {
            let id = InstanceId::new("i-00000000000000001").expect("an id");
            let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
            case.note_launch(&GroupName::new("workers").expect("a name"), None, at(10), at(10));
            let deletion =
                observed(minute, What::Deleted { by: Deleter::CloudController, user: "ccm".to_owned() });
            case.apply_observation(&deletion, at(minute), &Policy::eks_defaults());
            case.departure.is_some()
        };
        assert!(!deleted_at(5), "before it was launched");
        assert!(deleted_at(20));
    }

    #[test]
    fn a_node_whose_first_report_was_late_is_not_younger_than_its_deletion() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        // First seen at 10, deleted at 5; the deletion is observed at 11.
        case.joined(at(10));
        let deletion = observed(5, What::Deleted { by: Deleter::Manual, user: "alice".to_owned() });
        case.apply_observation(&deletion, at(11), &policy);
        assert_eq!(case.faults(&policy.default_rules(), &policy, at(11))[0].since, at(5));
    }

    #[test]
    fn a_node_whose_registration_is_late_is_as_ready_as_it_was_reported() {
        for late_launch in [false, true] {
            let id = InstanceId::new("i-00000000000000001").expect("an id");
            let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
            let policy = Policy::eks_defaults();
            let ready = ObservedCondition {
                condition: ConditionType::Ready,
                health: Health::Healthy,
                reason: "KubeletReady".to_owned(),
                message: String::new(),
            };
            let (by, conditions, removed) = (StatusWriter::Kubelet, vec![ready], Removed::default());
            let posted = What::Conditions { by, conditions, removed };
            case.apply_observation(&observed(2, posted), at(2), &policy);
            if late_launch {
                case.note_launch(&GroupName::new("workers").expect("a name"), None, at(0), at(20));
            } else {
                case.apply_observation(
                    &observed(1, What::Registered { conditions: Vec::new() }),
                    at(20),
                    &policy,
                );
            }
            assert_eq!(case.arrival.expect("an arrival").ready, Some(at(2)), "late launch: {late_launch}");
        }
    }

    #[test]
    fn a_node_that_failed_to_join_by_one_clock_is_evaluated_again_by_a_clock_behind_it() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        case.note_launch(&GroupName::new("workers").expect("a name"), None, at(0), at(0));
        case.arrival.as_mut().expect("a launch").recorded = JoinStage::FailedToJoin;
        // Written again by a function whose clock is behind.
        case.plan(&policy, at(15) - SignedDuration::from_millis(300));
        assert_eq!(case.due, Some(at(15)));
        case.plan(&policy, at(15));
        assert_eq!(case.due, Some(at(45)));
    }
}
