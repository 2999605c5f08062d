//! Renders the comparison as one HTML page, `templates/backtest.html`: no scripts, and nothing loaded from elsewhere.
//!
//! The template engine escapes everything but the chart, which escapes its own text.

use askama::Template;
use nodemend_domain::timestamp;

use super::{
    chart,
    report::{Comparison, Mark, PolicyReport, RepairRow, RepairTotals},
    tables::{COLUMNS, cells},
};
use crate::output::{bytes, counted, duration_of_seconds, printable};

/// More repairs of one policy than this are in the JSON output only.
const MAX_ROWS: usize = 1_000;

#[derive(Template)]
#[template(path = "backtest.html")]
struct Page {
    span: String,
    nodes: String,
    lines: String,
    bytes: String,
    bytes_on_disk: String,
    files: String,
    unreadable: Option<String>,
    columns: [&'static str; 8],
    policies: Vec<PolicySection>,
    chart: Option<String>,
    unnecessary_within: String,
    replacement_after: Option<String>,
    continue_for: String,
    mode: &'static str,
}

struct PolicySection {
    name: String,
    due: usize,
    totals: Vec<Cell>,
    time_saved: String,
    missed_by_guard: String,
    days: Vec<DayRow>,
    /// All repairs, called or blocked; `repairs` has the first of them.
    count: usize,
    repairs: Vec<PageRow>,
    omitted: usize,
}

struct DayRow {
    group: String,
    day: String,
    totals: Vec<Cell>,
}

struct Cell {
    text: String,
    bad: bool,
}

struct PageRow {
    at: String,
    node: String,
    group: String,
    reason: String,
    call: String,
    wait: String,
    guards: String,
    mark: &'static str,
    bad: bool,
    resolution: String,
}

pub(super) fn render(comparison: &Comparison) -> askama::Result<String> {
    let (facts, assumptions) = (&comparison.history, &comparison.assumptions);
    let page = Page {
        span: match (facts.from, facts.to) {
            (Some(from), Some(to)) => {
                format!("From {} to {}", timestamp::seconds(from), timestamp::seconds(to))
            }
            _ => "No events".to_owned(),
        },
        nodes: counted(facts.nodes as u64, "node"),
        lines: counted(facts.lines, "line"),
        bytes: bytes(facts.bytes),
        bytes_on_disk: bytes(facts.bytes_on_disk),
        files: counted(facts.files as u64, "file"),
        unreadable: (facts.unreadable > 0).then(|| counted(facts.unreadable, "line")),
        columns: COLUMNS,
        policies: comparison.policies.iter().map(PolicySection::new).collect(),
        chart: chart::draw(comparison),
        unnecessary_within: duration_of_seconds(assumptions.unnecessary_within_seconds),
        replacement_after: assumptions.replacement_after_seconds.map(duration_of_seconds),
        continue_for: duration_of_seconds(assumptions.continue_for_seconds),
        mode: assumptions.mode,
    };
    page.render()
}

impl PolicySection {
    fn new(policy: &PolicyReport) -> Self {
        let missed: Vec<String> =
            policy.missed_by_guard.iter().map(|(guard, count)| format!("{guard} {count}")).collect();
        let days = policy.groups.iter().flat_map(|group| {
            group.days.iter().map(|(day, totals)| DayRow {
                group: printable(&group.group),
                day: day.clone(),
                totals: total_cells(totals),
            })
        });
        let rows = || policy.repairs.iter().chain(&policy.blocked);
        let count = rows().count();
        Self {
            name: printable(&policy.name),
            due: policy.due,
            totals: total_cells(&policy.totals),
            time_saved: duration_of_seconds(policy.totals.time_saved_seconds),
            missed_by_guard: missed.join(", "),
            days: days.collect(),
            count,
            repairs: rows().take(MAX_ROWS).map(PageRow::new).collect(),
            omitted: count.saturating_sub(MAX_ROWS),
        }
    }
}

/// The totals' cells; a count of unnecessary repairs is marked.
fn total_cells(totals: &RepairTotals) -> Vec<Cell> {
    let cells = COLUMNS.into_iter().zip(cells(totals));
    cells.map(|(column, text)| Cell { bad: column == "unnecessary" && text != "0", text }).collect()
}

impl PageRow {
    fn new(row: &RepairRow) -> Self {
        let mark = row.mark();
        Self {
            at: timestamp::seconds(row.at),
            node: printable(&row.node),
            group: printable(&row.group),
            reason: printable(&row.reason),
            call: row.call.clone().unwrap_or_else(|| "none".to_owned()),
            wait: duration_of_seconds(row.at.duration_since(row.since).as_secs()),
            guards: row.guard_names(),
            mark: mark.as_str(),
            bad: mark == Mark::Unnecessary,
            resolution: printable(&row.resolution),
        }
    }
}
