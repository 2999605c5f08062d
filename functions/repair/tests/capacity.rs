//! Whether a group gets its instances back: replacements that never become Ready, instances of a scale-out, and
//! instances that come back into service.

use nodemend_domain::{
    case::{CaseState, Launch},
    condition::RepairAction,
    group::Lifecycle,
    repair_event::Step,
    scaling_activity::ScalingActivity,
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        INTERFACE_DOWN, cleared, group, instance, kubelet_ready, minutes, node_controller_unknown,
        policy_with_limit, terminate, zone,
    },
};

/// Node `number` becomes not ready then; before that it was Ready.
fn breaks(deployment: &Deployment, number: u64, minute: i64) {
    deployment.deliver_line(kubelet_ready(number, minutes(minute - 1), "True"), minutes(minute - 1));
    deployment.deliver_line(kubelet_ready(number, minutes(minute), "False"), minutes(minute));
}

/// The event of a launch arrives.
fn launched(deployment: &Deployment, number: u64, minute: i64) {
    let zone = zone();
    deployment.change(number, |case| {
        let launch =
            Launch { group: &group(), zone: Some(&zone), at: minutes(minute), from_warm_pool: false };
        let _events = case.record_launch(&launch, None, &deployment.transition());
    });
}

/// Auto Scaling launches an instance into the group, and its event arrives.
fn launches(deployment: &Deployment, number: u64, minute: i64) {
    deployment.clock.advance_to(minutes(minute));
    deployment.launch(number);
    launched(deployment, number, minute);
}

/// Node 1 was terminated at 31 minutes. Its replacement registers, and never becomes Ready.
fn replacement_never_ready() -> Deployment {
    let deployment = Deployment::new(20, policy_with_limit(4));
    breaks(&deployment, 1, 1);
    deployment.run_until(minutes(31));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    launches(&deployment, 21, 32);
    deployment.deliver_line(kubelet_ready(21, minutes(33), "False"), minutes(33));
    deployment
}

/// The repair of node 1 has ended with its replacement, and is no failure of its group.
fn assert_replaced(deployment: &Deployment) {
    let published = deployment.published(Step::Closed, 1);
    assert!(published[0].contains("replaced by"), "{published:?}");
    assert_eq!(deployment.group().failures(), 0);
}

#[test]
fn a_replacement_that_registers_and_never_becomes_ready_has_failed() {
    let deployment = replacement_never_ready();
    deployment.run_until(minutes(90));
    assert_eq!(deployment.state(1), CaseState::Confirming, "it has its time");
    deployment.run_until(minutes(91));
    assert_eq!(deployment.state(1), CaseState::Closed);
    let published = deployment.published(Step::Closed, 1);
    assert!(published[0].contains("did not become Ready"), "{published:?}");
    assert_eq!((deployment.group().failures(), deployment.group().slots().len()), (1, 0));
    let until = deployment.group().backoff_until(&deployment.policy);
    assert_eq!(until, Some(minutes(91 + 15)));
}

#[test]
fn a_replacement_counts_when_its_node_is_ready() {
    let deployment = replacement_never_ready();
    deployment.run_until(minutes(80));
    deployment.deliver_line(kubelet_ready(21, minutes(80), "True"), minutes(80));
    deployment.run_until(minutes(180));
    assert_replaced(&deployment);
}

#[test]
fn a_replacement_counts_whose_ready_line_comes_after_its_own_case_has_ended() {
    let deployment = replacement_never_ready();
    deployment.run_until(minutes(40));
    let ctx = deployment.transition();
    deployment.cloud.change(|fleet| fleet.leave(&instance(21)));
    deployment.change(21, |case| {
        let _ = case.record_departure(minutes(41), "it was scaled in", &ctx);
    });
    deployment.run_until(minutes(45));
    assert!(deployment.case(21).closed().is_some());
    deployment.deliver_line(kubelet_ready(21, minutes(35), "True"), minutes(50));
    deployment.run_until(minutes(95));
    assert_replaced(&deployment);
}

#[test]
fn a_replacement_counts_whose_ready_line_is_late_and_that_is_unhealthy_again() {
    let deployment = replacement_never_ready();
    deployment.deliver_line(kubelet_ready(21, minutes(40), "False"), minutes(40));
    deployment.run_until(minutes(50));
    deployment.deliver_line(kubelet_ready(21, minutes(34), "True"), minutes(50));
    deployment.run_until(minutes(95));
    assert_replaced(&deployment);
}

#[test]
fn any_new_instance_that_becomes_ready_ends_the_backoff() {
    let deployment = replacement_never_ready();
    breaks(&deployment, 2, 65);
    deployment.run_until(minutes(96));
    assert_eq!(deployment.case(2).blocked().expect("blocked").guards, ["ReplacementsFailing"]);
    launches(&deployment, 22, 97);
    deployment.deliver_line(kubelet_ready(22, minutes(98), "True"), minutes(98));
    deployment.run_until(minutes(100));
    assert!(deployment.cloud.calls().contains(&terminate(2)), "{:?}", deployment.cloud.calls());
}

/// A node that is Ready again is not new, whatever becomes of others.
#[test]
fn an_old_instance_that_becomes_ready_ends_no_backoff() {
    let deployment = replacement_never_ready();
    breaks(&deployment, 2, 65);
    deployment.run_until(minutes(96));
    deployment.deliver_line(kubelet_ready(3, minutes(97), "False"), minutes(97));
    deployment.deliver_line(kubelet_ready(3, minutes(98), "True"), minutes(98));
    deployment.run_until(minutes(100));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn instances_of_a_scale_out_that_do_not_join_stop_nobodys_repair() {
    let deployment = Deployment::new(20, policy_with_limit(4));
    for (number, minute) in [(21, 0), (22, 4), (23, 8), (24, 12)] {
        launches(&deployment, number, minute);
    }
    breaks(&deployment, 1, 13);
    deployment.run_until(minutes(43));
    assert_eq!(deployment.group().failures(), 0, "no replacement was awaited");
    assert!(deployment.cloud.calls().contains(&terminate(1)), "{:?}", deployment.cloud.calls());
    assert_eq!(deployment.faults(21, minutes(43))[0].reason, "FailedToJoin");
}

#[test]
fn a_replacement_that_does_not_join_backs_its_group_off_before_its_repair_is_given_up() {
    let deployment = Deployment::new(20, policy_with_limit(4));
    breaks(&deployment, 1, 1);
    deployment.run_until(minutes(31));
    launches(&deployment, 21, 32);
    deployment.run_until(minutes(47));
    assert_eq!(deployment.group().failures(), 1);
    deployment.run_until(minutes(91));
    assert_eq!(deployment.group().failures(), 1, "one outage");
}

#[test]
fn a_replacement_that_is_ready_counts_though_no_run_came_until_its_time_was_up() {
    let deployment = replacement_never_ready();
    deployment.deliver_line(kubelet_ready(21, minutes(34), "True"), minutes(34));
    // Its next report makes it due after the repair that awaits it.
    deployment.clock.advance_to(minutes(92));
    deployment.report(cleared(21, INTERFACE_DOWN, minutes(92)));
    deployment.run_until(minutes(95));
    assert_replaced(&deployment);
}

/// Its whole group was never located: nothing is known of it but this event.
#[test]
fn a_group_whose_only_known_node_was_terminated_is_one_of_nodes() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, minutes(0), "True"), minutes(0));
    let activity = ScalingActivity { group: group(), cause: String::new(), started: None };
    deployment.change(1, |case| {
        let _effects = case.record_activity(&activity, minutes(1), None, &deployment.transition());
    });
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    launches(&deployment, 9, 2);
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [terminate(9)]);
}

/// EventBridge gives no order: the launch of an instance that is gone.
#[test]
fn a_launch_that_arrives_after_the_end_of_its_instance_is_no_failure() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    launched(&deployment, 9, 0);
    deployment.run_until(minutes(60));
    assert_eq!((deployment.group().failures(), deployment.state(9)), (0, CaseState::Closed));
    assert_eq!(deployment.cloud.calls(), []);
}

/// Events without `Destination`: the pool shows only in the instance's lifecycle state.
#[test]
fn an_instance_of_a_warm_pool_is_left_alone_and_has_its_time_when_it_is_drawn() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(2, minutes(0), "True"), minutes(0));
    launches(&deployment, 9, 0);
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(9), Lifecycle::WarmPool));
    deployment.run_until(minutes(200));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(9), Lifecycle::Pending));
    deployment.run_until(minutes(243));
    assert_eq!((deployment.group().failures(), deployment.cloud.calls()), (0, vec![]));
    deployment.run_until(minutes(247));
    assert_eq!(deployment.cloud.calls(), [terminate(9)]);
}

#[test]
fn an_instance_that_comes_back_from_standby_has_its_time_to_become_ready() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::OutOfService));
    deployment.deliver_line(kubelet_ready(1, minutes(0), "True"), minutes(0));
    deployment.deliver_line(node_controller_unknown(1, minutes(1)), minutes(1));
    deployment.run_until(minutes(240));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    deployment.run_until(minutes(268));
    assert_eq!(deployment.cloud.calls(), [], "its kubelet may need a while");
    deployment.run_until(minutes(272));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

/// EC2 sends no event that reaches a deployment when an instance is started; its launch time is that of the start.
#[test]
fn an_instance_that_was_stopped_and_started_has_its_time_to_become_ready() {
    let deployment = Deployment::new(8, policy_with_limit(1));
    breaks(&deployment, 1, 1);
    deployment.cloud.change(|fleet| fleet.set_launched(instance(1), minutes(25)));
    deployment.run_until(minutes(39));
    assert_eq!(deployment.cloud.calls(), [], "it was started at 25 minutes");
    deployment.run_until(minutes(41));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    assert_eq!(deployment.case(1).action(), Some(RepairAction::Replace));
}
