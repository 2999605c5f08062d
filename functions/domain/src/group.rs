//! The Auto Scaling group around a node: what AWS says of it, and what we have under way in it.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::Policy,
    stamp,
};

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
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
    SetAside,
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
            _ => Self::SetAside,
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
    pub eks_repairs: bool,
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

/// What we have under way in a group, as one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupState {
    /// The group.
    pub name: GroupName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The repairs that have a place in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlight>,
    /// How many replacements in a row did not come up.
    #[serde(default)]
    pub failures: u32,
    /// When the last of them didn't.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Timestamp>,
    /// Rises by one with each write.
    #[serde(default)]
    pub version: u64,
}

/// A repair's place in its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// The instance.
    pub instance_id: InstanceId,
    /// When it was claimed.
    #[serde(with = "stamp")]
    pub claimed_at: Timestamp,
    /// When its instance was terminated; a reboot needs no replacement.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
    /// What came in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<InstanceId>,
}

impl GroupState {
    /// A group in which nothing is under way.
    pub fn new(cluster: ClusterName, name: GroupName) -> Self {
        Self { name, cluster, in_flight: Vec::new(), failures: 0, last_failure: None, version: 0 }
    }

    /// A repair's place, if it has one.
    pub fn place(&self, instance_id: &InstanceId) -> Option<&InFlight> {
        self.in_flight.iter().find(|place| place.instance_id == *instance_id)
    }

    /// Gives a repair its place.
    pub fn take_place(&mut self, instance_id: InstanceId, now: Timestamp) {
        if self.place(&instance_id).is_none() {
            let place = InFlight { instance_id, claimed_at: now, terminated_at: None, replacement: None };
            self.in_flight.push(place);
        }
    }

    /// Its instance is on its way out.
    pub fn terminated(&mut self, instance_id: &InstanceId, at: Timestamp) {
        if let Some(place) = self.in_flight.iter_mut().find(|place| place.instance_id == *instance_id) {
            place.terminated_at.get_or_insert(at);
        }
    }

    /// Takes a repair's place away.
    pub fn release(&mut self, instance_id: &InstanceId) {
        self.in_flight.retain(|place| place.instance_id != *instance_id);
    }

    /// Gives a newcomer to the last repair that was called for before it came; the instance it replaces, if any.
    /// Not to the one that has waited longest: a slow newcomer would then find only places that are younger than itself,
    /// and its group would rest for want of it. A group that launches when nothing is awaited has merely grown.
    pub fn welcome(&mut self, newcomer: &InstanceId, came: Timestamp) -> Option<InstanceId> {
        if let Some(place) = self.in_flight.iter().find(|place| place.replacement.as_ref() == Some(newcomer))
        {
            return Some(place.instance_id.clone());
        }
        let place = self
            .in_flight
            .iter_mut()
            .filter(|place| place.replacement.is_none() && place.terminated_at.is_some_and(|at| at <= came))
            .min_by_key(|place| Reverse(place.terminated_at))?;
        place.replacement = Some(newcomer.clone());
        (self.failures, self.last_failure) = (0, None);
        Some(place.instance_id.clone())
    }

    /// A replacement did not come up.
    pub fn failed(&mut self, at: Timestamp) {
        self.failures += 1;
        self.last_failure = self.last_failure.max(Some(at));
    }

    /// Until when the group rests after replacements that did not come up; the wait doubles with each.
    pub fn rests_until(&self, policy: &Policy) -> Option<Timestamp> {
        let doublings = self.failures.checked_sub(1)?.min(10);
        let rest = (policy.failure_backoff * (1 << doublings)).min(SignedDuration::from_hours(24));
        self.last_failure?.checked_add(rest).ok()
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
            state.take_place(id(n), at(0));
        }
        assert_eq!(state.welcome(&id(8), at(1)), None, "nothing was terminated yet");
        state.terminated(&id(2), at(5));
        state.terminated(&id(1), at(6));
        assert_eq!(state.welcome(&id(9), at(7)), Some(id(1)));
        assert_eq!(state.welcome(&id(9), at(7)), Some(id(1)), "told twice");
        assert_eq!(state.welcome(&id(10), at(8)), Some(id(2)));
        assert_eq!(state.welcome(&id(11), at(9)), None);
    }

    #[test]
    fn a_slow_newcomer_still_finds_the_place_that_it_was_launched_for() {
        let mut state = state();
        for (n, minute) in [(3, 16), (40, 50)] {
            state.take_place(id(n), at(minute));
            state.terminated(&id(n), at(minute));
        }
        assert_eq!(state.welcome(&id(51), at(53)), Some(id(40)));
        assert_eq!(state.welcome(&id(50), at(33)), Some(id(3)), "it registers last, and came first");
    }

    #[test]
    fn each_failed_replacement_doubles_the_rest() {
        let (mut state, policy) = (state(), Policy::default());
        assert_eq!(state.rests_until(&policy), None);
        for rest in [15, 30, 60, 120] {
            state.failed(at(100));
            assert_eq!(state.rests_until(&policy), Some(at(100 + rest)));
        }
        for _ in 0..40 {
            state.failed(at(100));
        }
        assert_eq!(state.rests_until(&policy), Some(at(100 + 24 * 60)));
    }

    #[test]
    fn states_that_we_do_not_know_are_left_alone() {
        for (state, expected) in [
            ("InService", Lifecycle::InService),
            ("Terminating:Wait", Lifecycle::Terminating),
            ("Warmed:Stopped", Lifecycle::WarmPool),
            ("Pending:Proceed", Lifecycle::Pending),
            ("Standby", Lifecycle::SetAside),
            ("ReplacingRootVolume", Lifecycle::SetAside),
        ] {
            assert_eq!(Lifecycle::from_aws(state), expected);
        }
    }
}
