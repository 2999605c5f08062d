//! What is found without its key: what is due, what is unwell, by whose name, in which cluster.

use crate::edit;
use serde_json::json;
use std::collections::BTreeMap;

use nodemend_domain::{
    case::UnhealthyReason,
    ident::Zone,
    policy::{Hold, Mode, Policy},
};

use super::{Furnished, at, cluster, instance, key, new_case, node, put, unhealthy_reason};

/// Whatever the order of their writes; the bound itself included.
pub async fn the_longest_overdue_come_first<S: Furnished>(store: &S) {
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

/// And of more than that, the longest overdue.
pub async fn no_more_are_due_than_were_asked_for<S: Furnished>(store: &S) {
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

/// Moved earlier, moved later, taken out, put back.
pub async fn a_case_is_due_once_and_at_its_newest_time<S: Furnished>(store: &S) {
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

/// Of all clusters.
pub async fn the_next_due_time_is_the_earliest<S: Furnished>(store: &S) {
    for (number, due) in (0..20).map(|number| (number, 100 + (number as i64 * 7) % 20)) {
        let mut case = new_case(number);
        edit(&mut case, json!({ "cluster": cluster(if number % 2 == 0 { "prod" } else { "test" }) }));
        edit(&mut case, json!({ "due": at(due) }));
        put(store, &mut case).await;
    }
    assert_eq!(store.next_due().await, Ok(Some(at(100))));
}

/// They come, change and go with their cases.
pub async fn the_unwell_of_a_cluster_are_all_that_count_and_no_others<S: Furnished>(store: &S) {
    let mut cases: Vec<_> = (1..=3).map(new_case).collect();
    let silent = UnhealthyReason { since: at(3), silent: true, unhealthy: false };
    edit(&mut cases[0], json!({ "unhealthyReason": unhealthy_reason(1) }));
    edit(&mut cases[0], json!({ "zone": Zone::new("us-east-1a").expect("a zone") }));
    edit(&mut cases[1], json!({ "unhealthyReason": silent.clone() }));
    for case in &mut cases {
        put(store, case).await;
    }
    let unhealthy_nodes = async || -> BTreeMap<_, _> {
        let unhealthy_nodes = store.unhealthy_nodes(&cluster("prod")).await.expect("a read");
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
    assert_eq!(store.unhealthy_nodes(&cluster("test")).await, Ok(Vec::new()));
}

/// A name goes from an instance to the one that replaces it.
pub async fn a_node_name_leads_to_its_instances_the_newest_last<S: Furnished>(store: &S) {
    // Not in the order of their ids.
    for number in [5, 2, 9] {
        let mut case = new_case(number);
        put(store, &mut case).await;
        edit(&mut case, json!({ "node": node(1) }));
        put(store, &mut case).await;
        put(store, &mut case).await;
    }
    let known = store.instances_of_node(&cluster("prod"), &node(1)).await;
    assert_eq!(known, Ok([5, 2, 9].map(instance).to_vec()));
    assert_eq!(store.instances_of_node(&cluster("prod"), &node(2)).await, Ok(Vec::new()));
}

/// An instance id is AWS's: it is in one cluster.
pub async fn an_instance_leads_to_its_cluster<S: Furnished>(store: &S) {
    for (number, name) in [(1, "prod"), (2, "test")] {
        let mut case = new_case(number);
        edit(&mut case, json!({ "cluster": cluster(name) }));
        put(store, &mut case).await;
        put(store, &mut case).await;
        assert_eq!(store.cluster_of_instance(&instance(number)).await, Ok(Some(cluster(name))));
    }
    assert_eq!(store.cluster_of_instance(&instance(3)).await, Ok(None));
}

/// The newest policy, every hold.
pub async fn policies_and_holds_are_a_clusters_own<S: Furnished>(store: &S) {
    let (prod, test) = (cluster("prod"), cluster("test"));
    let observing = Policy::default();
    let mut repairing = Policy::eks_defaults();
    repairing.mode = Mode::Repair;
    store.set_policy(&prod, observing).await;
    store.set_policy(&prod, repairing.clone()).await;
    assert_eq!(store.policy(&prod).await.expect("a read").as_deref(), Some(&repairing));
    assert_eq!(store.policy(&test).await, Ok(None), "not ours to serve");
    let hold = |owner: &str| Hold {
        cluster: None,
        group: None,
        node: Some(node(1)),
        owner: owner.to_owned(),
        reason: "kernel test".to_owned(),
        from: Some(at(1)),
        until: at(2),
    };
    for owner in ["alice", "bob"] {
        store.place_hold(&prod, hold(owner)).await;
    }
    let mut holds = store.holds(&prod).await.expect("a read");
    holds.sort_by(|one, other| one.owner.cmp(&other.owner));
    assert_eq!(holds, [hold("alice"), hold("bob")]);
    assert_eq!(store.holds(&test).await, Ok(Vec::new()));
}
