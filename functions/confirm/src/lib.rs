//! Confirms calls by their CloudTrail events, and records launches and terminations of instances from EventBridge.
//!
//! Confirm never decides on repairs.

pub mod event;
mod notice;

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{AuditLogError, Caller, CloudTrailEvent, Record},
    case::{Case, Effects, EventMatch, IllegalTransition, Launch, TransitionContext},
    group::GroupState,
    ident::{AccountId, ClusterName, GroupName, InstanceId},
    policy::Policy,
    repair::LEASE,
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cloud::{Cloud, CloudError},
    store::{CaseKey, Store, StoreError},
    write::{self, Target, WriteError},
};

pub use self::event::{AutoScalingEvent, ConfirmEventError};

/// Attempts to match an event whose call's record is being written at the same time.
const MAX_ATTEMPTS: usize = 16;

/// Applies EventBridge events to cases.
#[derive(Debug, Clone)]
pub struct Confirmer<S, C> {
    store: S,
    cloud: C,
    own: Option<AccountId>,
}

/// The result of an event.
#[derive(Debug, Default)]
pub struct ConfirmResult {
    /// The repair events, in order.
    pub repair_events: Vec<RepairEvent>,
    /// Whether it was about a case.
    pub relevant: bool,
}

impl ConfirmResult {
    fn append(&mut self, other: Self) {
        self.relevant |= other.relevant;
        self.repair_events.extend(other.repair_events);
    }
}

/// Why an event could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// The event cannot be read.
    #[error(transparent)]
    Event(#[from] ConfirmEventError),
    /// A record of our audit log cannot be read.
    #[error("failed to read our own record of the call")]
    Record(#[from] AuditLogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A read from AWS failed.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A call of ours that only its request ID identifies, and whose record may not be written yet.
    #[error("failed to find the record of request {0}: it may not be written yet")]
    Early(String),
}

impl ConfirmError {
    /// The ID of the case, if it is known.
    pub fn case(&self) -> Option<&str> {
        match self {
            Self::Write(error) => error.case(),
            Self::Event(_) | Self::Record(_) | Self::Store(_) | Self::Cloud(_) | Self::Early(_) => None,
        }
    }
}

impl<S: Store + AuditLog, C: Cloud> Confirmer<S, C> {
    /// A confirmer on these ports.
    pub fn new(store: S, cloud: C) -> Self {
        Self { store, cloud, own: None }
    }

    /// Accepts events of a cluster only from the account in its policy, or from this account if the policy names none.
    #[must_use]
    pub fn in_account(self, own: Option<AccountId>) -> Self {
        Self { own, ..self }
    }

    /// Applies one EventBridge event.
    pub async fn handle(&self, payload: &[u8], now: Timestamp) -> Result<ConfirmResult, ConfirmError> {
        let (account, event) = AutoScalingEvent::read_of_account(payload)?;
        self.take(event, account.as_ref(), now).await
    }

    /// Applies a decoded event of an account.
    pub async fn take(
        &self,
        event: AutoScalingEvent,
        account: Option<&AccountId>,
        now: Timestamp,
    ) -> Result<ConfirmResult, ConfirmError> {
        match event {
            AutoScalingEvent::ApiCall(event) => self.api_call(&event, account, now).await,
            AutoScalingEvent::Launched { group, instance_id, zone, at, from_warm_pool } => {
                let Some((cluster, policy, cloud)) = self.of_group(&group, account).await? else {
                    return Ok(ConfirmResult::default());
                };
                let ctx = TransitionContext { policy: &policy, caller: cloud.caller(), now };
                write::update_group(&self.store, &cluster, &group, |state| state.record_launch(at)).await?;
                let key = CaseKey { cluster, instance_id };
                let mut target = Target::case(&key).or_new();
                if from_warm_pool {
                    // A terminated instance that is drawn again gives its own slot back.
                    target = target.with_group(Some(&group));
                }
                let launch = Launch { group: &group, zone: zone.as_ref(), at, from_warm_pool };
                self.update(target, &ctx, |case, state| Ok(case.record_launch(&launch, state, &ctx))).await
            }
            AutoScalingEvent::Warmed { group, instance_id, at, returned } => {
                let Some((cluster, policy, cloud)) = self.of_group(&group, account).await? else {
                    return Ok(ConfirmResult::default());
                };
                if !returned {
                    write::update_group(&self.store, &cluster, &group, |state| state.record_launch(at))
                        .await?;
                }
                let ctx = TransitionContext { policy: &policy, caller: cloud.caller(), now };
                // An instance that was only ever in the pool is no node, and has no case.
                let key = CaseKey { cluster, instance_id };
                self.update(Target::case(&key), &ctx, |case, _| Ok(case.record_warmed(&group, at, &ctx)))
                    .await
            }
            AutoScalingEvent::LaunchFailed { group, at, why, for_warm_pool } => {
                self.launch_failed(&group, (at, &why, for_warm_pool), account, now).await
            }
            AutoScalingEvent::LeftStandby { instance_ids, at } => {
                let mut result = ConfirmResult::default();
                for instance_id in instance_ids {
                    let Some((key, policy)) = self.case_of(&instance_id, account).await? else { continue };
                    let ctx = TransitionContext { policy: &policy, caller: self.cloud.caller(), now };
                    let change = |case: &mut Case, _: Option<&mut GroupState>| {
                        Ok(case.record_exit_from_standby(at, &ctx))
                    };
                    let next = self.update(Target::case(&key), &ctx, change).await?;
                    result.relevant |= next.relevant;
                    result.repair_events.extend(next.repair_events);
                }
                Ok(result)
            }
            AutoScalingEvent::Left { instance_id, at, how, activity } => {
                let Some((key, policy)) = self.case_of(&instance_id, account).await? else {
                    return Ok(ConfirmResult::default());
                };
                let ctx = TransitionContext { policy: &policy, caller: self.cloud.caller(), now };
                let Some(activity) = activity else {
                    let target = Target::case(&key);
                    return self
                        .update(target, &ctx, |case, _| Ok(case.record_departure(at, &how, &ctx)))
                        .await;
                };
                let known = self.store.case(&key).await?;
                let group =
                    known.as_ref().and_then(|case| case.repair().map(|repair| repair.group().clone()));
                let target = Target::case(&key).with_group(group.as_ref());
                let record = |case: &mut Case, group: Option<&mut GroupState>| {
                    Ok(case.record_activity(&activity, at, group, &ctx))
                };
                let update = write::update(&self.store, target, &policy, now, record).await?;
                Ok(ConfirmResult { relevant: update.found(), repair_events: update.into_events() })
            }
            AutoScalingEvent::Announced { instance_ids, notice } => {
                let mut result = ConfirmResult::default();
                for instance_id in instance_ids {
                    let Some((key, policy)) = self.case_of(&instance_id, account).await? else { continue };
                    let ctx = TransitionContext { policy: &policy, caller: self.cloud.caller(), now };
                    let record =
                        |case: &mut Case, _: Option<&mut GroupState>| Ok(case.record_notice(&notice, &ctx));
                    result.append(self.update(Target::case(&key), &ctx, record).await?);
                }
                Ok(result)
            }
            AutoScalingEvent::Irrelevant => Ok(ConfirmResult::default()),
        }
    }

    /// The cluster of a group and its policy, if this deployment serves it. Every group of the account reports its launches;
    /// only those of our clusters matter.
    async fn of_group(
        &self,
        group: &GroupName,
        account: Option<&AccountId>,
    ) -> Result<Option<(ClusterName, Arc<Policy>, C)>, ConfirmError> {
        let cloud = self.cloud.in_account(account).await?;
        let Some(cluster) = cloud.group(group).await?.and_then(|group| group.cluster.clone()) else {
            return Ok(None);
        };
        let policy = self.served(&cluster, account).await?;
        Ok(policy.map(|policy| (cluster, policy, cloud)))
    }

    /// A launch failed: the group is in backoff from then on, and each case that awaits a replacement records
    /// why none comes.
    async fn launch_failed(
        &self,
        group: &GroupName,
        (at, why, for_warm_pool): (Timestamp, &str, bool),
        account: Option<&AccountId>,
        now: Timestamp,
    ) -> Result<ConfirmResult, ConfirmError> {
        let Some((cluster, ..)) = self.of_group(group, account).await? else {
            return Ok(ConfirmResult::default());
        };
        let mut waiting = Vec::new();
        let before = write::update_group(&self.store, &cluster, group, |state| {
            let known = state.launch_failures().map(|known| (known.last, known.message.clone()));
            let news = |terminated: Timestamp| {
                known.as_ref().is_none_or(|(last, message)| *last < terminated || message != why)
            };
            let awaited = state.slots().iter().filter(|slot| slot.replacement.is_none());
            waiting = awaited
                .filter(|slot| {
                    slot.terminated_at.is_some_and(|terminated| terminated <= at && news(terminated))
                })
                .map(|slot| slot.instance_id.clone())
                .collect();
            state.record_launch_failure(at, why, for_warm_pool)
        });
        if before.await?.is_none() {
            return Ok(ConfirmResult { relevant: true, ..ConfirmResult::default() });
        }
        let mut result = ConfirmResult { relevant: true, ..ConfirmResult::default() };
        for instance_id in waiting {
            let key = CaseKey { cluster: cluster.clone(), instance_id };
            let detail = format!("no replacement yet: Auto Scaling failed to launch an instance: {why}");
            let event = |case: Box<Case>| RepairEvent::new(&case, Step::Event, detail, now);
            result.repair_events.extend(self.store.case(&key).await?.map(event));
        }
        Ok(result)
    }

    /// The policy of a cluster that this deployment serves, if the cluster is in the event's account.
    async fn served(
        &self,
        cluster: &ClusterName,
        account: Option<&AccountId>,
    ) -> Result<Option<Arc<Policy>>, ConfirmError> {
        let policy = self.store.policy(cluster).await?;
        Ok(policy.filter(|policy| policy.accepts_account(account, self.own.as_ref())))
    }

    /// The case of an instance of this account, and its cluster's policy.
    async fn case_of(
        &self,
        instance_id: &InstanceId,
        account: Option<&AccountId>,
    ) -> Result<Option<(CaseKey, Arc<Policy>)>, ConfirmError> {
        let Some(cluster) = self.store.cluster_of_instance(instance_id).await? else {
            return Ok(None);
        };
        let policy = self.served(&cluster, account).await?;
        Ok(policy.map(|policy| (CaseKey { cluster, instance_id: instance_id.clone() }, policy)))
    }

    /// A call that CloudTrail recorded: one of ours, or a foreign one on a node of ours.
    async fn api_call(
        &self,
        event: &CloudTrailEvent,
        account: Option<&AccountId>,
        now: Timestamp,
    ) -> Result<ConfirmResult, ConfirmError> {
        let cloud = self.cloud.in_account(account).await?;
        let caller = cloud.caller();
        if let Some(result) = self.recorded(event, account, caller, now).await? {
            return Ok(result);
        }
        let ours = caller.is_same_principal(&event.user_identity);
        let instance_ids = event.instance_ids();
        // CloudTrail's event of a throttled or denied call has no instance. Lambda retries after one and after two
        // minutes.
        if ours
            && instance_ids.is_empty()
            && now.duration_since(event.event_time).abs() < LEASE
            && let Some(request_id) = &event.request_id
        {
            return Err(ConfirmError::Early(request_id.clone()));
        }
        let mut result = ConfirmResult::default();
        for instance_id in instance_ids {
            let Some((key, policy)) = self.case_of(&instance_id, account).await? else {
                continue;
            };
            let ctx = TransitionContext { policy: &policy, caller, now };
            let next = if ours && self.awaits_an_answer(&key).await? {
                self.early_or_unanswered(&key, event, &ctx).await?
            } else if ours && let Some(recorded) = self.recorded(event, account, caller, now).await? {
                // The answer and its record were written in the meantime.
                recorded
            } else if ours && self.is_another_attempt(&key, event).await? {
                continue;
            } else if event.is_termination() && event.succeeded() && !event.ended_before(&instance_id) {
                self.update(Target::case(&key), &ctx, |case, _| Ok(case.record_termination(event, &ctx)))
                    .await?
            } else {
                continue;
            };
            result.append(next);
        }
        Ok(result)
    }

    /// Matches the event with the record of its request ID, if there is one.
    async fn recorded(
        &self,
        event: &CloudTrailEvent,
        account: Option<&AccountId>,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Option<ConfirmResult>, ConfirmError> {
        let Some(request_id) = &event.request_id else { return Ok(None) };
        let Some((key, entry)) = self.store.call(request_id).await? else { return Ok(None) };
        let record = Record::read(&entry.line)?;
        let Some(policy) = self.served(&key.cluster, account).await? else {
            return Ok(Some(ConfirmResult::default()));
        };
        let ctx = TransitionContext { policy: &policy, caller, now };
        let result = self.update(Target::case(&key), &ctx, |case, _| {
            Ok(case.call_for(event).map_or_else(Effects::default, |call| {
                match case.match_event(call, &record, event, &ctx) {
                    EventMatch::Matched(effects) => effects,
                    EventMatch::Known => Effects::default(),
                }
            }))
        });
        result.await.map(Some)
    }

    /// Whether a call for this node is in flight, or unanswered.
    async fn awaits_an_answer(&self, key: &CaseKey) -> Result<bool, ConfirmError> {
        Ok(self.store.case(key).await?.is_some_and(|case| case.awaits_an_answer()))
    }

    /// Whether the event is another attempt of a call by a repair of this node.
    async fn is_another_attempt(&self, key: &CaseKey, event: &CloudTrailEvent) -> Result<bool, ConfirmError> {
        Ok(self.store.case(key).await?.is_some_and(|case| case.is_another_attempt(event)))
    }

    /// The event arrived before the answer, or the answer was lost.
    async fn early_or_unanswered(
        &self,
        key: &CaseKey,
        event: &CloudTrailEvent,
        ctx: &TransitionContext<'_>,
    ) -> Result<ConfirmResult, ConfirmError> {
        for _ in 0..MAX_ATTEMPTS {
            let records = self.store.chain(key).await?;
            let mut written_since = false;
            let result = self
                .update(Target::case(key), ctx, |case, _| {
                    let call = case.call_for(event);
                    let sequence = call.and_then(|call| case.call(call)?.sequence());
                    let entry = records.iter().find(|entry| Some(entry.sequence) == sequence);
                    written_since = sequence.is_some() && entry.is_none();
                    if written_since {
                        return Ok(Effects::default());
                    }
                    if let (Some(call), Some(record)) =
                        (call, entry.and_then(|entry| Record::read(&entry.line).ok()))
                    {
                        if let EventMatch::Matched(effects) = case.match_event(call, &record, event, ctx) {
                            return Ok(effects);
                        }
                    } else {
                        case.stash_event(event);
                    }
                    Ok(Effects::default())
                })
                .await?;
            // The call's record was written since the audit log was read. A stashed event would wait for a record that
            // exists already.
            if !written_since {
                return Ok(result);
            }
        }
        Err(WriteError::Contended(key.instance_id.to_string()).into())
    }

    async fn update(
        &self,
        target: Target<'_>,
        ctx: &TransitionContext<'_>,
        change: impl FnMut(&mut Case, Option<&mut GroupState>) -> Result<Effects, IllegalTransition>,
    ) -> Result<ConfirmResult, ConfirmError> {
        let update = write::update(&self.store, target, ctx.policy, ctx.now, change).await?;
        Ok(ConfirmResult { relevant: update.found(), repair_events: update.into_events() })
    }
}
