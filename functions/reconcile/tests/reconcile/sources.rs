//! How new the newest line of each source is, and what a source that is behind does to a repair.

use nodemend_domain::sources::{ClusterSources, Freshness};
use nodemend_testkit::fixture::{AGENT_LOGS, INTERFACE_DOWN, raised, terminate};

use super::*;

/// What is known of the cluster's sources.
pub(crate) fn of(deployment: &Deployment) -> ClusterSources {
    pollster::block_on(deployment.store.sources(&cluster())).expect("a read").unwrap_or_default()
}

/// Any request: it concerns no node.
pub(crate) fn write_any(deployment: &Deployment, written: Timestamp) {
    deployment.lose_line(r#"{"kind":"Event","stage":"ResponseComplete","verb":"list"}"#, written);
}

#[test]
fn the_age_of_the_newest_line_of_each_source_is_known() {
    let deployment = deployment();
    write_any(&deployment, minutes(19));
    deployment.write_line(AGENT_LOGS, instance(2).as_str(), minutes(15), "{}");
    let report = reconcile(&deployment, minutes(20));
    let checked = |newest| Some(Freshness { newest: Some(newest), checked_at: minutes(20) });
    assert_eq!(report.sources.audit_log, checked(minutes(19)));
    assert_eq!(report.sources.agents, checked(minutes(15)));
    assert_eq!(report.audit_log_age, Some(SignedDuration::from_mins(1)));
    assert_eq!(of(&deployment), report.sources);
    // Nothing is written any more.
    let report = reconcile(&deployment, minutes(200));
    assert_eq!(report.audit_log_age, Some(SignedDuration::from_mins(181)));
    assert_eq!(report.agent_log_age, Some(SignedDuration::from_mins(185)));
}

#[test]
fn a_cluster_without_agents_has_no_age_of_their_log() {
    let report = reconcile(&deployment(), minutes(20));
    assert_eq!(report.agent_log_age, None);
}

#[test]
fn an_audit_log_that_was_never_written_is_as_old_as_what_was_looked_through() {
    let deployment = Deployment::new(1, policy_with_limit(1));
    let report = reconcile(&deployment, minutes(600));
    assert_eq!(report.audit_log_age, Some(SignedDuration::from_mins(80)));
}

/// The guards that block node 1's repair at its deadline.
fn guards(deployment: &Deployment, reconciled: Timestamp, deadline: Timestamp) -> Vec<String> {
    deployment.run_until(reconciled);
    reconcile(deployment, reconciled);
    deployment.run_until(deadline);
    deployment.case(1).blocked().map(|blocked| blocked.guards.clone()).unwrap_or_default()
}

#[test]
fn a_repair_that_rests_on_a_silent_audit_log_is_blocked_by_name_until_it_is_written_again() {
    let deployment = unreachable();
    assert_eq!(guards(&deployment, minutes(34), minutes(35)), ["SourceBehind"]);
    assert_eq!(deployment.cloud.calls(), []);
    write_any(&deployment, minutes(38));
    reconcile(&deployment, minutes(39));
    deployment.run_until(minutes(41));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_repair_that_rests_on_a_current_audit_log_is_made() {
    let deployment = unreachable();
    write_any(&deployment, minutes(33));
    guards(&deployment, minutes(34), minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_list_of_nodes_stands_in_for_a_silent_audit_log() {
    let deployment = unreachable();
    set_node(&deployment, at(0), snapshot(1, Health::Unknown, minutes(5), at(-86_400)));
    guards(&deployment, minutes(34), minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_check_that_is_old_blocks_nothing_because_verification_reads_the_source() {
    let deployment = unreachable();
    deployment.run_until(minutes(19));
    reconcile(&deployment, minutes(19));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_repair_that_rests_on_silent_agents_is_blocked_by_name() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.report(raised(1, INTERFACE_DOWN, at(0)));
    assert_eq!(guards(&deployment, minutes(29), minutes(30)), ["SourceBehind"]);
    // Another agent reports: the log is not behind.
    deployment.write_line(AGENT_LOGS, instance(2).as_str(), minutes(33), "{}");
    reconcile(&deployment, minutes(34));
    deployment.run_until(minutes(36));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}
