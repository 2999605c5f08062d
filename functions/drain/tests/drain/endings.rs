//! What is not drained, and what goes on all the same.

use nodemend_domain::{case::Case, ident::ClusterName};
use nodemend_drain::DrainOutcome;
use nodemend_ports::store::{CaseWrite, Commit, MemoryStore, Store};
use nodemend_testkit::edit;
use serde_json::json;

use crate::{
    CLUSTER, cluster, connected, drained, drainer, emptied, instance, store, take,
    world::{World, after, began, event, pod},
};

/// A store that knows this of the instance.
async fn knowing(change: impl FnOnce(&mut Case)) -> MemoryStore {
    let store = store();
    let mut case = Case::new(ClusterName::new(CLUSTER).expect("a name"), instance());
    change(&mut case);
    let commit = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
    assert_eq!(commit.expect("written"), Commit::Won);
    store
}

/// Skipped: nothing was evicted, the hook was completed at once, and this was said.
async fn skipped(world: World, store: MemoryStore) -> String {
    let drainer = drainer(&world, store).await;
    let drained = take(&drainer, &world, &world.event()).await.expect("an end").expect("one of ours");
    let DrainOutcome::Skipped(dead) = drained.outcome else { panic!("{drained:?}") };
    let state = world.now();
    assert_eq!((state.completions.clone(), state.evictions.len()), (vec![began()], 0));
    dead.to_string()
}

#[tokio::test]
async fn a_dead_node_is_let_go_at_once() {
    for ready in ["False", "Unknown"] {
        let world = World::new(vec![pod("web")]).with(|state| state.ready = ready);
        assert_eq!(skipped(world, store()).await, format!("its condition Ready is {ready}"));
    }
    let world = World::new(vec![pod("web")]).with(|state| state.there = false);
    assert_eq!(skipped(world, store()).await, "its node object is gone");
}

#[tokio::test]
async fn a_node_that_has_the_name_and_is_another_instances_is_not_touched() {
    let other = "aws:///eu-west-1a/i-00000000000000001";
    let world = World::new(vec![pod("web")]).with(|state| other.clone_into(&mut state.provider_id));
    assert_eq!(skipped(world.clone(), store()).await, "the node of its name is another instance's");
    assert_eq!(world.now().cordoned, None);
}

#[tokio::test]
async fn what_our_case_says_is_gone_is_asked_of_nobody() {
    let store = knowing(|case| {
        edit(case, json!({ "departure": { "at": began(), "how": "the cloud controller deleted it" } }));
    })
    .await;
    let world = World::new(vec![pod("web")]);
    let said = skipped(world.clone(), store).await;
    assert_eq!(said, "its instance is gone since 2026-08-20T09:55:00Z: the cloud controller deleted it");
    assert!(world.now().requests.is_empty());
}

#[tokio::test]
async fn the_name_that_our_case_knows_goes_before_the_one_that_aws_gave() {
    let store = knowing(|case| edit(case, json!({ "node": crate::node() }))).await;
    let world = World::new(vec![pod("web")])
        .with(|state| "ip-10-9-9-9.eu-west-1.compute.internal".clone_into(&mut state.private_name));
    let drainer = drainer(&world, store).await;
    let drained = take(&drainer, &world, &world.event()).await.expect("an end").expect("one of ours");
    assert!(emptied(&drained), "{drained:?}");
}

#[tokio::test]
async fn an_instance_that_never_had_a_node_is_let_go_at_once() {
    let world = World::new(Vec::new()).with(|state| state.private_name.clear());
    assert_eq!(skipped(world, store()).await, "it never had a node");
}

#[tokio::test]
async fn a_node_that_dies_while_it_is_drained_is_waited_for_no_longer() {
    let slow = crate::world::Pod { ends_in: jiff::SignedDuration::from_hours(1), ..pod("slow") };
    let world = World::new(vec![slow]).with(|state| state.dies_at = Some(after(60)));
    let drained = drained(&world).await;
    assert!(matches!(drained.outcome, DrainOutcome::Skipped(_)), "{drained:?}");
    assert!(world.now().completions[0] < after(70));
}

#[tokio::test]
async fn hooks_of_others_and_groups_of_others_are_left_alone() {
    let world = World::new(vec![pod("web")]);
    let subject = drainer(&world, store()).await;
    assert_eq!(take(&subject, &world, &event("Terminate-LC-Hook", began())).await.expect("an end"), None);
    let launch = world.event().replace("EC2_INSTANCE_TERMINATING", "EC2_INSTANCE_LAUNCHING");
    assert_eq!(take(&subject, &world, &launch).await.expect("an end"), None);
    let other = world.clone().with(|state| "kubernetes.io/cluster/other".clone_into(&mut state.tag));
    assert_eq!(take(&subject, &other, &other.event()).await.expect("an end"), None);
    let gone = world.clone().with(|state| state.tag.clear());
    assert_eq!(take(&subject, &gone, &gone.event()).await.expect("an end"), None);
    let state = world.now();
    assert!(state.held && state.beats.is_empty() && state.requests.is_empty());
}

#[tokio::test]
async fn a_hook_of_ours_on_a_group_that_is_nobodys_is_told() {
    let world = World::new(vec![pod("web")]).with(|state| "Name".clone_into(&mut state.tag));
    let error = take(&drainer(&world, store()).await, &world, &world.event()).await.expect_err("nobody's");
    let expected = "failed to find whose the group workers is: it has the hook, and no tag of a cluster";
    assert_eq!(error.to_string(), expected);
    assert!(world.now().held);
}

#[tokio::test]
async fn an_api_server_that_comes_back_is_waited_for() {
    let world = World::new(vec![pod("web")]).with(|state| state.down_until = Some(after(90)));
    assert!(emptied(&drained(&world).await));
    let state = world.now();
    assert!(state.beats.len() >= 6, "{:?}", state.beats);
    assert!(state.completions[0] >= after(90));
}

#[tokio::test]
async fn an_api_server_that_does_not_come_back_stops_no_termination() {
    let world = World::new(vec![pod("web")]).with(|state| state.down_until = Some(after(100_000)));
    let drained = drained(&world).await;
    let DrainOutcome::Incomplete { left, why: Some(why) } = drained.outcome else { panic!("{drained:?}") };
    assert_eq!(
        (left.len(), why.as_str()),
        (0, "failed to reach the Kubernetes API: HTTP 503: apiserver is shutting down")
    );
    assert_eq!(world.now().completions, [after(600)]);
}

#[tokio::test]
async fn who_is_not_let_in_gives_up_within_a_minute_and_says_so() {
    let world = World::new(vec![pod("web")]).with(|state| state.denied = true);
    let drained = drained(&world).await;
    let DrainOutcome::Incomplete { why: Some(why), .. } = drained.outcome else { panic!("{drained:?}") };
    assert!(why.starts_with("failed to be let in by the Kubernetes API: nodes is forbidden"), "{why}");
    let completed = world.now().completions[0];
    assert!(completed >= after(30) && completed < after(60), "{completed}");
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_made_anew_once() {
    let world = World::new(vec![pod("web")]).with(|state| state.strangers = 1);
    assert!(emptied(&drained(&world).await));
    let state = world.now();
    assert!(state.tokens.iter().all(|token| token.starts_with("Bearer k8s-aws-v1.")));
}

#[tokio::test]
async fn a_server_that_another_authority_vouches_for_gets_no_token() {
    let world = World::new(vec![pod("web")]);
    let ((_, authority), (tls, _)) = (cluster::tls(), cluster::tls());
    let drainer = connected(&world, store(), tls, authority).await;
    let drained = take(&drainer, &world, &world.event()).await.expect("an end").expect("one of ours");
    let DrainOutcome::Incomplete { why: Some(why), .. } = drained.outcome else { panic!("{drained:?}") };
    assert!(why.contains("certificate"), "{why}");
    let state = world.now();
    assert!(state.requests.is_empty());
    assert_eq!(state.completions.len(), 1);
}
