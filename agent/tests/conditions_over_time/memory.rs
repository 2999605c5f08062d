//! What a restart keeps and what a boot ends.

use super::*;

#[test]
fn an_agent_without_memory_says_nothing_until_health_has_held() {
    let (mut tracker, beginning) = Tracker::begin(identity(1), Config::default(), None, now(0));
    assert_eq!(beginning, Beginning::NoMemory);
    let heartbeat = |reports: Vec<Report<'static>>| {
        reports.into_iter().find_map(|report| match report.body {
            Body::Heartbeat(states) => Some(states.into_iter().map(|state| state.status).collect::<Vec<_>>()),
            _ => None,
        })
    };
    assert_eq!(heartbeat(tracker.poll(now(0))), Some(vec![]));
    raise(&mut tracker, finding("InterfaceNotUp", 10), 10);
    let told = conditions(&mut tracker, 10);
    assert_eq!((told[0].status, told[0].sound_secs), (Status::False, None), "trouble is said at once");
    assert_eq!(tracker.next_due(), secs(START + 120));
    assert_eq!(heartbeat(tracker.poll(now(119))), None);
    let states = heartbeat(tracker.poll(now(120))).expect("a heartbeat");
    assert_eq!(states.iter().filter(|status| **status == Status::True).count(), 4);
}

#[test]
fn an_agent_without_memory_takes_no_unproven_health_for_a_recovery() {
    let (mut tracker, _) = Tracker::begin(identity(1), Config::default(), None, now(0));
    for at in (1..=301).step_by(30) {
        raise(
            &mut tracker,
            Finding { debounce: Debounce::Lasting(secs(300)), ..finding("IPAMDNotRunning", at) },
            at,
        );
        let known = tracker.states().iter().any(|state| state.condition == ConditionType::NetworkingReady);
        assert_eq!(known, at == 301, "{at}");
    }
    assert_eq!(networking(&tracker).sound_secs, None);
}

#[test]
fn findings_survive_a_restart_and_end_with_the_boot() {
    let mut first = tracker();
    raise(&mut first, Finding { clears: Clears::Boot, ..finding("FilesystemCorruption", 600) }, 600);
    let last = first.poll(now(600)).last().expect("a report").seq;
    let text = first.snapshot().encode();
    let state = || Some(State::decode(&text).expect("a state"));
    let (mut again, beginning) = Tracker::begin(identity(1), Config::default(), state(), now(610));
    assert_eq!((beginning, networking(&again).since), (Beginning::Memory, wall(600)));
    assert!(again.poll(now(900))[0].seq > last);
    let (mut next_boot, beginning) =
        Tracker::begin(identity(2), Config::default(), state(), Now { wall: wall(700), mono: secs(20) });
    assert_eq!((beginning, is_bad(&next_boot)), (Beginning::Boot, false));
    assert_eq!(next_boot.poll(Now { wall: wall(700), mono: secs(20) }).len(), 1);
}

#[test]
fn numbers_rise_even_if_the_memory_is_lost() {
    let (mut first, _) = Tracker::begin(identity(1), Config::default(), None, now(0));
    let mut last = 0;
    for at in 0..1_000 {
        last = first.poll(now(at)).last().map_or(last, |report| report.seq);
    }
    let (mut second, _) = Tracker::begin(identity(1), Config::default(), None, now(1_000));
    assert!(second.poll(now(1_000))[0].seq > last);
}

#[test]
fn a_state_that_cannot_be_read_says_why() {
    let text = tracker().snapshot().encode();
    assert!(State::decode(&text).is_ok());
    assert_eq!(State::decode(&text.replace("\"v\":1", "\"v\":2")), Err(StateError::Version(2)));
    assert!(matches!(State::decode(&text[..text.len() / 2]), Err(StateError::Malformed(_))));
    assert!(matches!(State::decode(&" ".repeat(9 << 20)), Err(StateError::TooLong(_))));
}
