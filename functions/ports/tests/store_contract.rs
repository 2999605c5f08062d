//! The store in memory keeps the contract of every store, also between threads.

use std::sync::Arc;

use nodemend_domain::case::Case;
use nodemend_ports::store::{CaseKey, CaseWrite, Commit, MemoryStore, Store};
use nodemend_testkit::fixture::{at, cluster, group, instance};

nodemend_testkit::store_contract!(pollster::block_on, async { MemoryStore::default() });

#[test]
fn threads_that_claim_concurrently_get_as_many_slots_as_there_are() {
    const ALLOWED: usize = 5;
    let store = MemoryStore::default();
    let start = Arc::new(std::sync::Barrier::new(8));
    let claims = (0..8).map(|thread| {
        let (store, start) = (store.clone(), start.clone());
        std::thread::spawn(move || {
            start.wait();
            let claim = |number: u64| {
                let case = Case::new(cluster(), instance(number));
                loop {
                    let mut state = pollster::block_on(store.group(&cluster(), &group())).expect("a read");
                    if state.slots().len() >= ALLOWED {
                        return 0;
                    }
                    state.acquire_slot(instance(number), "NodeStatusUnknown", at(0));
                    let change = CaseWrite { case: &case, group: Some(&state), entries: &[] };
                    if pollster::block_on(store.commit(change)).expect("a write") == Commit::Won {
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
        pollster::block_on(store.case(&key)).expect("a read").is_some_and(|case| case.version() == 1)
    }));
}
