//! What the store has of each group: its slots, its failures, and what they come from.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::group::GroupState;

use super::{
    LEASE, Oracle, SLACK,
    calls::backoff_until,
    node::{Fact, Node},
};

/// What the store has of a group, and what its failures come from.
#[derive(Debug, Default, Clone)]
pub(crate) struct StoredGroup {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Timestamp>,
    /// How many attempts to launch have failed since one succeeded, and when the last did.
    pub(crate) failed_launches: (u32, Option<Timestamp>),
    /// When repairs were given up because no replacement came.
    pub(crate) given_up: Vec<Timestamp>,
    pub(crate) suspended: bool,
    /// When its repairs were last stopped because many nodes are unhealthy at once.
    pub(crate) halted: Option<Timestamp>,
    /// When replacements became Ready, each with the reason of its predecessor's repair.
    pub(crate) proven: Vec<(String, Timestamp)>,
}

impl StoredGroup {
    /// Until when it is in backoff.
    pub(super) fn backoff_until(&self) -> Option<Timestamp> {
        let (attempts, last) = self.failed_launches;
        backoff_until(self.failures, self.last_failure).max(backoff_until(attempts, last))
    }
}

impl Oracle {
    /// A handler has written that an instance was launched, or could not be.
    pub(crate) fn launch_written(&mut self, process: usize, state: &GroupState) {
        if let Some(place) = self.plan.groups.iter().position(|group| group.name == *state.name()) {
            self.groups[place].failed_launches = failed_launches(state);
        }
        for (number, fact) in &self.reads[process].facts {
            if let Fact::LaunchFailed { at } = fact {
                self.nodes[*number].known_launch_failure = Some((*at, self.now));
            }
        }
    }

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
        stored.failed_launches = failed_launches(state);
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

    /// A repair that was given up is a failure of its group, or one more of the same outage.
    pub(super) fn counted(&mut self, number: usize, group: &GroupState) {
        let counted = group.last_failure().is_some_and(|at| at + LEASE >= self.now);
        if !counted || group.failures() == 0 {
            self.violation(
                "a failure that was not counted",
                format!("the repair of node {number} was given up"),
            );
        }
    }

    /// A repair was given up because no replacement came: no more may be than wanted for one at their time. Auto Scaling does
    /// not report which new instance replaces which.
    fn given_up(&mut self, number: usize, group: usize) {
        // An instance that was matched with it, and was never reported Ready, is a cause.
        let matched = self.nodes[number].stored.replacement;
        if matched.is_some_and(|new| self.nodes[new].known_ready_at.is_none()) {
            self.groups[group].given_up.pop();
            return;
        }
        let of_group = self.nodes.iter().filter(|node| node.group == group);
        let mut wanting: Vec<(Timestamp, Timestamp)> = of_group
            .filter_map(|node| {
                let from = node.terminated?;
                // A slow process dates its call up to a lease before it reached AWS.
                let late = from + SignedDuration::from_mins(60) - LEASE;
                // A replacement counts from when both its arrival and its Ready are known.
                let joined = node.replaced_by.and_then(|by| {
                    let new = &self.nodes[by];
                    let joined = new.known_joined_at?.max(new.known_ready_at?);
                    if !new.pooled {
                        return Some(joined);
                    }
                    // EC2 launched it long ago: without the event by which it was drawn from the pool, it looks old.
                    new.known_launch.map(|(_, arrived)| joined.max(arrived))
                });
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

/// How many attempts to launch have failed, and when the last did.
pub(super) fn failed_launches(state: &GroupState) -> (u32, Option<Timestamp>) {
    state.launch_failures().map_or((0, None), |failures| (failures.attempts, Some(failures.last)))
}
