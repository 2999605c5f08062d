//! What is reported, and how often.

use super::*;

#[test]
fn a_change_is_reported_at_once_and_again_every_five_minutes_while_it_lasts() {
    let mut tracker = tracker();
    raise(&mut tracker, finding("InterfaceNotUp", 600), 600);
    let reported = conditions(&mut tracker, 600);
    assert_eq!(
        (reported.len(), reported[0].status, reported[0].since, reported[0].sound_secs),
        (1, Status::False, wall(600), Some(600))
    );
    assert!(conditions(&mut tracker, 899).is_empty());
    assert_eq!(conditions(&mut tracker, 900).len(), 1);
    clear(&mut tracker, "InterfaceNotUp", None, 1_000);
    let reported = conditions(&mut tracker, 1_000);
    assert_eq!(
        (reported.len(), reported[0].status, reported[0].since, reported[0].sound_secs),
        (1, Status::True, wall(1_000), None)
    );
    assert!(conditions(&mut tracker, 5_000).is_empty(), "a healthy condition is reported by heartbeats only");
}

#[test]
fn a_heartbeat_with_all_conditions_comes_every_five_minutes() {
    let mut tracker = tracker();
    let beats = |tracker: &mut Tracker, at| {
        tracker
            .poll(now(at))
            .iter()
            .filter(|report| matches!(&report.body, Body::Heartbeat(states) if states.len() == 5))
            .count()
    };
    assert_eq!(tracker.next_due(), secs(START + 300));
    assert_eq!((beats(&mut tracker, 299), beats(&mut tracker, 300), beats(&mut tracker, 301)), (0, 1, 0));
}

#[test]
fn a_problem_that_was_over_before_it_was_read_is_an_event_only() {
    let mut tracker = tracker();
    raise(
        &mut tracker,
        DetectedFinding { clears: Clears::Quiet(secs(600)), ..finding("PodStuckTerminating", 0) },
        3_600,
    );
    assert!(!is_unhealthy(&tracker));
    assert_eq!(events(&mut tracker, 3_600), [("PodStuckTerminating".to_owned(), 1)]);
    assert!(conditions(&mut tracker, 3_700).is_empty());
}

#[test]
fn an_event_is_reported_at_once_then_with_its_count_every_five_minutes() {
    let mut tracker = tracker();
    let mut reported = Vec::new();
    for at in 600..1_300 {
        raise(&mut tracker, event("OOMKilling", at), at);
        reported.extend(events(&mut tracker, at).into_iter().map(|(_, count)| (at, count)));
        assert!(!is_unhealthy(&tracker), "an event repairs nothing");
    }
    assert_eq!(reported, [(600, 1), (900, 301), (1_200, 601)]);
    assert_eq!(
        events(&mut tracker, 1_500),
        [("OOMKilling".to_owned(), 700)],
        "the last ones are reported, too"
    );
    assert_eq!(events(&mut tracker, 9_000), []);
}

#[test]
fn a_flapping_event_is_reported_no_more_often_and_keeps_its_count() {
    let mut tracker = tracker();
    let mut reported = Vec::new();
    for n in 0..20 {
        let at = 600 + n * 30;
        raise(
            &mut tracker,
            DetectedFinding {
                clears: Clears::Explicit { or_quiet: None },
                ..event("ApproachingKernelPidMax", at)
            },
            at,
        );
        reported.extend(events(&mut tracker, at));
        clear(&mut tracker, "ApproachingKernelPidMax", None, at + 10);
        reported.extend(events(&mut tracker, at + 10));
    }
    let counts: Vec<u64> = reported.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [1, 11]);
}

#[test]
fn many_events_at_once_are_all_reported_in_reports_of_readable_size() {
    let mut tracker = tracker();
    for n in 0..100 {
        let subject = Some(format!("process-{n}"));
        let message = format!("a \"long\" line {}", "x".repeat(300));
        raise(&mut tracker, DetectedFinding { subject, message, ..event("AppCrash", 600) }, 600);
    }
    let reports = tracker.poll(now(600));
    let mut reported = 0;
    for report in &reports {
        let line = report.encode();
        if let Body::Event { findings, .. } = Report::decode(&line).expect("a report").body {
            assert!(findings.iter().all(|finding| finding.message.ends_with('x')), "nothing is shortened");
            reported += findings.len();
        }
    }
    assert_eq!(reported, 100);
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let mut tracker = tracker();
    for n in 0..1_000 {
        let subject = Some(format!("pod-{n}"));
        raise(&mut tracker, DetectedFinding { subject, ..event("PodPidsExhausted", 600) }, 600);
        let other = ConditionType::Other(format!("Custom{n}Ready").into());
        raise(&mut tracker, DetectedFinding { condition: other, ..event("Custom", 600) }, 600);
    }
    let overflow = |condition| {
        let states = tracker.states();
        assert!(states.len() <= 16);
        let state = states.into_iter().find(|state| state.condition == condition).expect("the condition");
        state
            .findings
            .iter()
            .find(|finding| finding.reason == "FindingsOverflow")
            .map(|finding| finding.count)
    };
    assert_eq!(overflow(ConditionType::NetworkingReady), None, "64 are listed, the newest first");
    assert_eq!(overflow(ConditionType::KernelReady), Some(1_000 - 11));
    let reported: Vec<_> =
        events(&mut tracker, 601).into_iter().filter(|(reason, _)| reason == "FindingsOverflow").collect();
    assert_eq!(reported.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [989, 1_000 - 128]);
    raise(&mut tracker, finding("InterfaceNotUp", 602), 602);
    assert_eq!(
        networking(&tracker).findings[0].reason,
        "InterfaceNotUp",
        "events take no space from findings of severity Condition"
    );
}

#[test]
fn a_flood_of_changes_writes_a_report_a_second_at_most() {
    let mut tracker = tracker();
    let mut reported = 0;
    for n in 0..5_000 {
        let at = |n: i64| Now {
            wall: wall(600) + SignedDuration::from_millis(n),
            mono: secs(START + 600) + SignedDuration::from_millis(n),
        };
        let change = if n % 2 == 0 {
            FindingChange::Raised(DetectedFinding { at: at(n).wall, ..finding("InterfaceNotUp", 0) })
        } else {
            FindingChange::Cleared { reason: "InterfaceNotUp".into(), subject: None, at: at(n).wall }
        };
        tracker.apply(&change, at(n));
        reported += tracker.poll(at(n)).len();
    }
    assert!((1..=7).contains(&reported), "{reported}");
}

#[test]
fn a_condition_that_is_unhealthy_when_true_is_reported_as_true() {
    let mut tracker = tracker();
    let condition = ConditionType::Other("KernelDeadlock".into());
    raise(&mut tracker, DetectedFinding { condition: condition.clone(), ..finding("DockerHung", 600) }, 600);
    let status = |tracker: &Tracker| {
        tracker.states().into_iter().find(|state| state.condition == condition).map(|state| state.status)
    };
    assert_eq!(status(&tracker), Some(Status::True));
    clear(&mut tracker, "DockerHung", None, 700);
    assert_eq!(status(&tracker), Some(Status::False));
}

#[test]
fn an_invalid_reason_is_made_valid() {
    let mut tracker = tracker();
    raise(&mut tracker, finding("Not a reason!\n", 600), 600);
    raise(&mut tracker, finding("", 600), 600);
    for report in tracker.poll(now(600)) {
        Report::decode(&report.encode()).expect("a report");
    }
    clear(&mut tracker, "Not a reason!\n", None, 601);
    clear(&mut tracker, "", None, 601);
    assert!(!is_unhealthy(&tracker));
}
