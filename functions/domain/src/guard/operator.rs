//! The guards that carry out what operators and their settings decide.

use super::{Block, Guard, GuardContext, block, block_until, group_name};
use crate::{
    ident::NodeName,
    node_marks::{HOLD_ANNOTATION, NodeHold},
    policy::{Hold, Mode, next_opening},
    timestamp,
};

/// `nodeRepairConfig.enabled` is false for the group: EKS's own default.
pub(super) fn disabled(input: &GuardContext<'_>) -> Option<Block> {
    if input.rules.node_repair_config.enabled {
        return None;
    }
    block(Guard::Disabled, format!("repair is not enabled for group {}", group_name(input)))
}

/// EKS repairs a managed group with node auto repair itself: two repair systems would terminate two instances for one
/// fault.
pub(super) fn eks_repair_enabled(input: &GuardContext<'_>) -> Option<Block> {
    if !input.context.group.is_some_and(|group| group.eks_repair_enabled) {
        return None;
    }
    block(Guard::EksRepairEnabled, format!("EKS node auto repair is enabled for group {}", group_name(input)))
}

/// The opt-out tag on the group. Who sets it means to opt out, whatever the value: `false`, `off`, none.
pub(super) fn opted_out(input: &GuardContext<'_>) -> Option<Block> {
    let tag = &input.policy.opt_out_tag;
    let value = input.context.group?.tags.get(tag)?;
    if ["enabled", "true"].iter().any(|opts_in| value.trim().eq_ignore_ascii_case(opts_in)) {
        return None;
    }
    // Anything can be in a tag.
    let shown: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    block(
        Guard::OptedOut,
        format!(
            "group {} has the tag {tag}={shown}: any value but enabled and true opts out",
            group_name(input)
        ),
    )
}

/// Holds: of everything, a cluster, a group or a node; the annotation on the Node; and a cordon, if the policy respects it.
pub(super) fn held(input: &GuardContext<'_>) -> Option<Block> {
    held_by_an_operator(input).or_else(|| held_by_an_annotation(input)).or_else(|| cordoned(input))
}

fn held_by_an_annotation(input: &GuardContext<'_>) -> Option<Block> {
    let hold = input.case.marks().hold(input.case.node()).filter(|hold| hold.until > input.now)?;
    if !input.policy.node_holds.heeds(&hold) {
        return None;
    }
    let NodeHold { who, until, reason, .. } = hold;
    let node = input.case.node().map_or("", NodeName::as_str);
    let until_text = timestamp::seconds(until);
    let sentence =
        format!("{who} holds node {node} until {until_text}, by its annotation {HOLD_ANNOTATION}: {reason}");
    block_until(Guard::Held, sentence, Some(until))
}

fn cordoned(input: &GuardContext<'_>) -> Option<Block> {
    if !input.policy.respect_cordon {
        return None;
    }
    let who = input.case.marks().cordoned_by(input.case.node())?;
    block(Guard::Held, format!("the node is cordoned by {who}, and the policy has respectCordon"))
}

fn held_by_an_operator(input: &GuardContext<'_>) -> Option<Block> {
    let applies = |hold: &&Hold| {
        hold.until > input.now
            && hold.from.is_none_or(|from| from <= input.now)
            && hold.cluster.as_ref().is_none_or(|cluster| cluster == input.case.cluster())
            && hold.group.as_ref().is_none_or(|group| group == input.context.state.name())
            && hold.node.as_ref().is_none_or(|node| Some(node) == input.case.node())
    };
    let hold =
        input.policy.holds.iter().chain(input.context.holds).filter(applies).max_by_key(|hold| hold.until)?;
    let what = match (&hold.node, &hold.group, &hold.cluster) {
        (Some(node), ..) => format!("node {node}"),
        (_, Some(group), _) => format!("group {group}"),
        (_, _, Some(cluster)) => format!("cluster {cluster}"),
        _ => "everything".to_owned(),
    };
    let sentence =
        format!("{} holds {what} until {}: {}", hold.owner, timestamp::seconds(hold.until), hold.reason);
    block_until(Guard::Held, sentence, Some(hold.until))
}

/// Calls are made only in maintenance windows. Without any, they are always made.
pub(super) fn outside_maintenance_window(input: &GuardContext<'_>) -> Option<Block> {
    let windows = input.rules.maintenance_windows;
    if windows.is_empty() || windows.iter().any(|window| window.contains(input.now)) {
        return None;
    }
    let until = next_opening(windows, input.now);
    let sentence = match until {
        Some(opens) => format!("the next maintenance window opens at {}", timestamp::seconds(opens)),
        None => "no maintenance window is open".to_owned(),
    };
    block_until(Guard::OutsideMaintenanceWindow, sentence, until)
}

/// Evaluated last: in observe mode, a repair that only this blocks is recorded as one that would be made.
pub(super) fn observe_mode(input: &GuardContext<'_>) -> Option<Block> {
    match input.rules.mode {
        Mode::Repair => None,
        Mode::Observe => {
            let action = input.fault.action.as_str();
            block(
                Guard::ObserveMode,
                format!("observe mode: would {}; no action taken", action.to_lowercase()),
            )
        }
    }
}
