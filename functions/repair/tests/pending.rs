//! What a run reports about due repairs that have not been called.

use nodemend_domain::{
    group::{Group, Lifecycle, Member},
    policy::{Mode, Policy},
    repair_event::Step,
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        INTERFACE_DOWN, cluster, group, hold_until, instance, minutes, policy_with_limit, terminate, zone,
    },
};

#[test]
fn a_blocked_repair_is_pending_from_its_deadline_until_the_call() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.store.hold(&cluster(), hold_until(minutes(120)));
    deployment.run_until(minutes(100));
    let run = deployment.run_at(minutes(101));
    assert_eq!(run.pending.get(&cluster()), Some(&minutes(30)));
    deployment.run_until(minutes(122));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    assert!(deployment.run_at(minutes(123)).pending.is_empty());
}

#[test]
fn a_blocked_event_names_its_guards() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.store.hold(&cluster(), hold_until(minutes(120)));
    let run = deployment.run_at(minutes(30));
    let blocked = run.repair_events.iter().find(|event| event.step == Step::Blocked).expect("blocked");
    assert_eq!(blocked.guards, ["Held"]);
    assert!(run.repair_events.iter().all(|event| event.guards.is_empty() == (event.step != Step::Blocked)));
    let line = serde_json::to_value(blocked).expect("JSON");
    assert_eq!(line["guards"], serde_json::json!(["Held"]));
}

#[test]
fn a_repeatedly_refused_call_is_pending() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let mut since = None;
    for _ in 0..3 {
        let due = deployment.next_due().expect("a due case");
        deployment.refuse(terminate(1), due, "AccessDenied", "is not authorized to perform");
        assert_eq!(deployment.run_at(due).pending.get(&cluster()).copied(), since, "{due}");
        since = Some(minutes(30));
    }
    assert_eq!(deployment.cloud.calls().len(), 3);
}

fn disabled() -> Policy {
    let mut disabled = policy_with_limit(1);
    disabled.node_repair_config.enabled = false;
    disabled
}

fn observing() -> Policy {
    let mut observing = policy_with_limit(1);
    observing.mode = Mode::Observe;
    observing
}

/// The node's group, with this tag, or repaired by EKS itself.
fn change_group(deployment: &Deployment, tag: Option<(&str, &str)>, eks_repair_enabled: bool) {
    let member = Member { instance_id: instance(1), zone: zone(), lifecycle: Lifecycle::InService };
    let changed = Group {
        name: group(),
        cluster: Some(cluster()),
        members: vec![member],
        desired_capacity: None,
        suspended: Vec::new(),
        tags: tag.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        eks_repair_enabled,
    };
    deployment.cloud.change(|fleet| fleet.add_group(changed));
}

/// Runs until long after the deadline. Nothing may be pending at any time, and no alarm may count the block by this guard,
/// nor what else blocks the repair.
fn assert_nothing_rings(deployment: &Deployment, guard: &str) {
    deployment.store.hold(&cluster(), hold_until(minutes(120)));
    let mut blocked = Vec::new();
    for minute in 30..150 {
        let run = deployment.run_at(minutes(minute));
        assert!(run.pending.is_empty(), "{guard} {minute}: {:?}", run.pending);
        blocked.extend(run.repair_events.into_iter().filter(|event| event.step == Step::Blocked));
    }
    assert!(blocked.iter().all(|event| event.guards.contains(&guard.to_owned())), "{blocked:?}");
    // With the hold, and without it.
    assert!(blocked.len() >= 2, "{blocked:?}");
    assert!(blocked.iter().all(|event| !event.is_counted()), "{blocked:?}");
    assert!(deployment.cloud.calls().is_empty(), "{guard}");
}

#[test]
fn a_disabled_group_and_observe_mode_ring_nothing() {
    assert_nothing_rings(&Deployment::with_problem(1, INTERFACE_DOWN, disabled()), "Disabled");
    assert_nothing_rings(&Deployment::with_problem(1, INTERFACE_DOWN, observing()), "ObserveMode");
}

#[test]
fn a_group_that_opted_out_or_that_eks_repairs_rings_nothing() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    change_group(&deployment, Some((&deployment.policy.opt_out_tag, "disabled")), false);
    assert_nothing_rings(&deployment, "OptedOut");
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    change_group(&deployment, None, true);
    assert_nothing_rings(&deployment, "EksRepairEnabled");
}

#[test]
fn an_instance_in_no_group_rings_nothing() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.cloud.change(|fleet| {
        fleet.leave(&instance(1));
        fleet.add_ungrouped(instance(1));
    });
    assert_nothing_rings(&deployment, "NotInGroup");
}

#[test]
fn a_repair_that_is_wanted_again_is_pending_from_then_on() {
    for unwanted in [disabled(), observing()] {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, unwanted);
        deployment.store.hold(&cluster(), hold_until(minutes(600)));
        deployment.run_until(minutes(300));
        deployment.store.set_policy(&cluster(), policy_with_limit(1));
        let run = deployment.run_at(minutes(301));
        let blocked: Vec<_> = run.repair_events.iter().filter(|event| event.step == Step::Blocked).collect();
        assert!(matches!(blocked.as_slice(), [event] if event.is_counted()), "{blocked:?}");
        // Hours after its deadline, and not hours late: nobody waited for it.
        assert_eq!(deployment.run_at(minutes(302)).pending.get(&cluster()), Some(&minutes(301)));
    }
}

#[test]
fn a_repair_that_is_no_longer_wanted_is_not_pending() {
    for unwanted in [disabled(), observing()] {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.store.hold(&cluster(), hold_until(minutes(600)));
        deployment.run_until(minutes(100));
        assert_eq!(deployment.run_at(minutes(101)).pending.get(&cluster()), Some(&minutes(30)));
        deployment.store.set_policy(&cluster(), unwanted);
        deployment.run_at(minutes(102));
        assert!(deployment.run_at(minutes(103)).pending.is_empty());
    }
}
