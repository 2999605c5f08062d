//! What other repair systems were seen to do wrong, each held against the very handlers that Lambda runs.
//!
//! The line above a test says whose fault it was. What is the agent's is in `agent/tests/reference_behaviours.rs`.

mod reference;

use nodemend_confirm::Confirmer;
use nodemend_domain::{
    audit_log::ApiCall,
    case::CaseState,
    group::Lifecycle,
    guard::Guard,
    policy::{Hold, Limit},
    repair::Confirmation,
    repair_event::Step,
};
use nodemend_ports::store::CaseKey;
use serde_json::json;

use self::reference::{Said, World, cluster, group, instance, minute, policy, second};

fn terminate(number: u64) -> ApiCall {
    ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(number) }
}

fn reboot(number: u64) -> ApiCall {
    ApiCall::RebootInstances { instance_id: instance(number) }
}

/// aws/eks-node-monitoring-agent #250 and #266, kubernetes/node-problem-detector #215: a condition that was raised
/// stayed until the agent was restarted.
#[test]
fn a_condition_that_went_well_again_is_forgotten_and_nothing_is_called() {
    let world = World::new(2, policy());
    for number in [1, 2] {
        world.report(number, 1, 1, Said::bad("NetworkingReady", "InterfaceNotUp", 0));
    }
    world.run_until(minute(20));
    world.report(1, 1, 2, Said::sound("NetworkingReady", 20 * 60));
    world.report(2, 1, 2, Said::bad("NetworkingReady", "InterfaceNotUp", 0));
    world.run_until(minute(180));
    assert_eq!(world.state(1), CaseState::Healthy);
    assert_eq!(world.cloud.calls(), [terminate(2)], "only the one that stayed bad");
}

/// aws/eks-node-monitoring-agent #39, kubernetes-sigs/karpenter #2833: reasons that took turns set the condition's
/// transition time anew each time, and the wait never ended.
#[test]
fn reasons_that_take_turns_do_not_reset_the_clock() {
    let world = World::new(2, policy());
    world.kubelet(2, 0, "Ready", "True", "KubeletReady");
    for turn in 0..19 {
        let at = turn * 30;
        world.run_until(second(at));
        let reason = ["NvidiaXID79Error", "NvidiaXID74Error"][usize::try_from(turn % 2).expect("0 or 1")];
        // Our agent's word, and the same from somebody else's agent in the audit log.
        world.report(
            1,
            1,
            1 + u64::try_from(turn).expect("a number"),
            Said::bad("AcceleratedHardwareReady", reason, at),
        );
        world.third_party(2, at, "AcceleratedHardwareReady", "False", reason);
    }
    world.run_until(second(599));
    assert_eq!(world.cloud.calls(), []);
    world.run_until(minute(10));
    let mut calls = world.cloud.calls();
    calls.sort_by_key(|call| call.instance_id().clone());
    assert_eq!(calls, [terminate(1), terminate(2)], "ten minutes after the first reason, to the second");
}

/// kubernetes-sigs/karpenter #2134, #2321 and its pull request #2739: beyond 20 % nothing was repaired until somebody
/// came, and nobody was told which nodes waited.
#[test]
fn a_group_beyond_its_threshold_names_who_waits_and_goes_on_when_it_can() {
    let world = World::new(10, policy());
    for number in [1, 2, 3] {
        world.kubelet(number, 0, "Ready", "False", "KubeletNotReady");
    }
    world.run_until(minute(40));
    assert_eq!(world.cloud.calls(), []);
    for number in [1, 2, 3] {
        let case = world.case(number);
        assert_eq!(world.state(number), CaseState::Blocked);
        let blocked = case.blocked().expect("blocked");
        assert_eq!(blocked.guards, [Guard::UnhealthyThreshold.name()]);
        let told = world.told(Step::Blocked, number);
        assert!(
            told.iter().any(|detail| detail.contains("3 of 10 nodes of group workers are unhealthy")),
            "{told:?}"
        );
    }
    // One recovers by itself, and that holds: two of ten are not more than 20 %.
    world.kubelet(3, 40 * 60, "Ready", "True", "KubeletReady");
    world.run_until(minute(43));
    let mut calls = world.cloud.calls();
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
        let world = World::new(nodes, policy);
        world.kubelet(1, 0, "Ready", "False", "KubeletNotReady");
        world.run_until(minute(30));
        assert_eq!(world.cloud.calls(), [terminate(1)], "a group of {nodes}");
    }
}

/// NVIDIA/NVSentinel #1280: after a restart, events that had been dealt with were played again, and a sound node was
/// rebooted under its workloads.
#[test]
fn what_was_said_before_a_reboot_reboots_nothing_after_it_however_often_it_comes() {
    let world = World::new(1, policy());
    let old: Vec<String> = (1..=3)
        .map(|seq| world.report(1, 1, seq, Said::bad("AcceleratedHardwareReady", "NvidiaXID95Error", 0)))
        .collect();
    world.run_until(minute(10));
    assert_eq!(world.cloud.calls(), [reboot(1)]);
    world.run_until(minute(13));
    world.report(1, 2, 1, Said::sound("AcceleratedHardwareReady", 12 * 60));
    world.run_until(minute(60));
    // Every handler begins with nothing but the store, as after a cold start, and hears all of it again.
    for _ in 0..3 {
        world.take_lines(&old);
        world.run_until(world.minutes_on(30));
    }
    assert_eq!(world.cloud.calls(), [reboot(1)]);
    assert_eq!(world.state(1), CaseState::Healthy);
}

/// aws/aws-node-termination-handler #787, #408 and #272: a message about another cluster's node was taken up again and
/// again for days, or ended the process.
#[test]
fn what_is_of_no_node_of_ours_is_taken_once_and_leaves_nothing() {
    let world = World::new(1, policy());
    let audit = Confirmer::new(world.store.clone(), world.cloud.clone());
    let detail = json!({ "instance-id": "i-0fffffffffffffff1", "state": "terminated" });
    let terminated = json!({
        "AutoScalingGroupName": "another-clusters", "EC2InstanceId": "i-0fffffffffffffff1", "Cause": "scaled in",
        "EndTime": "2026-09-21T14:13:20Z",
    });
    let launched =
        json!({ "AutoScalingGroupName": "another-clusters", "EC2InstanceId": "i-0fffffffffffffff2" });
    for (kind, detail) in [
        ("EC2 Instance CaseState-change Notification", detail),
        ("EC2 Instance Terminate Successful", terminated),
        ("EC2 Instance Launch Successful", launched),
        ("EC2 Spot Instance Interruption Warning", json!({ "instance-id": "i-0fffffffffffffff1" })),
    ] {
        let event = json!({ "detail-type": kind, "time": "2026-09-21T14:13:20Z", "detail": detail });
        // No error: Lambda takes that for done, and nothing comes again.
        let result = pollster::block_on(audit.handle(event.to_string().as_bytes(), minute(1))).expect(kind);
        assert!(!result.relevant && result.repair_events.is_empty(), "{kind}");
    }
    let line = Said::bad("NetworkingReady", "InterfaceNotUp", 0).line("other", 7, 1, 1, minute(1));
    let taken = world.try_take("/nodemend/other/nodes", instance(7).as_str(), &[line]).expect("taken in");
    assert_eq!((taken.unknown_cluster, taken.reports), (1, 0));
    assert_eq!(world.store.cases(), []);
}

/// aws/aws-node-termination-handler #575: a lifecycle hook was left open, and its instance waited until the hook's time
/// was up. Ours opens none and completes none (the two calls that it has are those of `ApiCall`); what it owes an
/// instance that somebody's hook holds is never to call for it again, to say that nothing came in its place, and to
/// keep no place for it.
#[test]
fn an_instance_that_a_hook_holds_is_not_called_for_again_and_keeps_no_place() {
    let world = World::new(6, policy());
    world.kubelet(1, 0, "Ready", "False", "KubeletNotReady");
    world.run_until(minute(30));
    assert_eq!(world.cloud.calls(), [terminate(1)]);
    // In Terminating:Wait its kubelet goes on complaining.
    for later in [31, 45, 60] {
        world.kubelet(
            1,
            later * 60,
            "Ready",
            if later % 2 == 0 { "Unknown" } else { "False" },
            "KubeletNotReady",
        );
        world.run_until(minute(later));
        assert_eq!(world.state(1), CaseState::Confirming);
        assert_eq!(world.group().slots().len(), 1, "its place is its own while it may yet be replaced");
    }
    world.run_until(minute(300));
    assert_eq!(world.cloud.calls(), [terminate(1)]);
    let told = world.told(Step::Closed, 1);
    assert!(told.iter().any(|end| end.contains("no replacement registered")), "{told:?}");
    assert_eq!(world.state(1), CaseState::Closed);
    assert_eq!((world.group().slots().len(), world.group().failures()), (0, 1));
    // Its call has an end in the trail, too: CloudTrail said nothing of it.
    let case = world.case(1);
    assert!(
        case.calls().all(|call| call.confirmation() == Some(Confirmation::Missing)),
        "{:?}",
        case.calls().collect::<Vec<_>>()
    );
}

/// The same for what is called off: a hold stands in the way, the node recovers, and nothing of it is left.
#[test]
fn a_repair_that_was_held_and_is_no_longer_needed_leaves_nothing_behind() {
    let world = World::new(6, policy());
    world.store.hold(
        &cluster(),
        Hold {
            cluster: None,
            group: Some(group()),
            node: None,
            owner: "alice".to_owned(),
            reason: "kernel rollout".to_owned(),
            from: None,
            until: minute(50),
        },
    );
    for number in [1, 2] {
        world.kubelet(number, 0, "Ready", "False", "KubeletNotReady");
    }
    world.run_until(minute(40));
    assert_eq!((world.state(1), world.state(2)), (CaseState::Blocked, CaseState::Blocked));
    let told = world.told(Step::Blocked, 1);
    assert!(told.iter().any(|detail| detail.contains("alice holds group workers")), "{told:?}");
    world.kubelet(1, 40 * 60, "Ready", "True", "KubeletReady");
    world.run_until(minute(49));
    assert_eq!(world.cloud.calls(), []);
    world.run_until(minute(50));
    assert_eq!(world.cloud.calls(), [terminate(2)], "as the hold ends, and only what still needs it");
    assert_eq!(world.state(1), CaseState::Healthy);
    assert_eq!((world.case(1).repair(), world.case(1).blocked()), (None, None));
    assert_eq!(world.case(2).blocked(), None);
    world.cloud.change(|fleet| fleet.set_lifecycle(&instance(2), Lifecycle::Terminating));
    world.run_until(minute(300));
    assert_eq!(world.cloud.calls(), [terminate(2)]);
    assert!(world.group().slots().is_empty());
    let keys: Vec<_> = world.store.cases().iter().map(CaseKey::of).collect();
    assert_eq!(keys.len(), 2, "nobody else's case was touched: {keys:?}");
}
