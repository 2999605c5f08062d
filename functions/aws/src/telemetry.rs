//! Writes JSON lines to stdout, of two kinds.
//!
//! - Records are data: repair events, numbers and results. Those with numbers are CloudWatch metrics too (embedded
//!   metric format). [`emit`], [`measured`] and [`record`] write them.
//! - Diagnostics are `tracing` events with a level: failures, rejected lines, events that could not be published.
//!   [`init`] directs them to the same stdout, and IDs are fields of theirs.
//! - A metric and the log line that explains it are one line, so that they cannot differ.
//! - No ID is a dimension: each value of a dimension is a metric of its own, which has a price.
//! - A line is one write, so that lines of several writers never mix.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

mod json_lines;

use std::io::{self, Write};

use jiff::Timestamp;
use nodemend_domain::{
    ident::{ClusterName, InstanceId},
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::{cause::chain, excerpt::excerpt, notify::PublishFailure, subscription::Rejected};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The namespace of all our metrics.
pub const NAMESPACE: &str = "nodemend";
const CLUSTER: &str = "cluster";

/// All metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// The number of times that a step happened.
    Step(Step),
    /// Agents' reports that intake applied.
    Reports,
    /// Events of the control-plane audit log that intake applied.
    Observations,
    /// Log lines that intake could not read.
    Rejected,
    /// Log lines of a cluster that this deployment does not serve.
    UnknownCluster,
    /// Events of the control-plane audit log for a node without a known instance.
    InstanceUnknown,
    /// The time from the newest line's timestamp to its arrival.
    IntakeLag,
    /// Payloads that could not be decoded, counted at each delivery.
    UndecodablePayloads,
    /// Cases that a run evaluated.
    CasesEvaluated,
    /// Cases that a run could not evaluate.
    EvaluationFailures,
    /// The age of the oldest repair that is due and has no call yet.
    PendingRepairAge,
    /// Due cases of a cluster whose policy was removed.
    CasesWithoutPolicy,
    /// Events that could not be published.
    PublishFailure,
    /// Nodes that were drained before their termination.
    Drained,
    /// Terminations without a drain: the node was dead, or never joined.
    DrainsSkipped,
    /// Nodes that were terminated with pods still on them.
    DrainsIncomplete,
    /// Terminations that continued before the drain ended.
    DrainsSuperseded,
    /// Cases that had missed a line, as reconciling found.
    CasesHealed,
    /// The age of the newest line of a cluster's control-plane audit log, once it is no longer current.
    ControlPlaneLogAge,
}

impl Metric {
    /// Its name in CloudWatch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step(step) => match step {
                Step::Event => "Event",
                Step::Suspect => "Suspect",
                Step::Recovered => "Recovered",
                Step::Due => "Due",
                Step::Blocked => "Blocked",
                Step::Claimed => "Claimed",
                Step::Called => "Called",
                Step::Confirmed => "Confirmed",
                Step::Mismatch => "Mismatch",
                Step::Missing => "Missing",
                Step::Foreign => "Foreign",
                Step::Replaced => "Replaced",
                Step::Closed => "Closed",
            },
            Self::Reports => "Reports",
            Self::Observations => "Observations",
            Self::Rejected => "RejectedLines",
            Self::UnknownCluster => "UnknownCluster",
            Self::InstanceUnknown => "InstanceUnknown",
            Self::IntakeLag => "IntakeLag",
            Self::UndecodablePayloads => "UndecodablePayloads",
            Self::CasesEvaluated => "CasesEvaluated",
            Self::EvaluationFailures => "EvaluationFailures",
            Self::PendingRepairAge => "PendingRepairAge",
            Self::CasesWithoutPolicy => "CasesWithoutPolicy",
            Self::PublishFailure => "PublishFailures",
            Self::Drained => "NodesDrained",
            Self::DrainsSkipped => "DrainsSkipped",
            Self::DrainsIncomplete => "DrainsIncomplete",
            Self::DrainsSuperseded => "DrainsSuperseded",
            Self::CasesHealed => "CasesHealed",
            Self::ControlPlaneLogAge => "ControlPlaneLogAge",
        }
    }

    /// Whether zero is not sent: a metric has a price in each hour in which it is sent.
    fn is_rare(self) -> bool {
        match self {
            Self::Step(_)
            | Self::Observations
            | Self::Rejected
            | Self::UnknownCluster
            | Self::InstanceUnknown
            | Self::EvaluationFailures
            | Self::PendingRepairAge
            | Self::CasesWithoutPolicy
            | Self::PublishFailure
            | Self::Drained
            | Self::DrainsSkipped
            | Self::DrainsIncomplete
            | Self::DrainsSuperseded
            | Self::CasesHealed
            | Self::ControlPlaneLogAge
            | Self::UndecodablePayloads => true,
            Self::Reports | Self::IntakeLag | Self::CasesEvaluated => false,
        }
    }

    /// Its unit in CloudWatch.
    pub fn unit(self) -> &'static str {
        match self {
            Self::IntakeLag => "Milliseconds",
            Self::PendingRepairAge | Self::ControlPlaneLogAge => "Seconds",
            _ => "Count",
        }
    }
}

/// Writes a repair event, as a log line and a count.
pub fn emit(repair_event: &RepairEvent) {
    record(&event_line(repair_event));
}

/// Writes the numbers of one invocation, by cluster if `cluster` is set.
pub fn measured(at: Timestamp, cluster: Option<&ClusterName>, values: &[(Metric, u64)]) {
    record(&measured_line(at, cluster, values));
}

/// A failure, with the cluster, instance and case that it concerns, as far as they are known.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    failure: &'a (dyn std::error::Error + 'static),
    /// The cluster.
    pub cluster: Option<&'a ClusterName>,
    /// The instance.
    pub instance_id: Option<&'a InstanceId>,
    /// The case's ID, by which logs are searched.
    pub case: Option<&'a str>,
    /// The beginning of a payload that cannot be decoded.
    pub excerpt: Option<&'a str>,
}

impl<'a> Failed<'a> {
    /// A failure without context.
    pub fn of(failure: &'a (dyn std::error::Error + 'static)) -> Self {
        Self { failure, cluster: None, instance_id: None, case: None, excerpt: None }
    }
}

/// The error of an invocation. The Lambda runtime prints an error's `Display`, so it is the whole chain.
pub fn invocation_error(error: impl std::error::Error + 'static) -> Box<dyn std::error::Error + Send + Sync> {
    chain(&error).into()
}

/// Writes that a payload could not be applied. Lambda retries it, and it ends in the dead-letter queue, which has an
/// alarm. So does an undecodable payload, because it may be about a node, and the defect may be ours: it is counted,
/// and its beginning is logged.
pub fn payload_failed(failure: Failed<'_>, undecodable: Option<&str>, at: Timestamp) {
    if undecodable.is_some() {
        measured(at, None, &[(Metric::UndecodablePayloads, 1)]);
    }
    let excerpt = undecodable.map(excerpt);
    failed(&Failed { excerpt: excerpt.as_deref(), ..failure });
}

/// Writes a failure.
pub fn failed(failed: &Failed<'_>) {
    tracing::error!(
        failure = chain(failed.failure),
        cluster = failed.cluster.map(ClusterName::as_str),
        instanceId = failed.instance_id.map(InstanceId::as_str),
        case = failed.case,
        excerpt = failed.excerpt,
    );
}

/// Writes a log line that could not be read.
pub fn rejected(line: &Rejected) {
    let index = line.index as u64;
    tracing::warn!(rejected.index = index, rejected.why = line.why, rejected.excerpt = line.excerpt);
}

/// Writes an event that could not be published.
pub fn publish_failed(failure: &PublishFailure) {
    let PublishFailure { notification, why } = failure;
    tracing::warn!(publishFailure.detailType = notification.detail_type, publishFailure.why = why);
}

/// Directs diagnostics to stdout. Called once, when a function's process starts.
pub fn init() {
    // Fails only if there is a subscriber already.
    let _ = tracing::subscriber::set_global_default(json_lines::subscriber(record));
}

/// Writes a record. One that cannot be written stops nothing.
pub fn record(line: &impl Serialize) {
    #[cfg(feature = "failpoints")]
    let begun = crate::failpoints::begin("a line of telemetry");
    let _ = write_line(&mut io::stdout().lock(), line);
    #[cfg(feature = "failpoints")]
    begun.end();
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    out.write_all(&bytes)
}

/// The line that [`emit`] writes.
pub fn event_line(repair_event: &RepairEvent) -> Value {
    let mut line = match serde_json::to_value(repair_event) {
        Ok(Value::Object(line)) => line,
        // A repair event always serializes to an object.
        _ => Map::new(),
    };
    if repair_event.is_counted() {
        let step = Metric::Step(repair_event.step);
        line.insert(step.name().to_owned(), 1.into());
        line.insert("_aws".to_owned(), directive(repair_event.at, true, &[step]));
    }
    Value::Object(line)
}

fn measured_line(at: Timestamp, cluster: Option<&ClusterName>, values: &[(Metric, u64)]) -> Value {
    let values: Vec<_> = values.iter().filter(|(metric, value)| *value > 0 || !metric.is_rare()).collect();
    let mut line: Map<String, Value> =
        values.iter().map(|(metric, value)| (metric.name().to_owned(), (*value).into())).collect();
    if let Some(cluster) = cluster {
        line.insert(CLUSTER.to_owned(), cluster.as_str().into());
    }
    let metrics: Vec<Metric> = values.iter().map(|(metric, _)| *metric).collect();
    line.insert("_aws".to_owned(), directive(at, cluster.is_some(), &metrics));
    Value::Object(line)
}

fn directive(at: Timestamp, by_cluster: bool, metrics: &[Metric]) -> Value {
    let dimensions: &[&[&str]] = if by_cluster { &[&[CLUSTER]] } else { &[&[]] };
    let metrics: Vec<Value> =
        metrics.iter().map(|metric| json!({ "Name": metric.name(), "Unit": metric.unit() })).collect();
    json!({
        "Timestamp": at.as_millisecond(),
        "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics }],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn repair_event() -> RepairEvent {
        RepairEvent {
            at: Timestamp::from_millisecond(1_787_220_000_123).expect("a time"),
            cluster: ClusterName::new("prod").expect("a name"),
            node: None,
            instance_id: InstanceId::new("i-0ab76e62066c9730c").expect("an id"),
            case: "i-0ab76e62066c9730c#1".to_owned(),
            step: Step::Called,
            condition: None,
            reason: None,
            detail: "one\ntwo".to_owned(),
            guards: Vec::new(),
            record: None,
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_it_says() {
        let mut out = Vec::new();
        write_line(&mut out, &event_line(&repair_event())).expect("written");
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(out.ends_with(b"}\n"));
    }

    /// The format's own rules: each name of a dimension or metric is a member of the line, at most 100 metrics.
    fn assert_embedded_metrics(line: &Value) {
        let directive = &line["_aws"];
        assert!(directive["Timestamp"].as_i64().is_some_and(|millis| millis > 1_000_000_000_000));
        for metrics in directive["CloudWatchMetrics"].as_array().expect("a list") {
            assert_eq!(metrics["Namespace"], NAMESPACE);
            for names in metrics["Dimensions"].as_array().expect("a list") {
                for name in names.as_array().expect("a list") {
                    assert!(line[name.as_str().expect("a name")].is_string(), "{line}");
                }
            }
            for metric in metrics["Metrics"].as_array().expect("a list") {
                assert!(line[metric["Name"].as_str().expect("a name")].is_u64(), "{line}");
                assert!(matches!(metric["Unit"].as_str(), Some("Count" | "Milliseconds" | "Seconds")));
            }
        }
    }

    #[test]
    fn a_step_is_a_log_line_and_a_count_by_cluster() {
        let line = event_line(&repair_event());
        assert_embedded_metrics(&line);
        assert_eq!((&line["Called"], &line["case"]), (&json!(1), &json!("i-0ab76e62066c9730c#1")));
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["cluster"]]));
    }

    #[test]
    fn a_block_is_counted_unless_nobody_wants_the_repair() {
        for (guards, counted) in [
            (["Held"].as_slice(), true),
            (["UnhealthyThreshold", "Unverified"].as_slice(), true),
            (["Disabled"].as_slice(), false),
            (["UnhealthyThreshold", "ObserveMode"].as_slice(), false),
        ] {
            let guards = guards.iter().copied().map(ToOwned::to_owned).collect();
            let line = event_line(&RepairEvent { step: Step::Blocked, guards, ..repair_event() });
            assert_eq!(line["step"], "blocked");
            // The metric filters of infra/template.yaml look for the same field.
            assert_eq!(
                (line.get("Blocked").is_some(), line.get("_aws").is_some()),
                (counted, counted),
                "{line}"
            );
        }
    }

    #[test]
    fn an_invocations_numbers_are_one_line() {
        let at = repair_event().at;
        let cluster = ClusterName::new("prod").expect("a name");
        let line = measured_line(at, Some(&cluster), &[(Metric::Reports, 3), (Metric::IntakeLag, 250)]);
        assert_embedded_metrics(&line);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Metrics"][1]["Unit"], "Milliseconds");
        let line = measured_line(at, None, &[(Metric::CasesEvaluated, 0), (Metric::EvaluationFailures, 0)]);
        assert_embedded_metrics(&line);
        assert!(line["CasesEvaluated"] == 0 && line.get("EvaluationFailures").is_none(), "{line}");
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([[]]));
    }

    #[test]
    fn diagnostics_have_a_level_the_error_chain_and_nested_fields() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to decode")]
        struct Outer(#[source] serde_json::Error);
        let cause = serde_json::from_str::<u8>("x").expect_err("no number");
        let error = Outer(cause);
        let id = InstanceId::new("i-0ab76e62066c9730c").expect("an id");
        let failure =
            Failed { instance_id: Some(&id), case: Some("i-0ab76e62066c9730c#1"), ..Failed::of(&error) };
        let line = Rejected { index: 2, why: "not JSON".to_owned(), excerpt: "{".to_owned() };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        let subscriber =
            json_lines::subscriber(move |line| written.lock().expect("a lock").push(line.clone()));
        tracing::subscriber::with_default(subscriber, || {
            failed(&failure);
            rejected(&line);
            tracing::debug!("not written");
            tracing::error!(target: "aws_smithy_runtime", "not our own");
        });
        assert_eq!(
            *lines.lock().expect("a lock"),
            [
                json!({
                    "level": "error",
                    "failure": "failed to decode: expected value at line 1 column 1",
                    "instanceId": "i-0ab76e62066c9730c",
                    "case": "i-0ab76e62066c9730c#1",
                }),
                json!({ "level": "warn", "rejected": { "index": 2, "why": "not JSON", "excerpt": "{" } }),
            ]
        );
    }

    #[test]
    fn no_two_metrics_share_a_name() {
        let mut names: Vec<&str> = Step::ALL.into_iter().map(|step| Metric::Step(step).name()).collect();
        names.extend(
            [
                Metric::Reports,
                Metric::Observations,
                Metric::Rejected,
                Metric::UnknownCluster,
                Metric::InstanceUnknown,
                Metric::IntakeLag,
                Metric::UndecodablePayloads,
                Metric::CasesEvaluated,
                Metric::EvaluationFailures,
                Metric::PendingRepairAge,
                Metric::CasesWithoutPolicy,
                Metric::PublishFailure,
                Metric::Drained,
                Metric::DrainsSkipped,
                Metric::DrainsIncomplete,
                Metric::DrainsSuperseded,
                Metric::CasesHealed,
                Metric::ControlPlaneLogAge,
            ]
            .map(Metric::name),
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
