//! New instances, and the repairs that await them.

use nodemend_domain::{
    case::{Launch, NewInstance},
    instance_traits::InstanceTraits,
    repair_event::Step,
    report::Report,
};
use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment, edit,
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, cleared, group, instance, minutes, node, node_deleted, policy_with_limit,
        raised, reboot, terminate, zone, zone_named,
    },
};
use serde_json::json;

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
        let _events = case.record_launch(
            &Launch { group: &group(), zone: Some(&zone()), at: minutes(31), from_warm_pool: false },
            None,
            &deployment.transition(),
        );
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
fn a_replacement_counts_although_aws_has_refused_the_call_of_its_own_repair_when_its_launch_event_arrives() {
    let deployment = replacement_fails_early();
    deployment.refuse(reboot(9), minutes(50), "UnauthorizedOperation", "You are not authorized");
    deployment.run_until(minutes(51));
    assert_eq!(deployment.group().slots().len(), 2, "the repair of node 9 waits to call again");
    launch_event_arrives(&deployment);
    deployment.run_until(minutes(52));
    assert_eq!(replacement_of_node_1(&deployment), Some(instance(9)));
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

#[test]
fn an_instance_that_registers_late_and_was_launched_before_the_call_replaces_no_node() {
    for (launched, replaces) in [(Some(-60), false), (Some(31), true), (None, true)] {
        let deployment = Deployment::new(8, policy_with_limit(2));
        deployment.report(raised(1, INTERFACE_DOWN, minutes(0)));
        deployment.run_until(minutes(30));
        assert_eq!(deployment.cloud.calls(), [terminate(1)]);
        // Nothing was ever reported of node 8 until its kubelet registers.
        if let Some(launched) = launched {
            deployment.cloud.change(|fleet| fleet.set_launched(instance(8), minutes(launched)));
        }
        deployment.change(8, |case| {
            edit(
                case,
                json!({ "group": group(), "arrival": { "registered": minutes(32), "ready": minutes(32) } }),
            );
        });
        deployment.run_until(minutes(33));
        let replacement = replacement_of_node_1(&deployment);
        assert_eq!(replacement.is_some(), replaces, "launched at minute {launched:?}");
    }
}

#[test]
fn a_name_that_agents_alone_have_claimed_is_the_replacements_once_the_old_instance_is_terminated() {
    let deployment = replacement_fails_early();
    let claims = Report { node: node(1), ..cleared(9, GPU_ERROR, minutes(41)).seq(3).written(minutes(41)) };
    deployment.change(9, |case| {
        case.apply_report(&claims, minutes(41), &deployment.policy);
    });
    deployment.deliver_line(node_deleted(1, minutes(42)), minutes(42));
    let is_deleted =
        |number| deployment.faults(number, minutes(43)).iter().any(|fault| fault.reason == "NodeDeleted");
    assert_eq!([1, 9].map(is_deleted), [false, true]);
}

#[test]
fn a_slower_process_that_knows_a_replacement_as_registered_does_not_undo_that_it_is_ready() {
    let deployment = replacement_fails_early();
    let record = |ready| {
        let label = node(9).to_string();
        let new = NewInstance { instance_id: instance(9), label, registered: minutes(32), ready };
        deployment.change(1, |case| {
            let _events =
                case.record_replacement(&new, None, &deployment.transition()).expect("it is under repair");
        });
        deployment.case(1).repair().and_then(|repair| repair.replacement()?.ready)
    };
    assert_eq!(record(None), None);
    assert_eq!(record(Some(minutes(33))), Some(minutes(33)));
    assert_eq!(record(None), Some(minutes(33)));
}

/// An instance of version 3 of the group's launch template.
fn of_version_3(zone: &str) -> InstanceTraits {
    InstanceTraits {
        image: Some("ami-0a1b2c3d4e5f67890".to_owned()),
        launch_template: Some("lt-0123456789abcdef0 version 3".to_owned()),
        instance_type: Some("m6i.large".to_owned()),
        zone: Some(zone_named(zone)),
    }
}

/// Node 9 replaced node 1, and has the fault of node 1 as soon as it has joined. Node 2 has it too. Both zones: where
/// EC2 describes nodes 1 and 9, if it does.
fn fault_comes_again(zones: Option<[&str; 2]>) -> Deployment {
    let mut policy = policy_with_limit(5);
    policy.outage.gradual = true;
    policy.outage.small = 0;
    let deployment = Deployment::new(8, policy);
    if let Some([first, replacement]) = zones {
        deployment.cloud.change(|fleet| {
            fleet.set_traits(instance(1), of_version_3(first));
            fleet.set_traits(instance(9), of_version_3(replacement));
        });
    }
    deployment.report(raised(1, INTERFACE_DOWN, minutes(0)));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    deployment.launch(9);
    deployment.clock.advance_to(minutes(32));
    launch_event_arrives(&deployment);
    deployment.report(cleared(9, INTERFACE_DOWN, minutes(32)));
    deployment.run_until(minutes(33));
    deployment.report(raised(9, INTERFACE_DOWN, minutes(33)).seq(2));
    deployment.report(raised(2, INTERFACE_DOWN, minutes(33)));
    deployment.run_until(minutes(90));
    assert_eq!(deployment.cloud.calls(), [terminate(1)], "neither node 9 nor node 2 is replaced");
    deployment
}

/// Why a node is not repaired.
fn block_of(deployment: &Deployment, number: u64) -> String {
    deployment.published(Step::Blocked, number).pop().expect("it is blocked")
}

#[test]
fn a_fault_that_comes_again_stops_its_reason_and_the_message_names_what_both_nodes_share() {
    let deployment = fault_comes_again(Some(["eu-west-1a", "eu-west-1b"]));
    let shared = "has the same fault: the cause appears to be in what both share (image ami-0a1b2c3d4e5f67890, launch \
                  template lt-0123456789abcdef0 version 3, type m6i.large)";
    for number in [2, 9] {
        let why = block_of(&deployment, number);
        assert!(why.contains(&format!("{} replaced a node", instance(9))) && why.contains(shared), "{why}");
    }
    let call = deployment.last_record(1, "TerminateInstanceInAutoScalingGroup");
    let instance = &call["nodemend"]["evidence"]["verification"]["instance"];
    assert_eq!(instance["image"], "ami-0a1b2c3d4e5f67890");
}

#[test]
fn a_fault_that_comes_again_stops_its_reason_though_ec2_describes_neither_node() {
    let why = block_of(&fault_comes_again(None), 2);
    assert!(why.contains("has the same fault: replacing more nodes would not help"), "{why}");
}
