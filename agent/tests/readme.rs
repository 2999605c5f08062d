//! The table in `agent/README.md` is what the catalogue and the agent's own detectors and probes say.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use nodemend_agent::{
    config::{Config, Settings},
    detect::Detector,
    probe,
};
use nodemend_domain::{
    catalogue::{ENTRIES, Entry},
    condition::{ConditionType, Severity},
};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- generated: UPDATE_GOLDEN=1 cargo test -p nodemend-agent --test readme -->\n";
const END: &str = "<!-- end of what is generated -->\n";

fn config() -> Config {
    Settings::default().check().expect("the defaults")
}

/// Who in the agent sees each reason: `lines`, and the names of probes.
fn seen_by() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut seen: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
    for reason in Detector::reasons() {
        seen.entry(reason).or_default().push("lines");
    }
    // The kernel log's own source sees what it lost.
    seen.entry("KernelLogOverrun").or_default().push("lines");
    for probe in probe::all(&config()) {
        for reason in probe.reasons() {
            seen.entry(reason).or_default().push(probe.name());
        }
    }
    seen
}

fn row(entry: &Entry, seen: &BTreeMap<&str, Vec<&str>>) -> String {
    let severity = match (entry.severity, entry.may_be_event) {
        (Severity::Condition, true) => "Condition or Event",
        (Severity::Condition, false) => "Condition",
        (Severity::Event, _) => "Event",
    };
    let seen_by = match seen.get(entry.reason) {
        Some(names) => names.join(", "),
        None => "not yet".to_owned(),
    };
    let clears: Vec<String> = entry.clears.iter().map(|clear| clear.describe()).collect();
    let ours = if entry.ours { " **+**" } else { "" };
    format!(
        "| {}{ours} | {severity} | {seen_by} | {} | {} |\n",
        entry.reason,
        clears.join(", "),
        entry.meaning
    )
}

fn generated() -> String {
    let seen = seen_by();
    let mut text = String::new();
    for condition in ConditionType::AGENT {
        let _ = write!(
            text,
            "\n### {condition}\n\n| Reason | Severity | Seen in | Clears | Meaning |\n|---|---|---|---|---|\n"
        );
        for entry in ENTRIES.iter().filter(|entry| entry.condition == condition) {
            text.push_str(&row(entry, &seen));
        }
    }
    text.push_str("\n### Probes\n\n| Probe | Read every | Reasons |\n|---|---|---|\n");
    for probe in probe::all(&config()) {
        let reasons = probe.reasons().join(", ");
        let _ = writeln!(text, "| {} | {} s | {reasons} |", probe.name(), probe.interval().as_secs());
    }
    text.push('\n');
    text
}

#[test]
fn the_documented_table_is_the_codes() {
    let readme = fs::read_to_string(README).expect("agent/README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("where the table begins");
    let (table, after) = rest.split_once(END).expect("where the table ends");
    let expected = generated();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(README, format!("{before}{BEGIN}{expected}{END}{after}"))
            .expect("agent/README.md is written");
        return;
    }
    assert!(table == expected, "agent/README.md differs: UPDATE_GOLDEN=1 writes it");
}
