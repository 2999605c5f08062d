//! `nodemend cost`: estimates the monthly AWS cost, from the requests that each event was measured to cause.

mod model;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::Args;
use serde_json::json;

pub use self::model::{CostEstimate, CostLine, Usage, Workload};
use crate::output::{BOLD, Format, table};

/// Measured by `tests/cost.rs` on the real handlers; the test fails when they differ.
const MEASURED: &str = include_str!("cost/measured.json");

/// The arguments of `nodemend cost`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend cost
  nodemend cost --nodes 2000 --rate 0.1
  nodemend cost --nodes 500 --heartbeat 10 --format json | jq .perNodeMonth

Requests, units and bytes per event are measured on the handlers of this
version. Prices are list prices of us-east-1, November 2026, without free
tiers. The latency of DynamoDB is an assumption: --round-trip.

Not included: the storage of the tables and notifications (cents per month),
EKS control-plane logging and CloudTrail (which you have anyway).

Exit codes: 0 success, 64 usage or configuration error")]
pub struct CostOptions {
    /// Number of nodes
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,

    /// Repairs per node and month
    #[arg(long, default_value_t = 0.05, value_parser = rate, allow_negative_numbers = true)]
    rate: f64,

    /// Incidents per node and month that recover without a repair
    #[arg(long, default_value_t = 0.5, value_parser = rate, allow_negative_numbers = true)]
    recoveries: f64,

    /// Minutes between two heartbeats of an agent
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    heartbeat: u32,

    /// Milliseconds per request to DynamoDB
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    round_trip: u32,

    /// A table to read, or one JSON object for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1_000.0).contains(&rate) { Ok(rate) } else { Err("not between 0 and 1000".to_owned()) }
}

pub fn run(options: &CostOptions) -> io::Result<()> {
    let measured: BTreeMap<String, Usage> = serde_json::from_str(MEASURED)?;
    let workload = Workload {
        nodes: f64::from(options.nodes),
        repairs: options.rate,
        recoveries: options.recoveries,
        heartbeat_minutes: f64::from(options.heartbeat),
        round_trip_ms: f64::from(options.round_trip),
    };
    let estimate = CostEstimate::of(&workload, &measured);
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Json => {
            let json = json!({
                "nodes": options.nodes,
                "perNodeMonth": estimate.month() / workload.nodes,
                "month": estimate.month(),
                "lines": estimate.lines,
                "measured": measured,
            });
            writeln!(out, "{json:#}")
        }
        Format::Text => text(&mut out, &estimate, &workload),
    }
}

fn text(out: &mut impl Write, estimate: &CostEstimate, workload: &Workload) -> io::Result<()> {
    let row = |line: &CostLine| {
        let kind = if line.fixed { "deployment" } else { "node" };
        [
            line.item.to_owned(),
            format!("{:.0}", line.amount),
            line.unit.to_owned(),
            format!("{:.4}", line.usd / workload.nodes),
            format!("{:.2}", line.usd),
            kind.to_owned(),
        ]
    };
    let rows: Vec<_> = estimate.lines.iter().map(row).collect();
    table::write(out, "", ["item", "per month", "unit", "USD/node", "USD", "cost of"], &rows)?;
    writeln!(
        out,
        "\n{BOLD}{:.4} USD per node and month{BOLD:#}: {:.2} USD for {} nodes, of which {:.2} USD do not depend on the number of nodes",
        estimate.month() / workload.nodes,
        estimate.month(),
        workload.nodes,
        estimate.lines.iter().filter(|line| line.fixed).map(|line| line.usd).sum::<f64>(),
    )
}
