//! Turns a case, its surroundings, a policy and the time into what is to be done next.
//!
//! Two steps, because one of them is free: [`triage`] looks at the case alone, and only where that is not
//! enough are AWS and the store asked for the [`DecisionContext`] that [`decide`] needs.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use crate::{
    case::{Case, Fault, JoinStage},
    condition::RepairAction,
    group::{InstanceLocation, Lifecycle},
    guard::{self, Block, DecisionContext, Guard, GuardContext},
    policy::Policy,
    repair::{Phase, Repair},
    timestamp,
};

/// How soon a blocked repair is looked at again.
pub const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Nothing, or not yet: the case's own `due` says when to look again.
    Wait,
    /// Tell that the agent has been silent since then.
    RecordSilence(Timestamp),
    /// Tell that CloudTrail is silent about a call.
    RecordMissing {
        /// When it was made.
        call: Timestamp,
    },
    /// A repair is due, and something stands in its way.
    Blocked {
        /// What is due.
        fault: Fault,
        /// What would be done.
        action: RepairAction,
        /// What stands in the way.
        blocks: Vec<Block>,
        /// When to look again.
        until: Timestamp,
    },
    /// Make the repair.
    Act {
        /// Why.
        fault: Fault,
        /// What.
        action: RepairAction,
    },
    /// A call whose answer never came took effect after all.
    ConfirmByState,
    /// The claimed repair is not needed any more.
    Release(String),
    /// Tell the group that this node came.
    RecordJoin(JoinStage),
    /// End the case.
    Close(CaseOutcome),
}

/// How a case ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseOutcome {
    /// Another node took its place.
    Replaced,
    /// A reboot cured it; the node lives on.
    Rebooted,
    /// It was terminated, and nothing came in its place in time.
    ReplacementFailed,
    /// It left without us.
    Gone {
        /// How.
        how: String,
        /// By somebody's call that was not ours.
        foreign: bool,
    },
}

/// What [`triage`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Triage {
    /// The case alone decides.
    Settled(Decision),
    /// Ask for the surroundings, then [`decide`].
    NeedsContext,
}

/// Looks at the case alone.
pub fn triage(case: &Case, policy: &Policy, now: Timestamp) -> Triage {
    use Triage::{NeedsContext, Settled};
    if let Some(call) = case.overdue_confirmation(policy, now) {
        return Settled(Decision::RecordMissing { call: call.at() });
    }
    if case.closed().is_some() {
        return Settled(Decision::Wait);
    }
    if let Some(repair) = case.repair() {
        return triage_repair(case, repair, policy, now);
    }
    // First: whoever left again has come, too, and a repair waits for it.
    if let Some(join_to_record) = join_to_record(case, policy, now) {
        return Settled(Decision::RecordJoin(join_to_record));
    }
    if case.departure().is_some() {
        return NeedsContext;
    }
    if case.silent_since().is_none()
        && let Some(since) = case.silence(policy, now)
    {
        return Settled(Decision::RecordSilence(since));
    }
    if case.may_be_due(policy, now) { NeedsContext } else { Settled(Decision::Wait) }
}

fn triage_repair(case: &Case, repair: &Repair, policy: &Policy, now: Timestamp) -> Triage {
    use Triage::{NeedsContext, Settled};
    let since_call =
        |length| repair.effective_at().and_then(|at| at.checked_add(length).ok()).is_some_and(|at| at <= now);
    match repair.phase() {
        Phase::Claimed { until } | Phase::Acting { until } if until > now => Settled(Decision::Wait),
        Phase::Claimed { .. } | Phase::Acting { .. } => NeedsContext,
        Phase::Confirming => match repair.replacement() {
            Some(replacement) if repair.is_confirmed() => {
                let patience = replacement.registered.checked_add(crate::repair::READY_TIMEOUT);
                if replacement.ready.is_some() || patience.is_ok_and(|patience| patience <= now) {
                    Settled(Decision::Close(CaseOutcome::Replaced))
                } else {
                    Settled(Decision::Wait)
                }
            }
            Some(_) => Settled(Decision::Wait),
            None if since_call(policy.replacement_timeout) => {
                Settled(Decision::Close(CaseOutcome::ReplacementFailed))
            }
            None => Settled(Decision::Wait),
        },
        Phase::Rebooting => {
            if let Some(departure) = case.departure() {
                let (how, foreign) = (departure.how.clone(), departure.foreign);
                return Settled(Decision::Close(CaseOutcome::Gone { how, foreign }));
            }
            match cured_at(case, repair, policy, now) {
                Some(cured) if cured <= now && repair.is_confirmed() => {
                    Settled(Decision::Close(CaseOutcome::Rebooted))
                }
                // It came back sound, if late: it is given the time to show that this holds.
                Some(_) => Settled(Decision::Wait),
                None if since_call(policy.reboot_timeout) => NeedsContext,
                None => Settled(Decision::Wait),
            }
        }
    }
}

/// When a rebooted node counts as cured, if it stays as well as it is, whatever group's rules hold.
fn cured_at(case: &Case, repair: &Repair, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    policy.all_rules().try_fold(Timestamp::MIN, |latest, rules| {
        let faults = case.faults(&rules, policy, now);
        case.cured_at(repair, &faults, policy).map(|cured| latest.max(cured))
    })
}

/// What this node's group has yet to be told of its arrival.
fn join_to_record(case: &Case, policy: &Policy, now: Timestamp) -> Option<JoinStage> {
    let arrival = case.arrival()?;
    let late = arrival.registered.is_none()
        && arrival
            .launched
            .and_then(|at| at.checked_add(policy.join_timeout).ok())
            .is_some_and(|at| at <= now);
    let events = match (arrival.ready, arrival.registered) {
        (Some(_), _) => JoinStage::Ready,
        (None, Some(_)) => JoinStage::Registered,
        (None, None) if late => JoinStage::FailedToJoin,
        (None, None) => return None,
    };
    (events > arrival.recorded).then_some(events)
}

/// Decides with everything at hand. Called with the surroundings as they were read last, and again with what
/// is read anew, consistently, right before a claim.
pub fn decide(case: &Case, context: &DecisionContext<'_>, policy: &Policy, now: Timestamp) -> Decision {
    // First of all: the departure of an instance that our own unanswered call terminated is no departure.
    let foreign = case.departure().is_some_and(|departure| departure.foreign);
    if !foreign && case.repair().is_some_and(|repair| took_effect(repair, context)) {
        return Decision::ConfirmByState;
    }
    if let Some(departure) = case.departure()
        && case.repair().is_none_or(|repair| repair.effective_at().is_none() || departure.foreign)
        && may_believe(departure.foreign, context.location)
    {
        return Decision::Close(CaseOutcome::Gone { how: departure.how.clone(), foreign: departure.foreign });
    }
    let tags = context.group.map(|group| &group.tags);
    let no_tags = std::collections::BTreeMap::new();
    let rules = policy.rules_for(context.state.name(), tags.unwrap_or(&no_tags));
    let faults = case.faults(&rules, policy, now);
    let cause = cause(case, &faults, now);
    if let Some(repair) = case.repair() {
        match repair.phase() {
            // A reboot leaves no mark that we could read: the wait for a new boot decides.
            Phase::Acting { .. } if repair.action() == RepairAction::Reboot && repair.has_pending_call() => {
                return Decision::ConfirmByState;
            }
            Phase::Claimed { .. } | Phase::Acting { .. } if cause.is_none() => {
                return Decision::Release("it recovered before the call".to_owned());
            }
            _ => {}
        }
    }
    if *context.location == InstanceLocation::Gone {
        return Decision::Close(CaseOutcome::Gone { how: "its instance is gone".to_owned(), foreign: false });
    }
    let rebooted_in_vain = case.repair().filter(|repair| repair.phase() == Phase::Rebooting);
    if let Some(repair) = rebooted_in_vain
        && has_recovered_without_reboot(case, repair, &faults)
    {
        // Not before that has held.
        let has_held = !faults.iter().any(|fault| fault.deadline.is_some());
        return if has_held {
            Decision::Release("it recovered, and no reboot was seen".to_owned())
        } else {
            Decision::Wait
        };
    }
    let Some((fault, action)) = cause else {
        return Decision::Wait;
    };
    let input = GuardContext { case, fault, context, rules, policy, now };
    let blocks = guard::ask_all(&input);
    if blocks.is_empty() {
        return Decision::Act { fault: fault.clone(), action };
    }
    // The latest of those whose end is known, but soon in any case: a hold is taken back, a rest ends with the
    // replacement that comes after all, and nobody tells who waits for it.
    let known = blocks.iter().map(|block| block.until).collect::<Option<Vec<_>>>();
    let until = known
        .and_then(|ends| ends.into_iter().max())
        .map_or(now + RETRY, |end| end.clamp(now + SignedDuration::from_secs(1), now + RETRY));
    Decision::Blocked { fault: fault.clone(), action, blocks, until }
}

/// What is to be done, and because of what: the most that anything due asks for, on behalf of what has waited for it
/// longest.
fn cause<'c>(case: &'c Case, faults: &'c [Fault], now: Timestamp) -> Option<(&'c Fault, RepairAction)> {
    let due = faults.iter().filter(|fault| fault.is_due(now));
    let most = due.min_by_key(|fault| (Reverse(fault.action), fault.deadline));
    match case.repair() {
        // Whatever its next own deadline: the reboot that should have cured it has not.
        Some(repair) if repair.phase() == Phase::Rebooting => {
            Some((most.unwrap_or(repair.fault()), RepairAction::Replace))
        }
        // What a reboot did not cure is as due in the next boot, where its clock has begun anew.
        Some(repair) if repair.has_escalated() => {
            let uncured = || faults.iter().find(|fault| fault.is_bad() && fault.deadline.is_some());
            most.or_else(uncured).map(|fault| (fault, RepairAction::Replace))
        }
        _ => most.map(|fault| (fault, fault.action)),
    }
}

/// A cloud controller's or Karpenter's word that a node is gone is believed unless Auto Scaling still has it.
fn may_believe(foreign: bool, location: &InstanceLocation) -> bool {
    foreign || !matches!(location, InstanceLocation::Member { lifecycle: Lifecycle::InService, .. })
}

/// Whether a node that was to be rebooted is well, in the very boot that the call found it in: the reboot never
/// came, and whoever complained has taken it back. To replace it now would kill a healthy node.
fn has_recovered_without_reboot(case: &Case, repair: &Repair, faults: &[Fault]) -> bool {
    let rebooted = case
        .boot()
        .as_ref()
        .is_some_and(|boot| repair.effective_at().is_none_or(|called| boot.first_seen > called));
    !rebooted && !faults.iter().any(|fault| fault.is_bad() && fault.deadline.is_some())
}

/// A terminate call whose answer was lost shows in where its instance is.
fn took_effect(repair: &Repair, context: &DecisionContext<'_>) -> bool {
    let gone = matches!(
        context.location,
        InstanceLocation::Gone | InstanceLocation::Member { lifecycle: Lifecycle::Terminating, .. }
    );
    repair.action() == RepairAction::Replace && repair.has_pending_call() && gone
}

/// What [`explain`] says of one guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardAnswer {
    /// The guard.
    pub guard: Guard,
    /// Its objection, if it has one.
    pub block: Option<Block>,
}

/// Asks every guard about a fault, whether or not it is due: why, why not yet, what blocks.
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
    guard::GUARDS
        .iter()
        .map(|(guard, question)| GuardAnswer { guard: *guard, block: question(&input) })
        .collect()
}

impl CaseOutcome {
    /// Its name in records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Replaced => "Replaced",
            Self::Rebooted => "Rebooted",
            Self::ReplacementFailed => "ReplacementFailed",
            Self::Gone { .. } => "Gone",
        }
    }

    /// The end, as one clause.
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
                format!(
                    "terminated {} ago, and no replacement registered",
                    ago(repair.and_then(Repair::effective_at))
                )
            }
            Self::Gone { how, .. } => how.clone(),
        }
    }
}
