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
    (0..count).map(|number| one(number).expect("one to tell of")).collect()
}

/// Tells, with 60 s to do so; each pause passes at once.
fn told(bus: &MemoryEventBus, notifications: Vec<Notification>) -> Vec<PublishFailure> {
    let clock = VirtualClock::default();
    clock.advance_to(at(0));
    let pause = async |wait: Duration| {
        let wait = SignedDuration::try_from(wait).expect("a wait");
        clock.advance_to(clock.now() + wait);
    };
    pollster::block_on(tell(bus, notifications, &clock, at(60), pause))
}

#[test]
fn an_event_is_the_occurrence_as_the_log_has_it() {
    let repair_event = repair_event(Step::Blocked, "a hold");
    let event = Notification::of(&repair_event).expect("one to tell of");
    assert_eq!((event.detail_type, event.at), ("Node Repair Blocked", repair_event.at));
    let detail: RepairEvent = serde_json::from_str(&event.detail).expect("an occurrence");
    assert_eq!(detail, repair_event);
}

#[test]
fn steps_that_only_lead_to_others_are_told_to_nobody() {
    let silent: Vec<Step> = Step::ALL.into_iter().filter(|step| detail_type(*step).is_none()).collect();
    assert_eq!(silent, [Step::Event, Step::Due, Step::Claimed]);
    let mut told: Vec<&str> = Step::ALL.into_iter().filter_map(detail_type).collect();
    let count = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), count, "each kind is one step's");
    // EventBridge's limit.
    assert!(told.iter().all(|kind| kind.len() <= 128));
}

#[test]
fn ten_go_at_once_and_all_in_order() {
    let bus = MemoryEventBus::default();
    let all = some(23);
    assert_eq!(told(&bus, all.clone()), []);
    assert_eq!(bus.puts(), [10, 10, 3]);
    assert_eq!(bus.taken(), all);
}

#[test]
fn no_put_is_longer_than_eventbridge_takes() {
    let long = "x".repeat(100 * 1024);
    let one = Notification::of(&repair_event(Step::Called, &long)).expect("one to tell of");
    let sizes: Vec<usize> = batches(vec![one; 5]).iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn what_was_refused_is_put_again_and_nothing_else_is() {
    let bus = MemoryEventBus::default();
    bus.refuse(&[1, 3]);
    let all = some(5);
    assert_eq!(told(&bus, all.clone()), []);
    assert_eq!(bus.puts(), [5, 2]);
    let taken = bus.taken();
    assert_eq!(taken.len(), 5);
    assert_eq!(taken[3..], [all[1].clone(), all[3].clone()]);
}

#[test]
fn what_is_refused_again_and_again_is_left_and_stops_nothing() {
    let bus = MemoryEventBus::default();
    bus.refuse(&[0]);
    bus.fail();
    bus.refuse(&[0]);
    let all = some(12);
    let untold = told(&bus, all.clone());
    let expected =
        PublishFailure { notification: all[0].clone(), why: "ThrottlingException: slower".to_owned() };
    assert_eq!(untold, [expected]);
    assert_eq!(bus.puts(), [10, 1, 1, 2]);
    assert_eq!(bus.taken(), all[1..]);
}

#[test]
fn nothing_is_put_when_the_time_is_up() {
    let bus = MemoryEventBus::default();
    let clock = VirtualClock::default();
    clock.advance_to(at(60));
    let untold = pollster::block_on(tell(&bus, some(2), &clock, at(60), async |_| {}));
    assert_eq!(untold.len(), 2);
    assert_eq!(untold[0].why, "its time was up");
    assert_eq!(bus.puts(), [0_usize; 0]);
}
