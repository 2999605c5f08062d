//! Concurrent runs, interleaved in a few thousand random orders.

use jiff::SignedDuration;
use nodemend_domain::{
    case::Launch,
    repair::{Confirmation, Phase},
};
use nodemend_testkit::{
    Deployment, edit, edit_stored,
    faults::{
        Faults,
        schedule::{self, Process},
    },
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, cleared, cluster, group, group_named, instance, kubelet_ready, minutes,
        policy_with_limit, raised, terminate, zone,
    },
};
use proptest::prelude::*;
use serde_json::json;

/// Runs `runs` processes at once; `order`, repeated, decides which of them continues.
fn interleave(deployment: &Deployment, runs: usize, order: &[u8]) {
    let processes = (0..runs).map(|_| {
        let faults = Faults::none();
        let repairer = deployment.repairer(&faults);
        Process::new(faults, async move { repairer.run_once().await })
    });
    let mut step = 0;
    let results = schedule::run(processes.collect(), |_| {
        step += 1;
        usize::from(order[step % order.len()])
    });
    for run in results.into_iter().flatten() {
        assert!(run.expect("a run").failures.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn concurrent_runs_make_one_call_per_node_within_the_limit(
        nodes in 1u64..5,
        limit in 1u32..4,
        runs in 2usize..4,
        order in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let deployment = Deployment::with_problem(nodes, INTERFACE_DOWN, policy_with_limit(limit));
        deployment.clock.advance_to(minutes(30));
        interleave(&deployment, runs, &order);
        let calls = deployment.cloud.calls();
        let allowed = (limit as usize).min(nodes as usize);
        prop_assert!(calls.len() <= allowed, "{calls:?}");
        prop_assert_eq!(deployment.group().slots().len(), calls.len(), "a slot for each call, and no other");
        // A case that lost every race stays due: the next run uses the free slots.
        deployment.wait(SignedDuration::from_secs(1));
        deployment.run_once();
        let mut calls = deployment.cloud.calls();
        prop_assert_eq!(calls.len(), allowed);
        calls.sort_by_key(|call| call.instance_id().clone());
        calls.dedup();
        prop_assert_eq!(calls.len(), allowed, "one call each");
    }

    #[test]
    fn a_recovery_applied_between_claim_and_call_stops_the_call(order in prop::collection::vec(any::<u8>(), 1..60)) {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.clock.advance_to(minutes(30));
        let faults = Faults::none();
        let repairer = deployment.repairer(&faults);
        let run_once = Process::new(faults, async move { repairer.run_once().await.map(|_| ()) });
        let (subject, in_time) = (&deployment, std::cell::Cell::new(false));
        let applied_in_time = &in_time;
        let recovery = Process::new(Faults::none(), async move {
            subject.report(cleared(1, INTERFACE_DOWN, minutes(30)).seq(2));
            applied_in_time.set(subject.cloud.calls().is_empty());
            Ok(())
        });
        let mut step = 0;
        schedule::run(vec![run_once, recovery], |_| {
            step += 1;
            usize::from(order[step % order.len()])
        });
        let phase = deployment.case(1).repair().map(|repair| repair.phase());
        if !in_time.get() {
            prop_assert_eq!(deployment.cloud.calls(), [terminate(1)], "it came too late");
        } else if !matches!(phase, Some(Phase::Confirming)) {
            prop_assert_eq!(deployment.cloud.calls(), []);
            deployment.wait(SignedDuration::from_mins(3));
            deployment.run_once();
            deployment.run_until(minutes(120));
            prop_assert_eq!(deployment.cloud.calls(), [], "a recovered node is not replaced");
            prop_assert_eq!(deployment.group().slots().to_vec(), Vec::new(), "and has no slot");
        }
    }
}

/// Node 1 was terminated at 30 minutes, and node 9 was drawn from the warm pool at 31. Its node is Ready at 33 minutes, and the
/// event of the draw is late: EC2 says that it was launched a day ago.
fn drawn_replacement() -> Deployment {
    let deployment = Deployment::new(8, policy_with_limit(2));
    deployment.report(raised(1, INTERFACE_DOWN, minutes(0)));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    deployment.launch(9);
    deployment.cloud.change(|fleet| fleet.set_launched(instance(9), minutes(-1_440)));
    deployment.clock.advance_to(minutes(33));
    deployment.deliver_line(kubelet_ready(9, minutes(33), "True"), minutes(33));
    deployment.change(9, |case| {
        let arrival = json!({ "registered": minutes(33), "ready": minutes(33) });
        edit(case, json!({ "group": group(), "arrival": arrival }));
    });
    deployment
}

#[test]
fn a_replacement_counts_whose_event_arrives_at_any_step_of_the_run_that_records_that_it_joined() {
    for before in 0.. {
        let deployment = drawn_replacement();
        let faults = Faults::none();
        let repairer = deployment.repairer(&faults);
        let run = Process::new(faults.clone(), async move { repairer.run_once().await.map(|_| ()) });
        let subject = &deployment;
        let event = Process::new(Faults::none(), async move {
            subject.change(9, |case| {
                let (group, zone) = (group(), zone());
                let draw = Launch { group: &group, zone: Some(&zone), at: minutes(31), from_warm_pool: true };
                let _events = case.record_launch(&draw, None, &subject.transition());
            });
            Ok(())
        });
        let mut step = 0;
        schedule::run(vec![run, event], |_| {
            step += 1;
            usize::from(step > before)
        });
        deployment.run_until(minutes(120));
        let replacement = deployment.case(1).repair().and_then(|repair| repair.replacement().cloned());
        assert_eq!(replacement.map(|new| new.instance_id), Some(instance(9)), "after {before} operations");
        assert_eq!(deployment.group().failures(), 0, "after {before} operations");
        if before > faults.operations() {
            assert!(before > 5, "a run has at least that many operations");
            break;
        }
    }
}

#[test]
fn a_successful_reboot_is_closed_by_one_of_two_runs() {
    // Both runs see that the reboot was successful. Only one may record it.
    for seed in 0..64u8 {
        let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
        deployment.run_at(minutes(10));
        deployment.clock.advance_to(minutes(12));
        deployment.report(cleared(1, GPU_ERROR, minutes(12)).boot(2));
        // The call is confirmed, so that the repair waits for no event.
        deployment.change(1, |case| {
            edit_stored(case, |case| {
                case["repair"]["calls"][0]["confirmation"] = json!(Confirmation::Confirmed);
            });
        });
        deployment.clock.advance_to(minutes(14));
        interleave(
            &deployment,
            2,
            &[seed, seed.rotate_left(3), seed.wrapping_mul(5), 1, seed >> 1, 0, 1, 1, seed],
        );
        let closed = deployment.record_names(1).iter().filter(|name| *name == "RepairClosed").count();
        assert_eq!(closed, 1, "{:?}", deployment.record_names(1));
        assert_eq!((deployment.case(1).repair(), deployment.case(1).closed()), (None, None));
        assert_eq!(deployment.group().slots(), []);
    }
}

/// How often a run is polled until it ends. Each poll is one round trip, however many requests are in flight.
fn rounds(deployment: &Deployment) -> usize {
    let faults = Faults::none();
    let repairer = deployment.repairer(&faults);
    let mut rounds = 0;
    schedule::run(
        vec![Process::new(faults, async move { repairer.run_once().await.expect("a run") })],
        |_| {
            rounds += 1;
            0
        },
    );
    rounds
}

#[test]
fn due_cases_wait_for_their_own_answers_only() {
    let one = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    one.clock.advance_to(minutes(30));
    let one_alone = rounds(&one);

    let deployment = Deployment::with_problem(8, INTERFACE_DOWN, policy_with_limit(8));
    deployment.cloud.change(|fleet| {
        for number in 1..=8 {
            fleet.leave(&instance(number));
            let group = group_named(&format!("workers-{number}"));
            fleet.join(&group, Some(&cluster()), &instance(number), &zone());
        }
    });
    deployment.clock.advance_to(minutes(30));
    let in_eight_groups = rounds(&deployment);
    assert_eq!(deployment.cloud.calls().len(), 8);
    assert!(in_eight_groups < 3 * one_alone, "{in_eight_groups} for eight, {one_alone} for one");

    let deployment = Deployment::with_problem(8, INTERFACE_DOWN, policy_with_limit(8));
    deployment.clock.advance_to(minutes(30));
    let in_one_group = rounds(&deployment);
    assert_eq!((deployment.cloud.calls().len(), deployment.group().slots().len()), (8, 8));
    assert!(in_one_group < 6 * one_alone, "{in_one_group} for eight, {one_alone} for one");
}
