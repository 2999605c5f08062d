//! The wire format of an agent's reports, version 1: each report is one log event, one line of JSON.
//!
//! A condition report has the whole state of its condition, and a heartbeat that of all conditions. So lost, repeated
//! and reordered reports do no harm: within a boot, the highest `seq` wins.
//!
//! `at − since` is a duration on the node's own clock. The agent measures it with its monotonic clock, so that a step
//! of the wall clock does not change it. `since` ignores recoveries that are too short to count (the agent's own hold),
//! and `soundSecs` is how long the condition was healthy before it. With both in every report, the next report makes up
//! for a lost one.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName, Zone},
    timestamp,
};

/// The maximum length of a report in bytes. A thousand reports take at most 4 MB.
pub const MAX_BYTES: usize = 4 * 1024;
const VERSION: u64 = 1;
const MAX_FINDINGS: usize = 64;
const MAX_CONDITIONS: usize = 16;
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1_024;

/// One log event of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// The EKS cluster.
    pub cluster: ClusterName,
    /// The Node object's name.
    pub node: NodeName,
    /// The instance. Its id is also the name of the log stream.
    pub instance_id: InstanceId,
    /// The Availability Zone, if the agent knows it.
    pub zone: Option<Zone>,
    /// The boot in which it was written.
    pub boot_id: BootId,
    /// The number of the report within its boot. It rises by one.
    pub seq: u64,
    /// When it was written, by the node's clock.
    pub at: Timestamp,
    /// The agent's version.
    pub agent: Cow<'a, str>,
    /// What is reported: a condition, an event or a heartbeat.
    pub body: Body<'a>,
}

/// The three kinds of report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// The whole state of one condition.
    Condition(ConditionState<'a>),
    /// Findings that are only reported.
    Event {
        /// The condition that they belong to.
        condition: ConditionType,
        /// What was detected, of severity Event.
        findings: Vec<Finding<'a>>,
    },
    /// The state of all conditions.
    Heartbeat(Vec<ConditionState<'a>>),
}

/// The whole state of one condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionState<'a> {
    /// The condition's type.
    pub condition: ConditionType,
    /// The condition's status.
    pub status: Status,
    /// Since when, by the node's clock. For a bad status: the start of the episode, ignoring short recoveries.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// For how many seconds it was healthy right before `since`. None if the agent does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound_secs: Option<u64>,
    /// Its findings, of both severities.
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding<'a>>,
}

/// One detected problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding<'a> {
    /// Its reason, from the catalogue or from a user's rule.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// Event or Condition.
    pub severity: Severity,
    /// When it was first seen, by the node's clock.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// When it was last seen, by the node's clock.
    #[serde(with = "timestamp")]
    pub last: Timestamp,
    /// How often it was seen since `since`.
    pub count: u64,
    /// The line or reading that shows it.
    #[serde(default, borrow)]
    pub message: Cow<'a, str>,
}

/// Why a log event is not a valid report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is longer than [`MAX_BYTES`].
    #[error("{0} bytes are more than a report's {MAX_BYTES}")]
    TooLong(usize),
    /// It is not JSON, or a field is missing or has another type.
    #[error("not a report: {0}")]
    Malformed(String),
    /// The format version is unknown: the agent is newer than this reader.
    #[error("v: version {0} is not {VERSION}")]
    Version(u64),
    /// A field does not fit the report's kind, or has a value that is not allowed.
    #[error("{field}: {why}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    v: u64,
    kind: Kind,
    cluster: ClusterName,
    node: NodeName,
    instance_id: InstanceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    boot_id: BootId,
    seq: u64,
    #[serde(with = "timestamp")]
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<ConditionType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sound_secs: Option<u64>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding<'a>>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<ConditionState<'a>>,
    #[serde(borrow)]
    agent: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Condition,
    Event,
    Heartbeat,
}

impl<'a> Report<'a> {
    /// Parses one log event.
    ///
    /// # Errors
    ///
    /// If it is too long, malformed, of another version, or has an invalid field.
    pub fn decode(text: &'a str) -> Result<Self, ReportError> {
        if text.len() > MAX_BYTES {
            return Err(ReportError::TooLong(text.len()));
        }
        let wire: Wire<'a> = serde_json::from_str(text).map_err(|error| malformed(text, &error))?;
        if wire.v != VERSION {
            return Err(ReportError::Version(wire.v));
        }
        let body = match wire.kind {
            Kind::Condition => Body::Condition(ConditionState {
                condition: wire.condition.ok_or_else(|| missing("condition"))?,
                status: wire.status.ok_or_else(|| missing("status"))?,
                since: wire.since.ok_or_else(|| missing("since"))?,
                sound_secs: wire.sound_secs,
                findings: checked(wire.findings)?,
            }),
            Kind::Event => Body::Event {
                condition: wire.condition.ok_or_else(|| missing("condition"))?,
                findings: checked(wire.findings)?,
            },
            Kind::Heartbeat => {
                if wire.conditions.len() > MAX_CONDITIONS {
                    return Err(field("conditions", format!("more than {MAX_CONDITIONS}")));
                }
                let mut states = wire.conditions;
                for state in &mut states {
                    state.findings = checked(std::mem::take(&mut state.findings))?;
                }
                Body::Heartbeat(states)
            }
        };
        Ok(Self {
            cluster: wire.cluster,
            node: wire.node,
            instance_id: wire.instance_id,
            zone: wire.zone,
            boot_id: wire.boot_id,
            seq: wire.seq,
            at: wire.at,
            agent: printable(wire.agent, 64),
            body,
        })
    }

    /// Writes one log event of at most [`MAX_BYTES`]. If it would be longer, messages are shortened first, then the
    /// oldest findings of severity Event are left out, then the oldest of severity Condition.
    pub fn encode(&self) -> String {
        for max_message in [MAX_MESSAGE, 256, 64, 0] {
            let line = self.line(max_message, MAX_FINDINGS);
            if line.len() <= MAX_BYTES {
                return line;
            }
        }
        (0..MAX_FINDINGS)
            .rev()
            .map(|findings| self.line(0, findings))
            .find(|line| line.len() <= MAX_BYTES)
            .unwrap_or_else(|| self.line(0, 0))
    }

    fn line(&self, max_message: usize, max_findings: usize) -> String {
        let mut wire = Wire {
            v: VERSION,
            kind: Kind::Heartbeat,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            instance_id: self.instance_id.clone(),
            zone: self.zone.clone(),
            boot_id: self.boot_id.clone(),
            seq: self.seq,
            at: self.at,
            condition: None,
            status: None,
            since: None,
            sound_secs: None,
            findings: Vec::new(),
            conditions: Vec::new(),
            agent: Cow::Borrowed(&self.agent),
        };
        match &self.body {
            Body::Condition(state) => {
                wire.kind = Kind::Condition;
                wire.condition = Some(state.condition.clone());
                wire.status = Some(state.status);
                wire.since = Some(state.since);
                wire.sound_secs = state.sound_secs;
                wire.findings = trimmed(&state.findings, max_message, max_findings);
            }
            Body::Event { condition, findings } => {
                wire.kind = Kind::Event;
                wire.condition = Some(condition.clone());
                wire.findings = trimmed(findings, max_message, max_findings);
            }
            Body::Heartbeat(states) => {
                wire.conditions = states
                    .iter()
                    .map(|state| ConditionState {
                        condition: state.condition.clone(),
                        status: state.status,
                        since: state.since,
                        sound_secs: state.sound_secs,
                        findings: trimmed(&state.findings, max_message, max_findings),
                    })
                    .collect();
            }
        }
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

/// The findings with shortened messages. If there are too many: the most severe, then the newest.
fn trimmed<'a>(findings: &'a [Finding<'_>], max_message: usize, max_findings: usize) -> Vec<Finding<'a>> {
    let mut order: Vec<&Finding<'_>> = findings.iter().collect();
    if order.len() > max_findings {
        order.sort_by_key(|finding| std::cmp::Reverse((finding.severity, finding.last)));
        order.truncate(max_findings);
    }
    order
        .into_iter()
        .map(|finding| Finding {
            reason: Cow::Borrowed(&finding.reason),
            severity: finding.severity,
            since: finding.since,
            last: finding.last,
            count: finding.count,
            message: Cow::Borrowed(shortened(&finding.message, max_message)),
        })
        .collect()
}

fn shortened(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn checked(mut findings: Vec<Finding<'_>>) -> Result<Vec<Finding<'_>>, ReportError> {
    if findings.len() > MAX_FINDINGS {
        return Err(field("findings", format!("more than {MAX_FINDINGS}")));
    }
    for finding in &mut findings {
        let reason = finding.reason.as_bytes();
        let alphanumeric = reason.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if reason.is_empty() || reason.len() > MAX_REASON || !alphanumeric {
            return Err(field("findings.reason", "not 1 to 128 letters and digits".to_owned()));
        }
        finding.message = printable(std::mem::take(&mut finding.message), MAX_MESSAGE);
    }
    Ok(findings)
}

/// Removes control characters: the text is shown on operators' terminals, and a compromised node could send any.
fn printable(text: Cow<'_, str>, max: usize) -> Cow<'_, str> {
    if text.len() <= max && !text.chars().any(char::is_control) {
        return text;
    }
    shortened(&text, max).chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into()
}

fn missing(name: &'static str) -> ReportError {
    field(name, "missing".to_owned())
}

fn field(field: &'static str, why: String) -> ReportError {
    ReportError::Field { field, why }
}

fn malformed(text: &str, error: &serde_json::Error) -> ReportError {
    // An unknown version can have other fields: report the version first.
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    match serde_json::from_str::<Version>(text) {
        Ok(Version { v }) if v != VERSION => ReportError::Version(v),
        _ => ReportError::Malformed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONDITION: &str = r#"{"v":1,"kind":"condition","cluster":"prod","node":"ip-10-0-10-170.ec2.internal","instanceId":"i-08736224042c4ee75","zone":"us-east-1a","bootId":"3c2f687e-27bd-4642-bee9-8503552bada0","seq":7,"at":"2026-08-20T10:00:30.000Z","condition":"NetworkingReady","status":"False","since":"2026-08-20T10:00:00.000Z","findings":[{"reason":"InterfaceNotUp","severity":"Condition","since":"2026-08-20T10:00:00.000Z","last":"2026-08-20T10:00:30.000Z","count":2,"message":"eth0 is down"}],"agent":"0.1.0"}"#;

    #[test]
    fn a_report_is_encoded_as_it_was_decoded() {
        let report = Report::decode(CONDITION).expect("a report");
        assert_eq!(report.encode(), CONDITION);
    }

    #[test]
    fn the_error_of_an_invalid_report_names_the_field() {
        for (from, to, expected) in [
            (r#""v":1"#, r#""v":2"#, "v: version 2 is not 1"),
            (r#""status":"False","#, "", "status: missing"),
            (r#""seq":7,"#, "", "not a report: missing field `seq`"),
            ("i-08736224042c4ee75", "i-x", "not a report: \"i-x\" is not an EC2 instance id"),
            ("InterfaceNotUp", "Interface Not Up", "findings.reason: not 1 to 128 letters and digits"),
            ("10:00:30.000Z\",\"condition", "soon\",\"condition", "is not an RFC 3339 time"),
        ] {
            let error = Report::decode(&CONDITION.replace(from, to)).expect_err(from).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(Report::decode(&" ".repeat(5_000)), Err(ReportError::TooLong(5_000)));
    }

    #[test]
    fn control_characters_of_a_message_are_replaced() {
        let text = CONDITION.replace("eth0 is down", "\\u001b[2Jall is well\\u0007");
        let Body::Condition(state) = Report::decode(&text).expect("a report").body else {
            panic!("a condition")
        };
        assert_eq!(state.findings[0].message, " [2Jall is well ");
    }

    #[test]
    fn a_report_stays_within_its_limit_and_keeps_the_most_severe_findings() {
        let mut report = Report::decode(CONDITION).expect("a report");
        let Body::Condition(state) = &mut report.body else { panic!("a condition") };
        let first = state.findings[0].clone();
        state.findings = (0..60)
            .map(|n| Finding {
                reason: format!("Reason{n}{}", "x".repeat(60)).into(),
                severity: if n == 0 { Severity::Condition } else { Severity::Event },
                message: "m".repeat(900).into(),
                ..first.clone()
            })
            .collect();
        let line = report.encode();
        assert!(line.len() <= MAX_BYTES, "{}", line.len());
        let Body::Condition(state) = Report::decode(&line).expect("a report").body else {
            panic!("a condition")
        };
        assert!(state.findings[0].reason.starts_with("Reason0"), "{}", state.findings[0].reason);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_panics(text in ".{0,200}", at in 0usize..600, byte in any::<u8>()) {
            let _ = Report::decode(&text);
            let mut bytes = CONDITION.as_bytes().to_vec();
            let length = bytes.len();
            bytes[at % length] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _ = Report::decode(text);
            }
        }
    }
}
