//! The state machine of a case: every step of a repair is a method of [`Case`] here or in [`answer`].
//!
//! A transition takes the case as it is, its input and a [`TransitionContext`] (policy, caller, time), changes the case
//! and its group, and returns the [`Effects`] that the caller must carry out with the same write. A transition that the
//! case's state does not allow returns [`IllegalTransition`] and changes nothing. [`TRANSITIONS`] lists them all; the
//! tests apply each of them in each state, and `docs/deciding.md` draws the diagram from it.

use jiff::Timestamp;
use serde_json::{Value, json};

use self::answer::STILL_IN_PLACE;
use super::{
    Blocked, Call, Case, CaseEvent, CaseState, Closed, Fault, Repair,
    audit_records::{self, GuardResults, StepRecord},
    state::phase_state,
};
use crate::{
    audit_log::{ApiCall, AuditEntry, CallAnswer, Caller, RecordStep},
    condition::{ConditionType, RepairAction},
    decide::{CaseOutcome, RETRY},
    group::GroupState,
    guard::{self, Block, Guard},
    policy::Policy,
    repair::{CallResult, LEASE, Phase},
    repair_event::{RepairEvent, Step},
    timestamp,
    verification::Verification,
};

mod answer;
mod diagram;
#[cfg(test)]
mod tests;

pub use self::diagram::{TRANSITIONS, Transition, mermaid};

/// What every transition needs besides the case and its own input.
#[derive(Debug, Clone, Copy)]
pub struct TransitionContext<'a> {
    /// The cluster's policy.
    pub policy: &'a Policy,
    /// The principal that makes the calls. Records name it.
    pub caller: &'a Caller,
    /// The time of the transition, by our clock.
    pub now: Timestamp,
}

/// What a transition leaves to do. The records are written in one transaction with the case; the events are published
/// once that write has succeeded.
#[derive(Debug, Default)]
#[must_use]
pub struct Effects {
    /// Records to append to the case's audit log, in order.
    pub records: Vec<AuditEntry>,
    /// Events for the logs and the event bus, in order.
    pub events: Vec<RepairEvent>,
}

impl Effects {
    /// The events of what reports, observations or a reading changed in a case, as it is now.
    pub fn of_changes(case: &Case, changes: Vec<CaseEvent>, policy: &Policy, now: Timestamp) -> Self {
        let event = |change| RepairEvent::of_change(case, change, policy, now);
        Self { events: changes.into_iter().filter_map(event).collect(), ..Self::default() }
    }

    pub(super) fn of(event: RepairEvent) -> Self {
        Self { records: Vec::new(), events: vec![event] }
    }

    /// Adds those of a later transition of the same write.
    pub fn append(&mut self, other: Self) {
        self.records.extend(other.records);
        self.events.extend(other.events);
    }
}

/// A transition that the case's state does not allow. Another process was faster: evaluate the case again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to {transition} case {case}: it is {}", state.as_str())]
pub struct IllegalTransition {
    /// The transition, as a verb: `claim`.
    pub transition: &'static str,
    /// The id of the case.
    pub case: String,
    /// The state that does not allow it.
    pub state: CaseState,
}

/// A call that was made, and its answer.
#[derive(Debug, Clone)]
pub struct CallMade {
    /// The request to AWS.
    pub call: ApiCall,
    /// When it was begun. This identifies it within the case.
    pub at: Timestamp,
    /// AWS's answer, or that none came.
    pub answer: CallAnswer,
    /// The evidence for the repair, as JSON, for the audit record.
    pub evidence: Value,
}

/// A repair that every guard lets pass.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The fault that is due.
    pub fault: &'a Fault,
    /// The action that it needs.
    pub action: RepairAction,
    /// What showed that the fault is still there.
    pub verification: Option<&'a Verification>,
}

/// A decision that guards block.
#[derive(Debug, Clone, Copy)]
pub struct BlockedRepair<'a> {
    /// The fault that is due.
    pub fault: &'a Fault,
    /// Replace or Reboot.
    pub action: RepairAction,
    /// The guards that block it.
    pub blocks: &'a [Block],
    /// When to evaluate them again.
    pub until: Timestamp,
}

impl Case {
    /// Claims a repair: acquires a slot of its group, or takes over a claim whose lease ended. The process
    /// whose write of this succeeds may begin the call.
    pub fn claim(
        &mut self,
        group: &mut GroupState,
        Claim { fault, action, verification }: Claim<'_>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("claim", |state| matches!(state, CaseState::Closed | CaseState::Confirming))?;
        if self.repair.is_none() && !fault.is_due(ctx.now) {
            return Err(self.refused("claim"));
        }
        // Its slot would stay in the other group.
        if self.repair.as_ref().is_some_and(|repair| repair.group != *group.name()) {
            return Err(self.refused("claim"));
        }
        let mut effects = Effects::default();
        if self.repair.is_none() && self.blocked.is_none() {
            effects.events.push(RepairEvent::due(self, fault, ctx.now));
        }
        let until = ctx.now + LEASE;
        self.blocked = None;
        let new_action = if let Some(repair) = self.repair.as_mut() {
            let new_action = repair.action != action;
            repair.phase = Phase::Claimed { until };
            repair.action = action;
            repair.verification = verification.cloned();
            // The fault that needs the action now can differ from the first one. But a fault that a reboot did not cure
            // stays the reason for the replacement.
            if !repair.has_escalated() {
                repair.fault = fault.clone();
            }
            if let Some((_, unanswered)) = self.mark_unanswered(STILL_IN_PLACE, ctx) {
                effects.append(unanswered);
            }
            new_action
        } else {
            self.group = Some(group.name().clone());
            self.repairs += 1;
            let mut repair = Repair::new(action, group.name().clone(), fault.clone(), ctx.now);
            repair.phase = Phase::Claimed { until };
            repair.verification = verification.cloned();
            self.repair = Some(Box::new(repair));
            true
        };
        let reason =
            self.repair.as_deref().map_or(fault.reason.as_str(), |repair| repair.fault.reason.as_str());
        group.acquire_slot(self.instance_id.clone(), reason, ctx.now);
        if let Some(instance) = verification.and_then(|verification| verification.instance.as_ref()) {
            group.record_traits(&self.instance_id, &instance.traits);
        }
        if new_action {
            let under_way = group.slots().len();
            let repairs = if under_way == 1 { "repair is" } else { "repairs are" };
            let detail = format!(
                "{} in group {}, where {under_way} {repairs} under way{}",
                action.as_str(),
                group.name(),
                self.after_a_reboot(),
            );
            let data = json!({
                "autoScalingGroupName": group.name(),
                "repairAction": action,
                "fault": fault,
                "verification": verification,
            });
            let step = StepRecord::new(RecordStep::Claimed, &detail, data).with_guards(GuardResults::Passed);
            effects.records.push(audit_records::record_step(self, step, ctx.caller, ctx.now));
            effects.events.push(RepairEvent::new(self, Step::Claimed, detail, ctx.now));
        }
        if self.node.is_some() {
            group.record_node();
        }
        Ok(effects)
    }

    /// Records that the claimed call is about to be sent. The caller sends it after this is written, and only while the
    /// lease lasts.
    pub fn begin_call(&mut self, ctx: &TransitionContext<'_>) -> Result<ApiCall, IllegalTransition> {
        self.refuse_if("begin the call of", |state| state != CaseState::Claimed)?;
        let repairs = self.repairs;
        let Some(repair) =
            self.repair.as_mut().filter(|repair| matches!(repair.phase, Phase::Claimed { .. }))
        else {
            return Err(self.refused("begin the call of"));
        };
        let action = repair.action;
        repair.phase = Phase::Acting { until: ctx.now + LEASE };
        repair.push_call(Call {
            repair: repairs,
            action,
            at: ctx.now,
            result: CallResult::Pending,
            denied: false,
            request_id: None,
            sequence: None,
            confirmation: None,
        });
        Ok(ApiCall::of(self.instance_id.clone(), action))
    }

    /// Withdraws a call that was begun and never sent, because its process was suspended until after the lease.
    pub fn withdraw_call(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        match self.repair.as_mut() {
            Some(repair) if matches!(repair.phase, Phase::Acting { .. }) && repair.has_pending_call() => {
                repair.calls.pop();
                repair.phase = Phase::Claimed { until: now };
                Ok(())
            }
            _ => Err(self.refused("withdraw the call of")),
        }
    }

    /// Ends the lease of a claim whose call could not be begun, so that the case is evaluated again at once.
    pub fn end_lease(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        match self.repair.as_mut().map(|repair| &mut repair.phase) {
            Some(Phase::Claimed { until }) => {
                *until = now;
                Ok(())
            }
            _ => Err(self.refused("end the lease of")),
        }
    }

    /// Records that guards block the repair that is due. A repair that holds a slot keeps it.
    pub fn block(
        &mut self,
        group: Option<&mut GroupState>,
        blocked: BlockedRepair<'_>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("block", |state| matches!(state, CaseState::Closed | CaseState::Confirming))?;
        let BlockedRepair { fault, action, blocks, until } = blocked;
        if self.repair.is_none() && !fault.is_due(ctx.now) {
            return Err(self.refused("block"));
        }
        let guards: Vec<String> = blocks.iter().map(|block| block.guard.name()).collect();
        if let Some(group) = group.filter(|_| blocks.iter().any(|block| block.guard.is_of_an_outage())) {
            group.record_halt(ctx.now);
        }
        if blocks.iter().any(|block| block.out_of_service) {
            self.note_out_of_service(ctx.now);
        }
        // The lease is over, so no answer will come. New instances of the group must not wait for it while this is
        // blocked.
        let mut effects =
            self.mark_unanswered(STILL_IN_PLACE, ctx).map(|(_, unanswered)| unanswered).unwrap_or_default();
        let before = self.blocked.take();
        if before.is_none() && self.repair.is_none() {
            effects.events.push(RepairEvent::due(self, fault, ctx.now));
        }
        if before.as_ref().is_none_or(|before| before.guards != guards) {
            let detail = blocks.iter().map(|block| block.sentence.as_str()).collect::<Vec<_>>().join("; ");
            let event = RepairEvent::new(self, Step::Blocked, detail, ctx.now).about(fault);
            effects.events.push(RepairEvent { guards: guards.clone(), ..event });
        }
        let mut observed = before.as_ref().is_some_and(|before| before.observed);
        if guards.as_slice() == [Guard::ObserveMode.name()] && !observed {
            observed = true;
            let call = ApiCall::of(self.instance_id.clone(), action);
            let data = json!({ "wouldHaveCalled": call.to_value(), "fault": fault });
            let decision = format!("observe mode: would {}; no action taken", action.verb());
            let step = StepRecord::new(RecordStep::Observed, &decision, data)
                .with_guards(GuardResults::Blocked(blocks));
            let entry = audit_records::record_step(self, step, ctx.caller, ctx.now);
            if let Some(event) = effects.events.last_mut() {
                event.record = serde_json::from_str(&entry.line).ok();
            }
            effects.records.push(entry);
        }
        // A repair that somebody wants again has waited from now on.
        let wanted_again = before.as_ref().is_some_and(Blocked::is_unwanted) && !guard::is_unwanted(&guards);
        let since = before.filter(|_| !wanted_again).map_or(ctx.now, |before| before.since);
        self.blocked = Some(Blocked { since, guards, until, observed });
        if let Some(repair) = self.repair.as_mut()
            && matches!(repair.phase, Phase::Claimed { .. } | Phase::Acting { .. })
        {
            repair.phase = Phase::Claimed { until };
        }
        Ok(effects)
    }

    /// Ends a repair that is no longer needed, and releases its slot. The node stays in service.
    pub fn release(
        &mut self,
        group: Option<&mut GroupState>,
        why: &str,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("release", |state| {
            !matches!(
                state,
                CaseState::Claimed | CaseState::Blocked | CaseState::Acting | CaseState::Rebooting
            )
        })?;
        if self.repair.is_none() {
            return Err(self.refused("release"));
        }
        let mut effects =
            self.mark_unanswered(STILL_IN_PLACE, ctx).map(|(_, unanswered)| unanswered).unwrap_or_default();
        let detail = format!("{why}: the claim is released");
        effects.events.push(RepairEvent::new(self, Step::Recovered, detail, ctx.now));
        let step = StepRecord::new(RecordStep::Released, why, Value::Null);
        effects.records.push(audit_records::record_step(self, step, ctx.caller, ctx.now));
        self.end_repair();
        self.blocked = None;
        if let Some(group) = group {
            group.release_slot(&self.instance_id);
        }
        Ok(effects)
    }

    /// Ends the repair with its outcome, and the case with it unless a reboot cured the node.
    pub fn close(
        &mut self,
        group: Option<&mut GroupState>,
        outcome: &CaseOutcome,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("close", |state| match outcome {
            CaseOutcome::Rebooted => state != CaseState::Rebooting,
            CaseOutcome::Replaced | CaseOutcome::ReplacementFailed => state != CaseState::Confirming,
            CaseOutcome::Gone { .. } => state == CaseState::Closed,
        })?;
        let mut effects = self
            .mark_unanswered("no answer came before the case ended", ctx)
            .map(|(_, unanswered)| unanswered)
            .unwrap_or_default();
        let mut sentence = outcome.sentence(self, ctx.now);
        let terminated = self.repair.as_deref().and_then(Repair::effective_at).unwrap_or(ctx.now);
        if *outcome == CaseOutcome::ReplacementFailed
            && let Some(group) = group.as_deref()
            && let Some(failures) = group.launch_failures().filter(|failures| failures.last >= terminated)
        {
            sentence = format!("{sentence}: {}", failures.sentence(group.name().as_str()));
        }
        effects.events.push(RepairEvent::new(self, Step::Closed, sentence.clone(), ctx.now));
        // A node that left before anything was decided about it has no audit log to end.
        if self.audit_log.sequence() > 0 {
            let data = json!({ "outcome": outcome.name() });
            let step = StepRecord::new(RecordStep::Closed, &sentence, data);
            effects.records.push(audit_records::record_step(self, step, ctx.caller, ctx.now));
        }
        if let Some(group) = group {
            match outcome {
                CaseOutcome::ReplacementFailed => group.record_failure(terminated, ctx.now),
                CaseOutcome::Replaced if self.is_replaced() => self.free_slot(group, ctx.now),
                CaseOutcome::Replaced | CaseOutcome::Rebooted | CaseOutcome::Gone { .. } => {}
            }
            group.release_slot(&self.instance_id);
            if self.node.is_some() {
                group.record_node();
            }
        }
        (self.blocked, self.request) = (None, None);
        match outcome {
            CaseOutcome::Rebooted => self.end_repair(),
            CaseOutcome::Replaced | CaseOutcome::ReplacementFailed | CaseOutcome::Gone { .. } => {
                self.closed = Some(Closed::new(ctx.now, sentence));
            }
        }
        Ok(effects)
    }

    /// Records and publishes that the agent is silent since then. This alone starts no repair.
    pub fn record_silence(
        &mut self,
        since: Timestamp,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        if self.silent_since.is_some() || self.silence(ctx.policy, ctx.now) != Some(since) {
            return Err(self.refused("record the silence of"));
        }
        self.silent_since = Some(since);
        let silent = timestamp::duration(ctx.now.duration_since(since));
        let detail = format!("the agent has not reported for {silent}");
        let mut event = RepairEvent::new(self, Step::Event, detail, ctx.now);
        event.condition = Some(ConditionType::Ready);
        event.reason = Some("AgentSilent".to_owned());
        Ok(Effects::of(event))
    }

    /// Plans the next evaluation of a case for which there is nothing to do. Returns whether that changed the case.
    pub fn wait(&mut self, policy: &Policy, now: Timestamp) -> bool {
        let before = (self.due, self.unhealthy_reason.clone(), self.blocked.clone());
        self.plan(policy, now);
        if self.due.is_some_and(|due| due <= now) {
            // It waits for something that is not part of the case: evaluate it again after a while, and at its deadline.
            let faults = self.earliest_faults(policy, now);
            let deadlines = faults.iter().filter(|fault| fault.is_bad()).filter_map(|fault| fault.deadline);
            let next = deadlines.filter(|deadline| *deadline > now).min();
            self.due = next.into_iter().chain([now + RETRY]).min();
        }
        before != (self.due, self.unhealthy_reason.clone(), self.blocked.clone())
    }

    /// Postpones the evaluation of a case whose cluster has no policy: nothing can be decided about it.
    pub fn postpone(&mut self, now: Timestamp) {
        self.due = Some(now + RETRY);
    }

    /// Makes a blocked case due now, because an operator changed what blocks it. Returns whether it was blocked.
    pub fn reschedule(&mut self, policy: &Policy, now: Timestamp) -> bool {
        let blocked = self.blocked.as_mut().is_some_and(|blocked| {
            blocked.until = blocked.until.min(now);
            true
        });
        if let (true, Some(repair)) = (blocked, self.repair.as_mut())
            && let Phase::Claimed { until } = &mut repair.phase
        {
            *until = (*until).min(now);
        }
        self.plan(policy, now);
        blocked
    }

    fn refuse_if(
        &self,
        transition: &'static str,
        forbidden: impl FnOnce(CaseState) -> bool,
    ) -> Result<(), IllegalTransition> {
        if forbidden(self.repair_state()) { Err(self.refused(transition)) } else { Ok(()) }
    }

    pub(super) fn refused(&self, transition: &'static str) -> IllegalTransition {
        IllegalTransition { transition, case: self.id(), state: self.repair_state() }
    }

    /// The state as far as transitions depend on it: the phase of its repair. Its conditions do not count.
    pub fn repair_state(&self) -> CaseState {
        match (&self.closed, &self.repair, &self.blocked) {
            (Some(_), ..) => CaseState::Closed,
            (None, Some(repair), blocked) => phase_state(&repair.phase, blocked.is_some()),
            (None, None, Some(_)) => CaseState::Blocked,
            (None, None, None) => CaseState::Healthy,
        }
    }

    fn after_a_reboot(&self) -> &'static str {
        match self.repair.as_deref() {
            Some(repair) if repair.follows_reboot() => "; the reboot did not cure it",
            Some(repair) if repair.is_denied_a_reboot() => "; AWS denies its reboot",
            _ => "",
        }
    }
}
