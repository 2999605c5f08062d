//! Nodes that recover again and again, and the pace of a group's repairs: what a policy asks for beyond EKS.

use jiff::SignedDuration;
use nodemend_domain::{
    condition::RepairAction,
    policy::{OutagePolicy, Policy, Promotion},
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        INTERFACE_DOWN, at, cleared, group, kubelet_ready, minutes, policy_with_limit, raised, terminate,
    },
};

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A policy that promotes what becomes bad four times in an hour.
fn promoting(reason: &str) -> Policy {
    let promotion = Promotion {
        reason: reason.to_owned(),
        count: 4,
        window: SignedDuration::from_hours(1),
        repair_action: RepairAction::Replace,
    };
    Policy { promotions: vec![promotion], ..policy_with_limit(3) }
}

/// Node 1 is not ready for five minutes of each ten, from the tenth minute on, so many times.
fn flaps(policy: Policy, times: i64) -> Deployment {
    let deployment = Deployment::new(3, policy);
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    for n in 1..=times {
        let (bad, good) = (minutes(10 * n), minutes(10 * n + 5));
        deployment.run_until(bad - SECOND);
        deployment.deliver_line(kubelet_ready(1, bad, "False"), bad);
        deployment.run_until(good - SECOND);
        deployment.deliver_line(kubelet_ready(1, good, "True"), good);
    }
    deployment
}

/// When node 1 was replaced, in minutes.
fn replaced_at(deployment: &Deployment) -> Option<i64> {
    let group = deployment.group();
    let slot = group.slots().first().filter(|_| deployment.cloud.calls() == [terminate(1)])?;
    Some(slot.claimed_at.duration_since(at(0)).as_mins())
}

#[test]
fn a_flapping_node_is_replaced_only_if_the_policy_promotes_it() {
    assert_eq!(flaps(policy_with_limit(3), 12).cloud.calls(), []);
    // The fourth time is in minute 40. Its grace period is Ready's, and in minute 70 the node is not ready again.
    assert_eq!(replaced_at(&flaps(promoting("KubeletNotReady"), 7)), Some(70));
}

#[test]
fn a_node_that_flaps_less_often_or_for_another_reason_is_not_promoted() {
    assert_eq!(flaps(promoting("NodeStatusUnknown"), 12).cloud.calls(), []);
    let deployment = flaps(promoting("KubeletNotReady"), 3);
    deployment.run_until(minutes(180));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_flapping_node_is_not_replaced_while_it_is_healthy() {
    // It stays healthy from minute 65 on: the grace period since minute 40 ends in minute 70.
    let deployment = flaps(promoting("KubeletNotReady"), 6);
    deployment.run_until(minutes(75));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(!deployment.faults(1, minutes(75)).is_empty(), "it counts as recovering");
    deployment.run_until(minutes(240));
    assert!(deployment.faults(1, minutes(240)).is_empty(), "the window has passed");
}

#[test]
fn a_condition_of_the_agent_that_flaps_is_promoted_too() {
    let deployment = Deployment::new(3, promoting(INTERFACE_DOWN.reason));
    deployment.report(cleared(1, INTERFACE_DOWN, at(0)).seq(1));
    for n in 1..=7 {
        for (seq, minute) in [(2 * n, 10 * n), (2 * n + 1, 10 * n + 5)] {
            deployment.run_until(minutes(minute) - SECOND);
            deployment.wait(SECOND);
            let seq = u64::try_from(seq).expect("a number");
            deployment.report(match minute % 10 {
                0 => raised(1, INTERFACE_DOWN, minutes(minute)).seq(seq),
                _ => cleared(1, INTERFACE_DOWN, minutes(minute)).seq(seq),
            });
        }
    }
    assert_eq!(replaced_at(&deployment), Some(70));
}

#[test]
fn a_pause_between_the_repairs_of_a_group_is_kept() {
    let outage =
        OutagePolicy { gradual: false, pause: SignedDuration::from_mins(10), ..OutagePolicy::default() };
    let deployment = Deployment::new(30, Policy { outage, ..policy_with_limit(30) });
    for number in [1, 2] {
        deployment.deliver_line(kubelet_ready(number, at(0), "True"), at(0));
        deployment.deliver_line(kubelet_ready(number, minutes(1), "False"), minutes(1));
    }
    deployment.run_until(minutes(31));
    assert_eq!(deployment.cloud.calls().len(), 1);
    deployment.run_until(minutes(41) - SECOND);
    assert_eq!(deployment.cloud.calls().len(), 1);
    deployment.run_until(minutes(42));
    assert_eq!(deployment.cloud.calls().len(), 2);
}

#[test]
fn a_group_with_the_opt_out_tag_is_repaired_only_if_its_value_says_so() {
    for (value, calls) in [
        ("disabled", 0),
        ("false", 0),
        ("", 0),
        ("off", 0),
        ("no", 0),
        ("enabled", 1),
        ("true", 1),
        ("True", 1),
    ] {
        let deployment = Deployment::new(3, policy_with_limit(3));
        deployment.cloud.change(|fleet| fleet.set_tag(&group(), "nodemend/repair", value));
        deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
        deployment.deliver_line(kubelet_ready(1, minutes(1), "False"), minutes(1));
        deployment.run_until(minutes(60));
        assert_eq!(deployment.cloud.calls().len(), calls, "{value:?}");
        let blocked = deployment.case(1).blocked().is_some_and(|blocked| blocked.guards == ["OptedOut"]);
        assert_eq!(blocked, calls == 0, "{value:?}");
    }
}
