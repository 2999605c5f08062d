//! Mistakes of other repair systems, tested with the handlers that Lambda runs.
//!
//! The comment above a test names the issue. Mistakes of agents are in `agent/tests/reference_behaviors.rs`.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::CaseState,
    group::Lifecycle,
    guard::Guard,
    policy::{Hold, Limit, Policy},
    repair::Confirmation,
    repair_event::Step,
};
use nodemend_ports::{clock::Clock, store::CaseKey, subscription::encode};
use nodemend_testkit::{
    Deployment,
    fixture::{
        AuditUser, GPU_ERROR, INTERFACE_DOWN, Problem, ReportBuilder, agent_payload, at, batch, cleared,
        cluster, cluster_named, control_plane_payload, group, hold_until, instance, kubelet_ready, minutes,
        node_status, policy, raised, reboot, terminate, zone, zone_named,
    },
};
use serde_json::json;

fn deployment(nodes: u64, policy: Policy) -> Deployment {
    Deployment::across(&[zone_named("us-east-1b"), zone()], nodes, policy)
}

/// Lambda invokes intake, which accepts every line.
fn deliver_to_intake(deployment: &Deployment, payload: &[u8]) {
    let result = deployment.deliver(payload, deployment.clock.now());
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
}

/// An agent reports, now; the line.
fn agent_reports(deployment: &Deployment, report: ReportBuilder) -> String {
    let number = report.number();
    let line = report.line(deployment.clock.now());
    deliver_to_intake(deployment, &agent_payload(number, std::slice::from_ref(&line)));
    line
}

/// The control-plane audit log gets a line, written then.
fn control_plane_logs(deployment: &Deployment, line: String, written: Timestamp) {
    deployment.clock.advance_to(written);
    deliver_to_intake(deployment, &control_plane_payload(&[line]));
}

/// A kubelet writes the condition Ready of its node.
fn kubelet_writes(deployment: &Deployment, number: u64, written: Timestamp, ready: &str) {
    control_plane_logs(deployment, kubelet_ready(number, written, ready), written);
}

/// aws/eks-node-monitoring-agent #250 and #266, kubernetes/node-problem-detector #215: a condition that was raised
/// stayed until the agent was restarted.
#[test]
fn a_cleared_condition_leads_to_no_call() {
    let deployment = deployment(2, policy());
    for number in [1, 2] {
        agent_reports(&deployment, raised(number, INTERFACE_DOWN, at(0)));
    }
    deployment.run_until(minutes(20));
    agent_reports(&deployment, cleared(1, INTERFACE_DOWN, minutes(20)).seq(2));
    agent_reports(&deployment, raised(2, INTERFACE_DOWN, at(0)).seq(2));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.state(1), CaseState::Healthy);
    assert_eq!(deployment.cloud.calls(), [terminate(2)], "only the node that stayed unhealthy");
}

/// aws/eks-node-monitoring-agent #39, kubernetes-sigs/karpenter #2833: alternating reasons reset the condition's
/// transition time each time, and the wait never ended.
#[test]
fn alternating_reasons_do_not_restart_the_grace_period() {
    let deployment = deployment(2, policy());
    kubelet_writes(&deployment, 2, at(0), "True");
    for turn in 0..19 {
        let now = at(turn * 30);
        deployment.run_until(now);
        let reason = ["NvidiaXID79Error", "NvidiaXID74Error"][usize::try_from(turn % 2).expect("0 or 1")];
        // Our agent reports it, and another agent writes the same to the Node object.
        let problem = Problem { reason, ..GPU_ERROR };
        let seq = 1 + u64::try_from(turn).expect("a number");
        agent_reports(&deployment, raised(1, problem, now).seq(seq));
        let line = node_status(2, AuditUser::EksNodeMonitoringAgent, now, problem.condition, "False", reason);
        control_plane_logs(&deployment, line, now);
    }
    deployment.run_until(at(599));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(10));
    let mut calls = deployment.cloud.calls();
    calls.sort_by_key(|call| call.instance_id().clone());
    assert_eq!(calls, [terminate(1), terminate(2)], "ten minutes after the first reason, to the second");
}

/// kubernetes-sigs/karpenter #2134, #2321 and its pull request #2739: above 20 %, nothing was repaired without an
/// operator, and nothing said which nodes waited.
#[test]
fn a_group_above_its_threshold_names_its_blocked_nodes_and_continues_below_it() {
    let deployment = deployment(10, policy());
    for number in [1, 2, 3] {
        kubelet_writes(&deployment, number, at(0), "False");
    }
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), []);
    for number in [1, 2, 3] {
        let case = deployment.case(number);
        assert_eq!(deployment.state(number), CaseState::Blocked);
        let blocked = case.blocked().expect("blocked");
        assert_eq!(blocked.guards, [Guard::UnhealthyThreshold.name()]);
        let published = deployment.published(Step::Blocked, number);
        assert!(
            published.iter().any(|detail| detail.contains("3 of 10 nodes of group workers are unhealthy")),
            "{published:?}"
        );
    }
    // One recovers, and its recovery holds: two of ten are not more than 20 %.
    kubelet_writes(&deployment, 3, minutes(40), "True");
    deployment.run_until(minutes(43));
    let mut calls = deployment.cloud.calls();
    calls.sort_by_key(|call| call.instance_id().clone());
    assert_eq!(calls, [terminate(1), terminate(2)]);
}

/// kubernetes-sigs/karpenter #2321, #2134: a pool of fewer than five could never be repaired, as one node was more than
/// 20 % of it.
#[test]
fn a_small_group_is_repaired() {
    for nodes in 1..=5 {
        let mut policy = policy();
        // A tenth of one unhealthy node is still one.
        policy.node_repair_config.max_parallel_nodes_repaired = Some(Limit::Percentage(10));
        let deployment = deployment(nodes, policy);
        kubelet_writes(&deployment, 1, at(0), "False");
        deployment.run_until(minutes(30));
        assert_eq!(deployment.cloud.calls(), [terminate(1)], "a group of {nodes}");
    }
}

/// NVIDIA/NVSentinel #1280: after a restart, handled events were processed again, and a healthy node was rebooted under
/// its workloads.
#[test]
fn repeated_reports_from_before_a_reboot_lead_to_no_second_reboot() {
    let deployment = deployment(1, policy());
    let old: Vec<String> =
        (1..=3).map(|seq| agent_reports(&deployment, raised(1, GPU_ERROR, at(0)).seq(seq))).collect();
    deployment.run_until(minutes(10));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.run_until(minutes(13));
    agent_reports(&deployment, cleared(1, GPU_ERROR, minutes(12)).boot(2));
    deployment.run_until(minutes(60));
    // Each invocation begins with nothing but the store, as after a cold start, and gets all lines again.
    for _ in 0..3 {
        for line in &old {
            deliver_to_intake(&deployment, &agent_payload(1, std::slice::from_ref(line)));
        }
        deployment.run_until(deployment.clock.now() + SignedDuration::from_mins(30));
    }
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    assert_eq!(deployment.state(1), CaseState::Healthy);
}

/// aws/aws-node-termination-handler #787, #408 and #272: a message about another cluster's node was retried for
/// days, or ended the process.
#[test]
fn events_about_unknown_nodes_succeed_and_store_nothing() {
    let deployment = deployment(1, policy());
    deployment.clock.advance_to(minutes(1));
    let detail = json!({ "instance-id": "i-0fffffffffffffff1", "state": "terminated" });
    let terminated = json!({
        "AutoScalingGroupName": "another-clusters", "EC2InstanceId": "i-0fffffffffffffff1", "Cause": "scaled in",
        "EndTime": "2026-09-21T14:13:20Z",
    });
    let launched =
        json!({ "AutoScalingGroupName": "another-clusters", "EC2InstanceId": "i-0fffffffffffffff2" });
    for (kind, detail) in [
        ("EC2 Instance State-change Notification", detail),
        ("EC2 Instance Terminate Successful", terminated),
        ("EC2 Instance Launch Successful", launched),
        ("EC2 Spot Instance Interruption Warning", json!({ "instance-id": "i-0fffffffffffffff1" })),
    ] {
        let event = json!({ "detail-type": kind, "time": "2026-09-21T14:13:20Z", "detail": detail });
        // Without an error, Lambda does not retry the event.
        let result = deployment.try_confirm(&event).expect(kind);
        assert!(!result.relevant && result.repair_events.is_empty(), "{kind}");
    }
    let line = raised(7, INTERFACE_DOWN, at(0)).cluster(cluster_named("other")).line(minutes(1));
    let payload = encode(&batch("/nodemend/other/nodes", instance(7).as_str(), &[line]));
    let result = deployment.deliver(payload.as_bytes(), minutes(1));
    assert_eq!((result.unknown_cluster, result.reports), (1, 0));
    assert_eq!(deployment.store.cases(), []);
}

/// aws/aws-node-termination-handler #575: a lifecycle hook was not completed, and its instance waited for the hook's
/// timeout. The repair function completes no hooks. For an instance that a hook holds, it must make no second call,
/// publish that no replacement came, and release the slot.
#[test]
fn an_instance_held_by_a_lifecycle_hook_is_not_called_again_and_releases_its_slot() {
    let deployment = deployment(6, policy());
    kubelet_writes(&deployment, 1, at(0), "False");
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    // In Terminating:Wait, its kubelet continues to report.
    for later in [31, 45, 60] {
        let ready = if later % 2 == 0 { "Unknown" } else { "False" };
        kubelet_writes(&deployment, 1, minutes(later), ready);
        deployment.run_until(minutes(later));
        assert_eq!(deployment.state(1), CaseState::Confirming);
        assert_eq!(deployment.group().slots().len(), 1, "its slot is kept while a replacement may come");
    }
    deployment.run_until(minutes(300));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let published = deployment.published(Step::Closed, 1);
    assert!(published.iter().any(|end| end.contains("no replacement registered")), "{published:?}");
    assert_eq!(deployment.state(1), CaseState::Closed);
    assert_eq!((deployment.group().slots().len(), deployment.group().failures()), (0, 1));
    // Its call is recorded as missing: there was no CloudTrail event.
    let case = deployment.case(1);
    assert!(
        case.calls().all(|call| call.confirmation() == Some(Confirmation::Missing)),
        "{:?}",
        case.calls().collect::<Vec<_>>()
    );
}

/// The same for a repair that is no longer needed: it is held, the node recovers, and nothing is left of it.
#[test]
fn a_held_repair_that_is_no_longer_needed_leaves_nothing_behind() {
    let deployment = deployment(6, policy());
    deployment.store.hold(&cluster(), Hold { group: Some(group()), ..hold_until(minutes(50)) });
    for number in [1, 2] {
        kubelet_writes(&deployment, number, at(0), "False");
    }
    deployment.run_until(minutes(40));
    assert_eq!((deployment.state(1), deployment.state(2)), (CaseState::Blocked, CaseState::Blocked));
    let published = deployment.published(Step::Blocked, 1);
    assert!(published.iter().any(|detail| detail.contains("alice holds group workers")), "{published:?}");
    kubelet_writes(&deployment, 1, minutes(40), "True");
    deployment.run_until(minutes(49));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(50));
    assert_eq!(
        deployment.cloud.calls(),
        [terminate(2)],
        "at the end of the hold, only the node that still needs it"
    );
    assert_eq!(deployment.state(1), CaseState::Healthy);
    assert_eq!((deployment.case(1).repair(), deployment.case(1).blocked()), (None, None));
    assert_eq!(deployment.case(2).blocked(), None);
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(2), Lifecycle::Terminating));
    deployment.run_until(minutes(300));
    assert_eq!(deployment.cloud.calls(), [terminate(2)]);
    assert!(deployment.group().slots().is_empty());
    let keys: Vec<_> = deployment.store.cases().iter().map(CaseKey::of).collect();
    assert_eq!(keys.len(), 2, "no other case exists: {keys:?}");
}
