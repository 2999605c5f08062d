//! The guards that set the pace of a group's repairs, by what became of the ones before.

use super::{Block, Guard, GuardContext, UnhealthyNode, block, group_name};
use crate::{
    group::{Group, ReplacedFor},
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

/// A group whose replacements fail to join loses capacity with each repair, so it waits for the end of its backoff.
pub(super) fn replacements_failing(input: &GuardContext<'_>) -> Option<Block> {
    let until = input.context.state.backoff_until(input.policy).filter(|until| *until > input.now)?;
    let failures = input.context.state.failures();
    let sentence = format!(
        "backoff until {}: the last {failures} replacement{} of group {} failed to join",
        timestamp::seconds(until),
        if failures == 1 { "" } else { "s" },
        group_name(input)
    );
    Some(Block { guard: Guard::ReplacementsFailing, sentence, until: Some(until) })
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
    if !limits.gradual || state.slot(instance_id).is_some() {
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
