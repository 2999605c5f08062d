//! Turns what CloudTrail, Auto Scaling and EC2 tell through EventBridge into confirmed calls, and into what is
//! known of nodes that come and go. Audit never decides.

pub mod event;

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_adapters::{
    cloud::{Cloud, CloudError},
    store::{CaseKey, Change, Commit, Store, StoreError},
    trail::Trail,
};
use nodemend_domain::{
    case::Case,
    confirm::{self, Joined, occurrence},
    ident::{AccountId, ClusterName, InstanceId},
    ledger::{self, Entry, Guards},
    occurrence::{Occurrence, Step},
    policy::Policy,
    repair::{Call, CallResult, LEASE},
    trail::{self, Caller, CloudTrailEvent, Record, TrailError},
};
use serde_json::json;

pub use self::event::{EventError, Happening};

const MAX_RACES: usize = 16;

/// Takes EventBridge's events in.
#[derive(Debug, Clone)]
pub struct Audit<S, C> {
    store: S,
    cloud: C,
    own: Option<AccountId>,
}

/// What became of an event.
#[derive(Debug, Default)]
pub struct Audited {
    /// What happened, in order.
    pub occurrences: Vec<Occurrence>,
    /// Whether it was about anything of ours.
    pub relevant: bool,
}

/// Why an event must be tried again, or can't be read at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A record of our own trail can't be read.
    #[error("failed to read our own record of the call")]
    Record(#[from] TrailError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// AWS.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Others wrote the same case again and again.
    #[error("failed to write the case of {0}: {MAX_RACES} races lost")]
    Contended(InstanceId),
    /// A call of ours that can be known by its id alone, and whose record may yet come.
    #[error("failed to find the record of request {0}: it may yet come")]
    Early(String),
}

impl AuditError {
    /// The instance that it is about, where that is known.
    pub fn instance_id(&self) -> Option<&InstanceId> {
        match self {
            Self::Contended(instance_id) => Some(instance_id),
            Self::Event(_) | Self::Record(_) | Self::Store(_) | Self::Cloud(_) | Self::Early(_) => None,
        }
    }
}

impl<S: Store + Trail, C: Cloud> Audit<S, C> {
    /// An audit on these ports.
    pub fn new(store: S, cloud: C) -> Self {
        Self { store, cloud, own: None }
    }

    /// Believes of a cluster what the account tells that its policy names, or else this one, and no other.
    #[must_use]
    pub fn in_account(self, own: Option<AccountId>) -> Self {
        Self { own, ..self }
    }

    /// Takes one EventBridge event in.
    pub async fn handle(&self, payload: &[u8], now: Timestamp) -> Result<Audited, AuditError> {
        let (account, happening) = Happening::read_of_account(payload)?;
        self.take(happening, account.as_ref(), now).await
    }

    /// Takes a decoded event of an account in.
    pub async fn take(
        &self,
        happening: Happening,
        account: Option<&AccountId>,
        now: Timestamp,
    ) -> Result<Audited, AuditError> {
        match happening {
            Happening::ApiCall(event) => self.api_call(&event, account, now).await,
            Happening::Launched { group, instance_id, zone, at } => {
                // Every group of the account tells of its launches; only those of our clusters are ours.
                let cloud = self.cloud.in_account(account).await?;
                let known = cloud.group(&group).await?;
                let Some(cluster) = known.and_then(|group| group.cluster.clone()) else {
                    return Ok(Audited::default());
                };
                if self.served(&cluster, account).await?.is_none() {
                    return Ok(Audited::default());
                }
                let key = CaseKey { cluster, instance_id };
                self.update(&key, true, now, |case| {
                    case.hear_launch(&group, zone.as_ref(), at);
                    let detail = format!("launched into group {group}");
                    (Vec::new(), vec![occurrence(case, Step::Event, detail, now)])
                })
                .await
            }
            Happening::LaunchFailed { group, at, why } => {
                let _ = (group, at, why);
                Ok(Audited::default())
            }
            Happening::Left { instance_id, at, how } => {
                let Some(cluster) = self.cluster_of(&instance_id, account).await? else {
                    return Ok(Audited::default());
                };
                self.update(&CaseKey { cluster, instance_id }, false, now, |case| {
                    let ours = case.repair.as_ref().is_some_and(|repair| repair.effective_at().is_some());
                    if !ours && case.closed.is_none() {
                        case.depart(at, how.clone(), false);
                    }
                    (Vec::new(), vec![occurrence(case, Step::Event, how.clone(), now)])
                })
                .await
            }
            Happening::Irrelevant => Ok(Audited::default()),
        }
    }

    /// The policy of a cluster of ours, if that is in the account that tells of it.
    async fn served(
        &self,
        cluster: &ClusterName,
        account: Option<&AccountId>,
    ) -> Result<Option<Arc<Policy>>, AuditError> {
        let policy = self.store.policy(cluster).await?;
        Ok(policy.filter(|policy| policy.believes(account, self.own.as_ref())))
    }

    /// The cluster in which an instance of this account is known.
    async fn cluster_of(
        &self,
        instance_id: &InstanceId,
        account: Option<&AccountId>,
    ) -> Result<Option<ClusterName>, AuditError> {
        let Some(cluster) = self.store.cluster_of_instance(instance_id).await? else {
            return Ok(None);
        };
        Ok(self.served(&cluster, account).await?.is_some().then_some(cluster))
    }

    /// A call that CloudTrail tells of: one of ours, or somebody else's on one of our nodes.
    async fn api_call(
        &self,
        event: &CloudTrailEvent,
        account: Option<&AccountId>,
        now: Timestamp,
    ) -> Result<Audited, AuditError> {
        let cloud = self.cloud.in_account(account).await?;
        let caller = cloud.caller();
        if let Some(told) = self.recorded(event, account, caller, now).await? {
            return Ok(told);
        }
        let ours = caller.is_same_principal(&event.user_identity);
        let instance_ids = event.instance_ids();
        // Of what was throttled or denied CloudTrail names no instance. Lambda tries again after one minute and after two.
        if ours
            && instance_ids.is_empty()
            && now.duration_since(event.event_time).abs() < LEASE
            && let Some(request_id) = &event.request_id
        {
            return Err(AuditError::Early(request_id.clone()));
        }
        let mut audited = Audited::default();
        for instance_id in instance_ids {
            let Some(cluster) = self.cluster_of(&instance_id, account).await? else {
                continue;
            };
            let key = CaseKey { cluster, instance_id };
            let told = if ours && self.awaits_a_call(&key).await? {
                self.early_or_lost(&key, event, caller, now).await?
            } else if ours && let Some(told) = self.recorded(event, account, caller, now).await? {
                // The answer came, and the record with it, since that was looked for.
                told
            } else if ours && self.is_another_attempt(&key, event).await? {
                continue;
            } else if event.is_termination() && event.succeeded() {
                self.foreign(&key, event, caller, now).await?
            } else {
                continue;
            };
            audited.relevant |= told.relevant;
            audited.occurrences.extend(told.occurrences);
        }
        Ok(audited)
    }

    /// What follows, where the call has a record under its request id.
    async fn recorded(
        &self,
        event: &CloudTrailEvent,
        account: Option<&AccountId>,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Option<Audited>, AuditError> {
        let Some(request_id) = &event.request_id else { return Ok(None) };
        let Some((key, entry)) = self.store.call(request_id).await? else { return Ok(None) };
        let record = Record::read(&entry.line)?;
        if self.served(&key.cluster, account).await?.is_none() {
            return Ok(Some(Audited::default()));
        }
        self.confirm(&key, event, &record, caller, now).await.map(Some)
    }

    /// Whether a repair of this node has a call on its way, or one whose answer was lost.
    async fn awaits_a_call(&self, key: &CaseKey) -> Result<bool, AuditError> {
        let case = self.store.case(key).await?;
        let unanswered = |call: &Call| matches!(call.result, CallResult::Pending | CallResult::Lost);
        Ok(case.is_some_and(|case| case.calls().any(unanswered)))
    }

    /// Whether a repair of this node made the call, and this is but one more attempt at it.
    async fn is_another_attempt(&self, key: &CaseKey, event: &CloudTrailEvent) -> Result<bool, AuditError> {
        let case = self.store.case(key).await?;
        Ok(case.is_some_and(|case| confirm::is_another_attempt(&case, event)))
    }

    async fn confirm(
        &self,
        key: &CaseKey,
        event: &CloudTrailEvent,
        record: &Record,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Audited, AuditError> {
        self.update(key, false, now, |case| {
            let Some(call) = confirm::call_of(case, event) else {
                return (Vec::new(), Vec::new());
            };
            match confirm::join(case, call, record, event, caller, now) {
                Joined::Verdict { entry, occurrence } => (vec![entry], vec![*occurrence]),
                Joined::Early | Joined::Known => (Vec::new(), Vec::new()),
            }
        })
        .await
    }

    /// CloudTrail was faster than the answer, or the answer never came.
    async fn early_or_lost(
        &self,
        key: &CaseKey,
        event: &CloudTrailEvent,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Audited, AuditError> {
        for _ in 0..MAX_RACES {
            let lines = self.store.chain(key).await?;
            let mut crossed = false;
            let audited = self
                .update(key, false, now, |case| {
                    let call = confirm::call_of(case, event);
                    let sequence = call.and_then(|call| case.call(call)?.sequence);
                    let entry = lines.iter().find(|entry| Some(entry.sequence) == sequence);
                    crossed = sequence.is_some() && entry.is_none();
                    match (call, entry.and_then(|entry| Record::read(&entry.line).ok())) {
                        _ if crossed => {}
                        (Some(call), Some(record)) => {
                            if let Joined::Verdict { entry, occurrence } =
                                confirm::join(case, call, &record, event, caller, now)
                            {
                                return (vec![entry], vec![*occurrence]);
                            }
                        }
                        _ => {
                            let _ = confirm::keep(case, event);
                        }
                    }
                    (Vec::new(), Vec::new())
                })
                .await?;
            // The call's record was written since the trail was read. Kept as a sighting, CloudTrail's word would wait
            // for a record that is there already.
            if !crossed {
                return Ok(audited);
            }
        }
        Err(AuditError::Contended(key.instance_id.clone()))
    }

    /// Somebody else terminated one of our nodes.
    async fn foreign(
        &self,
        key: &CaseKey,
        event: &CloudTrailEvent,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Audited, AuditError> {
        self.update(key, false, now, |case| {
            if case.departure.as_ref().is_some_and(|departure| departure.foreign) {
                return (Vec::new(), Vec::new());
            }
            let how = format!("{} terminated it", event.who());
            let data = json!({
                "eventID": event.event_id,
                "requestID": event.request_id,
                "eventName": event.event_name,
                "who": event.who(),
            });
            let step = trail::Step::Foreign;
            let entry = ledger::enter(case, caller, step, &how, Guards::NotAsked, data, now);
            let told = occurrence(case, Step::Foreign, format!("{how} ({})", event.event_name), now);
            case.depart(event.event_time, how, true);
            (vec![entry], vec![told])
        })
        .await
    }

    /// Reads, changes and writes until no race is lost.
    async fn update(
        &self,
        key: &CaseKey,
        create: bool,
        now: Timestamp,
        mut change: impl FnMut(&mut Case) -> (Vec<Entry>, Vec<Occurrence>),
    ) -> Result<Audited, AuditError> {
        let Some(policy) = self.store.policy(&key.cluster).await? else {
            return Ok(Audited::default());
        };
        for _ in 0..MAX_RACES {
            let mut case = match self.store.case(key).await? {
                Some(case) => case,
                None if create => Box::new(Case::new(key.cluster.clone(), key.instance_id.clone())),
                None => return Ok(Audited::default()),
            };
            let (entries, occurrences) = change(&mut case);
            case.plan(&policy, now);
            let commit = self.store.commit(Change { case: &case, group: None, entries: &entries }).await?;
            if commit == Commit::Won {
                return Ok(Audited { occurrences, relevant: true });
            }
        }
        Err(AuditError::Contended(key.instance_id.clone()))
    }
}
