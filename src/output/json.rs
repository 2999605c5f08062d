//! Writes the steps of a replay as JSON lines, and their counts as the last line.
//!
//! Scripts depend on the keys and on the values of `step`: they may gain members, and lose none.

use std::io::{self, Write};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::Record,
    condition::ConditionType,
    ident::{ClusterName, InstanceId, NodeName},
    repair_event::{RepairEvent, Step},
    timestamp,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{MAX_LINES_NAMED, case_summary};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepLine<'a> {
    #[serde(serialize_with = "at_millis")]
    at: Timestamp,
    node: Option<&'a NodeName>,
    instance_id: &'a InstanceId,
    step: Step,
    condition: Option<&'a ConditionType>,
    reason: Option<&'a str>,
    detail: &'a str,
    cluster: &'a ClusterName,
    case: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a Record>,
}

fn at_millis<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp::millis(*at))
}

/// Writes every step, then the counts, with those of lines that the subscription does not deliver.
pub(crate) fn write(
    out: &mut impl Write,
    steps: &[RepairEvent],
    unreadable: usize,
    not_subscribed: &[String],
) -> io::Result<()> {
    for event in steps {
        step(out, event)?;
    }
    let mut summary = summary(steps, unreadable);
    summary.insert("notSubscribed".to_owned(), not_subscribed.len().into());
    if !not_subscribed.is_empty() {
        let first = &not_subscribed[..not_subscribed.len().min(MAX_LINES_NAMED)];
        summary.insert("notSubscribedLines".to_owned(), first.into());
    }
    writeln!(out, "{}", json!({ "summary": summary }))
}

/// Writes one step as a line.
pub fn step(out: &mut impl Write, event: &RepairEvent) -> io::Result<()> {
    let line = StepLine {
        at: event.at,
        node: event.node.as_ref(),
        instance_id: &event.instance_id,
        step: event.step,
        condition: event.condition.as_ref(),
        reason: event.reason.as_deref(),
        detail: &event.detail,
        cluster: &event.cluster,
        case: &event.case,
        record: event.record.as_deref(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Writes the last line: how many there were of each step, and how many input lines were unreadable.
pub fn end(out: &mut impl Write, steps: &[RepairEvent], unreadable: usize) -> io::Result<()> {
    writeln!(out, "{}", json!({ "summary": summary(steps, unreadable) }))
}

fn summary(steps: &[RepairEvent], unreadable: usize) -> Map<String, Value> {
    let mut summary: Map<String, Value> = case_summary::step_counts(steps)
        .into_iter()
        .map(|(step, count)| (step.as_str().to_owned(), count.into()))
        .collect();
    summary.insert("unreadable".to_owned(), unreadable.into());
    summary
}
