//! A repair is verified right before its claim: what deliveries lost is found where it is kept.

mod broken_logs;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{CaseState, Fault},
    condition::{ConditionType, Health},
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::ObservedCondition,
    policy::{Mode, Policy, VerificationPolicy},
    repair::Phase,
    repair_event::Step,
    sources::{AppliedLog, ClusterSources},
    verification::VALID_FOR,
};
use nodemend_intake::Intake;
use nodemend_ports::{clock::Clock, cluster_reader::ReadError, store::Store, subscription::Decoder};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    Deployment, OverriddenCloud, edit,
    faults::{Fate, Faults},
    fixture::{
        AGENT_LOGS, AUDIT_STREAM, CONTROL_PLANE_LOGS, INTERFACE_DOWN, at, cleared, cluster,
        control_plane_payload, group, instance, kubelet_ready, minutes, node, node_controller_unknown,
        node_deleted, policy_with_limit, terminate,
    },
};
use serde_json::{Value, json};

use self::broken_logs::Defect;

/// The end of the grace period of node 1 in these tests: 30 minutes after the report of its fault.
const DEADLINE: i64 = 35;
/// The kubelet of node 1 was ready at the start, and the node controller reports it unreachable after five minutes.
fn unreachable(policy: Policy) -> Deployment {
    let deployment = Deployment::new(3, policy);
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(node_controller_unknown(1, minutes(5)), minutes(5));
    deployment
}

/// Alice deletes the Node object of node 1 after five minutes.
fn deleted() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(node_deleted(1, minutes(5)), minutes(5));
    deployment
}

/// Runs the repair function until its deadline, and there with log groups that have this defect. Returns the message of
/// the guards that block it then.
fn run_with(deployment: &Deployment, defect: Defect) -> String {
    deployment.run_until(minutes(DEADLINE) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), [], "before the deadline");
    deployment.clock.advance_to(minutes(DEADLINE));
    let cloud = OverriddenCloud { cloud: deployment.cloud.clone(), overrides: defect };
    let repairer = Repairer::new(deployment.store.clone(), cloud, deployment.clock.clone());
    let run = pollster::block_on(repairer.run_once()).expect("a run");
    assert!(run.failures.is_empty(), "{:?}", run.failures);
    let blocked = run.repair_events.into_iter().find(|event| event.step == Step::Blocked);
    blocked.map(|event| event.detail).unwrap_or_default()
}

/// Node 1 as the Kubernetes API returns it.
fn snapshot(health: Health, since: Timestamp, created: Timestamp) -> NodeSnapshot {
    let reason = if health == Health::Healthy { "KubeletReady" } else { "NodeStatusUnknown" };
    let (condition, reason) = (ConditionType::Ready, reason.to_owned());
    let observed = ObservedCondition { condition, health, reason, message: String::new() };
    NodeSnapshot {
        name: node(1),
        uid: None,
        instance_id: Some(instance(1)),
        boot_id: None,
        created: Some(created),
        conditions: vec![SnapshotCondition { observed, since: Some(since) }],
        hold: None,
        cordoned: false,
    }
}

/// The node is healthy, and there was no repair.
fn assert_healed(deployment: &Deployment) {
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.state(1), CaseState::Healthy);
    assert_eq!(deployment.group().slots(), []);
    assert!(deployment.records(1).is_empty(), "{:?}", deployment.record_names(1));
}

/// The repair is blocked as unverified, and no call was made.
fn assert_unverified(deployment: &Deployment) {
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["Unverified"]);
    assert_eq!(deployment.group().slots(), [], "it holds no slot");
    assert!(deployment.next_due().is_some_and(|due| due <= minutes(DEADLINE + 1)), "it is tried again");
}

/// The verification in the record of the call.
fn verification(deployment: &Deployment) -> Value {
    let call = deployment.last_record(1, "TerminateInstanceInAutoScalingGroup");
    call["nodemend"]["evidence"]["verification"].clone()
}

#[test]
fn a_fault_that_is_still_there_is_repaired_and_the_record_has_what_was_read() {
    let deployment = unreachable(policy_with_limit(1));
    deployment.run_until(minutes(DEADLINE) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(DEADLINE));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let verification = verification(&deployment);
    assert_eq!(verification["by"], "ControlPlaneLog");
    assert!(verification["read"].as_str().expect("text").contains(CONTROL_PLANE_LOGS), "{verification}");
    assert_eq!(verification["result"], "FaultPresent");
    assert_eq!(verification["instance"]["state"], "running");
}

#[test]
fn a_lost_ready_ends_the_repair() {
    let deployment = unreachable(policy_with_limit(1));
    deployment.lose_line(&kubelet_ready(1, minutes(20), "True"), minutes(20));
    deployment.run_until(minutes(60));
    assert_healed(&deployment);
}

#[test]
fn what_was_read_is_not_lost_where_another_process_writes_the_case_first() {
    // The node was ready for a while, and was then deleted. The first line reaches intake when the run has read both.
    let was_ready = kubelet_ready(1, minutes(20), "True");
    let mut lost_races = 0;
    for operation in 1.. {
        let deployment = unreachable(policy_with_limit(1));
        deployment.lose_line(&was_ready, minutes(20));
        deployment.lose_line(&node_deleted(1, minutes(25)), minutes(25));
        deployment.run_until(minutes(DEADLINE) - SignedDuration::from_secs(1));
        deployment.clock.advance_to(minutes(DEADLINE));
        let (store, payload) =
            (deployment.store.clone(), control_plane_payload(std::slice::from_ref(&was_ready)));
        let faults = Faults::drawn(move |number| {
            if number == operation {
                let (intake, mut decoder) = (Intake::new(store.clone()), Decoder::new());
                pollster::block_on(intake.handle(&mut decoder, &payload, minutes(DEADLINE)))
                    .expect("it is delivered");
            }
            Fate::Proceed
        });
        deployment.try_run(&faults).expect("a run");
        if faults.operations() < operation {
            break;
        }
        // Fewer, where the node was found ready before anything was read.
        if faults.operations() > 10 {
            lost_races += 1;
            let is_deleted = |fault: &Fault| fault.reason == "NodeDeleted";
            assert!(deployment.faults(1, minutes(DEADLINE)).iter().any(is_deleted), "{operation}");
        }
    }
    assert!(lost_races > 0);
}

#[test]
fn a_lost_report_of_the_agent_ends_the_repair() {
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let line = cleared(1, INTERFACE_DOWN, minutes(10)).seq(2).line(minutes(10));
    deployment.write_line(AGENT_LOGS, instance(1).as_str(), minutes(10), &line);
    deployment.run_until(minutes(60));
    assert_healed(&deployment);
}

#[test]
fn a_node_that_is_healthy_after_a_reboot_with_its_clock_ahead_is_not_repaired() {
    // Its first report is not believed yet, since its time is from the future; the second one is in no subscription.
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let ahead = |minute: i64| minutes(minute + 110);
    let line = cleared(1, INTERFACE_DOWN, ahead(29)).boot(2).line(ahead(29));
    deployment.write_line(AGENT_LOGS, instance(1).as_str(), minutes(29), &line);
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["Unverified"]);
}

#[test]
fn a_line_about_another_node_heals_nothing() {
    let deployment = unreachable(policy_with_limit(1));
    deployment.lose_line(&kubelet_ready(2, minutes(20), "True"), minutes(20));
    deployment.run_until(minutes(DEADLINE));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_node_that_the_api_shows_ready_is_healed() {
    let deployment = unreachable(policy_with_limit(1));
    let cluster = deployment.cloud.cluster_state();
    cluster.set_node(at(0), snapshot(Health::Unknown, minutes(5), at(-86_400)));
    cluster.set_node(minutes(20), snapshot(Health::Healthy, minutes(20), at(-86_400)));
    deployment.run_until(minutes(60));
    assert_healed(&deployment);
}

#[test]
fn a_node_that_the_api_shows_unreachable_is_repaired_without_reading_a_log_group() {
    let deployment = unreachable(policy_with_limit(1));
    let unreachable = snapshot(Health::Unknown, minutes(5), at(-86_400));
    deployment.cloud.cluster_state().set_node(at(0), unreachable);
    assert_eq!(run_with(&deployment, Defect::Throttled), "");
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let verification = verification(&deployment);
    assert_eq!(verification["by"], "KubernetesApi");
    assert!(verification["read"].as_str().expect("text").contains("Ready is Unknown"), "{verification}");
}

#[test]
fn a_node_of_another_instance_verifies_nothing() {
    let deployment = unreachable(policy_with_limit(1));
    let other = NodeSnapshot { instance_id: Some(instance(9)), ..snapshot(Health::Unknown, at(0), at(0)) };
    deployment.cloud.cluster_state().set_node(at(0), other);
    deployment.run_until(minutes(DEADLINE));
    assert_unverified(&deployment);
}

/// The Kubernetes API refuses our requests.
fn deny(deployment: &Deployment) {
    let (what, source) = ("the Kubernetes API of prod".to_owned(), "403 Forbidden".into());
    deployment.cloud.cluster_state().fail(at(0), ReadError::Denied { what, source });
}

/// The endpoint of the Kubernetes API is private, and not in our VPC.
fn cut_off(deployment: &Deployment) {
    let (what, source) = ("the Kubernetes API of prod".to_owned(), "tcp connect error".into());
    deployment.cloud.cluster_state().fail(at(0), ReadError::Unavailable { what, source });
}

#[test]
fn where_the_api_denies_access_or_cannot_be_reached_the_log_group_is_read() {
    for fails in [deny, cut_off] {
        let deployment = unreachable(policy_with_limit(1));
        fails(&deployment);
        deployment.run_until(minutes(DEADLINE));
        assert_eq!(deployment.cloud.calls(), [terminate(1)]);
        assert_eq!(verification(&deployment)["by"], "ControlPlaneLog");

        let deployment = unreachable(policy_with_limit(1));
        fails(&deployment);
        deployment.lose_line(&kubelet_ready(1, minutes(20), "True"), minutes(20));
        deployment.run_until(minutes(60));
        assert_healed(&deployment);
    }
}

#[test]
fn a_log_group_that_is_throttled_blocks_the_repair_and_the_message_names_it() {
    let deployment = unreachable(policy_with_limit(1));
    deny(&deployment);
    let message = run_with(&deployment, Defect::Throttled);
    assert_unverified(&deployment);
    for part in ["could not verify", "403 Forbidden", CONTROL_PLANE_LOGS, "ThrottlingException"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // As soon as it can be read the repair is made.
    deployment.run_until(minutes(DEADLINE + 1));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn an_audit_stream_that_is_behind_blocks_the_repair() {
    for (defect, reason) in
        [(Defect::StaleStream, "is older than 10m"), (Defect::NoStream, "has a line of the last hour")]
    {
        let deployment = unreachable(policy_with_limit(1));
        let message = run_with(&deployment, defect);
        assert_unverified(&deployment);
        assert!(message.contains(reason) && message.contains(CONTROL_PLANE_LOGS), "{message}");
    }
}

#[test]
fn a_stream_that_only_its_lines_show_is_read_from_the_start_of_the_fault() {
    for stream in [AUDIT_STREAM, "kube-apiserver-audit-1"] {
        let deployment = unreachable(policy_with_limit(1));
        let (begun, settling) = (minutes(DEADLINE - 1), deployment.policy.settling_time);
        let known = [AUDIT_STREAM.to_owned()].into();
        let sources = ClusterSources {
            log_read_to: Some(begun),
            log_applied: Some(AppliedLog::of_reading(at(0), begun, settling, known)),
            ..ClusterSources::default()
        };
        pollster::block_on(deployment.store.put_sources(&cluster(), &sources)).expect("a write");
        // Reconciling has applied what the log reports: the first line was in none of its readings.
        let line = kubelet_ready(1, minutes(7), "True");
        deployment.write_line(CONTROL_PLANE_LOGS, stream, minutes(7), &line);
        let of_another_node = kubelet_ready(2, minutes(30), "True");
        deployment.write_line(CONTROL_PLANE_LOGS, stream, minutes(30), &of_another_node);
        run_with(&deployment, Defect::HiddenStream);
        let is_healed = deployment.cloud.calls().is_empty();
        assert_eq!(is_healed, stream != AUDIT_STREAM, "{stream}");
    }
}

/// A request of node 1's kubelet that does not report on the node: it renews its lease.
fn lease_renewal(written: Timestamp) -> String {
    json!({
        "kind": "Event", "stage": "ResponseComplete", "requestURI": "/api/v1/nodes", "verb": "update",
        "user": { "username": format!("system:node:{}", node(1)) },
        "objectRef": { "resource": "leases", "name": node(1) },
        "responseStatus": { "code": 200 }, "stageTimestamp": written.to_string(),
    })
    .to_string()
}

#[test]
fn a_kubelet_that_made_a_request_in_the_last_two_minutes_is_not_unreachable() {
    let deployment = unreachable(policy_with_limit(1));
    let written = minutes(DEADLINE) - SignedDuration::from_secs(90);
    deployment.lose_line(&lease_renewal(written), written);
    deployment.run_until(minutes(DEADLINE));
    assert_unverified(&deployment);
    let blocked = deployment.published(Step::Blocked, 1).concat();
    assert!(blocked.contains("the kubelet made a request"), "{blocked}");
    // It makes no other one.
    deployment.run_until(minutes(DEADLINE + 1));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_kubelet_that_keeps_coming_back_for_a_moment_does_not_escape() {
    let deployment = unreachable(policy_with_limit(1));
    let back = minutes(DEADLINE) - SignedDuration::from_secs(100);
    deployment.deliver_line(kubelet_ready(1, back, "True"), back);
    deployment.lose_line(&lease_renewal(back), back);
    let lost = back + SignedDuration::from_secs(50);
    deployment.deliver_line(node_controller_unknown(1, lost), lost);
    deployment.run_until(minutes(DEADLINE));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_deleted_node_that_the_api_has_is_not_repaired() {
    for (what, created) in [("registered again", minutes(20)), ("not deleted", at(-86_400))] {
        let deployment = deleted();
        let node = snapshot(Health::Healthy, created, created);
        deployment.cloud.cluster_state().set_node(minutes(20), node);
        deployment.run_until(minutes(60));
        assert_eq!(deployment.cloud.calls(), [], "{what}");
        assert_healed(&deployment);
    }
}

#[test]
fn a_deleted_node_that_the_api_does_not_have_is_replaced() {
    let deployment = deleted();
    let other = NodeSnapshot {
        name: node(2),
        instance_id: Some(instance(2)),
        ..snapshot(Health::Healthy, at(0), at(0))
    };
    deployment.cloud.cluster_state().set_node(at(0), other);
    deployment.run_until(minutes(DEADLINE));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    let read = verification(&deployment)["read"].to_string();
    assert!(read.contains("no Node has the provider ID of"), "{read}");
}

/// Instance 4 was launched at the start, and no node has registered.
fn never_joined() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.change(1, |case| edit(case, json!({ "group": group() })));
    deployment.launch(4);
    deployment.change(4, |case| edit(case, json!({ "group": group(), "arrival": { "launched": at(0) } })));
    deployment
}

#[test]
fn an_instance_gets_its_time_to_join_from_when_ec2_last_started_it() {
    let deployment = never_joined();
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), [terminate(4)]);
    let first_call = deployment.last_record(4, "TerminateInstanceInAutoScalingGroup")["eventTime"].clone();

    // It was drawn from a warm pool, or stopped and started, a minute before, and the event of that is lost.
    let deployment = never_joined();
    let call: Timestamp = first_call.as_str().expect("a time").parse().expect("a time");
    let started = call - SignedDuration::from_mins(1);
    deployment.cloud.change(|fleet| fleet.set_launched(instance(4), started));
    deployment.run_until(call);
    assert_eq!(deployment.cloud.calls(), []);
    assert_eq!(deployment.case(4).blocked().expect("blocked").guards, ["Unverified"]);
    deployment.run_until(started + Policy::default().join_timeout);
    assert_eq!(deployment.cloud.calls(), [terminate(4)]);
}

#[test]
fn where_verification_is_preferred_an_unverified_repair_is_made() {
    let preferred = Policy { verification: VerificationPolicy::Preferred, ..policy_with_limit(1) };
    for defect in [Defect::Throttled, Defect::StaleStream, Defect::NoStream] {
        let deployment = unreachable(preferred.clone());
        assert_eq!(run_with(&deployment, defect), "");
        assert_eq!(deployment.cloud.calls(), [terminate(1)], "{defect:?}");
        let verification = verification(&deployment);
        assert_eq!(verification["result"], "NotVerified", "{defect:?}");
        assert_ne!(verification["why"], Value::Null, "{defect:?}: the record has the reason");
    }
    // What can be read still counts.
    let deployment = unreachable(preferred);
    deployment.lose_line(&kubelet_ready(1, minutes(20), "True"), minutes(20));
    deployment.run_until(minutes(60));
    assert_healed(&deployment);
}

#[test]
fn where_verification_is_preferred_a_contradicted_repair_is_not_made() {
    let preferred = Policy { verification: VerificationPolicy::Preferred, ..policy_with_limit(1) };
    let deployment = unreachable(preferred.clone());
    let written = minutes(DEADLINE) - SignedDuration::from_secs(90);
    deployment.lose_line(&lease_renewal(written), written);
    deployment.run_until(minutes(DEADLINE));
    assert_unverified(&deployment);

    let deployment = unreachable(preferred);
    let other = NodeSnapshot { instance_id: Some(instance(2)), ..snapshot(Health::Bad, minutes(5), at(0)) };
    deployment.cloud.cluster_state().set_node(at(0), other);
    deployment.run_until(minutes(DEADLINE));
    assert_unverified(&deployment);
}

#[test]
fn a_call_that_is_late_after_its_verification_is_withdrawn_and_verified_again() {
    // The process is suspended for a while before each operation of the run in turn.
    let mut withdrawn = 0;
    for operation in 1.. {
        let deployment = unreachable(policy_with_limit(1));
        deployment.run_until(minutes(DEADLINE) - SignedDuration::from_secs(1));
        deployment.clock.advance_to(minutes(DEADLINE));
        let clock = deployment.clock.clone();
        let late = VALID_FOR + SignedDuration::from_secs(1);
        let faults = Faults::drawn(move |number| {
            if number == operation {
                clock.advance_to(clock.now() + late);
            }
            Fate::Proceed
        });
        deployment.try_run(&faults).expect("a run");
        if faults.operations() < operation {
            break;
        }
        if let Some(repair) = deployment.case(1).repair()
            && deployment.cloud.calls().is_empty()
        {
            withdrawn += 1;
            assert!(matches!(repair.phase(), Phase::Claimed { .. }), "{operation}: {:?}", repair.phase());
            assert_eq!(deployment.count(1, "TerminateInstanceInAutoScalingGroup"), 0, "{operation}");
            // The node recovers meanwhile, and only the second verification can know.
            let written = deployment.clock.now() - SignedDuration::from_secs(1);
            deployment.lose_line(&kubelet_ready(1, written, "True"), written);
            deployment.run_until(minutes(60));
            assert_eq!(deployment.cloud.calls(), [], "{operation}");
            assert_eq!((deployment.case(1).repair(), deployment.group().slots().len()), (None, 0));
        } else {
            deployment.run_until(minutes(60));
            assert_eq!(deployment.cloud.calls(), [terminate(1)], "{operation}");
        }
    }
    assert!(withdrawn > 0, "no call was withdrawn");
}

#[test]
fn a_blocked_node_that_was_reported_gone_and_is_in_service_is_evaluated_once_a_minute() {
    let deployment = unreachable(policy_with_limit(1));
    let left = json!({ "at": minutes(6), "how": "EC2 reports that its instance is stopping" });
    deployment.change(1, |case| edit(case, json!({ "departure": left })));
    let written = minutes(DEADLINE) - SignedDuration::from_secs(90);
    deployment.lose_line(&lease_renewal(written), written);
    for minute in 6..=DEADLINE {
        deployment.run_at(minutes(minute));
        let due = deployment.next_due().expect("it stays due");
        assert!(due > minutes(minute), "evaluated again at once, at {due}");
    }
    assert_unverified(&deployment);
}

#[test]
fn observe_mode_verifies_what_it_would_do() {
    let observe = Policy { mode: Mode::Observe, ..policy_with_limit(1) };
    let deployment = unreachable(observe.clone());
    deployment.run_until(minutes(60));
    assert_eq!(deployment.record_names(1), ["RepairObserved"]);

    let deployment = unreachable(observe.clone());
    deployment.lose_line(&kubelet_ready(1, minutes(20), "True"), minutes(20));
    deployment.run_until(minutes(60));
    assert_healed(&deployment);

    let deployment = unreachable(observe);
    let message = run_with(&deployment, Defect::Throttled);
    assert!(message.contains("could not verify"), "{message}");
    assert_eq!(deployment.case(1).blocked().expect("blocked").guards, ["ObserveMode", "Unverified"]);
    assert!(deployment.records(1).is_empty(), "{:?}", deployment.record_names(1));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.record_names(1), ["RepairObserved"]);
}
