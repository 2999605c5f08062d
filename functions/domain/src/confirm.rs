//! Joins what CloudTrail tells of a call with what we recorded of it, whichever comes first.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    case::Case,
    ledger::{self, Entry, Guards},
    occurrence::{Occurrence, Step},
    policy::Policy,
    repair::{Call, CallResult, CallVerdict},
    stamp,
    trail::{self, Caller, CloudTrailEvent, Record, compare},
};

/// How many of CloudTrail's events are kept for a call whose answer is not known yet.
const MAX_SIGHTINGS: usize = 4;

/// What CloudTrail's event turned out to be.
#[derive(Debug)]
pub enum Joined {
    /// It tells of a call whose record is known: here is the verdict.
    Verdict {
        /// For the trail.
        entry: Entry,
        /// For people.
        occurrence: Box<Occurrence>,
    },
    /// It tells of a call whose record isn't known yet, and is kept until it is.
    Early,
    /// It was known already.
    Known,
}

/// Compares one call's record with CloudTrail's event, and enters the verdict.
pub fn join(
    case: &mut Case,
    call: Timestamp,
    record: &Record,
    event: &CloudTrailEvent,
    caller: &Caller,
    now: Timestamp,
) -> Joined {
    let Some(known) = case.call_mut(call) else {
        return Joined::Known;
    };
    if matches!(known.verdict, Some(CallVerdict::Confirmed | CallVerdict::Mismatch)) {
        return Joined::Known;
    }
    let late = known.verdict == Some(CallVerdict::Missing);
    let differences = compare(record, event);
    let confirmed = differences.is_empty();
    known.verdict = Some(if confirmed { CallVerdict::Confirmed } else { CallVerdict::Mismatch });
    known.request_id = known.request_id.take().or_else(|| event.request_id.clone());
    let known = known.clone();
    let refused = known.result == CallResult::Refused;
    let steps = if confirmed {
        (trail::Step::Confirmed, Step::Confirmed)
    } else {
        (trail::Step::Mismatch, Step::Mismatch)
    };
    let detail = if confirmed {
        format!(
            "CloudTrail tells the same of the {}{}, field by field",
            if refused { "refused call" } else { "call" },
            if late { ", late" } else { "" }
        )
    } else {
        let fields: Vec<String> = differences
            .iter()
            .map(|difference| {
                format!("{}: ours {}, theirs {}", difference.field, difference.ours, difference.theirs)
            })
            .collect();
        format!("CloudTrail differs in {}", fields.join("; "))
    };
    let data = json!({
        "eventID": event.event_id,
        "requestID": event.request_id,
        "action": known.action.as_str(),
        "sequence": known.sequence,
        "differences": differences,
    });
    let (entry, occurrence) = enter(case, &known, steps, detail, data, caller, now);
    Joined::Verdict { entry, occurrence: Box::new(occurrence) }
}

/// Enters that CloudTrail has been silent about a call for too long; nothing, where it has its verdict by now.
pub fn miss(
    case: &mut Case,
    call: Timestamp,
    policy: &Policy,
    caller: &Caller,
    now: Timestamp,
) -> Option<(Entry, Occurrence)> {
    let known = case.call_mut(call).filter(|call| call.awaits_verdict())?;
    known.verdict = Some(CallVerdict::Missing);
    let known = known.clone();
    let detail = format!(
        "CloudTrail has told nothing of the call of {} within {}",
        stamp::seconds(known.at),
        stamp::length(policy.confirmation_timeout)
    );
    let data = json!({
        "requestID": known.request_id,
        "sequence": known.sequence,
        "calledAt": stamp::millis(known.at),
    });
    Some(enter(case, &known, (trail::Step::Missing, Step::Missing), detail, data, caller, now))
}

/// Enters a verdict under the name of the repair that made the call, which may be over.
fn enter(
    case: &mut Case,
    call: &Call,
    (step, name): (trail::Step, Step),
    detail: String,
    data: Value,
    caller: &Caller,
    now: Timestamp,
) -> (Entry, Occurrence) {
    let id = case.id_of(call);
    let entry = ledger::enter_of(case, id.clone(), caller, step, &detail, Guards::NotAsked, data, now);
    (entry, Occurrence { case: id, ..occurrence(case, name, detail, now) })
}

/// Keeps an event for a call whose answer isn't known yet.
pub fn keep(case: &mut Case, event: &CloudTrailEvent) -> Joined {
    let Some(repair) = case.repair.as_mut() else {
        return Joined::Known;
    };
    let raw = serde_json::to_value(event).unwrap_or(Value::Null);
    if repair.sightings.len() < MAX_SIGHTINGS && !repair.sightings.contains(&raw) {
        repair.sightings.push(raw);
    }
    Joined::Early
}

/// The call that an event tells of: by its request id, never by its instance alone. Only a call without an answer,
/// or none yet, has no id, and is known by who called, for what, and when. What is returned is the call's time.
pub fn call_of(case: &Case, event: &CloudTrailEvent) -> Option<Timestamp> {
    let by_id = case.calls().find(|call| call.request_id.is_some() && call.request_id == event.request_id);
    let unanswered = case.calls().filter(|call| is_unanswered(call, event));
    // A call that never left may be as lost as the one after it that did.
    let nearest = unanswered.min_by_key(|call| event.event_time.duration_since(call.at).abs());
    by_id.or(nearest).map(|call| call.at)
}

fn is_unanswered(call: &Call, event: &CloudTrailEvent) -> bool {
    matches!(call.result, CallResult::Lost | CallResult::Pending)
        && call.request_id.is_none()
        && is_attempt_at(call, event)
}

/// Whether an event of our own principal is of a call that we made, if under another request id: the SDK sends
/// again what got no answer, and CloudTrail tells of each attempt.
pub fn is_another_attempt(case: &Case, event: &CloudTrailEvent) -> bool {
    case.calls().any(|call| is_attempt_at(call, event))
}

fn is_attempt_at(call: &Call, event: &CloudTrailEvent) -> bool {
    let near = event.event_time.duration_since(call.at).abs() <= crate::repair::LEASE;
    let same = match call.action {
        crate::condition::RepairAction::Reboot => event.event_name == "RebootInstances",
        _ => event.event_name == "TerminateInstanceInAutoScalingGroup",
    };
    near && same
}

/// One step of a case's story.
pub fn occurrence(case: &Case, step: Step, detail: String, now: Timestamp) -> Occurrence {
    let fault = case.repair.as_ref().map(|repair| &repair.fault);
    Occurrence {
        at: now,
        cluster: case.cluster.clone(),
        node: case.node.clone(),
        instance_id: case.instance_id.clone(),
        case: case.id(),
        step,
        condition: fault.map(|fault| fault.condition.clone()),
        reason: fault.map(|fault| fault.reason.clone()),
        detail,
        guards: Vec::new(),
        record: None,
    }
}
