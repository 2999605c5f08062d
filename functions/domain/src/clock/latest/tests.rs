use super::*;

const HOLD: SignedDuration = SignedDuration::from_mins(2);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

/// Of a node that was seen long before.
fn reported(seq: u64, health: Health, since: i64, written: i64) -> ConditionReport {
    let mut clock = NodeClock::default();
    clock.note(at(-1_000), at(-1_000));
    ConditionReport {
        seq,
        health,
        node_since: at(since),
        node_at: at(written),
        clock,
        healthy_before: None,
        arrival: at(written + 1),
        seen_since: at(-1_000_000),
    }
}

fn start(latest: &LatestReport) -> Option<Timestamp> {
    latest.read().episode.map(|episode| episode.since)
}

fn counts_from(latest: &LatestReport) -> Option<Timestamp> {
    latest.read().episode.map(|episode| episode.counts_from)
}

#[test]
fn a_nodes_wrong_clock_neither_hastens_nor_delays() {
    for skew in [-86_400, 0, 3_600] {
        let report = ConditionReport { arrival: at(300), ..reported(1, Health::Bad, skew, skew + 300) };
        assert_eq!(start(&LatestReport::first(report)), Some(at(0)), "{skew}");
    }
}

#[test]
fn a_start_in_the_nodes_future_has_no_age() {
    let report = ConditionReport { arrival: at(300), ..reported(1, Health::Bad, 900, 300) };
    assert_eq!(start(&LatestReport::first(report)), Some(at(300)));
}

#[test]
fn an_agent_that_lost_its_memory_does_not_reset_the_clock() {
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
    latest.note(reported(2, Health::Bad, 600, 600), HOLD);
    assert_eq!(start(&latest), Some(at(1)));
}

#[test]
fn an_agent_that_lost_its_memory_does_not_reset_the_clock_though_its_reports_cross() {
    // 3 was written before the restart, 4 after it, a second later, and 4 arrives first.
    let crossed = |before: ConditionReport, after: ConditionReport| {
        let mut latest = LatestReport::first(after);
        assert_eq!(latest.note(before, HOLD), Recency::Stale);
        start(&latest)
    };
    assert_eq!(crossed(reported(3, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)), Some(at(1)));
    // So late that its start, counted back from its arrival, is later than what is known.
    let late = ConditionReport { arrival: at(900), ..reported(3, Health::Bad, 0, 240) };
    assert_eq!(crossed(late, reported(4, Health::Bad, 241, 241)), Some(at(242)));
    // Another report may lie between them, and report that all was healthy.
    assert_eq!(crossed(reported(2, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)), Some(at(242)));
    // It knows that all was healthy.
    let mut remembers = reported(4, Health::Bad, 241, 241);
    remembers.healthy_before = Some(SignedDuration::from_mins(2));
    assert_eq!(crossed(reported(3, Health::Bad, 0, 120), remembers), Some(at(242)));
}

#[test]
fn the_least_delayed_report_has_the_start() {
    let late = ConditionReport { arrival: at(500), ..reported(1, Health::Bad, 0, 0) };
    let mut latest = LatestReport::first(late);
    latest.note(reported(2, Health::Bad, 0, 300), HOLD);
    assert_eq!(start(&latest), Some(at(1)));
    latest.note(ConditionReport { arrival: at(2_000), ..reported(3, Health::Bad, 0, 400) }, HOLD);
    assert_eq!(start(&latest), Some(at(1)));
}

#[test]
fn a_lost_recovery_is_in_the_next_report() {
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
    let mut again = reported(9, Health::Bad, 600, 660);
    again.healthy_before = Some(SignedDuration::from_mins(5));
    latest.note(again, HOLD);
    assert_eq!(start(&latest), Some(at(601)));
}

#[test]
fn a_clock_that_steps_ahead_makes_no_new_fault() {
    let with_memory = |mut report: ConditionReport| {
        report.healthy_before = Some(SignedDuration::from_hours(1));
        report
    };
    let mut latest = LatestReport::first(with_memory(reported(1, Health::Bad, 0, 0)));
    let known = latest.fault_arrived();
    let ahead = 2_300;
    let stepped = with_memory(reported(2, Health::Bad, ahead, ahead + 600));
    latest.note(ConditionReport { arrival: at(602), ..stepped }, HOLD);
    assert_eq!((latest.fault_arrived(), start(&latest)), (known, Some(at(1))));
    // A fault that began later is another one, though no healthy report arrived.
    let other = with_memory(reported(3, Health::Bad, ahead + 700, ahead + 760));
    latest.note(ConditionReport { arrival: at(761), ..other }, HOLD);
    assert_eq!((latest.fault_arrived(), start(&latest)), (Some(at(761)), Some(at(701))));
}

#[test]
fn a_fault_whose_recovery_was_lost_is_a_new_one_though_the_report_before_it_was_late() {
    let mut latest =
        LatestReport::first(ConditionReport { arrival: at(192), ..reported(1, Health::Bad, 0, 0) });
    let mut again = reported(3, Health::Bad, 277, 277);
    again.healthy_before = Some(SignedDuration::from_secs(161));
    latest.note(ConditionReport { arrival: at(278), ..again }, HOLD);
    assert_eq!((latest.fault_arrived(), start(&latest)), (Some(at(278)), Some(at(278))));
}

#[test]
fn no_claim_of_a_node_that_was_healthy_shortens_its_grace_period() {
    let long_ago = -1_000_000_000;
    for (what, since, written) in [
        ("a start long ago", long_ago, 600),
        ("a report from the future", 590, 1_000_000_000),
        ("both", long_ago, 1_000_000_000),
    ] {
        let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 300));
        let lie = ConditionReport { arrival: at(601), ..reported(2, Health::Bad, since, written) };
        latest.note(lie, HOLD);
        assert_eq!(counts_from(&latest), Some(at(601)), "{what}");
        assert!(start(&latest) >= Some(at(301)), "{what}");
        // Nor does the next one of the same fault.
        latest.note(ConditionReport { seq: 3, arrival: at(700), ..lie }, HOLD);
        assert_eq!(counts_from(&latest), Some(at(601)), "{what}");
    }
}

#[test]
fn nothing_began_before_the_boot_was_first_seen() {
    let first = ConditionReport { seen_since: at(0), ..reported(1, Health::Bad, -86_400, 300) };
    assert_eq!(counts_from(&LatestReport::first(first)), Some(at(0)));
}

#[test]
fn a_number_or_a_time_from_the_future_silences_no_later_report() {
    let year = 31_536_000;
    for (what, forged) in [
        ("a number", reported(u64::MAX, Health::Healthy, 100, 100)),
        ("a time", ConditionReport { arrival: at(101), ..reported(2, Health::Healthy, 100, year) }),
        ("both", ConditionReport { arrival: at(101), ..reported(u64::MAX, Health::Healthy, 100, year) }),
    ] {
        let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 0));
        latest.note(forged, HOLD);
        assert_eq!(latest.note(reported(3, Health::Bad, 200, 200), HOLD), Recency::Newest, "{what}");
        assert_eq!(latest.note(reported(4, Health::Bad, 200, 500), HOLD), Recency::Newest, "{what}");
        assert_eq!(latest.health(), Health::Bad, "{what}");
    }
}

#[test]
fn a_late_duplicate_of_a_clock_that_is_ahead_is_still_late() {
    let mut clock = NodeClock::default();
    let ahead = |written: i64| written + 10_000;
    let report = |seq: u64, health: Health, written: i64, arrived: i64, clock: NodeClock| ConditionReport {
        arrival: at(arrived),
        clock,
        ..reported(seq, health, ahead(written), ahead(written))
    };
    clock.note(at(ahead(0)), at(1));
    let mut latest = LatestReport::first(report(1, Health::Bad, 0, 1, clock));
    clock.note(at(ahead(600)), at(601));
    latest.note(report(2, Health::Healthy, 600, 601, clock), HOLD);
    clock.note(at(ahead(0)), at(10_001));
    assert_eq!(latest.note(report(1, Health::Bad, 0, 10_001, clock), HOLD), Recency::Stale);
    assert_eq!(latest.health(), Health::Healthy);
}

#[test]
fn a_fault_after_a_clock_stepped_back_is_another_one() {
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
    let stepped = |seq: u64, health: Health, since: i64, arrived: i64| ConditionReport {
        arrival: at(arrived),
        ..reported(seq, health, since, since)
    };
    latest.note(stepped(2, Health::Healthy, 100, 100), HOLD);
    latest.note(stepped(3, Health::Bad, -3_000, 1_000), HOLD);
    assert_eq!(latest.read().episode.expect("a fault").counts_from, at(1_000));
}

#[test]
fn a_fault_whose_recovery_was_lost_while_the_clock_stepped_back_is_another_one() {
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 60));
    let stepped = |arrived: i64, healthy_before: i64| ConditionReport {
        arrival: at(arrived),
        healthy_before: Some(SignedDuration::from_secs(healthy_before)),
        ..reported(4, Health::Bad, -3_000, -2_900)
    };
    let mut same = latest.clone();
    same.note(stepped(100, 1_000), HOLD);
    assert_eq!(start(&same), Some(at(1)), "it began before the last report arrived");
    latest.note(stepped(1_000, 1_000), HOLD);
    assert_eq!(start(&latest), Some(at(900)));
}

#[test]
fn a_finding_from_before_a_clock_stepped_back_is_of_an_earlier_fault() {
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
    latest.note(reported(2, Health::Healthy, 100, 100), HOLD);
    let stepped = ConditionReport { arrival: at(1_001), ..reported(3, Health::Bad, -3_000, -3_000) };
    latest.note(stepped, HOLD);
    assert!(latest.episode_of(&stepped).is_some());
    assert_eq!(latest.episode_of(&reported(1, Health::Bad, 0, 0)), None);
}

#[test]
fn a_clock_that_steps_forward_hastens_no_known_fault() {
    let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 0));
    let healthy_before = Some(SignedDuration::from_secs(1_000));
    let late =
        ConditionReport { arrival: at(1_060), healthy_before, ..reported(2, Health::Bad, 1_000, 1_000) };
    latest.note(late, HOLD);
    assert_eq!(counts_from(&latest), Some(at(1_060)));
    let stepped =
        ConditionReport { arrival: at(1_301), healthy_before, ..reported(3, Health::Bad, 8_000, 8_300) };
    for seq in [3, 4] {
        latest.note(ConditionReport { seq, ..stepped }, HOLD);
        assert_eq!(counts_from(&latest), Some(at(1_060)));
    }
}

#[test]
fn a_report_with_a_number_that_was_made_up_is_no_news_when_it_comes_again() {
    let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 0));
    let made_up = reported(u64::MAX, Health::Bad, 60, 60);
    latest.note(made_up, HOLD);
    latest.note(reported(2, Health::Healthy, 120, 120), HOLD);
    assert_eq!(latest.note(ConditionReport { arrival: at(3_000), ..made_up }, HOLD), Recency::Stale);
    assert!(!latest.can_be_before(made_up.seq, made_up.node_at), "nor is it read again");
    assert_eq!(latest.health(), Health::Healthy);
    assert_eq!(latest.note(reported(3, Health::Bad, 3_100, 3_100), HOLD), Recency::Newest);
}

#[test]
fn a_duplicate_from_before_a_clock_stepped_back_is_still_late() {
    let hour = 3_600;
    let before = reported(1, Health::Bad, 0, 0);
    let mut latest = LatestReport::first(before);
    let mut clock = before.clock;
    clock.step_back((1, NodeTime::new(at(300), at(300), &clock)), 2, at(300 - hour), at(301));
    let stepped = |seq: u64, written: i64| ConditionReport {
        arrival: at(written + 1),
        clock,
        ..reported(seq, Health::Healthy, 300 - hour, written - hour)
    };
    latest.note(stepped(2, 300), HOLD);
    latest.note(stepped(3, 600), HOLD);
    // Two old reports that are delivered again, together, show no clock that goes on.
    for written in [0, 120] {
        clock.note(at(written), at(900));
        let again = ConditionReport { arrival: at(900), clock, ..reported(1, Health::Bad, 0, written) };
        assert_eq!(latest.note(again, HOLD), Recency::Stale);
    }
    assert_eq!(latest.health(), Health::Healthy);
    // The clock that goes on is believed, even if it is set right again.
    for (seq, written) in [(4, 1_200), (5, 1_500)] {
        clock.note(at(written), at(written + 1));
        latest.note(ConditionReport { clock, ..reported(seq, Health::Bad, 1_200, written) }, HOLD);
    }
    assert!(NodeTime::new(at(1_800), at(1_801), &clock).is_plausible());
    assert_eq!(latest.health(), Health::Bad);
}

#[test]
fn an_age_that_is_made_up_hastens_no_known_fault() {
    // Its recovery from an earlier fault was lost: the grace period counts from its start.
    let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
    let healthy_before = Some(SignedDuration::from_secs(600));
    latest.note(ConditionReport { healthy_before, ..reported(2, Health::Bad, 1_000, 1_000) }, HOLD);
    assert_eq!(counts_from(&latest), Some(at(1_001)));
    let from_the_future = ConditionReport { arrival: at(1_300), ..reported(3, Health::Bad, 1_000, 900_000) };
    let since_forever = ConditionReport { arrival: at(1_300), ..reported(3, Health::Bad, -900_000, 1_299) };
    for made_up in [from_the_future, since_forever] {
        let mut latest = latest.clone();
        for seq in [3, 4] {
            latest.note(ConditionReport { seq, ..made_up }, HOLD);
            assert_eq!(counts_from(&latest), Some(at(1_001)));
        }
    }
}
