//! Tells a newcomer's group that it came, or failed to, and the repair that waited for it.

use jiff::Timestamp;
use nodemend_adapters::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Store},
    trail::Trail,
};
use nodemend_domain::{
    case::{Arrival, Case, Told},
    condition::RepairAction,
    confirm::occurrence,
    group::{GroupState, Whereabouts},
    ident::{GroupName, InstanceId},
    occurrence::Step,
    policy::Policy,
    repair::Replacement,
    stamp,
};

use crate::{RepairError, Repairer, Swept};

impl<S: Store + Trail + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Tells the group that a node came, or failed to; and the repair that waited for it.
    pub(crate) async fn introduce(
        &self,
        newcomer: Box<Case>,
        told: Told,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let key = CaseKey::of(&newcomer);
        let arrival = newcomer.arrival.clone().unwrap_or_default();
        let came = arrival.launched.or(arrival.registered).unwrap_or(now);
        let group = match self.group_of(&newcomer).await? {
            Some(group) => group,
            // In no group, a node replaces nothing.
            None => return self.mark_told(&key, told, None, policy, now).await,
        };
        if told == Told::FailedToJoin {
            let failed = self
                .update(&key, Some(&group), policy, now, |case, group| {
                    // It may have registered since this sweep looked.
                    if let (Some(group), Some(arrival)) = (group, &mut case.arrival)
                        && arrival.told < told
                        && arrival.registered.is_none()
                    {
                        arrival.told = told;
                        group.failed(now);
                    }
                    (Vec::new(), ())
                })
                .await?;
            return failed.map_or(Ok(()), Ok);
        }
        if arrival.replaces.is_none() && self.may_yet_be_awaited(&key, came, &group).await? {
            return self.wait(&newcomer, policy, now).await;
        }
        if let Some(replaced) = self.place_of(&key, &arrival, came, &group, policy, now).await? {
            let replaced_key = CaseKey { cluster: key.cluster.clone(), instance_id: replaced };
            let happened = self
                .update(&replaced_key, None, policy, now, |case, _| {
                    let Some(repair) = case.repair.as_mut() else {
                        return (Vec::new(), None);
                    };
                    let known = repair.replacement.is_some();
                    let registered = arrival.registered.unwrap_or(now);
                    repair.replacement = Some(Replacement {
                        instance_id: key.instance_id.clone(),
                        label: newcomer.label().to_owned(),
                        registered,
                        ready: arrival.ready,
                    });
                    if known {
                        return (Vec::new(), None);
                    }
                    let took = stamp::length(registered.duration_since(repair.fault.since));
                    let detail = format!(
                        "{} ({}) registered, {took} after the fault",
                        newcomer.label(),
                        key.instance_id
                    );
                    (Vec::new(), Some(occurrence(case, Step::Replaced, detail, now)))
                })
                .await?;
            swept.occurrences.extend(happened.flatten());
        }
        self.mark_told(&key, told, Some(&group), policy, now).await
    }

    /// Whether a call's answer is still out that would make this newcomer a replacement. Taken for growth meanwhile,
    /// it would leave its repair without a replacement, and the group at rest for a failure that was none.
    async fn may_yet_be_awaited(
        &self,
        key: &CaseKey,
        came: Timestamp,
        group: &GroupName,
    ) -> Result<bool, RepairError> {
        for place in self.store.group(&key.cluster, group).await?.in_flight {
            if place.terminated_at.is_some() || place.replacement.is_some() {
                continue;
            }
            let key = CaseKey { cluster: key.cluster.clone(), instance_id: place.instance_id };
            let case = self.store.case(&key).await?;
            let pending = case.as_deref().and_then(Case::pending_call);
            if pending.is_some_and(|call| call.action == RepairAction::Replace && call.at <= came) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The instance whose place a newcomer took, if it took one: decided once, and written to both at once.
    async fn place_of(
        &self,
        key: &CaseKey,
        arrival: &Arrival,
        came: Timestamp,
        group: &GroupName,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Option<InstanceId>, RepairError> {
        if arrival.replaces.is_some() {
            return Ok(arrival.replaces.clone());
        }
        // Most newcomers replace nothing: no write of the group for those.
        if self.store.group(&key.cluster, group).await?.welcome(&key.instance_id, came).is_none() {
            return Ok(None);
        }
        let taken = self
            .update(key, Some(group), policy, now, |case, group| {
                let (Some(group), Some(arrival)) = (group, &mut case.arrival) else {
                    return (Vec::new(), None);
                };
                if arrival.replaces.is_none() {
                    arrival.replaces = group.welcome(&key.instance_id, came);
                }
                (Vec::new(), arrival.replaces.clone())
            })
            .await?;
        Ok(taken.flatten())
    }

    async fn group_of(&self, case: &Case) -> Result<Option<GroupName>, RepairError> {
        if let Some(group) = &case.group {
            return Ok(Some(group.clone()));
        }
        Ok(match self.cloud.locate(std::slice::from_ref(&case.instance_id)).await?.pop() {
            Some(Whereabouts::Member { group, .. }) => Some(group),
            _ => None,
        })
    }

    async fn mark_told(
        &self,
        key: &CaseKey,
        told: Told,
        group: Option<&GroupName>,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<(), RepairError> {
        let mark = |case: &mut Case, _: Option<&mut GroupState>| {
            if let Some(group) = group {
                case.group.get_or_insert_with(|| group.clone());
            }
            case.introduced(told);
            (Vec::new(), ())
        };
        self.update(key, None, policy, now, mark).await.map(|_| ())
    }
}
