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
mod together;
mod view;

use std::{cell::RefCell, collections::BTreeMap};

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
use self::{
    act::Claimed,
    together::{both, in_turn, together},
    view::View,
};

/// How many cases one sweep looks at; more wait for the next, a moment later.
const MAX_CASES: usize = 5_000;
/// How often a race for one case may be lost within a sweep.
const MAX_RACES: usize = 16;
/// How often a claim is decided anew because somebody else wrote its case or took a place in its group.
const MAX_CLAIMS: usize = 4;
/// How many cases are read at once, and in how many groups repairs are begun at once: AWS lets an account ask Auto
/// Scaling and EC2 only so often, and others of the account ask, too.
const AT_ONCE: usize = 8;

/// Carries repairs out.
#[derive(Debug, Clone)]
pub struct Repairer<S, C, K> {
    store: S,
    cloud: C,
    clock: K,
}

/// What asks for a repair, and the id that it is told under.
type Due = (CaseKey, String);
/// The same, with how urgent it is: the least goes first.
type Wanting = ((u8, Timestamp), Due);

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// What happened, in order.
    pub occurrences: Vec<Occurrence>,
    /// How many cases were looked at.
    pub looked_at: usize,
    /// What could not be done; it stays due.
    pub failures: Vec<Failure>,
    /// Since when the longest waiting repair of each cluster has been waiting for its call.
    pub pending: BTreeMap<ClusterName, Timestamp>,
}

/// A case that could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Which.
    pub key: CaseKey,
    /// Its id, once it was read: what logs are searched by.
    pub case: Option<String>,
    /// Why.
    pub error: RepairError,
}

impl Failure {
    fn of(case: &Case) -> impl FnOnce(RepairError) -> Self + use<> {
        let (key, case) = (CaseKey::of(case), Some(case.id()));
        |error| Self { key, case, error }
    }
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
        for keys in keys.chunks(AT_ONCE) {
            let cases = together(keys.iter().map(|key| self.store.case(key)), AT_ONCE).await;
            for (key, case) in keys.iter().zip(cases) {
                let case = match case {
                    Ok(Some(case)) => case,
                    Ok(None) => continue,
                    Err(error) => {
                        swept.failures.push(Failure { key: key.clone(), case: None, error: error.into() });
                        continue;
                    }
                };
                let failure = Failure::of(&case);
                match self.triage(case, &mut view, now, &mut swept).await {
                    Ok(Some(case)) => open.push(*case),
                    Ok(None) => {}
                    Err(error) => swept.failures.push(failure(error)),
                }
            }
        }
        let due = match open.as_slice() {
            [] => return Ok(swept),
            // One alone stands in nobody's way: it is decided once, where it is acted on.
            [case] => vec![vec![(CaseKey::of(case), case.id())]],
            _ => Box::pin(self.in_order(open, &mut view, now, &mut swept)).await,
        };
        for acted in together(due.into_iter().map(|due| self.act_in_turn(due, end)), AT_ONCE).await {
            swept.occurrences.extend(acted.occurrences);
            swept.failures.extend(acted.failures);
        }
        Ok(swept)
    }

    /// What wants a repair, by group. Where a group has room for fewer than want it, the most urgent go first, then the
    /// longest waiting.
    async fn in_order(
        &self,
        open: Vec<Case>,
        view: &mut View,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Vec<Vec<Due>> {
        let open = self.locate(open, view, swept).await;
        let mut groups: BTreeMap<(ClusterName, GroupName), Vec<Wanting>> = BTreeMap::new();
        for case in open {
            let (key, id) = (CaseKey::of(&case), case.id());
            match self.settle(case, view, now, swept).await {
                Ok(Some((fault, group))) => {
                    let wanting = groups.entry((key.cluster.clone(), group)).or_default();
                    wanting.push((fault.urgency(), (key, id)));
                }
                Ok(None) => {}
                Err(error) => swept.failures.push(Failure { key, case: Some(id), error }),
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        for wanting in &mut groups {
            wanting.sort();
        }
        groups.sort();
        groups.into_iter().map(|wanting| wanting.into_iter().map(|(_, due)| due).collect()).collect()
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
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => located.extend(cases),
                Err(error) => {
                    let failed = |case: &Case| Failure::of(case)(error.clone().into());
                    swept.failures.extend(cases.iter().map(failed));
                }
            }
        }
        located
    }

    /// Acts on what is due in one group. Each claim is decided on what the one before it has left; the calls themselves
    /// wait for nobody.
    async fn act_in_turn(&self, due: Vec<Due>, end: Timestamp) -> Swept {
        let acted = RefCell::new(Swept::default());
        let note = |(key, case): Due, swept: Swept, error: Option<RepairError>| {
            let mut acted = acted.borrow_mut();
            acted.occurrences.extend(swept.occurrences);
            acted.failures.extend(error.map(|error| Failure { key, case: Some(case), error }));
        };
        let claim = async |due: Due| {
            if self.clock.now() >= end {
                return None;
            }
            let mut swept = Swept::default();
            let claimed = Box::pin(self.act(&due.0, &mut swept)).await;
            let (claimed, error) = match claimed {
                Ok(claimed) => (claimed, None),
                Err(error) => (None, Some(error)),
            };
            note(due.clone(), swept, error);
            claimed.map(|claimed| (due, claimed))
        };
        let make = async |(due, claimed): (Due, Claimed)| {
            let mut swept = Swept::default();
            let made = match self.here(claimed.policy()).await {
                Ok(here) => here.make(claimed, &mut swept).await,
                Err(error) => Err(error),
            };
            note(due, swept, made.err());
        };
        in_turn(due, claim, make).await;
        acted.into_inner()
    }

    /// Carries out what the case alone decides; the case, where that is not enough.
    async fn triage(
        &self,
        case: Box<Case>,
        view: &mut View,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<Option<Box<Case>>, RepairError> {
        let Some(policy) = view.policy(&self.store, &case.cluster).await? else {
            return Ok(None);
        };
        match decide::triage(&case, &policy, now) {
            Triage::NeedsSurroundings => {
                if let Some(since) = case.pending_since() {
                    let oldest = swept.pending.entry(case.cluster.clone()).or_insert(since);
                    *oldest = since.min(*oldest);
                }
                Ok(Some(case))
            }
            Triage::Settled(decision) => {
                let here = self.here(&policy).await?;
                Box::pin(here.carry_out(case, decision, None, &policy, now, swept)).await?;
                Ok(None)
            }
        }
    }

    /// Decides with the surroundings as this sweep has read them, and carries out all but a call: what asks for one, and
    /// in which group.
    async fn settle(
        &self,
        case: Case,
        view: &mut View,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<Option<(Fault, GroupName)>, RepairError> {
        let Some(policy) = view.policy(&self.store, &case.cluster).await? else {
            return Ok(None);
        };
        let here = self.here(&policy).await?;
        let surroundings = Box::pin(view.around(&self.store, &here.cloud, &case)).await?;
        match decide::decide(&case, &surroundings.borrow(), &policy, now) {
            Decision::Act { fault, .. } => Ok(Some((fault, surroundings.state.name.clone()))),
            decision => {
                let group = Some(surroundings.state.name.clone());
                Box::pin(here.carry_out(Box::new(case), decision, group, &policy, now, swept)).await?;
                Ok(None)
            }
        }
    }

    /// Reads everything again, consistently, decides again, and only then claims: what is left is the call. Any other
    /// decision is carried out.
    async fn act(&self, key: &CaseKey, swept: &mut Swept) -> Result<Option<Claimed>, RepairError> {
        for _ in 0..MAX_CLAIMS {
            let now = self.clock.now();
            let mut view = View::default();
            let (case, policy) = both(self.store.case(key), view.policy(&self.store, &key.cluster)).await;
            let (Some(case), Some(policy)) = (case?, policy?) else {
                return Ok(None);
            };
            if case.due.is_none_or(|due| due > now) {
                return Ok(None);
            }
            // News came since the sweep's first look, and the case alone decides by now: the next sweep sees to it.
            if decide::triage(&case, &policy, now) != Triage::NeedsSurroundings {
                return Ok(None);
            }
            let here = self.here(&policy).await?;
            let surroundings = Box::pin(view.around_one(&self.store, &here.cloud, &case)).await?;
            match decide::decide(&case, &surroundings.borrow(), &policy, now) {
                Decision::Act { fault, action } => {
                    let plan = act::Plan { fault, action, group: surroundings.state.clone() };
                    if let Some(claimed) = here.claim(case, plan, policy.clone(), swept).await? {
                        return Ok(Some(claimed));
                    }
                }
                decision => {
                    let group = Some(surroundings.state.name.clone());
                    Box::pin(here.carry_out(case, decision, group, &policy, now, swept)).await?;
                    return Ok(None);
                }
            }
        }
        // It stays due.
        Ok(None)
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
        mut case: Box<Case>,
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
