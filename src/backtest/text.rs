//! Turns the comparison into tables for people.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use jiff::SignedDuration;
use nodemend_domain::stamp;

use super::{
    progress::bytes,
    report::{Comparison, Facts, Sums},
};
use crate::table;

const BOLD: Style = Style::new().bold();
const RED: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

/// The columns that sums have, and what they mean.
pub(super) const COLUMNS: [&str; 8] =
    ["repairs", "reboots", "false", "unclear", "lost", "spared", "median wait", "longest wait"];

/// Writes all of it.
pub(super) fn write(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    facts(out, &comparison.history)?;
    writeln!(out, "\n{BOLD}Policies{BOLD:#}")?;
    let rows: Vec<[String; 11]> = comparison
        .policies
        .iter()
        .map(|policy| {
            let [repairs, rest @ ..] = cells(&policy.totals);
            let [reboots, fa, unclear, lost, spared, median, max] = rest;
            let sooner = length(policy.totals.sooner_seconds);
            [
                policy.name.clone(),
                policy.due.to_string(),
                repairs,
                reboots,
                fa,
                unclear,
                lost,
                spared,
                median,
                max,
                sooner,
            ]
        })
        .collect();
    let [repairs, reboots, fa, unclear, lost, spared, median, max] = COLUMNS;
    let head = ["policy", "due", repairs, reboots, fa, unclear, lost, spared, median, max, "sooner"];
    table::write(out, "  ", head, &rows)?;
    for policy in &comparison.policies {
        if policy.groups.is_empty() {
            continue;
        }
        writeln!(out, "\n{BOLD}{}{BOLD:#}, by group and day", table::plain(&policy.name))?;
        let head = ["group", "day", repairs, reboots, fa, unclear, lost, spared, median, max];
        let mut rows: Vec<[String; 10]> = Vec::new();
        for group in &policy.groups {
            for (day, sums) in &group.days {
                let [repairs, reboots, fa, unclear, lost, spared, median, max] = cells(sums);
                rows.push([
                    group.group.clone(),
                    day.clone(),
                    repairs,
                    reboots,
                    fa,
                    unclear,
                    lost,
                    spared,
                    median,
                    max,
                ]);
            }
        }
        table::write(out, "  ", head, &rows)?;
        if !policy.lost_to.is_empty() {
            let each: Vec<String> =
                policy.lost_to.iter().map(|(guard, count)| format!("{guard} {count}")).collect();
            writeln!(out, "  lost to {}", each.join(", "))?;
        }
    }
    let false_ones: usize = comparison.policies.iter().map(|policy| policy.totals.false_repairs).sum();
    if false_ones > 0 {
        writeln!(out, "\n{RED}False repairs{RED:#}")?;
        let rows: Vec<[String; 6]> = comparison
            .policies
            .iter()
            .flat_map(|policy| policy.repairs.iter().map(move |line| (&policy.name, line)))
            .filter(|(_, line)| line.verdict == super::report::Verdict::False)
            .take(MAX_FALSE)
            .map(|(name, line)| {
                let reason = line.reason.clone();
                [
                    name.clone(),
                    stamp::seconds(line.at),
                    line.group.clone(),
                    line.node.clone(),
                    reason,
                    line.ending.clone(),
                ]
            })
            .collect();
        table::write(out, "  ", ["policy", "called", "group", "node", "reason", "in the history"], &rows)?;
        if false_ones > MAX_FALSE {
            writeln!(out, "  and {} more: --format json has them all", false_ones - MAX_FALSE)?;
        }
    }
    Ok(())
}

const MAX_FALSE: usize = 20;

fn facts(out: &mut impl Write, facts: &Facts) -> io::Result<()> {
    let span = match (facts.from, facts.to) {
        (Some(from), Some(to)) => format!("{} to {}", stamp::seconds(from), stamp::seconds(to)),
        _ => "nothing".to_owned(),
    };
    let (nodes, lines) = (counted(facts.nodes, "node"), counted(facts.lines, "line"));
    writeln!(out, "{BOLD}History{BOLD:#}  {span}: {nodes}, {lines}")?;
    let speed = facts.bytes as f64 / facts.reading_seconds.max(0.001);
    writeln!(
        out,
        "         {} unpacked ({} on disk) in {}, read at {}/s on {}; {} could matter",
        bytes(facts.bytes),
        bytes(facts.bytes_on_disk),
        counted(facts.files, "file"),
        bytes(speed as u64),
        counted(facts.threads, "thread"),
        counted(facts.taken_in, "line"),
    )?;
    write!(out, "         {:.1} s in all", facts.seconds)?;
    if let Some(peak) = facts.peak_memory_bytes {
        write!(out, ", at most {:.0} MiB of memory", peak as f64 / 1_048_576.0)?;
    }
    if facts.unreadable > 0 {
        write!(out, "; {RED}{} could not be read{RED:#}", counted(facts.unreadable, "line"))?;
    }
    writeln!(out)
}

/// So many of something, in English.
pub(super) fn counted<N: PartialEq + From<u8> + Display>(number: N, one: &str) -> String {
    format!("{number} {one}{}", if number == N::from(1) { "" } else { "s" })
}

/// What stands under the columns.
pub(super) fn cells(sums: &Sums) -> [String; 8] {
    let wait = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), length);
    [
        sums.repairs.to_string(),
        sums.reboots.to_string(),
        sums.false_repairs.to_string(),
        sums.unclear.to_string(),
        sums.lost_to_guards.to_string(),
        sums.spared_by_guards.to_string(),
        wait(sums.median_seconds),
        wait(sums.max_seconds),
    ]
}

pub(super) fn length(seconds: i64) -> String {
    stamp::length(SignedDuration::from_secs(seconds))
}
