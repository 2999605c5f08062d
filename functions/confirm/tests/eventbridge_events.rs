//! Events of Auto Scaling and EC2, in the forms that AWS documents and sends through EventBridge.

mod fixture;

use nodemend_confirm::AutoScalingEvent;
use nodemend_domain::{
    ident::{AccountId, Zone},
    repair_event::Step,
};
use nodemend_ports::cause::chain;
use nodemend_testkit::{
    faults::Faults,
    fixture::{at, cluster_named, group, group_named, instance, zone},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::fixture::{called, called_and_died, deployment};

const LAUNCH: &str = include_str!("../../../events/templates/eventbridge-asg-launch-successful.json");
const TERMINATE: &str = include_str!("../../../events/templates/eventbridge-asg-terminate-successful.json");
const STATE: &str = include_str!("../../../events/templates/eventbridge-nth-ec2-state-change-event.json");

fn template(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn launch(group: &str, number: u64, seconds: i64) -> Value {
    let mut event = template(LAUNCH);
    event["detail"]["AutoScalingGroupName"] = group.into();
    event["detail"]["EC2InstanceId"] = json!(instance(number));
    event["detail"]["EndTime"] = at(seconds).to_string().into();
    event
}

fn state_change(number: u64, state: &str) -> Value {
    let mut event = template(STATE);
    event["detail"] = json!({ "instance-id": instance(number), "state": state });
    event["time"] = at(0).to_string().into();
    event
}

#[test]
fn the_examples_of_aws_are_parsed() {
    let AutoScalingEvent::Launched { group, instance_id, zone, .. } =
        AutoScalingEvent::read(LAUNCH.as_bytes()).expect("read")
    else {
        panic!("a launch");
    };
    assert_eq!((group.as_str(), instance_id.as_str()), ("my-auto-scaling-group", "i-1234567890abcdef0"));
    assert_eq!(zone, Zone::new("us-west-2b").ok());
    let AutoScalingEvent::Left { instance_id, at, how, .. } =
        AutoScalingEvent::read(TERMINATE.as_bytes()).expect("read")
    else {
        panic!("a departure");
    };
    assert_eq!(instance_id.as_str(), "i-08736224042c4ee75");
    assert_eq!(at.to_string(), "2026-08-20T10:46:30.401Z");
    assert!(how.contains("in response to a user request"), "{how}");
    assert_eq!(
        AutoScalingEvent::read(STATE.as_bytes()).expect("read"),
        AutoScalingEvent::Irrelevant,
        "pending"
    );
}

/// Any account can tag a group with the name of our cluster, and terminate its own instances.
#[test]
fn events_from_another_account_are_ignored() {
    let deployment = deployment();
    deployment.launch(9);
    let own = AccountId::new("111111111111").ok();
    let confirmer = deployment.confirmer(&Faults::none()).in_account(own);
    let relevant = |event: &Value| {
        pollster::block_on(confirmer.handle(event.to_string().as_bytes(), at(20)))
            .expect("confirm succeeds")
            .relevant
    };
    for (account, ours) in [("222222222222", false), ("111111111111", true)] {
        let mut launched = launch("workers", 9, 10);
        let mut gone = state_change(1, "terminated");
        launched["account"] = account.into();
        gone["account"] = account.into();
        assert_eq!((relevant(&launched), relevant(&gone)), (ours, ours), "{account}");
    }
}

#[test]
fn a_launch_opens_a_case_that_waits_for_its_node() {
    let deployment = deployment();
    deployment.launch(9);
    assert_eq!(deployment.confirm(&launch("workers", 9, 10)), [Step::Event]);
    let case = deployment.case(9);
    assert_eq!(case.arrival().as_ref().and_then(|arrival| arrival.launched), Some(at(10)));
    assert_eq!((case.group(), case.due()), (Some(&group()), Some(at(10 + 15 * 60))));
    let before = deployment.case(9).arrival().cloned();
    deployment.confirm(&launch("workers", 9, 10));
    deployment.confirm(&launch("workers", 9, 99));
    assert_eq!(
        deployment.case(9).arrival(),
        before.as_ref(),
        "a repeated event, or a later one, is about the same launch"
    );
}

#[test]
fn a_launch_into_a_group_of_no_served_cluster_is_ignored() {
    let deployment = deployment();
    let (other, untagged) = (group_named("other"), group_named("untagged"));
    deployment.cloud.change(|fleet| {
        fleet.join(&other, Some(&cluster_named("test")), &instance(8), &zone());
        fleet.join(&untagged, None, &instance(9), &zone());
    });
    for name in ["other", "untagged", "unknown"] {
        let result = deployment.try_confirm(&launch(name, 9, 10)).expect("confirm succeeds");
        assert!(!result.relevant && result.repair_events.is_empty(), "{name}");
    }
    assert_eq!(deployment.find(9), None);
    assert_eq!(deployment.store.cases().len(), 2);
}

#[test]
fn a_node_that_left_is_closed_when_its_group_no_longer_has_it() {
    for event in [state_change(1, "shutting-down"), state_change(1, "terminated"), {
        let mut event = template(TERMINATE);
        event["detail"]["EC2InstanceId"] = json!(instance(1));
        event
    }] {
        let deployment = deployment();
        assert_eq!(deployment.confirm(&event), [Step::Event]);
        assert!(deployment.case(1).departure().is_some());
        deployment.run_until(at(600));
        assert_eq!(deployment.case(1).closed(), None, "Auto Scaling still has it in service");
        deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
        deployment.run_until(at(1_200));
        assert!(deployment.case(1).closed().is_some());
        assert_eq!(deployment.cloud.calls(), []);
    }
}

#[test]
fn a_node_that_we_terminated_waits_for_its_replacement() {
    for deployment in [called(), called_and_died()] {
        deployment.confirm(&state_change(1, "shutting-down"));
        deployment.confirm(&state_change(1, "terminated"));
        deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
        deployment.run_until(at(1_800 + 600));
        let case = deployment.case(1);
        assert_eq!(case.closed(), None, "its replacement is awaited");
        assert!(case.repair().is_some_and(|repair| repair.effective_at().is_some()));
        assert_eq!(deployment.count(1, "TerminateInstanceInAutoScalingGroup"), 1);
    }
}

#[test]
fn instance_states_other_than_termination_are_ignored() {
    for state in ["pending", "running", "stopping", "stopped", "rebooting", ""] {
        let deployment = deployment();
        let before = deployment.case(1);
        assert!(
            !deployment.try_confirm(&state_change(1, state)).expect("confirm succeeds").relevant,
            "{state}"
        );
        assert_eq!(deployment.case(1), before, "{state}");
    }
}

#[test]
fn an_unknown_instance_is_ignored() {
    let deployment = deployment();
    assert!(!deployment.try_confirm(&state_change(7, "terminated")).expect("confirm succeeds").relevant);
    assert_eq!(deployment.find(7), None);
}

#[test]
fn an_invalid_event_is_an_error_with_its_reason() {
    for (payload, why) in [
        ("", "not an EventBridge event"),
        ("[]", "not an EventBridge event"),
        (r#"{"detail":{}}"#, "detail-type"),
        (r#"{"detail-type":"AWS API Call via CloudTrail","detail":{}}"#, "AWS API Call via CloudTrail"),
        (r#"{"detail-type":"EC2 Instance Launch Successful","detail":{}}"#, "AutoScalingGroupName"),
        (
            r#"{"detail-type":"EC2 Instance Launch Successful","time":"2026-08-20T10:00:00Z","detail":{"AutoScalingGroupName":"g","EC2InstanceId":"i-x"}}"#,
            "is not an EC2 instance id",
        ),
        (
            r#"{"detail-type":"EC2 Instance Terminate Successful","detail":{"AutoScalingGroupName":"g","EC2InstanceId":"i-1234567890abcdef0"}}"#,
            "no time",
        ),
        (
            r#"{"detail-type":"EC2 Instance State-change Notification","detail":{"instance-id":"i-1234567890abcdef0"}}"#,
            "state",
        ),
    ] {
        let deployment = deployment();
        let confirmer = deployment.confirmer(&Faults::none());
        let error = pollster::block_on(confirmer.handle(payload.as_bytes(), at(0))).expect_err(payload);
        let error = chain(&error);
        assert!(error.contains(why), "{payload}: {error}");
    }
    let long = " ".repeat(256 * 1024 + 1);
    assert!(AutoScalingEvent::read(long.as_bytes()).expect_err("too long").to_string().contains("more than"));
}

#[test]
fn a_cause_is_shortened_and_has_no_control_characters() {
    let mut event = template(TERMINATE);
    event["detail"]["Cause"] = format!("\u{1b}[2J{}", "x".repeat(10_000)).into();
    let AutoScalingEvent::Left { how, .. } =
        AutoScalingEvent::read(event.to_string().as_bytes()).expect("read")
    else {
        panic!("a departure");
    };
    assert!(how.len() < 400 && !how.chars().any(char::is_control), "{}", how.len());
}

proptest! {
    #[test]
    fn no_payload_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = AutoScalingEvent::read(&payload);
    }

    #[test]
    fn no_detail_makes_it_panic(
        kind in prop::sample::select(vec![
            "AWS API Call via CloudTrail", "EC2 Instance Launch Successful", "EC2 Instance Launch Unsuccessful",
            "EC2 Instance Terminate Successful", "EC2 Instance State-change Notification", "Other",
        ]),
        name in any::<String>(),
        value in any::<String>(),
    ) {
        let event = json!({ "detail-type": kind, "detail": { name: value } });
        let _ = AutoScalingEvent::read(event.to_string().as_bytes());
    }
}
