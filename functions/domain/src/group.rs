//! The Auto Scaling group around a node: what AWS says of it, and what we have under way in it.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::Policy,
    timestamp,
};

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceLocation {
    /// In a group.
    Member {
        /// Which.
        group: GroupName,
        /// As what.
        lifecycle: Lifecycle,
    },
    /// Running, in no group.
    Ungrouped,
    /// Terminated, or unknown to EC2.
    Gone,
}

/// An instance's lifecycle state in its group, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// `Pending`, and its waits.
    Pending,
    /// `InService`.
    InService,
    /// `Standby`, `EnteringStandby`, `Detaching`, `Detached`: somebody took it out on purpose.
    OutOfService,
    /// `Terminating`, and its waits; `Terminated`.
    Terminating,
    /// `Warmed:*`: its instances can't be terminated through the group.
    WarmPool,
}

impl Lifecycle {
    /// Reads Auto Scaling's word.
    pub fn from_aws(state: &str) -> Self {
        match state {
            "InService" => Self::InService,
            state if state.starts_with("Warmed") => Self::WarmPool,
            state if state.starts_with("Pending") => Self::Pending,
            state if state.starts_with("Terminat") => Self::Terminating,
            // A state that we don't know is not one to terminate from.
            _ => Self::OutOfService,
        }
    }
}

/// A group as AWS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// The cluster that its tags name.
    pub cluster: Option<ClusterName>,
    /// Its instances.
    pub members: Vec<Member>,
    /// Processes that somebody suspended: `Launch`, `Terminate`, …
    pub suspended: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// EKS's own node auto repair is on for it.
    pub eks_repair_enabled: bool,
}

/// One instance of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub instance_id: InstanceId,
    /// Its zone.
    pub zone: Zone,
    /// Its state.
    pub lifecycle: Lifecycle,
}

impl Group {
    /// How many of its instances serve: what a threshold is a part of.
    pub fn size(&self) -> usize {
        self.members.iter().filter(|member| member.lifecycle != Lifecycle::WarmPool).count()
    }

    /// One of its instances.
    pub fn member(&self, instance_id: &InstanceId) -> Option<&Member> {
        self.members.iter().find(|member| member.instance_id == *instance_id)
    }
}

/// A cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// How many nodes it has in each zone.
    pub zones: BTreeMap<Zone, usize>,
    /// Zones from which an ARC zonal shift leads traffic away.
    pub zonal_shifts: Vec<Zone>,
}

impl ClusterFacts {
    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.zones.values().sum()
    }
}

/// The repairs under way in a group: one item of the state table.
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
    #[serde(default)]
    version: u64,
}

/// A repair's slot in its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// The instance under repair.
    pub instance_id: InstanceId,
    /// When the repair was claimed.
    #[serde(with = "timestamp")]
    pub claimed_at: Timestamp,
    /// When the instance was terminated; none for a reboot, which needs no replacement.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
    /// The instance that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<InstanceId>,
}

impl GroupState {
    /// A group with no repair under way.
    pub fn new(cluster: ClusterName, name: GroupName) -> Self {
        Self { name, cluster, slots: Vec::new(), failures: 0, last_failure: None, version: 0 }
    }

    /// The group.
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// Its cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The slots of the repairs under way, oldest first.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many replacements in a row failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the last of them failed.
    pub fn last_failure(&self) -> Option<Timestamp> {
        self.last_failure
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

    /// Gives the repair of an instance a slot, if it has none.
    pub fn acquire_slot(&mut self, instance_id: InstanceId, now: Timestamp) {
        if self.slot(&instance_id).is_none() {
            let slot = Slot { instance_id, claimed_at: now, terminated_at: None, replacement: None };
            self.slots.push(slot);
        }
    }

    /// Records that AWS terminates the instance: from then on a replacement is awaited.
    pub fn record_termination(&mut self, instance_id: &InstanceId, at: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.instance_id == *instance_id) {
            slot.terminated_at.get_or_insert(at);
        }
    }

    /// Releases the slot of an instance's repair.
    pub fn release_slot(&mut self, instance_id: &InstanceId) {
        self.slots.retain(|slot| slot.instance_id != *instance_id);
    }

    /// Matches a new instance with the terminated one that it replaces, if any: the one terminated last before the new
    /// one was launched. Not the one that has waited longest: a slow instance would then find only slots that are younger
    /// than itself, and its group would back off for want of it. A group that launches when no replacement is awaited has
    /// merely grown.
    pub fn match_replacement(&mut self, new: &InstanceId, came: Timestamp) -> Option<InstanceId> {
        if let Some(slot) = self.slots.iter().find(|slot| slot.replacement.as_ref() == Some(new)) {
            return Some(slot.instance_id.clone());
        }
        let slot = self
            .slots
            .iter_mut()
            .filter(|slot| slot.replacement.is_none() && slot.terminated_at.is_some_and(|at| at <= came))
            .min_by_key(|slot| Reverse(slot.terminated_at))?;
        slot.replacement = Some(new.clone());
        (self.failures, self.last_failure) = (0, None);
        Some(slot.instance_id.clone())
    }

    /// Records that a replacement failed.
    pub fn record_failure(&mut self, at: Timestamp) {
        self.failures += 1;
        self.last_failure = self.last_failure.max(Some(at));
    }

    /// Until when the group is in backoff after failed replacements; the wait doubles with each, up to 24 h.
    pub fn backoff_until(&self, policy: &Policy) -> Option<Timestamp> {
        let doublings = self.failures.checked_sub(1)?.min(10);
        let backoff = (policy.failure_backoff * (1 << doublings)).min(SignedDuration::from_hours(24));
        self.last_failure?.checked_add(backoff).ok()
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

    #[test]
    fn newcomers_go_to_the_last_call_before_them_and_each_to_one_only() {
        let mut state = state();
        for n in [1, 2] {
            state.acquire_slot(id(n), at(0));
        }
        assert_eq!(state.match_replacement(&id(8), at(1)), None, "nothing was terminated yet");
        state.record_termination(&id(2), at(5));
        state.record_termination(&id(1), at(6));
        assert_eq!(state.match_replacement(&id(9), at(7)), Some(id(1)));
        assert_eq!(state.match_replacement(&id(9), at(7)), Some(id(1)), "told twice");
        assert_eq!(state.match_replacement(&id(10), at(8)), Some(id(2)));
        assert_eq!(state.match_replacement(&id(11), at(9)), None);
    }

    #[test]
    fn a_slow_newcomer_still_finds_the_place_that_it_was_launched_for() {
        let mut state = state();
        for (n, minute) in [(3, 16), (40, 50)] {
            state.acquire_slot(id(n), at(minute));
            state.record_termination(&id(n), at(minute));
        }
        assert_eq!(state.match_replacement(&id(51), at(53)), Some(id(40)));
        assert_eq!(
            state.match_replacement(&id(50), at(33)),
            Some(id(3)),
            "it registers last, and came first"
        );
    }

    #[test]
    fn each_failed_replacement_doubles_the_rest() {
        let (mut state, policy) = (state(), Policy::default());
        assert_eq!(state.backoff_until(&policy), None);
        for rest in [15, 30, 60, 120] {
            state.record_failure(at(100));
            assert_eq!(state.backoff_until(&policy), Some(at(100 + rest)));
        }
        for _ in 0..40 {
            state.record_failure(at(100));
        }
        assert_eq!(state.backoff_until(&policy), Some(at(100 + 24 * 60)));
    }

    #[test]
    fn states_that_we_do_not_know_are_left_alone() {
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
}
