//! Turns the comparison into one page: tables, a timeline, nothing from elsewhere and nothing that runs.

use std::fmt::{self, Write};

use nodemend_domain::stamp;

use super::{
    progress::bytes,
    report::{Comparison, Line, Sums, Terms, Verdicts},
    text::{COLUMNS, cells, counted, length},
    timeline,
};

/// More repairs than this are left to JSON.
const MAX_LINES: usize = 1_000;

const STYLE: &str = "\
:root { color-scheme: light dark; --text: #1f2328; --dim: #59636e; --back: #ffffff; --soft: #f6f8fa; --line: #d1d9e0;\
 --true: #1a7f37; --false: #cf222e; --unclear: #59636e; --lost: #8a4600; --spared: #0757b5 }\
@media (prefers-color-scheme: dark) { :root { --text: #f0f6fc; --dim: #a3adb8; --back: #0d1117; --soft: #161b22;\
 --line: #3d444d; --true: #56d364; --false: #ff8a80; --unclear: #a3adb8; --lost: #e3b341; --spared: #79c0ff } }\
* { box-sizing: border-box } body { margin: 0 auto; padding: 1.5rem; max-width: 80rem; background: var(--back);\
 color: var(--text); font: 15px/1.5 system-ui, sans-serif }\
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem } .dim { color: var(--dim) }\
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }\
caption { text-align: left; color: var(--dim); padding: .3rem 0 } th, td { padding: .3rem .7rem; text-align: left;\
 border-bottom: 1px solid var(--line); vertical-align: top } thead th { background: var(--soft); white-space: nowrap }\
td.n, th.n { text-align: right; white-space: nowrap } th[scope=row] { font-weight: 600 } .bad { color: var(--false); font-weight: 600 }\
svg { width: 100%; min-width: 50rem; height: auto; display: block } svg text { font: 12px system-ui, sans-serif; fill: var(--text) }\
svg text.dim { fill: var(--dim) } .tick { stroke: var(--line) } .lane { stroke: var(--line); stroke-width: 6 }\
g.true { fill: var(--true) } g.false { stroke: var(--false); stroke-width: 2.5; fill: none }\
g.unclear { fill: var(--back); stroke: var(--unclear); stroke-width: 2 } g.lost { fill: var(--lost) } g.spared { fill: var(--spared) }\
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0; list-style: none } .key svg { display: inline; width: 16px;\
 min-width: 0; vertical-align: -3px } details { margin: .5rem 0 } summary { cursor: pointer; font-weight: 600 }\
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--spared); outline-offset: 2px }";

/// The page.
pub(super) fn page(comparison: &Comparison) -> String {
    let mut page = String::new();
    // Writing to a string never fails.
    let _ = write(&mut page, comparison);
    page
}

fn write(out: &mut String, comparison: &Comparison) -> fmt::Result {
    let facts = &comparison.history;
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>nodemend backtest</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>What each policy would have done</h1>"
    )?;
    let span = match (facts.from, facts.to) {
        (Some(from), Some(to)) => format!("From {} to {}", stamp::seconds(from), stamp::seconds(to)),
        _ => "Nothing that tells a time".to_owned(),
    };
    writeln!(
        out,
        "<p>{span}: {}, {}, {} ({} on disk) in {}.{}</p>",
        counted(facts.nodes, "node"),
        counted(facts.lines, "line"),
        bytes(facts.bytes),
        bytes(facts.bytes_on_disk),
        counted(facts.files, "file"),
        if facts.unreadable > 0 {
            format!(
                " <strong class=\"bad\">{} could not be read.</strong>",
                counted(facts.unreadable, "line")
            )
        } else {
            String::new()
        },
    )?;
    policies(out, comparison)?;
    writeln!(
        out,
        "<h2>Timeline</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Timeline\">"
    )?;
    timeline::draw(out, comparison)?;
    writeln!(out, "</div>")?;
    key(out)?;
    for policy in &comparison.policies {
        by_day(out, policy)?;
    }
    assumed(out, &comparison.assumed)?;
    writeln!(out, "</main>\n</body>\n</html>")
}

fn policies(out: &mut String, comparison: &Comparison) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Policies\"><table id=\"policies\">\n\
         <caption>All groups and days together</caption>\n<thead><tr><th scope=\"col\">policy</th>\
         <th scope=\"col\" class=\"n\">due</th>{}<th scope=\"col\" class=\"n\">sooner</th><th scope=\"col\">lost to</th></tr></thead>\n<tbody>",
        head(),
    )?;
    for policy in &comparison.policies {
        let lost: Vec<String> =
            policy.lost_to.iter().map(|(guard, count)| format!("{} {count}", escape(guard))).collect();
        writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td>{}<td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&policy.name),
            policy.due,
            numbers(&policy.totals),
            length(policy.totals.sooner_seconds),
            lost.join(", "),
        )?;
    }
    writeln!(out, "</tbody>\n</table></div>")
}

fn head() -> String {
    COLUMNS.iter().map(|name| format!("<th scope=\"col\" class=\"n\">{name}</th>")).collect()
}

fn numbers(sums: &Sums) -> String {
    let bad = |name: &str, cell: &str| if name == "false" && cell != "0" { " bad" } else { "" };
    COLUMNS
        .iter()
        .zip(cells(sums))
        .map(|(name, cell)| format!("<td class=\"n{}\">{cell}</td>", bad(name, &cell)))
        .collect()
}

fn key(out: &mut String) -> fmt::Result {
    let mark = |class: &str, shape: &str, text: &str| {
        format!(
            "<li><svg viewBox=\"0 0 16 16\" aria-hidden=\"true\"><g class=\"{class}\">{shape}</g></svg> {text}</li>"
        )
    };
    writeln!(
        out,
        "<ul class=\"key\">{}{}{}{}{}</ul>",
        mark("true", "<circle cx=\"8\" cy=\"8\" r=\"5\"/>", "repaired, and rightly"),
        mark(
            "false",
            "<path d=\"M3 3l10 10m0 -10l-10 10\"/>",
            "repaired, and it would have become well by itself"
        ),
        mark("unclear", "<circle cx=\"8\" cy=\"8\" r=\"4.5\"/>", "the history ends too soon to tell"),
        mark("lost", "<path d=\"M8 2.5l5.5 10h-11z\"/>", "withheld by a guard, and it stayed sick"),
        mark("spared", "<path d=\"M3.5 3.5h9v9h-9z\"/>", "withheld by a guard, and it became well by itself"),
    )
}

fn by_day(out: &mut String, policy: &Verdicts) -> fmt::Result {
    let name = escape(&policy.name);
    writeln!(
        out,
        "<h2>{name}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name} by group and day\">\
         <table class=\"days\">\n<caption>By group and day (UTC)</caption>\n<thead><tr><th scope=\"col\">group</th><th scope=\"col\">day</th>{}</tr></thead>\n<tbody>",
        head(),
    )?;
    for group in &policy.groups {
        for (day, sums) in &group.days {
            writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{day}</td>{}</tr>",
                escape(&group.group),
                numbers(sums),
            )?;
        }
    }
    writeln!(out, "</tbody>\n</table></div>")?;
    let all: Vec<(&Line, &str)> = policy
        .repairs
        .iter()
        .map(|line| (line, timeline::kind(line, true)))
        .chain(policy.withheld.iter().map(|line| (line, timeline::kind(line, false))))
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    let count = all.len();
    writeln!(
        out,
        "<details><summary>Each of the {count} repairs that were called or withheld</summary>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}, each repair\"><table class=\"repairs\">\n\
         <caption>In the order in which they were called, then those that were withheld</caption>\n\
         <thead><tr><th scope=\"col\">at</th><th scope=\"col\">node</th><th scope=\"col\">group</th><th scope=\"col\">reason</th>\
         <th scope=\"col\">call</th><th scope=\"col\" class=\"n\">wait</th><th scope=\"col\">guards in the way</th>\
         <th scope=\"col\">verdict</th><th scope=\"col\">in the history</th></tr></thead>\n<tbody>"
    )?;
    for (line, kind) in all.iter().take(MAX_LINES) {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td><td{}>{kind}</td><td>{}</td></tr>",
            stamp::seconds(line.at),
            escape(&line.node),
            escape(&line.group),
            escape(&line.reason),
            escape(line.call.as_deref().unwrap_or("none")),
            length(line.at.duration_since(line.since).as_secs()),
            escape(&timeline::join(line)),
            if *kind == "false" { " class=\"bad\"" } else { "" },
            escape(&line.ending),
        )?;
    }
    writeln!(out, "</tbody>\n</table></div>")?;
    if count > MAX_LINES {
        writeln!(out, "<p>And {} more: <code>--format json</code> has them all.</p>", count - MAX_LINES)?;
    }
    writeln!(out, "</details>")
}

fn assumed(out: &mut String, terms: &Terms) -> fmt::Result {
    let replaced = match terms.replacement_after_seconds {
        Some(seconds) => format!(
            "Of a call that the history does not tell of, it is assumed that a replacement was ready {} later",
            length(seconds)
        ),
        None => "Of a call that the history does not tell of, nothing is assumed".to_owned(),
    };
    writeln!(
        out,
        "<h2>What counts</h2>\n<p>A repair that was never made leaves no mark in the history, which goes on to show the old node. \
         So a repair is judged by what became of its node. Well by itself within {} of the call, and that held: a false repair. \
         Gone, rebooted or sick for longer: a true one. Unclear: the history ends before. <em>Lost</em>: a repair was due, and guards \
         withheld it until the trouble was over; <em>spared</em>: and the node was well by itself. <em>Sooner</em>: how much sooner than \
         they ended in the history the troubles of true repairs would have been acted on, in all.</p>\n<p class=\"dim\">{replaced}. \
         A reboot is taken to have changed nothing that the history does not show. The clock ran on for {} after the last line. Mode: {}.</p>",
        length(terms.false_within_seconds),
        length(terms.run_on_seconds),
        terms.mode,
    )
}

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_bring_markup_of_its_own() {
        assert_eq!(escape("<a href=\"x\">'&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp; ");
    }
}
