//! Whatever fails, and whenever: no schedule has a violation. Proptest chooses the parts of a schedule and shrinks one
//! that fails.

use nodemend_simulation::schedule::{FailingNode, FailureRates, Remedy, Schedule};
use proptest::prelude::*;

fn failing_node() -> impl Strategy<Value = FailingNode> {
    let remedy = prop_oneof![
        3 => Just(Remedy::Replacement),
        1 => Just(Remedy::Reboot),
        1 => Just(Remedy::ReplacementAfterReboot),
    ];
    // On both sides of the recovery hold (2 min) and of the grace periods (10 and 30 min).
    let seconds = prop_oneof![1 => 1u32..150, 1 => 300u32..2_400];
    let periods = prop::collection::vec((seconds.clone(), seconds), 1..4);
    (remedy, periods, any::<bool>()).prop_map(|(remedy, periods, recovers)| FailingNode {
        remedy,
        periods,
        recovers,
    })
}

fn rates() -> impl Strategy<Value = FailureRates> {
    (0u64..60, 0u64..50, 0u64..400, 0u64..600, 0u64..700, 0u64..300).prop_map(
        |(operations, stalls, duplicates, launches, repair_runs, cloud_trail)| FailureRates {
            operations,
            stalls,
            duplicates,
            launches,
            repair_runs,
            cloud_trail,
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    (prop::collection::vec(failing_node(), 1..6), 1u32..3, rates(), any::<u64>())
        .prop_map(|(nodes, limit, rates, seed)| Schedule { nodes, limit, rates, seed })
}

#[track_caller]
fn assert_no_violation(schedule: &Schedule) {
    if let Some(violation) = schedule.run(false).violations.first() {
        panic!("{violation}\n{schedule:?}\n{}", schedule.run(true).trace.join("\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// No call before its deadline, none twice, no more at once than allowed. Once nothing fails any more, everything
    /// that is unhealthy gets its repair, and each repair ends. `PROPTEST_CASES` sets how many schedules are tried.
    #[test]
    fn every_call_is_due_made_once_and_within_the_limit(schedule in schedule()) {
        let violations = schedule.run(false).violations;
        prop_assert!(violations.is_empty(), "{}\n{}", violations[0], schedule.run(true).trace.join("\n"));
    }
}

#[test]
fn a_node_that_fails_again_right_after_it_recovered_is_rebooted_once() {
    // What proptest found and shrunk, with the rates that it had.
    let node = FailingNode {
        remedy: Remedy::ReplacementAfterReboot,
        periods: vec![(1, 1_386), (122, 1)],
        recovers: false,
    };
    for seed in 0..100 {
        let rates =
            FailureRates { operations: 1, duplicates: 120, cloud_trail: 200, ..FailureRates::default() };
        assert_no_violation(&Schedule { nodes: vec![node.clone()], limit: 1, rates, seed });
    }
}

#[test]
fn each_remedy_leads_to_its_calls() {
    let remedies = [Remedy::Replacement, Remedy::Reboot, Remedy::ReplacementAfterReboot];
    let nodes =
        remedies.map(|remedy| FailingNode { remedy, periods: vec![(10, 10)], recovers: false }).to_vec();
    let schedule = Schedule { nodes, limit: 2, rates: FailureRates::default(), seed: 1 };
    assert_no_violation(&schedule);
    let outcome = schedule.run(true);
    // One terminated, one rebooted, one rebooted without success and then terminated.
    assert_eq!((outcome.calls, outcome.accepted), (4, 4), "{}", outcome.trace.join("\n"));
}
