//! What Auto Scaling and EC2 tell through EventBridge, in the shapes that AWS documents and sends.

mod ward;

use nodemend_confirm::{AutoScalingEvent, Confirmer};
use nodemend_domain::{
    ident::{AccountId, Zone},
    repair_event::Step,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::ward::{Ward, at, cluster, group, instance};

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
fn aws_own_examples_are_read() {
    let AutoScalingEvent::Launched { group, instance_id, zone, .. } =
        AutoScalingEvent::read(LAUNCH.as_bytes()).expect("read")
    else {
        panic!("a launch");
    };
    assert_eq!((group.as_str(), instance_id.as_str()), ("my-auto-scaling-group", "i-1234567890abcdef0"));
    assert_eq!(zone, Zone::new("us-west-2b").ok());
    let AutoScalingEvent::Left { instance_id, at, how } =
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

/// An account can tag a group with any cluster's name, and terminate what is its own.
#[test]
fn another_accounts_instances_are_none_of_the_clusters() {
    let ward = Ward::new();
    let zone = Zone::new("us-east-1a").expect("a zone");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    let own = AccountId::new("111111111111").ok();
    let audit = Confirmer::new(ward.store.clone(), ward.cloud).in_account(own);
    let tell = |event: &Value| {
        pollster::block_on(audit.handle(event.to_string().as_bytes(), at(20))).expect("heard").relevant
    };
    for (account, ours) in [("222222222222", false), ("111111111111", true)] {
        let mut launched = launch("workers", 9, 10);
        let mut gone = state_change(1, "terminated");
        launched["account"] = account.into();
        gone["account"] = account.into();
        assert_eq!((tell(&launched), tell(&gone)), (ours, ours), "{account}");
    }
}

#[test]
fn a_launch_is_the_beginning_of_a_case_that_waits_for_its_node() {
    let ward = Ward::new();
    let zone = Zone::new("us-east-1a").expect("a zone");
    ward.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(9), &zone));
    assert_eq!(ward.tell(&launch("workers", 9, 10)), [Step::Event]);
    let case = ward.case(9);
    assert_eq!(case.arrival().as_ref().and_then(|arrival| arrival.launched), Some(at(10)));
    assert_eq!((case.group(), case.due()), (Some(&group()), Some(at(10 + 15 * 60))));
    let before = ward.case(9).arrival().cloned();
    ward.tell(&launch("workers", 9, 10));
    ward.tell(&launch("workers", 9, 99));
    assert_eq!(ward.case(9).arrival(), before.as_ref(), "told again, or later, it is the same launch");
}

#[test]
fn a_launch_into_a_group_that_is_not_ours_is_passed_over() {
    let ward = Ward::new();
    let zone = Zone::new("us-east-1a").expect("a zone");
    let test = "test".parse().expect("a name");
    let (strange, ownerless) = ("strange".parse().expect("a name"), "ownerless".parse().expect("a name"));
    ward.cloud.change(|fleet| {
        fleet.join(&strange, Some(&test), &instance(8), &zone);
        fleet.join(&ownerless, None, &instance(9), &zone);
    });
    for name in ["strange", "ownerless", "unknown"] {
        let result = ward.try_hear(&launch(name, 9, 10)).expect("heard");
        assert!(!result.relevant && result.repair_events.is_empty(), "{name}");
    }
    assert_eq!(ward.find(9), None);
    assert_eq!(ward.store.cases().len(), 2);
}

#[test]
fn a_node_that_leaves_without_us_is_closed_when_aws_agrees() {
    for event in [state_change(1, "shutting-down"), state_change(1, "terminated"), {
        let mut event = template(TERMINATE);
        event["detail"]["EC2InstanceId"] = json!(instance(1));
        event
    }] {
        let ward = Ward::new();
        assert_eq!(ward.tell(&event), [Step::Event]);
        assert!(ward.case(1).departure().is_some());
        ward.run_until(at(600));
        assert_eq!(ward.case(1).closed(), None, "Auto Scaling still has it in service");
        ward.cloud.change(|fleet| fleet.leave(&instance(1)));
        ward.run_until(at(1_200));
        assert!(ward.case(1).closed().is_some());
        assert_eq!(ward.cloud.calls(), []);
    }
}

#[test]
fn what_we_terminated_ourselves_did_not_leave_without_us() {
    for ward in [Ward::called(), Ward::called_and_died()] {
        ward.tell(&state_change(1, "shutting-down"));
        ward.tell(&state_change(1, "terminated"));
        ward.cloud.change(|fleet| fleet.leave(&instance(1)));
        ward.run_until(at(1_800 + 600));
        let case = ward.case(1);
        assert_eq!(case.closed(), None, "its replacement is awaited");
        assert!(case.repair().is_some_and(|repair| repair.effective_at().is_some()));
        assert_eq!(ward.count("TerminateInstanceInAutoScalingGroup"), 1);
    }
}

#[test]
fn states_that_end_nothing_are_passed_over() {
    for state in ["pending", "running", "stopping", "stopped", "rebooting", ""] {
        let ward = Ward::new();
        let before = ward.case(1);
        assert!(!ward.try_hear(&state_change(1, state)).expect("heard").relevant, "{state}");
        assert_eq!(ward.case(1), before, "{state}");
    }
}

#[test]
fn an_instance_that_nobody_knows_is_passed_over() {
    let ward = Ward::new();
    assert!(!ward.try_hear(&state_change(7, "terminated")).expect("heard").relevant);
    assert_eq!(ward.find(7), None);
}

#[test]
fn what_cannot_be_read_says_why() {
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
        let ward = Ward::new();
        let audit = Confirmer::new(ward.store.clone(), ward.cloud.clone());
        let error = pollster::block_on(audit.handle(payload.as_bytes(), at(0))).expect_err(payload);
        assert!(error.to_string().contains(why), "{payload}: {error}");
    }
    let long = " ".repeat(256 * 1024 + 1);
    assert!(AutoScalingEvent::read(long.as_bytes()).expect_err("too long").to_string().contains("more than"));
}

#[test]
fn a_cause_cannot_repaint_a_terminal_or_fill_a_disk() {
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
