//! Reports that are late, or whose times or numbers are false.

use jiff::{SignedDuration, Timestamp};
use nodemend_testkit::{
    Deployment,
    fixture::{
        GPU_ERROR, INTERFACE_DOWN, Problem, ReportBuilder, agent_payload, at, cleared, kubelet_ready,
        minutes, node_controller_unknown, policy_with_limit, raised, reboot, terminate,
    },
};

/// A report of node 1 is delivered then.
fn deliver_report(deployment: &Deployment, line: &str, arrived: Timestamp) {
    deployment.clock.advance_to(arrived);
    assert_eq!(deployment.deliver(&agent_payload(1, &[line.to_owned()]), arrived).reports, 1);
}

#[test]
fn a_line_that_is_hours_late_starts_no_repair_of_a_node_that_was_healthy() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    // Written after five minutes, and delivered after six hours: its grace period counts from its arrival.
    deployment.deliver_line(node_controller_unknown(1, minutes(5)), minutes(360));
    deployment.run_until(minutes(390) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(390));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn the_recovery_that_arrives_within_the_settling_time_is_in_time() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    // The first line about the node is an hour late, so its grace period is over when it arrives.
    deployment.deliver_line(node_controller_unknown(1, at(0)), minutes(60));
    deployment.deliver_line(kubelet_ready(1, minutes(10), "True"), minutes(69));
    deployment.run_until(minutes(180));
    assert_eq!(deployment.cloud.calls(), []);
    assert!(deployment.faults(1, minutes(180)).is_empty());
}

#[test]
fn a_start_that_a_node_claims_shortens_no_grace_period() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    let lines = |line: String| agent_payload(1, &[line]);
    deployment.deliver(&lines(cleared(1, INTERFACE_DOWN, at(0)).line(at(0))), at(0));
    let claimed = raised(1, INTERFACE_DOWN, at(-86_400)).seq(2).line(minutes(10));
    deployment.deliver(&lines(claimed), minutes(10));
    deployment.run_until(minutes(40) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(40));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_number_from_the_future_silences_no_later_report() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deliver_report(&deployment, &cleared(1, INTERFACE_DOWN, at(0)).seq(u64::MAX).line(at(0)), at(0));
    deliver_report(&deployment, &raised(1, INTERFACE_DOWN, minutes(5)).seq(2).line(minutes(5)), minutes(5));
    deployment.run_until(minutes(35));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn a_made_up_number_that_is_delivered_again_ends_no_recovery() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deliver_report(&deployment, &cleared(1, INTERFACE_DOWN, at(0)).seq(1).line(at(0)), at(0));
    let made_up = raised(1, INTERFACE_DOWN, minutes(5)).seq(u64::MAX).line(minutes(5));
    deliver_report(&deployment, &made_up, minutes(5));
    deliver_report(
        &deployment,
        &cleared(1, INTERFACE_DOWN, minutes(10)).seq(2).line(minutes(10)),
        minutes(10),
    );
    deliver_report(&deployment, &made_up, minutes(36));
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_made_up_number_that_arrives_after_the_next_report_silences_none_after_it() {
    for late in [2, 400] {
        let deployment = Deployment::new(3, policy_with_limit(1));
        deliver_report(&deployment, &cleared(1, INTERFACE_DOWN, at(0)).seq(1).line(at(0)), at(0));
        let written = minutes(5) - SignedDuration::from_secs(late);
        deliver_report(
            &deployment,
            &raised(1, INTERFACE_DOWN, minutes(5)).seq(2).line(minutes(5)),
            minutes(5),
        );
        deliver_report(
            &deployment,
            &raised(1, INTERFACE_DOWN, written).seq(u64::MAX).line(written),
            minutes(5),
        );
        for (seq, minute) in [(3, 10), (4, 15), (5, 20)] {
            deliver_report(
                &deployment,
                &cleared(1, INTERFACE_DOWN, minutes(10)).seq(seq).line(minutes(minute)),
                minutes(minute),
            );
        }
        deployment.run_until(minutes(120));
        assert_eq!(deployment.cloud.calls(), []);
    }
}

#[test]
fn a_time_from_the_future_silences_no_later_report_though_the_one_before_it_is_late() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deliver_report(&deployment, &cleared(1, INTERFACE_DOWN, at(0)).seq(1).line(at(0)), at(0));
    let bad = || raised(1, INTERFACE_DOWN, minutes(5));
    let in_ten_days = minutes(10 * 24 * 60);
    deliver_report(&deployment, &bad().seq(3).line(in_ten_days), minutes(7));
    deliver_report(&deployment, &bad().seq(2).line(minutes(6)), minutes(8));
    let healthy = cleared(1, INTERFACE_DOWN, minutes(10)).seq(4).line(minutes(10));
    deliver_report(&deployment, &healthy, minutes(10));
    deployment.run_until(minutes(120));
    assert_eq!(deployment.cloud.calls(), []);
}

#[test]
fn a_clock_that_steps_back_during_a_fault_makes_it_due_no_earlier() {
    // Each report was delayed less than the one before it, and the clock stepped back by nine minutes.
    let deployment = Deployment::new(3, policy_with_limit(1));
    let seconds = SignedDuration::from_secs;
    deliver_report(&deployment, &cleared(1, INTERFACE_DOWN, at(0)).seq(1).line(at(0)), at(0));
    let bad = || raised(1, INTERFACE_DOWN, minutes(25)).healthy_for(1_500);
    let arrived = minutes(25) + seconds(4);
    deliver_report(&deployment, &bad().seq(2).line(minutes(25)), arrived);
    for (seq, minute, delay) in [(3, 30, 5), (4, 35, 1)] {
        let written = minutes(minute - 9);
        let line = raised(1, INTERFACE_DOWN, minutes(16)).healthy_for(1_500).seq(seq).line(written);
        deliver_report(&deployment, &line, minutes(minute) + seconds(delay));
    }
    deployment.run_until(arrived + SignedDuration::from_mins(30) - seconds(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(arrived + SignedDuration::from_mins(30));
    assert_eq!(deployment.cloud.calls(), [terminate(1)]);
}

#[test]
fn reports_from_before_a_clock_stepped_back_start_no_grace_period_though_they_are_delivered_again() {
    let deployment = Deployment::new(3, policy_with_limit(1));
    let no_rule = Problem { reason: "DCGMHealthFailure", ..GPU_ERROR };
    // The node's clock is an hour behind after minute 15.
    let behind = |minute: i64| minutes(minute - 61);
    let deliver = |report: ReportBuilder, written, arrived| {
        deliver_report(&deployment, &report.line(written), minutes(arrived));
    };
    deliver(cleared(1, GPU_ERROR, minutes(0)).seq(1), minutes(0), 0);
    let earlier = |seq| raised(1, GPU_ERROR, minutes(10)).healthy_for(600).seq(seq);
    deliver(earlier(2), minutes(10), 10);
    deliver(earlier(3), minutes(12), 12);
    deliver(cleared(1, GPU_ERROR, behind(15)).seq(4), behind(15), 15);
    let present = |problem, seq| raised(1, problem, behind(50)).healthy_for(2_100).seq(seq);
    deliver(present(no_rule, 5), behind(50), 50);
    deliver(earlier(2), minutes(10), 60);
    deliver(earlier(3), minutes(12), 62);
    deliver(present(GPU_ERROR, 6), behind(66), 66);
    deployment.run_until(minutes(76) - SignedDuration::from_secs(1));
    assert_eq!(deployment.cloud.calls(), []);
    deployment.run_until(minutes(76));
    assert_eq!(deployment.cloud.calls(), [reboot(1)]);
}
