//! A call outlives its repair: what CloudTrail tells of it, or fails to, when the node has recovered or left meanwhile.

mod ward;

use jiff::SignedDuration;
use nodemend_domain::{
    group::Lifecycle,
    repair::{CallResult, Confirmation, LEASE, Phase},
    repair_event::Step,
};

use self::ward::{ALICE, ARN, Ward, at, cluster, group, instance, terminated_by};

const CALLED: i64 = 1_800;

/// The call's own record of the trail.
fn calls_recorded(ward: &Ward) -> usize {
    ward.count("TerminateInstanceInAutoScalingGroup")
}

/// The node recovered after a call that came to nothing, and its claim was given back.
fn released(ward: Ward) -> Ward {
    ward.clock.advance_to(at(CALLED + 10));
    ward.recover(1, CALLED + 10);
    ward.run_until(at(CALLED) + LEASE + SignedDuration::from_mins(5));
    assert_eq!(ward.case(1).repair(), None, "given back");
    assert_eq!((ward.count("RepairReleased"), calls_recorded(&ward)), (1, 1));
    ward
}

fn confirmation(ward: &Ward) -> Option<Confirmation> {
    ward.case(1).calls().next().expect("a call").confirmation()
}

#[test]
fn a_refused_call_is_confirmed_though_its_repair_was_given_back() {
    let ward = Ward::refused();
    let event = ward.cloud_trail();
    let ward = released(ward);
    let told = ward.try_hear(&event).expect("heard").repair_events;
    assert_eq!(told.iter().map(|told| told.step).collect::<Vec<_>>(), [Step::Confirmed]);
    assert_eq!(told[0].case, format!("{}#1", instance(1)), "of the repair that made it, not of the next");
    assert_eq!(confirmation(&ward), Some(Confirmation::Confirmed));
    assert_eq!(ward.tell(&event), [], "told once");
    ward.run_until(at(24 * 3_600));
    assert_eq!((ward.count("RepairConfirmed"), ward.count("RepairMissing")), (1, 0));
}

#[test]
fn of_a_call_without_an_event_is_told_though_its_repair_was_given_back() {
    for ward in [Ward::refused(), lost_before_it_left()] {
        let ward = released(ward);
        ward.run_until(at(24 * 3_600));
        assert_eq!(confirmation(&ward), Some(Confirmation::Missing));
        assert_eq!(ward.count("RepairMissing"), 1);
        assert_eq!(ward.case(1).due(), None);
    }
}

/// Its process died before the call left: nobody knows that.
fn lost_before_it_left() -> Ward {
    let ward = Ward::called_and_died();
    ward.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    ward
}

#[test]
fn our_own_lost_call_is_no_strangers_when_cloudtrail_tells_of_it_after_the_end() {
    let ward = released(lost_before_it_left());
    assert_eq!(ward.case(1).calls().next().expect("a call").result(), CallResult::Unanswered);
    assert_eq!(ward.tell(&terminated_by(ARN, 1, CALLED + 1, "late")), [Step::Confirmed]);
    assert_eq!((ward.count("RepairForeign"), ward.case(1).departure()), (0, None));
}

#[test]
fn what_cloudtrail_told_while_the_answer_was_out_is_joined_when_the_claim_is_given_back() {
    let ward = lost_before_it_left();
    ward.wait(5);
    assert_eq!(ward.tell(&terminated_by(ARN, 1, CALLED + 1, "early")), []);
    let ward = released(ward);
    assert_eq!(confirmation(&ward), Some(Confirmation::Confirmed));
}

#[test]
fn a_call_that_another_end_overtakes_has_its_record_and_its_verdict() {
    let ward = Ward::called_and_died();
    ward.wait(5);
    assert_eq!(ward.tell(&terminated_by(ALICE, 1, CALLED + 2, "hers")), [Step::Foreign]);
    ward.run_until(at(CALLED) + LEASE);
    assert!(ward.case(1).closed().is_some());
    assert_eq!((calls_recorded(&ward), ward.count("RepairClosed")), (1, 1));
    assert_eq!(confirmation(&ward), None);
    ward.run_until(at(24 * 3_600));
    assert_eq!(confirmation(&ward), Some(Confirmation::Missing), "the closed case still tells of it");
    assert_eq!(ward.case(1).due(), None);
}

#[test]
fn a_newcomer_that_comes_while_the_answer_is_out_is_the_replacement() {
    // It registers a minute after the call, whose process has died: the lease has another minute to run.
    let ward = Ward::called_and_died();
    let zone = "us-east-1a".parse().expect("a name");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    ward.clock.advance_to(at(CALLED + 60));
    ward.arrive(9, CALLED + 40, CALLED + 60);
    ward.run_until(at(CALLED) + LEASE + SignedDuration::from_mins(2));
    let case = ward.case(1);
    let repair = case.repair().expect("a repair");
    assert_eq!(repair.phase(), Phase::Confirming);
    assert_eq!(repair.replacement().expect("a replacement").instance_id, instance(9));
}

#[test]
fn a_newcomer_that_came_while_a_call_was_out_that_came_to_nothing_is_growth() {
    let ward = lost_before_it_left();
    let zone = "us-east-1a".parse().expect("a name");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    ward.clock.advance_to(at(CALLED + 60));
    ward.arrive(9, CALLED + 40, CALLED + 60);
    ward.recover(1, CALLED + 60);
    ward.run_until(at(CALLED + 600));
    assert_eq!(
        (ward.case(1).repair(), ward.case(9).arrival()),
        (None, None),
        "it was introduced, and replaces nobody"
    );
}
