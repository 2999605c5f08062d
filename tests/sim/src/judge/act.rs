//! Whether a call that is about to be made is right: by what has reached the handlers of its node, and by what its
//! process read of all that may stand in the way, right before.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    condition::RepairAction,
    group::{Group, Lifecycle, Whereabouts},
    guard::Unwell,
    policy::{Hold, Limit, Mode},
};

use super::{Basis, Judge, REBOOT_TIMEOUT, SLACK};
use crate::{plan::CLUSTER, trouble::Cure};

impl Judge {
    /// A process has written down that it is about to make a call.
    pub(super) fn acting(&mut self, process: usize, number: usize, case: &Case, action: RepairAction) {
        let basis = self.reads[process].claims.remove(&number);
        let mut wrongs = self.unjustified(number, action);
        match &basis {
            Some(basis) => wrongs.extend(self.in_the_way(number, case, basis)),
            None => {
                wrongs.push(("not read before the call", "no claim was written by this process".to_owned()));
            }
        }
        for (rule, what) in wrongs {
            self.wrong(rule, format!("node {number}, about to {}: {what}", action.as_str()));
        }
    }

    /// What speaks against it by the node's own state, as it has reached the handlers.
    fn unjustified(&self, number: usize, action: RepairAction) -> Vec<(&'static str, String)> {
        let (node, now) = (&self.nodes[number], self.now);
        let mut wrongs = Vec::new();
        let plan = self.group_plan(number);
        if !plan.may_be_repaired() {
            wrongs.push(("a call where none may be made", format!("in group {}", plan.name)));
        }
        let heard = self.as_heard(number);
        let by_now = |at: Option<Timestamp>| at.is_some_and(|at| at <= now + SLACK);
        let due = |cure: Cure| heard.iter().any(|one| one.cure == Some(cure) && by_now(one.deadline));
        let late = node.never_joined_deadline().is_some_and(|at| at <= now + SLACK);
        let bad = node.is_bad_as_heard();
        match action {
            RepairAction::Reboot => {
                if !due(Cure::Reboot) {
                    wrongs.push(self.too_early(number, bad));
                }
                let mut asking =
                    heard.iter().filter(|one| one.bad && one.cure == Some(Cure::Reboot)).peekable();
                if asking.peek().is_some() && asking.all(|one| node.was_rebooted_in_vain(one)) {
                    wrongs.push(("rebooted twice for one trouble", format!("{heard:?}")));
                }
            }
            _ => {
                // What its agent complained of, its agent must take back: a kubelet that is ready proves nothing.
                let unanswered = bad || !node.agent_spoke();
                let reboot_failed =
                    node.seen.rebooted.is_some_and(|at| at + REBOOT_TIMEOUT <= now + SLACK) && unanswered;
                // The same, of a repair that ended before that was heard.
                let outlived =
                    heard.iter().any(|one| by_now(one.deadline) && by_now(node.outlives_reboot(one)));
                if !due(Cure::Replace) && !reboot_failed && !outlived && !late {
                    wrongs.push(self.too_early(number, bad));
                }
            }
        }
        wrongs
    }

    fn too_early(&self, number: usize, bad: bool) -> (&'static str, String) {
        let heard = self.as_heard(number);
        if bad {
            ("a call before its deadline", format!("{heard:?}"))
        } else {
            ("a call on a node that is known to be well", format!("{heard:?}"))
        }
    }

    /// What the process had read, and what of it stood in the way.
    fn in_the_way(&self, number: usize, case: &Case, basis: &Basis) -> Vec<(&'static str, String)> {
        let mut wrongs = Vec::new();
        let (Some(whereabouts), Some(group), Some(state), Some(policy)) =
            (&basis.whereabouts, &basis.group, &basis.state, &basis.policy)
        else {
            return vec![("not read again before the call", format!("{basis:?}"))];
        };
        if basis.facts.is_empty() || basis.unwell.is_empty() || basis.holds.is_empty() {
            return vec![("not read again before the call", format!("{basis:?}"))];
        }
        let at = basis.at;
        if basis.version + 1 != case.version {
            wrongs.push((
                "decided on another version",
                format!("read {}, written {}", basis.version, case.version),
            ));
        }
        let rule = policy
            .groups
            .iter()
            .find(|rule| rule.name.as_deref() == Some(self.group_plan(number).name.as_str()));
        if rule.and_then(|rule| rule.mode).unwrap_or(policy.mode) == Mode::Observe {
            wrongs.push(("a call where none may be made", "the mode that was read is observe".to_owned()));
        }
        let node = &self.nodes[number];
        let joins_late = node.join_deadline().is_some();
        match whereabouts {
            Whereabouts::Member { lifecycle: Lifecycle::InService, .. } => {}
            Whereabouts::Member { lifecycle: Lifecycle::Pending, .. } if joins_late => {}
            other => wrongs.push(("a call on what is not in service", format!("{other:?}"))),
        }
        if group.suspended.iter().any(|process| matches!(process.as_str(), "Launch" | "Terminate")) {
            wrongs.push(("a call in a suspended group", format!("{:?}", group.suspended)));
        }
        wrongs.extend(least(basis.holds.iter().map(|holds| {
            holds.iter().chain(&policy.holds).filter_map(|hold| self.held(number, hold, at)).collect()
        })));
        wrongs.extend(self.shut(number, at));
        let rest = rests_until(state.failures, state.last_failure);
        if rest.is_some_and(|until| at + SLACK < until) {
            wrongs.push(("a call while its group rests", format!("until {rest:?}")));
        }
        wrongs.extend(least(basis.unwell.iter().map(|unwell| self.too_many(number, group, state, unwell))));
        let pairs =
            basis.facts.iter().flat_map(|facts| basis.unwell.iter().map(move |unwell| (facts, unwell)));
        wrongs.extend(least(pairs.map(|(facts, unwell)| suspect(group, &case.instance_id, facts, unwell))));
        wrongs
    }

    /// A hold that was read, if it is on this node.
    fn held(&self, number: usize, hold: &Hold, at: Timestamp) -> Option<(&'static str, String)> {
        let node = &self.nodes[number];
        let on = hold.until > at + SLACK && hold.from.is_none_or(|from| from <= at - SLACK);
        let mine = hold.cluster.as_ref().is_none_or(|cluster| cluster.as_str() == CLUSTER)
            && hold.group.as_ref().is_none_or(|group| *group == self.group_plan(number).name)
            && hold.node.as_ref().is_none_or(|name| *name == node.name && node.has_told_its_name());
        (on && mine).then(|| ("a call while held", format!("{hold:?}")))
    }

    /// Its maintenance window, if it is shut.
    fn shut(&self, number: usize, at: Timestamp) -> Option<(&'static str, String)> {
        let (start, end) = self.group_plan(number).window?;
        let open = |at: Timestamp| {
            let minute = at.as_second().rem_euclid(86_400) / 60;
            (start..end).contains(&minute) || (start..end).contains(&(minute + 1_440))
        };
        let shut = !open(at - SLACK) && !open(at) && !open(at + SLACK);
        shut.then(|| ("a call outside its window", format!("{at:.0}")))
    }

    /// Limits and thresholds, as they were read.
    fn too_many(
        &self,
        number: usize,
        group: &Group,
        state: &nodemend_domain::group::GroupState,
        unwell: &[Unwell],
    ) -> Vec<(&'static str, String)> {
        let mut wrongs = Vec::new();
        let plan = self.group_plan(number);
        let members = group.members.iter();
        let unhealthy = members
            .filter(|member| {
                let same = |one: &&Unwell| one.instance_id == member.instance_id;
                unwell.iter().find(same).is_some_and(|one| one.attention.unhealthy)
            })
            .count();
        let size = group.members.len();
        let own = state.in_flight.iter().any(|place| place.instance_id == self.nodes[number].instance);
        let allowed = plan.parallel.map(|limit| match limit {
            Limit::Count(count) => count as usize,
            Limit::Percentage(percentage) => (unhealthy.max(1) * percentage as usize / 100).max(1),
        });
        if !own && allowed.is_some_and(|allowed| state.in_flight.len() >= allowed) {
            wrongs.push((
                "more at once than the limit allows",
                format!("{} under way, {allowed:?} allowed", state.in_flight.len()),
            ));
        }
        let exceeded = match plan.threshold {
            Some(Limit::Count(count)) => unhealthy > count as usize,
            Some(Limit::Percentage(percentage)) => unhealthy * 100 > size * percentage as usize,
            None => size > 5 && unhealthy * 100 > size * 20,
        };
        if exceeded {
            wrongs.push(("beyond its threshold", format!("{unhealthy} of {size} are unhealthy")));
        }
        wrongs
    }
}

/// Of what the process may have decided on, what speaks least against it: it was at several nodes at once, and which of
/// its readings of the cluster was for which of them nobody can tell.
fn least(found: impl Iterator<Item = Vec<(&'static str, String)>>) -> Vec<(&'static str, String)> {
    found.min_by_key(Vec::len).unwrap_or_default()
}

/// How long a group rests after so many failures.
pub(super) fn rests_until(failures: u32, last: Option<Timestamp>) -> Option<Timestamp> {
    let minutes = (15_i64 << failures.checked_sub(1)?.min(10)).min(24 * 60);
    last.map(|last| last + SignedDuration::from_mins(minutes))
}

/// A zone, or the way of the logs, is the patient.
fn suspect(
    group: &Group,
    instance: &nodemend_domain::ident::InstanceId,
    facts: &nodemend_domain::group::ClusterFacts,
    unwell: &[Unwell],
) -> Vec<(&'static str, String)> {
    let mut wrongs = Vec::new();
    let zone = group.members.iter().find(|member| member.instance_id == *instance).map(|member| &member.zone);
    if let Some(zone) = zone {
        let all = unwell.iter().filter(|one| one.attention.unhealthy).count();
        let here =
            unwell.iter().filter(|one| one.attention.unhealthy && one.zone.as_ref() == Some(zone)).count();
        let of_zone = facts.zones.get(zone).copied().unwrap_or(0);
        if facts.zones.len() > 1 && here >= 3 && here * 2 >= of_zone && here * 4 >= all * 3 {
            wrongs.push((
                "a call in a zone that is dark",
                format!("{here} of {of_zone} in {zone}, {all} in all"),
            ));
        }
        if facts.zonal_shifts.contains(zone) {
            wrongs.push(("a call in a zone that is left", zone.to_string()));
        }
    }
    let mut silences: Vec<Timestamp> =
        unwell.iter().filter(|one| one.attention.silent).map(|one| one.attention.since).collect();
    silences.sort();
    let within = |from: &Timestamp| {
        silences.iter().filter(|at| (*from..=*from + SignedDuration::from_mins(10)).contains(at)).count()
    };
    let at_once = silences.iter().map(within).max().unwrap_or(0);
    let nodes: usize = facts.zones.values().sum();
    if at_once >= 3 && at_once * 2 >= nodes {
        wrongs.push(("a call while the logs are silent", format!("{at_once} of {nodes} at once")));
    }
    wrongs
}
