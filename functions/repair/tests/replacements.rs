//! New instances, and the repairs that await them.

use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment,
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, cleared, group, instance, minutes, policy_with_limit, raised, terminate,
        zone,
    },
};

/// Node 1 was terminated at 30 minutes. Node 9 came in its place at 32 minutes, and reports a fault of its own at 40
/// minutes. The event of its launch is late.
fn replacement_fails_early() -> Deployment {
    let deployment = Deployment::new(8, policy_with_limit(2));
    deployment.report(raised(1, INTERFACE_DOWN, minutes(0)));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    deployment.launch(9);
    deployment.clock.advance_to(minutes(32));
    deployment.report(cleared(9, GPU_ERROR, minutes(32)));
    deployment.clock.advance_to(minutes(40));
    deployment.report(raised(9, GPU_ERROR, minutes(40)).seq(2));
    deployment
}

/// The event of the launch of node 9 arrives.
fn launch_event_arrives(deployment: &Deployment) {
    deployment.change(9, |case| {
        let _events = case.record_launch(&group(), Some(&zone()), minutes(31), &deployment.transition());
    });
}

fn replacement_of_node_1(deployment: &Deployment) -> Option<nodemend_domain::ident::InstanceId> {
    Some(deployment.case(1).repair()?.replacement()?.instance_id.clone())
}

#[test]
fn a_replacement_counts_although_it_is_itself_under_repair_when_its_launch_event_arrives() {
    let deployment = replacement_fails_early();
    deployment.run_until(minutes(51));
    assert_eq!(deployment.cloud.calls().len(), 2, "node 9 is rebooted");
    assert_eq!(replacement_of_node_1(&deployment), None);
    launch_event_arrives(&deployment);
    deployment.run_until(minutes(52));
    assert_eq!(replacement_of_node_1(&deployment), Some(instance(9)));
    deployment.run_until(minutes(100));
    assert_eq!(deployment.group().failures(), 0, "after the time for a replacement of node 1");
}

#[test]
fn a_replacement_counts_although_its_own_case_has_ended_when_its_launch_event_arrives() {
    let deployment = replacement_fails_early();
    deployment.change(9, |case| {
        let _events = case.record_departure(minutes(42), "it was scaled in", &deployment.transition());
    });
    deployment.cloud.change(|fleet| fleet.leave(&instance(9)));
    deployment.run_until(minutes(45));
    assert!(deployment.case(9).closed().is_some());
    launch_event_arrives(&deployment);
    assert!(deployment.next_due().is_some_and(|due| due <= deployment.clock.now()));
    deployment.run_until(minutes(46));
    assert_eq!(replacement_of_node_1(&deployment), Some(instance(9)));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.group().failures(), 0);
}
