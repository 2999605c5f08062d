//! Whose act each end of an incident was: what is foreign, and what is said of the others.

use std::{path::Path, process::Command};

use serde_json::Value;

fn replay(incident: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_nodemend"))
        .args(["replay", Path::new("events").join(incident).to_str().expect("UTF-8"), "--format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("nodemend runs");
    assert_eq!(output.status.code(), Some(0), "{incident}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What is said of each instance, in one text.
fn said(lines: &[Value], instance: &str) -> String {
    let of_instance = lines.iter().filter(|line| line["instanceId"] == instance);
    of_instance.filter_map(|line| line["detail"].as_str()).collect::<Vec<_>>().join("\n")
}

const FIRST: &str = "i-08736224042c4ee75";
const SECOND: &str = "i-08736224042c4e001";
const THIRD: &str = "i-08736224042c4e002";

#[test]
fn each_end_names_its_author_and_only_what_nobody_planned_is_foreign() {
    for (incident, foreign, authors) in [
        ("13-foreign-termination", 1, vec![(FIRST, "assumed role Admin/alice terminated it")]),
        ("70-execution-of-our-own-call", 0, vec![(FIRST, "replaced by")]),
        (
            "71-scale-ins",
            0,
            vec![
                (FIRST, "scale-in by the policy shrink (alarm low-cpu)"),
                (SECOND, "instance refresh"),
                (THIRD, "cluster-autoscaler (assumed role prod-cluster-autoscaler/1787212800000000000)"),
            ],
        ),
        (
            "72-node-group-update",
            0,
            vec![
                (FIRST, "EKS node auto repair or node group update"),
                (SECOND, "EKS node auto repair or node group update"),
                (THIRD, "EKS node auto repair or node group update"),
            ],
        ),
        ("73-spot-interruption", 0, vec![(FIRST, "EC2 Spot interrupted it")]),
        ("74-retirement-is-announced", 0, vec![(FIRST, "AWS Health: EC2 retires the instance")]),
    ] {
        let lines = replay(incident);
        let steps = lines.iter().filter(|line| line["step"] == "foreign").count();
        assert_eq!(steps, foreign, "{incident}");
        for (instance, author) in authors {
            let said = said(&lines, instance);
            assert!(said.contains(author), "{incident}: {instance}: {said}");
        }
    }
}
