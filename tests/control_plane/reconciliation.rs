//! The reconciler reads the real API server: a case is right again although all lines about its node were lost.

use jiff::SignedDuration;
use nodemend_aws::clock::SystemClock;
use nodemend_domain::case::CaseState;
use nodemend_ports::clock::Clock;
use nodemend_reconcile::{ControlPlaneLogs, ReconcileReport, ReconcileTarget, Reconciler};
use nodemend_testkit::fixture::{cluster, node, terminate};

use crate::{aws::Aws, deployment::Deployment, server::ControlPlane};

/// One run, now. No log group is read.
async fn reconcile(deployment: &Deployment) -> ReconcileReport {
    deployment.clock.advance_to(SystemClock.now());
    let target = ReconcileTarget { cluster: cluster(), control_plane_logs: ControlPlaneLogs::Disabled };
    let (store, account) = (deployment.store.clone(), deployment.account.clone());
    let report = Reconciler::new(store, account, deployment.clock.clone()).run(&target).await.expect("a run");
    assert!(report.failures.is_empty() && report.not_listed.is_none(), "{report:?}");
    for event in &report.repair_events {
        println!("{} {} {:?} {}", event.at, event.instance_id, event.step, event.detail);
    }
    report
}

#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn cases_whose_lines_were_all_lost_are_healed() {
    let control_plane = ControlPlane::start().await;
    for number in 1..=3 {
        control_plane.start_kubelet(number).await;
    }
    let aws = Aws::start(control_plane.described()).await;
    let mut deployment = Deployment::new(&aws, 4).await;
    deployment.deliver(&control_plane).await;
    // A Node counts as deleted if an earlier run has listed it.
    reconcile(&deployment).await;

    // From here on, nothing is delivered. Nodes 1 and 2 become unreachable, node 3 is deleted, node 4 joins.
    for number in 1..=3 {
        control_plane.kill_kubelet(number);
    }
    control_plane.kubectl(&["delete", "node", node(3).as_str()]).await;
    control_plane.start_kubelet(4).await;
    for number in [1, 2] {
        control_plane.wait_for_node(number, "condition=Ready=Unknown").await;
    }
    let report = reconcile(&deployment).await;
    assert_eq!((report.listed, report.healed), (Some(3), 4));
    for number in 1..=3 {
        assert_eq!(deployment.state(number).await, CaseState::Suspect, "node {number}");
    }
    assert_eq!(deployment.state(4).await, CaseState::Healthy);

    // Node 1 is ready again, and that line is lost, too.
    control_plane.start_kubelet(1).await;
    assert_ne!(reconcile(&deployment).await.healed, 0);
    deployment.run_for(SignedDuration::from_mins(40)).await;
    assert_eq!(deployment.state(1).await, CaseState::Healthy);
    assert!(!deployment.account.cloud.calls().contains(&terminate(1)));
}
