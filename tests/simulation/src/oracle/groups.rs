//! What the store has of each group: its slots, its failures, and what they come from.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::group::GroupState;

use super::{LEASE, Oracle, SLACK, node::Node};

/// What the store has of a group, and what its failures come from.
#[derive(Debug, Default, Clone)]
pub(crate) struct StoredGroup {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Timestamp>,
    /// When repairs were given up because no replacement came.
    pub(crate) given_up: Vec<Timestamp>,
    pub(crate) suspended: bool,
    /// When its repairs were last stopped because many nodes are unhealthy at once.
    pub(crate) halted: Option<Timestamp>,
    /// When replacements became Ready, each with the reason of its predecessor's repair.
    pub(crate) proven: Vec<(String, Timestamp)>,
}

impl Oracle {
    pub(super) fn group_written(&mut self, number: usize, ended: bool, state: &GroupState) {
        let Some(place) = self.plan.groups.iter().position(|group| group.name == *state.name()) else {
            return;
        };
        for place in state.slots() {
            let other = Node::number(&place.instance_id);
            if self.nodes.get(other).is_none_or(|node| !node.stored.open) {
                self.violation("a slot without a repair", format!("node {other} in {}", state.name()));
            }
        }
        let (now, before) = (self.now, self.groups[place].failures);
        let stored = &mut self.groups[place];
        (stored.failures, stored.last_failure) = (state.failures(), state.last_failure());
        if state.failures() > before {
            let late = self.nodes[number].join_deadline().is_some_and(|late| late <= now + SLACK);
            if ended {
                self.groups[place].given_up.push(now);
                self.given_up(number, place);
            } else if !late {
                self.violation(
                    "a failure counted without cause",
                    format!("node {number} has joined, or had time to"),
                );
            }
        }
    }

    /// A repair that was given up is a failure of its group.
    pub(super) fn counted(&mut self, number: usize, before: u32, group: &GroupState) {
        if group.failures() <= before {
            self.violation(
                "a failure that was not counted",
                format!("the repair of node {number} was given up"),
            );
        }
    }

    /// A repair was given up because no replacement came: no more may be than wanted for one at their time. Auto Scaling does
    /// not say which new instance replaces which.
    fn given_up(&mut self, number: usize, group: usize) {
        let of_group = self.nodes.iter().filter(|node| node.group == group);
        let mut wanting: Vec<(Timestamp, Timestamp)> = of_group
            .filter_map(|node| {
                let from = node.terminated?;
                // A slow process dates its call up to a lease before it reached AWS.
                let late = from + SignedDuration::from_mins(60) - LEASE;
                let joined = node.replaced_by.and_then(|by| self.nodes[by].known_joined_at);
                Some((from, joined.filter(|joined| *joined < late - LEASE).unwrap_or(Timestamp::MAX)))
            })
            .collect();
        // The one whose replacement came first is the first that can't be meant any more.
        wanting.sort_unstable_by_key(|(_, until)| *until);
        let meant = |at: &Timestamp| {
            let place = wanting.iter().position(|(from, until)| from <= at && at < until);
            place.map(|place| wanting.remove(place)).is_some()
        };
        if !self.groups[group].given_up.iter().all(meant) {
            self.violation(
                "a failure counted without cause",
                format!("the repair of node {number} was given up, and its replacement had come"),
            );
        }
    }
}
