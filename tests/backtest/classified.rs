//! The classification of repairs, compared with what really happened.

use std::fs;

use jiff::Timestamp;
use nodemend_history::{self as history, Plan};
use serde_json::{Value, json};

use crate::{comparison, directory, kubelet, policies, text};

#[test]
fn a_repair_is_classified_by_what_happened_to_its_node() {
    let directory = directory("backtest-classified");
    let (no, yes) = (false, true);
    // The node is unhealthy from minute 10 on, and the repair is called at minute 40.
    for (what, reports, last, assessment, resolved_at) in [
        ("recovered after ten minutes", &[(10, no), (50, yes)][..], 600, "unnecessary", Some(50)),
        ("recovered for a minute only", &[(10, no), (50, yes), (51, no)], 600, "necessary", None),
        ("recovered after an hour", &[(10, no), (100, yes)], 600, "necessary", Some(100)),
        ("unhealthy until the end", &[(10, no)], 600, "necessary", None),
        ("the history ends too early", &[(10, no)], 60, "unclear", None),
        ("due after the end of the history", &[(10, no)], 30, "unclear", None),
    ] {
        let recorded = kubelet(&directory, reports, last);
        let policies = comparison(&[text(&recorded)])["policies"].take();
        let repairs = policies[0]["repairs"].as_array().expect("a list");
        assert_eq!(repairs.len(), 1, "{what}: {policies:#}");
        assert_eq!(repairs[0]["assessment"], assessment, "{what}");
        let time = |minute: i64| Timestamp::from_second(history::START + minute * 60).expect("a time");
        let resolved_at = resolved_at.map_or(Value::Null, |minute| json!(format!("{:.3}", time(minute))));
        assert_eq!(repairs[0]["resolvedAt"], resolved_at, "{what}");
    }
    let none = kubelet(&directory, &[(10, no), (30, yes)], 600);
    assert_eq!(comparison(&[text(&none)])["policies"][0]["totals"]["repairs"], 0);
}

/// The history is generated, so what happened to each node is known without the code under test.
#[test]
fn repairs_of_a_generated_history_are_classified_correctly() {
    let directory = directory("backtest-truth");
    let plan = Plan { seed: 21, nodes: 60, days: 12, days_between: 3 };
    let export = directory.join("export");
    plan.export(&export).expect("an export");
    let policies = policies(&directory);
    let named: Vec<String> =
        policies.iter().map(|(name, path)| format!("--policy={name}={}", path.display())).collect();
    let mut arguments = vec![text(&export)];
    arguments.extend(named.iter().map(String::as_str));
    let comparison = comparison(&arguments);
    let instances = plan.instances();
    let (mut correct, mut wrong) = ([0, 0], Vec::new());
    for policy in comparison["policies"].as_array().expect("a list") {
        let lines = ["repairs", "blocked"].map(|kind| policy[kind].as_array().expect("a list"));
        for line in lines.into_iter().flatten() {
            let instance =
                instances.iter().find(|instance| line["instanceId"] == instance.id).expect("an instance");
            let at: Timestamp = line["at"].as_str().expect("a time").parse().expect("a time");
            let at = at.as_second() - history::START;
            let healthy = instance.healthy_from(at);
            let after = healthy.map_or(i64::MAX, |healthy| healthy - at);
            // Changes while the agents are silent are reported late, perhaps first by a heartbeat.
            let unreported = plan.silence().start - 3_600..plan.silence().end + 600;
            if unreported.contains(&at) || (after - 1_800).abs() < 360 {
                continue;
            }
            let unnecessary = after <= 1_800;
            if line["assessment"] == if unnecessary { "unnecessary" } else { "necessary" } {
                correct[usize::from(unnecessary)] += 1;
            } else {
                wrong.push(format!("{}: {line}, but healthy after {after} s", policy["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {correct:?} correct\n{}", wrong.len(), wrong.join("\n"));
    assert!(correct[0] > 50 && correct[1] > 50, "{correct:?} were compared");
}

#[test]
fn a_blocked_repair_is_missed_or_avoided_by_the_same_rule() {
    let directory = directory("backtest-blocked");
    let policy = directory.join("held.yaml");
    fs::write(
        &policy,
        "nodeRepairConfig:\n  enabled: true\nholds:\n  - owner: alice\n    reason: a test\n    until: 2027-01-01T00:00:00Z\n",
    )
    .expect("a policy");
    for (reports, [missed, avoided]) in [(&[(10, false), (50, true)][..], [0, 1]), (&[(10, false)], [1, 0])] {
        let history = kubelet(&directory, reports, 600);
        let held = comparison(&[text(&history), "--policy", text(&policy)])["policies"][0].take();
        let totals = &held["totals"];
        assert_eq!([&totals["repairs"], &totals["missed"], &totals["avoided"]], [0, missed, avoided]);
        assert_eq!(held["missedByGuard"], if missed > 0 { json!({ "Held": 1 }) } else { json!({}) });
    }
}

#[test]
fn an_assumed_replacement_keeps_its_group_out_of_backoff() {
    let directory = directory("backtest-assumed");
    let export = directory.join("export");
    Plan { seed: 11, nodes: 40, days: 10, days_between: 3 }.export(&export).expect("an export");
    let failing = |more: &[&str]| {
        let policies = comparison(&[&[text(&export)], more].concat())["policies"].take();
        let all = policies[0]["repairs"]
            .as_array()
            .expect("a list")
            .iter()
            .chain(policies[0]["blocked"].as_array().expect("a list"));
        let in_backoff = all.filter(|line| {
            line["guards"].as_array().expect("a list").contains(&json!("ReplacementsFailing"))
        });
        (policies[0]["totals"]["repairs"].as_u64().expect("a number"), in_backoff.count())
    };
    let (called, in_backoff) = failing(&[]);
    assert!(called > 10, "{called} repairs");
    assert_eq!(in_backoff, 0, "an assumed replacement failed");
    assert!(failing(&["--replacement-after", "never"]).1 > 0, "without replacements the group is in backoff");
}
