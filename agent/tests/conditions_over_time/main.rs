//! The tracker's conditions over time.

mod reporting;
mod restarts;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    identity::NodeIdentity,
    tracker::{Now, Snapshot, SnapshotError, StartedFrom, Tracker, TrackerConfig},
};
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, ConditionState, Report},
};

/// The node's uptime when a test starts: an agent never starts with the machine.
const START: i64 = 1_000;

fn identity(boot: u8) -> NodeIdentity {
    NodeIdentity {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new(format!("00000000-0000-4000-8000-{boot:012}")).expect("an id"),
    }
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

fn now(seconds: i64) -> Now {
    Now { wall: wall(seconds), mono: secs(START + seconds) }
}

/// A tracker of a new boot, after its first heartbeat.
fn tracker() -> Tracker {
    let other_boot = Tracker::begin(identity(9), TrackerConfig::default(), None, now(0)).0.snapshot();
    let (mut tracker, started_from) =
        Tracker::begin(identity(1), TrackerConfig::default(), Some(other_boot), now(0));
    assert_eq!(started_from, StartedFrom::NewBoot);
    assert!(
        matches!(&tracker.poll(now(0))[..], [Report { body: Body::Heartbeat(states), .. }] if states.len() == 5)
    );
    tracker
}

fn finding(reason: &'static str, at: i64) -> DetectedFinding {
    DetectedFinding {
        reason: Cow::Borrowed(reason),
        condition: ConditionType::NetworkingReady,
        severity: Severity::Condition,
        subject: None,
        message: "eth0 is down".to_owned(),
        at: wall(at),
        debounce: Debounce::Once,
        clears: Clears::Explicit { or_quiet: None },
    }
}

fn event(reason: &'static str, at: i64) -> DetectedFinding {
    DetectedFinding { severity: Severity::Event, clears: Clears::Quiet(secs(600)), ..finding(reason, at) }
}

fn raise(tracker: &mut Tracker, finding: DetectedFinding, at: i64) {
    tracker.apply(&FindingChange::Raised(finding), now(at));
}

fn clear(tracker: &mut Tracker, reason: &'static str, subject: Option<&str>, at: i64) {
    let subject = subject.map(str::to_owned);
    tracker.apply(&FindingChange::Cleared { reason: Cow::Borrowed(reason), subject, at: wall(at) }, now(at));
}

fn networking(tracker: &Tracker) -> ConditionState<'static> {
    let states = tracker.states();
    states.into_iter().find(|state| state.condition == ConditionType::NetworkingReady).expect("the condition")
}

fn is_unhealthy(tracker: &Tracker) -> bool {
    networking(tracker).status == Status::False
}

/// The condition reports among the due ones.
fn conditions(tracker: &mut Tracker, at: i64) -> Vec<ConditionState<'static>> {
    let reports = tracker.poll(now(at)).into_iter();
    reports
        .filter_map(|report| if let Body::Condition(state) = report.body { Some(state) } else { None })
        .collect()
}

/// Reason and count of the events among the due reports.
fn events(tracker: &mut Tracker, at: i64) -> Vec<(String, u64)> {
    let reports = tracker.poll(now(at)).into_iter();
    let findings = reports.filter_map(|report| match report.body {
        Body::Event { findings, .. } => Some(findings),
        _ => None,
    });
    findings.flatten().map(|finding| (finding.reason.into_owned(), finding.count)).collect()
}

#[test]
fn more_findings_and_repeated_ones_never_move_the_start() {
    let mut tracker = tracker();
    raise(&mut tracker, finding("InterfaceNotUp", 600), 600);
    raise(&mut tracker, finding("InterfaceNotUp", 700), 700);
    raise(&mut tracker, finding("MissingLoopbackInterface", 800), 800);
    clear(&mut tracker, "InterfaceNotUp", None, 900);
    raise(&mut tracker, finding("InterfaceNotUp", 1_900), 1_900);
    assert_eq!((is_unhealthy(&tracker), networking(&tracker).since), (true, wall(600)));
}

#[test]
fn a_recovery_shorter_than_the_hold_is_bridged_and_one_as_long_is_not() {
    for (again, since, healthy_secs) in [(719, 600, 600), (720, 720, 120)] {
        let mut tracker = tracker();
        raise(&mut tracker, finding("InterfaceNotUp", 600), 600);
        clear(&mut tracker, "InterfaceNotUp", None, 600);
        assert_eq!(networking(&tracker).status, Status::True);
        raise(&mut tracker, finding("InterfaceNotUp", again), again);
        let state = networking(&tracker);
        assert_eq!((state.since, state.sound_secs), (wall(since), Some(healthy_secs as u64)), "{again}");
    }
}

#[test]
fn flapping_neither_escapes_nor_resets_the_clock() {
    let mut tracker = tracker();
    for n in 0..50 {
        raise(&mut tracker, finding("InterfaceNotUp", 600 + n * 100), 600 + n * 100);
        assert_eq!(networking(&tracker).since, wall(600));
        clear(&mut tracker, "InterfaceNotUp", None, 600 + n * 100 + 1);
    }
}

#[test]
fn a_problem_that_does_not_count_yet_is_no_recovery() {
    let lasting =
        |at| DetectedFinding { debounce: Debounce::Lasting(secs(300)), ..finding("IPAMDNotRunning", at) };
    let mut tracker = tracker();
    for at in (600..=900).step_by(30) {
        raise(&mut tracker, lasting(at), at);
    }
    assert_eq!(networking(&tracker).since, wall(900));
    clear(&mut tracker, "IPAMDNotRunning", None, 1_000);
    // After ten healthy seconds the problem returns. It takes five minutes to count, but the time is not healthy.
    for at in (1_010..=1_310).step_by(30) {
        raise(&mut tracker, lasting(at), at);
    }
    assert_eq!((is_unhealthy(&tracker), networking(&tracker).since), (true, wall(900)));
}

#[test]
fn a_count_in_a_window_counts_when_it_is_reached() {
    let three_in_five_minutes = Debounce::Times { count: 3, window: secs(300) };
    for (sightings, expected) in [
        (&[600, 700, 900][..], true),
        (&[600, 700, 901], false),
        (&[600, 700, 901, 950], true),
        (&[600, 600, 600], true),
        (&[900, 600, 700], true),
        (&[600, 700], false),
    ] {
        let mut tracker = tracker();
        for at in sightings {
            // Lines may arrive in any order and a little late.
            raise(
                &mut tracker,
                DetectedFinding { debounce: three_in_five_minutes, ..finding("IPAMDNotReady", *at) },
                1_000,
            );
        }
        assert_eq!(is_unhealthy(&tracker), expected, "{sightings:?}");
    }
}

#[test]
fn lines_of_hours_that_are_read_at_once_are_not_many_in_a_window() {
    let mut tracker = tracker();
    let debounce = Debounce::Times { count: 3, window: secs(300) };
    for at in [0, 3_600, 7_200, 10_800] {
        raise(&mut tracker, DetectedFinding { debounce, ..finding("IPAMDNotReady", at) }, 10_800);
    }
    assert!(!is_unhealthy(&tracker));
}

#[test]
fn lasting_means_every_reading_and_a_healthy_one_restarts_it() {
    let reading =
        |at| DetectedFinding { debounce: Debounce::Lasting(secs(120)), ..finding("InterfaceNotUp", at) };
    let mut tracker = tracker();
    raise(&mut tracker, reading(600), 600);
    raise(&mut tracker, reading(719), 719);
    assert!(!is_unhealthy(&tracker));
    clear(&mut tracker, "InterfaceNotUp", None, 719);
    raise(&mut tracker, reading(720), 720);
    raise(&mut tracker, reading(839), 839);
    assert!(!is_unhealthy(&tracker));
    raise(&mut tracker, reading(840), 840);
    assert!(is_unhealthy(&tracker));
}

#[test]
fn a_pause_as_long_as_the_duration_restarts_it() {
    let reading =
        |at| DetectedFinding { debounce: Debounce::Lasting(secs(120)), ..finding("InterfaceNotUp", at) };
    let mut tracker = tracker();
    raise(&mut tracker, reading(600), 600);
    raise(&mut tracker, reading(721), 721);
    assert!(!is_unhealthy(&tracker));
}

#[test]
fn each_way_to_end_ends_in_its_own_way_only() {
    let quiet = Clears::Quiet(secs(600));
    let explicit = Clears::Explicit { or_quiet: None };
    let both = Clears::Explicit { or_quiet: Some(secs(600)) };
    for (clears, cleared_at, unhealthy_until, over_at) in [
        (explicit, Some(700), 699, Some(700)),
        (explicit, None, 100_000, None),
        (quiet, Some(700), 1_199, Some(1_200)),
        (both, Some(700), 699, Some(700)),
        (both, None, 1_199, Some(1_200)),
        (Clears::Boot, Some(700), 100_000, None),
    ] {
        let mut tracker = tracker();
        raise(&mut tracker, DetectedFinding { clears, ..finding("IPAMDNotReady", 600) }, 600);
        let mut cleared = false;
        for at in [699, 700, 1_199, 1_200, 100_000] {
            if !cleared && cleared_at == Some(at) {
                clear(&mut tracker, "IPAMDNotReady", None, at);
                cleared = true;
            }
            tracker.poll(now(at));
            assert_eq!(is_unhealthy(&tracker), at <= unhealthy_until, "{clears:?} at {at}");
            if over_at == Some(at) {
                assert_eq!(networking(&tracker).since, wall(at));
            }
        }
    }
}

#[test]
fn a_quiet_time_ends_by_itself_and_not_at_the_next_poll() {
    let mut tracker = tracker();
    raise(
        &mut tracker,
        DetectedFinding { clears: Clears::Quiet(secs(600)), ..finding("PodStuckTerminating", 600) },
        600,
    );
    assert!(tracker.next_due() <= secs(START + 1_200));
    let reported = conditions(&mut tracker, 5_000);
    assert_eq!((reported.len(), reported[0].status, reported[0].since), (1, Status::True, wall(1_200)));
}

#[test]
fn a_subject_is_cleared_by_its_name_and_all_without_a_name() {
    let about = |subject: &str| DetectedFinding {
        subject: Some(subject.to_owned()),
        ..finding("InterfaceNotUp", 600)
    };
    let mut tracker = tracker();
    raise(&mut tracker, about("eth0"), 600);
    raise(&mut tracker, about("eth1"), 600);
    clear(&mut tracker, "InterfaceNotUp", Some("eth2"), 700);
    clear(&mut tracker, "MissingLoopbackInterface", None, 700);
    assert_eq!(networking(&tracker).findings.len(), 2);
    clear(&mut tracker, "InterfaceNotUp", Some("eth0"), 710);
    assert_eq!(networking(&tracker).findings[0].message, "eth1: eth0 is down", "a report names the subject");
    assert!(is_unhealthy(&tracker));
    clear(&mut tracker, "InterfaceNotUp", None, 720);
    assert!(!is_unhealthy(&tracker));
}

#[test]
fn a_clear_from_before_the_last_sighting_ends_nothing() {
    let mut tracker = tracker();
    raise(&mut tracker, finding("IPAMDNotReady", 700), 700);
    let cleared =
        FindingChange::Cleared { reason: Cow::Borrowed("IPAMDNotReady"), subject: None, at: wall(690) };
    tracker.apply(&cleared, now(705));
    assert!(is_unhealthy(&tracker));
}

#[test]
fn an_old_line_gives_the_condition_no_start_before_it_was_noticed() {
    let mut tracker = tracker();
    raise(
        &mut tracker,
        DetectedFinding { clears: Clears::Boot, ..finding("FilesystemCorruption", -500) },
        3_600,
    );
    let state = networking(&tracker);
    assert_eq!((state.since, state.findings[0].since), (wall(3_600), wall(-500)));
}

#[test]
fn a_step_of_the_wall_clock_does_not_change_an_age() {
    for step in [-86_400, -60, 60, 86_400] {
        let stepped = |at: i64| Now { wall: wall(at + step), mono: secs(START + at) };
        let mut tracker = tracker();
        raise(
            &mut tracker,
            DetectedFinding { clears: Clears::Quiet(secs(600)), ..finding("PodStuckTerminating", 600) },
            600,
        );
        for at in [700, 1_199] {
            let reports = tracker.poll(stepped(at));
            assert_eq!(
                reports.last().map(|report| report.at),
                (at == 700 || at == 1_199).then(|| wall(at + step))
            );
            let state = networking(&tracker);
            assert_eq!((state.status, state.since), (Status::False, wall(600 + step)), "{step}");
        }
        tracker.poll(stepped(1_200));
        assert_eq!(networking(&tracker).status, Status::True, "{step}");
    }
}

#[test]
fn a_small_adjustment_of_the_wall_clock_changes_no_start() {
    let mut tracker = tracker();
    raise(&mut tracker, finding("InterfaceNotUp", 600), 600);
    for nudge in [-4, 3, -2, 1] {
        tracker.poll(Now { wall: wall(700 + nudge), mono: secs(START + 700) });
        assert_eq!(networking(&tracker).since, wall(600));
    }
}
