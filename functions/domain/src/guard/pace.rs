//! The guards that set the pace of a group's repairs, by what became of the ones before.

use super::{Block, Guard, GuardContext, UnhealthyNode, block, block_until, group_name};
use crate::{
    condition::{ConditionType, RepairAction},
    group::{Backoff, BackoffCause, Group, Lifecycle, ReplacedFor, Slot},
    ident::InstanceId,
    timestamp,
};

/// A replacement that has the very fault that its predecessor was replaced for shows that replacing does not help.
pub(super) fn same_fault_again(input: &GuardContext<'_>) -> Option<Block> {
    if !input.policy.outage.gradual {
        return None;
    }
    let reason = &input.fault.reason;
    let has_it = |replaced: &&ReplacedFor| {
        if replaced.instance_id == *input.case.instance_id() {
            return replaced.is_repeated_by(reason, input.fault.since);
        }
        let same = |node: &&UnhealthyNode| node.instance_id == replaced.instance_id;
        let found = input.context.unhealthy_nodes.iter().find(same).map(|node| &node.unhealthy_reason);
        found.is_some_and(|found| {
            found.has_begun(input.now)
                && found.reason.as_ref() == Some(reason)
                && replaced.is_repeated_by(reason, found.since)
        })
    };
    let ReplacedFor { instance_id: again, shared, .. } =
        input.context.state.replacements().iter().find(has_it)?;
    let why = if shared.is_empty() {
        "replacing more nodes would not help".to_owned()
    } else {
        format!("the cause appears to be in what both share ({shared})")
    };
    let group = group_name(input);
    block(
        Guard::SameFaultAgain,
        format!("{again} replaced a node of group {group} for {reason} and has the same fault: {why}"),
    )
}

/// A group that does not get its instances back loses capacity with each repair, so it waits for the end of its backoff.
pub(super) fn replacements_failing(input: &GuardContext<'_>) -> Option<Block> {
    if let Some(awaiting) = awaited_by(input) {
        let sentence = format!(
            "it replaces {awaiting}, whose repair still waits for it to become Ready: if it does not, group {} is in \
             backoff first",
            group_name(input)
        );
        return block(Guard::ReplacementsFailing, sentence);
    }
    let Backoff { until, cause } =
        input.context.state.backoff(input.policy).filter(|backoff| backoff.until > input.now)?;
    let group = group_name(input);
    let why = match cause {
        // A replacement would come from the pool, which is only not filled up again.
        BackoffCause::Launches(failures) if failures.for_warm_pool && has_warm_instance(input) => {
            return None;
        }
        BackoffCause::Launches(failures) => failures.sentence(group),
        BackoffCause::Replacements(failures) => format!(
            "the last {failures} replacement{} of group {group} did not become Ready",
            if failures == 1 { "" } else { "s" },
        ),
    };
    let sentence = format!("backoff until {}: {why}", timestamp::seconds(until));
    block_until(Guard::ReplacementsFailing, sentence, Some(until))
}

/// The terminated instance whose repair waits for this one, if that is to be replaced because it is not Ready either.
/// Otherwise a group whose new nodes never become Ready would be replaced node by node without a failure.
fn awaited_by<'a>(input: &GuardContext<'a>) -> Option<&'a InstanceId> {
    let of_ready =
        input.fault.condition == ConditionType::Ready && input.fault.action == RepairAction::Replace;
    let waits = |slot: &&Slot| slot.replacement.as_ref() == Some(input.case.instance_id());
    let slot = input.context.state.slots().iter().find(waits).filter(|_| of_ready)?;
    Some(&slot.instance_id)
}

fn has_warm_instance(input: &GuardContext<'_>) -> bool {
    let members = input.context.group.iter().flat_map(|group| &group.members);
    members.into_iter().any(|member| member.lifecycle == Lifecycle::WarmPool)
}

/// `maxParallelNodesRepaired…`; a percentage is one of the unhealthy nodes, as in EKS.
pub(super) fn parallel_limit(input: &GuardContext<'_>) -> Option<Block> {
    let limit = input.rules.node_repair_config.max_parallel_nodes_repaired?;
    if input.context.state.slot(input.case.instance_id()).is_some() {
        return None;
    }
    let under_way = input.context.state.slots().len();
    let allowed = limit.of(input.context.group_counts.unhealthy.max(1));
    if under_way < allowed {
        return None;
    }
    block(
        Guard::ParallelLimit,
        format!("{under_way} repairs are in progress in group {}, the limit is {allowed}", group_name(input)),
    )
}

/// Repairs of a group for one reason begin with one, and go on with 2, 4, … at a time as replacements become Ready. In a
/// small group, and in a small cluster, they go one at a time.
pub(super) fn gradual_limit(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.outage;
    let (state, instance_id) = (input.context.state, input.case.instance_id());
    if state.slot(instance_id).is_some() {
        return None;
    }
    let paused = state.last_claim.and_then(|last| Some((last, last.checked_add(limits.pause).ok()?)));
    if let Some((last, until)) = paused.filter(|(_, until)| *until > input.now) {
        let sentence = format!(
            "a repair began in group {} at {}: the next one follows after a pause of {}",
            group_name(input),
            timestamp::seconds(last),
            timestamp::duration(limits.pause)
        );
        return block_until(Guard::GradualLimit, sentence, Some(until));
    }
    if !limits.gradual {
        return None;
    }
    let nodes = input.context.cluster.nodes();
    if nodes <= limits.small && input.context.unhealthy_counts.repairing > 0 {
        let sentence =
            format!("a repair is in progress in the cluster, which has {nodes} nodes: one at a time");
        return block(Guard::GradualLimit, sentence);
    }
    let size = input.context.group.map_or(0, Group::size);
    if size <= limits.small && !state.slots().is_empty() {
        let sentence = format!(
            "a repair is in progress in group {}, which has {size} nodes: one at a time",
            group_name(input)
        );
        return block(Guard::GradualLimit, sentence);
    }
    let reason = &input.fault.reason;
    let in_progress = state.slots().iter().filter(|slot| slot.reason == *reason).count();
    let limit = state.gradual_limit(reason, input.now);
    if in_progress < limit {
        return None;
    }
    block(
        Guard::GradualLimit,
        format!(
            "{in_progress} repair{} in progress for {reason} in group {}: more follow when {} Ready",
            if in_progress == 1 { " is" } else { "s are" },
            group_name(input),
            if in_progress == 1 { "its replacement is" } else { "their replacements are" },
        ),
    )
}
