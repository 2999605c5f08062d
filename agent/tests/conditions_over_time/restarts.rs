//! What survives a restart, and what ends at boot.

use super::*;

#[test]
fn an_agent_without_state_reports_nothing_until_it_was_healthy_for_the_hold_time() {
    let (mut tracker, started_from) = Tracker::begin(identity(1), TrackerConfig::default(), None, now(0));
    assert_eq!(started_from, StartedFrom::NoState);
    let heartbeat = |reports: Vec<Report<'static>>| {
        reports.into_iter().find_map(|report| match report.body {
            Body::Heartbeat(states) => Some(states.into_iter().map(|state| state.status).collect::<Vec<_>>()),
            _ => None,
        })
    };
    assert_eq!(heartbeat(tracker.poll(now(0))), Some(vec![]));
    raise(&mut tracker, finding("InterfaceNotUp", 10), 10);
    let reported = conditions(&mut tracker, 10);
    assert_eq!(
        (reported[0].status, reported[0].sound_secs),
        (Status::False, None),
        "an unhealthy condition is reported at once"
    );
    assert_eq!(tracker.next_due(), secs(START + 120));
    assert_eq!(heartbeat(tracker.poll(now(119))), None);
    let states = heartbeat(tracker.poll(now(120))).expect("a heartbeat");
    assert_eq!(states.iter().filter(|status| **status == Status::True).count(), 4);
}

#[test]
fn an_agent_without_state_reports_no_unproven_recovery() {
    let (mut tracker, _) = Tracker::begin(identity(1), TrackerConfig::default(), None, now(0));
    for at in (1..=301).step_by(30) {
        raise(
            &mut tracker,
            DetectedFinding { debounce: Debounce::Lasting(secs(300)), ..finding("IPAMDNotRunning", at) },
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
    raise(&mut first, DetectedFinding { clears: Clears::Boot, ..finding("FilesystemCorruption", 600) }, 600);
    let last = first.poll(now(600)).last().expect("a report").seq;
    let text = first.snapshot().encode();
    let state = || Some(Snapshot::decode(&text).expect("a state"));
    let (mut again, started_from) = Tracker::begin(identity(1), TrackerConfig::default(), state(), now(610));
    assert_eq!((started_from, networking(&again).since), (StartedFrom::SavedState, wall(600)));
    assert!(again.poll(now(900))[0].seq > last);
    let (mut next_boot, started_from) = Tracker::begin(
        identity(2),
        TrackerConfig::default(),
        state(),
        Now { wall: wall(700), mono: secs(20) },
    );
    assert_eq!((started_from, is_unhealthy(&next_boot)), (StartedFrom::NewBoot, false));
    assert_eq!(next_boot.poll(Now { wall: wall(700), mono: secs(20) }).len(), 1);
}

#[test]
fn numbers_rise_even_if_the_state_file_is_lost() {
    let (mut first, _) = Tracker::begin(identity(1), TrackerConfig::default(), None, now(0));
    let mut last = 0;
    for at in 0..1_000 {
        last = first.poll(now(at)).last().map_or(last, |report| report.seq);
    }
    let (mut second, _) = Tracker::begin(identity(1), TrackerConfig::default(), None, now(1_000));
    assert!(second.poll(now(1_000))[0].seq > last);
}

#[test]
fn a_state_that_cannot_be_decoded_is_an_error() {
    let text = tracker().snapshot().encode();
    assert!(Snapshot::decode(&text).is_ok());
    assert_eq!(Snapshot::decode(&text.replace("\"v\":1", "\"v\":2")), Err(SnapshotError::Version(2)));
    assert!(matches!(Snapshot::decode(&text[..text.len() / 2]), Err(SnapshotError::Malformed(_))));
    assert!(matches!(Snapshot::decode(&" ".repeat(9 << 20)), Err(SnapshotError::TooLong(_))));
}
