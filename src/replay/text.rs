//! Turns the steps of a replay into a timeline for people, with the trail record and what came of it at the end.
//!
//! The reader is tired and wants to know three things: what happened to which node, why nothing was done or why
//! something was, and whether it is well now. So: one lane of time, a gap in it shown as a gap, one line a step,
//! and each thing that stands in the way on a line of its own.

use std::io::{self, Write};

use anstyle::{AnsiColor, Effects, Style};
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    occurrence::{Occurrence, Step},
    stamp,
};

use super::{
    pretty,
    story::{self, End, Story},
};
use crate::table;

/// The whole width: of a terminal side by side with another, and of a page on paper.
const WIDTH: usize = 116;
/// A silence that is worth a line.
const GAP: SignedDuration = SignedDuration::from_mins(2);
/// More nodes' names than this are cut: the instance id tells them apart.
const MAX_NAME: usize = 28;
const DIM: Style = Style::new().effects(Effects::DIMMED);
const BOLD: Style = Style::new().effects(Effects::BOLD);

/// Writes it all.
pub(super) fn write(out: &mut impl Write, occurrences: &[Occurrence]) -> io::Result<()> {
    let Some(first) = occurrences.first() else {
        return writeln!(out, "Nothing happened: no event tells of a node in trouble.");
    };
    let names = Names::of(occurrences);
    writeln!(out, "{BOLD}{} UTC · cluster {}{BOLD:#}", date(first.at), first.cluster)?;
    let mut before = first.at;
    for occurrence in occurrences {
        pause(out, before, occurrence.at)?;
        line(out, occurrence, &names)?;
        before = occurrence.at;
    }
    records(out, occurrences)?;
    summary(out, occurrences, &names)
}

/// The time that passes between two steps.
fn pause(out: &mut impl Write, before: Timestamp, at: Timestamp) -> io::Result<()> {
    let gap = at.duration_since(before);
    if gap >= GAP {
        writeln!(out, "{DIM}         ┆ {}{DIM:#}", stamp::length(gap))?;
    }
    if date(before) != date(at) {
        writeln!(out, "{BOLD}{}{BOLD:#}", date(at))?;
    }
    Ok(())
}

fn line(out: &mut impl Write, occurrence: &Occurrence, names: &Names) -> io::Result<()> {
    let (glyph, style) = look(occurrence.step);
    let name = names.short(story::node_of(occurrence));
    let indent = 8 + 3 + 2 + 10 + names.width + 2;
    write!(
        out,
        "{} {DIM}│{DIM:#} {style}{glyph} {:9}{style:#} {:width$}  ",
        time(occurrence.at),
        occurrence.step.as_str(),
        name,
        width = names.width,
    )?;
    let says = saying(occurrence);
    let mut first = true;
    for part in says.parts {
        for line in textwrap::wrap(&part, whole_words(WIDTH - indent)) {
            if !first {
                write!(out, "         {DIM}│{DIM:#}{:pad$}", "", pad = indent - 10)?;
            }
            // The reason leads, so that an eye that runs down the page finds it.
            match says.reason.filter(|reason| first && line.starts_with(*reason)) {
                Some(reason) => writeln!(out, "{BOLD}{reason}{BOLD:#}{}", &line[reason.len()..])?,
                None => writeln!(out, "{line}")?,
            }
            first = false;
        }
    }
    if first { writeln!(out) } else { Ok(()) }
}

/// Ids hold hyphens: a line breaks at spaces only.
fn whole_words(width: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation)
}

struct Saying<'a> {
    reason: Option<&'a str>,
    parts: Vec<String>,
}

/// What a step's line says: the reason where it is news, and each guard's sentence on a line of its own.
fn saying(occurrence: &Occurrence) -> Saying<'_> {
    let detail = without_date(&occurrence.detail, &date(occurrence.at));
    let news = matches!(occurrence.step, Step::Event | Step::Suspect | Step::Foreign);
    let reason = occurrence.reason.as_deref().filter(|_| news);
    let parts = match (reason, occurrence.step) {
        (_, Step::Blocked | Step::Mismatch) => detail.split("; ").map(str::to_owned).collect(),
        (Some(reason), _) if detail.is_empty() => vec![reason.to_owned()],
        (Some(reason), _) => vec![format!("{reason}: {detail}")],
        (None, _) => vec![detail],
    };
    Saying { reason, parts }
}

/// The trail's record of the calls: one in full, and where the others are.
fn records(out: &mut impl Write, occurrences: &[Occurrence]) -> io::Result<()> {
    let records: Vec<_> = occurrences
        .iter()
        .filter_map(|occurrence| occurrence.record.as_deref().zip(Some(occurrence)))
        .collect();
    let Some((record, occurrence)) = records.last() else { return Ok(()) };
    writeln!(
        out,
        "\n{BOLD}The trail's record{BOLD:#} of {} {DIM}(case {}){DIM:#}",
        record.event_name, occurrence.case
    )?;
    let line = record.to_json_line();
    writeln!(out, "{}", pretty::pretty(&line, WIDTH).unwrap_or(line))?;
    match records.len() - 1 {
        0 => Ok(()),
        1 => writeln!(out, "{DIM}One more: --format json shows it.{DIM:#}"),
        more => writeln!(out, "{DIM}{more} more: --format json shows them.{DIM:#}"),
    }
}

/// Fault → call → healthy replacement, a line a case.
fn summary(out: &mut impl Write, occurrences: &[Occurrence], names: &Names) -> io::Result<()> {
    let stories = story::stories(occurrences);
    let days = occurrences.first().map(|first| date(first.at)).into_iter();
    let days: Vec<String> = days.chain(occurrences.last().map(|last| date(last.at))).collect();
    let clock = Clock { day: days.first().filter(|_| days.windows(2).all(|pair| pair[0] == pair[1])) };
    let rows: Vec<[String; 5]> = stories.iter().map(|story| row(story, names, clock)).collect();
    if !rows.is_empty() {
        writeln!(out, "\n{BOLD}What came of it{BOLD:#}")?;
        table::write(out, "  ", ["node", "fault", "call", "CloudTrail", "outcome"], &rows)?;
    }
    let counts: Vec<String> = story::counts(occurrences)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(step, count)| format!("{count} {}", step.as_str()))
        .collect();
    writeln!(out, "\n{DIM}{}{DIM:#}", counts.join(" · "))
}

/// How the table tells the time: without the date, where all is of one day.
#[derive(Clone, Copy)]
struct Clock<'a> {
    day: Option<&'a String>,
}

impl Clock<'_> {
    fn time(self, at: Timestamp) -> String {
        if self.day.is_some() { time(at) } else { at.strftime("%m-%d %H:%M:%S").to_string() }
    }

    fn text(self, text: &str) -> String {
        self.day.map_or_else(|| text.to_owned(), |day| without_date(text, day))
    }
}

fn row(story: &Story<'_>, names: &Names, clock: Clock<'_>) -> [String; 5] {
    let fault = match story.fault {
        Some((at, reason)) => format!("{} {reason}", clock.time(at)),
        None => "-".to_owned(),
    };
    let call = match story.calls.last() {
        Some(call) => format!("{} {}", clock.time(call.at), call_name(call)),
        None => "-".to_owned(),
    };
    let mut verdicts: Vec<&str> = story
        .verdicts
        .iter()
        .map(|step| match step {
            Step::Confirmed => "Confirmed",
            Step::Mismatch => "Mismatch",
            Step::Missing => "Missing",
            _ => "Foreign",
        })
        .collect();
    verdicts.dedup();
    let cloudtrail = if verdicts.is_empty() { "-".to_owned() } else { verdicts.join(", ") };
    let outcome = match (story.end, story.blocked) {
        (Some(End::Closed(_, how)), _) => how.to_owned(),
        (Some(End::Recovered(at)), _) => format!("recovered by itself at {}", clock.time(at)),
        (None, Some(blocked)) => format!("waits: {blocked}"),
        (None, None) if story.replaced.is_some() => "replaced, not closed yet".to_owned(),
        (None, None) => "open".to_owned(),
    };
    [names.short(story.node).to_owned(), fault, call, cloudtrail, clock.text(&outcome)]
}

fn call_name(call: &Occurrence) -> &str {
    let name = call.record.as_deref().map_or("call", |record| record.event_name.as_str());
    if name == "TerminateInstanceInAutoScalingGroup" { "TerminateInstance" } else { name }
}

/// How nodes are called here.
struct Names {
    width: usize,
    first_label: bool,
}

impl Names {
    /// Private DNS names differ in their first label: the rest says nothing, if it is the same for all.
    fn of(occurrences: &[Occurrence]) -> Self {
        let mut domains = occurrences
            .iter()
            .filter_map(|occurrence| occurrence.node.as_ref())
            .filter_map(|node| node.as_str().split_once('.').map(|(_, domain)| domain));
        let first_label = domains.next().is_some_and(|first| domains.all(|domain| domain == first));
        let mut names = Self { width: 0, first_label };
        names.width = occurrences
            .iter()
            .map(|occurrence| names.short(story::node_of(occurrence)).chars().count())
            .max()
            .unwrap_or_default();
        names
    }

    fn short<'a>(&self, node: &'a str) -> &'a str {
        let name = if self.first_label { node.split('.').next().unwrap_or(node) } else { node };
        name.char_indices().nth(MAX_NAME).map_or(name, |(end, _)| &name[..end])
    }
}

/// How a step looks: a sign and a colour, of which either alone is enough.
fn look(step: Step) -> (char, Style) {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match step {
        Step::Event => ('·', DIM),
        Step::Suspect => ('▲', colour(AnsiColor::Yellow)),
        Step::Recovered => ('✓', colour(AnsiColor::Green)),
        Step::Due => ('◷', colour(AnsiColor::Yellow)),
        Step::Blocked => ('■', colour(AnsiColor::Magenta)),
        Step::Claimed => ('◇', colour(AnsiColor::Cyan)),
        Step::Called => ('◆', colour(AnsiColor::Cyan).effects(Effects::BOLD)),
        Step::Confirmed => ('✓', colour(AnsiColor::Green)),
        Step::Mismatch => ('≠', colour(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Missing => ('∅', colour(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Foreign => ('!', colour(AnsiColor::Red).effects(Effects::BOLD)),
        Step::Replaced => ('↻', colour(AnsiColor::Green)),
        Step::Closed => ('●', colour(AnsiColor::Green).effects(Effects::BOLD)),
    }
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn time(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// Instants of the day that the line stands under lose their date.
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
    fn instants_of_the_same_day_lose_their_date_and_nothing_else() {
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
