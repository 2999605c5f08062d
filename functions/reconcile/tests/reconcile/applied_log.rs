//! Verification need not read again what reconciling has applied, and misses nothing by that.

use nodemend_testkit::{
    edit,
    fixture::{AuditUser, node_status, terminate},
};
use serde_json::json;

use super::*;

/// An API server that is new, or was not written to for hours.
const OTHER_STREAM: &str = "kube-apiserver-audit-1";

/// What verification states about its reading if it began where reconciling had ended.
const LEFT_OUT: &str = "reconciling had applied those before";

/// Runs the reconcile function at these minutes, while the API server writes.
fn reconcile_at(deployment: &Deployment, runs: &[i64], behind: bool) -> usize {
    let mut healed = 0;
    for minute in runs {
        deployment.clock.advance_to(minutes(*minute));
        sources::write_any(deployment, at(minute * 60 - 1));
        let overrides = Overrides { behind, ..Overrides::default() };
        let report = reconcile_with(deployment, overrides, ControlPlaneLogs::Enabled).expect("a run");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        healed += report.healed;
    }
    healed
}

/// Repairs node 1, and returns what verification had read.
fn repaired(deployment: &Deployment, deadline: i64) -> String {
    deployment.run_until(minutes(deadline));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let record = deployment.last_record(1, "TerminateInstanceInAutoScalingGroup");
    record["nodemend"]["evidence"]["verification"]["read"].as_str().expect("text").to_owned()
}

fn assert_healed(deployment: &Deployment) {
    deployment.run_until(minutes(60));
    assert_eq!((deployment.state(1), deployment.cloud.calls()), (CaseState::Healthy, Vec::new()));
}

/// The stream has a line that reports node 1 ready, and no subscription delivers it.
fn lose_ready(deployment: &Deployment, stream: &str, written: i64) {
    let line = kubelet_ready(1, minutes(written), "True");
    deployment.write_line(CONTROL_PLANE_LOGS, stream, minutes(written), &line);
}

#[test]
fn at_the_deadline_only_the_last_minutes_are_read() {
    let deployment = unreachable();
    reconcile_at(&deployment, &[10, 15, 20, 25, 30], false);
    let read = repaired(&deployment, 35);
    // The settling time before the last run.
    assert!(read.contains(&format!("since {:.0}", minutes(20))), "{read}");
    assert!(read.ends_with(LEFT_OUT), "{read}");
}

#[test]
fn where_reconciling_has_stopped_everything_is_read() {
    let deployment = unreachable();
    reconcile_at(&deployment, &[10, 15], false);
    let read = repaired(&deployment, 35);
    assert!(read.contains(&format!("since {:.0}", minutes(5))) && !read.contains(LEFT_OUT), "{read}");
}

#[test]
fn a_line_that_arrives_within_the_settling_time_is_not_missed() {
    let deployment = unreachable();
    reconcile_at(&deployment, &[10, 15, 20, 25, 30], false);
    lose_ready(&deployment, AUDIT_STREAM, 21);
    assert_healed(&deployment);
}

#[test]
fn what_a_stream_lacked_while_it_was_behind_is_not_missed() {
    let deployment = unreachable();
    reconcile_at(&deployment, &[10, 15, 20], false);
    reconcile_at(&deployment, &[25, 30], true);
    // It catches up after the last run, which could not read this line.
    lose_ready(&deployment, AUDIT_STREAM, 12);
    assert_healed(&deployment);

    // Reconciling finds it, too, as soon as the stream is written to again.
    let deployment = unreachable();
    reconcile_at(&deployment, &[10, 15, 20], false);
    reconcile_at(&deployment, &[25, 30], true);
    lose_ready(&deployment, AUDIT_STREAM, 12);
    assert_eq!(reconcile_at(&deployment, &[34], false), 1);
    assert_healed(&deployment);
}

#[test]
fn what_an_unknown_stream_had_before_is_not_missed() {
    // Reconciling does not know the stream yet, or knows it since its last run.
    for runs in [&[][..], &[33]] {
        let deployment = unreachable();
        reconcile_at(&deployment, &[10, 15, 20, 25, 30], false);
        lose_ready(&deployment, OTHER_STREAM, 7);
        reconcile_at(&deployment, runs, false);
        assert_healed(&deployment);
    }
}

#[test]
fn lines_of_a_stream_that_is_not_known_to_be_alive_extend_nothing() {
    for (known_stream, is_extended) in [(None, true), (Some(AUDIT_STREAM), false)] {
        let deployment = unreachable();
        lose_ready(&deployment, OTHER_STREAM, 7);
        deployment.clock.advance_to(minutes(10));
        let overrides = Overrides { known_stream, ..Overrides::default() };
        reconcile_with(&deployment, overrides, ControlPlaneLogs::Enabled).expect("a run");
        assert_eq!(sources::of(&deployment).log_applied.is_some(), is_extended);
        assert_eq!(sources::of(&deployment).log_read_to, Some(minutes(10)));
    }
}

#[test]
fn a_deletion_is_verified_from_its_start() {
    let deployment = deployment();
    deployment.deliver_line(node_deleted(1, minutes(5)), minutes(5));
    reconcile_at(&deployment, &[10, 15, 20, 25, 30], false);
    let read = repaired(&deployment, 35);
    assert!(!read.contains(LEFT_OUT), "{read}");
}

#[test]
fn a_node_that_shares_its_name_is_read_from_the_start_of_its_fault() {
    let deployment = deployment();
    let networking = |minute, status, reason| {
        let agent = AuditUser::EksNodeMonitoringAgent;
        node_status(1, agent, minutes(minute), "NetworkingReady", status, reason)
    };
    deployment.deliver_line(networking(5, "False", "InterfaceNotUp"), minutes(5));
    // The agent of another instance claims the name.
    deployment.change(9, |case| edit(case, json!({ "node": node(1) })));
    // Only the name shows whose line it is: reconciling applies it to the case that has the name last.
    let line = networking(12, "True", "InterfaceIsUp");
    deployment.lose_line(&line, minutes(12));
    reconcile_at(&deployment, &[10, 15, 20, 25, 30], false);
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_fault_that_was_reported_late_is_read_from_its_start() {
    for (arrived, is_late) in [(14, false), (16, true)] {
        let deployment = deployment();
        deployment.deliver_line(node_controller_unknown(1, minutes(5)), minutes(arrived));
        reconcile_at(&deployment, &[20, 25, 30, 35, 40, 42], false);
        let read = repaired(&deployment, arrived + 30);
        assert_eq!(!read.contains(LEFT_OUT), is_late, "{read}");
    }
}

#[test]
fn a_case_that_could_not_be_written_extends_nothing() {
    use nodemend_testkit::faults::{Fate, Faults, Faulty};
    let deployment = unreachable();
    reconcile_at(&deployment, &[10], false);
    let before = sources::of(&deployment).log_applied;
    lose_ready(&deployment, AUDIT_STREAM, 12);
    deployment.clock.advance_to(minutes(15));
    // Every write fails but that of the sources, which is the last operation.
    for operation in 1.. {
        let faults = Faults::at(operation, Fate::FailBefore);
        let store = Faulty::new(deployment.store.clone(), faults.clone());
        let cloud = OverriddenCloud { cloud: deployment.cloud.clone(), overrides: Overrides::default() };
        let reconciler = Reconciler::new(store, cloud, deployment.clock.clone());
        let run = pollster::block_on(reconciler.run(&target(ControlPlaneLogs::Enabled)));
        if faults.operations() < operation {
            break;
        }
        let is_healed = fault(&deployment).is_none();
        let is_extended = sources::of(&deployment).log_applied != before;
        assert!(is_healed || !is_extended, "{operation}: {run:?}");
        if is_extended {
            break;
        }
    }
    assert_eq!(fault(&deployment), None);
}
