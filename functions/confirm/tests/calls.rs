//! CloudTrail's word on calls: ours, once, whenever it comes; and others'.

mod ward;

use nodemend_testkit::edit_stored;
use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use nodemend_confirm::{ConfirmError, Confirmer};
use nodemend_domain::{
    repair::{CallResult, Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseWrite, Commit, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::faults::{Fate, Faults, Faulty, schedule};
use serde_json::{Value, json};

use self::ward::{ALICE, ARN, Ward, at, enveloped, instance, key, terminated_by};

#[test]
fn cloudtrail_confirms_a_call_once() {
    let ward = Ward::called();
    let event = ward.cloud_trail();
    ward.wait(300);
    assert_eq!(ward.tell(&event), [Step::Confirmed]);
    assert_eq!(ward.verdicts(), [Some(Confirmation::Confirmed)]);
    for _ in 0..3 {
        assert_eq!(ward.tell(&event), []);
    }
    assert_eq!(ward.count("RepairConfirmed"), 1);
}

#[test]
fn what_differs_is_named_field_by_field() {
    for (pointer, value, field) in [
        ("/detail/requestParameters/shouldDecrementDesiredCapacity", json!(true), "shouldDecrement"),
        ("/detail/requestParameters/instanceId", json!(instance(2)), "requestParameters.instanceId"),
        ("/detail/responseElements/activity/activityId", json!("other"), "activityId"),
        ("/detail/userIdentity/arn", json!(ALICE), "userIdentity.arn"),
        ("/detail/awsRegion", json!("eu-west-1"), "awsRegion"),
        ("/detail/eventTime", json!(at(1_800 + 3_600).to_string()), "eventTime"),
    ] {
        let ward = Ward::called();
        let mut event = ward.cloud_trail();
        *event.pointer_mut(pointer).expect(pointer) = value;
        let result = ward.try_hear(&event).expect("heard");
        let [told] = result.repair_events.as_slice() else { panic!("{pointer}: {result:?}") };
        assert_eq!(told.step, Step::Mismatch, "{pointer}");
        assert!(told.detail.contains(field), "{pointer}: {}", told.detail);
        assert_eq!(ward.verdicts(), [Some(Confirmation::Mismatch)], "{pointer}");
        assert_eq!(ward.tell(&event), [], "{pointer}: told once");
    }
}

#[test]
fn a_success_that_cloudtrail_calls_a_failure_is_a_mismatch() {
    let ward = Ward::called();
    let mut event = ward.cloud_trail();
    event["detail"]["errorCode"] = "AccessDenied".into();
    event["detail"]["responseElements"] = Value::Null;
    assert_eq!(ward.tell(&event), [Step::Mismatch]);
}

#[test]
fn an_event_that_comes_before_the_calls_record_waits_for_it() {
    // The answer is on its way when CloudTrail tells already.
    let reference = Ward::called();
    let event = reference.cloud_trail();
    let ward = Ward::called_and_died();
    ward.wait(10);
    assert_eq!(ward.tell(&event), [], "nothing is known to compare it with");
    assert_eq!(ward.tell(&event), []);
    assert_eq!(ward.case(1).repair().expect("a repair").stashed_events().len(), 1, "kept once");
    // The lease runs out and the call is adopted: what CloudTrail told meanwhile, and tells but once, counts.
    ward.run_until(at(1_800) + LEASE);
    assert_eq!(ward.case(1).repair().expect("a repair").phase(), Phase::Confirming);
    assert_eq!(ward.verdicts(), [Some(Confirmation::Confirmed)]);
    assert_eq!(ward.tell(&event), []);
    assert_eq!(ward.count("RepairConfirmed"), 1);
}

#[test]
fn an_event_that_crosses_with_the_record_of_its_call_is_joined_with_it() {
    for step in 1.. {
        let ward = Ward::called_and_died();
        let (store, cloud, clock) = (ward.store.clone(), ward.cloud.clone(), ward.clock.clone());
        let faults = Faults::drawn(move |operation| {
            if operation == step {
                clock.advance_to(at(1_800) + LEASE);
                let repairer = Repairer::new(store.clone(), cloud.clone(), clock.clone());
                pollster::block_on(repairer.run_once()).expect("swept");
            }
            Fate::Proceed
        });
        let store = Faulty::new(ward.store.clone(), faults.clone());
        let audit = Confirmer::new(store, Faulty::new(ward.cloud.clone(), faults.clone()));
        let event = terminated_by(ARN, 1, 1_801, "crossing").to_string();
        pollster::block_on(audit.handle(event.as_bytes(), at(1_800) + LEASE)).expect("heard");
        ward.run_until(at(1_800) + LEASE);
        assert_eq!(ward.verdicts(), [Some(Confirmation::Confirmed)], "{step}");
        if faults.operations() < step {
            break;
        }
    }
}

/// Goes on with what waits for nobody but for its turn.
fn go_on<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_event_that_crosses_with_the_answer_of_its_call_is_joined_with_it() {
    let event = Ward::called().cloud_trail().to_string();
    for steps in 0.. {
        let ward = Ward::new();
        ward.clock.advance_to(at(1_800));
        let store = Faulty::new(ward.store.clone(), Faults::none());
        let cloud = Faulty::new(ward.cloud.clone(), Faults::none());
        let repairer = Repairer::new(store.clone(), cloud.clone(), ward.clock.clone());
        let mut run_once = pin!(repairer.run_once());
        while ward.cloud.calls().is_empty() {
            assert!(go_on(run_once.as_mut()).is_pending());
        }
        // The call is at AWS, and its answer on the way. CloudTrail is heard so far, then comes the answer.
        let audit = Confirmer::new(store, cloud);
        let mut hearing = pin!(audit.handle(event.as_bytes(), at(1_800)));
        let first_seen = (0..steps).any(|_| go_on(hearing.as_mut()).is_ready());
        pollster::block_on(run_once).expect("swept");
        if !first_seen {
            pollster::block_on(hearing).expect("heard");
        }
        assert_eq!(ward.verdicts(), [Some(Confirmation::Confirmed)], "after {steps} steps");
        if first_seen {
            break;
        }
    }
}

#[test]
fn an_event_without_an_instance_comes_again_while_its_record_may_yet_come() {
    // CloudTrail leaves the parameters out of what was throttled or denied.
    let mut event = Ward::refused().cloud_trail();
    event["detail"]["requestParameters"] = Value::Null;
    let ward = Ward::new();
    ward.clock.advance_to(at(1_800));
    assert!(matches!(ward.try_hear(&event), Err(ConfirmError::Early(id)) if id == "refused"));
    // One that nobody recorded is no more than an attempt that was repeated.
    ward.clock.advance_to(at(1_801) + LEASE);
    assert_eq!(ward.tell(&event), []);
    // Nor is anybody else's.
    ward.clock.advance_to(at(1_802) + LEASE);
    event["detail"]["userIdentity"]["arn"] = ALICE.into();
    event["detail"]["eventTime"] = at(1_802).to_string().into();
    assert_eq!(ward.tell(&event), []);
}

#[test]
fn a_call_whose_answer_was_lost_is_known_by_who_what_and_when() {
    for (event, expected) in [
        (terminated_by(ARN, 1, 1_801, "lost"), vec![Step::Confirmed]),
        (terminated_by(ALICE, 1, 1_801, "hers"), vec![Step::Foreign]),
    ] {
        let ward = Ward::called_and_died();
        ward.run_until(at(1_800) + LEASE);
        assert_eq!(ward.tell(&event), expected);
    }
}

#[test]
fn of_two_calls_without_an_answer_the_nearer_is_meant() {
    // The first never left. The second did, a lease later; its answer was lost, too, or is still awaited.
    for adopted in [true, false] {
        let ward = Ward::called_and_died();
        if adopted {
            ward.run_until(at(1_800) + LEASE);
        }
        let mut case = ward.case(1);
        edit_stored(&mut case, |case| {
            let calls = case["repair"]["calls"].as_array_mut().expect("its calls");
            let mut unsent = calls[0].clone();
            unsent["at"] = json!(at(1_800) - LEASE);
            unsent["result"] = json!(CallResult::Unanswered);
            calls.insert(0, unsent);
        });
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(ward.store.commit(change)), Ok(Commit::Won));
        let expected = if adopted { vec![Step::Confirmed] } else { Vec::new() };
        assert_eq!(ward.tell(&terminated_by(ARN, 1, 1_800, "lost")), expected);
        ward.run_until(at(1_800) + LEASE);
        assert_eq!(ward.verdicts(), [None, Some(Confirmation::Confirmed)], "{adopted}");
    }
}

#[test]
fn a_call_of_ours_that_is_no_termination_of_this_node_changes_nothing() {
    let ward = Ward::called();
    let before = (ward.case(1), ward.case(2));
    let other = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/other-session";
    let event = terminated_by(other, 7, 1_801, "unknown-instance");
    assert_eq!(ward.tell(&event), []);
    let mut read = terminated_by(ALICE, 2, 1_801, "read");
    read["detail"]["eventName"] = "DescribeAutoScalingInstances".into();
    assert_eq!(ward.tell(&read), []);
    assert_eq!((ward.case(1), ward.case(2)), before);
}

#[test]
fn another_attempt_of_our_own_call_is_not_a_strangers() {
    // The SDK sends a call again that got no answer: CloudTrail then has two, under two request ids.
    let ward = Ward::called();
    let event = ward.cloud_trail();
    assert_eq!(ward.tell(&terminated_by(ARN, 1, 1_799, "first-attempt")), []);
    assert_eq!(ward.case(1).departure(), None);
    assert_eq!(ward.tell(&event), [Step::Confirmed]);
    assert_eq!(ward.count("RepairForeign"), 0);
    // But what our role did without a repair to show for it, or long before or after, is a stranger's deed.
    assert_eq!(ward.tell(&terminated_by(ARN, 2, 1_800, "no-repair")), [Step::Foreign]);
    let ward = Ward::called();
    assert_eq!(ward.tell(&terminated_by(ARN, 1, 600, "long-before")), [Step::Foreign]);
}

#[test]
fn a_stranger_who_terminates_a_node_is_named_once_and_its_case_ends() {
    let ward = Ward::new();
    ward.clock.advance_to(at(60));
    let event = terminated_by(ALICE, 1, 55, "hers");
    let result = ward.try_hear(&event).expect("heard");
    assert_eq!(result.repair_events[0].step, Step::Foreign);
    assert!(result.repair_events[0].detail.contains("alice"), "{}", result.repair_events[0].detail);
    assert_eq!(ward.tell(&event), []);
    assert_eq!(ward.count("RepairForeign"), 1);
    ward.cloud.change(|fleet| fleet.leave(&instance(1)));
    ward.run_until(at(24 * 3_600));
    assert_eq!(ward.cloud.calls(), [], "nobody calls for what is gone");
    assert!(ward.case(1).closed().is_some());
}

#[test]
fn a_strangers_call_that_failed_changes_nothing() {
    let ward = Ward::new();
    let mut event = terminated_by(ALICE, 1, 0, "denied");
    event["detail"]["errorCode"] = "AccessDenied".into();
    event["detail"]["responseElements"] = Value::Null;
    assert_eq!(ward.tell(&event), []);
    assert_eq!(ward.case(1).departure(), None);
}

#[test]
fn one_call_may_terminate_many() {
    let ward = Ward::new();
    let event = enveloped(&json!({
        "eventVersion": "1.08", "eventTime": at(0).to_string(), "awsRegion": "us-east-1",
        "userIdentity": { "type": "AssumedRole", "arn": ALICE, "accountId": "123456789012" },
        "eventSource": "ec2.amazonaws.com", "eventName": "TerminateInstances",
        "requestParameters": { "instancesSet": { "items": [
            { "instanceId": instance(1) }, { "instanceId": instance(2) }, { "instanceId": instance(7) },
        ] } },
        "responseElements": {}, "requestID": "many", "eventID": "event-many",
    }));
    assert_eq!(ward.tell(&event), [Step::Foreign, Step::Foreign]);
    assert!([1, 2].iter().all(|number| ward.case(*number).departure().is_some()));
    assert_eq!(ward.find(7), None);
}

#[test]
fn silence_is_told_and_a_late_word_still_counts() {
    let ward = Ward::called();
    let event = ward.cloud_trail();
    ward.run_until(at(1_800 + 1_800));
    assert_eq!(ward.verdicts(), [Some(Confirmation::Missing)]);
    assert_eq!(ward.count("RepairMissing"), 1);
    let result = ward.try_hear(&event).expect("heard");
    assert_eq!(result.repair_events[0].step, Step::Confirmed);
    assert!(result.repair_events[0].detail.contains("late"), "{}", result.repair_events[0].detail);
}

#[test]
fn wherever_an_event_ends_its_next_delivery_comes_to_the_same() {
    let expected = Ward::called();
    expected.tell(&expected.cloud_trail());
    for fate in Fate::BAD {
        for operation in 1.. {
            let ward = Ward::called();
            let payload = ward.cloud_trail().to_string();
            let faults = Faults::at(operation, fate);
            let store = Faulty::new(ward.store.clone(), faults.clone());
            let audit = Confirmer::new(store, Faulty::new(ward.cloud.clone(), faults.clone()));
            let result = schedule::run_one(&faults, audit.handle(payload.as_bytes(), at(1_800)));
            if faults.operations() < operation {
                assert!(operation > 3);
                break;
            }
            assert!(!matches!(result, Some(Ok(_))), "{fate:?} at {operation} was not told of");
            ward.tell(&ward.cloud_trail());
            assert_eq!(ward.verdicts(), expected.verdicts(), "{fate:?} at {operation}");
            assert_eq!(ward.audit_log(1), expected.audit_log(1), "{fate:?} at {operation}");
        }
    }
}

#[test]
fn no_event_takes_a_record_away() {
    let ward = Ward::called();
    let before = pollster::block_on(ward.store.chain(&key(1))).expect("a memory");
    ward.tell(&terminated_by(ALICE, 1, 1_801, "hers"));
    ward.tell(&ward.cloud_trail());
    let after = pollster::block_on(ward.store.chain(&key(1))).expect("a memory");
    assert_eq!(after[..before.len()], before);
}
