//! Turns the repairs of each policy into one picture: a lane a policy and group, time from left to right.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::stamp;

use super::{
    html::escape,
    report::{Comparison, Line, Verdict},
};

const LABELS: f64 = 220.0;
const CHART: f64 = 960.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 16.0;
const LANE: f64 = 30.0;
const BOTTOM: f64 = 34.0;
/// More groups than this are drawn as one lane a policy.
const MAX_LANES: usize = 60;
/// More marks than this are more than a browser draws with ease.
const MAX_MARKS: usize = 20_000;
/// How many labels fit below.
const MAX_TICKS: i64 = 10;

/// One lane.
struct Lane<'a> {
    label: String,
    lines: Vec<(&'a Line, &'static str)>,
}

/// Draws it.
pub(super) fn draw(out: &mut String, comparison: &Comparison) -> fmt::Result {
    let Some((from, to)) = span(comparison) else {
        return writeln!(out, "<p>Nothing was repaired, and nothing withheld.</p>");
    };
    let lanes = lanes(comparison);
    let height = TOP + LANE * lanes.len() as f64 + BOTTOM;
    let width = LABELS + CHART + RIGHT;
    writeln!(
        out,
        "<svg id=\"timeline\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"timeline-title\">\n\
         <title id=\"timeline-title\">Repairs of each policy from {} to {}; the table of repairs says the same in words</title>",
        stamp::seconds(from),
        stamp::seconds(to),
    )?;
    let length = to.duration_since(from).as_millis().max(1) as f64;
    let x = |at: Timestamp| {
        LABELS + CHART * (at.duration_since(from).as_millis() as f64 / length).clamp(0.0, 1.0)
    };
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
    let mut left = MAX_MARKS;
    for (index, lane) in lanes.iter().enumerate() {
        let middle = TOP + LANE * (index as f64 + 0.5);
        writeln!(
            out,
            "<g><line class=\"lane\" x1=\"{LABELS}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABELS + CHART,
            LABELS - 10.0,
            middle + 4.0,
            escape(&shortened(&lane.label)),
        )?;
        for (line, kind) in lane.lines.iter().take(left) {
            mark(out, x(line.at), middle, line, kind)?;
        }
        left = left.saturating_sub(lane.lines.len());
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")
}

/// A shape and a colour, of which either alone is enough.
fn mark(out: &mut String, x: f64, y: f64, line: &Line, kind: &str) -> fmt::Result {
    let shape = match kind {
        "true" => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"),
        "false" => format!("<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\"/>", x - 5.0, y - 5.0),
        "unclear" => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
        "lost" => format!("<path d=\"M{x:.1} {:.1}l5.5 10h-11z\"/>", y - 5.5),
        _ => format!("<path d=\"M{:.1} {:.1}h9v9h-9z\"/>", x - 4.5, y - 4.5),
    };
    let what = match kind {
        "lost" | "spared" => format!("{} withheld by {}", line.reason, join(line)),
        _ => format!("{} of {}", line.call.as_deref().unwrap_or_default(), line.reason),
    };
    write!(
        out,
        "<g class=\"{kind}\">{shape}<title>{} {}: {}; {}</title></g>",
        stamp::seconds(line.at),
        escape(&line.node),
        escape(&what),
        escape(&line.ending),
    )
}

pub(super) fn join(line: &Line) -> String {
    line.guards.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What a mark stands for.
pub(super) fn kind(line: &Line, made: bool) -> &'static str {
    match (made, line.verdict) {
        (_, Verdict::Unclear) => "unclear",
        (true, verdict) => verdict.as_str(),
        (false, Verdict::True) => "lost",
        (false, Verdict::False) => "spared",
    }
}

fn lanes(comparison: &Comparison) -> Vec<Lane<'_>> {
    let groups: usize = comparison.policies.iter().map(|policy| policy.groups.len().max(1)).sum();
    let mut lanes = Vec::new();
    for policy in &comparison.policies {
        let all = policy
            .repairs
            .iter()
            .map(|line| (line, kind(line, true)))
            .chain(policy.withheld.iter().map(|line| (line, kind(line, false))));
        let all: Vec<(&Line, &'static str)> = all.collect();
        if groups > MAX_LANES || policy.groups.len() < 2 {
            let group = policy.groups.first().filter(|_| policy.groups.len() == 1);
            let label = match group {
                Some(group) => format!("{} · {}", policy.name, group.group),
                None => policy.name.clone(),
            };
            lanes.push(Lane { label, lines: all });
            continue;
        }
        for group in &policy.groups {
            let lines = all.iter().filter(|(line, _)| line.group == group.group).copied().collect();
            lanes.push(Lane { label: format!("{} · {}", policy.name, group.group), lines });
        }
    }
    lanes
}

/// From the first line of the history to its last, and the last repair.
fn span(comparison: &Comparison) -> Option<(Timestamp, Timestamp)> {
    let lines =
        || comparison.policies.iter().flat_map(|policy| policy.repairs.iter().chain(&policy.withheld));
    lines().next()?;
    let from = lines().map(|line| line.at).chain(comparison.history.from).min()?;
    let to = lines().map(|line| line.at).chain(comparison.history.to).max()?;
    Some((from, to))
}

/// Round times: whole hours of a day, or whole days.
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

fn shortened(text: &str) -> String {
    if text.chars().count() <= 30 {
        return text.to_owned();
    }
    text.chars().take(29).chain(['…']).collect()
}
