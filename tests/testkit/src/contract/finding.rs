//! Queries without a key: due cases, unhealthy nodes, the instances of a node name, the cluster of an instance.

use std::collections::BTreeMap;

use nodemend_domain::{
    case::UnhealthyReason,
    policy::{Hold, Mode, Policy},
};
use serde_json::json;

use crate::{
    edit,
    fixture::{hold_until, zone},
};

use super::{
    ConfigurableStore, at, cluster, cluster_named, instance, key, new_case, node, put, unhealthy_reason,
};

/// In whatever order they were written, and including those due exactly at the bound.
pub async fn the_longest_overdue_cases_come_first<S: ConfigurableStore>(store: &S) {
    let due = [(1, 50), (2, 10), (3, 40), (4, 20), (5, 30), (6, 61), (7, 60)];
    for (number, seconds) in due {
        let mut case = new_case(number);
        edit(&mut case, json!({ "due": at(seconds) }));
        put(store, &mut case).await;
    }
    put(store, &mut new_case(8)).await;
    let order = [2, 4, 5, 3, 1, 7].map(key).to_vec();
    assert_eq!(store.due(at(60), 100).await, Ok(order));
    assert_eq!(store.due(at(9), 100).await, Ok(Vec::new()));
}

/// If there are more than the limit, the longest overdue are found.
pub async fn due_cases_are_limited_to_the_longest_overdue<S: ConfigurableStore>(store: &S) {
    for number in 0..60 {
        let mut case = new_case(number);
        edit(&mut case, json!({ "due": at(1_000 - 7 * number as i64) }));
        put(store, &mut case).await;
    }
    for limit in [1, 7, 60, 100] {
        let due = store.due(at(1_000), limit).await.expect("a read");
        let expected: Vec<_> = (0..60).rev().take(limit).map(key).collect();
        assert_eq!(due, expected, "{limit}");
    }
    assert_eq!(store.due(at(1_000), 0).await, Ok(Vec::new()));
}

/// Also after its due time was moved earlier, moved later, removed and set again.
pub async fn a_case_is_due_once_at_its_newest_time<S: ConfigurableStore>(store: &S) {
    let mut case = new_case(1);
    for due in [Some(50), Some(10), Some(90), None, Some(90), Some(90)] {
        edit(&mut case, json!({ "due": due.map(at) }));
        put(store, &mut case).await;
        let expected = if due.is_some() { vec![key(1)] } else { Vec::new() };
        assert_eq!(store.due(at(100), 100).await, Ok(expected), "{due:?}");
        assert_eq!(store.next_due().await, Ok(due.map(at)));
        if let Some(due) = due {
            assert_eq!(store.due(at(due - 1), 100).await, Ok(Vec::new()), "{due}");
        }
    }
}

/// In all clusters.
pub async fn the_next_due_time_is_the_earliest<S: ConfigurableStore>(store: &S) {
    for (number, due) in (0..20).map(|number| (number, 100 + (number as i64 * 7) % 20)) {
        let mut case = new_case(number);
        edit(&mut case, json!({ "cluster": cluster_named(if number % 2 == 0 { "prod" } else { "test" }) }));
        edit(&mut case, json!({ "due": at(due) }));
        put(store, &mut case).await;
    }
    assert_eq!(store.next_due().await, Ok(Some(at(100))));
}

/// They appear, change and disappear with their cases.
pub async fn the_unhealthy_nodes_of_a_cluster_are_found_once_each<S: ConfigurableStore>(store: &S) {
    let mut cases: Vec<_> = (1..=3).map(new_case).collect();
    let silent = UnhealthyReason { since: at(3), silent: true, ..UnhealthyReason::default() };
    edit(&mut cases[0], json!({ "unhealthyReason": unhealthy_reason(1) }));
    edit(&mut cases[0], json!({ "zone": zone() }));
    edit(&mut cases[1], json!({ "unhealthyReason": silent.clone() }));
    for case in &mut cases {
        put(store, case).await;
    }
    let unhealthy_nodes = async || -> BTreeMap<_, _> {
        let unhealthy_nodes = store.unhealthy_nodes(&cluster()).await.expect("a read");
        let count = unhealthy_nodes.len();
        let by_instance: BTreeMap<_, _> = unhealthy_nodes
            .into_iter()
            .map(|node| (node.instance_id, (node.zone, node.unhealthy_reason)))
            .collect();
        assert_eq!(by_instance.len(), count, "each once");
        by_instance
    };
    let (zone, none) = (cases[0].zone().cloned(), None);
    let expected = [(instance(1), (zone.clone(), unhealthy_reason(1))), (instance(2), (none, silent))];
    assert_eq!(unhealthy_nodes().await, BTreeMap::from(expected));
    edit(&mut cases[0], json!({ "unhealthyReason": unhealthy_reason(2) }));
    edit(&mut cases[1], json!({ "unhealthyReason": null }));
    for case in &mut cases[..2] {
        put(store, case).await;
    }
    assert_eq!(unhealthy_nodes().await, BTreeMap::from([(instance(1), (zone, unhealthy_reason(2)))]));
    assert_eq!(store.unhealthy_nodes(&cluster_named("test")).await, Ok(Vec::new()));
}

/// A replacement may have the node name of the replaced instance. What only an agent claims comes first.
pub async fn the_instances_of_a_node_name_are_found_newest_last<S: ConfigurableStore>(store: &S) {
    // Not in the order of their ids.
    for number in [5, 2, 9] {
        let mut case = new_case(number);
        put(store, &mut case).await;
        edit(&mut case, json!({ "node": node(1), "registered": at(0) }));
        put(store, &mut case).await;
        put(store, &mut case).await;
    }
    // An agent can claim any name.
    let mut claim = new_case(7);
    edit(&mut claim, json!({ "node": node(1) }));
    put(store, &mut claim).await;
    let known = store.instances_of_node(&cluster(), &node(1)).await;
    assert_eq!(known, Ok([7, 5, 2, 9].map(instance).to_vec()));
    assert_eq!(store.instances_of_node(&cluster(), &node(2)).await, Ok(Vec::new()));
}

/// An instance ID is unique in AWS, so that it is in one cluster.
pub async fn the_cluster_of_an_instance_is_found<S: ConfigurableStore>(store: &S) {
    for (number, name) in [(1, "prod"), (2, "test")] {
        let mut case = new_case(number);
        edit(&mut case, json!({ "cluster": cluster_named(name) }));
        put(store, &mut case).await;
        put(store, &mut case).await;
        assert_eq!(store.cluster_of_instance(&instance(number)).await, Ok(Some(cluster_named(name))));
    }
    assert_eq!(store.cluster_of_instance(&instance(3)).await, Ok(None));
}

/// The newest policy and all holds are found.
pub async fn policies_and_holds_belong_to_one_cluster<S: ConfigurableStore>(store: &S) {
    let (prod, test) = (cluster(), cluster_named("test"));
    let observing = Policy::default();
    let mut repairing = Policy::eks_defaults();
    repairing.mode = Mode::Repair;
    store.set_policy(&prod, observing).await;
    store.set_policy(&prod, repairing.clone()).await;
    assert_eq!(store.policy(&prod).await.expect("a read").as_deref(), Some(&repairing));
    assert_eq!(store.policy(&test).await, Ok(None), "a cluster that is not served");
    let hold = |owner: &str| Hold {
        node: Some(node(1)),
        owner: owner.to_owned(),
        from: Some(at(1)),
        ..hold_until(at(2))
    };
    for owner in ["alice", "bob"] {
        store.place_hold(&prod, hold(owner)).await;
    }
    let mut holds = store.holds(&prod).await.expect("a read");
    holds.sort_by(|one, other| one.owner.cmp(&other.owner));
    assert_eq!(holds, [hold("alice"), hold("bob")]);
    assert_eq!(store.holds(&test).await, Ok(Vec::new()));
}
