//! Writes the steps of a replay as a timeline, then the last audit record in full and a summary of each case.
//!
//! A tired reader needs three answers: what happened to which node, why there was or was not a repair, and whether
//! the node is healthy now. So there is one column of times, a gap is shown as a gap, each step has one line, and each
//! guard that blocks has its own line.

use std::io::{self, Write};

use anstyle::{AnsiColor, Effects, Style};
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    repair_event::{RepairEvent, Step},
    timestamp,
};

use super::{
    BOLD, DIM, MAX_LINES_NAMED, WIDTH,
    case_summary::{self, CaseEnd, CaseSummary},
    pretty_json, table,
};

/// A gap between two steps that is shown as a line of its own.
const GAP: SignedDuration = SignedDuration::from_mins(2);
/// Longer node names are cut: the instance id in the JSON output is unambiguous.
const MAX_NAME: usize = 28;
/// The length of an instance id, `i-` and 17 hexadecimal digits.
const INSTANCE_ID: usize = 19;

/// Writes the timeline, the last audit record and the summary, with the lines that the subscription does not deliver.
pub(crate) fn write(
    out: &mut impl Write,
    events: &[RepairEvent],
    not_subscribed: &[String],
) -> io::Result<()> {
    let mut timeline = Timeline { names: NodeNames::of(events), previous: None };
    for event in events {
        timeline.step(out, event)?;
    }
    timeline.end(out, events)?;
    write_not_subscribed(out, not_subscribed)
}

/// Writes which lines production would not have seen: they explain a difference from what its log shows.
fn write_not_subscribed(out: &mut impl Write, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let (first, more) = lines.split_at(lines.len().min(MAX_LINES_NAMED));
    let what = if lines.len() == 1 { "line was" } else { "lines were" };
    let whole = format!("{} {what} not delivered:", lines.len());
    writeln!(out, "\n{BOLD}{whole}{BOLD:#} the subscription's filter pattern does not match")?;
    for line in first {
        writeln!(out, "  {}", super::printable(line))?;
    }
    if more.is_empty() { Ok(()) } else { writeln!(out, "  {DIM}and {} more{DIM:#}", more.len()) }
}

/// A timeline that is written step by step.
pub struct Timeline {
    names: NodeNames,
    previous: Option<Timestamp>,
}

impl Timeline {
    /// A timeline whose steps are not known yet, for nodes of one domain.
    pub fn live() -> Self {
        Self { names: NodeNames { width: INSTANCE_ID, first_label: true }, previous: None }
    }

    /// Writes the next step.
    pub fn step(&mut self, out: &mut impl Write, event: &RepairEvent) -> io::Result<()> {
        let at = event.at;
        match self.previous.replace(at) {
            Some(previous) => write_gap(out, previous, at)?,
            None => writeln!(out, "{BOLD}{} UTC · cluster {}{BOLD:#}", date(at), event.cluster)?,
        }
        write_step(out, event, &self.names)
    }

    /// Writes the last audit record and the summary of all steps.
    pub fn end(&self, out: &mut impl Write, events: &[RepairEvent]) -> io::Result<()> {
        if events.is_empty() {
            return writeln!(out, "All nodes stayed healthy: no steps.");
        }
        write_records(out, events)?;
        write_summary(out, events, &self.names)
    }
}

fn write_gap(out: &mut impl Write, previous: Timestamp, at: Timestamp) -> io::Result<()> {
    let gap = at.duration_since(previous);
    if gap >= GAP {
        writeln!(out, "{DIM}         ┆ {}{DIM:#}", timestamp::duration(gap))?;
    }
    if date(previous) != date(at) {
        writeln!(out, "{BOLD}{}{BOLD:#}", date(at))?;
    }
    Ok(())
}

fn write_step(out: &mut impl Write, event: &RepairEvent, names: &NodeNames) -> io::Result<()> {
    let (glyph, style) = symbol(event.step);
    let name = names.short(case_summary::node_of(event));
    let indent = 8 + 3 + 2 + 10 + names.width + 2;
    write!(
        out,
        "{} {DIM}│{DIM:#} {style}{glyph} {:9}{style:#} {:width$}  ",
        time(event.at),
        event.step.as_str(),
        name,
        width = names.width,
    )?;
    let text = step_text(event);
    let mut first = true;
    for part in text.parts {
        for line in textwrap::wrap(&part, whole_words(WIDTH - indent)) {
            if !first {
                write!(out, "         {DIM}│{DIM:#}{:pad$}", "", pad = indent - 10)?;
            }
            // The reason comes first and in bold: the eye finds it when it scans the column.
            match text.reason.filter(|reason| first && line.starts_with(*reason)) {
                Some(reason) => writeln!(out, "{BOLD}{reason}{BOLD:#}{}", &line[reason.len()..])?,
                None => writeln!(out, "{line}")?,
            }
            first = false;
        }
    }
    if first { writeln!(out) } else { Ok(()) }
}

/// Lines break at spaces only: ids contain hyphens.
fn whole_words(width: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation)
}

struct StepText<'a> {
    reason: Option<&'a str>,
    parts: Vec<String>,
}

/// The text of a step: its reason where the reason is new, and each guard's message on a line of its own.
fn step_text(event: &RepairEvent) -> StepText<'_> {
    let detail = without_date(&event.detail, &date(event.at));
    let is_new = matches!(event.step, Step::Event | Step::Suspect | Step::Foreign);
    let reason = event.reason.as_deref().filter(|_| is_new);
    let parts = match (reason, event.step) {
        (_, Step::Blocked | Step::Mismatch) => detail.split("; ").map(str::to_owned).collect(),
        (Some(reason), _) if detail.is_empty() => vec![reason.to_owned()],
        (Some(reason), _) => vec![format!("{reason}: {detail}")],
        (None, _) => vec![detail],
    };
    StepText { reason, parts }
}

/// Writes the last call's audit record in full, and how many more there are.
fn write_records(out: &mut impl Write, events: &[RepairEvent]) -> io::Result<()> {
    let records: Vec<_> =
        events.iter().filter_map(|event| event.record.as_deref().zip(Some(event))).collect();
    let Some((record, event)) = records.last() else { return Ok(()) };
    writeln!(out, "\n{BOLD}Audit record{BOLD:#} of {} {DIM}(case {}){DIM:#}", record.event_name, event.case)?;
    let line = record.to_json_line();
    writeln!(out, "{}", pretty_json::format(&line, WIDTH).unwrap_or(line))?;
    match records.len() - 1 {
        0 => Ok(()),
        1 => writeln!(out, "{DIM}1 more audit record: see --format json{DIM:#}"),
        more => writeln!(out, "{DIM}{more} more audit records: see --format json{DIM:#}"),
    }
}

/// Writes one line for each case, from the fault to the replacement, and the counts of the steps.
fn write_summary(out: &mut impl Write, events: &[RepairEvent], names: &NodeNames) -> io::Result<()> {
    let cases = case_summary::summarize(events);
    let days = events.first().map(|first| date(first.at)).into_iter();
    let days: Vec<String> = days.chain(events.last().map(|last| date(last.at))).collect();
    let times = TimeFormat { day: days.first().filter(|_| days.windows(2).all(|pair| pair[0] == pair[1])) };
    let rows: Vec<[String; 5]> = cases.iter().map(|case| row(case, names, times)).collect();
    if !rows.is_empty() {
        writeln!(out, "\n{BOLD}Summary{BOLD:#}")?;
        table::write(out, "  ", ["node", "fault", "call", "CloudTrail", "outcome"], &rows)?;
    }
    let counts: Vec<String> = case_summary::step_counts(events)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(step, count)| format!("{count} {}", step.as_str()))
        .collect();
    writeln!(out, "\n{DIM}{}{DIM:#}", counts.join(" · "))
}

/// How the summary shows times: without the date where all steps are of one day.
#[derive(Clone, Copy)]
struct TimeFormat<'a> {
    day: Option<&'a String>,
}

impl TimeFormat<'_> {
    fn time(self, at: Timestamp) -> String {
        if self.day.is_some() { time(at) } else { at.strftime("%m-%d %H:%M:%S").to_string() }
    }

    fn text(self, text: &str) -> String {
        self.day.map_or_else(|| text.to_owned(), |day| without_date(text, day))
    }
}

fn row(case: &CaseSummary<'_>, names: &NodeNames, times: TimeFormat<'_>) -> [String; 5] {
    let fault = match case.fault {
        Some((at, reason)) => format!("{} {reason}", times.time(at)),
        None => "-".to_owned(),
    };
    let call = match case.calls.last() {
        Some(call) => format!("{} {}", times.time(call.at), call_name(call)),
        None => "-".to_owned(),
    };
    let mut confirmations: Vec<&str> = case
        .confirmations
        .iter()
        .map(|step| match step {
            Step::Confirmed => "Confirmed",
            Step::Mismatch => "Mismatch",
            Step::Missing => "Missing",
            _ => "Foreign",
        })
        .collect();
    confirmations.dedup();
    let cloudtrail = if confirmations.is_empty() { "-".to_owned() } else { confirmations.join(", ") };
    let outcome = match (case.end, case.blocked) {
        (Some(CaseEnd::Closed(sentence)), _) => sentence.to_owned(),
        (Some(CaseEnd::Recovered(at)), _) => format!("recovered without repair at {}", times.time(at)),
        (None, Some(blocked)) => format!("blocked: {blocked}"),
        (None, None) if case.replaced.is_some() => "replaced, not closed yet".to_owned(),
        (None, None) => "open".to_owned(),
    };
    [names.short(case.node).to_owned(), fault, call, cloudtrail, times.text(&outcome)]
}

fn call_name(call: &RepairEvent) -> &str {
    let name = call.record.as_deref().map_or("call", |record| record.event_name.as_str());
    short_event_name(name)
}

/// The name of an API call as tables show it: Auto Scaling's is too long for a column.
pub(crate) fn short_event_name(name: &str) -> &str {
    if name == "TerminateInstanceInAutoScalingGroup" { "TerminateInstance" } else { name }
}

/// How node names are shown.
struct NodeNames {
    width: usize,
    first_label: bool,
}

impl NodeNames {
    /// Only the first label of a private DNS name is shown where all names share the rest.
    fn of(events: &[RepairEvent]) -> Self {
        let mut domains = events
            .iter()
            .filter_map(|event| event.node.as_ref())
            .filter_map(|node| node.as_str().split_once('.').map(|(_, domain)| domain));
        let first_label = domains.next().is_some_and(|first| domains.all(|domain| domain == first));
        let mut names = Self { width: 0, first_label };
        names.width = events
            .iter()
            .map(|event| names.short(case_summary::node_of(event)).chars().count())
            .max()
            .unwrap_or_default();
        names
    }

    fn short<'a>(&self, node: &'a str) -> &'a str {
        let name = if self.first_label { node.split('.').next().unwrap_or(node) } else { node };
        name.char_indices().nth(MAX_NAME).map_or(name, |(end, _)| &name[..end])
    }
}

/// A symbol and a color for each step; either alone tells the steps apart.
fn symbol(step: Step) -> (char, Style) {
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    match step {
        Step::Event => ('·', DIM),
        Step::Suspect => ('▲', color(AnsiColor::Yellow)),
        Step::Recovered => ('✓', color(AnsiColor::Green)),
        Step::Due => ('◷', color(AnsiColor::Yellow)),
        Step::Blocked => ('■', color(AnsiColor::Magenta)),
        Step::Claimed => ('◇', color(AnsiColor::Cyan)),
        Step::Called => ('◆', color(AnsiColor::Cyan).effects(Effects::BOLD)),
        Step::Confirmed => ('✓', color(AnsiColor::Green)),
        Step::Mismatch => ('≠', color(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Missing => ('∅', color(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Foreign => ('!', color(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Replaced => ('↻', color(AnsiColor::Green)),
        Step::Closed => ('●', color(AnsiColor::Green).effects(Effects::BOLD)),
    }
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn time(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// The text with each timestamp of this date shortened to its time.
fn without_date(text: &str, date: &str) -> String {
    let mut rest = text;
    let mut short = String::with_capacity(text.len());
    let mark = format!("{date}T");
    while let Some(start) = rest.find(&mark) {
        short.push_str(&rest[..start]);
        let after = &rest[start + mark.len()..];
        match after.as_bytes() {
            [_, _, b':', _, _, b':', _, _, b'Z', ..] => {
                short.push_str(&after[..8]);
                rest = &after[9..];
            }
            _ => {
                short.push_str(&mark);
                rest = after;
            }
        }
    }
    short.push_str(rest);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timestamps_of_the_same_day_lose_their_date() {
        for (text, expected) in [
            (
                "due 2026-08-20T10:45:44Z, 30m after 2026-08-20T10:15:44Z.",
                "due 10:45:44, 30m after 10:15:44.",
            ),
            ("until 2026-08-21T10:45:44Z", "until 2026-08-21T10:45:44Z"),
            ("2026-08-20T", "2026-08-20T"),
            ("2026-08-20T10:45:44.123Z", "2026-08-20T10:45:44.123Z"),
            ("2026-08-20Tä0:45:44Z", "2026-08-20Tä0:45:44Z"),
        ] {
            assert_eq!(without_date(text, "2026-08-20"), expected);
        }
    }
}
