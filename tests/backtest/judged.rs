//! What is said of each repair, against what is so.

use std::fs;

use jiff::Timestamp;
use nodemend_history::{self as history, Plan};
use serde_json::json;

use crate::{comparison, folder, kubelet, policies, text};

#[test]
fn a_repair_is_judged_by_what_became_of_its_node() {
    let folder = folder("backtest-verdicts");
    let (no, yes) = (false, true);
    for (what, words, last, expected) in [
        (
            "well ten minutes after the call",
            &[(10, no), (50, yes)][..],
            600,
            ["false", "well again by itself 10m later"],
        ),
        (
            "well, but it did not hold",
            &[(10, no), (50, yes), (51, no)],
            600,
            ["true", "still sick when the history ended 9h 20m later"],
        ),
        ("well after an hour", &[(10, no), (100, yes)], 600, ["true", "well again by itself 1h later"]),
        ("sick until the end", &[(10, no)], 600, ["true", "still sick when the history ended 9h 20m later"]),
        (
            "the end comes too soon",
            &[(10, no)],
            60,
            ["unclear", "still sick when the history ended 20m later"],
        ),
        ("due only after the end", &[(10, no)], 30, ["unclear", "the history had ended"]),
    ] {
        let history = kubelet(&folder, words, last);
        let policies = comparison(&[text(&history)])["policies"].take();
        let repairs = policies[0]["repairs"].as_array().expect("a list");
        assert_eq!(repairs.len(), 1, "{what}: {policies:#}");
        assert_eq!([&repairs[0]["verdict"], &repairs[0]["ending"]], expected, "{what}");
    }
    let none = kubelet(&folder, &[(10, no), (30, yes)], 600);
    assert_eq!(comparison(&[text(&none)])["policies"][0]["totals"]["repairs"], 0);
}

/// The history is made up, so what really became of each node is known without any of our code.
#[test]
fn every_verdict_on_a_made_up_history_is_what_is_so() {
    let folder = folder("backtest-truth");
    let plan = Plan { seed: 21, nodes: 60, days: 12, days_between: 3 };
    let export = folder.join("export");
    plan.export(&export).expect("an export");
    let policies = policies(&folder);
    let named: Vec<String> =
        policies.iter().map(|(name, path)| format!("--policy={name}={}", path.display())).collect();
    let mut arguments = vec![text(&export)];
    arguments.extend(named.iter().map(String::as_str));
    let comparison = comparison(&arguments);
    let instances = plan.instances();
    let (mut right, mut wrong) = ([0, 0], Vec::new());
    for policy in comparison["policies"].as_array().expect("a list") {
        let lines = ["repairs", "withheld"].map(|kind| policy[kind].as_array().expect("a list"));
        for line in lines.into_iter().flatten() {
            let instance =
                instances.iter().find(|instance| line["instanceId"] == instance.id).expect("an instance");
            let at: Timestamp = line["at"].as_str().expect("a time").parse().expect("a time");
            let at = at.as_second() - history::START;
            let well = instance.well_after(at);
            let after = well.map_or(i64::MAX, |well| well - at);
            // What the agents said while nobody heard them was heard later, and a heartbeat may be the first to say it.
            let unheard = plan.silence().start - 3_600..plan.silence().end + 600;
            if unheard.contains(&at) || (after - 1_800).abs() < 360 {
                continue;
            }
            let is_false = after <= 1_800;
            if line["verdict"] == if is_false { "false" } else { "true" } {
                right[usize::from(is_false)] += 1;
            } else {
                wrong.push(format!("{}: {line}, but well after {after} s", policy["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {right:?} right\n{}", wrong.len(), wrong.join("\n"));
    assert!(right[0] > 50 && right[1] > 50, "{right:?} were judged");
}

#[test]
fn what_guards_withhold_is_lost_or_spared_by_the_same_measure() {
    let folder = folder("backtest-withheld");
    let policy = folder.join("held.yaml");
    fs::write(
        &policy,
        "nodeRepairConfig:\n  enabled: true\nholds:\n  - owner: alice\n    reason: a test\n    until: 2027-01-01T00:00:00Z\n",
    )
    .expect("a policy");
    for (words, [lost, spared]) in [(&[(10, false), (50, true)][..], [0, 1]), (&[(10, false)], [1, 0])] {
        let history = kubelet(&folder, words, 600);
        let held = comparison(&[text(&history), "--policy", text(&policy)])["policies"][0].take();
        let totals = &held["totals"];
        assert_eq!(
            [&totals["repairs"], &totals["lostToGuards"], &totals["sparedByGuards"]],
            [0, lost, spared]
        );
        assert_eq!(held["lostTo"], if lost > 0 { json!({ "Held": 1 }) } else { json!({}) });
    }
}

#[test]
fn after_a_call_that_was_never_made_a_replacement_is_assumed_and_its_group_does_not_rest() {
    let folder = folder("backtest-assumed");
    let export = folder.join("export");
    Plan { seed: 11, nodes: 40, days: 10, days_between: 3 }.export(&export).expect("an export");
    let failing = |more: &[&str]| {
        let policies = comparison(&[&[text(&export)], more].concat())["policies"].take();
        let all = policies[0]["repairs"]
            .as_array()
            .expect("a list")
            .iter()
            .chain(policies[0]["withheld"].as_array().expect("a list"));
        let resting = all.filter(|line| {
            line["guards"].as_array().expect("a list").contains(&json!("ReplacementsFailing"))
        });
        (policies[0]["totals"]["repairs"].as_u64().expect("a number"), resting.count())
    };
    let (made, resting) = failing(&[]);
    assert!(made > 10, "{made} repairs");
    assert_eq!(resting, 0, "a replacement that is assumed to be well failed");
    assert!(failing(&["--replacement-after", "never"]).1 > 0, "without one, the group rests");
}
