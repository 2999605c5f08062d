//! Decides what to do next about a case, from its context, the policy and the time.
//!
//! There are two steps, because most cases need no reads from AWS or the store: [`triage`] decides from the case alone
//! if that is possible, and otherwise [`decide`] decides with a [`DecisionContext`]. Both are pure: the same input
//! gives the same decision.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use crate::{
    case::{Case, Fault, JoinStage, Source},
    condition::RepairAction,
    group::{InstanceLocation, Lifecycle},
    guard::{self, Block, DecisionContext, Guard, GuardContext},
    policy::Policy,
    repair::{Phase, Repair},
    timestamp,
};

/// How soon a blocked repair is evaluated again.
pub const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// How a case ends whose instance is gone, and nothing has shown why.
pub const INSTANCE_GONE: &str = "its instance is gone";

/// How long after its last report an instance that AWS does not know may still be in another account.
const ELSEWHERE: SignedDuration = SignedDuration::from_hours(24);

/// What to do next about a case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Nothing yet. The case's due time says when to evaluate it again.
    Wait,
    /// Publish that the agent has been silent since then.
    RecordSilence(Timestamp),
    /// Record that the node is missing since a controller deleted its Node object: its instance is not gone.
    RecordNodeDeletion,
    /// Record that CloudTrail's event of a call is missing.
    RecordMissing {
        /// When the call was made.
        call: Timestamp,
    },
    /// A repair is due, and guards block it.
    Blocked {
        /// The fault that is due.
        fault: Box<Fault>,
        /// The action that they block.
        action: RepairAction,
        /// The guards that block it; at least one.
        blocks: Vec<Block>,
        /// When to evaluate it again.
        until: Timestamp,
    },
    /// Make the call.
    Act {
        /// The fault that is due.
        fault: Box<Fault>,
        /// Replace or Reboot.
        action: RepairAction,
    },
    /// Record that a call without an answer took effect.
    ConfirmByState,
    /// Open the closed case again: its instance has reported, and AWS has it.
    Reopen,
    /// Leave the closed case closed, although a report has arrived: AWS does not have the instance.
    StayClosed,
    /// Release the claim: the repair is no longer needed, for this reason.
    Release(String),
    /// Record in the group how far this node has joined.
    RecordJoin(JoinStage),
    /// End the repair with this outcome, and the case unless a reboot cured the node.
    Close(CaseOutcome),
}

/// How a case ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseOutcome {
    /// Its replacement became Ready.
    Replaced,
    /// A reboot cured it. The node stays in service.
    Rebooted,
    /// It was terminated, and no replacement became Ready in time.
    ReplacementFailed,
    /// Its instance is gone, and not through our call.
    Gone {
        /// The cause, as one clause.
        how: String,
        /// Whether another principal's call caused it.
        foreign: bool,
    },
}

/// What [`triage`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Triage {
    /// The case alone decides.
    Settled(Decision),
    /// Read the context, then call [`decide`].
    NeedsContext,
}

/// Decides from the case alone, if that is possible.
pub fn triage(case: &Case, policy: &Policy, now: Timestamp) -> Triage {
    use Triage::{NeedsContext, Settled};
    if let Some(call) = case.overdue_confirmation(policy, now) {
        return Settled(Decision::RecordMissing { call: call.at() });
    }
    // Whatever became of it since: an instance that joined has joined, and another repair awaits it.
    if let Some(stage) = case.join_to_record(policy, now) {
        return Settled(Decision::RecordJoin(stage));
    }
    if case.closed().is_some() {
        let has_reported = case.reported_after_its_end().is_some();
        return if has_reported { NeedsContext } else { Settled(Decision::Wait) };
    }
    if let Some(repair) = case.repair() {
        return triage_repair(case, repair, policy, now);
    }
    if case.departure().is_some() {
        return NeedsContext;
    }
    // An agent that stopped reporting may be one whose instance is gone without a report of that: AWS knows.
    let falls_silent = case.silent_since().is_none() && case.silence(policy, now).is_some();
    if falls_silent || case.may_be_due(policy, now) { NeedsContext } else { Settled(Decision::Wait) }
}

fn triage_repair(case: &Case, repair: &Repair, policy: &Policy, now: Timestamp) -> Triage {
    use Triage::{NeedsContext, Settled};
    match repair.phase() {
        Phase::Claimed { until } | Phase::Acting { until } if until > now => Settled(Decision::Wait),
        Phase::Claimed { .. } | Phase::Acting { .. } => NeedsContext,
        Phase::Confirming => {
            let ready = repair.replacement().is_some_and(|replacement| replacement.ready.is_some());
            let is_late = case.replacement_deadline(repair, policy).is_some_and(|late| late <= now);
            if ready || is_late && !case.awaits_ready(repair) && repair.replacement().is_some() {
                let close = Decision::Close(CaseOutcome::Replaced);
                Settled(if repair.is_confirmed() { close } else { Decision::Wait })
            } else if is_late {
                Settled(Decision::Close(CaseOutcome::ReplacementFailed))
            } else {
                Settled(Decision::Wait)
            }
        }
        Phase::Rebooting => {
            if let Some(departure) = case.departure().filter(|departure| departure.node_deletion.is_none()) {
                let (how, foreign) = (departure.how.clone(), departure.foreign);
                return Settled(Decision::Close(CaseOutcome::Gone { how, foreign }));
            }
            match cured_at(case, repair, policy, now) {
                Some(cured) if cured <= now && repair.is_confirmed() => {
                    Settled(Decision::Close(CaseOutcome::Rebooted))
                }
                // It is healthy again, perhaps late: wait until the recovery has held.
                Some(_) => Settled(Decision::Wait),
                None if case.reboot_failed_at(repair, policy).is_some_and(|at| at <= now) => NeedsContext,
                // Its Node object was deleted: Auto Scaling knows whether its instance is gone.
                None if case.unrecorded_node_deletion().is_some() => NeedsContext,
                None => Settled(Decision::Wait),
            }
        }
    }
}

/// When a rebooted node counts as cured under the rules of every group, if it stays as it is.
fn cured_at(case: &Case, repair: &Repair, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    policy.all_rules().try_fold(Timestamp::MIN, |latest, rules| {
        let faults = case.faults(&rules, policy, now);
        case.cured_at(repair, &faults, policy).map(|cured| latest.max(cured))
    })
}

/// Decides with the context. Called with a context that can be some seconds old, and again with a consistent read right
/// before a claim.
pub fn decide(case: &Case, context: &DecisionContext<'_>, policy: &Policy, now: Timestamp) -> Decision {
    if case.closed().is_some() {
        return if is_there(context.location) { Decision::Reopen } else { Decision::StayClosed };
    }
    let elsewhere = may_be_elsewhere(case, context, policy, now);
    if elsewhere && case.repair().is_some() {
        return Decision::Wait;
    }
    // Before a departure: if our own call without an answer terminated the instance, that is its result.
    let anothers = case.departure().is_some_and(|departure| departure.is_anothers());
    if !anothers && case.repair().is_some_and(|repair| took_effect(repair, context)) {
        return Decision::ConfirmByState;
    }
    if let Some(departure) = case.departure()
        && case.repair().is_none_or(|repair| repair.effective_at().is_none() || anothers)
        && is_plausible(departure.is_certain(), context.location)
        && !(elsewhere && departure.node_deletion.is_some())
    {
        return Decision::Close(CaseOutcome::Gone { how: departure.how.clone(), foreign: departure.foreign });
    }
    if case.unrecorded_node_deletion().is_some() && !is_plausible(false, context.location) {
        return Decision::RecordNodeDeletion;
    }
    let tags = context.group.map(|group| &group.tags);
    let no_tags = std::collections::BTreeMap::new();
    let rules = policy.rules_for(context.state.name(), tags.unwrap_or(&no_tags));
    let faults = case.faults(&rules, policy, now);
    let cause = cause(case, &faults, now);
    if let Some(repair) = case.repair() {
        match repair.phase() {
            // AWS does not show whether a reboot took effect: wait for a new boot.
            Phase::Acting { .. } if repair.action() == RepairAction::Reboot && repair.has_pending_call() => {
                return Decision::ConfirmByState;
            }
            Phase::Claimed { .. } | Phase::Acting { .. } if cause.is_none() => {
                let requested = repair.fault().source == Source::Operator;
                let why = if requested { "the request has ended" } else { "it recovered before the call" };
                return Decision::Release(why.to_owned());
            }
            Phase::Claimed { .. } | Phase::Acting { .. } => {
                if let Some(why) = left_the_group_of(repair, context.location) {
                    return Decision::Release(why);
                }
            }
            _ => {}
        }
    }
    if *context.location == InstanceLocation::Gone && !elsewhere {
        return Decision::Close(CaseOutcome::Gone { how: INSTANCE_GONE.to_owned(), foreign: false });
    }
    if case.repair().is_none()
        && case.silent_since().is_none()
        && let Some(since) = case.silence(policy, now)
    {
        return Decision::RecordSilence(since);
    }
    let rebooting = case.repair().filter(|repair| repair.phase() == Phase::Rebooting);
    if let Some(repair) = rebooting
        && has_recovered_without_reboot(case, repair, &faults)
    {
        // Wait until the recovery has held.
        let has_held = !faults.iter().any(|fault| fault.deadline.is_some());
        return if has_held {
            Decision::Release("it recovered, and no reboot was seen".to_owned())
        } else {
            Decision::Wait
        };
    }
    // The next repair of this node belongs to the group that its instance is in now.
    if let Some(repair) = rebooting
        && let InstanceLocation::Member { group, .. } = context.location
        && *group != *repair.group()
    {
        return Decision::Release(format!("its instance has moved to group {group}"));
    }
    let Some((fault, action)) = cause else {
        return Decision::Wait;
    };
    let input = GuardContext { case, fault, context, rules, policy, now };
    let blocks = guard::evaluate_all(&input);
    if blocks.is_empty() {
        return Decision::Act { fault: Box::new(fault.clone()), action };
    }
    // The latest known end, but at most the retry interval from now: a hold can be released and a backoff can end
    // early.
    let known = blocks.iter().map(|block| block.until).collect::<Option<Vec<_>>>();
    let until = known
        .and_then(|ends| ends.into_iter().max())
        .map_or(now + RETRY, |end| end.clamp(now + SignedDuration::from_secs(1), now + RETRY));
    Decision::Blocked { fault: Box::new(fault.clone()), action, blocks, until }
}

/// The fault to repair, and the action: the most disruptive action that is due, for the fault with the earliest
/// deadline.
fn cause<'c>(case: &'c Case, faults: &'c [Fault], now: Timestamp) -> Option<(&'c Fault, RepairAction)> {
    let due = faults.iter().filter(|fault| fault.is_due(now));
    let most = due.min_by_key(|fault| (Reverse(fault.action), fault.deadline));
    match case.repair() {
        // Whatever its own deadline: the reboot has not cured it.
        Some(repair) if repair.phase() == Phase::Rebooting => {
            Some((most.unwrap_or(repair.fault()), RepairAction::Replace))
        }
        // AWS denies the reboot: an operator may never allow it.
        Some(repair) if repair.is_denied_a_reboot() => most.map(|fault| (fault, RepairAction::Replace)),
        // A fault that a reboot did not cure stays due in the next boot, where its grace period starts again.
        Some(repair) if repair.has_escalated() => {
            let uncured = || faults.iter().find(|fault| fault.is_bad() && fault.deadline.is_some());
            most.or_else(uncured).map(|fault| (fault, RepairAction::Replace))
        }
        _ => most.map(|fault| (fault, fault.action)),
    }
}

/// Whether a reported departure is used: not of an instance that is still there, unless a call terminated it.
fn is_plausible(certain: bool, location: &InstanceLocation) -> bool {
    certain || !is_there(location)
}

/// Whether AWS has the instance, and it will not leave its group by itself. One that was detached from its group lives on.
fn is_there(location: &InstanceLocation) -> bool {
    match location {
        InstanceLocation::Member { lifecycle, .. } => is_member(*lifecycle),
        InstanceLocation::Ungrouped => true,
        InstanceLocation::Gone => false,
    }
}

/// Whether an instance in this state is one of its group, and will not leave it by itself.
fn is_member(lifecycle: Lifecycle) -> bool {
    !matches!(lifecycle, Lifecycle::Terminating | Lifecycle::WarmPool)
}

/// Whether an instance that AWS does not know may be in another account than the one that the policy names:
/// its reports came from another one. Then its absence proves nothing, for a day at most: a cluster that was
/// deleted must not leave its cases open.
fn may_be_elsewhere(case: &Case, context: &DecisionContext<'_>, policy: &Policy, now: Timestamp) -> bool {
    *context.location == InstanceLocation::Gone
        && case.account() != policy.account.as_ref()
        && case.last_seen().is_some_and(|seen| now.duration_since(seen) < ELSEWHERE)
}

/// Whether a node that should reboot is healthy in the same boot: the reboot did not happen, and the fault recovered.
/// To replace it now would terminate a healthy node.
fn has_recovered_without_reboot(case: &Case, repair: &Repair, faults: &[Fault]) -> bool {
    let rebooted = case
        .boot()
        .as_ref()
        .is_some_and(|boot| repair.effective_at().is_none_or(|called| boot.first_seen > called));
    !rebooted && !faults.iter().any(|fault| fault.is_bad() && fault.deadline.is_some())
}

/// Why a claimed repair gives its slot back before its call: its instance is no longer in service in the group of the slot.
fn left_the_group_of(repair: &Repair, location: &InstanceLocation) -> Option<String> {
    match location {
        InstanceLocation::Member { group, .. } if group != repair.group() => {
            Some(format!("its instance has moved to group {group}"))
        }
        InstanceLocation::Member { lifecycle: Lifecycle::OutOfService, .. } => {
            Some("its instance is on standby or detached".to_owned())
        }
        InstanceLocation::Member { lifecycle: Lifecycle::WarmPool, .. } => {
            Some("its instance is in a warm pool".to_owned())
        }
        InstanceLocation::Ungrouped => Some("its instance is in no Auto Scaling group".to_owned()),
        InstanceLocation::Member { .. } | InstanceLocation::Gone => None,
    }
}

/// Whether a terminate call without an answer took effect, as the state of its instance shows.
fn took_effect(repair: &Repair, context: &DecisionContext<'_>) -> bool {
    let gone = matches!(
        context.location,
        InstanceLocation::Gone
            | InstanceLocation::Member { lifecycle: Lifecycle::Terminating | Lifecycle::WarmPool, .. }
    );
    repair.action() == RepairAction::Replace && repair.has_pending_call() && gone
}

/// The answer of one guard to [`explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardAnswer {
    /// The guard that was evaluated.
    pub guard: Guard,
    /// Why it blocks, if it does.
    pub block: Option<Block>,
}

/// Evaluates every guard for a fault, due or not. Returns one answer for each guard, in their order.
pub fn explain(
    case: &Case,
    fault: &Fault,
    context: &DecisionContext<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Vec<GuardAnswer> {
    let no_tags = std::collections::BTreeMap::new();
    let tags = context.group.map_or(&no_tags, |group| &group.tags);
    let input = GuardContext {
        case,
        fault,
        context,
        rules: policy.rules_for(context.state.name(), tags),
        policy,
        now,
    };
    guard::GUARDS.iter().map(|(guard, check)| GuardAnswer { guard: *guard, block: check(&input) }).collect()
}

impl CaseOutcome {
    /// The name in audit records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Replaced => "Replaced",
            Self::Rebooted => "Rebooted",
            Self::ReplacementFailed => "ReplacementFailed",
            Self::Gone { .. } => "Gone",
        }
    }

    /// The outcome, as one clause.
    pub fn sentence(&self, case: &Case, now: Timestamp) -> String {
        let repair = case.repair();
        let ago = |at: Option<Timestamp>| {
            at.map_or_else(String::new, |at| timestamp::duration(now.duration_since(at)))
        };
        match self {
            Self::Replaced => {
                let replacement = repair.and_then(|repair| repair.replacement());
                let (by, healthy) = replacement
                    .map(|new| (new.label.clone(), new.ready.unwrap_or(new.registered)))
                    .unwrap_or_default();
                let took =
                    repair.map(|repair| timestamp::duration(healthy.duration_since(repair.fault().since)));
                format!("replaced by {by}, {} after the fault", took.unwrap_or_default())
            }
            Self::Rebooted => {
                let since = repair.map(|repair| repair.fault().since);
                format!("cured by a reboot, {} after the fault", ago(since))
            }
            Self::ReplacementFailed => {
                let terminated = ago(repair.and_then(Repair::effective_at));
                match repair.and_then(Repair::replacement) {
                    Some(new) => format!(
                        "terminated {terminated} ago; its replacement {} ({}) registered and did not become Ready",
                        new.label, new.instance_id
                    ),
                    None => format!("terminated {terminated} ago, and no replacement registered"),
                }
            }
            Self::Gone { how, .. } => how.clone(),
        }
    }
}
