//! Multiplies the measured usage of each event by its frequency and by the list prices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const MINUTES_PER_MONTH: f64 = 730.0 * 60.0;
const GB: f64 = 1024.0 * 1024.0 * 1024.0;

/// The memory of each function in infra/template.yaml.
const MEMORY_GB: f64 = 0.25;
/// The duration of an invocation without its requests to DynamoDB: our code and the Lambda runtime.
const OVERHEAD_MS: f64 = 5.0;
/// The duration of an invocation that waits for a deadline within its minute.
const RUN_SECONDS: f64 = 65.0;
/// The minutes between two runs of the reconcile function for a cluster.
const RECONCILE_MINUTES: f64 = 5.0;
/// Metrics that are always published. The others are billed only in hours with data.
const METRICS: f64 = 3.0;
/// The alarms of infra/template.yaml; a test counts them.
const ALARMS: f64 = 27.0;
/// Lambda polls an empty queue with five long polls of 20 seconds each.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html>
const POLLS: f64 = 5.0 * 3.0 * MINUTES_PER_MONTH;

/// List prices of us-east-1 in USD, without free tiers.
mod price {
    /// <https://aws.amazon.com/lambda/pricing/>, arm64.
    pub(super) const INVOCATION: f64 = 0.20 / 1e6;
    pub(super) const GB_SECOND: f64 = 0.000_013_333_4;
    /// <https://aws.amazon.com/dynamodb/pricing/on-demand/>
    pub(super) const WRITE_UNIT: f64 = 0.625 / 1e6;
    pub(super) const READ_UNIT: f64 = 0.125 / 1e6;
    /// <https://aws.amazon.com/cloudwatch/pricing/>
    pub(super) const LOG_GB: f64 = 0.50;
    pub(super) const LOG_GB_MONTH: f64 = 0.03;
    pub(super) const METRIC: f64 = 0.30;
    pub(super) const ALARM: f64 = 0.10;
    /// <https://aws.amazon.com/sqs/pricing/>
    pub(super) const SQS_REQUEST: f64 = 0.40 / 1e6;
}

/// What one event causes in AWS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Usage {
    /// Invocations of functions by an event.
    pub invocations: f64,
    /// Runs of the repair function that found a due case.
    pub repair_runs: f64,
    pub requests: f64,
    pub read_units: f64,
    pub write_units: f64,
    /// Bytes of node reports in CloudWatch Logs.
    pub report_bytes: f64,
    /// Bytes of the functions' logs.
    pub log_bytes: f64,
}

/// What the estimate is for.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub nodes: f64,
    /// Repairs per node and month.
    pub repairs: f64,
    /// Incidents per node and month that recover without a repair.
    pub recoveries: f64,
    /// Minutes between two heartbeats of an agent.
    pub heartbeat_minutes: f64,
    /// The latency of a request to DynamoDB.
    pub round_trip_ms: f64,
}

/// The monthly cost of one item.
#[derive(Debug, Clone, Serialize)]
pub struct CostLine {
    /// The service, and what is billed.
    pub item: &'static str,
    /// The amount per month.
    pub amount: f64,
    /// The unit of the amount.
    pub unit: &'static str,
    /// The cost in USD.
    pub usd: f64,
    /// Whether the cost does not depend on the number of nodes.
    pub fixed: bool,
}

/// The monthly cost of a deployment.
#[derive(Debug, Clone)]
pub struct CostEstimate {
    /// One line for each item.
    pub lines: Vec<CostLine>,
}

impl CostEstimate {
    /// The cost of a workload. An event that was not measured costs nothing.
    pub fn of(workload: &Workload, measured: &BTreeMap<String, Usage>) -> Self {
        let usage = |event: &str| measured.get(event).copied().unwrap_or_default();
        let heartbeats = MINUTES_PER_MONTH / workload.heartbeat_minutes;
        let node = usage("heartbeat")
            .times(heartbeats)
            .and(usage("recovery").times(workload.recoveries))
            .and(usage("repair").times(workload.repairs));
        let nodes = node.times(workload.nodes);
        let deployment = usage("idleRun")
            .times(MINUTES_PER_MONTH)
            .and(usage("reconcileRun").times(MINUTES_PER_MONTH / RECONCILE_MINUTES));
        let mut lines = Vec::new();
        for (all, fixed) in [(nodes, false), (deployment, true)] {
            let mut add = |item, amount: f64, unit, price: f64| {
                lines.push(CostLine { item, amount, unit, usd: amount * price, fixed });
            };
            add("Lambda, invocations", all.invocations, "", price::INVOCATION);
            add("Lambda, duration", all.gb_seconds(workload.round_trip_ms), "GB-s", price::GB_SECOND);
            add("DynamoDB, writes", all.write_units, "units", price::WRITE_UNIT);
            add("DynamoDB, reads", all.read_units, "units", price::READ_UNIT);
            if !fixed {
                add(
                    "CloudWatch Logs, node reports",
                    all.report_bytes / GB,
                    "GB",
                    price::LOG_GB + price::LOG_GB_MONTH,
                );
            }
            add("CloudWatch Logs, functions", all.log_bytes / GB, "GB", price::LOG_GB + price::LOG_GB_MONTH);
        }
        for (item, amount, price) in [
            ("CloudWatch, metrics", METRICS, price::METRIC),
            ("CloudWatch, alarms", ALARMS, price::ALARM),
            ("SQS, polling the retry queue", POLLS, price::SQS_REQUEST),
        ] {
            lines.push(CostLine { item, amount, unit: "", usd: amount * price, fixed: true });
        }
        Self { lines }
    }

    /// The total in USD per month.
    pub fn month(&self) -> f64 {
        self.lines.iter().map(|line| line.usd).sum()
    }
}

impl Usage {
    fn times(self, n: f64) -> Self {
        Self {
            invocations: self.invocations * n,
            repair_runs: self.repair_runs * n,
            requests: self.requests * n,
            read_units: self.read_units * n,
            write_units: self.write_units * n,
            report_bytes: self.report_bytes * n,
            log_bytes: self.log_bytes * n,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            invocations: self.invocations + other.invocations,
            repair_runs: self.repair_runs + other.repair_runs,
            requests: self.requests + other.requests,
            read_units: self.read_units + other.read_units,
            write_units: self.write_units + other.write_units,
            report_bytes: self.report_bytes + other.report_bytes,
            log_bytes: self.log_bytes + other.log_bytes,
        }
    }

    /// An upper bound: no two requests overlap, and each deadline has a run of its own.
    fn gb_seconds(self, round_trip_ms: f64) -> f64 {
        let busy = (self.invocations * OVERHEAD_MS + self.requests * round_trip_ms) / 1_000.0;
        (busy + self.repair_runs * RUN_SECONDS) * MEMORY_GB
    }
}
