//! Turns the steps of a replay into one JSON object a line, for programs.

use std::io::{self, Write};

use jiff::Timestamp;
use nodemend_domain::{
    condition::ConditionType,
    ident::{ClusterName, InstanceId, NodeName},
    occurrence::{Occurrence, Step},
    stamp,
    trail::Record,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::story;

/// A line; its keys are a promise to those who read them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
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
    serializer.serialize_str(&stamp::millis(*at))
}

/// Writes them, and the counts at the end.
pub(super) fn write(out: &mut impl Write, occurrences: &[Occurrence], unreadable: usize) -> io::Result<()> {
    for occurrence in occurrences {
        step(out, occurrence)?;
    }
    end(out, occurrences, unreadable)
}

/// Writes one.
pub(crate) fn step(out: &mut impl Write, occurrence: &Occurrence) -> io::Result<()> {
    let line = Line {
        at: occurrence.at,
        node: occurrence.node.as_ref(),
        instance_id: &occurrence.instance_id,
        step: occurrence.step,
        condition: occurrence.condition.as_ref(),
        reason: occurrence.reason.as_deref(),
        detail: &occurrence.detail,
        cluster: &occurrence.cluster,
        case: &occurrence.case,
        record: occurrence.record.as_deref(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Writes the counts of all.
pub(crate) fn end(out: &mut impl Write, occurrences: &[Occurrence], unreadable: usize) -> io::Result<()> {
    let mut summary: Map<String, Value> = story::counts(occurrences)
        .into_iter()
        .map(|(step, count)| (step.as_str().to_owned(), count.into()))
        .collect();
    summary.insert("unreadable".to_owned(), unreadable.into());
    writeln!(out, "{}", json!({ "summary": summary }))
}
