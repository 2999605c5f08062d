//! A node is repaired although its Node object was deleted, its case was closed, or its policy was wrong for a while.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{group::Lifecycle, repair_event::Step};
use nodemend_ports::{clock::Clock, store::Store};
use nodemend_testkit::{
    Deployment,
    faults::Faults,
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, agent_payload, at, cleared, cluster, cluster_named, group, group_named,
        instance, kubelet_ready, minutes, node, node_controller_unknown, policy_with_limit, raised, reboot,
        terminate, zone,
    },
};
use serde_json::{Value, json};

const CLOUD_CONTROLLER: &str = "eks:cloud-controller-manager";
const NODE_MANAGER: &str = "eks:node-manager";
const KARPENTER: &str = "system:serviceaccount:karpenter:karpenter";

/// A line of the control-plane audit log: somebody deletes the Node object.
fn deleted_by(user: &str, number: u64, written: Timestamp) -> String {
    let line = json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": "delete",
        "user": { "username": user },
        "requestURI": format!("/api/v1/nodes/{}", node(number)),
        "objectRef": { "resource": "nodes", "name": node(number) },
        "responseStatus": { "code": 200 }, "stageTimestamp": written.to_string(),
    });
    line.to_string()
}

/// Node 1 of three was Ready, and a controller deletes its Node object after five minutes.
fn deleted(user: &str) -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(deleted_by(user, 1, minutes(5)), minutes(5));
    deployment
}

#[test]
fn a_node_that_a_controller_deletes_while_its_instance_is_in_service_is_replaced() {
    for user in [CLOUD_CONTROLLER, NODE_MANAGER, KARPENTER] {
        let deployment = deleted(user);
        deployment.run_until(minutes(35) - SignedDuration::from_millis(1));
        assert_eq!(deployment.cloud.calls(), [], "{user}");
        assert_eq!(deployment.published(Step::Suspect, 1).len(), 1, "{user}: once");
        let [fault] = deployment.faults(1, minutes(10)).try_into().expect("one fault");
        assert_eq!((fault.reason.as_str(), fault.since), ("NodeDeleted", minutes(5)), "{user}");
        deployment.run_until(minutes(35));
        assert_eq!(deployment.cloud.calls(), [terminate(1)], "{user}");
    }
}

#[test]
fn a_detached_instance_whose_node_is_deleted_is_not_gone() {
    let deployment = deleted(CLOUD_CONTROLLER);
    deployment.cloud.change(|fleet| {
        fleet.leave(&instance(1));
        fleet.add_ungrouped(instance(1));
    });
    deployment.run_until(minutes(40));
    assert_eq!(deployment.case(1).closed(), None);
    assert_eq!(deployment.cloud.calls(), [], "it is in no group");
    deployment
        .cloud
        .change(|fleet| fleet.join(&group_named("workers"), Some(&cluster()), &instance(1), &zone()));
    deployment.run_until(minutes(41));
    assert_eq!(deployment.cloud.calls(), [], "it has just come back");
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_node_that_left_with_its_instance_is_closed_without_a_fault() {
    // Auto Scaling may not have noticed yet, may be terminating it, or may have forgotten it.
    for lifecycle in [Some(Lifecycle::Terminating), None] {
        let deployment = deleted(CLOUD_CONTROLLER);
        deployment.cloud.change(|fleet| match lifecycle {
            Some(lifecycle) => fleet.set_lifecycle(&instance(1), lifecycle),
            None => fleet.leave(&instance(1)),
        });
        deployment.run_until(minutes(120));
        let case = deployment.case(1);
        assert!(case.closed().is_some_and(|closed| closed.at == minutes(5)), "{lifecycle:?}");
        assert_eq!((deployment.cloud.calls(), deployment.published(Step::Suspect, 1)), (vec![], vec![]));
    }
}

#[test]
fn an_instance_that_leaves_a_moment_after_its_node_is_closed_without_a_call() {
    let deployment = deleted(CLOUD_CONTROLLER);
    deployment.run_until(minutes(6));
    assert_eq!(deployment.published(Step::Suspect, 1).len(), 1, "Auto Scaling still had it");
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    let ctx = deployment.transition();
    deployment.change(1, |case| {
        let _ = case.record_departure(minutes(6), "Auto Scaling terminated it", &ctx);
    });
    deployment.run_until(minutes(6));
    let closed = deployment.case(1).closed().cloned().expect("an end");
    assert_eq!((closed.at, closed.outcome.as_str()), (minutes(6), "Auto Scaling terminated it"));
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn an_instance_that_begins_to_terminate_during_the_grace_period_is_not_called() {
    let deployment = deleted(CLOUD_CONTROLLER);
    deployment.run_until(minutes(20));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::Terminating));
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(deployment.case(1).closed().is_some());
}

#[test]
fn a_node_that_registers_again_is_not_missing() {
    let deployment = deleted(NODE_MANAGER);
    deployment.run_until(minutes(10));
    let registers = json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": "create", "requestURI": "/api/v1/nodes",
        "user": { "username": format!("system:node:{}", node(1)), "extra": { "sessionName": [instance(1)] } },
        "objectRef": { "resource": "nodes", "name": node(1) },
        "requestObject": { "metadata": { "name": node(1) } },
        "responseStatus": { "code": 201 }, "stageTimestamp": minutes(10).to_string(),
    });
    deployment.deliver_line(registers.to_string(), minutes(10));
    deployment.deliver_line(kubelet_ready(1, minutes(11), "True"), minutes(11));
    deployment.run_until(minutes(240));
    assert_eq!((deployment.cloud.calls(), deployment.case(1).departure()), (vec![], None));
}

#[test]
fn a_pending_instance_is_not_closed_by_the_end_of_an_older_node_of_its_name() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    // Held in Pending:Wait by a launch hook, and its kubelet is already seen.
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::Pending));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(deleted_by(CLOUD_CONTROLLER, 1, minutes(1)), minutes(1));
    deployment.run_until(minutes(3));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    deployment.deliver_line(node_controller_unknown(1, minutes(10)), minutes(10));
    deployment.run_until(minutes(600));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

/// A line of the control-plane audit log: the kubelet of this instance registers the Node object of node 1, or writes to
/// the one that is there.
fn kubelet_of_node_1(number: u64, write: &str, written: Timestamp) -> String {
    let conditions =
        json!({ "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] });
    let (object, code) = match write {
        "create" => (json!({ "resource": "nodes", "name": node(1) }), 201),
        _ => (json!({ "resource": "nodes", "name": node(1), "subresource": "status" }), 200),
    };
    let line = json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": write, "requestURI": "/api/v1/nodes",
        "user": { "username": format!("system:node:{}", node(1)), "extra": { "sessionName": [instance(number)] } },
        "objectRef": object,
        "requestObject": { "metadata": { "name": node(1) }, "status": conditions },
        "responseObject": { "metadata": { "uid": "518ba070-154e-4400-883a-77a44a075bd0" } },
        "responseStatus": { "code": code }, "stageTimestamp": written.to_string(),
    });
    line.to_string()
}

/// That instance 1 left after five minutes is reported, and ends its case.
fn departs(deployment: &Deployment, how: &str) {
    let ctx = deployment.transition();
    deployment.change(1, |case| {
        let _ = case.record_departure(minutes(5), how, &ctx);
    });
    deployment.run_until(minutes(6));
    assert!(deployment.case(1).closed().is_some());
}

/// Instance 1 registered the Node object, and was scaled in. Instance 2 got its name: its kubelet found the Node object,
/// and went on with it. Then the cloud controller deletes that object, of an instance that is gone.
fn object_of_another() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_of_node_1(1, "create", at(0)), at(0));
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    departs(&deployment, "it was scaled in");
    deployment
}

fn object_deleted(written: Timestamp) -> String {
    let mut line: Value = serde_json::from_str(&deleted_by(CLOUD_CONTROLLER, 1, written)).expect("JSON");
    line["responseStatus"]["details"] = json!({ "uid": "518ba070-154e-4400-883a-77a44a075bd0" });
    line.to_string()
}

#[test]
fn a_node_that_went_on_with_the_object_of_an_older_instance_is_missing_when_that_is_deleted() {
    let deployment = object_of_another();
    deployment.deliver_line(kubelet_of_node_1(2, "patch", minutes(8)), minutes(8));
    deployment.deliver_line(object_deleted(minutes(10)), minutes(10));
    deployment.run_until(minutes(40) - SignedDuration::from_millis(1));
    let [fault] = deployment.faults(2, minutes(15)).try_into().expect("one fault");
    assert_eq!((fault.reason.as_str(), fault.since), ("NodeDeleted", minutes(10)));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), [terminate(2)]);
}

#[test]
fn a_node_that_registers_after_the_object_of_an_older_instance_was_deleted_is_not_missing() {
    let deployment = object_of_another();
    deployment.deliver_line(kubelet_of_node_1(2, "patch", minutes(12)), minutes(12));
    // Written before, and late.
    deployment.deliver_line(object_deleted(minutes(10)), minutes(15));
    deployment.run_until(minutes(240));
    assert_eq!((deployment.cloud.calls(), deployment.faults(2, minutes(20))), (vec![], vec![]));
}

/// Node 1 is closed after five minutes, as another principal's call would do.
fn closed() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.clock.advance_to(minutes(5));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::Terminating));
    departs(&deployment, "Auto Scaling terminated it");
    deployment
}

#[test]
fn a_case_that_was_closed_for_a_living_instance_opens_again_at_its_next_report() {
    let deployment = closed();
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    deployment.clock.advance_to(minutes(10));
    deployment
        .deliver(&agent_payload(1, &[raised(1, INTERFACE_DOWN, minutes(10)).line(minutes(10))]), minutes(10));
    deployment.run_until(minutes(10));
    assert_eq!(deployment.case(1).closed(), None);
    assert_eq!(deployment.published(Step::Suspect, 1).len(), 1, "what it reported is published");
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn the_last_reports_of_an_instance_that_is_gone_open_nothing() {
    let deployment = closed();
    for minute in 7..60 {
        deployment.clock.advance_to(minutes(minute));
        let line = cleared(1, INTERFACE_DOWN, at(0)).seq(minute.unsigned_abs()).line(minutes(minute));
        deployment.deliver(&agent_payload(1, &[line]), minutes(minute));
        deployment.run_until(minutes(minute));
        assert!(deployment.case(1).closed().is_some(), "after {minute} minutes");
    }
    let writes = deployment.case(1).version();
    assert!(writes < 120, "{writes} writes");
    deployment.run_until(minutes(180));
    assert_eq!((deployment.case(1).due(), deployment.published(Step::Event, 1)), (None, vec![]));
}

#[test]
fn a_reboot_that_is_denied_becomes_a_replacement() {
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    while deployment.clock.now() < minutes(120) && deployment.cloud.calls().last() != Some(&terminate(1)) {
        let due = deployment.next_due().expect("a due case");
        deployment.refuse(reboot(1), due, "UnauthorizedOperation", "You are not authorized");
        deployment.run_at(due);
    }
    assert_eq!(deployment.cloud.calls(), [reboot(1), reboot(1), reboot(1), terminate(1)]);
}

#[test]
fn a_reboot_that_is_throttled_is_tried_again_and_not_replaced() {
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    for _ in 0..6 {
        let due = deployment.next_due().expect("a due case");
        deployment.refuse(reboot(1), due, "RequestLimitExceeded", "Request limit exceeded.");
        deployment.run_at(due);
    }
    assert_eq!(deployment.cloud.calls(), vec![reboot(1); 6]);
}

#[test]
fn a_slot_is_given_back_when_the_instance_moves_to_another_group_or_out_of_all() {
    for moves_to in [Some("blue"), None] {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.refuse(terminate(1), minutes(30), "ScalingActivityInProgress", "busy");
        deployment.run_at(minutes(30));
        assert_eq!(deployment.group().slots().len(), 1, "it is claimed");
        deployment.cloud.change(|fleet| {
            fleet.leave(&instance(1));
            match moves_to {
                Some(name) => fleet.join(&group_named(name), Some(&cluster()), &instance(1), &zone()),
                None => fleet.add_ungrouped(instance(1)),
            }
        });
        deployment.run_until(minutes(40));
        assert_eq!(deployment.group().slots().len(), 0, "{moves_to:?}");
        let called = if moves_to.is_some() { 2 } else { 1 };
        assert_eq!(deployment.cloud.calls(), vec![terminate(1); called], "{moves_to:?}");
        deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
        deployment.run_until(minutes(600));
        let blue = pollster::block_on(Store::group(&deployment.store, &cluster(), &group_named("blue")));
        assert_eq!(blue.expect("a read").slots().len(), 0, "{moves_to:?}");
    }
}

#[test]
fn an_instance_on_standby_keeps_no_slot() {
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, policy_with_limit(1));
    deployment.refuse(terminate(1), minutes(30), "ScalingActivityInProgress", "busy");
    deployment.run_at(minutes(30));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::OutOfService));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1), terminate(2)], "the other one is repaired");
}

#[test]
fn a_cluster_whose_policy_was_removed_is_looked_at_once_a_minute_and_counted() {
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, policy_with_limit(2));
    deployment.run_at(minutes(1));
    let other = cluster_named("other");
    for number in 1..=2 {
        let mut case = deployment.case(number);
        nodemend_testkit::edit(&mut case, json!({ "cluster": other, "version": 0, "due": minutes(2) }));
        deployment.put_case(&case);
    }
    let run = deployment.run_at(minutes(2));
    assert_eq!(run.without_policy.get(&other), Some(&2));
    assert!(deployment.next_due().is_some_and(|due| due == minutes(3)), "not at once again");
    let run = deployment.try_run(&Faults::none()).expect("a run");
    assert_eq!(run.evaluated, 0);
    assert_eq!(deployment.run_at(minutes(3)).without_policy.get(&other), Some(&2), "and again");
    deployment.store.set_policy(&other, policy_with_limit(2));
    let _ = group();
}
