//! The operator's commands as operators run them, with DynamoDB on loopback.

mod deployment;

use jiff::SignedDuration;
use nodemend::operate::explain;
use nodemend_domain::{
    group::Lifecycle,
    guard::GUARDS,
    sources::{ClusterSources, Freshness},
};
use nodemend_testkit::fixture::{instance, node};
use serde_json::{Value, json};

use self::deployment::Deployment;

const POLICY: &str = "\
mode: repair
nodeRepairConfig:
  enabled: true
  maxUnhealthyNodeThresholdCount: 100
silence:
  agentSilentAfter: null
";

/// A cluster whose node 1 has been unhealthy for 40 minutes.
fn with_unhealthy_node() -> Deployment {
    let deployment = Deployment::new();
    deployment.apply(POLICY);
    deployment.report(1, 40);
    deployment
}

#[test]
fn status_of_a_cluster_without_a_policy_names_the_command_that_applies_one() {
    let deployment = Deployment::new();
    let (code, out, _) = deployment.nodemend(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("has no policy") && out.contains("nodemend policy apply"), "{out}");
    assert_eq!(deployment.nodemend(&["policy", "show"]).0, 1);
}

#[test]
fn each_policy_version_can_be_shown_and_applied_again() {
    let deployment = Deployment::new();
    let (_, out) = deployment.apply(POLICY);
    assert!(out.contains("Version 1 ") && out.contains("ENABLED"), "{out}");
    let (_, out) = deployment.apply(POLICY);
    assert!(out.contains("No change") && !out.contains("ENABLED"), "{out}");
    let (_, out) = deployment.apply(&POLICY.replace("repair\n", "observe\n"));
    assert!(out.contains("Version 2 ") && out.contains("DISABLED"), "{out}");
    let (_, history, _) = deployment.nodemend(&["policy", "history"]);
    let rows: Vec<Vec<&str>> = history.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[1][2], rows[1][4]), ("2", "observe", "alice"), "{history}");
    assert_eq!((rows[2][0], rows[2][2]), ("1", "repair"), "{history}");
    let (_, first, _) = deployment.nodemend(&["policy", "show", "--version", "1"]);
    assert!(first.starts_with("# cluster prod, version 1, by alice, "), "{first}");
    assert!(deployment.apply(&first).1.contains("Version 3 "), "what is shown can be applied");
    assert_eq!(deployment.nodemend(&["policy", "show", "--version", "9"]).0, 1);
}

#[test]
fn a_dry_run_or_an_invalid_policy_changes_nothing() {
    let deployment = Deployment::new();
    let file = deployment.file("policy.yaml", POLICY);
    let (code, out, _) = deployment.nodemend(&["policy", "apply", &file, "--dry-run", "--by", "alice"]);
    assert_eq!((code, out.contains("version 1")), (0, true), "{out}");
    let wrong = deployment.file("wrong.yaml", "mode: kill\n");
    let (code, _, error) = deployment.nodemend(&["policy", "apply", &wrong, "--by", "alice"]);
    assert_eq!((code, error.contains("wrong.yaml: mode: unknown variant")), (64, true), "{error}");
    assert_eq!(deployment.nodemend(&["policy", "show"]).0, 1, "there is none");
}

#[test]
fn the_policy_check_of_a_cluster_says_where_no_source_exists_to_verify_faults_in() {
    let deployment = Deployment::new();
    let check = |policy: &str| {
        let file = deployment.file("policy.yaml", policy);
        let (code, out, error) = deployment.nodemend(&["policy", "check", &file]);
        assert_eq!(error, "");
        (
            code,
            out.lines().skip_while(|line| !line.starts_with("Verification: ")).collect::<Vec<_>>().join(" "),
        )
    };
    let (code, out) = check(POLICY);
    assert_eq!((code, out.contains("not known yet for cluster prod")), (0, true), "{out}");

    let at = |minutes| deployment.now() - SignedDuration::from_mins(minutes);
    let read = |minutes| Some(Freshness { newest: Some(at(minutes)), checked_at: at(minutes) });
    let without = ClusterSources { reads_audit_log: true, agents: read(1), ..ClusterSources::default() };
    deployment.put_sources(&without);
    let (code, out) = check(POLICY);
    assert_eq!(code, 1, "{out}");
    for part in [
        "Nodes could not be listed from the Kubernetes API, and no line of the control-plane audit log was found.",
        "The guard Unverified blocks their repair, because of verification: required.",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out) = check(&format!("{POLICY}verification: preferred\n"));
    assert_eq!((code, out.contains("They are repaired unverified")), (0, true), "{out}");

    deployment.put_sources(&ClusterSources { reads_audit_log: false, ..without.clone() });
    let (code, out) = check(POLICY);
    assert_eq!((code, out.contains("is not read (ControlPlaneLogs=disabled)")), (1, true), "{out}");

    for (sources, expected) in [
        (
            ClusterSources { audit_log: read(1), ..without.clone() },
            "are verified in its control-plane audit log",
        ),
        (ClusterSources { listed_at: Some(at(1)), ..without.clone() }, "are verified in its Kubernetes API"),
    ] {
        deployment.put_sources(&sources);
        let (code, out) = check(POLICY);
        assert_eq!((code, out.contains(expected)), (0, true), "{out}");
    }
    deployment.put_sources(&ClusterSources { listed_at: Some(at(60)), agents: read(60), ..without });
    let (code, out) = check(POLICY);
    assert_eq!((code, out.contains("No source of cluster prod has been read for 1h")), (1, true), "{out}");
}

#[test]
fn status_shows_unhealthy_nodes_and_the_next_action() {
    let deployment = with_unhealthy_node();
    deployment.report(2, 5);
    let (code, out, _) = deployment.nodemend(&["status"]);
    assert_eq!(code, 2);
    let line = |of: &str| out.lines().find(|line| line.contains(of)).unwrap_or_else(|| panic!("{of}: {out}"));
    assert!(line(node(1).as_str()).contains("due"), "{out}");
    assert!(line(node(2).as_str()).contains("suspect"), "{out}");
    assert!(line(node(2).as_str()).contains("NetworkingReady InterfaceNotUp  Replace at "), "{out}");
    assert!(out.contains("1 suspect · 1 due"), "{out}");
    let (code, json, _) = deployment.nodemend(&["status", "--format", "json"]);
    let status: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(code, 2);
    assert_eq!(status["policy"]["mode"], "repair");
    let states: Vec<&Value> =
        status["nodes"].as_array().expect("nodes").iter().map(|node| &node["state"]).collect();
    assert_eq!(states, ["suspect", "due"]);
}

#[test]
fn a_hold_blocks_repairs_until_it_is_released_and_blocked_cases_are_then_due() {
    let deployment = with_unhealthy_node();
    let name = node(1);
    let hold = ["hold", "--node", name.as_str(), "--for", "2h", "--reason", "kernel test", "--by", "alice"];
    let (code, id, message) = deployment.nodemend(&hold);
    assert_eq!(code, 0);
    assert!(message.contains(&format!("nodemend release {}", id.trim())), "{message}");
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), []);
    let (code, out, _) = deployment.nodemend(&["status"]);
    assert!(code == 2 && out.contains("blocked by Held"), "{out}");
    assert!(out.contains(id.trim()) && out.contains("alice") && out.contains("kernel test"), "{out}");
    let (code, out, _) = deployment.nodemend(&["release", id.trim()]);
    assert_eq!((code, out.contains("1 blocked case is now due")), (0, true), "{out}");
    deployment.run_once();
    assert_eq!(deployment.cloud.calls().len(), 1);
    let (code, _, error) = deployment.nodemend(&["release", id.trim()]);
    assert_eq!((code, error.contains("has no hold")), (1, true), "{error}");
}

#[test]
fn what_a_person_asks_for_is_due_at_once_and_can_be_taken_back() {
    let deployment = Deployment::new();
    deployment.apply(POLICY);
    deployment.report(1, 5);
    let name = node(1);
    let ask = ["repair", name.as_str(), "--reason", "hung driver", "--by", "alice"];
    let (code, out, error) = deployment.nodemend(&ask);
    assert_eq!((code, out.contains("is due now")), (0, true), "{out}{error}");
    let (code, out, _) = deployment.nodemend(&["status"]);
    assert!(code == 2 && out.contains("RepairRequested"), "{out}");
    let cancel = ["repair", name.as_str(), "--cancel"];
    assert_eq!(deployment.nodemend(&cancel).0, 0);
    let (code, _, error) = deployment.nodemend(&cancel);
    assert_eq!((code, error.contains("nobody asks")), (1, true), "{error}");
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.nodemend(&ask).0, 0);
    deployment.run_once();
    assert_eq!(deployment.cloud.calls().len(), 1);
    let (code, _, error) = deployment.nodemend(&ask);
    assert_eq!((code, error.contains("it is confirming")), (1, true), "{error}");
}

#[test]
fn status_and_explain_name_who_holds_a_node_by_its_annotation_or_a_cordon() {
    let deployment = Deployment::new();
    deployment.apply(&format!("{POLICY}respectCordon: true\n"));
    deployment.report(1, 40);
    let hold =
        json!({ "metadata": { "annotations": { "nodemend.io/hold": "2099-01-01T00:00:00Z disk test" } } });
    deployment.mark(1, "arn:aws:iam::123456789012:user/bob", &hold);
    deployment.mark(1, "arn:aws:iam::123456789012:user/carol", &json!({ "spec": { "unschedulable": true } }));
    let (_, out, _) = deployment.nodemend(&["status"]);
    let line = |of: &str| out.lines().find(|line| line.contains(of)).unwrap_or_else(|| panic!("{of}: {out}"));
    let held = line("annotation");
    assert!(held.contains("user/bob") && held.contains("2099-01-01T00:00:00Z  disk test"), "{out}");
    assert!(line("respectCordon").contains("user/carol"), "{out}");
    let (_, out, _) = deployment.nodemend(&["status", "--format", "json"]);
    let status: Value = serde_json::from_str(&out).expect("JSON");
    let node = &status["nodes"][0];
    assert_eq!(node["heldByAnnotation"]["by"], "arn:aws:iam::123456789012:user/bob");
    assert_eq!(node["cordonedBy"], "arn:aws:iam::123456789012:user/carol");
    let mut out = Vec::new();
    let now = deployment.now();
    explain::write(&mut anstream::StripStream::new(&mut out), &deployment.explain(1), now).expect("written");
    let out = String::from_utf8(out).expect("text");
    assert!(out.contains("user/bob holds node"), "{out}");
}

#[test]
fn one_command_holds_every_cluster_of_the_deployment_and_lists_them() {
    let deployment = Deployment::new();
    let stop = ["hold", "--all", "--for", "2h", "--reason", "stop", "--by", "alice"];
    let (code, _, error) = deployment.nodemend(&stop);
    assert_eq!((code, error.contains("no cluster has a policy")), (1, true), "{error}");

    let deployment = with_unhealthy_node();
    let file = deployment.file("other.yaml", &format!("{POLICY}account: \"111122223333\"\n"));
    for (number, cluster) in [(2, "prod-2"), (3, "prod-3")] {
        let apply = ["policy", "apply", &file, "--cluster", cluster, "--by", "alice"];
        assert_eq!(deployment.nodemend(&apply).0, 0);
        deployment.report_in(cluster, number, 40);
    }
    let (code, id, error) = deployment.nodemend(&stop);
    assert_eq!(code, 0, "{error}");
    for held in [
        "held: cluster prod (the deployment's account)",
        "held: cluster prod-2 (111122223333)",
        "held: cluster prod-3 (111122223333)",
        "3 of 3 clusters",
    ] {
        assert!(error.contains(held), "{held}: {error}");
    }
    for cluster in ["prod", "prod-2", "prod-3"] {
        let (_, out, _) = deployment.nodemend(&["status", "--cluster", cluster]);
        assert!(out.contains(id.trim()), "{cluster}: {out}");
    }
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), []);
    let (code, out, _) = deployment.nodemend(&["release", id.trim(), "--all"]);
    assert_eq!((code, out.matches("Released the hold of alice").count()), (0, 3), "{out}");
    deployment.run_once();
    assert_eq!(deployment.cloud.calls().len(), 3, "one in each cluster");
}

#[test]
fn a_policy_that_allows_a_blocked_repair_takes_effect_at_once() {
    let deployment = Deployment::new();
    deployment.apply(&POLICY.replace("enabled: true", "enabled: false"));
    deployment.report(1, 40);
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), []);
    assert!(deployment.apply(POLICY).1.contains("1 blocked case is now due."));
    deployment.run_once();
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn a_missing_or_invalid_argument_is_named() {
    let deployment = with_unhealthy_node();
    for (arguments, expected) in [
        (&["hold", "--all", "--reason", "x", "--by", "alice"][..], "--for"),
        (&["hold", "--all", "--for", "0s", "--reason", "x", "--by", "alice"], "--until"),
        (&["hold", "--all", "--for", "1h", "--reason", " ", "--by", "alice"], "--reason"),
        (&["hold", "--for", "1h", "--reason", "x", "--by", "alice"], "--node"),
        (&["repair", "i-00000000000000001"], "--reason"),
        (&["repair", "i-00000000000000001", "--reason", " ", "--by", "alice"], "--reason"),
        (&["repair", "i-00000000000000001", "--reason", "x", "--by", "alice", "--for", "25h"], "--for"),
        (&["status", "--cluster", ""], "--cluster"),
    ] {
        let (code, _, error) = deployment.nodemend(arguments);
        assert_eq!((code, error.contains(expected)), (64, true), "{arguments:?}: {error}");
    }
    let (code, _, error) = deployment.nodemend(&["audit", "show", "ip-10-0-0-77.ec2.internal"]);
    assert_eq!((code, error.contains("ip-10-0-0-77.ec2.internal")), (1, true), "{error}");
}

#[test]
fn explain_shows_the_next_action_and_each_guard() {
    let deployment = with_unhealthy_node();
    deployment.report(2, 5);
    let explain = |number| {
        let now = deployment.now();
        let explained = deployment.explain(number);
        let mut out = anstream::StripStream::new(Vec::new());
        explain::write(&mut out, &explained, now).expect("written");
        let json = explain::to_json(&explained, now);
        (String::from_utf8(out.into_inner()).expect("text"), json)
    };
    let (text, json) = explain(2);
    assert!(text.contains("In the grace period: Replace at "), "{text}");
    assert!(text.contains("eth1 is down") && text.contains("group workers, InService"), "{text}");
    assert_eq!(json["guards"].as_array().map(Vec::len), Some(GUARDS.len()));
    let (text, _) = explain(1);
    assert!(text.contains("Replace in the next run: NetworkingReady InterfaceNotUp."), "{text}");
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::OutOfService));
    let (text, json) = explain(1);
    assert!(text.contains("Replace is due and blocked by NotInService"), "{text}");
    assert!(text.contains("✗ NotInService ") && text.contains("✓ Held\n"), "{text}");
    let blocked: Vec<&Value> =
        json["guards"].as_array().expect("guards").iter().filter(|guard| guard["passes"] == false).collect();
    assert_eq!(blocked.len(), 1);
    assert_eq!(json["state"], "due");
}

#[test]
fn an_intact_audit_log_is_verified_and_a_changed_one_is_reported() {
    let deployment = with_unhealthy_node();
    deployment.run_once();
    let (code, out, _) = deployment.nodemend(&["audit", "verify"]);
    assert_eq!((code, out.contains("2 records of 1 instance: verified")), (0, true), "{out}");
    deployment.confirm(1);
    let (code, out, _) = deployment.nodemend(&["audit", "verify"]);
    assert_eq!((code, out.contains("3 records of 1 instance: verified")), (0, true), "{out}");

    let (_, list, _) = deployment.nodemend(&["audit", "list", "--since", "1d"]);
    for name in ["RepairClaimed", "TerminateInstance", "RepairConfirmed"] {
        assert!(list.contains(name), "{list}");
    }
    let (_, calls, _) = deployment.nodemend(&["audit", "list", "--calls", "--format", "json"]);
    let record: Value = serde_json::from_str(calls.trim()).expect("one record");
    let request = record["requestID"].as_str().expect("an id");
    let (code, shown, _) = deployment.nodemend(&["audit", "show", request]);
    assert!(code == 0 && shown.contains("\"eventName\": \"TerminateInstanceInAutoScalingGroup\""), "{shown}");
    let (_, by_node, _) = deployment.nodemend(&["audit", "show", node(1).as_str(), "--format", "json"]);
    assert_eq!(by_node.lines().count(), 3);

    // Someone with write access to the table removes the last record, or changes one.
    let removed = deployment.delete_record(1, 3);
    let (code, out, _) = deployment.nodemend(&["audit", "verify"]);
    assert_eq!((code, out.contains("the case has 3 records")), (1, true), "{out}");
    deployment.put_record(removed);
    assert_eq!(deployment.nodemend(&["audit", "verify"]).0, 0);
    deployment.forge_record(
        1,
        2,
        "\"shouldDecrementDesiredCapacity\":false",
        "\"shouldDecrementDesiredCapacity\":true",
    );
    let (code, out, _) = deployment.nodemend(&["audit", "verify", "--format", "json"]);
    let finding: Value = serde_json::from_str(out.trim()).expect("JSON");
    assert_eq!((code, &finding["verified"]), (1, &Value::Bool(false)));
    assert!(finding["problems"].to_string().contains("record 3"), "{finding}");
}

#[test]
fn a_call_without_a_cloudtrail_event_is_a_problem() {
    let deployment = with_unhealthy_node();
    let now = deployment.now();
    deployment.run_at(now - SignedDuration::from_mins(5));
    deployment.run_at(now + SignedDuration::from_mins(40));
    let (code, out, _) = deployment.nodemend(&["audit", "verify", instance(1).as_str()]);
    assert_eq!((code, out.contains("RepairMissing")), (1, true), "{out}");
}

#[test]
fn help_has_examples_and_exit_codes_and_fits_80_columns() {
    let deployment = Deployment::new();
    for command in [
        &[][..],
        &["replay"],
        &["backtest"],
        &["cost"],
        &["status"],
        &["explain"],
        &["hold"],
        &["release"],
        &["repair"],
        &["policy", "check"],
        &["policy", "import"],
        &["policy", "apply"],
        &["policy", "show"],
        &["policy", "history"],
        &["audit", "list"],
        &["audit", "show"],
        &["audit", "verify"],
    ] {
        let (code, out, _) = deployment.nodemend(&[command, &["--help"]].concat());
        assert!(code == 0 && out.contains("Examples:") && out.contains("Exit codes:"), "{command:?}: {out}");
        let wide = out.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{command:?} is wider than a terminal of 80 columns");
    }
}

#[test]
fn text_from_a_node_cannot_control_the_terminal() {
    let deployment = Deployment::new();
    deployment.apply(POLICY);
    deployment.report_with_message(1, 40, "\u{1b}[2J\u{1b}]0;owned\u{7}");
    let now = deployment.now();
    let mut out = Vec::new();
    explain::write(&mut anstream::StripStream::new(&mut out), &deployment.explain(1), now).expect("written");
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains("owned") && !text.contains(['\u{1b}', '\u{7}']), "{text:?}");
}
