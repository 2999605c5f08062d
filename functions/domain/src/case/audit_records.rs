//! Builds the records of a case's audit log.
//!
//! Building a record also appends it to the case's chain, so the record must be written in the same transaction as the
//! case.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Case, Fault};
use crate::{
    audit_log::{About, ApiCall, AuditEntry, CallAnswer, Caller, GuardNote, Record, RecordStep},
    guard::{Block, GUARDS},
    log_source,
    repair::Repair,
};

/// A step that is not a call to AWS.
#[derive(Debug)]
pub struct StepRecord<'a> {
    /// The step of the repair.
    pub step: RecordStep,
    /// The decision, as one clause.
    pub decision: &'a str,
    /// The answers of the guards.
    pub guards: GuardResults<'a>,
    /// The step's own data.
    pub data: Value,
}

impl<'a> StepRecord<'a> {
    /// A step for which no guards were evaluated.
    pub fn new(step: RecordStep, decision: &'a str, data: Value) -> Self {
        Self { step, decision, guards: GuardResults::NotEvaluated, data }
    }

    /// The same, with the answers of the guards.
    #[must_use]
    pub fn with_guards(self, guards: GuardResults<'a>) -> Self {
        Self { guards, ..self }
    }
}

/// A call to AWS and its answer.
#[derive(Debug)]
pub struct CallRecord<'a> {
    /// The request to AWS.
    pub call: &'a ApiCall,
    /// When it was made.
    pub at: Timestamp,
    /// AWS's answer, or that none came.
    pub answer: CallAnswer,
    /// Why it was made, as one clause.
    pub decision: &'a str,
    /// The evidence for the repair, as JSON.
    pub evidence: Value,
}

/// Records a step of the case's current repair.
pub fn record_step(case: &mut Case, step: StepRecord<'_>, caller: &Caller, now: Timestamp) -> AuditEntry {
    let id = case.id();
    record_step_of(case, id, step, caller, now)
}

/// Records a step of the repair with this id, which may have ended.
pub fn record_step_of(
    case: &mut Case,
    id: String,
    step: StepRecord<'_>,
    caller: &Caller,
    now: Timestamp,
) -> AuditEntry {
    let about = about(case, id, step.decision, step.guards, Value::Null);
    let record = Record::step(caller, step.step, case.instance_id(), step.data, now, about);
    case.append_record(&record)
}

/// Records a call to AWS. Returns the line for the store, and the record.
pub fn record_call(case: &mut Case, call: CallRecord<'_>, caller: &Caller) -> (AuditEntry, Record) {
    let about = about(case, case.id(), call.decision, GuardResults::Passed, call.evidence);
    let record = Record::call(caller, call.call, call.answer, call.at, about);
    (case.append_record(&record), record)
}

/// The answers of the guards before a step.
#[derive(Debug, Clone, Copy)]
pub enum GuardResults<'a> {
    /// They were not evaluated.
    NotEvaluated,
    /// All guards passed.
    Passed,
    /// These blocked it.
    Blocked(&'a [Block]),
}

impl GuardResults<'_> {
    fn notes(self) -> Vec<GuardNote> {
        let note = |guard: crate::guard::Guard, block: Option<&Block>| GuardNote {
            guard: guard.name(),
            passed: block.is_none(),
            why: block.map(|block| block.sentence.clone()).unwrap_or_default(),
        };
        let blocks = match self {
            Self::NotEvaluated => return Vec::new(),
            Self::Passed => &[],
            Self::Blocked(blocks) => blocks,
        };
        let block_of = |guard| blocks.iter().find(|block| block.guard == guard);
        GUARDS.iter().map(|(guard, _)| note(*guard, block_of(*guard))).collect()
    }
}

fn about(case: &Case, id: String, decision: &str, guards: GuardResults<'_>, evidence: Value) -> About {
    About {
        case: id,
        chain: case.audit_log().clone(),
        decision: Value::String(decision.to_owned()),
        guards: guards.notes(),
        evidence,
    }
}

/// The evidence for a repair, for its record: the faults, where their reports are in the logs, and the console output.
pub fn evidence(case: &Case, faults: &[Fault], console: Option<&str>) -> Value {
    let verification = case.repair().and_then(Repair::verification);
    json!({
        "faults": faults,
        "verification": verification,
        "logs": log_source::pointers(case, faults),
        "consoleOutput": console,
    })
}
