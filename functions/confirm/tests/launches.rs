//! Auto Scaling's events of launches: those that fail, and those into and out of a warm pool.

mod fixture;

use jiff::Timestamp;
use nodemend_domain::{
    case::{CaseState, RETURNED_TO_WARM_POOL},
    group::Lifecycle,
    repair_event::{RepairEvent, Step},
};
use nodemend_testkit::{
    Deployment, edit,
    fixture::{at, cluster_named, group, group_named, instance, minutes, node, policy, zone},
};
use serde_json::{Value, json};

use self::fixture::{called, deployment};

const NO_CAPACITY: &str = "We currently do not have sufficient p5.48xlarge capacity in the Availability Zone \
                           you requested (us-east-1a). Launching EC2 instance failed.";

/// An event of Auto Scaling about an activity of a group that ended then.
fn activity(kind: &str, number: Option<u64>, ended: Timestamp, (from, to): (&str, &str)) -> Value {
    let instance_id = number.map(|number| instance(number).to_string()).unwrap_or_default();
    json!({
        "detail-type": format!("EC2 Instance {kind}"), "source": "aws.autoscaling", "time": ended.to_string(),
        "detail": {
            "AutoScalingGroupName": "workers", "EC2InstanceId": instance_id, "EndTime": ended.to_string(),
            "Origin": from, "Destination": to, "Details": { "Availability Zone": zone() },
            "StatusMessage": if number.is_none() { NO_CAPACITY } else { "" }, "Cause": "a test",
        },
    })
}

fn launch_fails(ended: Timestamp) -> Value {
    activity("Launch Unsuccessful", None, ended, ("EC2", "AutoScalingGroup"))
}

fn launched(number: u64, ended: Timestamp) -> Value {
    activity("Launch Successful", Some(number), ended, ("EC2", "AutoScalingGroup"))
}

fn warmed(number: u64, ended: Timestamp) -> Value {
    activity("Launch Successful", Some(number), ended, ("EC2", "WarmPool"))
}

fn drawn(number: u64, ended: Timestamp) -> Value {
    activity("Launch Successful", Some(number), ended, ("WarmPool", "AutoScalingGroup"))
}

fn returned(number: u64, ended: Timestamp) -> Value {
    activity("Terminate Successful", Some(number), ended, ("AutoScalingGroup", "WarmPool"))
}

fn confirm_at(deployment: &Deployment, now: Timestamp, event: &Value) -> Vec<RepairEvent> {
    deployment.clock.advance_to(now);
    deployment.try_confirm(event).expect("confirm succeeds").repair_events
}

#[test]
fn a_failed_launch_backs_its_group_off_at_once_with_auto_scalings_own_message() {
    let deployment = deployment();
    for minute in [5, 11, 17, 29] {
        assert_eq!(confirm_at(&deployment, minutes(minute), &launch_fails(minutes(minute))), []);
    }
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["ReplacementsFailing"]);
    let [blocked] = &deployment.published(Step::Blocked, 1)[..] else { panic!("blocked once") };
    assert!(blocked.contains(NO_CAPACITY) && blocked.contains("4 attempts"), "{blocked}");
    confirm_at(&deployment, minutes(61), &launched(9, minutes(61)));
    assert_eq!(deployment.group().launch_failures(), None);
    deployment.run_until(minutes(63));
    assert_eq!(deployment.cloud.calls().len(), 1, "a launch succeeded");
}

#[test]
fn failures_that_are_old_count_no_more() {
    let deployment = deployment();
    confirm_at(&deployment, minutes(10), &launch_fails(minutes(10)));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn a_node_that_awaits_its_replacement_says_once_why_none_comes() {
    let deployment = called();
    let event = launch_fails(minutes(32));
    let published = confirm_at(&deployment, minutes(32), &event);
    assert!(published.iter().all(|event| event.instance_id == instance(1)));
    let [event_of_node] = &published[..] else { panic!("{published:?}") };
    assert!(event_of_node.detail.contains(NO_CAPACITY), "{}", event_of_node.detail);
    assert_eq!(confirm_at(&deployment, minutes(33), &event), [], "delivered again");
    assert_eq!(confirm_at(&deployment, minutes(38), &launch_fails(minutes(38))), [], "nothing new");
    deployment.run_until(minutes(95));
    let [closed] = &deployment.published(Step::Closed, 1)[..] else { panic!("closed once") };
    assert!(closed.contains("no replacement registered") && closed.contains(NO_CAPACITY), "{closed}");
}

#[test]
fn a_failed_launch_of_a_group_that_is_not_served_is_ignored() {
    let deployment = deployment();
    let other = group_named("other");
    deployment.cloud.change(|fleet| fleet.join(&other, Some(&cluster_named("test")), &instance(8), &zone()));
    for name in ["other", "unknown"] {
        let mut event = launch_fails(minutes(1));
        event["detail"]["AutoScalingGroupName"] = name.into();
        assert!(!deployment.try_confirm(&event).expect("confirm succeeds").relevant, "{name}");
    }
    assert_eq!(deployment.store.groups().len(), 0);
}

#[test]
fn a_pool_that_cannot_be_filled_stops_repairs_only_while_it_is_empty() {
    for (pooled, calls) in [(true, 1), (false, 0)] {
        let deployment = deployment();
        if pooled {
            deployment.launch(9);
            deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(9), Lifecycle::WarmPool));
        }
        let event = activity("Launch Unsuccessful", None, minutes(25), ("EC2", "WarmPool"));
        confirm_at(&deployment, minutes(25), &event);
        deployment.run_until(minutes(31));
        assert_eq!(deployment.cloud.calls().len(), calls, "an instance in the pool: {pooled}");
    }
}

#[test]
fn a_launch_into_a_warm_pool_is_no_arrival() {
    let deployment = deployment();
    deployment.launch(9);
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(9), Lifecycle::WarmPool));
    assert_eq!(confirm_at(&deployment, at(10), &warmed(9, at(10))), []);
    assert_eq!(deployment.find(9), None);
}

#[test]
fn an_instance_drawn_from_the_pool_has_its_time_to_join() {
    let deployment = Deployment::new(3, policy());
    deployment.deliver_line(nodemend_testkit::fixture::kubelet_ready(2, at(0), "True"), at(0));
    deployment.launch(9);
    confirm_at(&deployment, at(0), &warmed(9, at(0)));
    confirm_at(&deployment, minutes(200), &drawn(9, minutes(200)));
    deployment.run_until(minutes(244));
    assert_eq!(deployment.cloud.calls(), [], "15 minutes to join, 30 of grace");
    deployment.run_until(minutes(245));
    assert_eq!(deployment.cloud.calls().len(), 1);
}

#[test]
fn an_instance_drawn_from_the_pool_is_the_replacement_though_it_was_launched_before_the_call() {
    let deployment = called();
    deployment.launch(9);
    deployment.cloud.change(|fleet| fleet.set_launched(instance(9), minutes(-600)));
    confirm_at(&deployment, minutes(31), &drawn(9, minutes(31)));
    deployment.join(9, minutes(31), minutes(32));
    deployment.run_until(minutes(33));
    let replacement = deployment.case(1).repair().and_then(|repair| repair.replacement().cloned());
    assert_eq!(replacement.map(|new| new.instance_id), Some(instance(9)));
}

#[test]
fn a_launch_from_the_pool_that_arrives_after_its_registration_takes_nothing_back() {
    let deployment = called();
    deployment.launch(9);
    deployment.cloud.change(|fleet| fleet.set_launched(instance(9), minutes(-600)));
    deployment.change(9, |case| {
        let arrival = json!({ "registered": minutes(32) });
        edit(case, json!({ "group": group(), "registered": minutes(32), "arrival": arrival }));
    });
    deployment.run_until(minutes(33));
    confirm_at(&deployment, minutes(40), &drawn(9, minutes(31)));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.group().failures(), 0);
}

/// Its group keeps an instance for reuse that is scaled in. Nobody terminated it, and nothing is wrong with it.
#[test]
fn an_instance_that_returns_to_the_pool_is_no_node_until_it_is_drawn_again() {
    let deployment = deployment();
    deployment.deliver_line(nodemend_testkit::fixture::kubelet_ready(2, minutes(1), "True"), minutes(1));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::WarmPool));
    let published = confirm_at(&deployment, minutes(20), &returned(1, minutes(20)));
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].reason, None);
    assert_eq!(confirm_at(&deployment, minutes(21), &returned(1, minutes(20))), [], "delivered again");
    deployment.run_until(minutes(200));
    assert_eq!((deployment.cloud.calls(), deployment.state(1)), (vec![], CaseState::Healthy));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    confirm_at(&deployment, minutes(200), &drawn(1, minutes(200)));
    deployment.run_until(minutes(240));
    assert_eq!(deployment.cloud.calls(), [], "it is booting");
    deployment.run_until(minutes(245));
    assert_eq!(deployment.cloud.calls().len(), 1, "it never joined");
}

#[test]
fn an_instance_that_we_terminated_and_that_comes_back_says_so_and_is_a_node_again() {
    let deployment = called();
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::WarmPool));
    let [event] = &confirm_at(&deployment, minutes(32), &returned(1, minutes(32)))[..] else { panic!("one") };
    assert_eq!(event.reason.as_deref(), Some(RETURNED_TO_WARM_POOL));
    assert_eq!(deployment.state(1), CaseState::Confirming, "its replacement is awaited all the same");
    for drawn_after in [40, 120] {
        let deployment = called();
        deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::WarmPool));
        confirm_at(&deployment, minutes(32), &returned(1, minutes(32)));
        deployment.run_until(minutes(drawn_after));
        deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
        let event = drawn(1, minutes(drawn_after));
        let published = confirm_at(&deployment, minutes(drawn_after), &event);
        assert_eq!(published.len(), 1);
        assert_eq!(confirm_at(&deployment, minutes(drawn_after), &event), [], "delivered again");
        let case = deployment.case(1);
        assert_eq!((case.closed(), case.repair()), (None, None), "drawn at {drawn_after}");
        assert_eq!(deployment.group().slots(), []);
        deployment.run_until(minutes(drawn_after + 44));
        assert_eq!(deployment.cloud.calls().len(), 1, "it has its time to join");
        deployment.run_until(minutes(drawn_after + 46));
        assert_eq!(deployment.cloud.calls().len(), 2, "it never joined");
    }
}

#[test]
fn a_node_that_is_ready_again_has_left_the_pool_though_the_event_is_lost() {
    let deployment = deployment();
    let ready = |minute| nodemend_testkit::fixture::kubelet_ready(2, minutes(minute), "True");
    let bad = |minute| nodemend_testkit::fixture::kubelet_ready(2, minutes(minute), "False");
    deployment.deliver_line(ready(1), minutes(1));
    confirm_at(&deployment, minutes(20), &returned(2, minutes(20)));
    deployment.deliver_line(bad(21), minutes(21));
    assert_eq!(deployment.faults(2, minutes(60)), [], "its kubelet ends: {}", node(2));
    deployment.deliver_line(ready(70), minutes(70));
    deployment.deliver_line(bad(80), minutes(80));
    assert_eq!(deployment.faults(2, minutes(90)).len(), 1);
}

#[test]
fn an_instance_that_exits_standby_before_its_fault_is_due_has_its_grace_period_from_then() {
    let deployment = deployment();
    let exit = nodemend_testkit::fixture::cloudtrail_event(&json!({
        "eventVersion": "1.08", "eventTime": minutes(25).to_string(), "awsRegion": "us-east-1",
        "userIdentity": { "type": "AssumedRole", "arn": fixture::ALICE },
        "eventSource": "autoscaling.amazonaws.com", "eventName": "ExitStandby",
        "requestParameters": { "autoScalingGroupName": "workers", "instanceIds": [instance(1), instance(7)] },
        "responseElements": { "activities": [] }, "requestID": "r", "eventID": "e",
    }));
    assert_eq!(confirm_at(&deployment, minutes(26), &exit).len(), 1);
    assert_eq!(confirm_at(&deployment, minutes(26), &exit), [], "delivered again");
    deployment.run_until(minutes(54));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(55));
    assert_eq!(deployment.cloud.calls().len(), 1);
}
