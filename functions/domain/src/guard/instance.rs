//! The guards that check the instance: that it can be replaced, and that its fault is what was reported.

use super::{Block, Guard, GuardContext, block, block_until, group_name};
use crate::{
    case::Source,
    group::{InstanceLocation, Lifecycle},
    policy::{Policy, VerificationPolicy},
    timestamp,
    verification::{Verification, VerificationResult},
};

/// An instance in no group would be terminated without a replacement.
pub(super) fn not_in_group(input: &GuardContext<'_>) -> Option<Block> {
    match input.context.location {
        InstanceLocation::Member { .. } if input.context.group.is_some() => None,
        InstanceLocation::Member { group, .. } => block(
            Guard::NotInGroup,
            format!("group {group} cannot be described or belongs to another cluster"),
        ),
        InstanceLocation::Gone => block(
            Guard::NotInGroup,
            format!(
                "AWS does not know {}, and nothing shows that it was terminated: check the policy's account",
                input.case.instance_id()
            ),
        ),
        InstanceLocation::Ungrouped => out_of_service(
            Guard::NotInGroup,
            format!("{} is in no Auto Scaling group: nothing would replace it", input.case.instance_id()),
        ),
    }
}

/// An instance that is launching, terminating, on standby, detached or in a warm pool is not repaired. One that is back
/// has its time to join and to become Ready anew.
pub(super) fn not_in_service(input: &GuardContext<'_>) -> Option<Block> {
    let InstanceLocation::Member { lifecycle, .. } = input.context.location else {
        return None;
    };
    let state = match lifecycle {
        Lifecycle::InService => return just_back(input),
        // An instance that fails to join can stay in Pending: it is the one to repair.
        Lifecycle::Pending if input.fault.reason == "FailedToJoin" => return just_back(input),
        Lifecycle::Pending => "still launching",
        Lifecycle::OutOfService => "on standby or detached",
        Lifecycle::Terminating => "already terminating",
        Lifecycle::WarmPool => "in a warm pool, and cannot be terminated through its group",
    };
    out_of_service(Guard::NotInService, format!("{} is {state}", input.case.instance_id()))
}

fn out_of_service(guard: Guard, sentence: String) -> Option<Block> {
    Some(Block { guard, sentence, until: None, out_of_service: true })
}

/// The grace period of the fault, from when the instance was last seen out of service: it may be booting.
fn just_back(input: &GuardContext<'_>) -> Option<Block> {
    let seen = input.case.out_of_service_at()?;
    let grace = input.rules.remedy(&input.fault.condition, &input.fault.reason)?.grace;
    let joins = input.fault.reason == "FailedToJoin";
    let grace = if joins { grace.saturating_add(input.policy.join_timeout) } else { grace };
    let until = seen.checked_add(grace).ok().filter(|until| input.now < *until)?;
    let sentence = format!(
        "{} was out of service until {}, and has until {} to become Ready",
        input.case.instance_id(),
        timestamp::seconds(seen),
        timestamp::seconds(until)
    );
    block_until(Guard::NotInService, sentence, Some(until))
}

/// Not every instance is a node: an Auto Scaling group of a cluster can hold proxies, bastions or build machines.
pub(super) fn no_node_in_group(input: &GuardContext<'_>) -> Option<Block> {
    if input.fault.reason != "FailedToJoin" || input.context.group_has_nodes {
        return None;
    }
    block(
        Guard::NoNodeInGroup,
        format!("no instance of group {} has ever registered as a node of this cluster", group_name(input)),
    )
}

/// With Terminate suspended AWS refuses the call; with Launch suspended it launches no replacement.
pub(super) fn scaling_suspended(input: &GuardContext<'_>) -> Option<Block> {
    let suspended = &input.context.group?.suspended;
    let process = suspended.iter().find(|process| matches!(process.as_str(), "Launch" | "Terminate"))?;
    block(
        Guard::ScalingSuspended,
        format!("the process {process} is suspended in group {}", group_name(input)),
    )
}

/// An agent's reports count only for the boot that they are from.
pub(super) fn fenced(input: &GuardContext<'_>) -> Option<Block> {
    let boot = input.case.boot();
    let has_no_boot = input.fault.source == Source::Agent && boot.is_none();
    if !has_no_boot {
        return None;
    }
    block(Guard::Fenced, "the agent has not reported from the current boot".to_owned())
}

/// Right before the call, the fault is read again from where it is kept. What cannot be read is not repaired.
pub(super) fn unverified(input: &GuardContext<'_>) -> Option<Block> {
    unverified_block(input.context.verification?, input.policy)
}

/// What a verification has against a repair. The policy decides about what could not be read, never about a contradiction.
pub fn unverified_block(verification: &Verification, policy: &Policy) -> Option<Block> {
    match &verification.result {
        VerificationResult::FaultPresent => None,
        VerificationResult::NotVerified(_) if policy.verification == VerificationPolicy::Preferred => None,
        VerificationResult::NotVerified(why) => {
            block(Guard::Unverified, format!("could not verify that the fault is still there: {why}"))
        }
        VerificationResult::Contradicted(why) => {
            block(Guard::Unverified, format!("the fault is not there: {why}"))
        }
    }
}
