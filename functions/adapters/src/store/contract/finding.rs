//! What is found without its key: what is due, what is unwell, by whose name, in which cluster.

use std::collections::BTreeMap;

use nodemend_domain::{
    case::Attention,
    ident::Zone,
    policy::{Hold, Mode, Policy},
};

use super::{Furnished, at, attention, cluster, instance, key, new_case, node, put};

/// Whatever the order of their writes; the bound itself included.
pub async fn the_longest_overdue_come_first<S: Furnished>(store: &S) {
    let due = [(1, 50), (2, 10), (3, 40), (4, 20), (5, 30), (6, 61), (7, 60)];
    for (number, seconds) in due {
        let mut case = new_case(number);
        case.due = Some(at(seconds));
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
        case.due = Some(at(1_000 - 7 * number as i64));
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
        case.due = due.map(at);
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
        case.cluster = cluster(if number % 2 == 0 { "prod" } else { "test" });
        case.due = Some(at(due));
        put(store, &mut case).await;
    }
    assert_eq!(store.next_due().await, Ok(Some(at(100))));
}

/// They come, change and go with their cases.
pub async fn the_unwell_of_a_cluster_are_all_that_count_and_no_others<S: Furnished>(store: &S) {
    let mut cases: Vec<_> = (1..=3).map(new_case).collect();
    let silent = Attention { since: at(3), silent: true, unhealthy: false };
    cases[0].attention = Some(attention(1));
    cases[0].zone = Some(Zone::new("us-east-1a").expect("a zone"));
    cases[1].attention = Some(silent.clone());
    for case in &mut cases {
        put(store, case).await;
    }
    let unwell = async || -> BTreeMap<_, _> {
        let unwell = store.unwell(&cluster("prod")).await.expect("a read");
        let count = unwell.len();
        let by_instance: BTreeMap<_, _> =
            unwell.into_iter().map(|node| (node.instance_id, (node.zone, node.attention))).collect();
        assert_eq!(by_instance.len(), count, "each once");
        by_instance
    };
    let (zone, none) = (cases[0].zone.clone(), None);
    let expected = [(instance(1), (zone.clone(), attention(1))), (instance(2), (none, silent))];
    assert_eq!(unwell().await, BTreeMap::from(expected));
    cases[0].attention = Some(attention(2));
    cases[1].attention = None;
    for case in &mut cases[..2] {
        put(store, case).await;
    }
    assert_eq!(unwell().await, BTreeMap::from([(instance(1), (zone, attention(2)))]));
    assert_eq!(store.unwell(&cluster("test")).await, Ok(Vec::new()));
}

/// A name goes from an instance to the one that replaces it.
pub async fn a_node_name_leads_to_its_instances_the_newest_last<S: Furnished>(store: &S) {
    // Not in the order of their ids.
    for number in [5, 2, 9] {
        let mut case = new_case(number);
        put(store, &mut case).await;
        case.node = Some(node(1));
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
        case.cluster = cluster(name);
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
