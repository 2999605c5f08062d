//! Concurrent writers: each lost write is reported, and no limit is exceeded.

use nodemend_domain::audit_log::{RecordStep, verify_chain};
use serde_json::json;

use crate::edit;

use super::{
    CaseWrite, Commit, ConfigurableStore, all_at_once, at, cluster, instance, key, new_case, put, read, step,
    workers, write, yield_once,
};

/// How many repairs need a slot, and how many slots there are.
const CLAIMS: u64 = 200;
const SLOTS: usize = 7;
/// A writer loses only to another that wins, so that it cannot lose this many times in a row.
const MAX_RACES: usize = 2 * CLAIMS as usize;

/// Each claim reads its group, counts, and acquires a slot; no two do so at one version.
pub async fn concurrent_claims_get_as_many_slots_as_a_group_has<S: ConfigurableStore>(store: &S) {
    for number in 0..CLAIMS {
        put(store, &mut new_case(number)).await;
    }
    let claim = async |number: u64| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(number)).await;
            let mut group = store.group(&cluster(), &workers()).await.expect("a read");
            yield_once().await;
            if group.slots().len() >= SLOTS {
                return false;
            }
            group.acquire_slot(case.instance_id().clone(), "NodeStatusUnknown", at(0));
            edit(&mut case, json!({ "due": at(120) }));
            let entry = step(&mut case, RecordStep::Claimed);
            let change = CaseWrite { case: &case, group: Some(&group), entries: &[entry] };
            match store.commit(change).await.expect("a write") {
                Commit::Won => return true,
                Commit::Lost => yield_once().await,
            }
        }
        panic!("claim {number} lost every race");
    };
    let won = all_at_once((0..CLAIMS).map(claim)).await;
    let winners: Vec<u64> =
        (0..CLAIMS).zip(&won).filter(|(_, won)| **won).map(|(number, _)| number).collect();
    assert_eq!(winners.len(), SLOTS);
    let group = store.group(&cluster(), &workers()).await.expect("a read");
    let mut slots: Vec<_> = group.slots().iter().map(|slot| slot.instance_id.clone()).collect();
    slots.sort();
    assert_eq!(slots, winners.iter().map(|number| instance(*number)).collect::<Vec<_>>());
    assert_eq!(group.version(), SLOTS as u64, "a write for each winner, and no other");
    let mut due = store.due(at(120), 1_000).await.expect("a read");
    due.sort();
    assert_eq!(due, winners.iter().map(|number| key(*number)).collect::<Vec<_>>());
    for number in 0..CLAIMS {
        let records = store.chain(&key(number)).await.expect("a read").len();
        assert_eq!(records, usize::from(winners.contains(&number)), "{number}");
    }
}

/// Each writer adds one to the same case.
pub async fn concurrent_writers_lose_no_update<S: ConfigurableStore>(store: &S) {
    const WRITERS: u32 = 40;
    put(store, &mut new_case(1)).await;
    let add = async |_| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(1)).await;
            yield_once().await;
            let repairs = case.repairs() + 1;
            edit(&mut case, json!({ "repairs": repairs }));
            if write(store, &case, &[]).await == Commit::Won {
                return;
            }
            yield_once().await;
        }
        panic!("lost every race");
    };
    all_at_once((0..WRITERS).map(add)).await;
    let case = read(store, &key(1)).await;
    assert_eq!((case.repairs(), case.version()), (WRITERS, u64::from(WRITERS) + 1));
}

/// Each writer appends a record; all are stored, linked in the order in which they won.
pub async fn concurrent_writers_of_an_audit_log_leave_one_chain<S: ConfigurableStore>(store: &S) {
    const WRITERS: usize = 30;
    put(store, &mut new_case(1)).await;
    let append = async |_| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(1)).await;
            yield_once().await;
            let entry = step(&mut case, RecordStep::Observed);
            if write(store, &case, &[entry]).await == Commit::Won {
                return;
            }
            yield_once().await;
        }
        panic!("lost every race");
    };
    all_at_once((0..WRITERS).map(append)).await;
    let chain = store.chain(&key(1)).await.expect("a read");
    assert_eq!(chain.len(), WRITERS);
    let end = verify_chain(chain.iter().map(|entry| &entry.line)).expect("a chain");
    assert_eq!(end, *read(store, &key(1)).await.audit_log());
}
