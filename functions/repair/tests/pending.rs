//! What a sweep says of repairs that are due and not called for.

mod ward;

use nodemend_domain::{policy::Mode, repair_event::Step};
use nodemend_ports::store::Store;

use self::ward::{Episode, Ward, cluster, held_until, minutes, policy, terminate};

#[test]
fn a_blocked_repair_is_pending_from_its_deadline_until_it_is_called_for() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.store.hold(&cluster(), held_until(minutes(120)));
    ward.run_until(minutes(100));
    let swept = ward.sweep_at(minutes(101));
    assert_eq!(swept.pending.get(&cluster()), Some(&minutes(30)));
    ward.run_until(minutes(122));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
    assert!(ward.sweep_at(minutes(123)).pending.is_empty());
}

#[test]
fn a_blocked_line_names_its_guards() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.store.hold(&cluster(), held_until(minutes(120)));
    let swept = ward.sweep_at(minutes(30));
    let blocked = swept.repair_events.iter().find(|told| told.step == Step::Blocked).expect("blocked");
    assert_eq!(blocked.guards, ["Held"]);
    assert!(swept.repair_events.iter().all(|told| told.guards.is_empty() == (told.step != Step::Blocked)));
    let line = serde_json::to_value(blocked).expect("JSON");
    assert_eq!(line["guards"], serde_json::json!(["Held"]));
}

#[test]
fn a_call_that_is_refused_again_and_again_is_pending() {
    let ward = Ward::sick(1, Episode::Network, policy(1));
    let mut since = None;
    for _ in 0..3 {
        let due = pollster::block_on(ward.store.next_due()).expect("a memory").expect("due");
        ward.refuse(terminate(1), due, "AccessDenied", "is not authorized to perform");
        assert_eq!(ward.sweep_at(due).pending.get(&cluster()).copied(), since, "{due}");
        since = Some(minutes(30));
    }
    assert_eq!(ward.cloud.calls().len(), 3);
}

#[test]
fn what_is_only_observed_is_pending_for_nobody() {
    let mut observe = policy(1);
    observe.mode = Mode::Observe;
    let ward = Ward::sick(2, Episode::Network, observe);
    ward.run_until(minutes(100));
    assert!(ward.sweep_at(minutes(101)).pending.is_empty());
}
