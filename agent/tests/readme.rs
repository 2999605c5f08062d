//! The table in `agent/README.md` matches the catalogue and the agent's detectors and probes.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use nodemend_agent::{
    config::{Config, Settings},
    detect::Detector,
    probe,
};
use nodemend_domain::{
    catalogue::{ENTRIES, ReasonEntry},
    condition::{ConditionType, Severity},
};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- generated: UPDATE_GOLDEN=1 cargo test -p nodemend-agent --test readme -->\n";
const END: &str = "<!-- end of the generated part -->\n";

fn config() -> Config {
    Settings::default().check().expect("the defaults")
}

/// What detects each reason: `lines`, and the names of probes.
fn detected_by() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut detectors: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
    for reason in Detector::reasons() {
        detectors.entry(reason).or_default().push("lines");
    }
    // The kernel log source itself reports lost records.
    detectors.entry("KernelLogOverrun").or_default().push("lines");
    for probe in probe::all(&config()) {
        for reason in probe.reasons() {
            detectors.entry(reason).or_default().push(probe.name());
        }
    }
    detectors
}

fn row(entry: &ReasonEntry, detectors: &BTreeMap<&str, Vec<&str>>) -> String {
    let severity = match (entry.severity, entry.may_be_event) {
        (Severity::Condition, true) => "Condition or Event",
        (Severity::Condition, false) => "Condition",
        (Severity::Event, _) => "Event",
    };
    let detected_by = match detectors.get(entry.reason) {
        Some(names) => names.join(", "),
        None => "not yet".to_owned(),
    };
    let clears: Vec<String> = entry.clears.iter().map(|clear| clear.describe()).collect();
    let ours = if entry.ours { " **+**" } else { "" };
    format!(
        "| {}{ours} | {severity} | {detected_by} | {} | {} |\n",
        entry.reason,
        clears.join(", "),
        entry.meaning
    )
}

fn generated() -> String {
    let detectors = detected_by();
    let mut text = String::new();
    for condition in ConditionType::AGENT {
        let _ = write!(
            text,
            "\n### {condition}\n\n| Reason | Severity | Detected by | Clears | Meaning |\n|---|---|---|---|---|\n"
        );
        for entry in ENTRIES.iter().filter(|entry| entry.condition == condition) {
            text.push_str(&row(entry, &detectors));
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
fn the_documented_table_matches_the_code() {
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
