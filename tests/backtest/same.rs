//! A backtest without assumptions makes the same steps as a replay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nodemend_history::{self as history, Plan};
use serde_json::{Value, json};

use crate::{comparison, directory, incidents, nodemend, policies, stderr, stdout, text, write_lines};

/// The steps of a replay, as JSON lines.
fn replayed(paths: &[&Path], policy: Option<&Path>, more: &[&str]) -> String {
    let mut arguments = vec!["replay", "--format", "json"];
    arguments.extend(paths.iter().map(|path| text(path)));
    if let Some(policy) = policy {
        arguments.extend(["--policy", text(policy)]);
    }
    arguments.extend(more);
    let output = nodemend(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let (steps, _summary) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
    if steps.is_empty() { String::new() } else { format!("{steps}\n") }
}

/// The steps of each policy in a backtest without assumptions.
fn backtested(into: &Path, paths: &[&Path], policies: &[(&str, PathBuf)], more: &[&str]) -> Vec<String> {
    let mut arguments =
        vec!["backtest", "--continue-for", "24h", "--replacement-after", "never", "--steps", text(into)];
    arguments.extend(paths.iter().map(|path| text(path)));
    let named: Vec<String> =
        policies.iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
    for policy in &named {
        arguments.extend(["--policy", policy]);
    }
    arguments.extend(more);
    let output = nodemend(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    policies
        .iter()
        .map(|(name, _)| fs::read_to_string(into.join(format!("{name}.jsonl"))).expect("its steps"))
        .collect()
}

/// Steps without what a backtest cannot have: it skips lines that change nothing, so its records lack the
/// count of what verification would have read of them, and have other hashes.
fn comparable(steps: &str) -> String {
    let mut lines = String::new();
    for step in steps.lines() {
        let mut step: Value = serde_json::from_str(step).expect("JSON");
        if let Some(record) = step.pointer_mut("/record/nodemend") {
            record["previousSha256"] = Value::Null;
            if let Some(verification) = record.pointer_mut("/evidence/verification") {
                assert!(verification["read"].take().is_string(), "{verification}");
            }
        }
        lines.push_str(&format!("{step}\n"));
    }
    lines
}

/// Fails with the first difference.
fn assert_same(what: &str, expected: &str, got: &str) {
    let (expected, got) = (&comparable(expected), &comparable(got));
    let difference = expected.lines().zip(got.lines()).position(|(expected, got)| expected != got);
    let step = difference.unwrap_or_else(|| expected.lines().count().min(got.lines().count()));
    assert!(
        expected == got,
        "{what}: step {step} of {} and {}\n  replay   {:?}\n  backtest {:?}",
        expected.lines().count(),
        got.lines().count(),
        expected.lines().nth(step),
        got.lines().nth(step)
    );
}

#[test]
fn every_incident_has_the_steps_of_a_replay_under_every_policy_and_mode() {
    let directory = directory("backtest-incidents");
    let policies = policies(&directory);
    let mut steps = 0;
    // A history has what the log groups have: in it, every line was delivered.
    let delivered = |incident: &PathBuf| !incident.join("undelivered.jsonl").is_file();
    for incident in incidents().into_iter().filter(delivered) {
        for mode in ["repair", "observe"] {
            let got = backtested(&directory.join("steps"), &[&incident], &policies, &["--mode", mode]);
            for ((name, path), got) in policies.iter().zip(&got) {
                let expected = replayed(&[&incident], Some(path), &["--mode", mode]);
                assert_same(&format!("{} under {name}, {mode}", incident.display()), &expected, got);
                steps += expected.lines().count();
            }
        }
        // Also under its own policy, if it has one.
        let output = nodemend(&[
            "backtest",
            text(&incident),
            "--continue-for",
            "24h",
            "--replacement-after",
            "never",
            "--steps",
            text(&directory.join("own")),
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let name = if incident.join("policy.yaml").is_file() { "policy" } else { "eks-defaults" };
        let got = fs::read_to_string(directory.join("own").join(format!("{name}.jsonl"))).expect("its steps");
        assert_same(text(&incident), &replayed(&[&incident], None, &[]), &got);
    }
    assert!(steps > 500, "only {steps} steps were compared");
}

/// A generated history as an export, and the same events in the format of the API.
fn generated(plan: Plan, directory: &Path) -> (PathBuf, Vec<PathBuf>) {
    let export = directory.join("export");
    plan.export(&export).expect("an export");
    // File names are in the order in which a backtest reads events of the same time.
    let mut lines: Vec<(i64, String)> = Vec::new();
    let instances = plan.instances();
    let millis = |at: i64| (history::START + at) * 1_000;
    let event = |at: i64, stream: &str, message: &str| {
        json!({ "logStreamName": stream, "timestamp": millis(at), "message": message }).to_string()
    };
    for (at, message) in plan.audit_events(&instances, 0, plan.days * 86_400) {
        lines.push((at, event(at, "kube-apiserver-audit-0a1b2c3d", &message)));
    }
    let flat = directory.join("flat");
    fs::create_dir_all(&flat).expect("a directory");
    let mut paths = vec![flat.join("cluster.json"), flat.join("events.jsonl"), flat.join("nodes.json")];
    lines.sort_by_key(|(at, _)| *at);
    write_lines(&paths[0], lines.iter().map(|(_, line)| line.as_str()));
    let events = plan.events(&instances);
    write_lines(&paths[1], events.iter().map(|(_, line)| line.as_str()));
    let mut agents: Vec<(&str, i64, String)> = Vec::new();
    for instance in &instances {
        plan.agent_lines(instance, |at, line| {
            let message = std::str::from_utf8(line).expect("text");
            agents.push((&instance.id, at, event(at, &instance.id, message)));
        });
    }
    agents.sort_by_key(|(id, at, _)| (*id, *at));
    write_lines(&paths[2], agents.iter().map(|(_, _, line)| line.as_str()));
    let fleet = directory.join("fleet.json");
    fs::copy(export.join("fleet.json"), &fleet).expect("copied");
    paths.push(fleet);
    (export, paths)
}

const SMALL: Plan = Plan { seed: 7, nodes: 24, days: 3, days_between: 2 };

#[test]
fn a_generated_history_has_the_steps_of_a_replay_though_nine_of_ten_lines_are_skipped() {
    let directory = directory("backtest-generated");
    let (export, flat) = generated(SMALL, &directory);
    let policies = policies(&directory);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    for mode in ["repair", "observe"] {
        let more = ["--fleet", text(fleet), "--mode", mode];
        let got = backtested(&directory.join("steps"), &[&export], &policies, &more);
        // The export is read by several threads, the other files one after the other.
        let same = backtested(&directory.join("again"), &[cluster, events, nodes], &policies, &more);
        let reads = comparison(&[&[text(&export)], &more[..]].concat());
        let (lines, relevant) =
            (reads["history"]["lines"].as_u64(), reads["history"]["relevantLines"].as_u64());
        let (lines, relevant) = (lines.expect("a number"), relevant.expect("a number"));
        assert!(lines > 30_000 && relevant * 10 < lines, "{relevant} of {lines} lines are relevant");
        let mut all = String::new();
        for (((name, path), got), same) in policies.iter().zip(&got).zip(&same) {
            let expected = replayed(&[cluster, events, nodes], Some(path), &more);
            all.push_str(&expected);
            assert!(expected.contains("\"step\":\"called\"") || mode == "observe", "{name} calls nothing");
            assert_same(&format!("{name}, {mode}, of an export"), &expected, got);
            assert_same(&format!("{name}, {mode}, of lines"), &expected, same);
        }
    }
}

#[test]
fn overlapping_files_do_not_change_the_steps() {
    let directory = directory("backtest-overlap");
    let (_, flat) = generated(Plan { nodes: 8, days: 2, ..SMALL }, &directory);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    let policies = policies(&directory);
    // The agents' lines alternate between two files, and a third of them is in both.
    let lines: Vec<String> = fs::read_to_string(nodes).expect("lines").lines().map(str::to_owned).collect();
    let (one, two) = (directory.join("one.jsonl"), directory.join("two.jsonl"));
    let third = lines.len() / 3;
    let in_both = third..2 * third;
    let of = |odd: usize| {
        let kept = lines.iter().enumerate().filter(|(n, _)| n % 2 == odd || in_both.contains(n));
        kept.map(|(_, line)| line.as_str()).collect::<Vec<_>>()
    };
    write_lines(&one, of(0).into_iter());
    write_lines(&two, of(1).into_iter());
    let paths: [&Path; 4] = [cluster, events, &one, &two];
    let got = backtested(&directory.join("steps"), &paths, &policies, &["--fleet", text(fleet)]);
    for ((name, path), got) in policies.iter().zip(&got) {
        let expected = replayed(&paths, Some(path), &["--fleet", text(fleet)]);
        assert!(expected.lines().count() > 20, "{name}: too few steps");
        assert_same(name, &expected, got);
    }
}
