//! `docs/policy.md`: generated from the types of a policy, and compared with what the policy parser does.

use std::{fmt::Write, iter};

use nodemend_domain::policy::Policy;
use nodemend_ports::config::read_policy;
use serde_json::{Map, Value, json};

use crate::{compare, text};

/// One field of a struct, as it is in the source.
///
/// The meanings on the page are the fields' doc comments, which exist only in the source: no program contains
/// them. Names, types and defaults are read here too, and compared with the policy parser below (ADR 36).
struct SourceField {
    name: String,
    kind: String,
    doc: String,
    required: bool,
}

/// The doc comment of a struct in a source file, and its fields.
fn struct_in(file: &str, start: &str) -> (String, Vec<SourceField>) {
    let source = text(file);
    let (before, rest) = source.split_once(start).expect(start);
    let doc_of = |lines: &mut Vec<&str>| {
        let doc: Vec<_> = lines.iter().filter_map(|line| line.trim().strip_prefix("/// ")).collect();
        let doc = doc.join(" ");
        lines.clear();
        doc
    };
    let above = before.lines().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut above: Vec<_> = above.collect();
    above.reverse();
    let about = doc_of(&mut above);
    let mut fields = Vec::new();
    let mut pending = Vec::new();
    for line in rest.lines().skip(1).take_while(|line| *line != "}") {
        let plain = line.trim().trim_start_matches("pub ");
        if plain.starts_with("///") || plain.starts_with("#[") {
            pending.push(line);
            continue;
        }
        let (name, kind) = plain.trim_end_matches(',').split_once(": ").expect("a field");
        let has_default = pending.iter().any(|line: &&str| line.contains("(default"));
        let required = !has_default && !kind.starts_with("Option<");
        let (name, kind, doc) = (name.to_owned(), kind.to_owned(), doc_of(&mut pending));
        assert!(!doc.is_empty(), "{file}: {name} has no doc comment");
        fields.push(SourceField { name, kind, doc, required });
    }
    (about, fields)
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

/// The type of a field, as the page names it.
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
        "NodeHolds" => "`any`, `people` or `none`".to_owned(),
        "VerificationPolicy" => "`required` or `preferred`".to_owned(),
        "RepairAction" => "`Replace`, `Reboot` or `NoAction`".to_owned(),
        "WireOverride" => link("Override"),
        "NodeRepairConfig" | "Grace" | "MaintenanceWindow" | "GroupRule" | "Hold" | "Promotion"
        | "ZonePolicy" | "SilencePolicy" | "OutagePolicy" => link(rust),
        other => panic!("the page has no name for the type {other}"),
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

/// A default, as in a policy file: `PT15M` is `15m`.
fn default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.strip_prefix("PT") {
            Some(duration) => format!("`{}`", duration.to_lowercase()),
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
    let mut page = String::from(
        "# Policy\n\nGenerated from `functions/domain/src/policy.rs`. A policy is YAML or JSON. Unknown fields\n\
         are refused. A *duration* is written like `90s`, `15m` or `1h 30m`, a *timestamp* like\n\
         `2026-08-20T10:00:00Z`. `*` in a name matches any characters. Fields with a default can be left out.\n\
         `nodemend policy check FILE` prints what a policy means, and warns of settings that stop every repair,\n\
         hasten repairs, or never apply; with `--cluster NAME` it prints whether the cluster has a source that\n\
         its faults can be verified in.\n\n\
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
        ("OutagePolicy", POLICY, "pub struct OutagePolicy {", &defaults["outage"]),
    ] {
        let (about, fields) = struct_in(file, start);
        let about = match title {
            "NodeRepairConfig" => {
                "EKS's `nodeRepairConfig`, field for field. Disabled by default, as in EKS."
            }
            "Override" => "An action and a grace period for one condition and reason.",
            "MaintenanceWindow" => "A daily time window, on some or all days of the week.",
            _ => &about,
        };
        let _ = write!(
            page,
            "\n## {title}\n\n{about}\n\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n"
        );
        for field in fields {
            let name = camel_case(&field.name);
            let default = match defaults.get(&name) {
                None if field.required && !defaults.is_object() => "required".to_owned(),
                known => default(known.unwrap_or(&Value::Null)),
            };
            let _ = writeln!(page, "| `{name}` | {} | {default} | {} |", kind(&field.kind), field.doc);
        }
    }
    page
}

#[test]
fn the_policy_reference_is_generated_from_the_types() {
    compare("docs/policy.md", &policy_reference());
}

#[test]
fn the_policy_in_the_reference_can_be_applied() {
    let reference = text("docs/policy.md");
    let example =
        reference.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("YAML");
    read_policy(example).expect("a policy");
}

/// One row of the policy's reference.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    kind: String,
    default: String,
}

/// The tables of the policy's reference, and how the policy parser reads them.
struct Reference {
    sections: Vec<(String, Vec<Field>)>,
}

impl Reference {
    fn read() -> Self {
        let page = text("docs/policy.md");
        let sections = page.split("\n## ").skip(1).map(|section| {
            let rows = section.lines().filter(|line| line.starts_with("| `"));
            let fields = rows.map(|row| {
                let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                let [name, kind, default, _meaning] = cells[..] else { panic!("{row}") };
                let name = name.trim_matches('`').to_owned();
                Field { name, kind: kind.to_owned(), default: default.to_owned() }
            });
            (section.lines().next().expect("a title").to_owned(), fields.collect())
        });
        Self { sections: sections.collect() }
    }

    fn fields(&self, section: &str) -> &[Field] {
        &self.sections.iter().find(|(title, _)| title == section).expect(section).1
    }

    /// A valid value of a field. The values 0 and 1 differ.
    fn value(&self, field: &Field, number: usize) -> Value {
        match (field.name.as_str(), number) {
            ("start", 0) => json!("22:30"),
            ("start", _) => json!("21:30"),
            ("end", 0) => json!("04:00"),
            ("end", _) => json!("05:00"),
            ("timeZone", 0) => json!("Europe/Berlin"),
            ("timeZone", _) => json!("Asia/Tokyo"),
            ("days", 0) => json!(["Mon"]),
            ("days", _) => json!(["Tue"]),
            // The only one whose default is true.
            ("gradual", number) => json!(number == 0),
            _ => self.value_of(&field.kind, number),
        }
    }

    fn value_of(&self, kind: &str, number: usize) -> Value {
        if let Some(element) = kind.strip_prefix("list of ") {
            return json!([self.value_of(element, number)]);
        }
        if let Some(element) = kind.strip_prefix("map of string to ") {
            return json!({ "Ready": self.value_of(element, number) });
        }
        if let Some((_, section)) = kind.split_once("](#") {
            let section = section.trim_end_matches(')');
            let found = self.sections.iter().find(|(title, _)| title.to_lowercase() == section);
            let (title, fields) = found.expect(section);
            let mut object = self.smallest(title, number);
            object.insert(fields[0].name.clone(), self.value(&fields[0], number));
            return object.into();
        }
        let choices: Vec<_> = kind.split('`').skip(1).step_by(2).collect();
        if !choices.is_empty() {
            return json!(choices[number * (choices.len() - 1)]);
        }
        match kind {
            "string" => json!(["x", "y"][number]),
            "string of 12 digits" => json!(["111122223333", "444455556666"][number]),
            "true or false" => json!(number == 1),
            "number" => json!(7 + number),
            "duration" => json!(["7m", "8m"][number]),
            "timestamp" => json!(["2026-08-20T10:00:00Z", "2026-08-20T11:00:00Z"][number]),
            other => panic!("no value for {other}"),
        }
    }

    /// An object of a section with only the fields that are required.
    fn smallest(&self, section: &str, number: usize) -> Map<String, Value> {
        // A rule needs a name or tags, which no single field shows.
        let is_required =
            |field: &&Field| field.default == "required" || (section == "GroupRule" && field.name == "name");
        let required = self.fields(section).iter().filter(is_required);
        required.map(|field| (field.name.clone(), self.value(field, number))).collect()
    }

    /// A policy with this object in place of its section. The links of the page show where that is.
    fn policy_with(&self, section: &str, object: Map<String, Value>) -> Value {
        if section == "Policy" {
            return object.into();
        }
        let link = format!("](#{})", section.to_lowercase());
        let users =
            self.sections.iter().flat_map(|(title, fields)| fields.iter().map(move |field| (title, field)));
        let (title, field) = users.clone().find(|(_, field)| field.kind.contains(&link)).expect(section);
        let value = if field.kind.starts_with("list of") { json!([object]) } else { object.into() };
        let mut outer = self.smallest(title, 0);
        outer.insert(field.name.clone(), value);
        self.policy_with(title, outer)
    }

    /// How the parser reads a section with one more field, or one less if there is no value.
    fn parse(&self, section: &str, name: &str, value: Option<Value>) -> Result<Policy, String> {
        let mut object = self.smallest(section, 0);
        match value {
            Some(value) => object.insert(name.to_owned(), value),
            None => object.remove(name),
        };
        read_policy(&self.policy_with(section, object).to_string()).map_err(|error| error.to_string())
    }
}

#[test]
fn the_reference_names_exactly_the_fields_that_the_parser_knows() {
    let reference = Reference::read();
    assert!(reference.sections.len() > 5);
    for (section, fields) in &reference.sections {
        let error = reference.parse(section, "noSuchField", Some(json!(0))).expect_err(section);
        // serde lists what it expects, in the order of the type.
        let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{section}: {error}"));
        let expected: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        let documented: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(documented, expected, "{section}");
    }
}

#[test]
fn every_field_of_the_reference_has_its_type_and_changes_the_policy() {
    let reference = Reference::read();
    for (section, field) in
        reference.sections.iter().flat_map(|(section, fields)| iter::repeat(section).zip(fields))
    {
        let parse = |value: Value| reference.parse(section, &field.name, Some(value));
        let without =
            read_policy(&reference.policy_with(section, reference.smallest(section, 0)).to_string());
        let with = parse(reference.value(field, 1));
        let name = format!("{section}.{}", field.name);
        assert_ne!(with.expect(&name), without.expect(section), "{name} changes nothing");
        let wrong = if field.kind.starts_with("string") { json!(7) } else { json!("x") };
        assert!(parse(wrong.clone()).is_err(), "{name} is a {}, and {wrong} is accepted", field.kind);
    }
}

#[test]
fn every_default_of_the_reference_is_what_the_parser_assumes() {
    let reference = Reference::read();
    for (section, field) in
        reference.sections.iter().flat_map(|(section, fields)| iter::repeat(section).zip(fields))
    {
        let left_out = reference.parse(section, &field.name, None);
        let name = format!("{section}.{}", field.name);
        if field.default == "required" {
            let error = left_out.expect_err(&name);
            assert!(error.contains(&format!("missing field `{}`", field.name)), "{name}: {error}");
            continue;
        }
        let default = match field.default.as_str() {
            // No value stands for these: the row's meaning describes what applies.
            "" => continue,
            "see its section" => json!({}),
            "none" if field.kind.starts_with("map") => json!({}),
            "none" => json!([]),
            text => {
                serde_json::from_str(text.trim_matches('`')).unwrap_or_else(|_| json!(text.trim_matches('`')))
            }
        };
        let written = reference.parse(section, &field.name, Some(default));
        assert_eq!(written.expect(&name), left_out.expect(&name), "{name}");
    }
}
