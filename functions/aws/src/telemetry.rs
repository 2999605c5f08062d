//! Turns what happened into JSON log lines on stdout that are CloudWatch metrics too (embedded metric format).
//!
//! One line says both, so that a number of a graph and the line that explains it can't differ. No id is a
//! dimension: each value of a dimension is a metric of its own, for which somebody pays.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::io::{self, Write};

use jiff::Timestamp;
use nodemend_domain::{
    ident::{ClusterName, InstanceId},
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::excerpt::excerpt;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Where all metrics of ours are found.
pub const NAMESPACE: &str = "nodemend";
const CLUSTER: &str = "cluster";

/// Every metric, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A step of a node's story: how often it was taken.
    Step(Step),
    /// Reports of agents that were taken in.
    Reports,
    /// Facts of the control plane that were taken in.
    Observations,
    /// Log lines that could not be read.
    Rejected,
    /// Lines of a cluster that is not ours to serve.
    UnknownCluster,
    /// Facts of a node whose instance nobody knows.
    InstanceUnknown,
    /// From the youngest line's own time to its arrival.
    IntakeLag,
    /// Payloads that could not be read at all, each time that one came.
    UndecodablePayloads,
    /// Cases that a sweep looked at.
    CasesEvaluated,
    /// Cases that a sweep could not look at.
    EvaluationFailures,
    /// For how long the oldest of the repairs that are due, and not called for, has been waiting.
    PendingRepairAge,
    /// Events that nobody could be told of.
    PublishFailure,
    /// Nodes that were emptied before their termination.
    Drained,
    /// Terminations whose node was dead, or never there.
    DrainsSkipped,
    /// Nodes that were terminated with pods on them.
    DrainsIncomplete,
    /// Terminations that went on without us.
    DrainsSuperseded,
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
            Self::PublishFailure => "PublishFailures",
            Self::Drained => "NodesDrained",
            Self::DrainsSkipped => "DrainsSkipped",
            Self::DrainsIncomplete => "DrainsIncomplete",
            Self::DrainsSuperseded => "DrainsSuperseded",
        }
    }

    /// Whether its zero says nothing: it is sent when there is something to count, as a metric is paid for in each hour
    /// in which it is sent.
    fn is_rare(self) -> bool {
        match self {
            Self::Step(_)
            | Self::Observations
            | Self::Rejected
            | Self::UnknownCluster
            | Self::InstanceUnknown
            | Self::EvaluationFailures
            | Self::PendingRepairAge
            | Self::PublishFailure
            | Self::Drained
            | Self::DrainsSkipped
            | Self::DrainsIncomplete
            | Self::DrainsSuperseded
            | Self::UndecodablePayloads => true,
            Self::Reports | Self::IntakeLag | Self::CasesEvaluated => false,
        }
    }

    /// Its unit, as CloudWatch spells it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::IntakeLag => "Milliseconds",
            Self::PendingRepairAge => "Seconds",
            _ => "Count",
        }
    }
}

/// What happened to one node: a line for people, and a count.
pub fn emit(repair_event: &RepairEvent) {
    log(&event_line(repair_event));
}

/// Numbers of one invocation, of one cluster where it is of one.
pub fn measured(at: Timestamp, cluster: Option<&ClusterName>, values: &[(Metric, u64)]) {
    log(&measured_line(at, cluster, values));
}

/// Something that could not be done, with what it is about as far as that is known.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed<'a> {
    #[serde(serialize_with = "sentence")]
    failure: &'a dyn std::error::Error,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a ClusterName>,
    /// The instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<&'a InstanceId>,
    /// The case's id: what logs are searched by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<&'a str>,
    /// The beginning of what can't be read, and never will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<&'a str>,
}

impl<'a> Failed<'a> {
    /// About nothing yet.
    pub fn of(failure: &'a dyn std::error::Error) -> Self {
        Self { failure, cluster: None, instance_id: None, case: None, excerpt: None }
    }
}

/// An error and all that caused it, as one sentence.
fn sentence<S: serde::Serializer>(error: &&dyn std::error::Error, serializer: S) -> Result<S::Ok, S::Error> {
    let causes = std::iter::successors(Some(*error), |error| (**error).source());
    let mut sentence: Vec<String> = causes.map(ToString::to_string).collect();
    // A transparent error says what its cause says.
    sentence.dedup();
    serializer.serialize_str(&sentence.join(": "))
}

/// A payload could not be taken in. It is tried again, and ends among the dead letters, where an alarm sees it; one that
/// nobody can read gets there, too: it may tell of a node, and the fault may be ours. Such a one is counted, and its
/// beginning told.
pub fn not_taken_in(why: Failed<'_>, unreadable: Option<&str>, at: Timestamp) {
    if unreadable.is_some() {
        measured(at, None, &[(Metric::UndecodablePayloads, 1)]);
    }
    let excerpt = unreadable.map(excerpt);
    failed(&Failed { excerpt: excerpt.as_deref(), ..why });
}

/// Something could not be done: a line for whoever looks for why.
pub fn failed(failed: &Failed<'_>) {
    log(failed);
}

/// Writes a line. A log that can't be written stops nothing that matters more.
pub fn log(line: &impl Serialize) {
    #[cfg(feature = "failpoints")]
    let begun = crate::failpoints::begin("a line of telemetry");
    let _ = write_line(&mut io::stdout().lock(), line);
    #[cfg(feature = "failpoints")]
    begun.end();
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    // One write for the whole line, so that lines of two writers never mix.
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    out.write_all(&bytes)
}

/// What [`emit`] writes.
pub fn event_line(repair_event: &RepairEvent) -> Value {
    let mut line = match serde_json::to_value(repair_event) {
        Ok(Value::Object(line)) => line,
        // An occurrence is strings and times.
        _ => Map::new(),
    };
    let step = Metric::Step(repair_event.step);
    line.insert(step.name().to_owned(), 1.into());
    line.insert("_aws".to_owned(), directive(repair_event.at, true, &[step]));
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
    fn a_failure_is_told_with_its_causes_and_the_case_that_it_is_of() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to decode")]
        struct Outer(#[source] serde_json::Error);
        let cause = serde_json::from_str::<u8>("x").expect_err("no number");
        let error = Outer(cause);
        let id = InstanceId::new("i-0ab76e62066c9730c").expect("an id");
        let failed =
            Failed { instance_id: Some(&id), case: Some("i-0ab76e62066c9730c#1"), ..Failed::of(&error) };
        let line = serde_json::to_value(failed).expect("JSON");
        assert_eq!(
            line,
            json!({
                "failure": "failed to decode: expected value at line 1 column 1",
                "instanceId": "i-0ab76e62066c9730c",
                "case": "i-0ab76e62066c9730c#1",
            })
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
                Metric::PublishFailure,
                Metric::Drained,
                Metric::DrainsSkipped,
                Metric::DrainsIncomplete,
                Metric::DrainsSuperseded,
            ]
            .map(Metric::name),
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
