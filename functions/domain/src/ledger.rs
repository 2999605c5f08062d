//! Turns the steps of a case into records of its trail, each chained to the one before.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    case::{Case, Fault},
    guard::{Block, GUARDS},
    log_source,
    trail::{About, Answer, ApiCall, Caller, GuardNote, Record, Step},
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

/// Records a step that is no call of AWS.
pub fn enter(
    case: &mut Case,
    caller: &Caller,
    step: Step,
    decision: &str,
    guards: Guards<'_>,
    data: Value,
    now: Timestamp,
) -> Entry {
    enter_of(case, case.id(), caller, step, decision, guards, data, now)
}

/// Records a step of a repair that may be over: `id` says which.
#[allow(clippy::too_many_arguments, reason = "a record's parts, each of its own type")]
pub fn enter_of(
    case: &mut Case,
    id: String,
    caller: &Caller,
    step: Step,
    decision: &str,
    guards: Guards<'_>,
    data: Value,
    now: Timestamp,
) -> Entry {
    let about = about(case, id, decision, guards, Value::Null);
    let record = Record::step(caller, step, &case.instance_id, data, now, about);
    append(case, &record)
}

/// Records a call of AWS.
pub fn enter_call(
    case: &mut Case,
    caller: &Caller,
    call: &ApiCall,
    answer: Answer,
    decision: &str,
    evidence: Value,
    called_at: Timestamp,
) -> (Entry, Record) {
    let about = about(case, case.id(), decision, Guards::Passed, evidence);
    let record = Record::call(caller, call, answer, called_at, about);
    (append(case, &record), record)
}

/// What the guards said before a step.
#[derive(Debug, Clone, Copy)]
pub enum Guards<'a> {
    /// Nobody asked them.
    NotAsked,
    /// All let it pass.
    Passed,
    /// These did not.
    Blocked(&'a [Block]),
}

impl Guards<'_> {
    fn notes(self) -> Vec<GuardNote> {
        let note = |guard: crate::guard::Guard, block: Option<&Block>| GuardNote {
            guard: guard.name(),
            passed: block.is_none(),
            why: block.map(|block| block.sentence.clone()).unwrap_or_default(),
        };
        let blocks = match self {
            Self::NotAsked => return Vec::new(),
            Self::Passed => &[],
            Self::Blocked(blocks) => blocks,
        };
        let block_of = |guard| blocks.iter().find(|block| block.guard == guard);
        GUARDS.iter().map(|(guard, _)| note(*guard, block_of(*guard))).collect()
    }
}

fn about(case: &Case, id: String, decision: &str, guards: Guards<'_>, evidence: Value) -> About {
    About {
        case: id,
        chain: case.trail.clone(),
        decision: Value::String(decision.to_owned()),
        guards: guards.notes(),
        evidence,
    }
}

fn append(case: &mut Case, record: &Record) -> Entry {
    let line = record.to_json_line();
    case.trail.append(&line);
    let (sequence, request_id) = (record.nodemend.sequence, record.request_id.clone());
    Entry { sequence, case: record.nodemend.case.clone(), line, request_id }
}

/// What a repair rests on, for its record.
pub fn evidence(case: &Case, faults: &[Fault], console: Option<&str>) -> Value {
    json!({ "faults": faults, "logs": log_source::pointers(case, faults), "consoleOutput": console })
}
