//! Reboots that help, reboots that do not, and what follows.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::{ConditionType, Health},
    observation::{Observation, ObservedCondition, Removed, StatusWriter, What},
    repair::{Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment, edit_stored,
    faults::{Fate, Faults, schedule},
    fixture::{
        AGENT_LOGS, GPU_ERROR, INTERFACE_DOWN, ReportBuilder, agent_payload, at, boot_id, cleared, cluster,
        hold_until, instance, kubelet_ready as kubelet_ready_line, minutes, node, node_controller_unknown,
        policy_with_limit, raised, reboot, terminate,
    },
};
use serde_json::json;

/// Node 1 was rebooted at 10 minutes, and the call is confirmed.
fn rebooting() -> Deployment {
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    deployment.run_at(minutes(10));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.change(1, |case| {
        edit_stored(case, |case| {
            case["repair"]["calls"][0]["confirmation"] = json!(Confirmation::Confirmed);
        });
    });
    deployment
}

/// The kubelet of node 1 is ready in this boot.
fn kubelet_ready(deployment: &Deployment, boot: u64, written: Timestamp) {
    let ready = ObservedCondition {
        condition: ConditionType::Ready,
        health: Health::Healthy,
        reason: "KubeletReady".to_owned(),
        message: String::new(),
    };
    let observation = Observation {
        at: written,
        node: node(1),
        uid: None,
        instance_id: Some(instance(1)),
        zone: None,
        boot_id: Some(boot_id(boot)),
        what: What::Conditions {
            by: StatusWriter::Kubelet,
            conditions: vec![ready],
            removed: Removed::default(),
        },
    };
    deployment.change(1, |case| {
        case.apply_observation(&observation, deployment.clock.now(), &deployment.policy);
    });
}

/// Node 1 is up again a minute before its reboot counts as failed. Its agent has not reported yet.
fn rebooted_slowly() -> Deployment {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(24));
    kubelet_ready(&deployment, 2, minutes(24));
    deployment
}

#[test]
fn an_agent_that_does_not_report_from_the_new_boot_clears_nothing() {
    let deployment = rebooted_slowly();
    deployment.run_until(minutes(34));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn after_a_slow_reboot_the_agent_gets_the_settling_time_to_report_from_the_new_boot() {
    let deployment = rebooted_slowly();
    deployment.run_until(minutes(34) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.report(cleared(1, GPU_ERROR, minutes(33)).boot(2));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [reboot(1)], "cured");
}

#[test]
fn after_a_slow_reboot_the_kubelet_gets_the_settling_time_to_post_from_the_new_boot() {
    for posts in [true, false] {
        let deployment = rebooting();
        deployment.deliver_line(node_controller_unknown(1, minutes(12)), minutes(12));
        deployment.clock.advance_to(minutes(24));
        deployment.report(cleared(1, GPU_ERROR, minutes(24)).boot(2).seq(2));
        deployment.run_until(minutes(34) - SignedDuration::from_secs(1));
        assert_eq!(deployment.cloud.calls(), [reboot(1)]);
        if posts {
            kubelet_ready(&deployment, 2, minutes(33));
        }
        deployment.run_until(minutes(60));
        let calls = deployment.cloud.calls();
        assert_eq!(calls.contains(&terminate(1)), !posts, "{calls:?}");
    }
}

#[test]
fn a_report_of_a_made_up_boot_delays_no_replacement_after_a_failed_reboot() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(15));
    // It is in the log group, and was never delivered.
    let made_up = cleared(1, GPU_ERROR, minutes(15)).boot(9).seq(2).written(minutes(15));
    deployment.write_line(AGENT_LOGS, instance(1).as_str(), minutes(15), &made_up.encode());
    deployment.clock.advance_to(minutes(18));
    kubelet_ready(&deployment, 2, minutes(18));
    for (seq, minute) in [(3, 19), (4, 22)] {
        deployment.clock.advance_to(minutes(minute));
        deployment.report(raised(1, GPU_ERROR, minutes(minute)).boot(2).seq(seq));
    }
    deployment.run_until(minutes(26));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn what_an_agent_had_kept_of_the_boot_before_does_not_hide_that_the_new_one_is_healthy() {
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    kubelet_ready(&deployment, 1, minutes(0));
    // Somebody rebooted it. The first report of the new boot is not delivered, and then come those that its agent had kept.
    let healthy = cleared(1, GPU_ERROR, minutes(6)).boot(2).written(minutes(6));
    deployment.write_line(AGENT_LOGS, instance(1).as_str(), minutes(6), &healthy.encode());
    deployment.clock.advance_to(minutes(7));
    deployment.report(raised(1, GPU_ERROR, at(0)).seq(5));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_reboot_without_effect_is_followed_by_a_replacement() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(12));
    deployment.report(raised(1, GPU_ERROR, minutes(12)).boot(2));
    deployment.run_until(minutes(25) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.run_until(minutes(25));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_silent_after_its_reboot_is_replaced() {
    let deployment = rebooting();
    deployment.run_until(minutes(25));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_replacement_after_a_reboot_waits_for_a_hold_and_is_published_once() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(12));
    deployment.report(raised(1, GPU_ERROR, minutes(12)).boot(2));
    deployment.store.hold(&cluster(), hold_until(minutes(300)));
    let mut blocked = 0;
    for runs in 0.. {
        assert!(runs < 300, "it stays due at {}", deployment.clock.now());
        let due = deployment.next_due().expect("a due case");
        if due >= minutes(300) {
            break;
        }
        let run = deployment.run_at(due);
        blocked += run.repair_events.iter().filter(|event| event.step == Step::Blocked).count();
    }
    assert_eq!((blocked, deployment.cloud.calls()), (1, vec![reboot(1)]), "published once");
    deployment.run_until(minutes(300));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_healthy_just_before_its_reboot_times_out_gets_its_recovery_hold() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(24));
    deployment.report(cleared(1, GPU_ERROR, minutes(24)).boot(2));
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    assert_eq!((deployment.case(1).repair(), deployment.case(1).closed()), (None, None));
}

#[test]
fn a_node_unhealthy_again_soon_after_its_reboot_is_replaced() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(24));
    deployment.report(cleared(1, GPU_ERROR, minutes(24)).boot(2));
    deployment.clock.advance_to(minutes(25));
    deployment.run_once();
    deployment.report(raised(1, GPU_ERROR, minutes(25)).boot(2).seq(2));
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_that_recovers_without_its_reboot_is_not_replaced() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(11));
    deployment.report(cleared(1, GPU_ERROR, minutes(11)).seq(2));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    assert_eq!((deployment.case(1).repair().is_some(), deployment.group().slots().len()), (false, 0));
}

#[test]
fn a_late_report_of_the_new_boot_leads_to_no_second_reboot() {
    // The node rebooted half a minute before the time limit of its reboot; the report came a minute after it.
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(22));
    deployment.report(cleared(1, GPU_ERROR, minutes(22)).seq(2));
    deployment.run_until(minutes(25));
    assert_eq!(deployment.case(1).repair(), None, "healthy for three minutes, in the boot before the call");
    deployment.clock.advance_to(minutes(26));
    deployment.report(raised(1, GPU_ERROR, at(24 * 60 + 30)).boot(2));
    deployment.run_until(minutes(34));
    assert_eq!(deployment.cloud.calls(), [reboot(1)], "its own grace period runs");
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
    let decision = deployment.last_record(1, "RepairClaimed")["nodemend"]["decision"].to_string();
    assert!(decision.contains("; the reboot did not cure it"), "{decision}");
}

#[test]
fn a_report_of_the_old_boot_does_not_count_for_the_new_one() {
    // The kubelet of the new boot is ready. The agent's report is late, so nothing reports that the fault has
    // cleared.
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(12));
    deployment.report(raised(1, GPU_ERROR, at(0)).seq(2));
    kubelet_ready(&deployment, 2, at(11 * 60 + 50));
    deployment.run_until(minutes(20));
    assert_eq!(deployment.case(1).repair().map(|repair| repair.phase()), Some(Phase::Rebooting));
    deployment.report(raised(1, GPU_ERROR, at(11 * 60 + 50)).boot(2));
    deployment.run_until(minutes(25));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_late_report_that_the_reboot_failed_leads_to_a_replacement() {
    // It is healthy after the reboot and unhealthy a minute later. The report is late: the repair was closed meanwhile, and
    // the grace period counts from its arrival.
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(11));
    deployment.report(cleared(1, GPU_ERROR, minutes(11)).boot(2));
    deployment.run_until(minutes(20));
    assert_eq!(deployment.case(1).repair(), None, "successful, as far as was reported");
    deployment.report(raised(1, GPU_ERROR, minutes(12)).boot(2).seq(2));
    deployment.run_until(minutes(30) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.run_until(minutes(30));
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_report_from_before_a_reboot_and_a_clock_that_stepped_back_is_no_return_of_the_old_boot() {
    // The clock stepped back by half an hour: what the old boot reported before that looks newer than the new boot, in
    // which the node is healthy. Its kubelet's Ready is lost, so the reboot does not count as a cure in time.
    let deployment = Deployment::new(1, policy_with_limit(1));
    let deliver = |report: ReportBuilder, written: i64, arrived: i64| {
        deployment.clock.advance_to(minutes(arrived));
        deployment.deliver(&agent_payload(1, &[report.line(minutes(written))]), minutes(arrived));
    };
    let bad_since = |minute: i64| raised(1, GPU_ERROR, minutes(minute));
    deliver(bad_since(0), 0, 0);
    deliver(bad_since(-30).seq(2), -25, 5);
    deployment.run_until(minutes(10));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
    deployment.deliver_line(node_controller_unknown(1, minutes(11)), minutes(11));
    let healthy = || cleared(1, GPU_ERROR, minutes(-9)).boot(2);
    deliver(healthy(), -9, 21);
    deliver(healthy().seq(2), -6, 24);
    deployment.lose_line(&kubelet_ready_line(1, minutes(22), "True"), minutes(22));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
}

#[test]
fn a_node_unhealthy_long_after_its_reboot_is_rebooted_again() {
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(12));
    deployment.report(cleared(1, GPU_ERROR, minutes(12)).boot(2));
    deployment.run_until(minutes(18));
    assert_eq!(deployment.case(1).repair(), None, "the reboot was successful");
    deployment.report(raised(1, GPU_ERROR, minutes(18)).boot(2).seq(2));
    deployment.run_until(minutes(28));
    assert_eq!(deployment.cloud.calls(), [reboot(1), reboot(1)]);
}

#[test]
fn a_replacement_names_the_fault_that_it_is_for() {
    // Both faults are due when the hold ends; the one with the weaker action has waited longer.
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    deployment.report(raised(1, INTERFACE_DOWN, at(0)).seq(2));
    deployment.store.hold(&cluster(), hold_until(minutes(40)));
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    for name in ["RepairClaimed", "TerminateInstanceInAutoScalingGroup"] {
        let record = deployment.last_record(1, name).to_string();
        assert!(record.contains("NetworkingReady") && !record.contains("did not cure"), "{record}");
    }
}

#[test]
fn a_replacement_after_a_reboot_survives_a_crash() {
    // It was decided at 25 minutes, and its process died. The grace period of the new boot has not ended by then.
    let deployment = rebooting();
    deployment.clock.advance_to(minutes(24));
    deployment.report(raised(1, GPU_ERROR, minutes(24)).boot(2));
    deployment.clock.advance_to(minutes(25));
    let claimed = |deployment: &Deployment| {
        matches!(deployment.case(1).repair().expect("a repair").phase(), Phase::Claimed { .. })
    };
    for operation in 1.. {
        let faults = Faults::at(operation, Fate::DieAfter);
        let _ = schedule::run_one(&faults, deployment.repairer(&faults).run_once());
        if claimed(&deployment) {
            break;
        }
    }
    deployment.run_until(minutes(25) + LEASE);
    assert_eq!(deployment.cloud.calls(), [reboot(1), terminate(1)]);
    assert!(
        !deployment.record_names(1).contains(&"RepairReleased".to_owned()),
        "{:?}",
        deployment.record_names(1)
    );
}

/// Node 1 has had two faults since the start, one with the action Reboot. AWS refuses each reboot.
fn with_refused_reboots() -> Deployment {
    let deployment = Deployment::with_problem(1, GPU_ERROR, policy_with_limit(1));
    deployment.report(raised(1, INTERFACE_DOWN, at(0)).seq(2));
    for minute in [10, 15, 25] {
        deployment.refuse(reboot(1), minutes(minute), "UnauthorizedOperation", "You are not authorized");
    }
    deployment
}

#[test]
fn a_refused_reboot_does_not_count_as_a_failed_reboot() {
    // The backoff grows, and its last one ends when the replacement is due, too.
    let deployment = with_refused_reboots();
    deployment.run_until(minutes(60));
    assert_eq!(deployment.cloud.calls(), [reboot(1), reboot(1), reboot(1), terminate(1)]);
    let record = deployment.last_record(1, "TerminateInstanceInAutoScalingGroup").to_string();
    assert!(record.contains("NetworkingReady bad") && !record.contains("did not cure"), "{record}");
}

#[test]
fn a_refused_reboot_makes_no_other_fault_due() {
    let deployment = with_refused_reboots();
    deployment.refuse(terminate(1), minutes(45), "AccessDenied", "is not authorized to perform");
    deployment.run_until(minutes(45));
    let refused = [reboot(1), reboot(1), reboot(1), terminate(1)];
    assert_eq!(deployment.cloud.calls(), refused);
    // During the backoff, both faults clear, and one comes back: it is not due at the end of the backoff.
    for (minute, report) in [
        (46, cleared(1, INTERFACE_DOWN, minutes(46)).seq(3)),
        (46, cleared(1, GPU_ERROR, minutes(46)).seq(4)),
        (80, raised(1, GPU_ERROR, minutes(80)).seq(5)),
    ] {
        deployment.clock.advance_to(minutes(minute));
        deployment.report(report);
    }
    deployment.run_until(minutes(90) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), refused, "its own grace period runs");
    deployment.run_until(minutes(90));
    assert_eq!(deployment.cloud.calls().last(), Some(&reboot(1)));
}

#[test]
fn a_replacement_whose_fault_clears_before_the_call_is_decided_again() {
    // Its call was refused. The fault that is left has the action Reboot, and the record names that fault.
    let deployment = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    deployment.refuse(terminate(1), minutes(30), "AccessDenied", "is not authorized to perform");
    deployment.clock.advance_to(minutes(22));
    deployment.report(raised(1, GPU_ERROR, minutes(22)).seq(2));
    deployment.run_until(minutes(31));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
    deployment.report(cleared(1, INTERFACE_DOWN, minutes(31)).seq(3));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1), reboot(1)]);
    let decision = deployment.last_record(1, "RebootInstances")["nodemend"]["decision"].to_string();
    assert!(decision.contains("AcceleratedHardwareReady bad"), "{decision}");
}
