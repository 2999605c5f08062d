//! Turns due cases into calls, and closes the repairs that have ended.
//!
//! A run evaluates the cases that are due, decides, and carries each decision out. Every step is one conditional write:
//! a run can die at any moment and the next one continues; two runs at once lose races, never nodes.

mod account_scope;
mod apply_decision;
mod claim_and_call;
mod concurrency;
mod explain;
mod join;
mod run_cache;
mod schedule;

use std::{cell::RefCell, collections::BTreeMap};

use futures_util::future::join;
use jiff::Timestamp;
use nodemend_domain::{
    case::{Case, Fault, IllegalTransition, TransitionContext},
    decide::{self, Decision, Triage},
    ident::{AccountId, ClusterName, GroupName},
    policy::Policy,
    repair_event::RepairEvent,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::{Cloud, CloudError},
    store::{CaseKey, Store, StoreError},
    write::WriteError,
};

pub use self::explain::Explanation;
use self::{
    claim_and_call::Claimed,
    concurrency::{buffered, sequential},
    run_cache::RunCache,
};

/// Cases that one run evaluates; the rest stays due for the next run, a moment later.
const MAX_CASES: usize = 5_000;
/// How often a claim is decided again because others wrote its case or acquired a slot of its group.
const MAX_CLAIMS: usize = 4;
/// Cases read at once, and groups in which repairs are begun at once: the API quotas of Auto Scaling and EC2 are the
/// account's, shared with everybody in it.
const AT_ONCE: usize = 8;

/// Carries repairs out.
#[derive(Debug, Clone)]
pub struct Repairer<S, C, K> {
    store: S,
    cloud: C,
    clock: K,
}

/// A case that asks for a repair, and its id.
type Due = (CaseKey, String);
/// The same with its urgency: the least goes first.
type Wanting = ((u8, Timestamp), Due);

/// What a run did.
#[derive(Debug, Default)]
pub struct RunReport {
    /// What is to be published, in order.
    pub repair_events: Vec<RepairEvent>,
    /// How many cases were evaluated.
    pub evaluated: usize,
    /// The cases that could not be evaluated; they stay due.
    pub failures: Vec<Failure>,
    /// When the oldest pending repair of each cluster became pending.
    pub pending: BTreeMap<ClusterName, Timestamp>,
}

/// A case that could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Its key.
    pub key: CaseKey,
    /// Its id, where it could be read: what logs are searched by.
    pub case: Option<String>,
    /// The error.
    pub error: RepairError,
}

impl Failure {
    fn of(case: &Case) -> impl FnOnce(RepairError) -> Self + use<> {
        let (key, case) = (CaseKey::of(case), Some(case.id()));
        |error| Self { key, case, error }
    }
}

/// Why a case could not be evaluated. It stays due, and the next run tries again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A decision that the very version it was made on does not allow: a fault of ours, never passed over in silence.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// AWS could not be asked.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// A repairer on these ports.
    pub fn new(store: S, cloud: C, clock: K) -> Self {
        Self { store, cloud, clock }
    }

    /// When the next case is due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, RepairError> {
        Ok(self.store.next_due().await?)
    }

    /// Evaluates everything that is due now.
    pub async fn run_once(&self) -> Result<RunReport, RepairError> {
        self.run_before(Timestamp::MAX).await
    }

    /// The same, but begins no repair at `end` or later: a process that ends between a claim and its call costs the case a
    /// lease. The rest stays due.
    pub async fn run_before(&self, end: Timestamp) -> Result<RunReport, RepairError> {
        let now = self.clock.now();
        let keys = self.store.due(now, MAX_CASES).await?;
        let mut report = RunReport { evaluated: keys.len(), ..RunReport::default() };
        let mut view = RunCache::default();
        let mut open = Vec::new();
        for keys in keys.chunks(AT_ONCE) {
            let cases = buffered(keys.iter().map(|key| self.store.case(key)), AT_ONCE).await;
            for (key, case) in keys.iter().zip(cases) {
                let case = match case {
                    Ok(Some(case)) => case,
                    Ok(None) => continue,
                    Err(error) => {
                        report.failures.push(Failure { key: key.clone(), case: None, error: error.into() });
                        continue;
                    }
                };
                let failure = Failure::of(&case);
                match self.triage(case, &mut view, now, &mut report).await {
                    Ok(Some(case)) => open.push(*case),
                    Ok(None) => {}
                    Err(error) => report.failures.push(failure(error)),
                }
            }
        }
        let due = match open.as_slice() {
            [] => return Ok(report),
            // A single case competes with none: it is decided once, where it is acted on.
            [case] => vec![vec![(CaseKey::of(case), case.id())]],
            _ => Box::pin(self.in_order(open, &mut view, now, &mut report)).await,
        };
        for acted in buffered(due.into_iter().map(|due| self.act_in_turn(due, end)), AT_ONCE).await {
            report.repair_events.extend(acted.repair_events);
            report.failures.extend(acted.failures);
        }
        Ok(report)
    }

    /// The cases that ask for a repair, by group. Where a group has fewer slots than cases, the most urgent go first, then
    /// those that have waited longest.
    async fn in_order(
        &self,
        open: Vec<Case>,
        view: &mut RunCache,
        now: Timestamp,
        report: &mut RunReport,
    ) -> Vec<Vec<Due>> {
        let open = self.describe_instances(open, view, report).await;
        let mut groups: BTreeMap<(ClusterName, GroupName), Vec<Wanting>> = BTreeMap::new();
        for case in open {
            let (key, id) = (CaseKey::of(&case), case.id());
            match self.settle(case, view, now, report).await {
                Ok(Some((fault, group))) => {
                    let wanting = groups.entry((key.cluster.clone(), group)).or_default();
                    wanting.push((fault.urgency(), (key, id)));
                }
                Ok(None) => {}
                Err(error) => report.failures.push(Failure { key, case: Some(id), error }),
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        for wanting in &mut groups {
            wanting.sort();
        }
        groups.sort();
        groups.into_iter().map(|wanting| wanting.into_iter().map(|(_, due)| due).collect()).collect()
    }

    /// Asks AWS where these instances are, once per account. Where an account can't be asked its cases stay due; the other
    /// accounts go on.
    async fn describe_instances(
        &self,
        open: Vec<Case>,
        view: &mut RunCache,
        report: &mut RunReport,
    ) -> Vec<Case> {
        let mut by_account: BTreeMap<Option<AccountId>, Vec<Case>> = BTreeMap::new();
        for case in open {
            // The policy is cached: without one the case would not be open.
            let policy = view.policy(&self.store, case.cluster()).await.ok().flatten();
            by_account.entry(policy.and_then(|policy| policy.account.clone())).or_default().push(case);
        }
        let mut located = Vec::new();
        for (account, cases) in by_account {
            let found = match self.cloud.in_account(account.as_ref()).await {
                Ok(cloud) => view.describe_instances(&cloud, &cases).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => located.extend(cases),
                Err(error) => {
                    let failed = |case: &Case| Failure::of(case)(error.clone().into());
                    report.failures.extend(cases.iter().map(failed));
                }
            }
        }
        located
    }

    /// Acts on the due cases of one group. Each claim is decided on what the claim before it has left; the calls do not wait
    /// for each other.
    async fn act_in_turn(&self, due: Vec<Due>, end: Timestamp) -> RunReport {
        let acted = RefCell::new(RunReport::default());
        let note = |(key, case): Due, report: RunReport, error: Option<RepairError>| {
            let mut acted = acted.borrow_mut();
            acted.repair_events.extend(report.repair_events);
            acted.failures.extend(error.map(|error| Failure { key, case: Some(case), error }));
        };
        let claim = async |due: Due| {
            if self.clock.now() >= end {
                return None;
            }
            let mut report = RunReport::default();
            let claimed = Box::pin(self.act(&due.0, &mut report)).await;
            let (claimed, error) = match claimed {
                Ok(claimed) => (claimed, None),
                Err(error) => (None, Some(error)),
            };
            note(due.clone(), report, error);
            claimed.map(|claimed| (due, claimed))
        };
        let make = async |(due, claimed): (Due, Claimed)| {
            let mut report = RunReport::default();
            let made = match self.here(claimed.policy()).await {
                Ok(here) => here.make(claimed, &mut report).await,
                Err(error) => Err(error),
            };
            note(due, report, made.err());
        };
        sequential(due, claim, make).await;
        acted.into_inner()
    }

    /// Carries out what the case alone decides; returns the case where a context is needed.
    async fn triage(
        &self,
        case: Box<Case>,
        view: &mut RunCache,
        now: Timestamp,
        report: &mut RunReport,
    ) -> Result<Option<Box<Case>>, RepairError> {
        let Some(policy) = view.policy(&self.store, case.cluster()).await? else {
            return Ok(None);
        };
        match decide::triage(&case, &policy, now) {
            Triage::NeedsContext => {
                if let Some(since) = case.pending_since() {
                    let oldest = report.pending.entry(case.cluster().clone()).or_insert(since);
                    *oldest = since.min(*oldest);
                }
                Ok(Some(case))
            }
            Triage::Settled(decision) => {
                let here = self.here(&policy).await?;
                Box::pin(here.carry_out(case, decision, None, &here.transition(&policy, now), report))
                    .await?;
                Ok(None)
            }
        }
    }

    /// Decides with the context as this run has read it, and carries out everything but a call. Returns the fault that asks
    /// for a call, and its group.
    async fn settle(
        &self,
        case: Case,
        view: &mut RunCache,
        now: Timestamp,
        report: &mut RunReport,
    ) -> Result<Option<(Fault, GroupName)>, RepairError> {
        let Some(policy) = view.policy(&self.store, case.cluster()).await? else {
            return Ok(None);
        };
        let here = self.here(&policy).await?;
        let context = Box::pin(view.context(&self.store, &here.cloud, &case)).await?;
        match decide::decide(&case, &context.borrow(), &policy, now) {
            Decision::Act { fault, .. } => Ok(Some((fault, context.state.name().clone()))),
            decision => {
                let group = Some(context.state.name().clone());
                Box::pin(here.carry_out(
                    Box::new(case),
                    decision,
                    group,
                    &here.transition(&policy, now),
                    report,
                ))
                .await?;
                Ok(None)
            }
        }
    }

    /// Reads everything again, consistently, decides again, and only then claims; the call is left to do. Any other decision
    /// is carried out.
    async fn act(&self, key: &CaseKey, report: &mut RunReport) -> Result<Option<Claimed>, RepairError> {
        for _ in 0..MAX_CLAIMS {
            let now = self.clock.now();
            let mut view = RunCache::default();
            let (case, policy) = join(self.store.case(key), view.policy(&self.store, &key.cluster)).await;
            let (Some(case), Some(policy)) = (case?, policy?) else {
                return Ok(None);
            };
            if case.due().is_none_or(|due| due > now) {
                return Ok(None);
            }
            // It has changed since it was first read, and the case alone decides by now: the next run does.
            if decide::triage(&case, &policy, now) != Triage::NeedsContext {
                return Ok(None);
            }
            let here = self.here(&policy).await?;
            let context = Box::pin(view.context_of_one(&self.store, &here.cloud, &case)).await?;
            match decide::decide(&case, &context.borrow(), &policy, now) {
                Decision::Act { fault, action } => {
                    let plan = claim_and_call::Plan { fault, action, group: context.state.clone() };
                    if let Some(claimed) = here.claim(case, plan, policy.clone(), report).await? {
                        return Ok(Some(claimed));
                    }
                }
                decision => {
                    let group = Some(context.state.name().clone());
                    Box::pin(here.carry_out(case, decision, group, &here.transition(&policy, now), report))
                        .await?;
                    return Ok(None);
                }
            }
        }
        // It stays due.
        Ok(None)
    }

    fn transition<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> TransitionContext<'a> {
        TransitionContext { policy, caller: self.cloud.caller(), now }
    }
}
