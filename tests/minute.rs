//! One invocation a minute, calls at their deadlines.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::Caller,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::{Mode, Policy},
    repair_event::Step,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    store::MemoryStore,
    subscription::{Batch, LogEvent},
};
use nodemend_repair::Repairer;
use serde_json::json;

const START: i64 = 1_787_220_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("a time")
}

/// A node whose network interface has been down since `since`.
async fn tell(intake: &Intake<MemoryStore>, node: u8, since: Timestamp) {
    let instance = format!("i-{node:017x}");
    let report = json!({
        "v": 1, "kind": "condition", "cluster": "prod", "node": format!("ip-10-0-0-{node}.ec2.internal"),
        "instanceId": instance, "bootId": "0c24b3f3-6a1c-4f43-9f2a-6a3a5b1e0d11", "seq": 1, "agent": "0.1.0",
        "at": since.to_string(), "condition": "NetworkingReady", "status": "False", "since": since.to_string(),
        "findings": [{ "reason": "InterfaceNotUp", "severity": "Condition", "since": since.to_string(),
            "last": since.to_string(), "count": 1, "message": "eth1 is down" }],
    });
    let batch = Batch {
        owner: "123456789012".into(),
        log_group: "/nodemend/prod/nodes".into(),
        log_stream: instance.into(),
        subscription_filters: Vec::new(),
        events: vec![LogEvent { id: "1".into(), timestamp: since, message: report.to_string().into() }],
        rejected: Vec::new(),
    };
    let taken = intake.take(batch, since).await.expect("taken");
    assert_eq!((taken.reports, taken.rejected.len()), (1, 0), "{:?}", taken.rejected);
}

#[test]
fn a_call_leaves_at_its_deadline_and_not_at_the_minute() {
    let mut policy = Policy::eks_defaults();
    policy.mode = Mode::Repair;
    policy.silence.agent_silent_after = None;
    let store = MemoryStore::with_policy(policy);
    let clock = VirtualClock::default();
    let mut fleet = Fleet::default();
    let cluster = ClusterName::new("prod").expect("a name");
    for node in 1..=3_u8 {
        fleet.join(
            // A group each: what one waits for is not to stand in the way of the next.
            &GroupName::new(format!("workers-{node}")).expect("a name"),
            Some(&cluster),
            &InstanceId::new(format!("i-{node:017x}")).expect("an id"),
            &Zone::new(format!("us-east-1{}", char::from(b'a' + node))).expect("a zone"),
        );
    }
    let caller = Caller {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".into(),
        principal_id: None,
        user_agent: None,
    };
    let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
    let intake = Intake::new(store.clone());
    let repairer = Repairer::new(store, cloud.clone(), clock.clone());

    pollster::block_on(async {
        // Due at 1,807, 1,812.5 and 1,900 seconds.
        tell(&intake, 1, at(7)).await;
        tell(&intake, 2, at(12) + SignedDuration::from_millis(500)).await;
        tell(&intake, 3, at(100)).await;
        clock.advance_to(at(1_800));
        let mut called = Vec::new();
        let waits = clock.clone();
        let wait_until = async move |until: Timestamp| waits.advance_to(until);
        let report = |swept: &nodemend_repair::RunReport| {
            assert!(swept.failures.is_empty(), "{:?}", swept.failures);
            called.extend(
                swept.repair_events.iter().filter(|told| told.step == Step::Called).map(|told| told.at),
            );
        };
        repairer.run_until(at(1_860), wait_until, report).await.expect("swept");
        assert_eq!(called, [at(1_807), at(1_812) + SignedDuration::from_millis(500)]);
        assert!(clock.now() < at(1_860), "the next invocation takes over");
        assert_eq!(cloud.calls().len(), 2, "the third is due in the next minute");
    });
}
