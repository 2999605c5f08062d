//! What becomes of a call after it was sent: AWS answers, or no answer comes.
//!
//! Each call that was sent gets one record in the audit log: its answer, or that none came. The events that CloudTrail
//! delivered earlier are matched with that record when it is written.

use jiff::Timestamp;
use serde_json::Value;

use super::{CallMade, Effects, IllegalTransition, TransitionContext};
use crate::{
    audit_log::{ApiCall, CallAnswer, CallOutcome, CloudTrailEvent, Record},
    aws_error::AwsErrorKind,
    case::{
        Case, CaseState, EventMatch, Source,
        audit_records::{self, CallRecord},
    },
    condition::RepairAction,
    group::GroupState,
    repair::{CallResult, Phase},
    repair_event::{RepairEvent, Step},
    timestamp,
};

/// Why a call without an answer counts as not made.
pub(super) const STILL_IN_PLACE: &str = "no answer came, and the instance is still in place";

impl Case {
    /// Records AWS's answer to a call, and matches the events of it that CloudTrail has delivered already.
    pub fn record_answer(
        &mut self,
        group: Option<&mut GroupState>,
        made: &CallMade,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let result = match &made.answer.outcome {
            CallOutcome::Accepted { .. } => CallResult::Accepted,
            CallOutcome::Failed { .. } => CallResult::Refused,
            // It is unknown whether the call took effect. After the lease, the instance's state decides.
            CallOutcome::Unanswered { .. } => return Ok(Effects::default()),
        };
        let Some(known) = self.call_mut(made.at) else {
            return Err(self.refused("record an answer of"));
        };
        known.request_id.clone_from(&made.answer.request_id);
        if known.result != CallResult::Pending {
            // Another process has already recorded the call as unanswered. CloudTrail's event is found by this id.
            return Ok(Effects::default());
        }
        known.result = result;
        known.denied = matches!(
            &made.answer.outcome,
            CallOutcome::Failed { code, message } if AwsErrorKind::of(code, message) == AwsErrorKind::Denied
        );
        let action = known.action;
        let decision = self.decision_sentence(action);
        let record = CallRecord {
            call: &made.call,
            at: made.at,
            answer: made.answer.clone(),
            decision: &decision,
            evidence: made.evidence.clone(),
        };
        let (entry, record) = audit_records::record_call(self, record, ctx.caller);
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

    /// Records that a call without an answer took effect, as the state of the instance shows.
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

    /// Records that no answer will come to the pending call, if there is one, and matches CloudTrail's events of it.
    /// Returns the call's time, and the effects: its own record is the first of them.
    pub(super) fn mark_unanswered(
        &mut self,
        why: &str,
        ctx: &TransitionContext<'_>,
    ) -> Option<(Timestamp, Effects)> {
        let (action, at) = self.pending_call().map(|call| (call.action, call.at))?;
        let call = ApiCall::of(self.instance_id.clone(), action);
        let outcome = CallOutcome::Unanswered { why: why.to_owned() };
        let answer = CallAnswer { request_id: None, outcome };
        let record = CallRecord { call: &call, at, answer, decision: why, evidence: Value::Null };
        let (entry, record) = audit_records::record_call(self, record, ctx.caller);
        let known = self.call_mut(at)?;
        (known.result, known.sequence) = (CallResult::Unanswered, Some(entry.sequence));
        let mut effects = Effects { records: vec![entry], events: Vec::new() };
        effects.append(self.match_stashed_events(at, &record, ctx));
        Some((at, effects))
    }

    /// Matches the events that CloudTrail delivered before the call's result was known. It delivers each only once.
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

    /// The reason for the call, as one sentence for its record.
    fn decision_sentence(&self, action: RepairAction) -> String {
        let Some(repair) = &self.repair else { return action.as_str().to_owned() };
        let fault = &repair.fault;
        if fault.source == Source::Operator {
            return format!("{}: {}", action.as_str(), fault.requested());
        }
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
