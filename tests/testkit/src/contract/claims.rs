//! Many writers at once: nobody's write is lost unseen, and no limit is passed.

use crate::edit;
use nodemend_domain::audit_log::{RecordStep, verify_chain};
use serde_json::json;

use super::{
    CaseWrite, Commit, Furnished, all_at_once, at, cluster, instance, key, new_case, put, read, step,
    step_aside, workers, write,
};

/// How many repairs want a place, and how many may have one.
const CLAIMS: u64 = 200;
const ALLOWED: usize = 7;
/// A race is lost only to somebody who wins one, so that this many are never lost in a row.
const MAX_RACES: usize = 2 * CLAIMS as usize;

/// Each claim reads its group, counts, and takes a place; no two at one version.
pub async fn of_many_claims_at_once_a_group_takes_as_many_as_it_allows<S: Furnished>(store: &S) {
    for number in 0..CLAIMS {
        put(store, &mut new_case(number)).await;
    }
    let claim = async |number: u64| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(number)).await;
            let mut group = store.group(&cluster("prod"), &workers()).await.expect("a read");
            step_aside().await;
            if group.slots().len() >= ALLOWED {
                return false;
            }
            group.acquire_slot(case.instance_id().clone(), at(0));
            edit(&mut case, json!({ "due": at(120) }));
            let entry = step(&mut case, RecordStep::Claimed);
            let change = CaseWrite { case: &case, group: Some(&group), entries: &[entry] };
            match store.commit(change).await.expect("a write") {
                Commit::Won => return true,
                Commit::Lost => step_aside().await,
            }
        }
        panic!("claim {number} lost every race");
    };
    let won = all_at_once((0..CLAIMS).map(claim)).await;
    let winners: Vec<u64> =
        (0..CLAIMS).zip(&won).filter(|(_, won)| **won).map(|(number, _)| number).collect();
    assert_eq!(winners.len(), ALLOWED);
    let group = store.group(&cluster("prod"), &workers()).await.expect("a read");
    let mut places: Vec<_> = group.slots().iter().map(|place| place.instance_id.clone()).collect();
    places.sort();
    assert_eq!(places, winners.iter().map(|number| instance(*number)).collect::<Vec<_>>());
    assert_eq!(group.version(), ALLOWED as u64, "a write for each winner, and no other");
    let mut due = store.due(at(120), 1_000).await.expect("a read");
    due.sort();
    assert_eq!(due, winners.iter().map(|number| key(*number)).collect::<Vec<_>>());
    for number in 0..CLAIMS {
        let records = store.chain(&key(number)).await.expect("a read").len();
        assert_eq!(records, usize::from(winners.contains(&number)), "{number}");
    }
}

/// Each adds one to the same case.
pub async fn no_update_is_lost_between_many_writers<S: Furnished>(store: &S) {
    const WRITERS: u32 = 40;
    put(store, &mut new_case(1)).await;
    let add = async |_| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(1)).await;
            step_aside().await;
            let repairs = case.repairs() + 1;
            edit(&mut case, json!({ "repairs": repairs }));
            if write(store, &case, &[]).await == Commit::Won {
                return;
            }
            step_aside().await;
        }
        panic!("lost every race");
    };
    all_at_once((0..WRITERS).map(add)).await;
    let case = read(store, &key(1)).await;
    assert_eq!((case.repairs(), case.version()), (WRITERS, u64::from(WRITERS) + 1));
}

/// Each appends a record; all are there, linked in the order in which they won.
pub async fn many_writers_of_one_trail_leave_one_chain<S: Furnished>(store: &S) {
    const WRITERS: usize = 30;
    put(store, &mut new_case(1)).await;
    let append = async |_| {
        for _ in 0..MAX_RACES {
            let mut case = read(store, &key(1)).await;
            step_aside().await;
            let entry = step(&mut case, RecordStep::Observed);
            if write(store, &case, &[entry]).await == Commit::Won {
                return;
            }
            step_aside().await;
        }
        panic!("lost every race");
    };
    all_at_once((0..WRITERS).map(append)).await;
    let chain = store.chain(&key(1)).await.expect("a read");
    assert_eq!(chain.len(), WRITERS);
    let end = verify_chain(chain.iter().map(|entry| &entry.line)).expect("a chain");
    assert_eq!(end, *read(store, &key(1)).await.audit_log());
}
