//! Records that a new instance joined or failed to join, and matches it with the repair that it replaces a node for.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Arrival, Case, Effects, JoinStage, NewInstance, TransitionContext},
    condition::RepairAction,
    group::{GroupState, InstanceLocation},
    ident::{GroupName, InstanceId},
    instance_traits::InstanceTraits,
    verification::InstanceStatus,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Store},
    write::{self, Target},
};

use crate::{RepairError, Repairer, RunReport};

/// An instance that registers later than this after its launch is not new.
const NEW_FOR: SignedDuration = SignedDuration::from_hours(1);

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Records a new instance's stage in its group, and in the case that it replaces a node for.
    pub(crate) async fn record_join(
        &self,
        new: Box<Case>,
        stage: JoinStage,
        ctx: &TransitionContext<'_>,
        report: &mut RunReport,
    ) -> Result<(), RepairError> {
        let key = CaseKey::of(&new);
        let arrival = new.arrival().cloned().unwrap_or_default();
        let arrived = arrival.launched.or(arrival.registered).unwrap_or(ctx.now);
        // Without a group, a node replaces none.
        let Some(group) = self.group_of(&new).await? else {
            return self.record_stage(&key, stage, &arrival, None, ctx).await;
        };
        if stage == JoinStage::FailedToJoin {
            let target = Target::case(&key).with_group(Some(&group));
            let change = |case: &mut Case, group: Option<&mut GroupState>| match group {
                Some(group) => case.record_join_failure(group, ctx),
                None => Ok(Effects::default()),
            };
            let update = write::update(&self.store, target, ctx.policy, ctx.now, change).await?;
            report.repair_events.extend(update.into_events());
            return Ok(());
        }
        if arrival.replaces.is_none() && self.may_be_replacement(&key, arrived, &group).await? {
            return self.wait(new, ctx).await;
        }
        if let Some(replaced) = self.replaced_instance(&key, &arrival, arrived, &group, ctx).await? {
            let replaced = CaseKey { cluster: key.cluster.clone(), instance_id: replaced };
            let joined = NewInstance {
                instance_id: key.instance_id.clone(),
                label: new.label().to_owned(),
                registered: arrival.registered.unwrap_or(ctx.now),
                ready: arrival.ready,
            };
            let target = Target::case(&replaced).with_group(Some(&group));
            let update = write::update(&self.store, target, ctx.policy, ctx.now, |case, group| {
                case.record_replacement(&joined, group, ctx)
            });
            report.repair_events.extend(update.await?.into_events());
        }
        self.record_stage(&key, stage, &arrival, Some(&group), ctx).await
    }

    /// Whether this instance would be a replacement if a call in flight is accepted. If it counted as growth of the
    /// group now, the repair would miss its replacement, and the group would go into backoff without a reason.
    async fn may_be_replacement(
        &self,
        key: &CaseKey,
        arrived: Timestamp,
        group: &GroupName,
    ) -> Result<bool, RepairError> {
        for slot in self.store.group(&key.cluster, group).await?.slots() {
            if slot.terminated_at.is_some() || slot.replacement.is_some() {
                continue;
            }
            let key = CaseKey { cluster: key.cluster.clone(), instance_id: slot.instance_id.clone() };
            let case = self.store.case(&key).await?;
            let pending = case.as_deref().and_then(Case::pending_call);
            if pending.is_some_and(|call| call.action() == RepairAction::Replace && call.at() <= arrived) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The terminated instance that a new one replaces, if any. Matched once, and written to both in one transaction.
    async fn replaced_instance(
        &self,
        key: &CaseKey,
        arrival: &Arrival,
        arrived: Timestamp,
        group: &GroupName,
        ctx: &TransitionContext<'_>,
    ) -> Result<Option<InstanceId>, RepairError> {
        if arrival.replaces.is_some() {
            return Ok(arrival.replaces.clone());
        }
        // Most new instances replace none: no write of the group for those.
        let mut now = self.store.group(&key.cluster, group).await?;
        if now.match_replacement(&key.instance_id, arrived, &InstanceTraits::default()).is_none() {
            return Ok(None);
        }
        // A replacement that EC2 does not describe is matched all the same.
        let described = self.cloud.instance_status(&key.instance_id).await;
        let InstanceStatus { launched, traits, .. } = described.ok().flatten().unwrap_or_default();
        // Without the event of its launch, an old instance whose node registers again looks like a new one.
        // None was launched after its node registered, whatever EC2's clock says.
        let launched = launched.filter(|launched| arrival.launched.is_none() && *launched < arrived);
        let arrived = launched.unwrap_or(arrived);
        let mut replaced = None;
        let target = Target::case(key).with_group(Some(group));
        write::update(&self.store, target, ctx.policy, ctx.now, |case, group| {
            replaced = group.and_then(|group| case.match_replacement(group, arrived, &traits));
            Ok(Effects::default())
        })
        .await?;
        Ok(replaced)
    }

    async fn group_of(&self, case: &Case) -> Result<Option<GroupName>, RepairError> {
        if let Some(group) = case.group() {
            return Ok(Some(group.clone()));
        }
        let found = self.cloud.describe_instances(std::slice::from_ref(case.instance_id())).await?.pop();
        Ok(match found {
            Some(InstanceLocation::Member { group, .. }) => Some(group),
            _ => None,
        })
    }

    async fn record_stage(
        &self,
        key: &CaseKey,
        stage: JoinStage,
        read: &Arrival,
        group: Option<&GroupName>,
        ctx: &TransitionContext<'_>,
    ) -> Result<(), RepairError> {
        let state = match group {
            Some(group) => Some(self.store.group(&key.cluster, group).await?),
            None => None,
        };
        // The first node of a group shows that its instances are nodes. Any new one that becomes Ready shows that the group
        // gets its instances back.
        let first = state.as_ref().is_some_and(|state| !state.has_nodes());
        let ready = match state.as_ref().filter(|state| stage == JoinStage::Ready && state.has_failures()) {
            Some(_) => self.launch_of_new(key).await?,
            None => None,
        };
        let target = Target::case(key).with_group(group.filter(|_| first || ready.is_some()));
        write::update(&self.store, target, ctx.policy, ctx.now, |case, state| {
            case.record_join_stage(stage, read, group);
            if let Some(state) = state {
                state.record_node();
                ready.map(|launched| state.record_ready(launched));
            }
            Ok(Effects::default())
        })
        .await?;
        Ok(())
    }

    /// When an instance whose node became Ready was launched, if it is a new one: without the event of its launch, an old
    /// instance whose node registers again looks like one.
    async fn launch_of_new(&self, key: &CaseKey) -> Result<Option<Timestamp>, RepairError> {
        let Some(arrival) = self.store.case(key).await?.and_then(|case| case.arrival().cloned()) else {
            return Ok(None);
        };
        if arrival.launched.is_some() {
            return Ok(arrival.launched);
        }
        let Some(registered) = arrival.registered else { return Ok(None) };
        let described = self.cloud.instance_status(&key.instance_id).await.ok().flatten();
        let launched = described.and_then(|status| status.launched).unwrap_or(registered);
        Ok(Some(launched).filter(|launched| registered.duration_since(*launched) < NEW_FOR))
    }
}
