//! A sweep that fails or dies at any of its steps, and the next one that takes up where it was.

mod ward;

use jiff::SignedDuration;
use nodemend_domain::{
    policy::Hold,
    repair::{LEASE, Phase},
};
use nodemend_ports::clock::Clock;
use nodemend_testkit::edit;
use nodemend_testkit::faults::{Fate, Faults, schedule};
use serde_json::json;

use self::ward::{Episode, Ward, cluster, group, instance, minutes, policy, reboot, terminate};

/// Runs one sweep of which one operation meets its fate; whether it came so far.
fn meets(ward: &Ward, operation: usize, fate: Fate) -> bool {
    let faults = Faults::at(operation, fate);
    let _ = schedule::run_one(&faults, ward.repairer(&faults).run_once());
    faults.operations() >= operation
}

/// The sweeps after it, every few seconds, until every lease has run out.
fn recover(ward: &Ward) {
    let end = ward.clock.now() + LEASE * 3;
    while ward.clock.now() < end {
        ward.wait(SignedDuration::from_secs(7));
        ward.run_once();
    }
}

#[test]
fn whatever_happens_at_any_step_one_call_leaves_and_its_case_goes_on() {
    for fate in Fate::BAD {
        for operation in 1.. {
            let ward = Ward::sick(1, Episode::Network, policy(1));
            ward.clock.advance_to(minutes(30));
            if !meets(&ward, operation, fate) {
                assert!(operation > 10, "the sweep has that many steps at least");
                break;
            }
            recover(&ward);
            assert_eq!(ward.cloud.calls(), [terminate(1)], "{fate:?} at {operation}");
            let repair = ward.case(1).repair().cloned().expect("a repair");
            assert_eq!(repair.phase(), Phase::Confirming, "{fate:?} at {operation}");
            let place = ward.group().slots().to_vec();
            assert!(
                place.len() == 1 && place[0].terminated_at.is_some(),
                "{fate:?} at {operation}: {place:?}"
            );
            let told = ward.audit_log(1).iter().filter(|name| name.starts_with("Terminate")).count();
            assert!(told >= 1, "{fate:?} at {operation}: {:?}", ward.audit_log(1));
        }
    }
}

#[test]
fn a_reboot_that_dies_at_any_step_is_never_sent_twice() {
    for fate in Fate::BAD {
        for operation in 1.. {
            let ward = Ward::sick(1, Episode::Accelerator, policy(1));
            ward.clock.advance_to(minutes(10));
            if !meets(&ward, operation, fate) {
                break;
            }
            recover(&ward);
            // One that was to leave and did not can't be told from one that did: the wait for a new boot decides.
            let calls = ward.cloud.calls();
            assert!(calls.is_empty() || calls == [reboot(1)], "{fate:?} at {operation}: {calls:?}");
            assert_eq!(
                ward.case(1).repair().expect("a repair").phase(),
                Phase::Rebooting,
                "{fate:?} at {operation}"
            );
        }
    }
}

#[test]
fn no_step_that_fails_lets_more_through_than_the_limit() {
    for fate in Fate::BAD {
        for operation in (1..).step_by(3) {
            let ward = Ward::sick(4, Episode::Network, policy(2));
            ward.clock.advance_to(minutes(30));
            if !meets(&ward, operation, fate) {
                break;
            }
            recover(&ward);
            let mut calls = ward.cloud.calls();
            calls.dedup();
            assert_eq!(calls.len(), 2, "{fate:?} at {operation}: {calls:?}");
            assert_eq!(ward.cloud.calls().len(), 2, "{fate:?} at {operation}");
        }
    }
}

#[test]
fn two_failures_in_a_row_are_no_worse_than_one() {
    for first in 8..20 {
        for second in 1..20 {
            for (one, other) in [
                (Fate::DieBefore, Fate::DieAfter),
                (Fate::DieAfter, Fate::DieAfter),
                (Fate::DieAfter, Fate::FailAfter),
                (Fate::FailAfter, Fate::FailBefore),
            ] {
                let ward = Ward::sick(1, Episode::Network, policy(1));
                ward.clock.advance_to(minutes(30));
                meets(&ward, first, one);
                ward.wait(LEASE);
                meets(&ward, second, other);
                recover(&ward);
                assert_eq!(ward.cloud.calls(), [terminate(1)], "{one:?} at {first}, {other:?} at {second}");
            }
        }
    }
}

#[test]
fn a_claim_is_nobody_elses_until_its_lease_ends() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.clock.advance_to(minutes(30));
    // Dies right after the claim is written.
    let claimed = (1..).find(|operation| {
        let trial = Ward::sick(1, Episode::Network, policy(1));
        trial.clock.advance_to(minutes(30));
        meets(&trial, *operation, Fate::DieAfter);
        trial.case(1).repair().is_some()
    });
    meets(&ward, claimed.expect("a claim"), Fate::DieAfter);
    ward.sweep_at(minutes(30) + LEASE - SignedDuration::from_secs(1));
    assert_eq!(ward.cloud.calls(), []);
    ward.sweep_at(minutes(30) + LEASE);
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_call_that_never_left_keeps_no_newcomer_waiting_while_its_node_is_held() {
    let dies_at = |operation| {
        let ward = Ward::new(2, policy(2));
        ward.tell(1, Episode::Network, true, 1, 1, 0);
        ward.clock.advance_to(minutes(1));
        ward.tell(2, Episode::Network, true, 1, 1, 60);
        ward.clock.advance_to(minutes(30));
        assert!(meets(&ward, operation, Fate::DieBefore), "a call is written down before it leaves");
        ward
    };
    let ward = (1..).map(dies_at).find(|ward| ward.case(1).pending_call().is_some()).expect("a call");
    ward.store.hold(
        &cluster(),
        Hold {
            cluster: None,
            group: None,
            node: ward.case(1).node().cloned(),
            owner: "alice".to_owned(),
            reason: "looking".to_owned(),
            from: None,
            until: minutes(90),
        },
    );
    ward.sweep_at(minutes(31));
    assert_eq!(ward.cloud.calls(), [terminate(2)]);
    let zone = "us-east-1a".parse().expect("a name");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    ward.clock.advance_to(minutes(33));
    ward.change(9, |case| {
        let arrival = json!({ "launched": minutes(32), "registered": minutes(33), "ready": minutes(33) });
        edit(case, json!({ "group": group(), "arrival": arrival }));
    });
    ward.run_until(minutes(40));
    let replaced = ward.case(2).repair().cloned().and_then(|repair| repair.replacement().cloned());
    assert_eq!(replaced.map(|replacement| replacement.instance_id), Some(instance(9)));
    assert_eq!(ward.cloud.calls(), [terminate(2)]);
    // What never left is in the trail as lost, once.
    assert_eq!(ward.audit_log(1).iter().filter(|name| name.starts_with("Terminate")).count(), 1);
}

#[test]
fn an_instance_that_our_lost_call_terminated_did_not_leave_by_itself() {
    // EC2 tells that it is shutting down before the lease of the call without an answer has run out.
    let lost = |operation| {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.clock.advance_to(minutes(30));
        meets(&ward, operation, Fate::DieAfter);
        ward
    };
    let operation = (1..).find(|operation| !lost(*operation).cloud.calls().is_empty()).expect("a call");
    let ward = lost(operation);
    let now = ward.clock.now();
    ward.change(1, |case| {
        edit(
            case,
            json!({ "departure": { "at": now, "how": "EC2 says that its instance is shutting-down" } }),
        );
    });
    recover(&ward);
    let case = ward.case(1);
    assert_eq!(case.closed(), None, "its replacement is still awaited");
    assert_eq!(case.repair().expect("a repair").phase(), Phase::Confirming);
    assert_eq!(ward.group().slots().len(), 1, "and its place in the group still taken");
    assert!(
        ward.audit_log(1).contains(&"TerminateInstanceInAutoScalingGroup".to_owned()),
        "{:?}",
        ward.audit_log(1)
    );
}
