//! Every step of a repair: the state machine of a case.
//!
//! A transition takes the case as it is, its input and a [`TransitionContext`] (policy, caller, time), changes the case
//! and its group, and returns the [`Effects`] that the caller must carry out with the same write. A transition that the
//! case's state does not allow is refused by name, and changes nothing. [`TRANSITIONS`] lists them all; the tests apply
//! each of them in each state, and `docs/deciding.md` draws them from it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Blocked, Call, Case, CaseState, Closed, EventMatch, Fault, Repair, state::phase_state};
use crate::{
    audit_log::{
        ApiCall, CallAnswer, CallOutcome, Caller, CloudTrailEvent, Record, RecordStep,
        builder::{self, AuditEntry, CallRecord, GuardResults, StepRecord},
    },
    aws_error::AwsErrorKind,
    condition::{ConditionType, RepairAction},
    decide::{CaseOutcome, RETRY},
    group::GroupState,
    guard::{Block, Guard},
    policy::Policy,
    repair::{CallResult, LEASE, Phase},
    repair_event::{RepairEvent, Step},
    timestamp,
};

mod diagram;
#[cfg(test)]
mod tests;

pub use self::diagram::{TRANSITIONS, Transition, mermaid};

/// Why an unanswered call counts as not made.
const STILL_IN_PLACE: &str = "no answer came, and the instance is still in place";

/// What every transition needs besides the case and its own input.
#[derive(Debug, Clone, Copy)]
pub struct TransitionContext<'a> {
    /// The cluster's policy.
    pub policy: &'a Policy,
    /// The principal that the records name.
    pub caller: &'a Caller,
    /// Now.
    pub now: Timestamp,
}

/// What a transition leaves to do. The records are written in one transaction with the case; the events are published
/// once that write has succeeded.
#[derive(Debug, Default)]
#[must_use]
pub struct Effects {
    /// Records for the end of the case's audit log.
    pub records: Vec<AuditEntry>,
    /// Events for people, logs and the event bus.
    pub events: Vec<RepairEvent>,
}

impl Effects {
    pub(super) fn of(event: RepairEvent) -> Self {
        Self { records: Vec::new(), events: vec![event] }
    }

    fn append(&mut self, other: Self) {
        self.records.extend(other.records);
        self.events.extend(other.events);
    }
}

/// A transition that the case's state does not allow. Another process was faster: evaluate the case again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to {transition} case {case}: it is {}", state.as_str())]
pub struct IllegalTransition {
    /// The transition.
    pub transition: &'static str,
    /// The id of the case.
    pub case: String,
    /// The state that does not allow it.
    pub state: CaseState,
}

/// A call that was made, and its answer.
#[derive(Debug, Clone)]
pub struct CallMade {
    /// The call.
    pub call: ApiCall,
    /// When it was begun: its identity within the case.
    pub at: Timestamp,
    /// The answer.
    pub answer: CallAnswer,
    /// What the repair rests on, for the record.
    pub evidence: Value,
}

/// A decision that guards block.
#[derive(Debug, Clone, Copy)]
pub struct BlockedRepair<'a> {
    /// The fault that is due.
    pub fault: &'a Fault,
    /// The action that it asks for.
    pub action: RepairAction,
    /// The guards that block it.
    pub blocks: &'a [Block],
    /// When to ask them again.
    pub until: Timestamp,
}

impl Case {
    /// Claims a repair: acquires a slot of its group, or takes over a claim whose lease ended. The process that wrote
    /// this may begin the call.
    pub fn claim(
        &mut self,
        group: &mut GroupState,
        fault: &Fault,
        action: RepairAction,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("claim", |state| matches!(state, CaseState::Closed | CaseState::Confirming))?;
        if self.repair.is_none() && !fault.is_due(ctx.now) {
            return Err(self.refused("claim"));
        }
        let mut effects = Effects::default();
        if self.repair.is_none() && self.blocked.is_none() {
            effects.events.push(RepairEvent::due(self, fault, ctx.now));
        }
        let until = ctx.now + LEASE;
        group.acquire_slot(self.instance_id.clone(), ctx.now);
        self.blocked = None;
        let new_action = if let Some(repair) = self.repair.as_mut() {
            let new_action = repair.action != action;
            repair.phase = Phase::Claimed { until };
            repair.action = action;
            // The fault that asks for it now, which need not be the first one. What a reboot did not cure is still the
            // same incident.
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
            self.repair = Some(Box::new(repair));
            true
        };
        if new_action {
            let under_way = group.slots().len();
            let repairs = if under_way == 1 { "repair is" } else { "repairs are" };
            let detail = format!(
                "{} in group {}, where {under_way} {repairs} under way{}",
                action.as_str(),
                group.name(),
                self.after_a_reboot(),
            );
            let data =
                json!({ "autoScalingGroupName": group.name(), "repairAction": action, "fault": fault });
            let step = StepRecord::new(RecordStep::Claimed, &detail, data).with_guards(GuardResults::Passed);
            effects.records.push(builder::record_step(self, step, ctx.caller, ctx.now));
            effects.events.push(RepairEvent::new(self, Step::Claimed, detail, ctx.now));
        }
        Ok(effects)
    }

    /// Writes down that the claimed call is about to be made. The call itself is the caller's to send once this is
    /// written, and only while its lease lasts.
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
            request_id: None,
            sequence: None,
            confirmation: None,
        });
        Ok(ApiCall::of(self.instance_id.clone(), action))
    }

    /// Withdraws a call that was begun and never sent: its process was frozen past the lease.
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

    /// Ends the lease of a claim whose call could not be begun, so that it is decided again at once.
    pub fn end_lease(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        match self.repair.as_mut().map(|repair| &mut repair.phase) {
            Some(Phase::Claimed { until }) => {
                *until = now;
                Ok(())
            }
            _ => Err(self.refused("end the lease of")),
        }
    }

    /// Records AWS's answer to a call, and whatever CloudTrail recorded of it meanwhile.
    pub fn record_answer(
        &mut self,
        group: Option<&mut GroupState>,
        made: &CallMade,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let result = match &made.answer.outcome {
            CallOutcome::Accepted { .. } => CallResult::Accepted,
            CallOutcome::Failed { .. } => CallResult::Refused,
            // Nobody knows. When the lease ends, where the instance is decides.
            CallOutcome::Unanswered { .. } => return Ok(Effects::default()),
        };
        let Some(known) = self.call_mut(made.at) else {
            return Err(self.refused("record an answer of"));
        };
        known.request_id.clone_from(&made.answer.request_id);
        if known.result != CallResult::Pending {
            // Another process has already recorded the call as unanswered. The id is kept: CloudTrail's event carries it.
            return Ok(Effects::default());
        }
        known.result = result;
        let action = known.action;
        let decision = self.decision_sentence(action);
        let record = CallRecord {
            call: &made.call,
            at: made.at,
            answer: made.answer.clone(),
            decision: &decision,
            evidence: made.evidence.clone(),
        };
        let (entry, record) = builder::record_call(self, record, ctx.caller);
        if let Some(known) = self.call_mut(made.at) {
            known.sequence = Some(entry.sequence);
        }
        let called = RepairEvent::new(self, Step::Called, answer_sentence(action, &made.answer), ctx.now)
            .with_record(record.clone());
        let mut effects = Effects { records: vec![entry], events: vec![called] };
        let Some(repair) = self.repair.as_mut() else {
            return Ok(effects);
        };
        repair.phase = match (&made.answer.outcome, action) {
            (CallOutcome::Failed { code, message }, _) => {
                let pause = AwsErrorKind::of(code, message).pause(repair.refusals());
                Phase::Claimed { until: ctx.now + pause }
            }
            (_, RepairAction::Reboot) => Phase::Rebooting,
            _ => Phase::Confirming,
        };
        if let (Some(group), Phase::Confirming) = (group, &repair.phase) {
            group.record_termination(&self.instance_id, made.at);
        }
        effects.append(self.match_stashed_events(made.at, &record, ctx));
        Ok(effects)
    }

    /// Takes the state of the instance as the answer that never came: the call took effect.
    pub fn confirm_by_state(
        &mut self,
        group: Option<&mut GroupState>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("confirm the call of", |state| state != CaseState::Acting)?;
        let why = match self.action() {
            Some(RepairAction::Reboot) => "no answer came; a new boot will show whether it took effect",
            _ => "no answer came, but the call took effect",
        };
        let Some((at, unanswered)) = self.mark_unanswered(why, ctx) else {
            return Err(self.refused("confirm the call of"));
        };
        let Some(repair) = self.repair.as_mut() else {
            return Err(self.refused("confirm the call of"));
        };
        repair.phase = match repair.action {
            RepairAction::Reboot => Phase::Rebooting,
            _ => Phase::Confirming,
        };
        if let (Some(group), Phase::Confirming) = (group, &repair.phase) {
            group.record_termination(&self.instance_id, at);
        }
        let detail = format!("{}: {why}", repair.action.as_str());
        let mut called = RepairEvent::new(self, Step::Called, detail, ctx.now);
        called.record = unanswered.records.first().and_then(|entry| serde_json::from_str(&entry.line).ok());
        let mut effects = Effects::of(called);
        effects.append(unanswered);
        Ok(effects)
    }

    /// Notes that guards block the repair that is due. A repair that holds a slot keeps it.
    pub fn block(
        &mut self,
        blocked: BlockedRepair<'_>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        self.refuse_if("block", |state| matches!(state, CaseState::Closed | CaseState::Confirming))?;
        let BlockedRepair { fault, action, blocks, until } = blocked;
        if self.repair.is_none() && !fault.is_due(ctx.now) {
            return Err(self.refused("block"));
        }
        let guards: Vec<String> = blocks.iter().map(|block| block.guard.name()).collect();
        // Its lease is over. New instances of the group would wait for this answer as long as the repair is blocked.
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
            let entry = builder::record_step(self, step, ctx.caller, ctx.now);
            if let Some(event) = effects.events.last_mut() {
                event.record = serde_json::from_str(&entry.line).ok();
            }
            effects.records.push(entry);
        }
        let since = before.map_or(ctx.now, |before| before.since);
        self.blocked = Some(Blocked { since, guards, until, observed });
        if let Some(repair) = self.repair.as_mut()
            && matches!(repair.phase, Phase::Claimed { .. } | Phase::Acting { .. })
        {
            repair.phase = Phase::Claimed { until };
        }
        Ok(effects)
    }

    /// Ends a repair that is no longer needed, and releases its slot. The node lives on.
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
        effects.records.push(builder::record_step(self, step, ctx.caller, ctx.now));
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
        let sentence = outcome.sentence(self, ctx.now);
        effects.events.push(RepairEvent::new(self, Step::Closed, sentence.clone(), ctx.now));
        // A node that left before anything was decided about it has no audit log to end.
        if self.audit_log.sequence() > 0 {
            let data = json!({ "outcome": outcome.name() });
            let step = StepRecord::new(RecordStep::Closed, &sentence, data);
            effects.records.push(builder::record_step(self, step, ctx.caller, ctx.now));
        }
        if let Some(group) = group {
            group.release_slot(&self.instance_id);
            if *outcome == CaseOutcome::ReplacementFailed {
                group.record_failure(ctx.now);
            }
        }
        self.blocked = None;
        match outcome {
            CaseOutcome::Rebooted => self.end_repair(),
            CaseOutcome::Replaced | CaseOutcome::ReplacementFailed | CaseOutcome::Gone { .. } => {
                self.closed = Some(Closed { at: ctx.now, outcome: sentence });
            }
        }
        Ok(effects)
    }

    /// Reports that the agent is silent since then. Nothing follows from it by itself.
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

    /// Plans the next evaluation of a case for which there is nothing to do; whether that changes it.
    pub fn wait(&mut self, policy: &Policy, now: Timestamp) -> bool {
        let before = (self.due, self.unhealthy_reason.clone(), self.blocked.clone());
        self.plan(policy, now);
        if self.due.is_some_and(|due| due <= now) {
            // The case cannot know what it waits for: evaluate it again in a while.
            self.due = Some(now + RETRY);
        }
        before != (self.due, self.unhealthy_reason.clone(), self.blocked.clone())
    }

    /// Makes a blocked case due now, because an operator changed what blocks it; whether it was blocked.
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

    /// Records the call whose answer will not come any more, if there is one, and what CloudTrail recorded of it. Its
    /// own record is the first of the effects. Returns the call's time with it.
    fn mark_unanswered(&mut self, why: &str, ctx: &TransitionContext<'_>) -> Option<(Timestamp, Effects)> {
        let (action, at) = self.pending_call().map(|call| (call.action, call.at))?;
        let call = ApiCall::of(self.instance_id.clone(), action);
        let outcome = CallOutcome::Unanswered { why: why.to_owned() };
        let answer = CallAnswer { request_id: None, outcome };
        let record = CallRecord { call: &call, at, answer, decision: why, evidence: Value::Null };
        let (entry, record) = builder::record_call(self, record, ctx.caller);
        let known = self.call_mut(at)?;
        (known.result, known.sequence) = (CallResult::Unanswered, Some(entry.sequence));
        let mut effects = Effects { records: vec![entry], events: Vec::new() };
        effects.append(self.match_stashed_events(at, &record, ctx));
        Some((at, effects))
    }

    /// Matches the events that CloudTrail delivered before the call's result was known: it delivers each once.
    fn match_stashed_events(
        &mut self,
        call: Timestamp,
        record: &Record,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        let stashed = self.repair.as_mut().map(|repair| std::mem::take(&mut repair.stashed_events));
        let mut effects = Effects::default();
        for event in stashed.unwrap_or_default() {
            let Ok(event) = CloudTrailEvent::try_from(event) else { continue };
            if self.call_for(&event) != Some(call) {
                continue;
            }
            if let EventMatch::Matched(matched) = self.match_event(call, record, &event, ctx) {
                effects.append(matched);
            }
        }
        effects
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

    /// The state as far as transitions depend on it: how far its repair is, whatever its conditions are.
    pub fn repair_state(&self) -> CaseState {
        match (&self.closed, &self.repair, &self.blocked) {
            (Some(_), ..) => CaseState::Closed,
            (None, Some(repair), blocked) => phase_state(&repair.phase, blocked.is_some()),
            (None, None, Some(_)) => CaseState::Blocked,
            (None, None, None) => CaseState::Healthy,
        }
    }

    /// Why the call is made, for its record.
    fn decision_sentence(&self, action: RepairAction) -> String {
        let Some(repair) = &self.repair else { return action.as_str().to_owned() };
        let fault = &repair.fault;
        let due = fault.deadline.map(|deadline| format!(", due {}", timestamp::seconds(deadline)));
        format!(
            "{}: {} bad since {} ({}){}{}",
            action.as_str(),
            fault.condition,
            timestamp::seconds(fault.since),
            fault.reason,
            due.unwrap_or_default(),
            self.after_a_reboot(),
        )
    }

    fn after_a_reboot(&self) -> &'static str {
        let follows = self.repair.as_ref().is_some_and(|repair| repair.follows_reboot());
        if follows { "; the reboot did not cure it" } else { "" }
    }
}

fn answer_sentence(action: RepairAction, answer: &CallAnswer) -> String {
    let name = match action {
        RepairAction::Reboot => "RebootInstances",
        _ => "TerminateInstanceInAutoScalingGroup",
    };
    match &answer.outcome {
        CallOutcome::Accepted { activity: Some(activity) } => {
            let at = timestamp::seconds(activity.start_time);
            format!("{name}: accepted at {at}: {}", activity.description)
        }
        CallOutcome::Accepted { activity: None } => format!("{name}: accepted"),
        CallOutcome::Failed { code, message } => format!("{name}: refused with {code}: {message}"),
        CallOutcome::Unanswered { why } => format!("{name}: no answer: {why}"),
    }
}
