//! Turns the steps of a case into records of its trail, each chained to the one before.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    case::{Case, Fault, TrailHead},
    guard::Block,
    trail::{self, Answer, ApiCall, Caller, Context, Record},
};

/// One record at its place in a trail, as the bytes that the next one's hash covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub sequence: u64,
    /// The case's id.
    pub case: String,
    /// The record, one line of JSON.
    pub line: String,
    /// The AWS request that it records, if it records one.
    pub request_id: Option<String>,
}

/// What a step that is no call of AWS is named in the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerStep {
    /// A repair has its place in the group.
    Claimed,
    /// A claimed repair was given up before its call.
    Released,
    /// Observe mode: what would have been called.
    Observed,
    /// CloudTrail tells the same.
    Confirmed,
    /// CloudTrail tells something else.
    Mismatch,
    /// CloudTrail tells nothing.
    Missing,
    /// Somebody else terminated the node.
    Foreign,
    /// The case ended.
    Closed,
}

impl LedgerStep {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Claimed => ("claimed", "RepairClaimed"),
            Self::Released => ("released", "RepairReleased"),
            Self::Observed => ("observed", "RepairObserved"),
            Self::Confirmed => ("confirmed", "CallConfirmed"),
            Self::Mismatch => ("mismatch", "CallMismatch"),
            Self::Missing => ("missing", "CallMissing"),
            Self::Foreign => ("foreign", "ForeignTermination"),
            Self::Closed => ("closed", "CaseClosed"),
        }
    }
}

/// Records a step that is no call of AWS.
pub fn enter(
    case: &mut Case,
    caller: &Caller,
    step: LedgerStep,
    decision: &str,
    guards: &[Block],
    data: Value,
    now: Timestamp,
) -> Entry {
    let (name, event_name) = step.names();
    let context = context(case, name, decision, guards, Value::Null);
    let record = Record::of_step(caller, event_name, &case.instance_id, data, context, now);
    append(case, &record, None)
}

/// Records a call of AWS.
pub fn enter_call(
    case: &mut Case,
    caller: &Caller,
    call: &ApiCall,
    answer: &Answer,
    decision: &str,
    evidence: Value,
    called_at: Timestamp,
) -> (Entry, Record) {
    let context = context(case, "called", decision, &[], evidence);
    let record = Record::of_call(caller, call, answer, context, called_at);
    (append(case, &record, answer.request_id.clone()), record)
}

fn context(case: &Case, step: &str, decision: &str, guards: &[Block], evidence: Value) -> Context {
    Context {
        case: case.id(),
        sequence: case.next_sequence(),
        step: step.to_owned(),
        decision: decision.to_owned(),
        guards: guards.iter().map(|block| block.guard.name()).collect(),
        evidence,
        previous_sha256: case.trail.as_ref().map_or_else(trail::genesis, |head| head.sha256.clone()),
    }
}

fn append(case: &mut Case, record: &Record, request_id: Option<String>) -> Entry {
    let line = record.to_json_line();
    let sequence = case.next_sequence();
    case.trail = Some(TrailHead { sequence, sha256: trail::sha256(&line) });
    Entry { sequence, case: case.id(), line, request_id }
}

/// What a repair rests on, for its record.
pub fn evidence(faults: &[Fault], console: Option<&str>) -> Value {
    json!({ "faults": faults, "consoleOutput": console })
}
