//! What the roles may do in the cluster, by the ClusterRoles of `infra/examples`.

use nodemend_domain::{
    case::Consistency,
    condition::{ConditionType, Health},
};
use nodemend_ports::cluster_reader::{ClusterReader, ReadError};
use nodemend_testkit::fixture::{cluster, instance, node};

use crate::{
    authenticator::{self, DRAIN_KEY, REPAIR_KEY, UNBOUND_KEY, UNKNOWN_KEY},
    aws::Aws,
    server::ControlPlane,
};

/// `kubectl cordon` ends with status 0 even where it is forbidden.
const CORDON: &str = r#"--patch={"spec":{"unschedulable":true}}"#;

/// The API server refuses this request of kubectl.
async fn assert_forbidden(control_plane: &ControlPlane, access_key: &str, arguments: &[&str]) {
    let result = control_plane.try_kubectl(&authenticator::eks(access_key), arguments).await;
    let Err(error) = result else { panic!("{arguments:?} is allowed: {result:?}") };
    assert!(error.contains("Forbidden") || error.contains("forbidden"), "{arguments:?}: {error}");
}

#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn each_role_may_do_what_it_needs_and_nothing_else() {
    let control_plane = ControlPlane::start().await;
    control_plane.start_kubelet(1).await;
    let aws = Aws::start(control_plane.described()).await;
    let name = node(1).to_string();

    let repair = aws.client(REPAIR_KEY).await;
    let read = repair.node(&cluster(), &node(1)).await.expect("an answer").expect("a node");
    assert_eq!((read.instance_id, read.uid.is_some()), (Some(instance(1)), true));
    let ready = read.conditions.iter().find(|known| known.observed.condition == ConditionType::Ready);
    assert_eq!(ready.expect("a condition").observed.health, Health::Healthy);
    assert_eq!(repair.node(&cluster(), &node(2)).await, Ok(None));
    for consistency in [Consistency::Latest, Consistency::Cached] {
        assert_eq!(repair.nodes(&cluster(), consistency).await.expect("nodes").len(), 1);
    }

    for arguments in [
        vec!["delete", "node", &name],
        vec!["patch", "node", &name, CORDON],
        vec!["get", "secrets", "--namespace=kube-system"],
        vec!["get", "pods", "--all-namespaces"],
    ] {
        assert_forbidden(&control_plane, REPAIR_KEY, &arguments).await;
    }

    let drain = authenticator::eks(DRAIN_KEY);
    for arguments in [vec!["patch", "node", &name, CORDON], vec!["get", "pods", "--all-namespaces"]] {
        control_plane.try_kubectl(&drain, &arguments).await.expect("allowed");
    }
    for arguments in [
        vec!["delete", "node", &name],
        vec!["get", "nodes"],
        vec!["get", "secrets", "--namespace=kube-system"],
        vec!["delete", "pod", "web", "--namespace=default"],
    ] {
        assert_forbidden(&control_plane, DRAIN_KEY, &arguments).await;
    }

    // 403 without a role binding, 401 without an access entry.
    for access_key in [UNBOUND_KEY, UNKNOWN_KEY] {
        let error = aws.client(access_key).await.node(&cluster(), &node(1)).await.expect_err("denied");
        assert!(matches!(error, ReadError::Denied { .. }), "{access_key}: {error:?}");
    }
}
