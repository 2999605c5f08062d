//! Draws the repairs of each policy as SVG: one lane for each policy and group, time from left to right.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::timestamp;

use super::report::{Comparison, Mark, RepairRow};
use crate::output::{escape, shortened};

const LABELS: f64 = 220.0;
const CHART: f64 = 960.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 16.0;
const LANE: f64 = 30.0;
const BOTTOM: f64 = 34.0;
/// With more lanes than this, a policy has one lane for all its groups.
const MAX_LANES: usize = 60;
/// Browsers become slow with more marks than this.
const MAX_MARKS: usize = 20_000;
/// How many time labels fit below the chart.
const MAX_TICKS: i64 = 10;

/// One lane of the chart.
struct ChartLane<'a> {
    label: String,
    rows: Vec<&'a RepairRow>,
}

/// The longest label of a lane, in characters.
const MAX_LABEL: usize = 30;

/// Draws the chart; none if there is no repair.
pub(super) fn draw(comparison: &Comparison) -> Option<String> {
    let (from, to) = span(comparison)?;
    let mut chart = String::new();
    // Writing to a string never fails.
    let _ = write(&mut chart, comparison, from, to);
    Some(chart)
}

fn write(out: &mut String, comparison: &Comparison, from: Timestamp, to: Timestamp) -> fmt::Result {
    let lanes = lanes(comparison);
    let height = TOP + LANE * lanes.len() as f64 + BOTTOM;
    let width = LABELS + CHART + RIGHT;
    writeln!(
        out,
        "<svg id=\"timeline\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"timeline-title\">\n\
         <title id=\"timeline-title\">Repairs of each policy from {} to {}; the table of repairs has the same data</title>",
        timestamp::seconds(from),
        timestamp::seconds(to),
    )?;
    let total = to.duration_since(from).as_millis().max(1) as f64;
    let x =
        |at: Timestamp| LABELS + CHART * (at.duration_since(from).as_millis() as f64 / total).clamp(0.0, 1.0);
    let bottom = TOP + LANE * lanes.len() as f64;
    for tick in ticks(from, to) {
        let at = x(tick);
        writeln!(
            out,
            "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"dim\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            if to.duration_since(from) > SignedDuration::from_hours(48) {
                tick.strftime("%b %d").to_string()
            } else {
                tick.strftime("%d %H:%M").to_string()
            },
        )?;
    }
    let mut marks_left = MAX_MARKS;
    for (index, lane) in lanes.iter().enumerate() {
        let middle = TOP + LANE * (index as f64 + 0.5);
        writeln!(
            out,
            "<g><line class=\"lane\" x1=\"{LABELS}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABELS + CHART,
            LABELS - 10.0,
            middle + 4.0,
            escape(&shortened(&lane.label, MAX_LABEL)),
        )?;
        for row in lane.rows.iter().take(marks_left) {
            draw_mark(out, x(row.at), middle, row)?;
        }
        marks_left = marks_left.saturating_sub(lane.rows.len());
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")
}

/// A shape and a color for each kind of repair; either alone tells them apart.
fn draw_mark(out: &mut String, x: f64, y: f64, row: &RepairRow) -> fmt::Result {
    let mark = row.mark();
    let shape = match mark {
        Mark::Necessary => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"),
        Mark::Unnecessary => format!("<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\"/>", x - 5.0, y - 5.0),
        Mark::Unclear => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
        Mark::Missed => format!("<path d=\"M{x:.1} {:.1}l5.5 10h-11z\"/>", y - 5.5),
        Mark::Avoided => format!("<path d=\"M{:.1} {:.1}h9v9h-9z\"/>", x - 4.5, y - 4.5),
    };
    let what = match &row.call {
        Some(call) => format!("{call} for {}", row.reason),
        None => format!("{} blocked by {}", row.reason, row.guard_names()),
    };
    write!(
        out,
        "<g class=\"{}\">{shape}<title>{} {}: {}; {}</title></g>",
        mark.as_str(),
        timestamp::seconds(row.at),
        escape(&row.node),
        escape(&what),
        escape(&row.resolution),
    )
}

fn lanes(comparison: &Comparison) -> Vec<ChartLane<'_>> {
    let groups: usize = comparison.policies.iter().map(|policy| policy.groups.len().max(1)).sum();
    let mut lanes = Vec::new();
    for policy in &comparison.policies {
        let all: Vec<&RepairRow> = policy.repairs.iter().chain(&policy.blocked).collect();
        if groups > MAX_LANES || policy.groups.len() < 2 {
            let group = policy.groups.first().filter(|_| policy.groups.len() == 1);
            let label = match group {
                Some(group) => format!("{} · {}", policy.name, group.group),
                None => policy.name.clone(),
            };
            lanes.push(ChartLane { label, rows: all });
            continue;
        }
        for group in &policy.groups {
            let rows = all.iter().filter(|row| row.group == group.group).copied().collect();
            lanes.push(ChartLane { label: format!("{} · {}", policy.name, group.group), rows });
        }
    }
    lanes
}

/// From the first line of the history or the first repair, to the last of either; none without a repair.
fn span(comparison: &Comparison) -> Option<(Timestamp, Timestamp)> {
    let rows = || comparison.policies.iter().flat_map(|policy| policy.repairs.iter().chain(&policy.blocked));
    rows().next()?;
    let from = rows().map(|row| row.at).chain(comparison.history.from).min()?;
    let to = rows().map(|row| row.at).chain(comparison.history.to).max()?;
    Some((from, to))
}

/// Whole hours of a day, or whole days.
fn ticks(from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let hours = to.duration_since(from).as_hours().max(1);
    let step = [1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 720]
        .into_iter()
        .find(|step| hours / step <= MAX_TICKS)
        .unwrap_or(hours / MAX_TICKS);
    let midnight = Timestamp::from_second(from.as_second().div_euclid(86_400) * 86_400);
    let Ok(midnight) = midnight else { return Vec::new() };
    let mut ticks = Vec::new();
    let mut tick = midnight;
    while tick <= to && ticks.len() < 100 {
        if tick >= from {
            ticks.push(tick);
        }
        let Ok(next) = tick.checked_add(SignedDuration::from_hours(step)) else { break };
        tick = next;
    }
    ticks
}
