//! Calls whose repair was released or closed before CloudTrail's event: they are confirmed or missing all the same.

mod fixture;

use jiff::SignedDuration;
use nodemend_domain::{
    group::Lifecycle,
    repair::{CallResult, Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_testkit::{
    Deployment,
    fixture::{REPAIR_ROLE, at, instance},
};

use self::fixture::{ALICE, called_and_died, recover, refused, terminated_by};

const CALLED: i64 = 1_800;

/// How many records the audit log has of calls for node 1.
fn calls_recorded(deployment: &Deployment) -> usize {
    deployment.count(1, "TerminateInstanceInAutoScalingGroup")
}

/// The node recovered after a call without effect, and its claim was released.
fn released(deployment: Deployment) -> Deployment {
    deployment.clock.advance_to(at(CALLED + 10));
    recover(&deployment, CALLED + 10);
    deployment.run_until(at(CALLED) + LEASE + SignedDuration::from_mins(5));
    assert_eq!(deployment.case(1).repair(), None, "released");
    assert_eq!((deployment.count(1, "RepairReleased"), calls_recorded(&deployment)), (1, 1));
    deployment
}

fn confirmation(deployment: &Deployment) -> Option<Confirmation> {
    deployment.case(1).calls().next().expect("a call").confirmation()
}

#[test]
fn a_refused_call_is_confirmed_after_its_repair_was_released() {
    let deployment = refused();
    let event = deployment.cloudtrail(1);
    let deployment = released(deployment);
    let published = deployment.try_confirm(&event).expect("confirm succeeds").repair_events;
    assert_eq!(published.iter().map(|event| event.step).collect::<Vec<_>>(), [Step::Confirmed]);
    assert_eq!(
        published[0].case,
        format!("{}#1", instance(1)),
        "the repair that made the call, not the next"
    );
    assert_eq!(confirmation(&deployment), Some(Confirmation::Confirmed));
    assert_eq!(deployment.confirm(&event), [], "published once");
    deployment.run_until(at(24 * 3_600));
    assert_eq!((deployment.count(1, "RepairConfirmed"), deployment.count(1, "RepairMissing")), (1, 0));
}

#[test]
fn a_call_without_an_event_is_missing_after_its_repair_was_released() {
    for deployment in [refused(), died_before_the_call()] {
        let deployment = released(deployment);
        deployment.run_until(at(24 * 3_600));
        assert_eq!(confirmation(&deployment), Some(Confirmation::Missing));
        assert_eq!(deployment.count(1, "RepairMissing"), 1);
        assert_eq!(deployment.case(1).due(), None);
    }
}

/// The process died before the call was sent, which its record does not show.
fn died_before_the_call() -> Deployment {
    let deployment = called_and_died();
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    deployment
}

#[test]
fn a_late_event_of_our_own_unanswered_call_is_not_a_foreign_termination() {
    let deployment = released(died_before_the_call());
    assert_eq!(deployment.case(1).calls().next().expect("a call").result(), CallResult::Unanswered);
    assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 1, CALLED + 1, "late")), [Step::Confirmed]);
    assert_eq!((deployment.count(1, "RepairForeign"), deployment.case(1).departure()), (0, None));
}

#[test]
fn an_event_kept_while_the_call_is_unanswered_is_matched_on_release() {
    let deployment = died_before_the_call();
    deployment.wait(SignedDuration::from_secs(5));
    assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 1, CALLED + 1, "early")), []);
    let deployment = released(deployment);
    assert_eq!(confirmation(&deployment), Some(Confirmation::Confirmed));
}

#[test]
fn a_call_of_a_case_closed_meanwhile_has_its_record_and_its_confirmation() {
    let deployment = called_and_died();
    deployment.wait(SignedDuration::from_secs(5));
    assert_eq!(deployment.confirm(&terminated_by(ALICE, 1, CALLED + 2, "alice-1")), [Step::Foreign]);
    deployment.run_until(at(CALLED) + LEASE);
    assert!(deployment.case(1).closed().is_some());
    assert_eq!((calls_recorded(&deployment), deployment.count(1, "RepairClosed")), (1, 1));
    assert_eq!(confirmation(&deployment), None);
    deployment.run_until(at(24 * 3_600));
    assert_eq!(confirmation(&deployment), Some(Confirmation::Missing), "the closed case still has its call");
    assert_eq!(deployment.case(1).due(), None);
}

#[test]
fn a_new_instance_that_joins_while_the_call_is_unanswered_is_the_replacement() {
    // It registers a minute after the call, whose process has died: the lease ends a minute later.
    let deployment = called_and_died();
    deployment.launch(9);
    deployment.clock.advance_to(at(CALLED + 60));
    deployment.join(9, at(CALLED + 40), at(CALLED + 60));
    deployment.run_until(at(CALLED) + LEASE + SignedDuration::from_mins(2));
    let case = deployment.case(1);
    let repair = case.repair().expect("a repair");
    assert_eq!(repair.phase(), Phase::Confirming);
    assert_eq!(repair.replacement().expect("a replacement").instance_id, instance(9));
}

#[test]
fn a_new_instance_that_joins_before_a_failed_call_is_released_replaces_no_node() {
    let deployment = died_before_the_call();
    deployment.launch(9);
    deployment.clock.advance_to(at(CALLED + 60));
    deployment.join(9, at(CALLED + 40), at(CALLED + 60));
    recover(&deployment, CALLED + 60);
    deployment.run_until(at(CALLED + 600));
    assert_eq!(
        (deployment.case(1).repair(), deployment.case(9).arrival()),
        (None, None),
        "its arrival was handled, and it replaces no node"
    );
}
