//! Sweeps that run at once, in every order that a few thousand draws come to.

mod ward;

use jiff::SignedDuration;
use nodemend_domain::repair::Phase;
use nodemend_testkit::edit_stored;
use nodemend_testkit::faults::{
    Faults,
    schedule::{self, Process},
};
use proptest::prelude::*;
use serde_json::json;

use self::ward::{Episode, Ward, minutes, policy, terminate};

/// Runs sweeps at once; what is next is taken from `order`, over and over.
fn interleave(ward: &Ward, sweeps: usize, order: &[u8]) {
    let processes = (0..sweeps).map(|_| {
        let faults = Faults::none();
        let repairer = ward.repairer(&faults);
        Process::new(faults, async move { repairer.run_once().await })
    });
    let mut step = 0;
    let results = schedule::run(processes.collect(), |_| {
        step += 1;
        usize::from(order[step % order.len()])
    });
    for swept in results.into_iter().flatten() {
        assert!(swept.expect("swept").failures.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sweeps_at_once_lose_races_and_never_nodes(
        nodes in 1u64..5,
        limit in 1u32..4,
        sweeps in 2usize..4,
        order in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let ward = Ward::sick(nodes, Episode::Network, policy(limit));
        ward.clock.advance_to(minutes(30));
        interleave(&ward, sweeps, &order);
        let calls = ward.cloud.calls();
        let allowed = (limit as usize).min(nodes as usize);
        prop_assert!(calls.len() <= allowed, "{calls:?}");
        prop_assert_eq!(ward.group().slots().len(), calls.len(), "a place for each call, and for nothing else");
        // Who lost every race stays due: the next sweep fills what room is left.
        ward.wait(SignedDuration::from_secs(1));
        ward.run_once();
        let mut calls = ward.cloud.calls();
        prop_assert_eq!(calls.len(), allowed);
        calls.sort_by_key(|call| call.instance_id().clone());
        calls.dedup();
        prop_assert_eq!(calls.len(), allowed, "one call each");
    }

    #[test]
    fn a_recovery_heard_between_the_claim_and_the_call_stops_it(order in prop::collection::vec(any::<u8>(), 1..60)) {
        let ward = Ward::sick(1, Episode::Network, policy(1));
        ward.clock.advance_to(minutes(30));
        let faults = Faults::none();
        let repairer = ward.repairer(&faults);
        let run_once = Process::new(faults, async move { repairer.run_once().await.map(|_| ()) });
        let ward_of = &ward;
        let told = std::cell::Cell::new(false);
        let told_of = &told;
        let recovery = Process::new(Faults::none(), async move {
            ward_of.tell(1, Episode::Network, false, 1, 2, 30 * 60);
            told_of.set(ward_of.cloud.calls().is_empty());
            Ok(())
        });
        let mut step = 0;
        schedule::run(vec![run_once, recovery], |_| {
            step += 1;
            usize::from(order[step % order.len()])
        });
        let phase = ward.case(1).repair().map(|repair| repair.phase());
        if !told.get() {
            prop_assert_eq!(ward.cloud.calls(), [terminate(1)], "it came too late");
        } else if !matches!(phase, Some(Phase::Confirming)) {
            prop_assert_eq!(ward.cloud.calls(), []);
            ward.wait(SignedDuration::from_mins(3));
            ward.run_once();
            ward.run_until(minutes(120));
            prop_assert_eq!(ward.cloud.calls(), [], "what recovered is not called for");
            prop_assert_eq!(ward.group().slots().to_vec(), Vec::new(), "and holds no place");
        }
    }
}

#[test]
fn a_reboot_is_closed_by_one_of_two_sweeps_and_leaves_the_next_case_alone() {
    // Both sweeps see that the reboot cured it. Only one may write that down.
    for seed in 0..64u8 {
        let ward = Ward::sick(1, Episode::Accelerator, policy(1));
        ward.sweep_at(minutes(10));
        ward.clock.advance_to(minutes(12));
        ward.tell(1, Episode::Accelerator, false, 2, 1, 12 * 60);
        // CloudTrail's word is missed, which ends the wait for it.
        ward.change(1, |case| {
            edit_stored(case, |case| {
                case["repair"]["calls"][0]["confirmation"] =
                    json!(nodemend_domain::repair::Confirmation::Confirmed);
            });
        });
        ward.clock.advance_to(minutes(14));
        interleave(&ward, 2, &[seed, seed.rotate_left(3), seed.wrapping_mul(5), 1, seed >> 1, 0, 1, 1, seed]);
        let closed = ward.audit_log(1).iter().filter(|name| *name == "RepairClosed").count();
        assert_eq!(closed, 1, "{:?}", ward.audit_log(1));
        assert_eq!((ward.case(1).repair(), ward.case(1).closed()), (None, None));
        assert_eq!(ward.group().slots(), []);
    }
}

/// How often a sweep is asked to go on until it is done: each time, whatever it waits for answers.
fn rounds(ward: &Ward) -> usize {
    let faults = Faults::none();
    let repairer = ward.repairer(&faults);
    let mut rounds = 0;
    schedule::run(
        vec![Process::new(faults, async move { repairer.run_once().await.expect("swept") })],
        |_| {
            rounds += 1;
            0
        },
    );
    rounds
}

#[test]
fn what_is_due_at_once_waits_for_its_own_answers_and_not_for_those_of_others() {
    let one = Ward::sick(1, Episode::Network, policy(1));
    one.clock.advance_to(minutes(30));
    let one_alone = rounds(&one);

    let ward = Ward::sick(8, Episode::Network, policy(8));
    ward.cloud.change(|fleet| {
        let zone = nodemend_domain::ident::Zone::new("us-east-1a").expect("a name");
        for number in 1..=8 {
            let group = nodemend_domain::ident::GroupName::new(format!("workers-{number}")).expect("a name");
            fleet.leave(&ward::instance(number));
            fleet.join(&group, Some(&ward::cluster()), &ward::instance(number), &zone);
        }
    });
    ward.clock.advance_to(minutes(30));
    let in_eight_groups = rounds(&ward);
    assert_eq!(ward.cloud.calls().len(), 8);
    assert!(in_eight_groups < 3 * one_alone, "{in_eight_groups} for eight, {one_alone} for one");

    let ward = Ward::sick(8, Episode::Network, policy(8));
    ward.clock.advance_to(minutes(30));
    let in_one_group = rounds(&ward);
    assert_eq!((ward.cloud.calls().len(), ward.group().slots().len()), (8, 8));
    assert!(in_one_group < 6 * one_alone, "{in_one_group} for eight, {one_alone} for one");
}
