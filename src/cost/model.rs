//! Turns counts and prices into a bill.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const MINUTES_A_MONTH: f64 = 730.0 * 60.0;
const GB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What the functions have, as the template gives it to them.
const MEMORY_GB: f64 = 0.25;
/// What an invocation takes besides waiting for DynamoDB: our own code, and the runtime's.
const OVERHEAD_MS: f64 = 5.0;
/// An invocation waits for deadlines for so long where there is one in its minute.
const TURN_SECONDS: f64 = 65.0;
/// Numbers that are sent all the time. Others are billed in the hours alone in which there is something to count.
const METRICS: f64 = 3.0;
/// Those of the template.
const ALARMS: f64 = 20.0;
/// Lambda asks an empty queue from five places at once, for twenty seconds each.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html>
const POLLS: f64 = 5.0 * 3.0 * MINUTES_A_MONTH;

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

/// What one event asks of AWS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measured {
    /// Invocations of functions that answer something that happened.
    pub invocations: f64,
    /// Sweeps that found something due.
    pub sweeps: f64,
    /// Requests to DynamoDB.
    pub requests: f64,
    /// Units that they read.
    pub read_units: f64,
    /// Units that they wrote.
    pub write_units: f64,
    /// Bytes that agents write to their log.
    pub report_bytes: f64,
    /// Bytes that the functions write to theirs.
    pub log_bytes: f64,
}

/// What is reckoned for.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// How many nodes.
    pub nodes: f64,
    /// Repairs of a node in a month.
    pub repairs: f64,
    /// Troubles of a node in a month that end by themselves.
    pub troubles: f64,
    /// Between two heartbeats.
    pub heartbeat_minutes: f64,
    /// Of a request to DynamoDB.
    pub round_trip_ms: f64,
}

/// What one thing costs in a month.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What.
    pub what: &'static str,
    /// How much of it.
    pub amount: f64,
    /// In what.
    pub unit: &'static str,
    /// What it costs.
    pub usd: f64,
    /// Whether it costs the same for any number of nodes.
    pub fixed: bool,
}

/// What everything costs in a month.
#[derive(Debug, Clone)]
pub struct Bill {
    /// Each thing.
    pub lines: Vec<Line>,
}

impl Bill {
    /// The bill of a fleet. An event that was not counted costs nothing.
    pub fn of(fleet: &Fleet, measured: &BTreeMap<String, Measured>) -> Self {
        let of = |event: &str| measured.get(event).copied().unwrap_or_default();
        let heartbeats = MINUTES_A_MONTH / fleet.heartbeat_minutes;
        let node = of("heartbeat")
            .times(heartbeats)
            .and(of("trouble").times(fleet.troubles))
            .and(of("repair").times(fleet.repairs));
        let nodes = node.times(fleet.nodes);
        let installation = of("sweep").times(MINUTES_A_MONTH);
        let mut lines = Vec::new();
        for (all, fixed) in [(nodes, false), (installation, true)] {
            let mut add = |what, amount: f64, unit, price: f64| {
                lines.push(Line { what, amount, unit, usd: amount * price, fixed });
            };
            add("Lambda, invocations", all.invocations, "", price::INVOCATION);
            add("Lambda, memory and time", all.gb_seconds(fleet.round_trip_ms), "GB-s", price::GB_SECOND);
            add("DynamoDB, writes", all.write_units, "units", price::WRITE_UNIT);
            add("DynamoDB, reads", all.read_units, "units", price::READ_UNIT);
            if !fixed {
                add(
                    "CloudWatch Logs, reports",
                    all.report_bytes / GB,
                    "GB",
                    price::LOG_GB + price::LOG_GB_MONTH,
                );
            }
            add("CloudWatch Logs, functions", all.log_bytes / GB, "GB", price::LOG_GB + price::LOG_GB_MONTH);
        }
        for (what, amount, price) in [
            ("CloudWatch, metrics", METRICS, price::METRIC),
            ("CloudWatch, alarms", ALARMS, price::ALARM),
            ("SQS, asking for retries", POLLS, price::SQS_REQUEST),
        ] {
            lines.push(Line { what, amount, unit: "", usd: amount * price, fixed: true });
        }
        Self { lines }
    }

    /// All of it.
    pub fn month(&self) -> f64 {
        self.lines.iter().map(|line| line.usd).sum()
    }
}

impl Measured {
    fn times(self, n: f64) -> Self {
        Self {
            invocations: self.invocations * n,
            sweeps: self.sweeps * n,
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
            sweeps: self.sweeps + other.sweeps,
            requests: self.requests + other.requests,
            read_units: self.read_units + other.read_units,
            write_units: self.write_units + other.write_units,
            report_bytes: self.report_bytes + other.report_bytes,
            log_bytes: self.log_bytes + other.log_bytes,
        }
    }

    /// As if no two requests were under way at once, and each deadline had a turn of its own.
    fn gb_seconds(self, round_trip_ms: f64) -> f64 {
        let busy = (self.invocations * OVERHEAD_MS + self.requests * round_trip_ms) / 1_000.0;
        (busy + self.sweeps * TURN_SECONDS) * MEMORY_GB
    }
}
