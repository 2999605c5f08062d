//! The Auto Scaling group of a node: its description from AWS, and our own repairs in it.
//!
//! [`GroupState`] is one item of the state table. Each repair in progress has one slot in it, and a new instance is
//! matched with at most one of them.

mod backoff;

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::backoff::{Backoff, BackoffCause, LaunchFailures};
use crate::{
    ident::{ClusterName, GroupName, InstanceId, Zone},
    instance_traits::InstanceTraits,
    timestamp,
};

/// Where AWS reports an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceLocation {
    /// In a group.
    Member {
        /// The name of the Auto Scaling group.
        group: GroupName,
        /// Its lifecycle state.
        lifecycle: Lifecycle,
    },
    /// In no Auto Scaling group, and not terminated.
    Ungrouped,
    /// Terminated, or unknown to EC2.
    Gone,
}

/// An instance's lifecycle state in its group, as far as guards distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// `Pending` and `Pending:*`.
    Pending,
    /// `InService`.
    InService,
    /// `Standby`, `EnteringStandby`, `Detaching`, `Detached`: an operator took it out of service. Also all unknown
    /// states.
    OutOfService,
    /// `Terminating`, `Terminating:*` and `Terminated`.
    Terminating,
    /// `Warmed:*`. Auto Scaling does not terminate these through `TerminateInstanceInAutoScalingGroup`.
    WarmPool,
}

impl Lifecycle {
    /// Parses Auto Scaling's `LifecycleState`.
    pub fn from_aws(state: &str) -> Self {
        match state {
            "InService" => Self::InService,
            state if state.starts_with("Warmed") => Self::WarmPool,
            state if state.starts_with("Pending") => Self::Pending,
            state if state.starts_with("Terminat") => Self::Terminating,
            // In an unknown state, no instance is terminated.
            _ => Self::OutOfService,
        }
    }
}

/// A group as AWS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name of the Auto Scaling group.
    pub name: GroupName,
    /// The cluster in its tags.
    pub cluster: Option<ClusterName>,
    /// Its instances, warm pool included.
    pub members: Vec<Member>,
    /// Its suspended processes: `Launch`, `Terminate`, …
    pub suspended: Vec<String>,
    /// Its tags, by key.
    pub tags: BTreeMap<String, String>,
    /// EKS node auto repair is enabled for it.
    pub eks_repair_enabled: bool,
    /// How many instances it should have; none where that is unknown.
    pub desired_capacity: Option<usize>,
}

/// One instance of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The instance's id.
    pub instance_id: InstanceId,
    /// Its Availability Zone.
    pub zone: Zone,
    /// Its lifecycle state.
    pub lifecycle: Lifecycle,
}

impl Group {
    /// The number of its instances outside the warm pool: the whole for a threshold in percent.
    pub fn size(&self) -> usize {
        self.members.iter().filter(|member| member.lifecycle != Lifecycle::WarmPool).count()
    }

    /// One of its instances.
    pub fn member(&self, instance_id: &InstanceId) -> Option<&Member> {
        self.members.iter().find(|member| member.instance_id == *instance_id)
    }
}

/// The facts about a whole cluster that guards need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// How many nodes it has in each zone.
    pub zones: BTreeMap<Zone, usize>,
    /// Zones with an active ARC zonal shift away from them.
    pub zonal_shifts: Vec<Zone>,
}

impl ClusterFacts {
    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.zones.values().sum()
    }
}

/// After this long without a replacement for a reason, what its replacements have proven is outdated.
const PROVEN_FOR: SignedDuration = SignedDuration::from_hours(1);
/// How many replacements a group remembers.
const MAX_REPLACEMENTS: usize = 32;

/// The repairs in progress in a group: one item of the state table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupState {
    name: GroupName,
    cluster: ClusterName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    slots: Vec<Slot>,
    #[serde(default)]
    failures: u32,
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    last_failure: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    launch_failures: Option<LaunchFailures>,
    /// When Auto Scaling last launched an instance, to the minute.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    launched_at: Option<Timestamp>,
    /// When repairs were last stopped because many nodes were unhealthy at once.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    halted_at: Option<Timestamp>,
    /// By reason: how many replacements became Ready, and when the last did.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    proven: BTreeMap<String, Proven>,
    /// The latest replacements, each with the reason for which its predecessor was replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replacements: Vec<ReplacedFor>,
    /// Whether an instance of it ever registered as a node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_nodes: bool,
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub(crate) last_claim: Option<Timestamp>,
    #[serde(default)]
    version: u64,
}

/// Replacements for one reason that became Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Proven {
    replacements: u32,
    #[serde(with = "timestamp")]
    at: Timestamp,
}

/// A replacement, and the reason for which its predecessor was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedFor {
    /// The new instance.
    pub instance_id: InstanceId,
    /// The reason.
    pub reason: String,
    /// When it joined.
    #[serde(with = "timestamp")]
    pub joined_at: Timestamp,
    /// What it shares with its predecessor, as far as EC2 described both.
    #[serde(default, skip_serializing_if = "InstanceTraits::is_empty")]
    pub shared: InstanceTraits,
}

impl ReplacedFor {
    /// Whether a fault of the new instance shows that replacing did not help: it began soon after it joined, for this reason.
    pub fn is_repeated_by(&self, reason: &str, since: Timestamp) -> bool {
        self.reason == reason && since.duration_since(self.joined_at) < PROVEN_FOR
    }
}

/// A repair's slot in its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// The instance under repair.
    pub instance_id: InstanceId,
    /// The reason of the fault that is repaired.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When the repair was claimed.
    #[serde(with = "timestamp")]
    pub claimed_at: Timestamp,
    /// When the instance was terminated; none for a reboot, which needs no replacement.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
    /// The instance that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<InstanceId>,
    /// What the instance under repair was launched from, and where.
    #[serde(default, skip_serializing_if = "InstanceTraits::is_empty")]
    pub traits: InstanceTraits,
}

impl GroupState {
    /// A group with no repair in progress.
    pub fn new(cluster: ClusterName, name: GroupName) -> Self {
        Self {
            name,
            cluster,
            slots: Vec::new(),
            failures: 0,
            last_failure: None,
            launch_failures: None,
            launched_at: None,
            halted_at: None,
            proven: BTreeMap::new(),
            replacements: Vec::new(),
            has_nodes: false,
            last_claim: None,
            version: 0,
        }
    }

    /// The name of the Auto Scaling group.
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// The cluster of its nodes.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The slots of the repairs in progress, oldest first.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The version that it was read at.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The group as a store writes it: under its next version.
    #[must_use]
    pub fn next_version(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// The slot of an instance's repair.
    pub fn slot(&self, instance_id: &InstanceId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.instance_id == *instance_id)
    }

    /// Gives the repair of an instance a slot, if it has none. Its reason is the last claim's, what a replacement must be free of.
    pub fn acquire_slot(&mut self, instance_id: InstanceId, reason: &str, now: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.instance_id == instance_id) {
            reason.clone_into(&mut slot.reason);
            return;
        }
        self.last_claim = Some(now);
        self.slots.push(Slot {
            instance_id,
            reason: reason.to_owned(),
            claimed_at: now,
            terminated_at: None,
            replacement: None,
            traits: InstanceTraits::default(),
        });
    }

    /// Keeps the traits of an instance under repair: once it is terminated, EC2 forgets it.
    pub fn record_traits(&mut self, instance_id: &InstanceId, traits: &InstanceTraits) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.instance_id == *instance_id) {
            slot.traits = traits.clone();
        }
    }

    /// How many repairs for a reason may be in progress at once: one at first, and twice as many each time that as many
    /// replacements have become Ready. A reason that has not been repaired for a while begins with one again.
    pub fn gradual_limit(&self, reason: &str, now: Timestamp) -> usize {
        let recent = |proven: &&Proven| now.duration_since(proven.at) < PROVEN_FOR;
        let proven = self.proven.get(reason).filter(recent).map_or(0, |proven| proven.replacements);
        1 << (proven + 1).ilog2().min(10)
    }

    /// Records that a replacement for this reason became Ready.
    pub fn record_success(&mut self, reason: &str, now: Timestamp) {
        self.proven.retain(|_, proven| now.duration_since(proven.at) < PROVEN_FOR);
        let proven = self.proven.entry(reason.to_owned()).or_insert(Proven { replacements: 0, at: now });
        *proven = Proven { replacements: proven.replacements + 1, at: now };
    }

    /// The latest replacements, each with the reason for which its predecessor was replaced.
    pub fn replacements(&self) -> &[ReplacedFor] {
        &self.replacements
    }

    /// When repairs were last stopped because many nodes were unhealthy at once.
    pub fn halted_at(&self) -> Option<Timestamp> {
        self.halted_at
    }

    /// Records that repairs are stopped because many nodes are unhealthy at once.
    pub fn record_halt(&mut self, now: Timestamp) {
        // To the minute: the group is written no more often than it must be.
        if self.halted_at.is_none_or(|known| now.duration_since(known) >= SignedDuration::from_mins(1)) {
            self.halted_at = Some(now);
        }
    }

    /// Whether an instance of it ever registered as a node.
    pub fn has_nodes(&self) -> bool {
        self.has_nodes
    }

    /// Records that an instance of it registered as a node.
    pub fn record_node(&mut self) {
        self.has_nodes = true;
    }

    /// Records that AWS terminates the instance: from then on a replacement is awaited.
    pub fn record_termination(&mut self, instance_id: &InstanceId, at: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.instance_id == *instance_id) {
            slot.terminated_at.get_or_insert(at);
        }
    }

    /// When the instance was terminated that this one would replace, if it became a node.
    pub fn awaits(&self, launched: Timestamp) -> Option<Timestamp> {
        let awaited = self.slots.iter().filter(|slot| slot.replacement.is_none());
        awaited.filter_map(|slot| slot.terminated_at).filter(|at| *at <= launched).max()
    }

    /// Releases the slot of an instance's repair.
    pub fn release_slot(&mut self, instance_id: &InstanceId) {
        self.slots.retain(|slot| slot.instance_id != *instance_id);
    }

    /// Matches a new instance with the terminated one that it replaces, if any: the one terminated last before
    /// `joined_at`. Not the one that has waited longest: then a slowly joining instance could find only slots of later
    /// terminations, and its group would be in backoff without a failure. Without any slot it is a scale-out.
    pub fn match_replacement(
        &mut self,
        new: &InstanceId,
        joined_at: Timestamp,
        traits: &InstanceTraits,
    ) -> Option<InstanceId> {
        if let Some(slot) = self.slots.iter().find(|slot| slot.replacement.as_ref() == Some(new)) {
            return Some(slot.instance_id.clone());
        }
        let slot = self
            .slots
            .iter_mut()
            .filter(|slot| slot.instance_id != *new && slot.replacement.is_none())
            .filter(|slot| slot.terminated_at.is_some_and(|at| at <= joined_at))
            .min_by_key(|slot| Reverse(slot.terminated_at))?;
        slot.replacement = Some(new.clone());
        let (replaced, reason) = (slot.instance_id.clone(), slot.reason.clone());
        let shared = slot.traits.shared_with(traits);
        self.replacements.push(ReplacedFor { instance_id: new.clone(), reason, joined_at, shared });
        if self.replacements.len() > MAX_REPLACEMENTS {
            self.replacements.remove(0);
        }
        Some(replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> InstanceId {
        InstanceId::new(format!("i-{n:017x}")).expect("an id")
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minutes * 60).expect("a time")
    }

    fn state() -> GroupState {
        let cluster = ClusterName::new("prod").expect("a name");
        GroupState::new(cluster, GroupName::new("workers").expect("a name"))
    }

    fn joins(state: &mut GroupState, n: u64, minutes: i64) -> Option<InstanceId> {
        state.match_replacement(&id(n), at(minutes), &InstanceTraits::default())
    }

    #[test]
    fn a_new_instance_replaces_the_one_terminated_last_before_it_and_only_that() {
        let mut state = state();
        for n in [1, 2] {
            state.acquire_slot(id(n), "NodeStatusUnknown", at(0));
        }
        assert_eq!(joins(&mut state, 8, 1), None, "nothing was terminated yet");
        state.record_termination(&id(2), at(5));
        state.record_termination(&id(1), at(6));
        assert_eq!(joins(&mut state, 9, 7), Some(id(1)));
        assert_eq!(joins(&mut state, 9, 7), Some(id(1)), "matched again");
        assert_eq!(joins(&mut state, 10, 8), Some(id(2)));
        assert_eq!(joins(&mut state, 11, 9), None);
    }

    #[test]
    fn a_slowly_joining_instance_is_matched_with_the_termination_that_it_replaces() {
        let mut state = state();
        for (n, minute) in [(3, 16), (40, 50)] {
            state.acquire_slot(id(n), "NodeStatusUnknown", at(minute));
            state.record_termination(&id(n), at(minute));
        }
        assert_eq!(joins(&mut state, 51, 53), Some(id(40)));
        assert_eq!(joins(&mut state, 50, 33), Some(id(3)), "it registers last, and was launched first");
    }

    #[test]
    fn an_unknown_lifecycle_state_counts_as_out_of_service() {
        for (state, expected) in [
            ("InService", Lifecycle::InService),
            ("Terminating:Wait", Lifecycle::Terminating),
            ("Warmed:Stopped", Lifecycle::WarmPool),
            ("Pending:Proceed", Lifecycle::Pending),
            ("Standby", Lifecycle::OutOfService),
            ("ReplacingRootVolume", Lifecycle::OutOfService),
        ] {
            assert_eq!(Lifecycle::from_aws(state), expected);
        }
    }

    #[test]
    fn repairs_for_a_reason_double_as_replacements_become_ready() {
        let mut state = state();
        let mut limits = vec![state.gradual_limit("A", at(0))];
        for _ in 0..8 {
            state.record_success("A", at(0));
            limits.push(state.gradual_limit("A", at(1)));
        }
        assert_eq!(limits, [1, 2, 2, 4, 4, 4, 4, 8, 8]);
        assert_eq!(state.gradual_limit("B", at(1)), 1, "another reason");
        assert_eq!(state.gradual_limit("A", at(61)), 1, "an hour later");
    }

    #[test]
    fn a_slot_has_the_reason_of_the_last_claim() {
        let mut state = state();
        state.acquire_slot(id(1), "InterfaceNotUp", at(0));
        state.acquire_slot(id(1), "InterfaceNotRunning", at(5));
        state.record_termination(&id(1), at(5));
        joins(&mut state, 2, 10);
        let [replaced] = state.replacements() else { panic!("one replacement") };
        assert!(replaced.is_repeated_by("InterfaceNotRunning", at(20)));
    }

    #[test]
    fn a_fault_that_begins_long_after_the_replacement_joined_is_a_new_one() {
        let mut state = state();
        state.acquire_slot(id(1), "NvidiaXID79Error", at(0));
        state.record_termination(&id(1), at(0));
        joins(&mut state, 2, 5);
        let [replaced] = state.replacements() else { panic!("one replacement") };
        assert!(replaced.is_repeated_by("NvidiaXID79Error", at(20)));
        assert!(!replaced.is_repeated_by("NvidiaXID79Error", at(66)));
        assert!(!replaced.is_repeated_by("KubeletNotReady", at(20)));
    }
}
