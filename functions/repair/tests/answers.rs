//! What AWS may answer, and what stands in the way of asking it.

mod ward;

use jiff::SignedDuration;
use nodemend_domain::{
    group::Lifecycle,
    policy::{Hold, Mode},
    repair::{Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::{clock::Clock, store::Store};
use nodemend_testkit::faults::{Fate, Faults, schedule};
use nodemend_testkit::{edit, edit_stored};
use serde_json::json;

use self::ward::{Episode, Ward, at, cluster, group, held_until, instance, minutes, policy, terminate};

#[test]
fn a_call_leaves_at_its_deadline_and_never_before() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    for second in [0, 60, 600, 1_799] {
        ward.sweep_at(at(second));
        assert_eq!(ward.cloud.calls(), [], "{second}");
    }
    ward.sweep_at(at(1_800));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
}

#[test]
fn the_group_keeps_its_size() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.sweep_at(minutes(30));
    let records = ward.records(1);
    let call = records.iter().find(|record| record["eventName"] == "TerminateInstanceInAutoScalingGroup");
    let parameters = &call.expect("a call")["requestParameters"];
    assert_eq!(parameters["shouldDecrementDesiredCapacity"], false);
}

#[test]
fn a_refusal_is_tried_again_after_a_pause_that_fits_it() {
    for (code, message, seconds) in [
        ("Throttling", "Rate exceeded", 15),
        ("ScalingActivityInProgress", "Scaling activity in progress", 30),
        ("AccessDenied", "is not authorized to perform", 300),
        ("ValidationError", "Instance Id not found - No managed instance found", 5),
    ] {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.refuse(terminate(1), minutes(30), code, message);
        ward.sweep_at(minutes(30));
        assert_eq!(ward.cloud.calls().len(), 1, "{code}");
        assert_eq!(ward.group().slots().len(), 1, "{code}: its place is kept meanwhile");
        ward.sweep_at(minutes(30) + SignedDuration::from_secs(seconds - 1));
        assert_eq!(ward.cloud.calls().len(), 1, "{code}");
        ward.sweep_at(minutes(30) + SignedDuration::from_secs(seconds));
        assert_eq!(ward.cloud.calls(), [terminate(1), terminate(1)], "{code}");
        assert_eq!(ward.case(1).repair().expect("a repair").phase(), Phase::Confirming, "{code}");
        let refused = ward.records(1).into_iter().filter(|record| record["errorCode"] == code).count();
        assert_eq!(refused, 1, "{code}: the trail holds the refusal, too");
    }
}

#[test]
fn pauses_grow_while_aws_goes_on_refusing() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let mut now = minutes(30);
    for pause in [15, 30, 60, 120] {
        ward.refuse(terminate(1), now, "Throttling", "Rate exceeded");
        ward.sweep_at(now);
        let Phase::Claimed { until } = ward.case(1).repair().expect("a repair").phase() else {
            panic!("a pause");
        };
        assert_eq!(until, now + SignedDuration::from_secs(pause));
        now = until;
    }
}

#[test]
fn a_node_that_recovers_during_a_pause_is_spared_and_its_place_given_back() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.refuse(terminate(1), minutes(30), "AccessDenied", "");
    ward.sweep_at(minutes(30));
    ward.clock.advance_to(minutes(31));
    ward.tell(1, Episode::Network, false, 1, 2, 31 * 60);
    ward.run_until(minutes(60));
    assert_eq!(ward.cloud.calls().len(), 1);
    assert_eq!((ward.case(1).repair().is_some(), ward.group().slots().len()), (false, 0));
}

#[test]
fn an_instance_that_is_gone_is_closed_and_not_called_for() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.cloud.change(|fleet| fleet.leave(&instance(1)));
    ward.sweep_at(minutes(30));
    assert_eq!(ward.cloud.calls(), []);
    assert_eq!(ward.case(1).closed().expect("an end").outcome, "its instance is gone");
    assert_eq!(ward.group().slots(), []);
}

#[test]
fn an_instance_that_left_between_the_look_and_the_call_is_not_called_for() {
    // It goes away at each step of the sweep in turn. Once the call is written down as on its way, AWS refuses it.
    for step in 1.. {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.clock.advance_to(minutes(30));
        let cloud = ward.cloud.clone();
        let faults = Faults::drawn(move |number| {
            if number == step {
                cloud.change(|fleet| fleet.leave(&instance(1)));
            }
            Fate::Proceed
        });
        pollster::block_on(ward.repairer(&faults).run_once()).expect("swept");
        let came_so_far = faults.operations() >= step;
        ward.run_until(minutes(120));
        let accepted = ward.records(1).into_iter().any(|record| {
            record["eventName"] == "TerminateInstanceInAutoScalingGroup" && record["errorCode"].is_null()
        });
        assert_eq!(
            accepted,
            !came_so_far || ward.case(1).repair().is_some_and(|repair| repair.effective_at().is_some())
        );
        assert!(ward.case(1).closed().is_some(), "{step}");
        assert_eq!(ward.group().slots(), [], "{step}");
        if !came_so_far {
            break;
        }
    }
}

#[test]
fn nothing_is_called_that_is_not_in_service() {
    for lifecycle in
        [Lifecycle::Pending, Lifecycle::OutOfService, Lifecycle::Terminating, Lifecycle::WarmPool]
    {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), lifecycle));
        ward.run_until(minutes(90));
        assert_eq!(ward.cloud.calls(), [], "{lifecycle:?}");
        assert_eq!(ward.case(1).blocked().expect("blocked").guards, ["NotInService"], "{lifecycle:?}");
    }
}

#[test]
fn observing_does_everything_but_call_and_says_so_once() {
    let mut observe = policy(1);
    observe.mode = Mode::Observe;
    let ward = Ward::sick(2, Episode::Network, observe);
    ward.run_until(minutes(24 * 60));
    assert_eq!(ward.cloud.calls(), []);
    assert_eq!(ward.group().slots(), []);
    for number in [1, 2] {
        assert_eq!(ward.audit_log(number), ["RepairObserved"]);
    }
}

#[test]
fn a_hold_holds_until_it_ends_even_if_placed_at_the_last_moment() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let hold = |cluster: Option<_>, group, node, until| Hold { cluster, group, node, ..held_until(until) };
    ward.clock.advance_to(minutes(30));
    // Near misses: another cluster's, another group's, one that is over.
    let other = "other".parse().expect("a name");
    ward.store.hold(&cluster(), hold(Some(other), None, None, minutes(90)));
    ward.store.hold(&cluster(), hold(None, Some("other".parse().expect("a name")), None, minutes(90)));
    ward.store.hold(&cluster(), hold(None, None, None, minutes(30)));
    // Placed while the sweep is between its first look and its second.
    let store = ward.store.clone();
    let held = hold(None, Some(group()), None, minutes(45));
    let mut held = Some(held);
    let faults = Faults::drawn(move |number| {
        if number == 8
            && let Some(hold) = held.take()
        {
            store.hold(&cluster(), hold);
        }
        Fate::Proceed
    });
    pollster::block_on(ward.repairer(&faults).run_once()).expect("swept");
    assert!(faults.operations() > 8);
    assert_eq!(ward.cloud.calls(), [], "what is placed before the claim is seen");
    ward.run_until(minutes(44));
    assert_eq!(ward.cloud.calls(), []);
    ward.run_until(minutes(45));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_store_that_is_away_for_a_while_costs_time_and_nothing_else() {
    let ward = Ward::sick(3, Episode::Network, policy(3));
    ward.clock.advance_to(minutes(30));
    let faults = Faults::drawn(|number| if number > 20 { Fate::FailBefore } else { Fate::Proceed });
    let swept = pollster::block_on(ward.repairer(&faults).run_once());
    assert!(swept.is_err() || swept.is_ok_and(|swept| !swept.failures.is_empty()), "it is told of");
    ward.run_until(minutes(40));
    let mut calls = ward.cloud.calls();
    calls.sort_by_key(|call| call.instance_id().clone());
    assert_eq!(calls, [terminate(1), terminate(2), terminate(3)]);
}

#[test]
fn one_bad_case_does_not_stop_the_others() {
    // The first case's own read fails, whichever it is; the others go on.
    let ward = Ward::sick(3, Episode::Network, policy(3));
    ward.clock.advance_to(minutes(30));
    let faults = Faults::at(2, Fate::FailBefore);
    let swept = pollster::block_on(ward.repairer(&faults).run_once()).expect("swept");
    assert_eq!(swept.failures.len(), 1);
    assert_eq!(ward.cloud.calls().len(), 2);
}

#[test]
fn a_hold_that_is_taken_back_early_holds_no_longer() {
    let mut held = policy(1);
    held.holds.push(held_until(minutes(300)));
    let ward = Ward::sick(1, Episode::Network, held);
    ward.run_until(minutes(40));
    assert_eq!(ward.cloud.calls(), []);
    ward.store.set_policy(&cluster(), policy(1));
    ward.run_until(minutes(41));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_rest_that_a_late_replacement_ends_is_not_waited_out() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let mut resting = ward.group();
    resting.record_failure(minutes(29));
    ward.put_group(&resting);
    ward.run_until(minutes(35));
    assert_eq!(ward.case(1).blocked().expect("blocked").guards, ["ReplacementsFailing"]);
    let version = resting.version() + 1;
    edit(&mut resting, json!({ "failures": 0, "lastFailure": null, "version": version }));
    ward.put_group(&resting);
    ward.run_until(minutes(36));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_process_that_slept_past_its_lease_leaves_the_call_to_others() {
    // Lambda may freeze a process while it writes, and thaw it when the lease is over.
    let acting = |ward: &Ward| {
        matches!(ward.case(1).repair().map(|repair| repair.phase()), Some(Phase::Acting { .. }))
    };
    let write = (1..).find(|operation| {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.clock.advance_to(minutes(30));
        let faults = Faults::at(*operation, Fate::DieAfter);
        let _ = schedule::run_one(&faults, ward.repairer(&faults).run_once());
        acting(&ward)
    });
    let calls_after = |slept: SignedDuration| {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.clock.advance_to(minutes(30));
        let clock = ward.clock.clone();
        let faults = Faults::drawn(move |operation| {
            if Some(operation) == write {
                clock.advance_to(clock.now() + slept);
            }
            Fate::Proceed
        });
        let sleeper = ward.repairer(&faults);
        let mut sleeper = std::pin::pin!(sleeper.run_once());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while !acting(&ward) {
            assert!(sleeper.as_mut().poll(&mut context).is_pending(), "it stops before the call");
        }
        ward.run_once();
        let _ = pollster::block_on(sleeper);
        ward.run_until(ward.clock.now() + LEASE * 2);
        ward.cloud.calls()
    };
    assert_eq!(calls_after(LEASE - SignedDuration::from_secs(1)), [terminate(1)]);
    assert_eq!(calls_after(LEASE), [terminate(1)]);
    assert_eq!(calls_after(LEASE * 10), [terminate(1)]);
}

#[test]
fn a_late_launch_event_does_not_make_one_newcomer_replace_two_nodes() {
    let ward = Ward::sick(2, Episode::Network, policy(2));
    ward.sweep_at(minutes(30));
    assert_eq!(ward.cloud.calls().len(), 2);
    let zone = "us-east-1a".parse().expect("a name");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    let launched = minutes(31);
    ward.clock.advance_to(minutes(33));
    for _ in 0..3 {
        ward.change(9, |case| {
            let _ = case.record_launch(&group(), None, launched, &ward.transition());
            if case.arrival().is_some() {
                edit(case, json!({ "arrival": { "registered": minutes(32), "ready": minutes(33) } }));
            }
        });
        ward.run_once();
        // The replaced case ends in between, and its place is free.
        for number in [1, 2] {
            ward.change(number, |case| {
                edit_stored(case, |case| {
                    if let Some(call) = case.pointer_mut("/repair/calls/0") {
                        call["confirmation"] = json!(Confirmation::Confirmed);
                    }
                });
            });
        }
        ward.run_once();
    }
    let replaced = [1, 2]
        .into_iter()
        .filter(|number| ward.case(*number).repair().is_some_and(|repair| repair.replacement().is_some()));
    assert_eq!(replaced.count(), 1);
    assert_eq!(ward.group().slots().len(), 1, "the other still waits for its own");
}

#[test]
fn what_a_sweep_tells_is_told_once() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let mut steps = Vec::new();
    for minute in 0..120 {
        steps.extend(ward.sweep_at(minutes(minute)).repair_events.into_iter().map(|told| told.step));
    }
    let called = steps.iter().filter(|step| **step == Step::Called).count();
    assert_eq!(called, 1, "{steps:?}");
    assert_eq!(steps[..3], [Step::Due, Step::Claimed, Step::Called]);
}

#[test]
fn no_policy_means_no_repair() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let bare = nodemend_ports::store::MemoryStore::default();
    let mut case = ward.case(1);
    edit(&mut case, json!({ "version": 0 }));
    let change = nodemend_ports::store::CaseWrite { case: &case, group: None, entries: &[] };
    assert_eq!(pollster::block_on(bare.commit(change)), Ok(nodemend_ports::store::Commit::Won));
    let repairer = nodemend_repair::Repairer::new(bare, ward.cloud.clone(), ward.clock.clone());
    ward.clock.advance_to(minutes(60));
    pollster::block_on(repairer.run_once()).expect("swept");
    assert_eq!(ward.cloud.calls(), []);
}
