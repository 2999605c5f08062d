//! The answers of AWS, and what blocks a call.

use jiff::SignedDuration;
use nodemend_domain::{
    case::Launch,
    group::Lifecycle,
    policy::{Hold, Mode},
    repair::{Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::{
    clock::Clock,
    store::{CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    Deployment, edit, edit_stored,
    faults::{Fate, Faults, schedule},
    fixture::{
        INTERFACE_DOWN, at, cleared, cluster, cluster_named, group, group_named, hold_until, instance,
        minutes, policy_with_limit, raised, terminate,
    },
};
use serde_json::json;

#[test]
fn a_call_is_made_at_its_deadline_and_never_before() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    for second in [0, 60, 600, 1_799] {
        deployment.run_at(at(second));
        assert_eq!(deployment.cloud.calls(), [], "{second}");
    }
    deployment.run_at(at(1_800));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_replacement_does_not_decrement_the_desired_capacity() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.run_at(minutes(30));
    let records = deployment.records(1);
    let call = records.iter().find(|record| record["eventName"] == "TerminateInstanceInAutoScalingGroup");
    let parameters = &call.expect("a call")["requestParameters"];
    assert_eq!(parameters["shouldDecrementDesiredCapacity"], false);
}

#[test]
fn a_refused_call_is_retried_after_the_backoff_of_its_error() {
    for (code, message, seconds) in [
        ("Throttling", "Rate exceeded", 15),
        ("ScalingActivityInProgress", "Scaling activity in progress", 30),
        ("AccessDenied", "is not authorized to perform", 300),
        ("ValidationError", "Instance Id not found - No managed instance found", 5),
    ] {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.refuse(terminate(1), minutes(30), code, message);
        deployment.run_at(minutes(30));
        assert_eq!(deployment.cloud.calls().len(), 1, "{code}");
        assert_eq!(deployment.group().slots().len(), 1, "{code}: its slot is kept meanwhile");
        deployment.run_at(minutes(30) + SignedDuration::from_secs(seconds - 1));
        assert_eq!(deployment.cloud.calls().len(), 1, "{code}");
        deployment.run_at(minutes(30) + SignedDuration::from_secs(seconds));
        assert_eq!(deployment.cloud.calls(), [terminate(1), terminate(1)], "{code}");
        assert_eq!(deployment.case(1).repair().expect("a repair").phase(), Phase::Confirming, "{code}");
        let refusals = deployment.records(1).into_iter().filter(|record| record["errorCode"] == code).count();
        assert_eq!(refusals, 1, "{code}: the audit log has the refusal, too");
    }
}

#[test]
fn the_backoff_doubles_while_aws_refuses_the_call() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let mut now = minutes(30);
    for backoff in [15, 30, 60, 120] {
        deployment.refuse(terminate(1), now, "Throttling", "Rate exceeded");
        deployment.run_at(now);
        let Phase::Claimed { until } = deployment.case(1).repair().expect("a repair").phase() else {
            panic!("not in backoff");
        };
        assert_eq!(until, now + SignedDuration::from_secs(backoff));
        now = until;
    }
}

#[test]
fn a_node_that_recovers_during_the_backoff_is_not_replaced_and_its_slot_is_released() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.refuse(terminate(1), minutes(30), "AccessDenied", "");
    deployment.run_at(minutes(30));
    deployment.clock.advance_to(minutes(31));
    deployment.report(cleared(1, INTERFACE_DOWN, minutes(31)).seq(2));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls().len(), 1);
    assert_eq!((deployment.case(1).repair().is_some(), deployment.group().slots().len()), (false, 0));
}

/// Node 1 of two has been unhealthy since the start. An account in which nothing of the cluster is shows no end.
fn one_of_two() -> Deployment {
    let deployment = Deployment::new(2, policy_with_limit(1));
    deployment.report(raised(1, INTERFACE_DOWN, at(0)));
    deployment
}

#[test]
fn the_case_of_a_gone_instance_is_closed_without_a_call() {
    let deployment = one_of_two();
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    deployment.run_at(minutes(30));
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(1).closed().expect("an end").outcome, "its instance is gone");
    assert_eq!(deployment.group().slots(), []);
}

#[test]
fn no_call_is_accepted_for_an_instance_that_leaves_during_the_run() {
    // It leaves at each step of the run in turn. If it leaves after the call was recorded, AWS refuses the call.
    for step in 1.. {
        let deployment = one_of_two();
        deployment.clock.advance_to(minutes(30));
        let cloud = deployment.cloud.clone();
        let faults = Faults::drawn(move |number| {
            if number == step {
                cloud.change(|fleet| fleet.leave(&instance(1)));
            }
            Fate::Proceed
        });
        deployment.try_run(&faults).expect("a run");
        let reached = faults.operations() >= step;
        deployment.run_until(minutes(120));
        let accepted = deployment.records(1).into_iter().any(|record| {
            record["eventName"] == "TerminateInstanceInAutoScalingGroup" && record["errorCode"].is_null()
        });
        assert_eq!(
            accepted,
            !reached || deployment.case(1).repair().is_some_and(|repair| repair.effective_at().is_some())
        );
        assert!(deployment.case(1).closed().is_some(), "{step}");
        assert_eq!(deployment.group().slots(), [], "{step}");
        if !reached {
            break;
        }
    }
}

#[test]
fn an_instance_that_is_not_in_service_is_blocked() {
    for lifecycle in
        [Lifecycle::Pending, Lifecycle::OutOfService, Lifecycle::Terminating, Lifecycle::WarmPool]
    {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), lifecycle));
        deployment.run_until(minutes(90));
        assert_eq!(deployment.cloud.calls(), [], "{lifecycle:?}");
        assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["NotInService"], "{lifecycle:?}");
    }
}

#[test]
fn observe_mode_records_the_repair_once_and_makes_no_call() {
    let mut observe = policy_with_limit(1);
    observe.mode = Mode::Observe;
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, observe);
    deployment.run_until(minutes(24 * 60));
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.group().slots(), []);
    for number in [1, 2] {
        assert_eq!(deployment.record_names(number), ["RepairObserved"]);
    }
}

#[test]
fn a_hold_placed_just_before_the_claim_blocks_until_it_ends() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let hold = |cluster: Option<_>, group, node, until| Hold { cluster, group, node, ..hold_until(until) };
    deployment.clock.advance_to(minutes(30));
    // Holds that do not apply: another cluster's, another group's, one that is over.
    let other = cluster_named("other");
    deployment.store.hold(&cluster(), hold(Some(other), None, None, minutes(90)));
    deployment.store.hold(&cluster(), hold(None, Some(group_named("other")), None, minutes(90)));
    deployment.store.hold(&cluster(), hold(None, None, None, minutes(30)));
    // This one is placed after the run has read the holds once, before it reads them again.
    let store = deployment.store.clone();
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
    deployment.try_run(&faults).expect("a run");
    assert!(faults.operations() > 8);
    assert_eq!(deployment.cloud.calls(), [], "a hold that is placed before the claim applies");
    deployment.run_until(minutes(44));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(45));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn an_unavailable_store_delays_the_calls_and_loses_none() {
    let deployment = Deployment::with_problem(3, INTERFACE_DOWN, policy_with_limit(3));
    deployment.clock.advance_to(minutes(30));
    let faults = Faults::drawn(|number| if number > 20 { Fate::FailBefore } else { Fate::Proceed });
    let run = deployment.try_run(&faults);
    assert!(run.is_err() || run.is_ok_and(|run| !run.failures.is_empty()), "the failure is reported");
    deployment.run_until(minutes(40));
    let mut calls = deployment.cloud.calls();
    calls.sort_by_key(|call| call.instance_id().clone());
    assert_eq!(calls, [terminate(1), terminate(2), terminate(3)]);
}

#[test]
fn a_case_that_cannot_be_read_does_not_stop_the_others() {
    // The read of the first case fails, whichever it is.
    let deployment = Deployment::with_problem(3, INTERFACE_DOWN, policy_with_limit(3));
    deployment.clock.advance_to(minutes(30));
    let faults = Faults::at(2, Fate::FailBefore);
    let run = deployment.try_run(&faults).expect("a run");
    assert_eq!(run.failures.len(), 1);
    assert_eq!(deployment.cloud.calls().len(), 2);
}

#[test]
fn a_released_hold_blocks_no_longer() {
    let mut held = policy_with_limit(1);
    held.holds.push(hold_until(minutes(300)));
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, held);
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.store.set_policy(&cluster(), policy_with_limit(1));
    deployment.run_until(minutes(41));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_late_replacement_ends_the_backoff_of_its_group() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let mut group = deployment.group();
    group.record_failure(minutes(0), minutes(29));
    deployment.put_group(&group);
    deployment.run_until(minutes(35));
    assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["ReplacementsFailing"]);
    let version = group.version() + 1;
    edit(&mut group, json!({ "failures": 0, "lastFailure": null, "version": version }));
    deployment.put_group(&group);
    deployment.run_until(minutes(36));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_process_frozen_past_its_lease_does_not_make_the_call() {
    // Lambda may freeze a process during a write, and thaw it after the lease.
    let acting = |deployment: &Deployment| {
        matches!(deployment.case(1).repair().map(|repair| repair.phase()), Some(Phase::Acting { .. }))
    };
    let write = (1..).find(|operation| {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.clock.advance_to(minutes(30));
        let faults = Faults::at(*operation, Fate::DieAfter);
        let _ = schedule::run_one(&faults, deployment.repairer(&faults).run_once());
        acting(&deployment)
    });
    let calls_after = |frozen: SignedDuration| {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.clock.advance_to(minutes(30));
        let clock = deployment.clock.clone();
        let faults = Faults::drawn(move |operation| {
            if Some(operation) == write {
                clock.advance_to(clock.now() + frozen);
            }
            Fate::Proceed
        });
        let repairer = deployment.repairer(&faults);
        let mut run = std::pin::pin!(repairer.run_once());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while !acting(&deployment) {
            assert!(run.as_mut().poll(&mut context).is_pending(), "it stops before the call");
        }
        deployment.run_once();
        let _ = pollster::block_on(run);
        deployment.run_until(deployment.clock.now() + LEASE * 2);
        deployment.cloud.calls()
    };
    assert_eq!(calls_after(LEASE - SignedDuration::from_secs(1)), [terminate(1)]);
    assert_eq!(calls_after(LEASE), [terminate(1)]);
    assert_eq!(calls_after(LEASE * 10), [terminate(1)]);
}

#[test]
fn a_new_instance_with_late_launch_events_replaces_one_node() {
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, policy_with_limit(2));
    deployment.run_at(minutes(30));
    assert_eq!(deployment.cloud.calls().len(), 2);
    deployment.launch(9);
    let launched = minutes(31);
    deployment.clock.advance_to(minutes(33));
    for _ in 0..3 {
        deployment.change(9, |case| {
            let _ = case.record_launch(
                &Launch { group: &group(), zone: None, at: launched, from_warm_pool: false },
                None,
                &deployment.transition(),
            );
            if case.arrival().is_some() {
                edit(case, json!({ "arrival": { "registered": minutes(32), "ready": minutes(33) } }));
            }
        });
        deployment.run_once();
        // The case of the replaced node closes in between, and releases its slot.
        for number in [1, 2] {
            deployment.change(number, |case| {
                edit_stored(case, |case| {
                    if let Some(call) = case.pointer_mut("/repair/calls/0") {
                        call["confirmation"] = json!(Confirmation::Confirmed);
                    }
                });
            });
        }
        deployment.run_once();
    }
    let replaced = [1, 2].into_iter().filter(|number| {
        deployment.case(*number).repair().is_some_and(|repair| repair.replacement().is_some())
    });
    assert_eq!(replaced.count(), 1);
    assert_eq!(deployment.group().slots().len(), 1, "the other still waits for its own replacement");
}

#[test]
fn each_step_of_a_repair_is_published_once() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let mut steps = Vec::new();
    for minute in 0..120 {
        steps.extend(deployment.run_at(minutes(minute)).repair_events.into_iter().map(|event| event.step));
    }
    let called = steps.iter().filter(|step| **step == Step::Called).count();
    assert_eq!(called, 1, "{steps:?}");
    assert_eq!(steps[..3], [Step::Due, Step::Claimed, Step::Called]);
}

#[test]
fn a_cluster_without_a_policy_is_not_repaired() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let store = MemoryStore::default();
    let mut case = deployment.case(1);
    edit(&mut case, json!({ "version": 0 }));
    let change = CaseWrite { case: &case, group: None, entries: &[] };
    assert_eq!(pollster::block_on(store.commit(change)), Ok(Commit::Won));
    let repairer = Repairer::new(store, deployment.cloud.clone(), deployment.clock.clone());
    deployment.clock.advance_to(minutes(60));
    pollster::block_on(repairer.run_once()).expect("a run");
    assert_eq!(deployment.cloud.calls(), []);
}
