//! Measures the usage of AWS by each event, on the real handlers and a real DynamoDB API. `nodemend cost` estimates from
//! these numbers.

#[path = "cost/meter.rs"]
mod meter;
#[path = "cost/run.rs"]
mod run;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use nodemend::cost::Usage;

const FILE: &str = "src/cost/measured.json";

/// Log lines contain times and durations of different length.
const SLACK: f64 = 0.05;

#[test]
fn the_estimate_uses_the_usage_of_this_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let measured = run::measure();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&measured).expect("JSON");
        fs::write(&path, text + "\n").expect("written");
    }
    let kept: BTreeMap<String, Usage> =
        serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("the usage of each event");
    assert_eq!(kept.keys().collect::<Vec<_>>(), measured.keys().collect::<Vec<_>>());
    for (event, measured) in &measured {
        let kept = &kept[event];
        let exact = |of: &Usage| (of.invocations, of.repair_runs, of.requests, of.read_units, of.write_units);
        assert_eq!(exact(kept), exact(measured), "{event}: UPDATE_GOLDEN=1 rewrites {FILE}");
        for (kept, measured) in
            [(kept.report_bytes, measured.report_bytes), (kept.log_bytes, measured.log_bytes)]
        {
            assert!((kept - measured).abs() <= measured * SLACK, "{event}: {kept} bytes, now {measured}");
        }
    }
}

fn cost(arguments: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_nodemend")).arg("cost").args(arguments).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_node_costs_at_most_five_cents_a_month_at_the_defaults() {
    let (code, out, _) = cost(&["--format", "json"]);
    assert_eq!(code, 0);
    let estimate: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let per_node = estimate["perNodeMonth"].as_f64().expect("a number");
    assert!(per_node > 0.001 && per_node <= 0.05, "{per_node}");
    let sum: f64 =
        estimate["lines"].as_array().expect("lines").iter().filter_map(|line| line["usd"].as_f64()).sum();
    assert!((sum - estimate["month"].as_f64().expect("a number")).abs() < 1e-6);
}

#[test]
fn every_alarm_of_the_template_is_in_the_estimate() {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/template.yaml");
    let template = fs::read_to_string(template).expect("a template");
    let (_, out, _) = cost(&["--format", "json"]);
    let estimate: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let alarms =
        estimate["lines"].as_array().expect("lines").iter().find(|line| line["item"] == "CloudWatch, alarms");
    let there = template.matches("Type: AWS::CloudWatch::Alarm").count();
    assert_eq!(alarms.expect("a line")["amount"], there as f64);
}

#[test]
fn more_nodes_cost_less_each_and_more_repairs_cost_more() {
    let per_node = |arguments: &[&str]| {
        let (_, out, _) = cost(&[arguments, &["--format", "json"]].concat());
        let estimate: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        estimate["perNodeMonth"].as_f64().expect("a number")
    };
    assert!(per_node(&["--nodes", "5000"]) < per_node(&["--nodes", "50"]));
    assert!(per_node(&["--rate", "1"]) > per_node(&["--rate", "0"]));
}

#[test]
fn an_invalid_argument_is_named() {
    for (arguments, named) in
        [(["--nodes", "0"], "--nodes"), (["--rate", "-1"], "--rate"), (["--rate", "NaN"], "--rate")]
    {
        let (code, _, error) = cost(&arguments);
        assert!(code == 64 && error.contains(named), "{code} {error}");
    }
}
