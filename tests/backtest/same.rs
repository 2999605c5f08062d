//! A backtest that assumes nothing takes the very steps that replay takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nodemend_history::{self as history, Plan};
use serde_json::json;

use crate::{comparison, folder, incidents, nodemend, policies, stderr, stdout, text, write_lines};

/// Every step that replay takes, as it prints them.
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

/// Every step that each policy takes in a backtest that knows no more than replay.
fn backtested(into: &Path, paths: &[&Path], policies: &[(&str, PathBuf)], more: &[&str]) -> Vec<String> {
    let mut arguments =
        vec!["backtest", "--run-on", "24h", "--replacement-after", "never", "--steps", text(into)];
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

/// Two tellings are the same, else where they part.
fn assert_same(what: &str, expected: &str, got: &str) {
    let parts = expected.lines().zip(got.lines()).position(|(expected, got)| expected != got);
    let place = parts.unwrap_or_else(|| expected.lines().count().min(got.lines().count()));
    assert!(
        expected == got,
        "{what}: step {place} of {} and {}\n  replay   {:?}\n  backtest {:?}",
        expected.lines().count(),
        got.lines().count(),
        expected.lines().nth(place),
        got.lines().nth(place)
    );
}

#[test]
fn every_incident_goes_as_replay_says_under_every_policy_and_in_either_mode() {
    let folder = folder("backtest-incidents");
    let policies = policies(&folder);
    let mut steps = 0;
    for incident in incidents() {
        for mode in ["repair", "observe"] {
            let got = backtested(&folder.join("steps"), &[&incident], &policies, &["--mode", mode]);
            for ((name, path), got) in policies.iter().zip(&got) {
                let expected = replayed(&[&incident], Some(path), &["--mode", mode]);
                assert_same(&format!("{} under {name}, {mode}", incident.display()), &expected, got);
                steps += expected.lines().count();
            }
        }
        // And under its own policy, where it has one.
        let output = nodemend(&[
            "backtest",
            text(&incident),
            "--run-on",
            "24h",
            "--replacement-after",
            "never",
            "--steps",
            text(&folder.join("own")),
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let name = if incident.join("policy.yaml").is_file() { "policy" } else { "eks-defaults" };
        let got = fs::read_to_string(folder.join("own").join(format!("{name}.jsonl"))).expect("its steps");
        assert_same(text(&incident), &replayed(&[&incident], None, &[]), &got);
    }
    assert!(steps > 500, "only {steps} steps were compared");
}

/// A made-up history as an export, and the same lines as replay reads them.
fn made_up(plan: Plan, folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let export = folder.join("export");
    plan.export(&export).expect("an export");
    // As the API gives them, in the order in which a backtest takes files of the same instant: by their names.
    let mut lines: Vec<(i64, String)> = Vec::new();
    let instances = plan.instances();
    let millis = |at: i64| (history::START + at) * 1_000;
    let event = |at: i64, stream: &str, message: &str| {
        json!({ "logStreamName": stream, "timestamp": millis(at), "message": message }).to_string()
    };
    for (at, message) in plan.audit(&instances, 0, plan.days * 86_400) {
        lines.push((at, event(at, "kube-apiserver-audit-0a1b2c3d", &message)));
    }
    let flat = folder.join("flat");
    fs::create_dir_all(&flat).expect("a folder");
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
    let fleet = folder.join("fleet.json");
    fs::copy(export.join("fleet.json"), &fleet).expect("copied");
    paths.push(fleet);
    (export, paths)
}

const SMALL: Plan = Plan { seed: 7, nodes: 24, days: 3, days_between: 2 };

#[test]
fn three_days_of_24_nodes_go_as_replay_says_though_nine_lines_in_ten_are_never_parsed() {
    let folder = folder("backtest-made-up");
    let (export, flat) = made_up(SMALL, &folder);
    let policies = policies(&folder);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    for mode in ["repair", "observe"] {
        let more = ["--fleet", text(fleet), "--mode", mode];
        let got = backtested(&folder.join("steps"), &[&export], &policies, &more);
        // Read as they are by one thread, one file after the other; and out of order, by several.
        let same = backtested(&folder.join("again"), &[cluster, events, nodes], &policies, &more);
        let reads = comparison(&[&[text(&export)], &more[..]].concat());
        let (lines, taken) = (reads["history"]["lines"].as_u64(), reads["history"]["takenIn"].as_u64());
        let (lines, taken) = (lines.expect("a number"), taken.expect("a number"));
        assert!(lines > 30_000 && taken * 10 < lines, "{taken} of {lines} lines taken in");
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
fn files_that_overlap_and_repeat_each_other_tell_the_same_story() {
    let folder = folder("backtest-overlap");
    let (_, flat) = made_up(Plan { nodes: 8, days: 2, ..SMALL }, &folder);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    let policies = policies(&folder);
    // Every other line of the agents' in one file, the rest in another, and a stretch in both.
    let lines: Vec<String> = fs::read_to_string(nodes).expect("lines").lines().map(str::to_owned).collect();
    let (one, two) = (folder.join("one.jsonl"), folder.join("two.jsonl"));
    let third = lines.len() / 3;
    let in_both = third..2 * third;
    let of = |odd: usize| {
        let kept = lines.iter().enumerate().filter(|(n, _)| n % 2 == odd || in_both.contains(n));
        kept.map(|(_, line)| line.as_str()).collect::<Vec<_>>()
    };
    write_lines(&one, of(0).into_iter());
    write_lines(&two, of(1).into_iter());
    let paths: [&Path; 4] = [cluster, events, &one, &two];
    let got = backtested(&folder.join("steps"), &paths, &policies, &["--fleet", text(fleet)]);
    for ((name, path), got) in policies.iter().zip(&got) {
        let expected = replayed(&paths, Some(path), &["--fleet", text(fleet)]);
        assert!(expected.lines().count() > 20, "{name}: nothing happens");
        assert_same(name, &expected, got);
    }
}
