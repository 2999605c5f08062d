//! What is written is there, whole or not at all, and once.

use nodemend_domain::{
    audit_log::{RecordStep, verify_chain},
    sources::{ClusterSources, Freshness},
};
use serde_json::json;

use crate::edit;

use super::{
    CaseKey, CaseWrite, Commit, ConfigurableStore, at, call, cluster, cluster_named, instance, key, new_case,
    node, put, read, step, unhealthy_reason, workers, write,
};

/// No case, no cluster, no policy and no records; the group is new.
pub async fn an_empty_store_finds_nothing<S: ConfigurableStore>(store: &S) {
    assert_eq!(store.case(&key(1)).await, Ok(None));
    assert_eq!(store.cluster_of_instance(&instance(1)).await, Ok(None));
    assert_eq!(store.instances_of_node(&cluster(), &node(1)).await, Ok(Vec::new()));
    assert_eq!(store.due(at(1_000_000), 10).await, Ok(Vec::new()));
    assert_eq!(store.next_due().await, Ok(None));
    assert_eq!(store.unhealthy_nodes(&cluster()).await, Ok(Vec::new()));
    assert_eq!(store.holds(&cluster()).await, Ok(Vec::new()));
    assert_eq!(store.chain(&key(1)).await, Ok(Vec::new()));
    assert_eq!(store.call("nobody's").await, Ok(None));
    let group = store.group(&cluster(), &workers()).await.expect("a read");
    assert_eq!((group.version(), group.slots().len(), group.name()), (0, 0, &workers()));
}

/// All its fields, with the next version.
pub async fn a_case_is_read_as_it_was_written<S: ConfigurableStore>(store: &S) {
    let mut case = new_case(1);
    edit(&mut case, json!({ "node": node(1) }));
    edit(&mut case, json!({ "group": workers() }));
    edit(&mut case, json!({ "due": at(60) }));
    edit(&mut case, json!({ "unhealthyReason": unhealthy_reason(7) }));
    edit(&mut case, json!({ "agentLastSeen": at(5) + jiff::SignedDuration::from_millis(250) }));
    let how = "Zoë (IAM user) terminated it: \"why\"\u{2028}…";
    edit(&mut case, json!({ "departure": { "at": at(9), "how": how, "foreign": true } }));
    put(store, &mut case).await;
    assert_eq!(case.version(), 1);
    assert_eq!(read(store, &key(1)).await, case);
    edit(&mut case, json!({ "due": null }));
    edit(&mut case, json!({ "unhealthyReason": null }));
    edit(&mut case, json!({ "departure": null }));
    put(store, &mut case).await;
    assert_eq!(case.version(), 2);
    assert_eq!(read(store, &key(1)).await, case);
}

/// Of two writers that found no case, one wins.
pub async fn a_case_is_created_once<S: ConfigurableStore>(store: &S) {
    let (mut first, mut second) = (new_case(1), new_case(1));
    edit(&mut first, json!({ "due": at(1) }));
    edit(&mut second, json!({ "due": at(2) }));
    assert_eq!(write(store, &first, &[]).await, Commit::Won);
    assert_eq!(write(store, &second, &[]).await, Commit::Lost);
    assert_eq!(read(store, &key(1)).await.due(), Some(at(1)));
    assert_eq!(store.due(at(10), 10).await, Ok(vec![key(1)]));
}

/// Neither the case nor its indexes change, whether the version is too old or too new.
pub async fn a_write_of_another_version_is_lost_and_changes_nothing<S: ConfigurableStore>(store: &S) {
    let mut case = new_case(1);
    edit(&mut case, json!({ "due": at(10) }));
    put(store, &mut case).await;
    let old = case.clone();
    edit(&mut case, json!({ "due": at(20) }));
    put(store, &mut case).await;
    for version in [0, old.version(), case.version() + 1] {
        let mut stale = old.clone();
        edit(&mut stale, json!({ "version": version }));
        edit(&mut stale, json!({ "due": at(1) }));
        edit(&mut stale, json!({ "node": node(9) }));
        edit(&mut stale, json!({ "unhealthyReason": unhealthy_reason(1) }));
        let entry = step(&mut stale, RecordStep::Claimed);
        assert_eq!(write(store, &stale, &[entry]).await, Commit::Lost, "{version}");
    }
    assert_eq!(read(store, &key(1)).await, case);
    assert_eq!(store.next_due().await, Ok(Some(at(20))));
    assert_eq!(store.unhealthy_nodes(&cluster()).await, Ok(Vec::new()));
    assert_eq!(store.instances_of_node(&cluster(), &node(9)).await, Ok(Vec::new()));
    assert_eq!(store.chain(&key(1)).await, Ok(Vec::new()));
}

/// If the group's version is stale, the case and its records are not written either.
pub async fn case_group_and_audit_records_are_written_together_or_not_at_all<S: ConfigurableStore>(
    store: &S,
) {
    let mut case = new_case(1);
    put(store, &mut case).await;
    let mut group = store.group(&cluster(), &workers()).await.expect("a read");
    let empty = group.clone();
    group.acquire_slot(instance(1), "NodeStatusUnknown", at(0));
    edit(&mut case, json!({ "due": at(30) }));
    let entry = step(&mut case, RecordStep::Claimed);
    let change = CaseWrite { case: &case, group: Some(&group), entries: std::slice::from_ref(&entry) };
    assert_eq!(store.commit(change).await, Ok(Commit::Won));
    case = case.next_version();
    group = group.next_version();
    assert_eq!(read(store, &key(1)).await, case);
    assert_eq!(store.group(&cluster(), &workers()).await, Ok(group.clone()));
    assert_eq!(store.chain(&key(1)).await, Ok(vec![entry]));

    let mut other = new_case(2);
    edit(&mut other, json!({ "due": at(1) }));
    let mut stale = empty;
    stale.acquire_slot(instance(2), "NodeStatusUnknown", at(0));
    let entry = step(&mut other, RecordStep::Claimed);
    let change = CaseWrite { case: &other, group: Some(&stale), entries: &[entry] };
    assert_eq!(store.commit(change).await, Ok(Commit::Lost));
    assert_eq!(store.case(&key(2)).await, Ok(None));
    assert_eq!(store.cluster_of_instance(&instance(2)).await, Ok(None));
    assert_eq!(store.chain(&key(2)).await, Ok(Vec::new()));
    assert_eq!(store.next_due().await, Ok(Some(at(30))));
    assert_eq!(store.group(&cluster(), &workers()).await, Ok(group));
}

/// Each sequence number of an audit log is used once, and none is omitted.
pub async fn an_audit_record_is_never_overwritten<S: ConfigurableStore>(store: &S) {
    let mut case = new_case(1);
    let entry = step(&mut case, RecordStep::Claimed);
    assert_eq!(write(store, &case, std::slice::from_ref(&entry)).await, Commit::Won);
    case = case.next_version();
    let mut forged = entry.clone();
    forged.line = forged.line.replace("a decision", "a changed decision");
    assert_eq!(write(store, &case, &[forged]).await, Commit::Lost);
    let mut skipped = case.clone();
    let _unwritten = step(&mut skipped, RecordStep::Observed);
    let later = step(&mut skipped, RecordStep::Closed);
    assert_eq!(write(store, &skipped, &[later]).await, Commit::Lost);
    assert_eq!(store.chain(&key(1)).await, Ok(vec![entry]));
    assert_eq!(read(store, &key(1)).await, case);
}

/// In the order of the sequence numbers, byte for byte, up to the last record that the case knows.
pub async fn an_audit_log_is_read_as_one_chain<S: ConfigurableStore>(store: &S) {
    let mut case = new_case(1);
    let mut written = Vec::new();
    // More than nine, so that an order by text would show; some writes carry two.
    for round in 0..12 {
        let mut entries = vec![step(&mut case, RecordStep::Claimed)];
        if round % 3 == 0 {
            entries.push(call(&mut case, &format!("request-{round}")));
        }
        assert_eq!(write(store, &case, &entries).await, Commit::Won);
        case = case.next_version();
        written.extend(entries);
    }
    let chain = store.chain(&key(1)).await.expect("a read");
    assert_eq!(chain, written);
    let end = verify_chain(chain.iter().map(|entry| &entry.line)).expect("a chain");
    assert_eq!(end, *read(store, &key(1)).await.audit_log());
}

/// The record, and the case that it belongs to.
pub async fn a_call_is_found_by_its_request_id<S: ConfigurableStore>(store: &S) {
    for number in [1, 2] {
        let mut case = new_case(number);
        let entries = [
            step(&mut case, RecordStep::Claimed),
            call(&mut case, &format!("request-{number}")),
            step(&mut case, RecordStep::Closed),
        ];
        assert_eq!(write(store, &case, &entries).await, Commit::Won);
        let found = store.call(&format!("request-{number}")).await;
        assert_eq!(found, Ok(Some((key(number), entries[1].clone()))));
    }
    assert_eq!(store.call("request-").await, Ok(None));
    assert_eq!(store.call("").await, Ok(None));
}

/// The same instance ID and node name in two clusters are two cases.
pub async fn clusters_are_separate<S: ConfigurableStore>(store: &S) {
    let names = ["prod", "prod-2"].map(cluster_named);
    for (number, name) in names.iter().enumerate() {
        let mut case = new_case(number as u64);
        edit(&mut case, json!({ "cluster": name.clone() }));
        edit(&mut case, json!({ "node": node(1) }));
        edit(&mut case, json!({ "unhealthyReason": unhealthy_reason(0) }));
        let mut group = store.group(name, &workers()).await.expect("a read");
        group.acquire_slot(case.instance_id().clone(), "NodeStatusUnknown", at(0));
        let change = CaseWrite { case: &case, group: Some(&group), entries: &[] };
        assert_eq!(store.commit(change).await, Ok(Commit::Won));
    }
    for (number, name) in names.iter().enumerate() {
        let own = instance(number as u64);
        assert_eq!(store.instances_of_node(name, &node(1)).await, Ok(vec![own.clone()]));
        let unhealthy_nodes = store.unhealthy_nodes(name).await.expect("a read");
        assert_eq!(unhealthy_nodes.iter().map(|node| &node.instance_id).collect::<Vec<_>>(), [&own]);
        let group = store.group(name, &workers()).await.expect("a read");
        assert_eq!((group.slots().len(), &group.slots()[0].instance_id), (1, &own));
        let others = CaseKey { cluster: names[1 - number].clone(), instance_id: own };
        assert_eq!(store.case(&others).await, Ok(None));
    }
}

/// What was known of a cluster's sources is replaced by what is known now.
pub async fn the_sources_of_a_cluster_are_replaced_as_a_whole<S: ConfigurableStore>(store: &S) {
    assert_eq!(store.sources(&cluster()).await, Ok(None));
    let listed = ClusterSources {
        listed_at: Some(at(0)),
        nodes: [instance(1), instance(2)].into(),
        ..ClusterSources::default()
    };
    let read = ClusterSources {
        reads_audit_log: true,
        audit_log: Some(Freshness { newest: Some(at(1)), checked_at: at(2) }),
        log_read_to: Some(at(2)),
        ..ClusterSources::default()
    };
    for known in [listed, read] {
        assert_eq!(store.put_sources(&cluster(), &known).await, Ok(()));
        assert_eq!(store.sources(&cluster()).await, Ok(Some(known)));
    }
    assert_eq!(store.sources(&cluster_named("other")).await, Ok(None));
}
