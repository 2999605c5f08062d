//! What counts in thresholds, on which side, and how long a repair keeps its slot.

use jiff::Timestamp;
use nodemend_domain::{
    group::{Group, Lifecycle, Member},
    guard::Guard,
    policy::{Limit, Policy},
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, at, cluster, group, instance, kubelet_ready, minutes,
        node_controller_unknown, policy, policy_with_limit, raised, terminate, zone,
    },
};

/// No zone is impaired, and the cluster has no threshold: the group's own is what these tests are about.
fn of_the_group(mut policy: Policy) -> Policy {
    policy.zones.min_unhealthy = 1_000;
    policy
}

/// Node `number` was Ready, and its kubelet is lost then.
fn lost(deployment: &Deployment, number: u64, when: Timestamp) {
    deployment.deliver_line(kubelet_ready(number, at(0), "True"), at(0).max(when));
    deployment.deliver_line(node_controller_unknown(number, when), when);
}

fn is_over_the_threshold(deployment: &Deployment, number: u64) -> bool {
    let blocked = deployment.case(number).blocked().cloned();
    blocked.is_some_and(|blocked| blocked.guards.contains(&Guard::UnhealthyThreshold.name()))
}

/// The group, as the policies below name it, and a policy with a rule of its own that never repairs a lost interface.
fn never_repairs_interfaces(selector: &str) -> Policy {
    let rule = format!(
        r#"{{"groups":[{{{selector},"nodeRepairConfig":{{"enabled":true,"nodeRepairConfigOverrides":[{{
            "nodeMonitoringCondition":"NetworkingReady","nodeUnhealthyReason":"InterfaceNotUp",
            "minRepairWaitTimeMins":30,"repairAction":"NoAction"}}]}}}}]}}"#
    );
    let rules: Policy = serde_json::from_str(&rule).expect("a policy");
    Policy { groups: rules.groups, ..of_the_group(policy()) }
}

#[test]
fn a_node_that_the_rules_of_its_own_group_never_repair_does_not_count() {
    for selector in [r#""name":"workers""#, r#""tags":{"team":"network"}"#] {
        let mut policy = never_repairs_interfaces(selector);
        policy.outage.max_unhealthy = 3;
        let deployment = Deployment::new(10, policy);
        deployment.cloud.change(|fleet| {
            let member = |number| Member {
                instance_id: instance(number),
                zone: zone(),
                lifecycle: Lifecycle::InService,
            };
            fleet.add_group(Group {
                name: group(),
                cluster: Some(cluster()),
                members: (1..=10).map(member).collect(),
                suspended: Vec::new(),
                tags: [("team".to_owned(), "network".to_owned())].into(),
                eks_repair_enabled: false,
                desired_capacity: None,
            });
        });
        for number in 1..=5 {
            deployment.report(raised(number, INTERFACE_DOWN, at(0)));
        }
        deployment.report(raised(6, GPU_ERROR, at(0)));
        deployment.run_until(minutes(120));
        assert!(!deployment.cloud.calls().is_empty(), "{selector}: {:?}", deployment.case(6).blocked());
    }
}

#[test]
fn a_node_that_its_own_group_repairs_counts_whatever_other_groups_do() {
    let deployment = Deployment::new(10, never_repairs_interfaces(r#""name":"other-*""#));
    for number in 1..=3 {
        deployment.report(raised(number, INTERFACE_DOWN, at(0)));
    }
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(is_over_the_threshold(&deployment, 1));
}

#[test]
fn instances_on_standby_or_terminating_count_in_neither_half() {
    for lifecycle in [Lifecycle::OutOfService, Lifecycle::Terminating] {
        let deployment = Deployment::new(10, of_the_group(policy()));
        for number in [9, 10] {
            lost(&deployment, number, at(0));
            deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(number), lifecycle));
        }
        lost(&deployment, 1, minutes(5));
        deployment.run_until(minutes(35));
        assert_eq!(deployment.cloud.calls(), [terminate(1)], "{lifecycle:?}: 1 of 8");
    }
    // 2 of 9 are more than 20 %, 2 of 10 are not.
    let deployment = Deployment::new(10, of_the_group(policy()));
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(10), Lifecycle::OutOfService));
    for number in [1, 2] {
        lost(&deployment, number, at(0));
    }
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(is_over_the_threshold(&deployment, 1), "the other half does not count either");
}

#[test]
fn missing_capacity_counts_as_unhealthy() {
    for (desired, calls) in [(10, vec![terminate(1)]), (13, vec![])] {
        let deployment = Deployment::new(10, of_the_group(policy()));
        deployment.cloud.change(|fleet| fleet.set_desired_capacity(&group(), desired));
        lost(&deployment, 1, at(0));
        deployment.run_until(minutes(35));
        assert_eq!(deployment.cloud.calls(), calls, "10 of {desired}");
    }
}

#[test]
fn a_repair_counts_until_its_replacement_is_ready() {
    let mut policy = of_the_group(policy_with_limit(10));
    policy.node_repair_config.max_unhealthy_node_threshold = Some(Limit::Count(1));
    let deployment = Deployment::new(6, policy);
    lost(&deployment, 1, at(0));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
    lost(&deployment, 2, minutes(31));
    deployment.run_until(minutes(62));
    assert_eq!(deployment.cloud.calls(), [terminate(1)], "2 of 6: the first has no replacement yet");
    deployment.launch(7);
    deployment.join(7, minutes(62), minutes(63));
    deployment.run_until(minutes(66));
    assert_eq!(deployment.cloud.calls(), [terminate(1), terminate(2)]);
}

#[test]
fn a_slot_is_free_when_the_replacement_is_ready_without_cloudtrail() {
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, policy_with_limit(1));
    deployment.run_at(minutes(30));
    assert_eq!(deployment.cloud.calls().len(), 1);
    let first = if deployment.cloud.calls() == [terminate(1)] { 1 } else { 2 };
    deployment.launch(3);
    deployment.join(3, minutes(31), minutes(33));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(first), terminate(3 - first)]);
    assert_eq!(deployment.case(first).closed(), None, "CloudTrail's event is still awaited");
    deployment.run_until(minutes(61));
    assert_eq!(deployment.count(first, "RepairMissing"), 1);
    assert!(deployment.case(first).closed().is_some());
}
