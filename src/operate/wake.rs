//! Makes a cluster's waiting cases due now: what they wait for, an operator has just changed.
//!
//! A blocked case is looked at again when its block was to end. A hold that is released, or a policy that is applied,
//! moves that time, and without this the case would sleep on.

use jiff::Timestamp;
use nodemend_adapters::store::{CaseKey, Change, Commit, Store, StoreError, dynamodb::DynamoStore};
use nodemend_domain::{case::Case, ident::ClusterName, policy::Policy, repair::Phase};

use super::{OperateError, status};

/// How often a case may be written by others meanwhile.
const MAX_RACES: usize = 8;

/// Plans every unhealthy node's case anew, as this policy has it; how many were blocked.
pub(super) async fn wake(
    store: &DynamoStore,
    cluster: &ClusterName,
    policy: &Policy,
    now: Timestamp,
) -> Result<usize, OperateError> {
    let mut woken = 0;
    for case in status::cases(store, cluster).await? {
        woken += usize::from(wake_one(store, case, policy, now).await?);
    }
    Ok(woken)
}

async fn wake_one(
    store: &DynamoStore,
    case: Case,
    policy: &Policy,
    now: Timestamp,
) -> Result<bool, OperateError> {
    let key = CaseKey::of(&case);
    let mut known = Some(Box::new(case));
    for _ in 0..MAX_RACES {
        let Some(mut case) = known else { return Ok(false) };
        let before = case.clone();
        let blocked = case.blocked.as_mut().is_some_and(|blocked| {
            blocked.until = blocked.until.min(now);
            true
        });
        if let (true, Some(repair)) = (blocked, case.repair.as_mut())
            && let Phase::Claimed { until } = &mut repair.phase
        {
            *until = (*until).min(now);
        }
        case.plan(policy, now);
        if case == before {
            return Ok(blocked);
        }
        let change = Change { case: &case, group: None, entries: &[] };
        if store.commit(change).await? == Commit::Won {
            return Ok(blocked);
        }
        known = store.case(&key).await?;
    }
    Err(StoreError::Unavailable(format!("others go on writing the case of {}", key.instance_id)).into())
}
