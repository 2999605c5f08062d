//! How repairs begin: with one for each reason, one at a time where there are few nodes, none that replacing does not help,
//! and none while an outage ends. And which nodes must count for that.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{case::Case, group::Group, guard::UnhealthyNode};

use super::{
    LEASE, Oracle, SLACK,
    node::{Node, StoredCase},
    reads::Basis,
};
use crate::{episodes::HOLD, fleet::SMALL};

/// The policy's `outage.cooldown`.
const COOLDOWN: SignedDuration = SignedDuration::from_mins(10);
/// After this long without a replacement for a reason, repairs for it begin with one again.
const PROVEN_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Not ready yet, a new node does not count for so long.
const STARTING: SignedDuration = SignedDuration::from_mins(10);

/// The guards that stop the repairs of a group because many nodes are unhealthy at once.
const HALTS: [&str; 5] =
    ["UnhealthyThreshold", "ClusterThreshold", "ZoneImpaired", "LogPipelineSuspect", "OutageEnding"];

impl Oracle {
    /// A repair of its group was stopped because many nodes are unhealthy at once.
    pub(super) fn note_halt(&mut self, number: usize, case: &Case) {
        let halts = |guard: &String| HALTS.contains(&guard.as_str());
        // Other writes keep what an earlier evaluation found.
        let is_new = case.due().is_some_and(|due| due > self.now);
        if is_new && case.blocked().is_some_and(|blocked| blocked.guards.iter().any(halts)) {
            let group = self.nodes[number].group;
            self.groups[group].halted = Some(self.now);
        }
    }

    /// A new repair is claimed: how many others go on is known, and whether replacing helps.
    pub(super) fn claimed(&mut self, number: usize, case: &Case, basis: &Basis) {
        let (Some(policy), Some(group), Some(repair)) = (&basis.policy, &basis.group, case.repair()) else {
            return;
        };
        if !policy.outage.gradual {
            return;
        }
        let reason = repair.fault().reason.as_str();
        let node = &self.nodes[number];
        let others = || {
            // One whose replacement is Ready has given its slot back, and waits for CloudTrail alone.
            let other = |(other, node): &(usize, &Node)| {
                *other != number && node.stored.open && !node.stored.replaced
            };
            self.nodes.iter().enumerate().filter(other).map(|(_, node)| node)
        };
        let of_group = others().filter(|other| other.group == node.group);
        let for_reason = of_group.clone().filter(|other| other.stored.reason == reason).count();
        let limit = self.proven(node.group, reason, basis.at);
        let mut violations = Vec::new();
        if for_reason >= limit {
            violations.push((
                "more at once than have proven to help",
                format!("{for_reason} others for {reason}, {limit} allowed"),
            ));
        }
        let small_group = group.size() <= SMALL && of_group.count() > 0;
        // Two runs that overlap can each claim one in a group of its own: they write nothing in common.
        let known = || others().any(|other| other.stored.opened.is_none_or(|opened| opened < basis.at));
        let small_cluster = basis.cluster_facts.iter().all(|facts| facts.nodes() <= SMALL) && known();
        if small_group || small_cluster {
            violations.push(("more than one at a time where there are few nodes", reason.to_owned()));
        }
        if let Some(again) = self.repeated(number, reason, basis) {
            violations.push(("a call for a fault that replacing did not help", again));
        }
        for (rule, what) in violations {
            self.violation(rule, format!("node {number}: {what}"));
        }
    }

    /// How many repairs for a reason may go on at once: twice as many each time that as many replacements have become Ready.
    fn proven(&self, group: usize, reason: &str, at: Timestamp) -> usize {
        let mut proven = 0_usize;
        let mut last: Option<Timestamp> = None;
        for (_, ready) in self.groups[group].proven.iter().filter(|(of, _)| of == reason) {
            if last.is_some_and(|last| ready.duration_since(last) > PROVEN_FOR + SLACK) {
                proven = 0;
            }
            (proven, last) = (proven + 1, Some(*ready));
        }
        let recent = last.is_some_and(|last| at.duration_since(last) <= PROVEN_FOR + SLACK);
        if recent { 1 << (proven + 1).ilog2() } else { 1 }
    }

    /// A replacement that is unhealthy for the reason that its predecessor was replaced for, as the process had read it.
    fn repeated(&self, number: usize, reason: &str, basis: &Basis) -> Option<String> {
        let group = basis.group.as_ref()?;
        let replaced = |one: &&UnhealthyNode| {
            let new = Node::number(&one.instance_id);
            let predecessor =
                self.nodes.iter().find(|node| node.stored.replacement == Some(new)).map(|node| &node.stored);
            let joined = self.nodes.get(new).and_then(|node| node.launched);
            group.member(&one.instance_id).is_some()
                && one.unhealthy_reason.reason.as_deref() == Some(reason)
                && one.unhealthy_reason.counts_from.is_none_or(|from| from + SLACK <= basis.at)
                && predecessor.is_some_and(|stored| stored.reason == reason)
                && joined.is_some_and(|at| one.unhealthy_reason.since.duration_since(at) < PROVEN_FOR - SLACK)
        };
        let all = basis.unhealthy_nodes.iter().map(|nodes| nodes.iter().find(replaced));
        // The process handles several nodes at once: only what all its reads show is certain.
        let all: Option<Vec<_>> = all.collect();
        let again = all?.first().map(|one| one.instance_id.clone())?;
        Some(format!("{again} has {reason} like its predecessor, and node {number} is next"))
    }

    /// Whether an outage of the group ends, by what was read.
    pub(super) fn outage_ends(
        &self,
        number: usize,
        group: &Group,
        at: Timestamp,
        unhealthy_nodes: &[UnhealthyNode],
    ) -> Vec<(&'static str, String)> {
        let halted = self.groups[self.nodes[number].group].halted;
        let Some(halted) = halted.filter(|halted| *halted < at && at.duration_since(*halted) <= COOLDOWN)
        else {
            return Vec::new();
        };
        let members = unhealthy_nodes.iter().filter(|node| group.member(&node.instance_id).is_some());
        let recent = |recovered: &Timestamp| at.duration_since(*recovered) < COOLDOWN - SLACK;
        let recovered = members.filter_map(|node| node.unhealthy_reason.recovered).filter(recent).count();
        if recovered < 2 {
            return Vec::new();
        }
        vec![("a call while an outage ends", format!("halted at {halted:.0}, {recovered} recovered since"))]
    }

    /// What was written of a node counts it as unhealthy while it is known to be, and until its recovery has held.
    pub(super) fn counts(&mut self, number: usize, before: &StoredCase, due: Option<Timestamp>) {
        let (node, now) = (&self.nodes[number], self.now);
        // A process that stalled has written what was so before: it is evaluated again at once.
        let is_due = due.is_some_and(|due| due <= now + SLACK);
        if is_due || node.unreliable || node.stored.closed || node.is_out() || node.known_left {
            return;
        }
        let starts = node.known_start().is_some_and(|from| now.duration_since(from) < STARTING + SLACK);
        // Verification in observe mode heals it, too.
        let is_healed = node.healthy_since(now).is_some();
        if node.is_known_unhealthy() && !node.stored.unhealthy && !starts && !is_healed {
            let known = format!("node {number}: {:?}", node.known_conditions());
            self.violation("an unhealthy node that does not count", known);
        // A process that stalled between its clock and its reading dates what it reads too early.
        } else if before.unhealthy && !node.stored.unhealthy && now > self.last_fault + LEASE {
            let recovered = node.known_recovery().filter(|at| now < *at + HOLD - SLACK);
            if let Some(recovered) = recovered {
                self.violation(
                    "a recovery that has not held",
                    format!("node {number} no longer counts, and recovered at {recovered:.0}"),
                );
            }
        }
    }
}
