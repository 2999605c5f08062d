//! `nodemend repair`: what a person asks for is due at once, and every guard is asked.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{case::RepairRequest, repair_event::Step};
use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment,
    fixture::{at, cluster, hold_until, kubelet_ready, minutes, policy_with_limit, terminate},
};

/// Node 1 is Ready, and alice asks for its repair in minute 10.
fn requested() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.run_until(minutes(10));
    request(&deployment, minutes(70));
    deployment
}

fn request(deployment: &Deployment, until: Timestamp) {
    let (owner, reason) = ("alice".to_owned(), "a hung driver".to_owned());
    let request = RepairRequest { owner, reason, at: deployment.clock.now(), until };
    deployment.change(1, |case| case.request_repair(request).expect("a case without a repair"));
}

#[test]
fn a_healthy_node_is_replaced_at_once_and_the_record_names_who_asked() {
    let deployment = requested();
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let decision = &deployment.last_record(1, "TerminateInstanceInAutoScalingGroup")["nodemend"]["decision"];
    assert!(decision.as_str().is_some_and(|text| text.ends_with("by alice: a hung driver")), "{decision}");
    let claim = deployment.last_record(1, "RepairClaimed");
    assert!(claim.to_string().contains("Operator"), "what verified it: {claim}");
    assert_eq!(deployment.published(Step::Due, 1), ["Replace is due, as requested by alice: a hung driver"]);
}

#[test]
fn a_node_in_its_grace_period_does_not_wait_for_its_end() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(kubelet_ready(1, minutes(9), "False"), minutes(9));
    deployment.run_until(minutes(10));
    assert_eq!(deployment.cloud.calls(), []);
    request(&deployment, minutes(70));
    deployment.run_once();
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_hold_blocks_it_until_the_hold_or_the_request_ends() {
    for (held_until, calls) in [(minutes(60), 1), (minutes(71), 0)] {
        let deployment = requested();
        deployment.store.hold(&cluster(), hold_until(held_until));
        deployment.run_until(minutes(59));
        assert_eq!(deployment.cloud.calls(), []);
        assert!(deployment.case(1).blocked().is_some_and(|blocked| blocked.guards == ["Held"]));
        deployment.run_until(minutes(120));
        assert_eq!(deployment.cloud.calls().len(), calls, "held until {held_until}");
        let case = deployment.case(1);
        assert_eq!(case.request(deployment.clock.now()), None);
        assert!(calls == 1 || case.blocked().is_none(), "{:?}", case.blocked());
    }
}

#[test]
fn a_request_that_is_taken_back_is_not_repaired() {
    let deployment = requested();
    let now = deployment.clock.now();
    deployment.change(1, |case| assert!(case.cancel_request(now)));
    deployment.change(1, |case| assert!(!case.cancel_request(now), "there is none any more"));
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_repair_that_is_under_way_goes_on_instead() {
    let deployment = requested();
    deployment.run_once();
    let until = deployment.clock.now() + SignedDuration::from_hours(1);
    let (owner, reason) = ("bob".to_owned(), "the same".to_owned());
    let request = RepairRequest { owner, reason, at: deployment.clock.now(), until };
    deployment.change(1, |case| {
        let refused = case.request_repair(request).expect_err("it was terminated");
        assert!(refused.to_string().contains("it is confirming"), "{refused}");
    });
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}
