//! What a run reports about due repairs that have not been called.

use nodemend_domain::{policy::Mode, repair_event::Step};
use nodemend_testkit::{
    Deployment,
    fixture::{INTERFACE_DOWN, cluster, hold_until, minutes, policy_with_limit, terminate},
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

#[test]
fn an_observed_repair_is_not_pending() {
    let mut observe = policy_with_limit(1);
    observe.mode = Mode::Observe;
    let deployment = Deployment::with_problem(2, INTERFACE_DOWN, observe);
    deployment.run_until(minutes(100));
    assert!(deployment.run_at(minutes(101)).pending.is_empty());
}
