//! Reports as no agent writes them.

use nodemend_domain::report::MAX_BYTES;
use serde_json::{Map, Value, json};

/// Reasons of a flood, and series of each: as many as a case keeps.
const REASONS: usize = 64;
const SERIES: usize = 16;
/// So many findings of that length fit into one report.
const FINDINGS: usize = 12;

/// A line with other values in these fields. A field that becomes null is left out.
pub(crate) fn forged(line: &str, fields: Value) -> String {
    let mut report: Map<String, Value> = serde_json::from_str(line).expect("a report is JSON");
    let Value::Object(fields) = fields else { panic!("{fields}") };
    report.extend(fields);
    report.retain(|_, value| !value.is_null());
    let line = Value::Object(report).to_string();
    assert!(line.len() <= MAX_BYTES, "{} bytes", line.len());
    line
}

/// When a line was written.
fn written(line: &str) -> Value {
    serde_json::from_str::<Value>(line).expect("a report is JSON")["at"].clone()
}

/// Reports of bad conditions that no agent has: more than a case keeps, and as long as they can be.
pub(crate) fn made_up_conditions(line: &str) -> Vec<String> {
    let at = written(line);
    let finding = json!({ "reason": "MadeUp", "severity": "Condition", "since": at, "last": at, "count": 1,
        // Each takes two bytes in JSON.
        "message": "\"".repeat(1_000) });
    let one = |number: usize| {
        let condition = format!("{number:02}{}Ready", "MadeUp".repeat(9));
        forged(line, json!({ "condition": condition, "status": "False", "findings": [finding] }))
    };
    (0..40).map(one).collect()
}

/// Reports of events that no agent has. The same reports of a later minute count further.
pub(crate) fn made_up_events(line: &str, minute: u64) -> Vec<String> {
    let at = written(line);
    let mut findings = Vec::new();
    for reason in 0..REASONS {
        let reason = format!("{reason:02}{}", "MadeUp".repeat(21));
        findings.extend((0..SERIES).map(|series| {
            json!({ "reason": reason, "severity": "Event", "since": format!("2026-01-01T00:00:{series:02}Z"),
                "last": at, "count": minute + 1, "message": "" })
        }));
    }
    let event =
        |findings: &[Value]| json!({ "kind": "event", "status": null, "since": null, "findings": findings });
    findings.chunks(FINDINGS).map(|findings| forged(line, event(findings))).collect()
}
