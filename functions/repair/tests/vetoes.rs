//! What people write on a Node itself: an annotation holds it, and a cordon leaves it alone.

use jiff::Timestamp;
use nodemend_domain::{
    node_snapshot::NodeSnapshot,
    policy::{NodeHolds, Policy},
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        INTERFACE_DOWN, at, cleared, instance, kubelet_ready, minutes, node, node_marked, policy_with_limit,
        raised,
    },
};

/// Node 1, whose Ready the control plane reports as False since minute 1.
fn not_ready(policy: Policy) -> Deployment {
    let deployment = Deployment::new(3, policy);
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(kubelet_ready(1, minutes(1), "False"), minutes(1));
    deployment
}

/// Node 1, whose agent reports a fault since minute 1.
fn bad_by_the_agent(policy: Policy) -> Deployment {
    let deployment = Deployment::new(3, policy);
    deployment.report(cleared(1, INTERFACE_DOWN, at(0)).seq(1));
    deployment.clock.advance_to(minutes(1));
    deployment.report(raised(1, INTERFACE_DOWN, minutes(1)).seq(2));
    deployment
}

/// Node 1 as the Kubernetes API returns it.
fn snapshot(hold: Option<&str>, cordoned: bool) -> NodeSnapshot {
    NodeSnapshot {
        name: node(1),
        uid: None,
        instance_id: Some(instance(1)),
        boot_id: None,
        created: Some(at(-86_400)),
        conditions: Vec::new(),
        hold: hold.map(str::to_owned),
        cordoned,
    }
}

fn held_until(until: Timestamp) -> String {
    format!("{until} core dump")
}

fn annotated(deployment: &Deployment, user: &str, value: Option<&str>, written: Timestamp) {
    let patch = serde_json::json!({ "metadata": { "annotations": { "nodemend.io/hold": value } } });
    deployment.deliver_line(node_marked(1, user, &patch, written), written);
}

fn is_held(deployment: &Deployment) -> bool {
    deployment.case(1).blocked().is_some_and(|blocked| blocked.guards == ["Held"])
}

#[test]
fn an_annotation_that_the_audit_log_shows_holds_its_node_and_names_who_set_it() {
    let deployment = not_ready(policy_with_limit(3));
    annotated(&deployment, "alice", Some(&held_until(minutes(60))), minutes(5));
    deployment.run_until(minutes(59));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(is_held(&deployment));
    let hold = deployment.case(1).marks().hold(Some(&node(1))).expect("a hold");
    assert_eq!((hold.who.as_str(), hold.reason.as_str()), ("alice", "core dump"));
    deployment.run_until(minutes(61));
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn an_annotation_that_is_taken_off_holds_no_longer() {
    let deployment = not_ready(policy_with_limit(3));
    annotated(&deployment, "alice", Some(&held_until(minutes(600))), minutes(5));
    annotated(&deployment, "bob", None, minutes(40));
    deployment.run_until(minutes(42));
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn an_annotation_whose_line_was_lost_is_read_right_before_the_call() {
    for deployment in [not_ready(policy_with_limit(3)), bad_by_the_agent(policy_with_limit(3))] {
        deployment.run_until(minutes(20));
        let node = NodeSnapshot { hold: Some(held_until(minutes(50))), ..snapshot(None, false) };
        deployment.cloud.cluster_state().set_node(minutes(20), bad(node));
        deployment.run_until(minutes(49));
        assert_eq!(deployment.cloud.calls(), []);
        assert!(is_held(&deployment));
        deployment.run_until(minutes(51));
        assert_eq!(deployment.cloud.calls().len(), 1);
    }
}

/// The same with the condition that the control plane has reported.
fn bad(node: NodeSnapshot) -> NodeSnapshot {
    use nodemend_domain::{
        condition::{ConditionType, Health},
        node_snapshot::SnapshotCondition,
        observation::ObservedCondition,
    };
    let observed = ObservedCondition {
        condition: ConditionType::Ready,
        health: Health::Bad,
        reason: "KubeletNotReady".to_owned(),
        message: String::new(),
    };
    NodeSnapshot { conditions: vec![SnapshotCondition { observed, since: Some(minutes(1)) }], ..node }
}

#[test]
fn an_annotation_that_cannot_be_read_holds_for_a_day() {
    let deployment = not_ready(policy_with_limit(3));
    annotated(&deployment, "alice", Some("please do not touch"), minutes(5));
    deployment.run_until(minutes(5 + 24 * 60 - 1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(5 + 24 * 60 + 1));
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn a_policy_can_heed_the_annotations_of_people_alone_or_none() {
    let kubelet = format!("system:node:{}", node(1));
    for (holds, user, calls) in [
        (NodeHolds::Any, "alice", 0),
        (NodeHolds::Any, kubelet.as_str(), 0),
        (NodeHolds::People, "alice", 0),
        (NodeHolds::People, kubelet.as_str(), 1),
        (NodeHolds::People, "system:serviceaccount:default:x", 1),
        (NodeHolds::None, "alice", 1),
    ] {
        let deployment = not_ready(Policy { node_holds: holds, ..policy_with_limit(3) });
        annotated(&deployment, user, Some(&held_until(minutes(600))), minutes(5));
        deployment.run_until(minutes(60));
        assert_eq!(deployment.cloud.calls().len(), calls, "{holds:?} {user}");
    }
}

#[test]
fn a_cordoned_node_is_left_alone_only_if_the_policy_says_so() {
    for (respect_cordon, calls) in [(true, 0), (false, 1)] {
        let deployment = not_ready(Policy { respect_cordon, ..policy_with_limit(3) });
        deployment.cloud.cluster_state().set_node(minutes(2), bad(snapshot(None, true)));
        deployment.run_until(minutes(60));
        assert_eq!(deployment.cloud.calls().len(), calls, "respectCordon: {respect_cordon}");
        deployment.cloud.cluster_state().set_node(minutes(60), bad(snapshot(None, false)));
        let patch = serde_json::json!({ "spec": { "unschedulable": null } });
        deployment.deliver_line(node_marked(1, "bob", &patch, minutes(60)), minutes(60));
        deployment.run_until(minutes(62));
        assert_eq!(deployment.cloud.calls().len(), 1, "it was uncordoned");
    }
}
