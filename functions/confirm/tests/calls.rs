//! CloudTrail events: each call of ours is confirmed once, whenever its event comes, and other callers are foreign.

mod fixture;

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use jiff::SignedDuration;
use nodemend_confirm::ConfirmError;
use nodemend_domain::{
    repair::{CallResult, Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::audit_log::AuditLog;
use nodemend_repair::Repairer;
use nodemend_testkit::{
    edit_stored,
    faults::{Fate, Faults, schedule},
    fixture::{ACCOUNT, REPAIR_ROLE, at, cloudtrail_event, instance, key},
};
use serde_json::{Value, json};

use self::fixture::{ALICE, called, called_and_died, confirmations, deployment, refused, terminated_by};

#[test]
fn cloudtrail_confirms_a_call_once() {
    let deployment = called();
    let event = deployment.cloudtrail(1);
    deployment.wait(SignedDuration::from_secs(300));
    assert_eq!(deployment.confirm(&event), [Step::Confirmed]);
    assert_eq!(confirmations(&deployment), [Some(Confirmation::Confirmed)]);
    for _ in 0..3 {
        assert_eq!(deployment.confirm(&event), []);
    }
    assert_eq!(deployment.count(1, "RepairConfirmed"), 1);
}

#[test]
fn a_mismatch_names_the_field_that_differs() {
    for (pointer, value, field) in [
        ("/detail/requestParameters/shouldDecrementDesiredCapacity", json!(true), "shouldDecrement"),
        ("/detail/requestParameters/instanceId", json!(instance(2)), "requestParameters.instanceId"),
        ("/detail/responseElements/activity/activityId", json!("other"), "activityId"),
        ("/detail/userIdentity/arn", json!(ALICE), "userIdentity.arn"),
        ("/detail/awsRegion", json!("eu-west-1"), "awsRegion"),
        ("/detail/eventTime", json!(at(1_800 + 3_600).to_string()), "eventTime"),
    ] {
        let deployment = called();
        let mut event = deployment.cloudtrail(1);
        *event.pointer_mut(pointer).expect(pointer) = value;
        let result = deployment.try_confirm(&event).expect("confirm succeeds");
        let [published] = result.repair_events.as_slice() else { panic!("{pointer}: {result:?}") };
        assert_eq!(published.step, Step::Mismatch, "{pointer}");
        assert!(published.detail.contains(field), "{pointer}: {}", published.detail);
        assert_eq!(confirmations(&deployment), [Some(Confirmation::Mismatch)], "{pointer}");
        assert_eq!(deployment.confirm(&event), [], "{pointer}: published once");
    }
}

#[test]
fn a_successful_call_that_failed_in_cloudtrail_is_a_mismatch() {
    let deployment = called();
    let mut event = deployment.cloudtrail(1);
    event["detail"]["errorCode"] = "AccessDenied".into();
    event["detail"]["responseElements"] = Value::Null;
    assert_eq!(deployment.confirm(&event), [Step::Mismatch]);
}

#[test]
fn an_event_before_the_record_of_its_call_is_kept_until_then() {
    // CloudTrail's event comes before the call is answered.
    let event = called().cloudtrail(1);
    let deployment = called_and_died();
    deployment.wait(SignedDuration::from_secs(10));
    assert_eq!(deployment.confirm(&event), [], "there is no record to compare it with");
    assert_eq!(deployment.confirm(&event), []);
    assert_eq!(deployment.case(1).repair().expect("a repair").stashed_events().len(), 1, "kept once");
    // The lease ends, and the call is recorded as unanswered: the event that was kept confirms it.
    deployment.run_until(at(1_800) + LEASE);
    assert_eq!(deployment.case(1).repair().expect("a repair").phase(), Phase::Confirming);
    assert_eq!(confirmations(&deployment), [Some(Confirmation::Confirmed)]);
    assert_eq!(deployment.confirm(&event), []);
    assert_eq!(deployment.count(1, "RepairConfirmed"), 1);
}

#[test]
fn an_event_concurrent_with_the_record_of_its_call_is_matched() {
    for step in 1.. {
        let deployment = called_and_died();
        let (store, cloud, clock) =
            (deployment.store.clone(), deployment.cloud.clone(), deployment.clock.clone());
        let faults = Faults::drawn(move |operation| {
            if operation == step {
                clock.advance_to(at(1_800) + LEASE);
                let repairer = Repairer::new(store.clone(), cloud.clone(), clock.clone());
                pollster::block_on(repairer.run_once()).expect("a run");
            }
            Fate::Proceed
        });
        let confirmer = deployment.confirmer(&faults);
        let event = terminated_by(REPAIR_ROLE, 1, 1_801, "crossing").to_string();
        pollster::block_on(confirmer.handle(event.as_bytes(), at(1_800) + LEASE)).expect("confirm succeeds");
        deployment.run_until(at(1_800) + LEASE);
        assert_eq!(confirmations(&deployment), [Some(Confirmation::Confirmed)], "{step}");
        if faults.operations() < step {
            break;
        }
    }
}

/// Polls a future that only yields to others.
fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_event_concurrent_with_the_answer_of_its_call_is_matched() {
    let event = called().cloudtrail(1).to_string();
    for steps in 0.. {
        let deployment = deployment();
        deployment.clock.advance_to(at(1_800));
        let repairer = deployment.repairer(&Faults::none());
        let mut run = pin!(repairer.run_once());
        while deployment.cloud.calls().is_empty() {
            assert!(poll(run.as_mut()).is_pending());
        }
        // AWS has accepted the call and not answered yet. Confirm takes so many steps before the answer comes.
        let confirmer = deployment.confirmer(&Faults::none());
        let mut confirmation = pin!(confirmer.handle(event.as_bytes(), at(1_800)));
        let confirmed_first = (0..steps).any(|_| poll(confirmation.as_mut()).is_ready());
        pollster::block_on(run).expect("a run");
        if !confirmed_first {
            pollster::block_on(confirmation).expect("confirm succeeds");
        }
        assert_eq!(confirmations(&deployment), [Some(Confirmation::Confirmed)], "after {steps} steps");
        if confirmed_first {
            break;
        }
    }
}

#[test]
fn an_event_without_an_instance_is_retried_while_its_record_may_still_come() {
    // CloudTrail omits the parameters of a call that was throttled or denied.
    let mut event = refused().cloudtrail(1);
    event["detail"]["requestParameters"] = Value::Null;
    let deployment = deployment();
    deployment.clock.advance_to(at(1_800));
    assert!(
        matches!(deployment.try_confirm(&event), Err(ConfirmError::Early(id)) if event["detail"]["requestID"] == id)
    );
    // Without a record, it is an attempt of a call that the SDK repeated.
    deployment.clock.advance_to(at(1_801) + LEASE);
    assert_eq!(deployment.confirm(&event), []);
    // Without an instance, another caller's event is ignored at once.
    deployment.clock.advance_to(at(1_802) + LEASE);
    event["detail"]["userIdentity"]["arn"] = ALICE.into();
    event["detail"]["eventTime"] = at(1_802).to_string().into();
    assert_eq!(deployment.confirm(&event), []);
}

#[test]
fn an_unanswered_call_is_matched_by_caller_call_and_time() {
    for (event, expected) in [
        (terminated_by(REPAIR_ROLE, 1, 1_801, "lost"), vec![Step::Confirmed]),
        (terminated_by(ALICE, 1, 1_801, "alice-1"), vec![Step::Foreign]),
    ] {
        let deployment = called_and_died();
        deployment.run_until(at(1_800) + LEASE);
        assert_eq!(deployment.confirm(&event), expected);
    }
}

#[test]
fn of_two_unanswered_calls_the_nearer_in_time_is_matched() {
    // The first was never sent. The second was sent a lease later; it is recorded as unanswered, or not recorded yet.
    for recorded in [true, false] {
        let deployment = called_and_died();
        if recorded {
            deployment.run_until(at(1_800) + LEASE);
        }
        let mut case = deployment.case(1);
        edit_stored(&mut case, |case| {
            let calls = case["repair"]["calls"].as_array_mut().expect("its calls");
            let mut unsent = calls[0].clone();
            unsent["at"] = json!(at(1_800) - LEASE);
            unsent["result"] = json!(CallResult::Unanswered);
            calls.insert(0, unsent);
        });
        deployment.put_case(&case);
        let expected = if recorded { vec![Step::Confirmed] } else { Vec::new() };
        assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 1, 1_800, "lost")), expected);
        deployment.run_until(at(1_800) + LEASE);
        assert_eq!(confirmations(&deployment), [None, Some(Confirmation::Confirmed)], "{recorded}");
    }
}

#[test]
fn events_about_unknown_instances_and_reads_change_nothing() {
    let deployment = called();
    let before = (deployment.case(1), deployment.case(2));
    let other = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/other-session";
    let event = terminated_by(other, 7, 1_801, "unknown-instance");
    assert_eq!(deployment.confirm(&event), []);
    let mut read = terminated_by(ALICE, 2, 1_801, "read");
    read["detail"]["eventName"] = "DescribeAutoScalingInstances".into();
    assert_eq!(deployment.confirm(&read), []);
    assert_eq!((deployment.case(1), deployment.case(2)), before);
}

#[test]
fn another_attempt_of_our_own_call_is_not_a_foreign_termination() {
    // The SDK repeats a call that got no answer: CloudTrail then has two events, with two request IDs.
    let deployment = called();
    let event = deployment.cloudtrail(1);
    assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 1, 1_799, "first-attempt")), []);
    assert_eq!(deployment.case(1).departure(), None);
    assert_eq!(deployment.confirm(&event), [Step::Confirmed]);
    assert_eq!(deployment.count(1, "RepairForeign"), 0);
}

/// Of `docs/security.md`.
#[test]
fn a_termination_by_our_own_role_without_a_record_is_foreign() {
    let deployment = called();
    assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 2, 1_800, "no-repair")), [Step::Foreign]);
    // Long before the repair.
    assert_eq!(deployment.confirm(&terminated_by(REPAIR_ROLE, 1, 600, "long-before")), [Step::Foreign]);
}

#[test]
fn a_foreign_termination_is_published_once_and_closes_the_case() {
    let deployment = deployment();
    deployment.clock.advance_to(at(60));
    let event = terminated_by(ALICE, 1, 55, "alice-1");
    let result = deployment.try_confirm(&event).expect("confirm succeeds");
    assert_eq!(result.repair_events[0].step, Step::Foreign);
    assert!(result.repair_events[0].detail.contains("alice"), "{}", result.repair_events[0].detail);
    assert_eq!(deployment.confirm(&event), []);
    assert_eq!(deployment.count(1, "RepairForeign"), 1);
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    deployment.run_until(at(24 * 3_600));
    assert_eq!(deployment.cloud.calls(), [], "a gone instance is not replaced");
    assert!(deployment.case(1).closed().is_some());
}

#[test]
fn a_failed_foreign_termination_changes_nothing() {
    let deployment = deployment();
    let mut event = terminated_by(ALICE, 1, 0, "denied");
    event["detail"]["errorCode"] = "AccessDenied".into();
    event["detail"]["responseElements"] = Value::Null;
    assert_eq!(deployment.confirm(&event), []);
    assert_eq!(deployment.case(1).departure(), None);
}

#[test]
fn one_foreign_call_may_terminate_several_nodes() {
    let deployment = deployment();
    let event = cloudtrail_event(&json!({
        "eventVersion": "1.08", "eventTime": at(0).to_string(), "awsRegion": "us-east-1",
        "userIdentity": { "type": "AssumedRole", "arn": ALICE, "accountId": ACCOUNT },
        "eventSource": "ec2.amazonaws.com", "eventName": "TerminateInstances",
        "requestParameters": { "instancesSet": { "items": [
            { "instanceId": instance(1) }, { "instanceId": instance(2) }, { "instanceId": instance(7) },
        ] } },
        "responseElements": {}, "requestID": "many", "eventID": "event-many",
    }));
    assert_eq!(deployment.confirm(&event), [Step::Foreign, Step::Foreign]);
    assert!([1, 2].iter().all(|number| deployment.case(*number).departure().is_some()));
    assert_eq!(deployment.find(7), None);
}

#[test]
fn a_missing_event_is_published_and_a_late_one_still_confirms() {
    let deployment = called();
    let event = deployment.cloudtrail(1);
    deployment.run_until(at(1_800 + 1_800));
    assert_eq!(confirmations(&deployment), [Some(Confirmation::Missing)]);
    assert_eq!(deployment.count(1, "RepairMissing"), 1);
    let result = deployment.try_confirm(&event).expect("confirm succeeds");
    assert_eq!(result.repair_events[0].step, Step::Confirmed);
    assert!(result.repair_events[0].detail.contains("late"), "{}", result.repair_events[0].detail);
}

#[test]
fn an_event_that_fails_at_any_step_is_completed_by_its_next_delivery() {
    let expected = called();
    expected.confirm(&expected.cloudtrail(1));
    for fate in Fate::BAD {
        for operation in 1.. {
            let deployment = called();
            let payload = deployment.cloudtrail(1).to_string();
            let faults = Faults::at(operation, fate);
            let confirmer = deployment.confirmer(&faults);
            let result = schedule::run_one(&faults, confirmer.handle(payload.as_bytes(), at(1_800)));
            if faults.operations() < operation {
                assert!(operation > 3);
                break;
            }
            assert!(!matches!(result, Some(Ok(_))), "{fate:?} at {operation} was not reported");
            deployment.confirm(&deployment.cloudtrail(1));
            assert_eq!(confirmations(&deployment), confirmations(&expected), "{fate:?} at {operation}");
            assert_eq!(deployment.record_names(1), expected.record_names(1), "{fate:?} at {operation}");
        }
    }
}

#[test]
fn no_event_removes_an_audit_record() {
    let deployment = called();
    let before = pollster::block_on(deployment.store.chain(&key(1))).expect("a read");
    deployment.confirm(&terminated_by(ALICE, 1, 1_801, "alice-1"));
    deployment.confirm(&deployment.cloudtrail(1));
    let after = pollster::block_on(deployment.store.chain(&key(1))).expect("a read");
    assert_eq!(after[..before.len()], before);
}
