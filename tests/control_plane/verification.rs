//! The repair function verifies against the real API server: a node that is healthy there is not replaced, whatever was lost.

use jiff::SignedDuration;
use nodemend_domain::case::CaseState;
use nodemend_testkit::fixture::terminate;

use crate::{aws::Aws, deployment::Deployment, server::ControlPlane};

#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn a_node_whose_ready_was_lost_is_not_replaced_and_a_dead_one_is() {
    let control_plane = ControlPlane::start().await;
    for number in 1..=3 {
        control_plane.start_kubelet(number).await;
    }
    let aws = Aws::start(control_plane.described()).await;
    let mut deployment = Deployment::new(&aws, 3).await;
    deployment.deliver(&control_plane).await;
    assert_eq!(deployment.state(1).await, CaseState::Healthy);

    for number in [1, 2] {
        control_plane.kill_kubelet(number);
    }
    for number in [1, 2] {
        control_plane.wait_for_node(number, "condition=Ready=Unknown").await;
    }
    deployment.deliver(&control_plane).await;
    for number in [1, 2] {
        assert_eq!(deployment.state(number).await, CaseState::Suspect, "node {number}");
    }

    // The kubelet comes back, and its Ready=True is in the audit log, which is not delivered any more.
    control_plane.start_kubelet(1).await;
    deployment.run_for(SignedDuration::from_mins(40)).await;
    assert_eq!(deployment.account.cloud.calls(), [terminate(2)]);
    assert_eq!(deployment.state(1).await, CaseState::Healthy);
}
