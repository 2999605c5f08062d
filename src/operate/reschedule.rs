//! Makes a cluster's blocked cases due now, because an operator changed what blocks them.
//!
//! A blocked case is evaluated again when its block ends. Releasing a hold or applying a policy moves that time;
//! without this the case would wait for the old one.

use jiff::Timestamp;
use nodemend_aws::dynamodb::DynamoStore;
use nodemend_domain::{case::Effects, ident::ClusterName, policy::Policy};
use nodemend_ports::{
    store::CaseKey,
    write::{self, Target},
};

use super::{OperateError, status};

/// Reschedules the case of every unhealthy node under this policy; returns how many were blocked.
pub(super) async fn reschedule_blocked(
    store: &DynamoStore,
    cluster: &ClusterName,
    policy: &Policy,
    now: Timestamp,
) -> Result<usize, OperateError> {
    let mut rescheduled = 0;
    for case in status::cases(store, cluster).await? {
        let mut blocked = false;
        write::update(store, Target::case(&CaseKey::of(&case)), policy, now, |case, _| {
            blocked = case.reschedule(policy, now);
            Ok(Effects::default())
        })
        .await?;
        rescheduled += usize::from(blocked);
    }
    Ok(rescheduled)
}
