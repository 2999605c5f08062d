//! The promises of `docs/security.md` about a compromised node, each as a test of its name.
//!
//! A compromised node has the credentials of all agents. It can write any line to any stream of the agents' log group, and
//! so these tests do not distinguish what a node reports about itself from what it reports about another one.

mod forged;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{CaseState, Source},
    condition::RepairAction,
    policy::{Limit, Policy, Promotion},
    repair_event::Step,
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        self, AuditUser, INTERFACE_DOWN, agent_payload, at, batch, cleared, cluster_named,
        control_plane_payload, instance, kubelet_ready, minutes, node, node_controller_unknown, node_status,
        policy, policy_with_limit, raised, terminate,
    },
};
use serde_json::json;

use self::forged::{forged, made_up_conditions, made_up_events};

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The limit of DynamoDB for one item, in which a case is stored as JSON.
const MAX_ITEM_BYTES: usize = 400 * 1024;

/// Delivers lines of the agents' log group, each from the stream of that node.
fn deliver(deployment: &Deployment, number: u64, lines: &[String], now: Timestamp) {
    deployment.clock.advance_to(now);
    let result = deployment.deliver(&agent_payload(number, lines), now);
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
}

/// Delivers a line of the control-plane audit log.
fn observe(deployment: &Deployment, line: String, now: Timestamp) {
    deployment.clock.advance_to(now);
    let result = deployment.deliver(&control_plane_payload(&[line]), now);
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
}

/// Three nodes. The agent of node 1 reported a healthy network at the start.
fn healthy() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(3));
    deliver(&deployment, 1, &[cleared(1, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    deployment
}

/// Reports of a fault, written ten minutes after the start, with what a node can claim in them.
fn false_reports_of_a_fault() -> Vec<(&'static str, String)> {
    let line = || raised(1, INTERFACE_DOWN, minutes(10)).seq(2).line(minutes(10));
    let began = |since: &str| {
        let finding = json!({ "reason": INTERFACE_DOWN.reason, "severity": "Condition", "since": since,
            "last": minutes(10), "count": 1_000_000, "message": "x" });
        forged(&line(), json!({ "since": since, "findings": [finding] }))
    };
    vec![
        ("a fault since 1970", began("1970-01-01T00:00:00Z")),
        ("a fault from the future", began("2100-01-01T00:00:00Z")),
        ("written in 1970", forged(&line(), json!({ "at": "1970-01-01T00:00:00Z" }))),
        ("written in the future", forged(&line(), json!({ "at": "2100-01-01T00:00:00Z" }))),
        ("another boot", forged(&line(), json!({ "bootId": fixture::boot_id(7) }))),
        ("the highest number", forged(&line(), json!({ "seq": u64::MAX }))),
        ("healthy for years before", forged(&line(), json!({ "soundSecs": u64::MAX }))),
        ("another node's name", forged(&line(), json!({ "node": node(2) }))),
        ("a zone", forged(&line(), json!({ "zone": "us-east-1f" }))),
    ]
}

#[test]
fn no_report_gets_a_node_terminated_before_its_grace_period() {
    for (claim, line) in false_reports_of_a_fault() {
        let deployment = healthy();
        deliver(&deployment, 1, &[line], minutes(10));
        deployment.run_until(minutes(40) - SECOND);
        assert_eq!(deployment.cloud.calls(), [], "{claim}");
    }
}

#[test]
fn no_sequence_of_reports_gets_a_node_terminated_before_its_grace_period() {
    let deployment = healthy();
    for (minute, (_, line)) in (10..).zip(false_reports_of_a_fault()) {
        deliver(&deployment, 1, &[line], minutes(minute));
    }
    deployment.run_until(minutes(40) - SECOND);
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_fault_of_a_condition_that_was_never_reported_waits_for_the_settling_time() {
    // Known for an hour, and not to be healthy in this.
    let deployment = Deployment::new(3, policy_with_limit(3));
    observe(&deployment, kubelet_ready(1, at(0), "True"), at(0));
    let other = fixture::Problem { condition: "KernelReady", ..INTERFACE_DOWN };
    deliver(&deployment, 1, &[cleared(1, other, at(0)).line(at(0))], at(0));
    deliver(&deployment, 1, &[raised(1, INTERFACE_DOWN, at(0)).seq(2).line(minutes(60))], minutes(60));
    deployment.run_until(minutes(70) - SECOND);
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn no_count_of_events_gets_a_node_terminated_before_its_grace_period() {
    let promotion = Promotion {
        reason: "PacketsDropped".to_owned(),
        count: 100,
        window: SignedDuration::from_hours(24),
        repair_action: RepairAction::Replace,
    };
    let deployment = Deployment::new(3, Policy { promotions: vec![promotion], ..policy_with_limit(3) });
    deliver(&deployment, 1, &[cleared(1, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    let line = raised(1, INTERFACE_DOWN, minutes(10)).seq(2).line(minutes(10));
    let finding = json!({ "reason": "PacketsDropped", "severity": "Event", "since": "1970-01-01T00:00:00Z",
        "last": minutes(10), "count": u64::MAX, "message": "x" });
    let event = json!({ "kind": "event", "status": null, "since": null, "findings": [finding] });
    deliver(&deployment, 1, &[forged(&line, event)], minutes(10));
    deployment.run_until(minutes(40) - SECOND);
    assert_eq!(deployment.cloud.calls(), []);
    assert!(!deployment.faults(1, minutes(39)).is_empty(), "the event is promoted");
}

#[test]
fn a_false_report_ends_with_the_next_true_one() {
    let deployment = healthy();
    deliver(
        &deployment,
        1,
        &[raised(1, INTERFACE_DOWN, at(0)).seq(1_000_000).line(minutes(10))],
        minutes(10),
    );
    deliver(&deployment, 1, &[cleared(1, INTERFACE_DOWN, at(0)).seq(2).line(minutes(15))], minutes(15));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.cloud.calls(), []);
}

/// What a compromised node can write to hide a fault, again and again.
fn hiding_reports(now: Timestamp, minute: u64) -> Vec<(&'static str, Vec<String>)> {
    let healthy = |condition: &'static str| {
        let problem = fixture::Problem { condition, ..INTERFACE_DOWN };
        cleared(1, problem, at(-86_400)).seq(1_000_000 + minute)
    };
    let line = || healthy("NetworkingReady").line(now);
    vec![
        ("Ready is True", vec![healthy("Ready").line(now)]),
        (
            "Ready is True, in the future",
            vec![forged(&healthy("Ready").line(now), json!({ "at": "2100-01-01T00:00:00Z" }))],
        ),
        ("a new boot each time", vec![healthy("Ready").boot(100 + minute).line(now)]),
        ("the highest number", vec![healthy("Ready").seq(u64::MAX).line(now)]),
        ("another node's name", vec![forged(&line(), json!({ "node": node(3) }))]),
        ("many conditions", made_up_conditions(&line())),
        ("many events", made_up_events(&line(), minute)),
    ]
}

#[test]
fn no_report_hides_or_delays_what_the_control_plane_reports() {
    let names: Vec<_> = hiding_reports(at(0), 0).into_iter().map(|(name, _)| name).collect();
    for (index, name) in names.into_iter().enumerate() {
        let deployment = healthy();
        let hide = |minute: i64| {
            let (_, lines) = hiding_reports(minutes(minute), minute.unsigned_abs()).swap_remove(index);
            deliver(&deployment, 1, &lines, minutes(minute));
        };
        (1..5).for_each(hide);
        observe(&deployment, node_controller_unknown(1, minutes(5)), minutes(5));
        for minute in (6..35).step_by(4) {
            hide(minute);
            deployment.run_once();
        }
        let faults = deployment.faults(1, minutes(34));
        let reported = faults.iter().find(|fault| fault.source == Source::ControlPlane);
        assert_eq!(reported.map(|fault| fault.reason.as_str()), Some("NodeStatusUnknown"), "{name}");
        assert_eq!(deployment.cloud.calls(), [], "{name}: before the deadline");
        deployment.run_until(minutes(35));
        assert_eq!(deployment.cloud.calls(), [terminate(1)], "{name}: at the deadline");
    }
}

#[test]
fn no_flood_of_reports_makes_a_case_too_large_to_be_written() {
    let deployment = healthy();
    for minute in 1..=15 {
        for (name, lines) in hiding_reports(minutes(minute), minute.unsigned_abs()) {
            deliver(&deployment, 1, &lines, minutes(minute));
            let size = serde_json::to_vec(&deployment.case(1)).expect("JSON").len();
            assert!(size < MAX_ITEM_BYTES / 4 * 3, "{size} bytes after {minute} minutes of {name}");
        }
    }
}

#[test]
fn a_report_with_a_higher_number_hides_a_fault_only_until_the_next_true_one() {
    let deployment = healthy();
    deliver(&deployment, 1, &[raised(1, INTERFACE_DOWN, minutes(5)).seq(2).line(minutes(5))], minutes(5));
    let forged = cleared(1, INTERFACE_DOWN, at(0)).seq(u64::MAX).line(minutes(6));
    deliver(&deployment, 1, &[forged], minutes(6));
    assert!(deployment.faults(1, minutes(9)).is_empty());
    deliver(&deployment, 1, &[raised(1, INTERFACE_DOWN, minutes(5)).seq(3).line(minutes(10))], minutes(10));
    // Healthy for four minutes, as far as was known: the grace period counts again.
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_claimed_name_of_another_node_takes_nothing_from_it() {
    for claimed_first in [true, false] {
        let deployment = Deployment::new(3, policy_with_limit(3));
        // Of a later instance than that of the node whose name it claims.
        let claim = || {
            let line = cleared(3, INTERFACE_DOWN, at(0)).line(at(0));
            deliver(&deployment, 3, &[forged(&line, json!({ "node": node(2) }))], at(0));
        };
        if claimed_first {
            claim();
        }
        observe(&deployment, kubelet_ready(2, at(0), "True"), at(0));
        if !claimed_first {
            claim();
        }
        // The node controller knows only the name.
        observe(&deployment, node_controller_unknown(2, minutes(5)), minutes(5));
        assert_eq!(deployment.state(3), CaseState::Healthy, "claimed first: {claimed_first}");
        deployment.run_until(minutes(60));
        assert_eq!(deployment.cloud.calls(), [terminate(2)], "claimed first: {claimed_first}");
    }
}

#[test]
fn a_report_in_another_instances_stream_or_of_another_cluster_changes_no_case() {
    let deployment = healthy();
    let before = deployment.cases();
    let fault = || raised(2, INTERFACE_DOWN, at(0));
    let of_node_1 = raised(1, INTERFACE_DOWN, at(0)).seq(2).line(at(1));
    let of_other_cluster = fault().cluster(cluster_named("other")).line(at(1));
    let result = deployment.deliver(&agent_payload(2, &[of_node_1, of_other_cluster]), at(1));
    assert_eq!((result.rejected.len(), result.reports), (2, 0));
    assert_eq!(deployment.cases(), before);
    // A log group that is no agent's, and one of a cluster without a policy.
    for group in ["/nodemend/prod", "/nodemend/other/nodes"] {
        let line = fault().cluster(cluster_named("other")).line(at(1));
        let payload = nodemend_ports::subscription::encode(&batch(group, instance(2).as_str(), &[line]));
        let result = deployment.deliver(payload.as_bytes(), at(1));
        assert_eq!(result.rejected.len() + result.unknown_cluster, 1, "{group}");
        assert_eq!(deployment.cases(), before, "{group}");
    }
}

#[test]
fn a_malformed_line_affects_no_other_line() {
    let deployment = healthy();
    let fault = raised(1, INTERFACE_DOWN, minutes(1)).seq(2).line(minutes(1));
    let lines = [
        "not JSON".to_owned(),
        "{".repeat(4_000),
        format!("[{}]", "9".repeat(4_000)),
        "x".repeat(300_000),
        fault[..fault.len() / 2].to_owned(),
        fault.replace("InterfaceNotUp", "\\u001b[2J"),
        fault,
    ];
    let result = deployment.deliver(&agent_payload(1, &lines), minutes(1));
    assert_eq!((result.rejected.len(), result.reports, result.failures.len()), (6, 1, 0));
    assert!(result.rejected.iter().all(|rejected| !rejected.excerpt.contains('\u{1b}')));
    assert_eq!(deployment.faults(1, minutes(2)).len(), 1);
}

/// Nodes of one group, with such a policy, of which the first ones are falsely reported from the start.
fn with_false_reports(nodes: u64, reported: u64, policy: Policy) -> Deployment {
    let deployment = Deployment::new(nodes, policy);
    for number in 1..=nodes {
        deliver(&deployment, number, &[cleared(number, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    }
    for number in 1..=reported {
        deliver(&deployment, number, &[raised(number, INTERFACE_DOWN, at(0)).seq(2).line(at(1))], at(1));
    }
    deployment.run_until(minutes(90));
    deployment
}

#[test]
fn false_reports_about_more_than_a_fifth_of_a_large_group_terminate_none() {
    assert_eq!(with_false_reports(20, 5, policy()).cloud.calls(), []);
    assert_eq!(with_false_reports(20, 4, policy()).cloud.calls().len(), 4);
}

#[test]
fn false_reports_terminate_no_more_nodes_at_once_than_the_parallel_limit() {
    let mut policy = policy();
    policy.node_repair_config.max_parallel_nodes_repaired = Some(Limit::Count(1));
    assert_eq!(with_false_reports(20, 4, policy.clone()).cloud.calls().len(), 1);
    assert_eq!(with_false_reports(5, 5, policy).cloud.calls().len(), 1);
}

#[test]
fn false_reports_that_stop_the_repairs_of_a_group_are_shown() {
    let deployment = Deployment::new(20, policy());
    deliver(&deployment, 20, &[cleared(20, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    observe(&deployment, node_controller_unknown(20, minutes(5)), minutes(5));
    for number in 1..=5 {
        deliver(&deployment, number, &[raised(number, INTERFACE_DOWN, at(0)).line(minutes(6))], minutes(6));
    }
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(20).blocked().expect("blocked").guards, ["UnhealthyThreshold"]);
    assert_eq!(deployment.published(Step::Blocked, 20).len(), 1);
}

#[test]
fn the_record_of_a_call_names_the_log_stream_of_its_evidence() {
    let deployment = with_false_reports(3, 1, policy_with_limit(1));
    let record = deployment.last_record(1, "TerminateInstanceInAutoScalingGroup");
    let read = record["nodemend"]["evidence"]["verification"]["read"].as_str().expect("text");
    assert!(read.contains(instance(1).as_str()) && read.contains(fixture::AGENT_LOGS), "{read}");
}

#[test]
fn only_the_kubelet_and_the_node_controller_set_ready() {
    let set_by_another = |status: &str, now| {
        let reason = "NodeStatusUnknown";
        node_status(1, AuditUser::EksNodeMonitoringAgent, now, "Ready", status, reason)
    };
    let deployment = Deployment::new(3, policy_with_limit(3));
    observe(&deployment, kubelet_ready(1, at(0), "True"), at(0));
    observe(&deployment, set_by_another("False", minutes(1)), minutes(1));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), []);
    observe(&deployment, node_controller_unknown(1, minutes(60)), minutes(60));
    observe(&deployment, set_by_another("True", minutes(61)), minutes(61));
    deployment.run_until(minutes(90));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn conditions_that_others_set_leave_room_for_ready() {
    let deployment = healthy();
    for number in 0..40 {
        let (user, condition) = (AuditUser::EksNodeMonitoringAgent, format!("MadeUp{number}"));
        observe(&deployment, node_status(1, user, at(number), &condition, "True", "MadeUp"), at(number));
    }
    observe(&deployment, node_controller_unknown(1, minutes(5)), minutes(5));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn no_policy_terminates_a_healthy_node_or_one_out_of_service_or_of_another_cluster() {
    let dangerous: Policy = serde_json::from_value(json!({
        "mode": "repair",
        "nodeRepairConfig": { "enabled": true, "maxUnhealthyNodeThresholdPercentage": 100 },
        "grace": { "conditions": { "NetworkingReady": "0s" } },
        "settlingTime": "0s", "recoveryHold": "0s", "verification": "preferred",
    }))
    .expect("a policy");
    dangerous.check().expect("a valid policy");
    let deployment = Deployment::new(4, dangerous);
    deployment.cloud.change(|fleet| {
        fleet.leave(&instance(2));
        fleet.leave(&instance(3));
        fleet.join(
            &fixture::group_named("other"),
            Some(&cluster_named("other")),
            &instance(3),
            &fixture::zone(),
        );
    });
    deliver(&deployment, 1, &[cleared(1, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    for number in 2..=4 {
        deliver(&deployment, number, &[raised(number, INTERFACE_DOWN, at(0)).line(at(0))], at(0));
    }
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [terminate(4)]);
}

/// Every test here is named in the page, and every test that the page names is here.
#[test]
fn the_page_names_each_of_these_tests() {
    let (page, source) = (include_str!("../../../../docs/security.md"), include_str!("main.rs"));
    let of_confirm = include_str!("../../../confirm/tests/calls.rs");
    let tests: Vec<&str> = source
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|rest| rest.split_once('(').map(|(name, _)| name))
        .filter(|name| *name != "the_page_names_each_of_these_tests")
        .collect();
    for name in &tests {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in the page");
    }
    let named = page.split('`').skip(1).step_by(2).filter(|code| code.matches('_').count() > 4);
    for name in named {
        let is_known = tests.contains(&name) || of_confirm.contains(&format!("fn {name}("));
        assert!(is_known, "the page names {name}");
    }
}
