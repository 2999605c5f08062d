//! `nodemend cost`: what an installation costs in AWS, from what each event was counted to ask for.

mod model;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anstyle::{Effects, Style};
use clap::Args;
use serde_json::json;

pub use self::model::{Bill, Fleet, Line, Measured};
use crate::table::{self, Format};

const BOLD: Style = Style::new().effects(Effects::BOLD);

/// Counted by `tests/cost.rs` on the real handlers, and held to them.
const MEASURED: &str = include_str!("cost/measured.json");

/// What `nodemend cost` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend cost
  nodemend cost --nodes 2000 --rate 0.1
  nodemend cost --nodes 500 --heartbeat 10 --format json | jq .perNodeMonth

Requests, units and bytes of each event are counted on this version's own handlers (src/cost/measured.json, held by
tests/cost.rs). Prices are the list prices of us-east-1, November 2026, without free tiers. How long AWS takes to answer
is assumed: --round-trip. Left out, as it is cents a month or not ours: the tables' storage, EKS's control plane log,
CloudTrail, notifications.

Exit codes: 0 well, 64 wrong usage")]
pub struct Options {
    /// How many nodes there are
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,

    /// How many repairs a node needs in a month
    #[arg(long, default_value_t = 0.05, value_parser = rate, allow_negative_numbers = true)]
    rate: f64,

    /// How many troubles a node has in a month that end by themselves
    #[arg(long, default_value_t = 0.5, value_parser = rate, allow_negative_numbers = true)]
    troubles: f64,

    /// Minutes between an agent's heartbeats
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    heartbeat: u32,

    /// Milliseconds that a request to DynamoDB takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    round_trip: u32,

    /// Tables for people, or one JSON object for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1_000.0).contains(&rate) { Ok(rate) } else { Err("not between 0 and 1000".to_owned()) }
}

/// Reckons, and tells.
pub fn run(options: &Options) -> io::Result<()> {
    let measured: BTreeMap<String, Measured> = serde_json::from_str(MEASURED)?;
    let fleet = Fleet {
        nodes: f64::from(options.nodes),
        repairs: options.rate,
        troubles: options.troubles,
        heartbeat_minutes: f64::from(options.heartbeat),
        round_trip_ms: f64::from(options.round_trip),
    };
    let bill = Bill::of(&fleet, &measured);
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Json => {
            let told = json!({
                "nodes": options.nodes,
                "perNodeMonth": bill.month() / fleet.nodes,
                "month": bill.month(),
                "lines": bill.lines,
                "measured": measured,
            });
            writeln!(out, "{told:#}")
        }
        Format::Text => text(&mut out, &bill, &fleet),
    }
}

fn text(out: &mut impl Write, bill: &Bill, fleet: &Fleet) -> io::Result<()> {
    let row = |line: &Line| {
        let kind = if line.fixed { "installation" } else { "node" };
        [
            line.what.to_owned(),
            format!("{:.0}", line.amount),
            line.unit.to_owned(),
            format!("{:.4}", line.usd / fleet.nodes),
            format!("{:.2}", line.usd),
            kind.to_owned(),
        ]
    };
    let rows: Vec<_> = bill.lines.iter().map(row).collect();
    table::write(out, "", ["WHAT", "A MONTH", "UNIT", "USD/NODE", "USD", "PER"], &rows)?;
    writeln!(
        out,
        "\n{BOLD}{:.4} USD a node and month{BOLD:#}, {:.2} USD for {} nodes, of which {:.2} are for the installation however many there are",
        bill.month() / fleet.nodes,
        bill.month(),
        fleet.nodes,
        bill.lines.iter().filter(|line| line.fixed).map(|line| line.usd).sum::<f64>(),
    )
}
