//! The store in memory keeps the store's contract, and keeps it between threads, too.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    case::Case,
    ident::{ClusterName, GroupName, InstanceId},
};
use nodemend_ports::store::{CaseKey, CaseWrite, Commit, MemoryStore, Store};

nodemend_testkit::store_contract!(pollster::block_on, async { MemoryStore::default() });

#[test]
fn threads_that_claim_at_once_get_as_many_places_as_there_are() {
    const ALLOWED: usize = 5;
    let store = MemoryStore::default();
    let start = Arc::new(std::sync::Barrier::new(8));
    let cluster = ClusterName::new("prod").expect("a name");
    let group_name = GroupName::new("workers").expect("a name");
    let claims = (0..8).map(|thread| {
        let (store, start) = (store.clone(), start.clone());
        let (cluster, group_name) = (cluster.clone(), group_name.clone());
        std::thread::spawn(move || {
            start.wait();
            let claim = |number: u64| {
                let instance_id = InstanceId::new(format!("i-{number:017x}")).expect("an id");
                let case = Case::new(cluster.clone(), instance_id.clone());
                loop {
                    let mut group = pollster::block_on(store.group(&cluster, &group_name)).expect("a memory");
                    if group.slots().len() >= ALLOWED {
                        return 0;
                    }
                    group.acquire_slot(instance_id.clone(), Timestamp::UNIX_EPOCH);
                    let change = CaseWrite { case: &case, group: Some(&group), entries: &[] };
                    if pollster::block_on(store.commit(change)).expect("a memory") == Commit::Won {
                        return 1;
                    }
                }
            };
            (0..25).map(|n| claim(thread * 25 + n)).sum::<usize>()
        })
    });
    let claims: Vec<_> = claims.collect();
    let won: usize = claims.into_iter().map(|thread| thread.join().expect("a thread")).sum();
    assert_eq!(won, ALLOWED);
    assert_eq!(store.cases().len(), ALLOWED);
    assert!(store.cases().iter().all(|case| {
        let key = CaseKey::of(case);
        pollster::block_on(store.case(&key)).expect("a memory").is_some_and(|case| case.version() == 1)
    }));
}
