//! The pages of `docs/` agree with the code: the policy's reference, the picture of the states and the diagram of the
//! transitions are generated from it, and the guards' page is checked against it. `UPDATE_GOLDEN=1` generates them again.

use std::{collections::BTreeSet, fmt::Write, fs, path::PathBuf};

use nodemend_domain::{
    case::{CaseState, transition},
    guard::GUARDS,
    policy::Policy,
};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}

#[track_caller]
fn hold(name: &str, made: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(name), made).expect(name);
    }
    assert!(text(name) == made, "{name} differs: UPDATE_GOLDEN=1 cargo test --test documents writes it");
}

/// One field of a struct, or one variant of an enum, as its source has it.
struct Member {
    name: String,
    kind: String,
    doc: String,
    /// Nothing stands in for it where it is left out.
    needed: bool,
}

/// The members of a type in a source file, and what is said of the type.
fn members(file: &str, start: &str) -> (String, Vec<Member>) {
    let source = text(file);
    let (before, rest) = source.split_once(start).expect(start);
    let doc_of = |lines: &mut Vec<&str>| {
        let said: Vec<_> = lines.iter().filter_map(|line| line.trim().strip_prefix("/// ")).collect();
        let said = said.join(" ");
        lines.clear();
        said
    };
    let above = before.lines().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut above: Vec<_> = above.collect();
    above.reverse();
    let about = doc_of(&mut above);
    let mut members = Vec::new();
    let mut pending = Vec::new();
    for line in rest.lines().skip(1).take_while(|line| *line != "}") {
        let plain = line.trim().trim_start_matches("pub ");
        if plain.starts_with("///") || plain.starts_with("#[") {
            pending.push(line);
            continue;
        }
        let member = plain.trim_end_matches(',');
        let (name, kind) = member.split_once(": ").unwrap_or((member, ""));
        let has_default = pending.iter().any(|line: &&str| line.contains("(default"));
        let needed = !has_default && !kind.starts_with("Option<");
        let (name, kind, doc) = (name.to_owned(), kind.to_owned(), doc_of(&mut pending));
        members.push(Member { name, kind, doc, needed });
    }
    assert!(
        members.iter().all(|member| !member.doc.is_empty()),
        "{file}: {start} has a member without a word"
    );
    (about, members)
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        written.push_str(&part[..1].to_uppercase());
        written.push_str(&part[1..]);
    }
    written
}

/// A type as people write its values.
fn kind(rust: &str) -> String {
    let inside = |prefix: &str| rust.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(inner) = inside("Option<") {
        return kind(inner);
    }
    if let Some(inner) = inside("Vec<") {
        return format!("list of {}", kind(inner));
    }
    if let Some((key, value)) = inside("BTreeMap<").and_then(|inner| inner.split_once(", ")) {
        return format!("map of {} to {}", kind(key), kind(value));
    }
    match rust {
        "String" | "ConditionType" | "ClusterName" | "GroupName" | "NodeName" => "string".to_owned(),
        "AccountId" => "string of 12 digits".to_owned(),
        "bool" => "true or false".to_owned(),
        "u64" | "usize" | "Number" => "number".to_owned(),
        "SignedDuration" => "duration".to_owned(),
        "Timestamp" => "timestamp".to_owned(),
        "Mode" => "`observe` or `repair`".to_owned(),
        "RepairAction" => "`Replace`, `Reboot` or `NoAction`".to_owned(),
        "WireOverride" => link("Override"),
        "NodeRepairConfig" | "Grace" | "MaintenanceWindow" | "GroupRule" | "Hold" | "Promotion"
        | "ZonePolicy" | "SilencePolicy" => link(rust),
        other => panic!("no words for the type {other}"),
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

/// A default as people write it; `PT15M` is `15m`.
fn default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.strip_prefix("PT") {
            Some(length) => format!("`{}`", length.to_lowercase()),
            None => format!("`{text}`"),
        },
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Object(fields) if fields.is_empty() => "none".to_owned(),
        Value::Object(_) => "see its section".to_owned(),
        other => format!("`{other}`"),
    }
}

const POLICY: &str = "functions/domain/src/policy.rs";

fn policy_reference() -> String {
    let mut made = String::from(
        "# Policy\n\nGenerated from `functions/domain/src/policy.rs`. A policy is YAML or JSON. Unknown fields\n\
         are refused. A *duration* is written like `90s`, `15m` or `1h 30m`, a *timestamp* like\n\
         `2026-08-20T10:00:00Z`. `*` in a name matches any characters. Fields with a default can be left out.\n\
         `nodemend policy check FILE` prints what a policy means.\n\n\
         ```yaml\nmode: repair\nnodeRepairConfig: {enabled: true, maxParallelNodesRepairedCount: 2}\ngroups:\n- name: gpu-*\n  mode: observe\n\
         maintenanceWindows:\n- {days: [Sat, Sun], start: \"22:00\", end: \"04:00\", timeZone: Europe/Berlin}\n```\n",
    );
    let defaults = serde_json::to_value(Policy::default()).expect("JSON");
    for (title, file, start, defaults) in [
        ("Policy", POLICY, "pub struct Policy {", &defaults),
        (
            "NodeRepairConfig",
            "functions/domain/src/policy/limits.rs",
            "struct Wire {",
            &defaults["nodeRepairConfig"],
        ),
        ("Override", "functions/domain/src/policy/limits.rs", "struct WireOverride {", &Value::Null),
        ("Grace", POLICY, "pub struct Grace {", &defaults["grace"]),
        ("GroupRule", POLICY, "pub struct GroupRule {", &Value::Null),
        ("MaintenanceWindow", "functions/domain/src/policy/window.rs", "struct Wire {", &Value::Null),
        ("Hold", POLICY, "pub struct Hold {", &Value::Null),
        ("Promotion", POLICY, "pub struct Promotion {", &Value::Null),
        ("ZonePolicy", POLICY, "pub struct ZonePolicy {", &defaults["zones"]),
        ("SilencePolicy", POLICY, "pub struct SilencePolicy {", &defaults["silence"]),
    ] {
        let (about, fields) = members(file, start);
        let about = match title {
            "NodeRepairConfig" => {
                "EKS's `nodeRepairConfig`, field for field. Disabled by default, as in EKS."
            }
            "Override" => "An action and a grace period for one condition and reason.",
            "MaintenanceWindow" => "A daily time window, on some or all days of the week.",
            _ => &about,
        };
        let _ = write!(
            made,
            "\n## {title}\n\n{about}\n\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n"
        );
        for field in fields {
            let name = camel_case(&field.name);
            let default = match defaults.get(&name) {
                None if field.needed && !defaults.is_object() => "required".to_owned(),
                known => default(known.unwrap_or(&Value::Null)),
            };
            let _ = writeln!(made, "| `{name}` | {} | {default} | {} |", kind(&field.kind), field.doc);
        }
    }
    made
}

#[test]
fn the_policys_reference_is_the_types() {
    hold("docs/policy.md", &policy_reference());
}

#[test]
fn the_policy_in_the_reference_can_be_applied() {
    let reference = text("docs/policy.md");
    let example =
        reference.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("YAML");
    nodemend_ports::config::read_policy(example).expect("a policy");
}

#[test]
fn every_state_is_told_of_as_in_the_code() {
    let (_, states) = members("functions/domain/src/case/state.rs", "pub enum CaseState {");
    let page = text("docs/deciding.md");
    let table =
        page.split("<!-- states").nth(1).and_then(|rest| rest.split("<!-- end").next()).expect("a table");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let made: Vec<_> =
        states.iter().map(|state| format!("| `{}` | {} |", state.name.to_lowercase(), state.doc)).collect();
    assert_eq!(rows, made);
}

/// What a guard's function writes, as a reader meets it: a name or a number is `…`.
fn sentences(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Joined over the lines that a long text is broken into; none of them has an escaped quote.
    for (number, text) in source.split('"').enumerate() {
        if number % 2 == 0 {
            continue;
        }
        let mut said = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            said.push_str(before);
            said.push('…');
            rest = after.split_once('}').map_or("", |(_, rest)| rest);
        }
        said.push_str(rest);
        found.insert(said);
    }
    found
}

/// Words that the functions name for other ends: faults of the simulation, reasons, tags' values, a plural's ending.
const NO_SENTENCES: [&str; 8] = ["disabled", "FailedToJoin", "Launch", "Terminate", "", "s", "…", "20 %"];

#[test]
fn every_guard_has_its_place_and_its_words() {
    let page = text("docs/guards.md");
    let sections: Vec<(&str, &str)> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a title")).collect();
    let titles: Vec<_> = sections.iter().map(|(title, _)| (*title).to_owned()).collect();
    let names: Vec<_> = GUARDS.iter().map(|(guard, _)| guard.name()).collect();
    assert_eq!(titles, names, "the guards, in the order in which they are asked");
    let source = text("functions/domain/src/guard.rs");
    for (name, section) in sections {
        for part in ["**Blocks when**", "**Message**", "**How to resolve**"] {
            assert!(section.contains(part), "{name} lacks {part}");
        }
        // As it stands on the page, over however many lines.
        let said = section.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        let function =
            source.split(&format!("pub fn {snake}(")).nth(1).unwrap_or_else(|| panic!("fn {snake}"));
        let function = function.split("\n}\n").next().unwrap_or_default();
        let sentences = sentences(function);
        let mut shown = 0;
        for sentence in sentences.iter().filter(|one| !NO_SENTENCES.contains(&one.as_str())) {
            assert!(said.contains(&format!("`{sentence}`")), "{name} does not show `{sentence}`");
            shown += 1;
        }
        assert!(shown > 0, "{name} says nothing");
        // And nothing is shown that is not said.
        let reads =
            said.split("**Message**").nth(1).and_then(|rest| rest.split("- **How to").next()).expect(name);
        for shown in reads.split('`').skip(1).step_by(2) {
            assert!(sentences.contains(shown), "{name} never says `{shown}`");
        }
    }
}

/// Where a state stands in the picture.
const PLACES: [(CaseState, i32, i32); 11] = [
    (CaseState::Healthy, 20, 120),
    (CaseState::Silent, 20, 20),
    (CaseState::Suspect, 210, 120),
    (CaseState::Recovering, 210, 240),
    (CaseState::Due, 400, 120),
    (CaseState::Blocked, 400, 240),
    (CaseState::Claimed, 590, 120),
    (CaseState::Acting, 780, 120),
    (CaseState::Confirming, 970, 120),
    (CaseState::Rebooting, 780, 240),
    (CaseState::Closed, 970, 240),
];

/// What leads from one to another: the line's points, what it is called, and where that stands.
const WAYS: [(CaseState, CaseState, &str, &str, i32, i32); 19] = [
    (CaseState::Healthy, CaseState::Suspect, "M130 134 H210", "condition bad", 170, 128),
    (CaseState::Healthy, CaseState::Silent, "M60 120 V56", "silent", 28, 92),
    (CaseState::Silent, CaseState::Healthy, "M95 56 V120", "reports", 120, 92),
    (CaseState::Suspect, CaseState::Due, "M320 138 H400", "grace over", 360, 132),
    (CaseState::Suspect, CaseState::Recovering, "M245 156 V240", "healthy", 228, 202),
    (CaseState::Recovering, CaseState::Suspect, "M285 240 V156", "bad again", 316, 186),
    (CaseState::Recovering, CaseState::Healthy, "M210 258 H75 V156", "recovery held", 110, 252),
    (CaseState::Due, CaseState::Claimed, "M510 138 H590", "no guard", 550, 132),
    (CaseState::Due, CaseState::Blocked, "M435 156 V240", "guard", 408, 202),
    (CaseState::Due, CaseState::Recovering, "M415 156 L320 245", "healthy", 362, 224),
    (CaseState::Blocked, CaseState::Claimed, "M510 250 L600 156", "no guard", 590, 216),
    (CaseState::Blocked, CaseState::Recovering, "M400 262 H320", "healthy", 360, 276),
    (CaseState::Claimed, CaseState::Acting, "M700 138 H780", "recorded", 740, 132),
    (
        CaseState::Claimed,
        CaseState::Recovering,
        "M640 156 V310 H250 V276",
        "healthy before the call",
        470,
        304,
    ),
    (CaseState::Acting, CaseState::Confirming, "M890 138 H970", "called", 930, 132),
    (CaseState::Acting, CaseState::Rebooting, "M835 156 V240", "rebooted", 866, 202),
    (CaseState::Acting, CaseState::Claimed, "M780 150 H700", "refused", 740, 164),
    (CaseState::Confirming, CaseState::Closed, "M1025 156 V240", "closed", 1052, 202),
    (CaseState::Rebooting, CaseState::Claimed, "M800 240 L690 156", "not healthy", 772, 192),
];

/// A reboot that cured leads back to where all is well: a way around everything else.
const CURED: &str = "M835 276 V340 H45 V156";

fn picture() -> String {
    let mut made = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1100 360\" width=\"1100\" height=\"360\" role=\"img\">\n\
         <title>the states of a case</title>\n\
         <style>text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #24292f; text-anchor: middle } \
         .way { font-size: 10px; fill: #6e7781 } path { stroke: #6e7781; fill: none } .tip { fill: #6e7781; stroke: none } \
         rect { fill: #f6f8fa; stroke: #d0d7de } .back { fill: #ffffff; stroke: none } .unhealthy { fill: #f2cc60 } .blocked { fill: #d8b9ff } \
         .acting { fill: #9ecbff } .end { fill: #d0d7de } .healthy { fill: #b4e6c0 } \
         @media (prefers-color-scheme: dark) { .back { fill: #0d1117 } .way { fill: #8d96a0 } path { stroke: #8d96a0 } .tip { fill: #8d96a0 } }</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path class=\"tip\" d=\"M0 0 L8 4 L0 8 Z\"/></marker></defs>\n\
         <rect class=\"back\" width=\"1100\" height=\"360\"/>\n",
    );
    for (from, to, points, label, x, y) in WAYS {
        let _ = writeln!(
            made,
            "<path d=\"{points}\" marker-end=\"url(#tip)\"><title>{} to {}</title></path>\n<text class=\"way\" x=\"{x}\" y=\"{y}\">{label}</text>",
            from.as_str(),
            to.as_str()
        );
    }
    let _ = writeln!(
        made,
        "<path d=\"{CURED}\" marker-end=\"url(#tip)\"><title>rebooting to healthy</title></path>\n<text class=\"way\" x=\"470\" y=\"334\">healthy after the reboot</text>"
    );
    for (state, x, y) in PLACES {
        let class = match state {
            CaseState::Healthy => "healthy",
            CaseState::Silent | CaseState::Recovering | CaseState::Suspect | CaseState::Due => "unhealthy",
            CaseState::Blocked => "blocked",
            CaseState::Claimed | CaseState::Acting | CaseState::Confirming | CaseState::Rebooting => "acting",
            CaseState::Closed => "end",
        };
        let _ = writeln!(
            made,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"110\" height=\"36\" rx=\"6\"/>\n<text x=\"{}\" y=\"{}\">{}</text>",
            x + 55,
            y + 22,
            state.as_str()
        );
    }
    made.push_str("</svg>\n");
    made
}

#[test]
fn every_state_is_in_the_picture_once_and_can_be_reached() {
    let (_, states) = members("functions/domain/src/case/state.rs", "pub enum CaseState {");
    let drawn: BTreeSet<_> = PLACES.iter().map(|(state, ..)| state.as_str().to_owned()).collect();
    assert_eq!(drawn, states.iter().map(|state| state.name.to_lowercase()).collect());
    assert_eq!(drawn.len(), PLACES.len());
    for (state, ..) in PLACES {
        assert!(WAYS.iter().any(|(_, to, ..)| *to == state), "nothing leads to {}", state.as_str());
    }
    hold("docs/pictures/states.svg", &picture());
}

#[test]
fn the_transitions_are_those_of_the_state_machine() {
    const BEGIN: &str = "by tests/documents.rs -->\n\n```mermaid\n";
    const END: &str = "```\n\n<!-- end of transitions -->";
    let page = text("docs/deciding.md");
    let (before, rest) = page.split_once(BEGIN).expect("where the diagram begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    hold("docs/deciding.md", &format!("{before}{BEGIN}{}{END}{after}", transition::mermaid()));
}
