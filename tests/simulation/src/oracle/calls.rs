//! Whether a call that is about to be made is right: by what its node has reported to the handlers, and by what its
//! process read right before of everything that may block it.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Source},
    condition::RepairAction,
    group::{Group, InstanceLocation, Lifecycle, Member},
    guard::UnhealthyNode,
    ident::InstanceId,
    policy::{Hold, Limit, Mode},
};

use super::{Oracle, REBOOT_TIMEOUT, SLACK, groups::failed_launches, node::Node, reads::Basis};
use crate::{episodes::Cure, plan::CLUSTER};

impl Oracle {
    /// A process has recorded that it is about to make a call.
    pub(super) fn acting(&mut self, process: usize, number: usize, case: &Case, action: RepairAction) {
        let basis = self.reads[process].claims.remove(&number);
        let changing = basis.as_ref().is_some_and(|basis| self.policy_is_changing(basis.at));
        if changing {
            // It may decide by the policy before, which was right when it was read.
            return self.unverified_by_choice(number, basis.as_ref());
        }
        self.unverified_by_choice(number, basis.as_ref());
        let mut violations = self.not_due(number, action);
        match &basis {
            Some(basis) => violations.extend(self.blocked_by(number, case, basis)),
            None => {
                violations
                    .push(("not read before the call", "no claim was written by this process".to_owned()));
            }
        }
        for (rule, what) in violations {
            self.violation(rule, format!("node {number}, about to {}: {what}", action.as_str()));
        }
    }

    /// Why the call is wrong by the node's own state, as far as the handlers know it.
    fn not_due(&self, number: usize, action: RepairAction) -> Vec<(&'static str, String)> {
        let (node, now) = (&self.nodes[number], self.now);
        let mut violations = Vec::new();
        let plan = self.group_plan(number);
        if !plan.nodes {
            violations.push(("a call on what is no node", format!("in group {}", plan.name)));
        }
        if !plan.may_be_repaired() {
            violations.push(("a call where none may be made", format!("in group {}", plan.name)));
        }
        let known = self.known_conditions(number);
        let by_now = |at: Option<Timestamp>| at.is_some_and(|at| at <= now + SLACK);
        let due = |cure: Cure| known.iter().any(|one| one.cure == Some(cure) && by_now(one.deadline));
        let late = node.never_joined_deadline().is_some_and(|at| at <= now + SLACK);
        let bad = node.is_known_unhealthy();
        match action {
            RepairAction::Reboot => {
                if !due(Cure::Reboot) {
                    violations.extend(self.too_early(number, bad));
                }
                let mut asking =
                    known.iter().filter(|one| one.bad && one.cure == Some(Cure::Reboot)).peekable();
                if asking.peek().is_some() && asking.all(|one| node.was_rebooted_in_vain(one)) {
                    violations.push(("rebooted twice for one fault", format!("{known:?}")));
                }
            }
            _ => {
                // What the agent reported, the agent must clear: a kubelet that is ready proves nothing.
                let unanswered = bad || !node.agent_reported();
                let reboot_failed =
                    node.stored.rebooted.is_some_and(|at| at + REBOOT_TIMEOUT <= now + SLACK) && unanswered;
                // The same, for a repair that ended before that was known.
                let outlived =
                    known.iter().any(|one| by_now(one.deadline) && by_now(node.outlives_reboot(one)));
                let denied = node.denied_reboots >= 3 && due(Cure::Reboot);
                if !due(Cure::Replace) && !reboot_failed && !outlived && !denied && !late {
                    violations.extend(self.too_early(number, bad));
                }
            }
        }
        violations
    }

    fn too_early(&self, number: usize, bad: bool) -> Option<(&'static str, String)> {
        let known = format!("{:?}", self.known_conditions(number));
        if bad {
            return Some(("a call before its deadline", known));
        }
        // What another process learned in this moment can be news to this one.
        let is_news = self.now.duration_since(self.nodes[number].learned_at) < SLACK;
        (!is_news).then_some(("a call on a node that is known to be healthy", known))
    }

    /// What the process had read, and what of it blocks the call.
    fn blocked_by(&self, number: usize, case: &Case, basis: &Basis) -> Vec<(&'static str, String)> {
        let mut violations = Vec::new();
        let (Some(location), Some(group), Some(state), Some(policy)) =
            (&basis.location, &basis.group, &basis.state, &basis.policy)
        else {
            return vec![("not read again before the call", format!("{basis:?}"))];
        };
        if basis.cluster_facts.is_empty() || basis.unhealthy_nodes.is_empty() || basis.holds.is_empty() {
            return vec![("not read again before the call", format!("{basis:?}"))];
        }
        let at = basis.at;
        let agents = case.repair().is_some_and(|repair| repair.fault().source == Source::Agent);
        violations.extend(self.unverified(number, agents, basis));
        if basis.version + 1 != case.version() {
            violations.push((
                "decided on another version",
                format!("read {}, written {}", basis.version, case.version()),
            ));
        }
        if policy.outage.gradual != self.settings.gradual || policy.settling_time != self.settings.settling {
            violations.push(("decided by an outdated policy", format!("{:?}", policy.outage)));
        }
        let rule = policy
            .groups
            .iter()
            .find(|rule| rule.name.as_deref() == Some(self.group_plan(number).name.as_str()));
        if rule.and_then(|rule| rule.mode).unwrap_or(policy.mode) == Mode::Observe {
            violations
                .push(("a call where none may be made", "the mode that was read is observe".to_owned()));
        }
        let node = &self.nodes[number];
        let joins_late = node.join_deadline().is_some();
        match location {
            InstanceLocation::Member { lifecycle: Lifecycle::InService, .. } => {}
            InstanceLocation::Member { lifecycle: Lifecycle::Pending, .. } if joins_late => {}
            other => violations.push(("a call on what is not in service", format!("{other:?}"))),
        }
        if group.suspended.iter().any(|process| matches!(process.as_str(), "Launch" | "Terminate")) {
            violations.push(("a call in a suspended group", format!("{:?}", group.suspended)));
        }
        violations.extend(least(basis.holds.iter().map(|holds| {
            holds.iter().chain(&policy.holds).filter_map(|hold| self.held(number, hold, at)).collect()
        })));
        violations.extend(self.shut(number, at));
        let (attempts, last) = failed_launches(state);
        let rest = backoff_until(state.failures(), state.last_failure()).max(backoff_until(attempts, last));
        if rest.is_some_and(|until| at + SLACK < until) {
            violations.push(("a call while its group is in backoff", format!("until {rest:?}")));
        }
        violations.extend(self.launches_fail(number, at));
        let counting: Vec<_> = basis.unhealthy_nodes.iter().map(|nodes| self.counting(nodes, at)).collect();
        violations.extend(least(
            counting.iter().map(|unhealthy_nodes| self.too_many(number, group, state, unhealthy_nodes)),
        ));
        violations.extend(least(
            basis.unhealthy_nodes.iter().map(|nodes| self.outage_ends(number, group, at, nodes)),
        ));
        let pairs = basis
            .cluster_facts
            .iter()
            .flat_map(|facts| counting.iter().map(move |unhealthy_nodes| (facts, unhealthy_nodes)));
        violations.extend(least(pairs.map(|(facts, unhealthy_nodes)| {
            suspect(group, case.instance_id(), facts, unhealthy_nodes, self.now)
        })));
        violations
    }

    /// The unhealthy nodes that count in truth: not those on standby, nor those that are going for another reason than our
    /// repair, nor those that are still starting.
    fn counting(&self, nodes: &[UnhealthyNode], at: Timestamp) -> Vec<UnhealthyNode> {
        let counts = |one: &&UnhealthyNode| {
            let node = self.nodes.get(Node::number(&one.instance_id));
            let away = node.is_some_and(|node| node.terminated.is_some() || node.gone || node.on_standby);
            let has_begun = one.unhealthy_reason.counts_from.is_none_or(|from| from + SLACK <= at);
            has_begun && (one.unhealthy_reason.repairing || !away)
        };
        nodes.iter().filter(counts).cloned().collect()
    }

    /// A hold that was read, if it covers this node.
    fn held(&self, number: usize, hold: &Hold, at: Timestamp) -> Option<(&'static str, String)> {
        let node = &self.nodes[number];
        let on = hold.until > at + SLACK && hold.from.is_none_or(|from| from <= at - SLACK);
        let mine = hold.cluster.as_ref().is_none_or(|cluster| cluster.as_str() == CLUSTER)
            && hold.group.as_ref().is_none_or(|group| *group == self.group_plan(number).name)
            && hold.node.as_ref().is_none_or(|name| *name == node.name && node.has_known_name());
        (on && mine).then(|| ("a call while held", format!("{hold:?}")))
    }

    /// The maintenance window of the group, if it is closed.
    fn shut(&self, number: usize, at: Timestamp) -> Option<(&'static str, String)> {
        let (start, end) = self.group_plan(number).window?;
        let open = |at: Timestamp| {
            let minute = at.as_second().rem_euclid(86_400) / 60;
            (start..end).contains(&minute) || (start..end).contains(&(minute + 1_440))
        };
        let shut = !open(at - SLACK) && !open(at) && !open(at + SLACK);
        shut.then(|| ("a call outside its window", format!("{at:.0}")))
    }

    /// Whether it was known that Auto Scaling had just failed to launch an instance of the group, and has launched none
    /// since.
    fn launches_fail(&self, number: usize, at: Timestamp) -> Option<(&'static str, String)> {
        let group = self.nodes[number].group;
        let of_group = || self.nodes.iter().filter(|node| node.group == group);
        let known = |node: &Node| node.known_launch_failure.filter(|(_, known)| *known + SLACK < at);
        let failed = of_group().filter_map(known).map(|(failed, _)| failed).max()?;
        let launched = of_group().filter_map(|node| node.launched).any(|launched| launched >= failed);
        let recent = at + SLACK < failed + SignedDuration::from_mins(15);
        (recent && !launched).then(|| ("a call while no instance can be launched", format!("at {failed:.0}")))
    }

    /// Limits and thresholds, as they were read.
    fn too_many(
        &self,
        number: usize,
        group: &Group,
        state: &nodemend_domain::group::GroupState,
        unhealthy_nodes: &[UnhealthyNode],
    ) -> Vec<(&'static str, String)> {
        let mut violations = Vec::new();
        let plan = self.group_plan(number);
        // On standby or terminating: in neither half. A slot whose instance has left counts until its replacement is Ready.
        let counts = |member: &&Member| matches!(member.lifecycle, Lifecycle::InService | Lifecycle::Pending);
        let is_unhealthy = |instance: &InstanceId| {
            let same = |one: &&UnhealthyNode| one.instance_id == *instance;
            *instance == self.nodes[number].instance
                || unhealthy_nodes.iter().find(same).is_some_and(|one| one.unhealthy_reason.unhealthy)
        };
        let members: Vec<&InstanceId> =
            group.members.iter().filter(counts).map(|member| &member.instance_id).collect();
        let gone = state.slots().iter().filter(|slot| !members.contains(&&slot.instance_id));
        let (launched, awaited): (Vec<_>, Vec<_>) =
            gone.partition(|slot| slot.replacement.as_ref().is_some_and(|new| members.contains(&new)));
        let launched =
            launched.iter().filter(|slot| slot.replacement.as_ref().is_some_and(|new| !is_unhealthy(new)));
        let reported = members.iter().filter(|member| is_unhealthy(member)).count();
        // A new instance that did not join stands for one of them, and is counted itself.
        let joins_not = |member: &&&InstanceId| {
            let node = &self.nodes[Node::number(member)];
            node.join_deadline().is_some_and(|late| late <= self.now + SLACK)
        };
        let awaited = awaited.len().saturating_sub(members.iter().filter(joins_not).count());
        let unhealthy = reported + launched.count() + awaited;
        let size = members.len() + awaited;
        let own = state.slots().iter().any(|slot| slot.instance_id == self.nodes[number].instance);
        let allowed = plan.parallel.map(|limit| match limit {
            Limit::Count(count) => count as usize,
            Limit::Percentage(percentage) => (unhealthy.max(1) * percentage as usize / 100).max(1),
        });
        if !own && allowed.is_some_and(|allowed| state.slots().len() >= allowed) {
            violations.push((
                "more at once than the limit allows",
                format!("{} under way, {allowed:?} allowed", state.slots().len()),
            ));
        }
        let exceeded = match plan.threshold {
            Some(Limit::Count(count)) => unhealthy > count as usize,
            Some(Limit::Percentage(percentage)) => unhealthy * 100 > size * percentage as usize,
            None => size > 5 && unhealthy * 100 > size * 20,
        };
        if exceeded {
            violations.push(("beyond its threshold", format!("{unhealthy} of {size} are unhealthy")));
        }
        violations
    }
}

/// The fewest violations of what the process may have decided on: it handles several nodes at once, and it
/// is unknown which of its reads of the cluster was for which of them.
fn least(found: impl Iterator<Item = Vec<(&'static str, String)>>) -> Vec<(&'static str, String)> {
    found.min_by_key(Vec::len).unwrap_or_default()
}

/// Until when a group is in backoff after so many failures.
pub(super) fn backoff_until(failures: u32, last: Option<Timestamp>) -> Option<Timestamp> {
    let minutes = (15_i64 << failures.checked_sub(1)?.min(10)).min(24 * 60);
    last.map(|last| last + SignedDuration::from_mins(minutes))
}

/// Whether the zone is impaired, or the log pipeline down.
fn suspect(
    group: &Group,
    instance: &InstanceId,
    facts: &nodemend_domain::group::ClusterFacts,
    unhealthy_nodes: &[UnhealthyNode],
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let mut violations = Vec::new();
    let unhealthy = unhealthy_nodes.iter().filter(|one| one.unhealthy_reason.unhealthy).count();
    let in_all: usize = facts.zones.values().sum();
    if unhealthy > 3 && unhealthy * 100 > in_all * 45 {
        violations.push(("a call while the cluster is down", format!("{unhealthy} of {in_all}")));
    }
    let zone = group.members.iter().find(|member| member.instance_id == *instance).map(|member| &member.zone);
    if let Some(zone) = zone {
        let all = unhealthy_nodes.iter().filter(|one| one.unhealthy_reason.unhealthy).count();
        let here = unhealthy_nodes
            .iter()
            .filter(|one| one.unhealthy_reason.unhealthy && one.zone.as_ref() == Some(zone))
            .count();
        let of_zone = facts.zones.get(zone).copied().unwrap_or(0);
        if facts.zones.len() > 1 && here >= 3 && here * 2 >= of_zone && here * 4 >= all * 3 {
            violations
                .push(("a call in an impaired zone", format!("{here} of {of_zone} in {zone}, {all} in all")));
        }
        if facts.zonal_shifts.contains(zone) {
            violations.push(("a call during a zonal shift", zone.to_string()));
        }
    }
    let mut silences: Vec<Timestamp> = unhealthy_nodes
        .iter()
        .map(|one| &one.unhealthy_reason)
        .filter_map(|reason| Some((reason.silent_since?, reason.unhealthy)))
        .filter(|(since, unhealthy)| *unhealthy || now.duration_since(*since) < SignedDuration::from_hours(1))
        .map(|(since, _)| since)
        .collect();
    silences.sort();
    let within = |from: &Timestamp| {
        silences.iter().filter(|at| (*from..=*from + SignedDuration::from_mins(10)).contains(at)).count()
    };
    let at_once = silences.iter().map(within).max().unwrap_or(0);
    let nodes: usize = facts.zones.values().sum();
    if at_once >= 3 && at_once * 2 >= nodes {
        violations.push(("a call while the log pipeline is down", format!("{at_once} of {nodes} at once")));
    }
    violations
}
