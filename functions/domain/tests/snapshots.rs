//! What the Kubernetes API reports about a Node, and when that began.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Consistency, Fault},
    condition::{ConditionType, Health},
    ident::{ClusterName, InstanceId, NodeName},
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::ObservedCondition,
    policy::Policy,
};

const GRACE: SignedDuration = SignedDuration::from_mins(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).expect("a time")
}

fn snapshot(health: Health, since: Timestamp) -> NodeSnapshot {
    let reason = if health == Health::Healthy { "KubeletReady" } else { "NodeStatusUnknown" };
    let observed = ObservedCondition {
        condition: ConditionType::Ready,
        health,
        reason: reason.to_owned(),
        message: String::new(),
    };
    NodeSnapshot {
        name: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
        uid: None,
        instance_id: InstanceId::new("i-00000000000000001").ok(),
        boot_id: None,
        created: Some(at(-100_000)),
        conditions: vec![SnapshotCondition { observed, since: Some(since) }],
        hold: None,
        cordoned: false,
    }
}

fn case() -> Case {
    let id = InstanceId::new("i-00000000000000001").expect("an id");
    Case::new(ClusterName::new("prod").expect("a name"), id)
}

/// Applies a snapshot whose read began then; returns the bad fault of the case, if it has one.
fn read(
    case: &mut Case,
    consistency: Consistency,
    health: Health,
    since: Timestamp,
    read_at: Timestamp,
) -> Option<Fault> {
    let policy = Policy::eks_defaults();
    case.apply_snapshot(Some(&snapshot(health, since)), consistency, read_at, &policy).expect("this node");
    case.faults(&policy.default_rules(), &policy, read_at).into_iter().find(Fault::is_bad)
}

/// The deadline of the fault of a node that was Ready, by a snapshot whose read began then.
fn deadline(bad_since: Timestamp, read_at: Timestamp) -> Timestamp {
    let mut case = case();
    let mut latest = |health, since, read_at| read(&mut case, Consistency::Latest, health, since, read_at);
    latest(Health::Unknown, at(-9_000), at(-8_990));
    latest(Health::Healthy, at(-8_000), at(-7_990));
    let fault = latest(Health::Unknown, bad_since, read_at).expect("a bad fault");
    fault.deadline.expect("a deadline")
}

#[test]
fn a_fault_that_began_during_a_slow_read_has_its_whole_grace_period() {
    assert_eq!(deadline(at(34), at(0)), at(34) + GRACE);
}

#[test]
fn what_is_unknown_again_since_a_later_time_has_recovered_in_between() {
    let mut case = case();
    let mut deadline =
        |since, read_at| read(&mut case, Consistency::Latest, Health::Unknown, since, read_at)?.deadline;
    assert_eq!(deadline(at(0), at(5)), Some(at(0) + GRACE));
    assert_eq!(deadline(at(0), at(1_000)), Some(at(0) + GRACE), "the same");
    assert_eq!(deadline(at(1_100), at(1_700)), Some(at(1_700) + GRACE), "its recovery was missed");
    assert_eq!(deadline(at(1_100), at(1_760)), Some(at(1_700) + GRACE), "the same again");
}

#[test]
fn a_fault_that_a_kubelet_dates_after_the_begin_of_a_read_is_left_to_the_next_one() {
    let mut case = case();
    let mut deadline = |read_at| read(&mut case, Consistency::Cached, Health::Bad, at(34), read_at)?.deadline;
    assert_eq!(deadline(at(30)), None);
    assert_eq!(deadline(at(60)), Some(at(34) + GRACE));
}

#[test]
fn a_time_of_the_future_is_not_believed() {
    assert_eq!(deadline(at(7_200), at(0)), at(0) + GRACE);
}

#[test]
fn a_kubelet_whose_clock_is_ahead_hides_no_later_fault() {
    let mut case = case();
    let mut apply =
        |health, since, consistency, read_at| read(&mut case, consistency, health, since, read_at).is_some();
    assert!(apply(Health::Bad, at(0), Consistency::Latest, at(5)));
    assert!(!apply(Health::Healthy, at(490), Consistency::Latest, at(400)), "it is 90 seconds ahead");
    assert!(apply(Health::Unknown, at(450), Consistency::Cached, at(700)));
}
