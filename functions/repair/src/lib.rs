//! Turns due cases into calls, and closes what has ended.
//!
//! A sweep looks at what is due, decides, and carries the decision out. Every step is one conditional write, so
//! that a sweep can die at any moment and the next one takes up where it was; two sweeps at once lose races,
//! never nodes.

mod act;
mod explain;
mod here;
mod minute;
mod newcomer;
mod step;
mod view;

use std::collections::BTreeMap;

use jiff::Timestamp;
use nodemend_adapters::{
    clock::Clock,
    cloud::{Cloud, CloudError},
    store::{CaseKey, Change, Commit, Store, StoreError},
    trail::Trail,
};
use nodemend_domain::{
    case::{Case, Fault},
    decide::{self, Decision, Triage},
    group::GroupState,
    ident::{AccountId, ClusterName, GroupName},
    ledger::Entry,
    occurrence::Occurrence,
    policy::Policy,
};

pub use self::explain::Explanation;
use self::view::View;

/// How many cases one sweep looks at; more wait for the next, a moment later.
const MAX_CASES: usize = 5_000;
/// How often a race for one case may be lost within a sweep.
const MAX_RACES: usize = 16;

/// Carries repairs out.
#[derive(Debug, Clone)]
pub struct Repairer<S, C, K> {
    store: S,
    cloud: C,
    clock: K,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// What happened, in order.
    pub occurrences: Vec<Occurrence>,
    /// How many cases were looked at.
    pub looked_at: usize,
    /// What could not be done; it stays due.
    pub failures: Vec<RepairError>,
    /// Since when the longest waiting repair of each cluster has been waiting for its call.
    pub pending: BTreeMap<ClusterName, Timestamp>,
}

/// Why a case could not be looked at. It stays due, and the next sweep tries again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// AWS.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Others wrote the same case again and again.
    #[error("failed to write the case of {0}: {MAX_RACES} races lost")]
    Contended(String),
}

impl<S: Store + Trail + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// A repairer on these ports.
    pub fn new(store: S, cloud: C, clock: K) -> Self {
        Self { store, cloud, clock }
    }

    /// When the next case is due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, RepairError> {
        Ok(self.store.next_due().await?)
    }

    /// Looks at everything that is due now.
    pub async fn sweep(&self) -> Result<Swept, RepairError> {
        self.sweep_before(Timestamp::MAX).await
    }

    /// The same, but begins no repair at `end` or later: what ends a process between a claim and its call costs the
    /// case a lease. What is left stays due.
    pub async fn sweep_before(&self, end: Timestamp) -> Result<Swept, RepairError> {
        let now = self.clock.now();
        let keys = self.store.due(now, MAX_CASES).await?;
        let mut swept = Swept { looked_at: keys.len(), ..Swept::default() };
        let mut view = View::default();
        let mut open = Vec::new();
        for key in keys {
            match self.triage(&key, &mut view, now, &mut swept).await {
                Ok(Some(case)) => open.push(case),
                Ok(None) => {}
                Err(error) => swept.failures.push(error),
            }
        }
        if open.is_empty() {
            return Ok(swept);
        }
        let open = self.locate(open, &mut view, &mut swept).await;
        let mut acts = Vec::new();
        for case in open {
            match self.settle(&case, &mut view, now, &mut swept).await {
                Ok(Some(fault)) => acts.push((fault.urgency(), CaseKey::of(&case))),
                Ok(None) => {}
                Err(error) => swept.failures.push(error),
            }
        }
        // Where a group has room for fewer than want it, the most urgent go first, then the longest waiting.
        acts.sort();
        for (_, key) in acts {
            if self.clock.now() >= end {
                break;
            }
            if let Err(error) = self.act(&key, &mut swept).await {
                swept.failures.push(error);
            }
        }
        Ok(swept)
    }

    /// Asks AWS where these instances are, once for each account that they are in. The cases of an account that can't be
    /// asked stay due, and stop no other's.
    async fn locate(&self, open: Vec<Case>, view: &mut View, swept: &mut Swept) -> Vec<Case> {
        let mut by_account: BTreeMap<Option<AccountId>, Vec<Case>> = BTreeMap::new();
        for case in open {
            // The view has read the policy: without one the case would not be open.
            let policy = view.policy(&self.store, &case.cluster).await.ok().flatten();
            by_account.entry(policy.and_then(|policy| policy.account.clone())).or_default().push(case);
        }
        let mut located = Vec::new();
        for (account, cases) in by_account {
            let found = match self.cloud.in_account(account.as_ref()).await {
                Ok(cloud) => view.locate(&cloud, &cases).await,
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(()) => located.extend(cases),
                Err(error) => swept.failures.push(error),
            }
        }
        located
    }

    /// Carries out what the case alone decides; the case, where that is not enough.
    async fn triage(
        &self,
        key: &CaseKey,
        view: &mut View,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<Option<Case>, RepairError> {
        let Some(case) = self.store.case(key).await? else {
            return Ok(None);
        };
        let Some(policy) = view.policy(&self.store, &key.cluster).await? else {
            return Ok(None);
        };
        match decide::triage(&case, &policy, now) {
            Triage::NeedsSurroundings => {
                if let Some(since) = case.pending_since() {
                    let oldest = swept.pending.entry(key.cluster.clone()).or_insert(since);
                    *oldest = since.min(*oldest);
                }
                Ok(Some(case))
            }
            Triage::Settled(decision) => {
                self.here(&policy).await?.carry_out(case, decision, None, &policy, now, swept).await?;
                Ok(None)
            }
        }
    }

    /// Decides with the surroundings as this sweep has read them, and carries out all but a call.
    async fn settle(
        &self,
        case: &Case,
        view: &mut View,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<Option<Fault>, RepairError> {
        let key = CaseKey::of(case);
        let Some(policy) = view.policy(&self.store, &key.cluster).await? else {
            return Ok(None);
        };
        let here = self.here(&policy).await?;
        let surroundings = view.around(&self.store, &here.cloud, case).await?;
        match decide::decide(case, &surroundings.borrow(), &policy, now) {
            Decision::Act { fault, .. } => Ok(Some(fault)),
            decision => {
                let group = Some(surroundings.state.name.clone());
                here.carry_out(case.clone(), decision, group, &policy, now, swept).await?;
                Ok(None)
            }
        }
    }

    /// Reads everything again, consistently, decides again, and only then claims and calls.
    async fn act(&self, key: &CaseKey, swept: &mut Swept) -> Result<(), RepairError> {
        let now = self.clock.now();
        let Some(case) = self.store.case(key).await? else {
            return Ok(());
        };
        let mut view = View::default();
        let Some(policy) = view.policy(&self.store, &key.cluster).await? else {
            return Ok(());
        };
        if case.due.is_none_or(|due| due > now) {
            return Ok(());
        }
        // News came since the sweep's first look, and the case alone decides by now: the next sweep sees to it.
        if decide::triage(&case, &policy, now) != Triage::NeedsSurroundings {
            return Ok(());
        }
        let here = self.here(&policy).await?;
        view.locate(&here.cloud, std::slice::from_ref(&case)).await?;
        let surroundings = view.around(&self.store, &here.cloud, &case).await?;
        match decide::decide(&case, &surroundings.borrow(), &policy, now) {
            Decision::Act { fault, action } => {
                let plan = act::Plan { fault, action, group: surroundings.state.clone() };
                here.make(case, plan, &policy, swept).await
            }
            decision => {
                let group = Some(surroundings.state.name.clone());
                here.carry_out(case, decision, group, &policy, now, swept).await
            }
        }
    }

    /// Writes once, at the versions that were read.
    async fn commit(
        &self,
        case: &mut Case,
        group: Option<&GroupState>,
        entries: &[Entry],
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Commit, RepairError> {
        case.plan(policy, now);
        let commit = self.store.commit(Change { case, group, entries }).await?;
        if commit == Commit::Won {
            case.version += 1;
        }
        Ok(commit)
    }

    /// Writes what was decided on this very version of the case, or nothing. A lost race means news: the case
    /// stays due, and is decided anew. Written to a later version, the end of one repair could end the next.
    async fn write_as_decided<T>(
        &self,
        mut case: Case,
        group: Option<&GroupName>,
        policy: &Policy,
        now: Timestamp,
        change: impl FnOnce(&mut Case, Option<&mut GroupState>) -> (Vec<Entry>, T),
    ) -> Result<Option<T>, RepairError> {
        let mut state = match group {
            Some(name) => Some(self.store.group(&case.cluster, name).await?),
            None => None,
        };
        let (entries, result) = change(&mut case, state.as_mut());
        let commit = self.commit(&mut case, state.as_ref(), &entries, policy, now).await?;
        Ok((commit == Commit::Won).then_some(result))
    }

    /// Reads, changes and writes until no race is lost. The change sees the case as it is now, with its group.
    async fn update<T>(
        &self,
        key: &CaseKey,
        group: Option<&GroupName>,
        policy: &Policy,
        now: Timestamp,
        mut change: impl FnMut(&mut Case, Option<&mut GroupState>) -> (Vec<Entry>, T),
    ) -> Result<Option<T>, RepairError> {
        for _ in 0..MAX_RACES {
            let Some(mut case) = self.store.case(key).await? else {
                return Ok(None);
            };
            let mut state = match group {
                Some(name) => Some(self.store.group(&key.cluster, name).await?),
                None => None,
            };
            let (entries, result) = change(&mut case, state.as_mut());
            if self.commit(&mut case, state.as_ref(), &entries, policy, now).await? == Commit::Won {
                return Ok(Some(result));
            }
        }
        Err(RepairError::Contended(key.instance_id.to_string()))
    }
}
