//! Draws the steps of a replay as SVG: one lane for each node, time from left to right.
//!
//! Hours without a step would push the rest to the edges, so a long gap is drawn short and marked as broken. Each mark
//! has its line of the timeline as a tooltip. Colors follow the browser's light or dark theme.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use jiff::Timestamp;
use nodemend_domain::{
    repair_event::{RepairEvent, Step},
    timestamp,
};

use super::{escape, shortened};

const LABELS: f64 = 190.0;
const CHART: f64 = 1_000.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 86.0;
const LANE: f64 = 44.0;
const BOTTOM: f64 = 64.0;
/// Time labels closer than this would overlap.
const TICK: f64 = 64.0;
/// The longest that a gap is drawn, as a share of the sum of all gaps.
const MAX_GAP_SHARE: f64 = 0.16;
/// Marks of one lane are at least this far apart.
const MARK_SPACING: f64 = 13.0;

const STYLE: &str = "\
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #24292f }\
.title { font-size: 15px; font-weight: 600 } .dim { fill: #6e7781 } .back { fill: #ffffff }\
.lane { fill: #f6f8fa } .tick { stroke: #d0d7de } .break { stroke: #6e7781; fill: none }\
.unhealthy { fill: #f2cc60 } .due { fill: #e5534b } .acting { fill: #57a6ff } .waiting { fill: #b083f0 }\
.reason { font-size: 10px } circle { stroke: #ffffff }\
.event { fill: #8c959f } .suspect { fill: #bf8700 } .recovered, .confirmed, .replaced, .closed { fill: #1a7f37 }\
.blocked { fill: #8250df } .claimed, .called { fill: #0969da } .mismatch, .missing, .foreign { fill: #cf222e }\
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .dim { fill: #8d96a0 } .back { fill: #0d1117 }\
.lane { fill: #161b22 } .tick { stroke: #30363d } circle { stroke: #0d1117 } }";

pub(crate) fn draw(events: &[RepairEvent]) -> String {
    let mut picture = String::new();
    // Writing to a string never fails.
    let _ = write(&mut picture, events);
    picture
}

fn write(out: &mut String, events: &[RepairEvent]) -> fmt::Result {
    let scale = Scale::of(events);
    let lanes = lanes(events);
    let width = LABELS + CHART + RIGHT;
    let bottom = TOP + LANE * lanes.len() as f64;
    let height = bottom + BOTTOM;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>nodemend replay</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{width}\" height=\"{height}\"/>"
    )?;
    let Some((first, last)) = events.first().zip(events.last()) else {
        return writeln!(out, "<text x=\"20\" y=\"40\">No steps.</text>\n</svg>");
    };
    writeln!(
        out,
        "<text class=\"title\" x=\"20\" y=\"28\">cluster {}, {} to {} UTC</text>",
        escape(first.cluster.as_str()),
        first.at.strftime("%Y-%m-%d %H:%M:%S"),
        last.at.strftime("%H:%M:%S"),
    )?;
    let background = lanes.iter().enumerate().map(|(index, lane)| (TOP + LANE * index as f64, lane));
    for (top, lane) in background.clone() {
        writeln!(
            out,
            "<rect class=\"lane\" x=\"{LABELS}\" y=\"{:.1}\" width=\"{CHART}\" height=\"{:.1}\" rx=\"6\"/>\n\
             <text x=\"20\" y=\"{:.1}\">{}</text>",
            top + 3.0,
            LANE - 6.0,
            top + LANE / 2.0 + 4.0,
            escape(&shortened(lane.name, 22)),
        )?;
    }
    ticks(out, &scale, bottom)?;
    for (top, lane) in background {
        draw_lane(out, &scale, lane, top)?;
    }
    legend(out, bottom)?;
    writeln!(out, "</svg>")
}

/// The steps of one node.
struct NodeLane<'a> {
    name: &'a str,
    steps: Vec<&'a RepairEvent>,
}

/// The lanes, in the order of their first steps. A lane is named by the instance id until a step names the node.
fn lanes(events: &[RepairEvent]) -> Vec<NodeLane<'_>> {
    let mut lanes: Vec<NodeLane<'_>> = Vec::new();
    let mut indices: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events {
        let index = *indices.entry(event.instance_id.as_str()).or_insert_with(|| {
            lanes.push(NodeLane { name: event.instance_id.as_str(), steps: Vec::new() });
            lanes.len() - 1
        });
        if let Some(node) = &event.node {
            lanes[index].name = node.as_str().split('.').next().unwrap_or_default();
        }
        lanes[index].steps.push(event);
    }
    lanes
}

/// Maps timestamps to the x axis.
struct Scale {
    positions: Vec<(Timestamp, f64)>,
    /// The gaps that are drawn short: the middle, and the real duration.
    breaks: Vec<(f64, String)>,
}

impl Scale {
    fn of(events: &[RepairEvent]) -> Self {
        let mut times: Vec<Timestamp> = events.iter().map(|event| event.at).collect();
        times.dedup();
        let gaps: Vec<f64> =
            times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect();
        let longest = gaps.iter().sum::<f64>() * MAX_GAP_SHARE;
        // Two steps one second apart must stay apart: no gap is drawn shorter than a mark if there is room.
        let shortest = gaps.iter().sum::<f64>() / gaps.len().max(60) as f64 * 0.7;
        let widths: Vec<f64> = gaps.iter().map(|gap| gap.clamp(shortest.min(longest), longest)).collect();
        let all: f64 = widths.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let (left, chart) = (LABELS + 18.0, CHART - 36.0);
        let (mut positions, mut breaks, mut drawn_so_far) = (Vec::new(), Vec::new(), 0.0);
        for (index, time) in times.iter().enumerate() {
            if let Some(index) = index.checked_sub(1) {
                let start = drawn_so_far;
                drawn_so_far += widths[index];
                if gaps[index] > widths[index] {
                    let duration = timestamp::duration(time.duration_since(times[index]));
                    breaks.push((left + (start + drawn_so_far) / 2.0 / all * chart, duration));
                }
            }
            positions.push((*time, left + drawn_so_far / all * chart));
        }
        Self { positions, breaks }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let index = self
            .positions
            .partition_point(|(time, _)| *time < at)
            .min(self.positions.len().saturating_sub(1));
        self.positions.get(index).map_or(LABELS, |(_, x)| *x)
    }
}

fn ticks(out: &mut String, scale: &Scale, bottom: f64) -> fmt::Result {
    let mut free = 0.0;
    for (time, x) in &scale.positions {
        if *x < free {
            continue;
        }
        free = x + TICK;
        writeln!(
            out,
            "<line class=\"tick\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"dim\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            TOP - 4.0,
            TOP - 10.0,
            time.strftime("%H:%M:%S"),
        )?;
    }
    for (x, duration) in &scale.breaks {
        writeln!(
            out,
            "<path class=\"break\" d=\"M{:.1} {y1:.1} l-4 7 M{:.1} {y1:.1} l-4 7\"/>\
             <text class=\"dim\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{duration}</text>",
            x - 1.0,
            x + 5.0,
            bottom + 20.0,
            y1 = bottom + 2.0,
        )?;
    }
    Ok(())
}

fn draw_lane(out: &mut String, scale: &Scale, lane: &NodeLane<'_>, top: f64) -> fmt::Result {
    let middle = top + LANE / 2.0;
    let end = scale.positions.last().map_or(LABELS, |(_, x)| *x);
    let mut bars: Vec<(f64, f64, &str)> = Vec::new();
    let mut open: Option<(f64, &str)> = None;
    for step in &lane.steps {
        let x = scale.x(step.at);
        let state = match step.step {
            Step::Suspect if open.is_none_or(|(_, state)| state == "unhealthy") => Some("unhealthy"),
            Step::Due => Some("due"),
            Step::Blocked => Some("waiting"),
            Step::Claimed | Step::Called => Some("acting"),
            Step::Recovered if open.is_some_and(|(_, state)| state != "acting") => None,
            Step::Closed => None,
            _ => continue,
        };
        if let Some((from, before)) = open.take() {
            bars.push((from, x, before));
        }
        open = state.map(|state| (x, state));
    }
    if let Some((from, state)) = open {
        bars.push((from, end.max(from + 8.0), state));
    }
    for (from, to, state) in bars {
        writeln!(
            out,
            "<rect class=\"{state}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"8\" rx=\"3\"/>",
            middle - 4.0,
            (to - from).max(1.0),
        )?;
    }
    let suspect = lane.steps.iter().find(|event| event.step == Step::Suspect);
    if let Some((suspect, reason)) = suspect.and_then(|suspect| Some((suspect, suspect.reason.as_ref()?))) {
        writeln!(
            out,
            "<text class=\"reason dim\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            scale.x(suspect.at) + 10.0,
            middle - 8.0,
            escape(reason),
        )?;
    }
    let mut free = f64::MIN;
    for step in &lane.steps {
        let x = scale.x(step.at).max(free).min(LABELS + CHART - 4.0);
        free = x + MARK_SPACING;
        mark(out, step, x, middle)?;
    }
    Ok(())
}

fn mark(out: &mut String, event: &RepairEvent, x: f64, y: f64) -> fmt::Result {
    let name = event.step.as_str();
    let reason = event.reason.as_deref().unwrap_or_default();
    let shape = match event.step {
        Step::Event => format!("<circle class=\"{name}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"),
        step => format!(
            "<circle class=\"{name}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6.5\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"font-size:9px;fill:#fff\">{}</text>",
            y + 3.2,
            letter(step),
        ),
    };
    writeln!(
        out,
        "<g><title>{} {name} {}{}{}</title>{shape}</g>",
        event.at.strftime("%H:%M:%S"),
        escape(reason),
        if reason.is_empty() { "" } else { ": " },
        escape(&shortened(&event.detail, 400)),
    )
}

/// The letter on a step's mark; the legend explains it.
fn letter(step: Step) -> char {
    match step {
        Step::Event => '·',
        Step::Suspect => 'S',
        Step::Recovered => 'R',
        Step::Due => 'D',
        Step::Blocked => 'B',
        Step::Claimed => 'C',
        Step::Called => 'A',
        Step::Confirmed => '✓',
        Step::Mismatch => '≠',
        Step::Missing => '∅',
        Step::Foreign => 'F',
        Step::Replaced => 'N',
        Step::Closed => '■',
    }
}

fn legend(out: &mut String, bottom: f64) -> fmt::Result {
    let y = bottom + 44.0;
    let mut x = 20.0;
    let entries = Step::ALL.into_iter().map(|step| {
        let label = match step {
            Step::Called => "AWS called",
            Step::Replaced => "new node",
            step => step.as_str(),
        };
        (step, label)
    });
    for (step, label) in entries {
        writeln!(
            out,
            "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"6.5\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"font-size:9px;fill:#fff\">{}</text>\
             <text class=\"dim\" x=\"{:.1}\" y=\"{y:.1}\">{label}</text>",
            step.as_str(),
            y - 4.0,
            y - 0.8,
            letter(step),
            x + 11.0,
        )?;
        x += 26.0 + label.len() as f64 * 7.3;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_without_steps_is_a_valid_picture() {
        assert!(draw(&[]).ends_with("No steps.</text>\n</svg>\n"));
    }
}
