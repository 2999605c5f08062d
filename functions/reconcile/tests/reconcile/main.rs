//! A case that missed a line is healed from the Kubernetes API or from the log group, and nothing else changes.

mod applied_log;
mod cloud;
mod sources;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{CaseState, Launch},
    condition::{ConditionType, Health},
    ident::{AccountId, NodeUid},
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::ObservedCondition,
    policy::Policy,
    repair_event::Step,
    status_check::{FailedStatusCheck, StatusCheck},
};
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    cluster_reader::ReadError,
    store::{CaseKey, MemoryStore, Store},
};
use nodemend_reconcile::{ControlPlaneLogs, ReconcileError, ReconcileReport, ReconcileTarget, Reconciler};
use nodemend_testkit::{
    Deployment, OverriddenCloud,
    fixture::{
        AUDIT_STREAM, CONTROL_PLANE_LOGS, at, cluster, cluster_named, group, instance, kubelet_ready,
        minutes, node, node_controller_unknown, node_deleted, policy_with_limit, zone,
    },
};

use self::cloud::{Overrides, member};

fn target(control_plane_logs: ControlPlaneLogs) -> ReconcileTarget {
    ReconcileTarget { cluster: cluster(), control_plane_logs }
}

/// Three nodes, of which node 1 was ready at the start.
fn deployment() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment
}

/// The same, and the node controller reports node 1 unreachable after five minutes.
fn unreachable() -> Deployment {
    let deployment = deployment();
    deployment.deliver_line(node_controller_unknown(1, minutes(5)), minutes(5));
    deployment
}

fn reconcile_with(
    deployment: &Deployment,
    overrides: Overrides,
    logs: ControlPlaneLogs,
) -> Result<ReconcileReport, ReconcileError> {
    let calls = deployment.cloud.calls();
    let cloud = OverriddenCloud { cloud: deployment.cloud.clone(), overrides };
    let reconciler = Reconciler::new(deployment.store.clone(), cloud, deployment.clock.clone());
    let result = pollster::block_on(reconciler.run(&target(logs)));
    assert_eq!(deployment.cloud.calls(), calls, "reconciling makes no call");
    result
}

/// One run at that time, which succeeds.
fn reconcile(deployment: &Deployment, now: Timestamp) -> ReconcileReport {
    deployment.clock.advance_to(now);
    let report = reconcile_with(deployment, Overrides::default(), ControlPlaneLogs::Enabled).expect("a run");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

/// A Node as the Kubernetes API returns it.
fn snapshot(number: u64, health: Health, since: Timestamp, created: Timestamp) -> NodeSnapshot {
    let reason = if health == Health::Healthy { "KubeletReady" } else { "NodeStatusUnknown" };
    let (condition, reason) = (ConditionType::Ready, reason.to_owned());
    let observed = ObservedCondition { condition, health, reason, message: String::new() };
    NodeSnapshot {
        name: node(number),
        uid: NodeUid::new(format!("00000000-0000-4000-8000-{number:012}")).ok(),
        instance_id: Some(instance(number)),
        boot_id: None,
        created: Some(created),
        conditions: vec![SnapshotCondition { observed, since: Some(since) }],
        hold: None,
        cordoned: false,
    }
}

fn set_node(deployment: &Deployment, from: Timestamp, node: NodeSnapshot) {
    deployment.cloud.cluster_state().set_node(from, node);
}

/// The reason of node 1's fault, if it has one.
fn fault(deployment: &Deployment) -> Option<(String, Timestamp)> {
    let faults = deployment.faults(1, deployment.clock.now());
    faults.first().filter(|fault| fault.is_bad()).map(|fault| (fault.reason.clone(), fault.since))
}

fn published(report: &ReconcileReport) -> Vec<Step> {
    report.repair_events.iter().map(|event| event.step).collect()
}

#[test]
fn a_lost_ready_is_healed_from_the_api() {
    let deployment = unreachable();
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, minutes(6), at(-86_400)));
    let report = reconcile(&deployment, minutes(10));
    assert_eq!((report.listed, report.healed), (Some(1), 1));
    assert_eq!(published(&report), [Step::Recovered]);
    deployment.run_until(minutes(60));
    assert_eq!((deployment.state(1), deployment.cloud.calls()), (CaseState::Healthy, Vec::new()));
}

#[test]
fn a_lost_ready_is_healed_from_the_log_group() {
    let deployment = unreachable();
    deployment.lose_line(&kubelet_ready(1, minutes(6), "True"), minutes(6));
    let report = reconcile(&deployment, minutes(10));
    assert_eq!((report.listed, report.healed), (None, 1));
    deployment.run_until(minutes(60));
    assert_eq!((deployment.state(1), deployment.cloud.calls()), (CaseState::Healthy, Vec::new()));
}

#[test]
fn a_lost_not_ready_opens_a_fault_that_counts_from_when_it_was_found() {
    let by_api = deployment();
    set_node(&by_api, at(0), snapshot(1, Health::Unknown, minutes(5), at(-86_400)));
    let by_log = deployment();
    by_log.lose_line(&node_controller_unknown(1, minutes(5)), minutes(5));
    for deployment in [by_api, by_log] {
        let report = reconcile(&deployment, minutes(15));
        assert_eq!(published(&report), [Step::Suspect]);
        assert_eq!(fault(&deployment), Some(("NodeStatusUnknown".to_owned(), minutes(5))));
        // It was known to be healthy: the whole grace period of 30 minutes is left.
        let deadline = deployment.faults(1, minutes(15))[0].deadline;
        assert_eq!(deadline, Some(minutes(45)));
    }
}

#[test]
fn a_lost_deletion_is_found_by_comparing_two_lists() {
    let deployment = deployment();
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
    set_node(&deployment, at(0), snapshot(2, Health::Healthy, at(0), at(-86_400)));
    reconcile(&deployment, minutes(5));
    assert_eq!(fault(&deployment), None);
    deployment.cloud.cluster_state().delete_node(minutes(6), node(1));
    reconcile(&deployment, minutes(10));
    assert_eq!(fault(&deployment), Some(("NodeDeleted".to_owned(), minutes(10))));
    assert_eq!(deployment.faults(2, minutes(10)).len(), 0);
}

#[test]
fn a_lost_deletion_is_found_in_the_log_group() {
    let deployment = deployment();
    deployment.lose_line(&node_deleted(1, minutes(6)), minutes(6));
    reconcile(&deployment, minutes(10));
    assert_eq!(fault(&deployment), Some(("NodeDeleted".to_owned(), minutes(6))));
}

/// An instance is launched, and nothing else is delivered of it.
fn launched() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    let context = deployment.transition();
    deployment.change(4, |case| {
        let _ = case.record_launch(
            &Launch { group: &group(), zone: Some(&zone()), at: at(0), from_warm_pool: false },
            None,
            &context,
        );
    });
    deployment
}

#[test]
fn a_lost_registration_is_healed_and_the_node_counts_as_joined() {
    let deployment = launched();
    set_node(&deployment, minutes(2), snapshot(4, Health::Healthy, minutes(3), minutes(2)));
    reconcile(&deployment, minutes(5));
    let arrival = deployment.case(4).arrival().cloned().expect("an arrival");
    assert_eq!((arrival.registered, arrival.ready), (Some(minutes(2)), Some(minutes(3))));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.state(4), CaseState::Healthy);
    assert_eq!(deployment.group().failures(), 0);
}

#[test]
fn an_instance_without_a_node_is_not_healed() {
    let deployment = launched();
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
    reconcile(&deployment, minutes(20));
    let reasons: Vec<_> = deployment.faults(4, minutes(20)).into_iter().map(|fault| fault.reason).collect();
    assert_eq!(reasons, ["FailedToJoin"]);
}

#[test]
fn a_stale_list_never_undoes_a_later_line() {
    let deployment = unreachable();
    // The cache still has the node as it was before the line.
    let cached = vec![snapshot(1, Health::Healthy, at(0), at(-86_400))];
    let stale = Overrides { cached: Some(cached), ..Overrides::default() };
    deployment.clock.advance_to(minutes(6));
    let before = deployment.case(1);
    reconcile_with(&deployment, stale, ControlPlaneLogs::Enabled).expect("a run");
    assert_eq!(
        deployment.faults(1, minutes(6)),
        before.faults(&deployment.policy.default_rules(), &deployment.policy, minutes(6))
    );
    assert_eq!(fault(&deployment), Some(("NodeStatusUnknown".to_owned(), minutes(5))));
}

#[test]
fn a_stale_list_does_not_bring_a_deleted_node_back() {
    let deployment = deployment();
    let node_1 = snapshot(1, Health::Healthy, at(0), at(-86_400));
    set_node(&deployment, at(0), node_1.clone());
    reconcile(&deployment, minutes(5));
    deployment.cloud.cluster_state().delete_node(minutes(6), node(1));
    reconcile(&deployment, minutes(10));
    let stale = Overrides { cached: Some(vec![node_1]), ..Overrides::default() };
    deployment.clock.advance_to(minutes(15));
    reconcile_with(&deployment, stale, ControlPlaneLogs::Enabled).expect("a run");
    assert_eq!(fault(&deployment).expect("a fault").0, "NodeDeleted");
}

#[test]
fn a_node_that_only_the_cache_lacks_is_not_deleted() {
    let deployment = deployment();
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
    reconcile(&deployment, minutes(5));
    let stale = Overrides { cached: Some(Vec::new()), ..Overrides::default() };
    deployment.clock.advance_to(minutes(10));
    reconcile_with(&deployment, stale, ControlPlaneLogs::Enabled).expect("a run");
    assert_eq!(fault(&deployment), None);
}

#[test]
fn a_node_that_no_list_has_is_looked_for_until_it_can_be() {
    let deployment = deployment();
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
    reconcile(&deployment, minutes(5));
    // The cache answers, and the consistent list does not.
    let throttled = ReadError::Throttled { what: "the Kubernetes API".to_owned(), source: "429".into() };
    deployment.cloud.cluster_state().delete_node(minutes(6), node(1));
    deployment.cloud.cluster_state().fail(minutes(7), throttled);
    let overrides = Overrides { cached: Some(Vec::new()), ..Overrides::default() };
    deployment.clock.advance_to(minutes(10));
    let report = reconcile_with(&deployment, overrides.clone(), ControlPlaneLogs::Enabled).expect("a run");
    assert_eq!((report.failures.len(), fault(&deployment)), (1, None));
    deployment.cloud.cluster_state().delete_node(minutes(11), node(1));
    deployment.clock.advance_to(minutes(15));
    reconcile_with(&deployment, overrides, ControlPlaneLogs::Enabled).expect("a run");
    assert_eq!(fault(&deployment), Some(("NodeDeleted".to_owned(), minutes(15))));
}

#[test]
fn a_source_that_cannot_be_read_changes_nothing_and_keeps_its_mark() {
    let what = || "the Kubernetes API of prod".to_owned();
    let throttled = ReadError::Throttled { what: what(), source: "429 Too Many Requests".into() };
    let denied = ReadError::Denied { what: what(), source: "403 Forbidden".into() };
    for (api, logs) in [
        (Some(throttled), ControlPlaneLogs::Enabled),
        (Some(denied), ControlPlaneLogs::Disabled),
        (None, ControlPlaneLogs::Enabled),
    ] {
        let deployment = unreachable();
        reconcile(&deployment, minutes(10));
        deployment.lose_line(&kubelet_ready(1, minutes(12), "True"), minutes(12));
        let (case, mark) = (deployment.case(1), sources::of(&deployment).log_read_to);
        assert_eq!(mark, Some(minutes(10)));
        deployment.clock.advance_to(minutes(15));
        let mut overrides = Overrides::default();
        match api {
            Some(error) => deployment.cloud.cluster_state().fail(at(0), error),
            None => overrides.fails_at = 0,
        }
        let report = reconcile_with(&deployment, overrides, logs).expect("a run");
        assert_eq!((report.failures.len(), report.healed), (1, 0), "{:?}", report.failures);
        assert_eq!((deployment.case(1), sources::of(&deployment).log_read_to), (case, mark));
    }
}

#[test]
fn where_the_api_denies_access_or_cannot_be_reached_the_log_group_is_read() {
    let what = || "the Kubernetes API of prod".to_owned();
    for error in [
        ReadError::Denied { what: what(), source: "403 Forbidden".into() },
        ReadError::Unavailable { what: what(), source: "tcp connect error".into() },
    ] {
        let deployment = unreachable();
        deployment.cloud.cluster_state().fail(at(0), error.clone());
        deployment.lose_line(&kubelet_ready(1, minutes(6), "True"), minutes(6));
        let report = reconcile(&deployment, minutes(10));
        assert_eq!((report.listed, report.healed, report.not_listed), (None, 1, Some(error)));
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    }
}

#[test]
fn where_the_api_is_away_for_a_while_the_log_group_is_read_from_the_last_list_on() {
    let deployment = unreachable();
    let read = |from: Timestamp, error: Option<ReadError>, now: Timestamp| {
        match error {
            Some(error) => deployment.cloud.cluster_state().fail(from, error),
            None => set_node(&deployment, from, snapshot(1, Health::Unknown, minutes(5), at(0))),
        }
        reconcile(&deployment, now).lines
    };
    let away = || {
        let (what, source) = ("the Kubernetes API of prod".to_owned(), "tcp connect error".into());
        Some(ReadError::Unavailable { what, source })
    };
    assert!(read(at(0), away(), minutes(10)) > 0);
    deployment.lose_line(&kubelet_ready(2, minutes(60), "True"), minutes(60));
    assert_eq!(read(minutes(11), None, minutes(90)), 0, "the Nodes are listed");
    deployment.lose_line(&kubelet_ready(3, minutes(93), "True"), minutes(93));
    assert_eq!(read(minutes(92), away(), minutes(95)), 1, "not from the mark of minute 10");
}

#[test]
fn a_status_check_that_fails_is_one_event_of_its_node_and_no_fault() {
    let deployment = deployment();
    let fails_since = |since| {
        let failed = |number| FailedStatusCheck {
            instance_id: instance(number),
            check: StatusCheck::System,
            since: Some(since),
        };
        // The others are of instances of other clusters.
        let failed = (77..400).chain([1]).map(failed).collect();
        deployment.cloud.change(|fleet| fleet.set_failed_checks(failed));
    };
    let reasons = |now| -> Vec<Option<String>> {
        reconcile(&deployment, now).repair_events.into_iter().map(|event| event.reason).collect()
    };
    let impaired = || [Some("SystemStatusImpaired".to_owned())];
    fails_since(minutes(3));
    assert_eq!(reasons(minutes(5)), impaired());
    assert_eq!(reasons(minutes(10)), [], "it still fails");
    fails_since(minutes(20));
    assert_eq!(reasons(minutes(25)), impaired(), "it fails again");
    assert_eq!(deployment.find(77), None, "an instance that is no node");
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn what_is_read_twice_changes_nothing() {
    let deployment = unreachable();
    deployment.lose_line(&kubelet_ready(1, minutes(6), "True"), minutes(6));
    let first = reconcile(&deployment, minutes(10));
    let case = deployment.case(1);
    let second = reconcile(&deployment, minutes(11));
    // Lines before the mark are read again, because others may have arrived since.
    assert!(first.lines > 0 && second.lines > 0, "{} {}", first.lines, second.lines);
    assert_eq!((second.healed, published(&second)), (0, Vec::new()));
    assert_eq!(deployment.case(1), case);

    set_node(&deployment, at(0), snapshot(1, Health::Healthy, minutes(6), at(-86_400)));
    reconcile(&deployment, minutes(12));
    let case = deployment.case(1);
    assert_eq!(reconcile(&deployment, minutes(13)).healed, 0);
    assert_eq!(deployment.case(1), case);
}

#[test]
fn a_line_that_arrived_late_is_before_the_mark_and_heals_all_the_same() {
    let deployment = unreachable();
    reconcile(&deployment, minutes(10));
    deployment.lose_line(&kubelet_ready(1, minutes(6), "True"), minutes(6));
    assert_eq!(reconcile(&deployment, minutes(15)).healed, 1);
}

#[test]
fn a_reading_that_fails_half_way_is_repeated_from_its_mark() {
    let deployment = unreachable();
    for minute in 6..9 {
        deployment.lose_line(&kubelet_ready(1, minutes(minute), "True"), minutes(minute));
    }
    deployment.clock.advance_to(minutes(10));
    let overrides = Overrides { page: 2, fails_at: 4, ..Overrides::default() };
    let report = reconcile_with(&deployment, overrides, ControlPlaneLogs::Enabled).expect("a run");
    assert!(matches!(report.failures[..], [ReconcileError::Read(_)]), "{:?}", report.failures);
    assert_eq!(sources::of(&deployment).log_read_to, None);
    let overrides = Overrides { page: 2, ..Overrides::default() };
    let report = reconcile_with(&deployment, overrides, ControlPlaneLogs::Enabled).expect("a run");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(sources::of(&deployment).log_read_to, Some(minutes(10)));
}

#[test]
fn a_reading_that_takes_several_runs_goes_on_where_it_ended() {
    let deployment = deployment();
    for second in 0..400 {
        deployment.lose_line(&kubelet_ready(2, at(second), "True"), at(second));
    }
    deployment.lose_line(&node_controller_unknown(1, at(400)), at(400));
    deployment.clock.advance_to(minutes(10));
    let overrides = Overrides { page: 1, ..Overrides::default() };
    let mut runs = 0;
    while sources::of(&deployment).log_read_to.is_none() {
        let before = sources::of(&deployment).log_continues_at;
        let report =
            reconcile_with(&deployment, overrides.clone(), ControlPlaneLogs::Enabled).expect("a run");
        let known = sources::of(&deployment);
        let makes_progress = known.log_continues_at > before || known.log_read_to.is_some();
        assert!(makes_progress, "{:?}", report.failures);
        deployment.wait(SignedDuration::from_mins(5));
        runs += 1;
    }
    assert!(runs > 1);
    assert_eq!(fault(&deployment).expect("a fault").1, at(400));
}

#[test]
fn without_an_audit_log_cases_open_and_heal_from_the_api() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    let run = |minute| {
        deployment.clock.advance_to(minutes(minute));
        let report =
            reconcile_with(&deployment, Overrides::default(), ControlPlaneLogs::Disabled).expect("a run");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_eq!((report.lines, report.audit_log_age), (0, None));
        published(&report)
    };
    set_node(&deployment, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
    run(5);
    assert_eq!(deployment.state(1), CaseState::Healthy);
    set_node(&deployment, minutes(7), snapshot(1, Health::Unknown, minutes(7), at(-86_400)));
    assert_eq!(run(10), [Step::Suspect]);
    set_node(&deployment, minutes(12), snapshot(1, Health::Healthy, minutes(12), at(-86_400)));
    assert_eq!(run(15), [Step::Recovered]);
    deployment.cloud.cluster_state().delete_node(minutes(17), node(1));
    run(20);
    assert_eq!(fault(&deployment).expect("a fault").0, "NodeDeleted");
}

#[test]
fn a_cluster_without_a_policy_is_not_read() {
    let deployment = deployment();
    let other =
        ReconcileTarget { cluster: cluster_named("other"), control_plane_logs: ControlPlaneLogs::Enabled };
    set_node(&deployment, at(0), snapshot(1, Health::Unknown, at(0), at(-86_400)));
    let (store, cloud) = (deployment.store.clone(), deployment.cloud.clone());
    let reconciler = Reconciler::new(store, cloud, deployment.clock.clone());
    let report = pollster::block_on(reconciler.run(&other)).expect("a run");
    assert_eq!((report.listed, report.lines), (None, 0));
    assert_eq!(pollster::block_on(deployment.store.sources(&other.cluster)), Ok(None));
}

/// Two clusters of two accounts, each with a node of the same name and its own instance.
struct TwoAccounts {
    store: MemoryStore,
    clock: VirtualClock,
    cloud: OverriddenCloud<MemoryCloud, Overrides>,
}

impl TwoAccounts {
    fn new() -> Self {
        let own = deployment();
        let other = Deployment::new(3, policy_with_limit(1));
        own.store.set_policy(&cluster_named("other"), of_account(member()));
        set_node(&own, at(0), snapshot(1, Health::Healthy, at(0), at(-86_400)));
        let same_name =
            NodeSnapshot { name: node(1), ..snapshot(2, Health::Unknown, minutes(1), at(-86_400)) };
        set_node(&other, at(0), same_name);
        // Both accounts share the time of the run.
        other.clock.advance_to(minutes(5));
        own.clock.advance_to(minutes(5));
        let overrides = Overrides { member: Some(other.cloud), ..Overrides::default() };
        let cloud = OverriddenCloud { cloud: own.cloud, overrides };
        Self { store: own.store, clock: own.clock, cloud }
    }

    fn run(&self, name: &str) -> Result<ReconcileReport, ReconcileError> {
        let target =
            ReconcileTarget { cluster: cluster_named(name), control_plane_logs: ControlPlaneLogs::Disabled };
        let reconciler = Reconciler::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
        pollster::block_on(reconciler.run(&target))
    }
}

fn of_account(account: AccountId) -> Policy {
    Policy { account: Some(account), ..policy_with_limit(1) }
}

#[test]
fn two_clusters_and_accounts_with_equal_node_names_stay_separate() {
    let accounts = TwoAccounts::new();
    for name in ["prod", "other"] {
        accounts.run(name).expect("a run");
    }
    let unhealthy = |name: &str, number| {
        let key = CaseKey { cluster: cluster_named(name), instance_id: instance(number) };
        let case = pollster::block_on(accounts.store.case(&key)).expect("a read");
        case.map(|case| case.unhealthy_reason().is_some())
    };
    assert_eq!((unhealthy("prod", 1), unhealthy("prod", 2)), (Some(false), None));
    assert_eq!((unhealthy("other", 1), unhealthy("other", 2)), (None, Some(true)));
}

#[test]
fn an_account_that_cannot_be_entered_fails_its_own_cluster_alone() {
    let mut accounts = TwoAccounts::new();
    accounts.cloud.overrides.member = None;
    assert!(matches!(accounts.run("other"), Err(ReconcileError::Account(_))));
    accounts.run("prod").expect("a run");
}
