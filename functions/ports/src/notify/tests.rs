use jiff::{SignedDuration, Timestamp};
use nodemend_domain::ident::{ClusterName, InstanceId};

use super::*;
use crate::clock::VirtualClock;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_787_220_000 + second).expect("a time")
}

fn repair_event(step: Step, detail: &str) -> RepairEvent {
    RepairEvent {
        at: at(0),
        cluster: ClusterName::new("prod").expect("a name"),
        node: None,
        instance_id: InstanceId::new("i-0ab76e62066c9730c").expect("an id"),
        case: "i-0ab76e62066c9730c#1".to_owned(),
        step,
        condition: None,
        reason: None,
        detail: detail.to_owned(),
        guards: Vec::new(),
        record: None,
    }
}

fn some(count: usize) -> Vec<Notification> {
    let one = |number: usize| Notification::of(&repair_event(Step::Called, &number.to_string()));
    (0..count).map(|number| one(number).expect("a published step")).collect()
}

/// Publishes, with 60 s to do so; each backoff passes at once.
fn publish_all(bus: &MemoryEventBus, notifications: Vec<Notification>) -> Vec<PublishFailure> {
    let clock = VirtualClock::default();
    clock.advance_to(at(0));
    let pause = async |wait: Duration| {
        let wait = SignedDuration::try_from(wait).expect("a wait");
        clock.advance_to(clock.now() + wait);
    };
    pollster::block_on(publish(bus, notifications, &clock, at(60), pause))
}

#[test]
fn the_detail_of_an_event_is_the_repair_event_of_the_log() {
    let repair_event = repair_event(Step::Blocked, "a hold");
    let event = Notification::of(&repair_event).expect("a published step");
    assert_eq!((event.detail_type, event.at), ("Node Repair Blocked", repair_event.at));
    let detail: RepairEvent = serde_json::from_str(&event.detail).expect("a repair event");
    assert_eq!(detail, repair_event);
}

#[test]
fn intermediate_steps_are_not_published() {
    let unpublished: Vec<Step> = Step::ALL.into_iter().filter(|step| detail_type(*step).is_none()).collect();
    assert_eq!(unpublished, [Step::Event, Step::Due, Step::Claimed]);
    let mut types: Vec<&str> = Step::ALL.into_iter().filter_map(detail_type).collect();
    let count = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), count, "each type is one step's");
    // EventBridge's limit.
    assert!(types.iter().all(|detail_type| detail_type.len() <= 128));
}

#[test]
fn a_request_has_ten_events_and_all_are_in_order() {
    let bus = MemoryEventBus::default();
    let all = some(23);
    assert_eq!(publish_all(&bus, all.clone()), []);
    assert_eq!(bus.puts(), [10, 10, 3]);
    assert_eq!(bus.accepted(), all);
}

#[test]
fn no_request_is_larger_than_eventbridge_accepts() {
    let long = "x".repeat(100 * 1024);
    let one = Notification::of(&repair_event(Step::Called, &long)).expect("a published step");
    let sizes: Vec<usize> = batches(vec![one; 5]).iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn only_rejected_events_are_retried() {
    let bus = MemoryEventBus::default();
    bus.reject(&[1, 3]);
    let all = some(5);
    assert_eq!(publish_all(&bus, all.clone()), []);
    assert_eq!(bus.puts(), [5, 2]);
    let accepted = bus.accepted();
    assert_eq!(accepted.len(), 5);
    assert_eq!(accepted[3..], [all[1].clone(), all[3].clone()]);
}

#[test]
fn an_event_that_is_always_rejected_is_dropped_and_stops_no_other() {
    let bus = MemoryEventBus::default();
    bus.reject(&[0]);
    bus.fail();
    bus.reject(&[0]);
    let all = some(12);
    let unpublished = publish_all(&bus, all.clone());
    let expected =
        PublishFailure { notification: all[0].clone(), why: "ThrottlingException: slower".to_owned() };
    assert_eq!(unpublished, [expected]);
    assert_eq!(bus.puts(), [10, 1, 1, 2]);
    assert_eq!(bus.accepted(), all[1..]);
}

#[test]
fn nothing_is_sent_after_the_deadline() {
    let bus = MemoryEventBus::default();
    let clock = VirtualClock::default();
    clock.advance_to(at(60));
    let unpublished = pollster::block_on(publish(&bus, some(2), &clock, at(60), async |_| {}));
    assert_eq!(unpublished.len(), 2);
    assert_eq!(unpublished[0].why, "not sent before its deadline");
    assert_eq!(bus.puts(), [0_usize; 0]);
}
