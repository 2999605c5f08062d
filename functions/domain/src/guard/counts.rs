//! What counts in thresholds.
//!
//! - A node counts as unhealthy by the rules of its own group: one that they never repair does not.
//! - An instance on standby, terminating, in a warm pool or gone counts in neither half. A repair of ours counts until its
//!   replacement is Ready, and so does missing capacity: a group must not shrink further because its lost nodes are no
//!   longer listed.
//! - The node at hand always counts: the index of unhealthy nodes may not have it yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::{UnhealthyCounts, UnhealthyNode};
use crate::{
    case::UnhealthyReason,
    group::{Group, GroupState, InstanceLocation, Lifecycle},
    ident::{GroupName, InstanceId, Zone},
    policy::{Policy, Rules},
};

/// The tags of groups, by name.
pub type GroupTags = HashMap<GroupName, BTreeMap<String, String>>;

/// The unhealthy nodes of a cluster that count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountedNodes {
    /// They, each with whether it counts as unhealthy now.
    pub nodes: Vec<UnhealthyNode>,
    /// How many nodes of each zone are set aside: they run, and count in no half of a threshold.
    pub set_aside: BTreeMap<Zone, usize>,
}

impl CountedNodes {
    /// Selects the nodes that count, from the index of unhealthy nodes and from where AWS has their instances. One whose
    /// location is unknown counts.
    pub fn of(
        unhealthy_nodes: &[UnhealthyNode],
        locations: &HashMap<InstanceId, InstanceLocation>,
        tags: &GroupTags,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let mut counted = Self::default();
        for node in unhealthy_nodes {
            let location = locations.get(&node.instance_id);
            let is_set_aside = matches!(
                location,
                Some(InstanceLocation::Member {
                    lifecycle: Lifecycle::OutOfService | Lifecycle::Terminating,
                    ..
                })
            );
            let is_away = is_set_aside
                || matches!(
                    location,
                    Some(
                        InstanceLocation::Gone
                            | InstanceLocation::Member { lifecycle: Lifecycle::WarmPool, .. }
                    )
                );
            if is_away && !node.unhealthy_reason.repairing {
                if is_set_aside && let Some(zone) = &node.zone {
                    *counted.set_aside.entry(zone.clone()).or_default() += 1;
                }
                continue;
            }
            let mut node = node.clone();
            let reason = &mut node.unhealthy_reason;
            reason.unhealthy &= reason.has_begun(now)
                && (reason.repairing || reason.is_repaired_under(&rules_of(location, tags, policy)));
            counted.nodes.push(node);
        }
        counted
    }
}

fn rules_of<'p>(location: Option<&InstanceLocation>, tags: &GroupTags, policy: &'p Policy) -> Rules<'p> {
    match location {
        Some(InstanceLocation::Member { group, .. }) => {
            let no_tags = BTreeMap::new();
            policy.rules_for(group, tags.get(group).unwrap_or(&no_tags))
        }
        _ => policy.default_rules(),
    }
}

impl UnhealthyReason {
    /// Whether it counts yet: a node that has just registered gets its time to become Ready.
    pub fn has_begun(&self, now: Timestamp) -> bool {
        self.counts_from.is_none_or(|from| from <= now)
    }

    /// Whether these rules repair one of its faults. Where all groups have the same rules, none of them is listed.
    fn is_repaired_under(&self, rules: &Rules<'_>) -> bool {
        self.faults.is_empty()
            || self.faults.iter().any(|fault| {
                if fault.promoted {
                    rules.grace_for(&fault.condition, &fault.reason).is_some()
                } else {
                    rules.remedy(&fault.condition, &fault.reason).is_some()
                }
            })
    }
}

impl UnhealthyCounts {
    /// The same with the node at hand, if it is not among the nodes that were counted.
    #[must_use]
    pub fn with(&self, instance_id: &InstanceId, zone: Option<&Zone>, nodes: &[UnhealthyNode]) -> Self {
        let mut counts = self.clone();
        let is_counted =
            |node: &UnhealthyNode| node.instance_id == *instance_id && node.unhealthy_reason.unhealthy;
        if !nodes.iter().any(is_counted) {
            counts.unhealthy += 1;
            if let Some(zone) = zone {
                *counts.by_zone.entry(zone.clone()).or_default() += 1;
            }
        }
        counts
    }
}

/// The two halves of a group's threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupCounts {
    /// How many of its nodes are unhealthy or missing.
    pub unhealthy: usize,
    /// How many nodes it has, or wants to have.
    pub size: usize,
}

impl GroupCounts {
    /// Counts a group, with the repair of this instance at hand.
    pub fn of(group: &Group, state: &GroupState, counted: &[UnhealthyNode], at_hand: &InstanceId) -> Self {
        let unhealthy: BTreeSet<&InstanceId> = counted
            .iter()
            .filter(|node| node.unhealthy_reason.unhealthy)
            .map(|node| &node.instance_id)
            .chain([at_hand])
            .collect();
        let counts = |lifecycle| matches!(lifecycle, Lifecycle::InService | Lifecycle::Pending);
        let members: BTreeSet<&InstanceId> = group
            .members
            .iter()
            .filter(|member| counts(member.lifecycle))
            .map(|member| &member.instance_id)
            .collect();
        let set_aside =
            group.members.iter().filter(|member| member.lifecycle == Lifecycle::OutOfService).count();
        let unhealthy_members = members.intersection(&unhealthy).count();
        // The instance under repair is no longer a member: what stands for it is its replacement, or nothing yet.
        let (mut replacing, mut awaited) = (0, 0_usize);
        for slot in state.slots().iter().filter(|slot| !members.contains(&slot.instance_id)) {
            match &slot.replacement {
                Some(new) if members.contains(new) => replacing += usize::from(!unhealthy.contains(new)),
                _ => awaited += 1,
            }
        }
        let wanted = group.desired_capacity.map(|desired| desired.saturating_sub(set_aside));
        // One that did not join is counted as what it is, and stands for a slot: it is matched with none.
        let joins_not = |node: &&UnhealthyNode| {
            members.contains(&node.instance_id)
                && node.unhealthy_reason.reason.as_deref() == Some("FailedToJoin")
        };
        awaited = awaited.saturating_sub(counted.iter().filter(joins_not).count());
        let size = members.len().max(wanted.unwrap_or(members.len() + awaited));
        // A replacement that is launched and not matched yet is a member, and its slot still counts.
        let missing = (size - members.len()).max(awaited);
        Self { unhealthy: (unhealthy_members + replacing + missing).min(size), size }
    }
}
