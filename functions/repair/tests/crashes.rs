//! A run that fails or crashes at any of its steps, and the next run, which continues it.

use jiff::SignedDuration;
use nodemend_domain::{
    policy::Hold,
    repair::{LEASE, Phase},
};
use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment, edit,
    faults::{Fate, Faults, schedule},
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, at, cleared, cluster, hold_until, instance, minutes, policy_with_limit,
        raised, reboot, terminate,
    },
};
use serde_json::json;

/// One run in which one operation ends with `fate`. Returns whether the run reached that operation.
fn run_with_fault(deployment: &Deployment, operation: usize, fate: Fate) -> bool {
    let faults = Faults::at(operation, fate);
    let _ = schedule::run_one(&faults, deployment.repairer(&faults).run_once());
    faults.operations() >= operation
}

/// The runs after it, every few seconds, until every lease has ended.
fn recover(deployment: &Deployment) {
    let end = deployment.clock.now() + LEASE * 3;
    while deployment.clock.now() < end {
        deployment.wait(SignedDuration::from_secs(7));
        deployment.run_once();
    }
}

#[test]
fn a_run_that_fails_at_any_step_leads_to_one_call() {
    for fate in Fate::BAD {
        for operation in 1.. {
            let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
            deployment.clock.advance_to(minutes(30));
            if !run_with_fault(&deployment, operation, fate) {
                assert!(operation > 10, "a run has at least that many steps");
                break;
            }
            recover(&deployment);
            assert_eq!(deployment.cloud.calls(), [terminate(1)], "{fate:?} at {operation}");
            let repair = deployment.case(1).repair().cloned().expect("a repair");
            assert_eq!(repair.phase(), Phase::Confirming, "{fate:?} at {operation}");
            let slots = deployment.group().slots().to_vec();
            assert!(
                slots.len() == 1 && slots[0].terminated_at.is_some(),
                "{fate:?} at {operation}: {slots:?}"
            );
            let recorded =
                deployment.record_names(1).iter().filter(|name| name.starts_with("Terminate")).count();
            assert!(recorded >= 1, "{fate:?} at {operation}: {:?}", deployment.record_names(1));
        }
    }
}

#[test]
fn a_run_that_fails_at_any_step_sends_a_reboot_at_most_once() {
    for fate in Fate::BAD {
        for operation in 1.. {
            let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
            deployment.clock.advance_to(minutes(10));
            if !run_with_fault(&deployment, operation, fate) {
                break;
            }
            recover(&deployment);
            // An unsent call looks like one whose answer was lost: the repair waits for the new boot in both cases.
            let calls = deployment.cloud.calls();
            assert!(calls.is_empty() || calls == [reboot(1)], "{fate:?} at {operation}: {calls:?}");
            assert_eq!(
                deployment.case(1).repair().expect("a repair").phase(),
                Phase::Rebooting,
                "{fate:?} at {operation}"
            );
        }
    }
}

#[test]
fn a_run_that_fails_at_any_step_keeps_the_limit_of_repairs() {
    for fate in Fate::BAD {
        for operation in (1..).step_by(3) {
            let deployment = Deployment::with_problem(4, INTERFACE_DOWN, policy_with_limit(2));
            deployment.clock.advance_to(minutes(30));
            if !run_with_fault(&deployment, operation, fate) {
                break;
            }
            recover(&deployment);
            let mut calls = deployment.cloud.calls();
            calls.dedup();
            assert_eq!(calls.len(), 2, "{fate:?} at {operation}: {calls:?}");
            assert_eq!(deployment.cloud.calls().len(), 2, "{fate:?} at {operation}");
        }
    }
}

#[test]
fn a_run_that_fails_at_any_step_gives_up_no_repair_whose_replacement_is_ready() {
    for fate in Fate::BAD {
        for operation in 1.. {
            let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
            // The call, and that CloudTrail has no event of it.
            deployment.run_until(minutes(61));
            deployment.launch(9);
            deployment.join(9, minutes(62), minutes(63));
            // No run came until the time for a replacement was up, and the replacement is due after that.
            deployment.clock.advance_to(minutes(92));
            deployment.report(cleared(9, INTERFACE_DOWN, minutes(92)));
            if !run_with_fault(&deployment, operation, fate) {
                assert!(operation > 10, "a run has at least that many steps");
                break;
            }
            recover(&deployment);
            let case = deployment.case(1);
            let outcome = case.closed().map(|closed| closed.outcome.as_str()).unwrap_or_default();
            assert!(outcome.starts_with("replaced by"), "{fate:?} at {operation}: {outcome}");
        }
    }
}

#[test]
fn two_failed_runs_in_a_row_lead_to_one_call() {
    for first in 8..20 {
        for second in 1..20 {
            for (one, other) in [
                (Fate::DieBefore, Fate::DieAfter),
                (Fate::DieAfter, Fate::DieAfter),
                (Fate::DieAfter, Fate::FailAfter),
                (Fate::FailAfter, Fate::FailBefore),
            ] {
                let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
                deployment.clock.advance_to(minutes(30));
                run_with_fault(&deployment, first, one);
                deployment.wait(LEASE);
                run_with_fault(&deployment, second, other);
                recover(&deployment);
                assert_eq!(
                    deployment.cloud.calls(),
                    [terminate(1)],
                    "{one:?} at {first}, {other:?} at {second}"
                );
            }
        }
    }
}

#[test]
fn a_claim_is_taken_over_only_after_its_lease() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.clock.advance_to(minutes(30));
    // The process dies right after it has written the claim.
    let claimed = (1..).find(|operation| {
        let other = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        other.clock.advance_to(minutes(30));
        run_with_fault(&other, *operation, Fate::DieAfter);
        other.case(1).repair().is_some()
    });
    run_with_fault(&deployment, claimed.expect("a claim"), Fate::DieAfter);
    deployment.run_at(minutes(30) + LEASE - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_at(minutes(30) + LEASE);
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn an_unsent_call_of_a_held_node_takes_no_replacement_from_another_node() {
    let dies_at = |operation| {
        let deployment = Deployment::new(2, policy_with_limit(2));
        deployment.report(raised(1, INTERFACE_DOWN, at(0)));
        deployment.clock.advance_to(minutes(1));
        deployment.report(raised(2, INTERFACE_DOWN, minutes(1)));
        deployment.clock.advance_to(minutes(30));
        assert!(
            run_with_fault(&deployment, operation, Fate::DieBefore),
            "a call is recorded before it is sent"
        );
        deployment
    };
    let deployment =
        (1..).map(dies_at).find(|deployment| deployment.case(1).pending_call().is_some()).expect("a call");
    deployment
        .store
        .hold(&cluster(), Hold { node: deployment.case(1).node().cloned(), ..hold_until(minutes(90)) });
    deployment.run_at(minutes(31));
    assert_eq!(deployment.cloud.calls(), [terminate(2)]);
    deployment.launch(9);
    deployment.clock.advance_to(minutes(33));
    deployment.join(9, minutes(32), minutes(33));
    deployment.run_until(minutes(40));
    let replaced = deployment.case(2).repair().cloned().and_then(|repair| repair.replacement().cloned());
    assert_eq!(replaced.map(|replacement| replacement.instance_id), Some(instance(9)));
    assert_eq!(deployment.cloud.calls(), [terminate(2)]);
    // The audit log has the unsent call as unanswered, once.
    assert_eq!(deployment.record_names(1).iter().filter(|name| name.starts_with("Terminate")).count(), 1);
}

#[test]
fn an_instance_terminated_by_an_unanswered_call_waits_for_its_replacement() {
    // EC2 reports that it is shutting down before the lease of the unanswered call has ended.
    let unanswered = |operation| {
        let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
        deployment.clock.advance_to(minutes(30));
        run_with_fault(&deployment, operation, Fate::DieAfter);
        deployment
    };
    let operation = (1..).find(|operation| !unanswered(*operation).cloud.calls().is_empty()).expect("a call");
    let deployment = unanswered(operation);
    let now = deployment.clock.now();
    deployment.change(1, |case| {
        edit(
            case,
            json!({ "departure": { "at": now, "how": "EC2 reports that its instance is shutting-down" } }),
        );
    });
    recover(&deployment);
    let case = deployment.case(1);
    assert_eq!(case.closed(), None, "its replacement is still awaited");
    assert_eq!(case.repair().expect("a repair").phase(), Phase::Confirming);
    assert_eq!(deployment.group().slots().len(), 1, "and its slot is kept");
    assert!(
        deployment.record_names(1).contains(&"TerminateInstanceInAutoScalingGroup".to_owned()),
        "{:?}",
        deployment.record_names(1)
    );
}
