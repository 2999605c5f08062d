//! Writes the comparison as tables.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use nodemend_domain::timestamp;

use super::report::{Comparison, HistoryFacts, Mark, RepairTotals};
use crate::output::{BOLD, bytes, counted, duration_of_seconds, printable, table};

const RED: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

/// More unnecessary repairs than this are in the JSON output only.
const MAX_UNNECESSARY: usize = 20;

/// The columns of [`cells`].
pub(super) const COLUMNS: [&str; 8] =
    ["repairs", "reboots", "unnecessary", "unclear", "missed", "avoided", "median wait", "max wait"];

/// Writes the history, a table of policies, a table for each policy, and the unnecessary repairs.
pub(super) fn write(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    write_history(out, &comparison.history)?;
    writeln!(out, "\n{BOLD}Policies{BOLD:#}")?;
    let rows: Vec<[String; 11]> = comparison
        .policies
        .iter()
        .map(|policy| {
            let [repairs, reboots, unnecessary, unclear, missed, avoided, median, max] =
                cells(&policy.totals);
            [
                policy.name.clone(),
                policy.due.to_string(),
                repairs,
                reboots,
                unnecessary,
                unclear,
                missed,
                avoided,
                median,
                max,
                duration_of_seconds(policy.totals.time_saved_seconds),
            ]
        })
        .collect();
    let [repairs, reboots, unnecessary, unclear, missed, avoided, median, max] = COLUMNS;
    let header =
        ["policy", "due", repairs, reboots, unnecessary, unclear, missed, avoided, median, max, "time saved"];
    table::write(out, "  ", header, &rows)?;
    for policy in &comparison.policies {
        if policy.groups.is_empty() {
            continue;
        }
        writeln!(out, "\n{BOLD}{}{BOLD:#}, by group and day", printable(&policy.name))?;
        let header = ["group", "day", repairs, reboots, unnecessary, unclear, missed, avoided, median, max];
        let mut rows: Vec<[String; 10]> = Vec::new();
        for group in &policy.groups {
            for (day, totals) in &group.days {
                let [repairs, reboots, unnecessary, unclear, missed, avoided, median, max] = cells(totals);
                rows.push([
                    group.group.clone(),
                    day.clone(),
                    repairs,
                    reboots,
                    unnecessary,
                    unclear,
                    missed,
                    avoided,
                    median,
                    max,
                ]);
            }
        }
        table::write(out, "  ", header, &rows)?;
        if !policy.missed_by_guard.is_empty() {
            let each: Vec<String> =
                policy.missed_by_guard.iter().map(|(guard, count)| format!("{guard} {count}")).collect();
            writeln!(out, "  missed because of {}", each.join(", "))?;
        }
    }
    write_unnecessary(out, comparison)
}

fn write_unnecessary(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    let count: usize = comparison.policies.iter().map(|policy| policy.totals.unnecessary).sum();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "\n{RED}Unnecessary repairs{RED:#}")?;
    let rows: Vec<[String; 6]> = comparison
        .policies
        .iter()
        .flat_map(|policy| policy.repairs.iter().map(move |row| (&policy.name, row)))
        .filter(|(_, row)| row.mark() == Mark::Unnecessary)
        .take(MAX_UNNECESSARY)
        .map(|(name, row)| {
            [
                name.clone(),
                timestamp::seconds(row.at),
                row.group.clone(),
                row.node.clone(),
                row.reason.clone(),
                row.resolution.clone(),
            ]
        })
        .collect();
    table::write(out, "  ", ["policy", "called", "group", "node", "reason", "in the history"], &rows)?;
    if count > MAX_UNNECESSARY {
        writeln!(out, "  and {} more: see --format json", count - MAX_UNNECESSARY)?;
    }
    Ok(())
}

fn write_history(out: &mut impl Write, facts: &HistoryFacts) -> io::Result<()> {
    let span = match (facts.from, facts.to) {
        (Some(from), Some(to)) => format!("{} to {}", timestamp::seconds(from), timestamp::seconds(to)),
        _ => "no events".to_owned(),
    };
    let (nodes, lines) = (counted(facts.nodes as u64, "node"), counted(facts.lines, "line"));
    writeln!(out, "{BOLD}History{BOLD:#}  {span}: {nodes}, {lines}, {} relevant", facts.relevant_lines)?;
    let speed = facts.bytes as f64 / facts.reading_seconds.max(0.001);
    writeln!(
        out,
        "         {} uncompressed ({} on disk) in {}, read at {}/s by {}",
        bytes(facts.bytes),
        bytes(facts.bytes_on_disk),
        counted(facts.files as u64, "file"),
        bytes(speed as u64),
        counted(facts.threads as u64, "thread"),
    )?;
    write!(out, "         {:.1} s in total", facts.seconds)?;
    if let Some(peak) = facts.peak_memory_bytes {
        write!(out, ", peak memory {:.0} MiB", peak as f64 / 1_048_576.0)?;
    }
    if facts.unreadable > 0 {
        write!(out, "; {RED}{} not readable{RED:#}", counted(facts.unreadable, "line"))?;
    }
    writeln!(out)
}

/// The totals as the cells of [`COLUMNS`].
pub(super) fn cells(totals: &RepairTotals) -> [String; 8] {
    let wait = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), duration_of_seconds);
    [
        totals.repairs.to_string(),
        totals.reboots.to_string(),
        totals.unnecessary.to_string(),
        totals.unclear.to_string(),
        totals.missed.to_string(),
        totals.avoided.to_string(),
        wait(totals.median_seconds),
        wait(totals.max_seconds),
    ]
}
