//! The drain function's binary, as Lambda runs it, and the disruption budgets of the real API server.

use std::{path::Path, time::Duration};

use nodemend_aws::clock::SystemClock;
use nodemend_ports::clock::Clock;
use nodemend_stack::{
    child::Launcher,
    dynamodb,
    lambda::{Function, Spec},
};
use nodemend_testkit::fixture::{group, instance, node};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

use crate::{authenticator::DRAIN_KEY, aws::Aws, server::ControlPlane};

const HOOK: &str = "nodemend-drain";

/// A pod of the application on a node, with that kind of owner.
fn pod(name: &str, number: u64, owner: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": name, "labels": { "app": app },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": owner, "name": app, "controller": true,
                "uid": "00000000-0000-4000-8000-000000000001",
            }],
        },
        "spec": {
            "nodeName": node(number),
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": "registry.example/main:1" }],
        },
    })
}

/// Two pods of an application that needs one, and a pod of a DaemonSet, all on the first of two nodes.
async fn shop() -> ControlPlane {
    let control_plane = ControlPlane::start().await;
    control_plane.start_kubelet(1).await;
    control_plane.start_kubelet(2).await;
    control_plane
        .create(&[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
            json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                "metadata": { "namespace": "shop", "name": "web" },
                "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } },
            }),
            pod("web-1", 1, "ReplicaSet", "web"),
            pod("web-2", 1, "ReplicaSet", "web"),
            pod("agent", 1, "DaemonSet", "agent"),
        ])
        .await;
    for pod in ["pod/web-1", "pod/web-2", "pod/agent"] {
        control_plane.wait_for(pod, "condition=Ready").await;
    }
    control_plane.wait_for("poddisruptionbudget/web", "jsonpath={.status.disruptionsAllowed}=1").await;
    control_plane
}

/// The drain function. It has four minutes for a drain.
async fn drain(aws: &Aws) -> Function {
    let address = dynamodb::serve().expect("DynamoDB");
    // It finds no case there, as for a termination that is not a repair.
    dynamodb::store(address).await.expect("tables");
    let nodemend = Path::new(env!("CARGO_BIN_EXE_nodemend"));
    let mut environment = aws.environment(DRAIN_KEY, address);
    environment.extend(
        [("NODEMEND_DRAIN_HOOK", HOOK), ("NODEMEND_DRAIN_MINUTES", "4")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let spec = Spec {
        name: "nodemend-drain".to_owned(),
        program: nodemend.with_file_name("nodemend-drain"),
        environment,
        timeout: Duration::from_secs(300),
        concurrency: 1,
        retries: Vec::new(),
    };
    let (sender, _) = unbounded_channel();
    Function::new(spec, Launcher::new(nodemend), sender)
}

/// EventBridge's event: the lifecycle hook holds the termination of the first node.
fn held() -> String {
    json!({
        "version": "0", "id": "12345678-1234-1234-1234-123456789012", "source": "aws.autoscaling",
        "detail-type": "EC2 Instance-terminate Lifecycle Action", "account": "123456789012",
        "time": SystemClock.now().to_string(), "region": "us-east-1", "resources": [],
        "detail": {
            "LifecycleActionToken": "71514b9d-6a40-4b26-8523-05e7ee35fa40",
            "AutoScalingGroupName": group(), "LifecycleHookName": HOOK, "EC2InstanceId": instance(1),
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "Origin": "AutoScalingGroup", "Destination": "EC2",
        },
    })
    .to_string()
}

/// The evictions in the audit log: pod and status.
fn evictions(control_plane: &ControlPlane) -> Vec<(String, u64)> {
    let lines = control_plane.audit_lines();
    let events = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events
        .filter(|event| {
            event["stage"] == "ResponseComplete" && event["objectRef"]["subresource"] == "eviction"
        })
        .map(|event| {
            let pod = event["objectRef"]["name"].as_str().unwrap_or_default().to_owned();
            (pod, event["responseStatus"]["code"].as_u64().expect("a status"))
        })
        .collect()
}

async fn pods(control_plane: &ControlPlane) -> Vec<String> {
    let names = ["get", "pods", "--namespace=shop", "--output=jsonpath={.items[*].metadata.name}"];
    control_plane.kubectl(&names).await.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The drain function empties the first node. When it has evicted the pod that the budget allows to be evicted, another pod
/// starts on the second node.
async fn empty_first_node(control_plane: &ControlPlane) {
    let aws = Aws::start(control_plane.described()).await;
    let function = drain(&aws).await;
    let replace = async {
        let is_web = |pod: &String| pod.starts_with("web");
        control_plane
            .wait_until("the evicted pod is gone", async || {
                pods(control_plane).await.iter().filter(|pod| is_web(pod)).count() == 1
            })
            .await;
        let before = evictions(control_plane).len();
        control_plane
            .wait_until("the budget refuses the other eviction", async || {
                evictions(control_plane)[before..].iter().any(|(_, status)| *status == 429)
            })
            .await;
        control_plane.create(&[pod("web-3", 2, "ReplicaSet", "web")]).await;
    };
    let (answer, ()) = tokio::join!(function.invoke(held().into()), replace);
    let answer: Value = serde_json::from_slice(&answer.expect("an answer")).expect("JSON");
    println!("{answer} {:?}", evictions(control_plane));
    assert_eq!((&answer["outcome"], &answer["evicted"]), (&json!("emptied"), &json!(2)), "{answer}");
    assert_eq!(answer["node"], json!(node(1)));

    assert_eq!(pods(control_plane).await, ["agent", "web-3"]);
    let drained = node(1);
    let cordoned = ["get", "node", drained.as_str(), "--output=jsonpath={.spec.unschedulable}"];
    assert_eq!(control_plane.kubectl(&cordoned).await, "true");
    assert_eq!(aws.requests().last().map(String::as_str), Some("CompleteLifecycleAction"));
    function.stop().await;
}

fn count(evictions: &[(String, u64)], status: u64) -> usize {
    evictions.iter().filter(|(_, known)| *known == status).count()
}

#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn the_drain_binary_empties_a_node_against_a_disruption_budget() {
    let control_plane = shop().await;
    empty_first_node(&control_plane).await;
    let evictions = evictions(&control_plane);
    assert_eq!((count(&evictions, 201), evictions[0].1), (2, 201), "{evictions:?}");
}

/// The API server counts an eviction against the budget before it compares the uid, and the disruption controller corrects that
/// after two minutes.
#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn the_drain_binary_waits_for_a_budget_that_a_refused_eviction_has_used_up() {
    let control_plane = shop().await;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "namespace": "shop", "name": "web-1" },
        "deleteOptions": { "preconditions": { "uid": "00000000-0000-4000-8000-000000000002" } },
    });
    let error = control_plane
        .post("/api/v1/namespaces/shop/pods/web-1/eviction", &eviction)
        .await
        .expect_err("the uid of another pod");
    assert!(error.contains("Conflict") || error.contains("UID"), "{error}");
    control_plane.wait_for("poddisruptionbudget/web", "jsonpath={.status.disruptionsAllowed}=0").await;

    empty_first_node(&control_plane).await;
    let evictions = evictions(&control_plane);
    assert_eq!((count(&evictions, 409), count(&evictions, 201)), (1, 2), "{evictions:?}");
    assert_eq!(evictions[1].1, 429, "{evictions:?}");
}
