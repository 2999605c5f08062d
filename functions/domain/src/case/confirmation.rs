//! The steps of a call after its answer: CloudTrail's event confirms it, differs, or does not arrive in time.
//!
//! CloudTrail delivers each event once, minutes later, before or after our own answer is recorded. A call outlives its
//! repair.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Call, Case, Effects, IllegalTransition, TransitionContext,
    audit_records::{self, StepRecord},
};
use crate::{
    audit_log::{CloudTrailEvent, Record, RecordStep, compare},
    condition::RepairAction,
    repair::{CallResult, Confirmation, LEASE},
    repair_event::{RepairEvent, Step},
    timestamp,
};

/// How many CloudTrail events are kept while the answer to a call is not recorded yet.
const MAX_STASHED_EVENTS: usize = 4;

/// The result of matching CloudTrail's event with a call.
#[derive(Debug)]
#[must_use]
pub enum EventMatch {
    /// It was compared with the call's record.
    Matched(Effects),
    /// It was matched before, or its call is no longer kept: nothing changed.
    Known,
}

impl Case {
    /// Compares CloudTrail's event with the record of the call made at `call`.
    pub fn match_event(
        &mut self,
        call: Timestamp,
        record: &Record,
        event: &CloudTrailEvent,
        ctx: &TransitionContext<'_>,
    ) -> EventMatch {
        let Some(known) = self.call_mut(call) else {
            return EventMatch::Known;
        };
        if matches!(known.confirmation, Some(Confirmation::Confirmed | Confirmation::Mismatch)) {
            return EventMatch::Known;
        }
        let late = known.confirmation == Some(Confirmation::Missing);
        let differences = compare(record, event);
        let confirmed = differences.is_empty();
        known.confirmation = Some(if confirmed { Confirmation::Confirmed } else { Confirmation::Mismatch });
        known.request_id = known.request_id.take().or_else(|| event.request_id.clone());
        let known = known.clone();
        let (steps, detail) = if confirmed {
            let record_name = if known.result == CallResult::Refused {
                "the record of the refused call"
            } else {
                "the audit record"
            };
            let late = if late { ", late" } else { "" };
            (
                (RecordStep::Confirmed, Step::Confirmed),
                format!("CloudTrail's event matches {record_name}{late}"),
            )
        } else {
            let fields: Vec<String> = differences
                .iter()
                .map(|difference| {
                    format!("{}: ours {}, theirs {}", difference.field, difference.ours, difference.theirs)
                })
                .collect();
            let detail = format!("CloudTrail's event differs in {}", fields.join("; "));
            ((RecordStep::Mismatch, Step::Mismatch), detail)
        };
        let data = json!({
            "eventID": event.event_id,
            "requestID": event.request_id,
            "action": known.action.as_str(),
            "sequence": known.sequence,
            "differences": differences,
        });
        EventMatch::Matched(self.record_confirmation(&known, steps, detail, data, ctx))
    }

    /// Records that CloudTrail delivered no event of the call in time.
    pub fn expire_confirmation(
        &mut self,
        call: Timestamp,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let Some(known) = self.call_mut(call).filter(|call| call.awaits_confirmation()) else {
            return Err(self.refused("expire the confirmation of"));
        };
        known.confirmation = Some(Confirmation::Missing);
        let known = known.clone();
        let detail = format!(
            "CloudTrail recorded no event of the call of {} within {}",
            timestamp::seconds(known.at),
            timestamp::duration(ctx.policy.confirmation_timeout)
        );
        let data = json!({
            "requestID": known.request_id,
            "sequence": known.sequence,
            "calledAt": timestamp::millis(known.at),
        });
        Ok(self.record_confirmation(&known, (RecordStep::Missing, Step::Missing), detail, data, ctx))
    }

    /// Keeps an event of a call whose answer is not recorded yet, to match it later.
    pub fn stash_event(&mut self, event: &CloudTrailEvent) {
        let Some(repair) = self.repair.as_mut() else { return };
        let raw = serde_json::to_value(event).unwrap_or(Value::Null);
        if repair.stashed_events.len() < MAX_STASHED_EVENTS && !repair.stashed_events.contains(&raw) {
            repair.stashed_events.push(raw);
        }
    }

    /// The time of the call that an event records: by its request id, never by its instance alone. A call without an
    /// answer has no id yet, and is matched by caller, API and time.
    pub fn call_for(&self, event: &CloudTrailEvent) -> Option<Timestamp> {
        let by_id =
            self.calls().find(|call| call.request_id.is_some() && call.request_id == event.request_id);
        let unanswered = self.calls().filter(|call| is_unanswered(call, event));
        // A call that was never sent can be unanswered too: take the one nearest in time.
        let nearest = unanswered.min_by_key(|call| event.event_time.duration_since(call.at).abs());
        by_id.or(nearest).map(|call| call.at)
    }

    /// Whether an event of our own principal records another attempt at one of our calls: the SDK retries
    /// a request without an answer, and CloudTrail records each attempt under its own request id.
    pub fn is_another_attempt(&self, event: &CloudTrailEvent) -> bool {
        self.calls().any(|call| is_attempt_at(call, event))
    }

    /// Whether a call is in flight, or got no answer.
    pub fn awaits_an_answer(&self) -> bool {
        self.calls().any(|call| matches!(call.result, CallResult::Pending | CallResult::Unanswered))
    }

    /// Records a confirmation under the id of the repair that made the call, which may have ended.
    fn record_confirmation(
        &mut self,
        call: &Call,
        (record_step, step): (RecordStep, Step),
        detail: String,
        data: Value,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        let id = self.id_of(call);
        let record = StepRecord::new(record_step, &detail, data);
        let entry = audit_records::record_step_of(self, id.clone(), record, ctx.caller, ctx.now);
        let event = RepairEvent { case: id, ..RepairEvent::new(self, step, detail, ctx.now) };
        Effects { records: vec![entry], events: vec![event] }
    }
}

fn is_unanswered(call: &Call, event: &CloudTrailEvent) -> bool {
    matches!(call.result, CallResult::Unanswered | CallResult::Pending)
        && call.request_id.is_none()
        && is_attempt_at(call, event)
}

fn is_attempt_at(call: &Call, event: &CloudTrailEvent) -> bool {
    let near = event.event_time.duration_since(call.at).abs() <= LEASE;
    let same = match call.action {
        RepairAction::Reboot => event.event_name == "RebootInstances",
        _ => event.event_name == "TerminateInstanceInAutoScalingGroup",
    };
    near && same
}
