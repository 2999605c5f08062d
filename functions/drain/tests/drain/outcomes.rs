//! Nodes that are not drained, and terminations that go on without a complete drain.

use nodemend_domain::{case::Case, ident::ClusterName};
use nodemend_drain::DrainOutcome;
use nodemend_ports::store::{CaseWrite, Commit, MemoryStore, Store};
use nodemend_testkit::{edit, http};
use serde_json::json;

use crate::{
    CLUSTER, drained, drainer, drainer_with,
    environment::{Environment, after, began, event, pod},
    handle, instance, is_emptied, store,
};

/// A store with a case of the instance.
async fn store_with_case(change: impl FnOnce(&mut Case)) -> MemoryStore {
    let store = store();
    let mut case = Case::new(ClusterName::new(CLUSTER).expect("a name"), instance());
    change(&mut case);
    let commit = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
    assert_eq!(commit.expect("written"), Commit::Won);
    store
}

/// The drain is skipped: no pod was evicted, and the hook was completed at once; the reason.
async fn skipped(environment: Environment, store: MemoryStore) -> String {
    let drainer = drainer(&environment, store).await;
    let drained =
        handle(&drainer, &environment, &environment.event()).await.expect("drain succeeds").expect("a drain");
    let DrainOutcome::Skipped(reason) = drained.outcome else { panic!("{drained:?}") };
    let state = environment.state();
    assert_eq!((state.completions.clone(), state.evictions.len()), (vec![began()], 0));
    reason.to_string()
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_not_drained() {
    for ready in ["False", "Unknown"] {
        let environment = Environment::new(vec![pod("web")]).with(|state| state.ready = ready);
        assert_eq!(skipped(environment, store()).await, format!("its condition Ready is {ready}"));
    }
    let environment = Environment::new(vec![pod("web")]).with(|state| state.node_exists = false);
    assert_eq!(skipped(environment, store()).await, "its node object is gone");
}

#[tokio::test]
async fn a_node_of_the_same_name_with_another_instance_is_not_drained() {
    let other = "aws:///eu-west-1a/i-00000000000000001";
    let environment =
        Environment::new(vec![pod("web")]).with(|state| other.clone_into(&mut state.provider_id));
    assert_eq!(skipped(environment.clone(), store()).await, "the node of its name is another instance's");
    assert_eq!(environment.state().cordoned, None);
}

#[tokio::test]
async fn an_instance_that_is_gone_by_its_case_causes_no_request() {
    let store = store_with_case(|case| {
        edit(case, json!({ "departure": { "at": began(), "how": "the cloud controller deleted it" } }));
    })
    .await;
    let environment = Environment::new(vec![pod("web")]);
    let reason = skipped(environment.clone(), store).await;
    assert_eq!(reason, "its instance is gone since 2026-08-20T09:55:00Z: the cloud controller deleted it");
    assert!(environment.state().requests.is_empty());
}

#[tokio::test]
async fn the_node_name_of_the_case_takes_precedence_over_the_one_of_ec2() {
    let store = store_with_case(|case| edit(case, json!({ "node": crate::node() }))).await;
    let environment = Environment::new(vec![pod("web")])
        .with(|state| "ip-10-9-9-9.eu-west-1.compute.internal".clone_into(&mut state.private_name));
    let drainer = drainer(&environment, store).await;
    let drained =
        handle(&drainer, &environment, &environment.event()).await.expect("drain succeeds").expect("a drain");
    assert!(is_emptied(&drained), "{drained:?}");
}

#[tokio::test]
async fn an_instance_without_a_node_is_not_drained() {
    let environment = Environment::new(Vec::new()).with(|state| state.private_name.clear());
    assert_eq!(skipped(environment, store()).await, "it never had a node");
}

#[tokio::test]
async fn a_node_that_stops_being_ready_ends_its_drain() {
    let slow = crate::environment::Pod { ends_in: jiff::SignedDuration::from_hours(1), ..pod("slow") };
    let environment = Environment::new(vec![slow]).with(|state| state.not_ready_from = Some(after(60)));
    let drained = drained(&environment).await;
    assert!(matches!(drained.outcome, DrainOutcome::Skipped(_)), "{drained:?}");
    assert!(environment.state().completions[0] < after(70));
}

#[tokio::test]
async fn other_hooks_and_the_groups_of_other_clusters_are_ignored() {
    let environment = Environment::new(vec![pod("web")]);
    let subject = drainer(&environment, store()).await;
    assert_eq!(
        handle(&subject, &environment, &event("Terminate-LC-Hook", began())).await.expect("drain succeeds"),
        None
    );
    let launch = environment.event().replace("EC2_INSTANCE_TERMINATING", "EC2_INSTANCE_LAUNCHING");
    assert_eq!(handle(&subject, &environment, &launch).await.expect("drain succeeds"), None);
    let other = environment.clone().with(|state| "kubernetes.io/cluster/other".clone_into(&mut state.tag));
    assert_eq!(handle(&subject, &other, &other.event()).await.expect("drain succeeds"), None);
    let gone = environment.clone().with(|state| state.tag.clear());
    assert_eq!(handle(&subject, &gone, &gone.event()).await.expect("drain succeeds"), None);
    let state = environment.state();
    assert!(state.held && state.heartbeats.is_empty() && state.requests.is_empty());
}

#[tokio::test]
async fn our_hook_on_a_group_without_a_cluster_tag_is_an_error() {
    let environment = Environment::new(vec![pod("web")]).with(|state| "Name".clone_into(&mut state.tag));
    let error = handle(&drainer(&environment, store()).await, &environment, &environment.event())
        .await
        .expect_err("no cluster tag");
    let expected = "failed to find the cluster of group workers: it has the hook, but no cluster tag";
    assert_eq!(error.to_string(), expected);
    assert!(environment.state().held);
}

#[tokio::test]
async fn a_drain_waits_for_an_unavailable_api_server() {
    let environment =
        Environment::new(vec![pod("web")]).with(|state| state.unavailable_until = Some(after(90)));
    assert!(is_emptied(&drained(&environment).await));
    let state = environment.state();
    assert!(state.heartbeats.len() >= 6, "{:?}", state.heartbeats);
    assert!(state.completions[0] >= after(90));
}

#[tokio::test]
async fn an_api_server_that_stays_unavailable_does_not_stop_the_termination() {
    let environment =
        Environment::new(vec![pod("web")]).with(|state| state.unavailable_until = Some(after(100_000)));
    let drained = drained(&environment).await;
    let DrainOutcome::Incomplete { left, why: Some(why) } = drained.outcome else { panic!("{drained:?}") };
    assert_eq!(
        (left.len(), why.as_str()),
        (0, "failed to reach the Kubernetes API: HTTP 503: apiserver is shutting down")
    );
    assert_eq!(environment.state().completions, [after(600)]);
}

#[tokio::test]
async fn a_drain_without_access_ends_within_a_minute_with_its_reason() {
    let environment = Environment::new(vec![pod("web")]).with(|state| state.denied = true);
    let drained = drained(&environment).await;
    let DrainOutcome::Incomplete { why: Some(why), .. } = drained.outcome else { panic!("{drained:?}") };
    let expected =
        "the Kubernetes API refused the request (check the access entry and RBAC): nodes is forbidden";
    assert!(why.starts_with(expected), "{why}");
    let completed = environment.state().completions[0];
    assert!(completed >= after(30) && completed < after(60), "{completed}");
}

#[tokio::test]
async fn a_rejected_token_is_renewed_once() {
    let environment = Environment::new(vec![pod("web")]).with(|state| state.rejected_tokens = 1);
    assert!(is_emptied(&drained(&environment).await));
    let state = environment.state();
    assert!(state.tokens.iter().all(|token| token.starts_with("Bearer k8s-aws-v1.")));
}

#[tokio::test]
async fn a_server_with_another_certificate_authority_gets_no_token() {
    let environment = Environment::new(vec![pod("web")]);
    let ((_, authority), (tls, _)) = (http::tls(), http::tls());
    let drainer = drainer_with(&environment, store(), tls, authority).await;
    let drained =
        handle(&drainer, &environment, &environment.event()).await.expect("drain succeeds").expect("a drain");
    let DrainOutcome::Incomplete { why: Some(why), .. } = drained.outcome else { panic!("{drained:?}") };
    assert!(why.contains("certificate"), "{why}");
    let state = environment.state();
    assert!(state.requests.is_empty());
    assert_eq!(state.completions.len(), 1);
}
