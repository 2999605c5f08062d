//! Evaluates due cases, makes the calls, and closes the repairs that have ended.
//!
//! - Every step is one conditional write: a run can die at any moment, and the next one continues.
//! - Two runs at the same time are safe: one of them loses the race for each write.

mod account_scope;
mod apply_decision;
mod claim_and_call;
mod concurrency;
mod explain;
mod join;
mod run_cache;
mod schedule;
mod verify;

use std::{cell::RefCell, collections::BTreeMap};

use futures_util::future::join;
use jiff::Timestamp;
use nodemend_domain::{
    case::{Case, Fault, IllegalTransition, TransitionContext},
    condition::Health,
    decide::{self, CaseOutcome, Decision, Triage},
    guard::DecisionContext,
    ident::{AccountId, ClusterName, GroupName},
    policy::Policy,
    repair_event::RepairEvent,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::{Cloud, CloudError},
    store::{CaseKey, CaseWrite, Store, StoreError},
    write::WriteError,
};

pub use self::explain::Explanation;
use self::{
    claim_and_call::Claimed,
    concurrency::{buffered, sequential},
    run_cache::RunCache,
    verify::{ClusterContext, ClusterLogs, Verified},
};

/// The most cases that one run evaluates. The others stay due for the next run, a moment later.
const MAX_CASES: usize = 5_000;
/// Attempts of a claim after other writes of its case or its group.
const MAX_CLAIMS: usize = 4;
/// The cases that are read concurrently, and the groups that are repaired concurrently: the API quotas of Auto Scaling
/// and EC2 are shared with everything in the account.
const CONCURRENCY: usize = 8;

/// Evaluates cases and repairs nodes.
#[derive(Debug, Clone)]
pub struct Repairer<S, C, K> {
    store: S,
    cloud: C,
    clock: K,
}

/// A case that is due for a repair, and its ID.
type Due = (CaseKey, String);
/// The same with its urgency: the lowest value goes first.
type DueByUrgency = ((u8, Timestamp), Due);

/// What triage left of the due cases.
#[derive(Debug, Default)]
struct Triaged {
    /// Those that need more facts.
    open: Vec<Case>,
    /// Those whose replacement is late.
    late: Vec<CaseKey>,
    /// Whether what is known of a new instance could not be recorded.
    unrecorded: bool,
}

/// A case about which triage applied nothing.
enum NotSettled {
    /// Its decision needs more facts.
    Open(Box<Case>),
    /// Its repair fails for want of a replacement, if none is recorded in this run.
    Late,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct RunReport {
    /// The repair events to publish, in order.
    pub repair_events: Vec<RepairEvent>,
    /// The number of cases that were evaluated.
    pub evaluated: usize,
    /// The cases that could not be evaluated; they stay due.
    pub failures: Vec<EvaluationFailure>,
    /// When the oldest pending repair of each cluster became pending.
    pub pending: BTreeMap<ClusterName, Timestamp>,
    /// How many due cases each cluster without a policy has. Nothing is decided about them.
    pub without_policy: BTreeMap<ClusterName, usize>,
}

/// A case that could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[error("failed to evaluate {}", key.instance_id)]
pub struct EvaluationFailure {
    /// Its key.
    pub key: CaseKey,
    /// Its ID, if it could be read. Logs are searched by it.
    pub case: Option<String>,
    /// The error.
    #[source]
    pub error: RepairError,
}

impl EvaluationFailure {
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
    /// The version that a decision was made on does not allow it: a defect in nodemend, which is always reported.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// A read from AWS failed.
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

    /// The same, but starts no repair at `end` or later: a process that ends between a claim and its call delays the
    /// case by a lease. The other cases stay due.
    pub async fn run_before(&self, end: Timestamp) -> Result<RunReport, RepairError> {
        let now = self.clock.now();
        let keys = self.store.due(now, MAX_CASES).await?;
        let mut report = RunReport { evaluated: keys.len(), ..RunReport::default() };
        let mut cache = RunCache::at(now);
        let Triaged { mut open, late, unrecorded } =
            self.triage_all(&keys, false, &mut cache, &mut report).await;
        // A replacement that joined in time, and is due as well, is recorded first: in the next run, if not in this one.
        if !unrecorded {
            open.extend(self.triage_all(&late, true, &mut cache, &mut report).await.open);
        }
        let mut logs = ClusterLogs::default();
        let due = match open.as_slice() {
            [] => return Ok(report),
            // A single case has no competitor: it is decided only once, when it is acted on.
            [case] => vec![(case.group().cloned(), vec![(CaseKey::of(case), case.id())])],
            _ => Box::pin(self.settle_all(open, &mut cache, &mut logs, &mut report)).await,
        };
        let groups = due.into_iter().map(|(group, due)| self.repair_group(group, due, end, &logs));
        for repaired in buffered(groups, CONCURRENCY).await {
            report.repair_events.extend(repaired.repair_events);
            report.failures.extend(repaired.failures);
        }
        Ok(report)
    }

    /// Reads these cases, and applies what is decided about them without further facts. Before the `last` time, no repair fails
    /// for want of a replacement.
    async fn triage_all(
        &self,
        keys: &[CaseKey],
        last: bool,
        cache: &mut RunCache,
        report: &mut RunReport,
    ) -> Triaged {
        let mut triaged = Triaged::default();
        for keys in keys.chunks(CONCURRENCY) {
            let cases = buffered(keys.iter().map(|key| self.store.case(key)), CONCURRENCY).await;
            for (key, case) in keys.iter().zip(cases) {
                let case = match case {
                    Ok(Some(case)) => case,
                    Ok(None) => continue,
                    Err(error) => {
                        report.failures.push(EvaluationFailure {
                            key: key.clone(),
                            case: None,
                            error: error.into(),
                        });
                        triaged.unrecorded = true;
                        continue;
                    }
                };
                let (failure, is_new) = (EvaluationFailure::of(&case), case.arrival().is_some());
                match self.triage(case, last, cache, report).await {
                    Ok(Some(NotSettled::Open(case))) => triaged.open.push(*case),
                    Ok(Some(NotSettled::Late)) => triaged.late.push(key.clone()),
                    Ok(None) => {}
                    Err(error) => {
                        report.failures.push(failure(error));
                        triaged.unrecorded |= is_new;
                    }
                }
            }
        }
        triaged
    }

    /// Decides on all cases. Returns those that are due for a repair, by group: the most urgent first, then those that
    /// have waited longest, because a group can have fewer slots than cases. A cluster where repairs go one at a time
    /// counts as one group: no claim may be decided before the one before it is written.
    async fn settle_all(
        &self,
        open: Vec<Case>,
        cache: &mut RunCache,
        logs: &mut ClusterLogs,
        report: &mut RunReport,
    ) -> Vec<(Option<GroupName>, Vec<Due>)> {
        let open = self.describe_instances(open, cache, report).await;
        let mut groups: BTreeMap<(ClusterName, Option<GroupName>), Vec<DueByUrgency>> = BTreeMap::new();
        for case in open {
            let (key, id, node) = (CaseKey::of(&case), case.id(), case.node().cloned());
            match self.settle(case, cache, report).await {
                Ok(Some((fault, group))) => {
                    if let Some(node) = node.filter(|_| fault.health == Health::Unknown) {
                        logs.note_unreachable(&key.cluster, node);
                    }
                    let group = groups.entry((key.cluster.clone(), group)).or_default();
                    group.push((fault.urgency(), (key, id)));
                }
                Ok(None) => {}
                Err(error) => report.failures.push(EvaluationFailure { key, case: Some(id), error }),
            }
        }
        let mut groups: Vec<_> = groups.into_iter().map(|((_, group), due)| (due, group)).collect();
        for (due, _) in &mut groups {
            due.sort();
        }
        groups.sort();
        groups
            .into_iter()
            .map(|(due, group)| (group, due.into_iter().map(|(_, due)| due).collect()))
            .collect()
    }

    /// Reads the locations of these instances, with one request per account. If an account fails, its cases stay due,
    /// and the other accounts continue.
    async fn describe_instances(
        &self,
        open: Vec<Case>,
        cache: &mut RunCache,
        report: &mut RunReport,
    ) -> Vec<Case> {
        let mut by_account: BTreeMap<Option<AccountId>, Vec<Case>> = BTreeMap::new();
        for case in open {
            // The policy is cached: without one the case would not be open.
            let policy = cache.policy(&self.store, case.cluster()).await.ok().flatten();
            by_account.entry(policy.and_then(|policy| policy.account.clone())).or_default().push(case);
        }
        let mut located = Vec::new();
        for (account, cases) in by_account {
            let found = match self.cloud.in_account(account.as_ref()).await {
                Ok(cloud) => cache.describe_instances(&cloud, &cases).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => located.extend(cases),
                Err(error) => {
                    let failed = |case: &Case| EvaluationFailure::of(case)(error.clone().into());
                    report.failures.extend(cases.iter().map(failed));
                }
            }
        }
        located
    }

    /// Repairs the due cases of one group, if they are of one. Each claim is decided after the previous one is written; the
    /// calls are concurrent.
    async fn repair_group(
        &self,
        group: Option<GroupName>,
        due: Vec<Due>,
        end: Timestamp,
        logs: &ClusterLogs,
    ) -> RunReport {
        let total = RefCell::new(RunReport::default());
        let note = |(key, case): Due, report: RunReport, error: Option<RepairError>| {
            let mut total = total.borrow_mut();
            total.repair_events.extend(report.repair_events);
            total.failures.extend(error.map(|error| EvaluationFailure { key, case: Some(case), error }));
        };
        let claim = async |due: Due| {
            if self.clock.now() >= end {
                return None;
            }
            let mut report = RunReport::default();
            let claimed = Box::pin(self.decide_and_claim(&due.0, group.as_ref(), logs, &mut report)).await;
            let (claimed, error) = match claimed {
                Ok(claimed) => (claimed, None),
                Err(error) => (None, Some(error)),
            };
            note(due.clone(), report, error);
            claimed.map(|claimed| (due, claimed))
        };
        let call = async |(due, claimed): (Due, Claimed)| {
            let mut report = RunReport::default();
            let made = match self.account_scope(claimed.policy()).await {
                Ok(scope) => scope.make(claimed, &mut report).await,
                Err(error) => Err(error),
            };
            note(due, report, made.err());
        };
        sequential(due, claim, call).await;
        total.into_inner()
    }

    /// Applies a decision that depends only on the case, unless it has to wait.
    async fn triage(
        &self,
        case: Box<Case>,
        last: bool,
        cache: &mut RunCache,
        report: &mut RunReport,
    ) -> Result<Option<NotSettled>, RepairError> {
        let now = cache.now();
        let Some(policy) = cache.policy(&self.store, case.cluster()).await? else {
            *report.without_policy.entry(case.cluster().clone()).or_default() += 1;
            self.postpone(case, now).await?;
            return Ok(None);
        };
        match decide::triage(&case, &policy, now) {
            Triage::NeedsContext => {
                if let Some(since) = case.pending_since() {
                    let oldest = report.pending.entry(case.cluster().clone()).or_insert(since);
                    *oldest = since.min(*oldest);
                }
                Ok(Some(NotSettled::Open(case)))
            }
            Triage::Settled(Decision::Close(CaseOutcome::ReplacementFailed)) if !last => {
                Ok(Some(NotSettled::Late))
            }
            Triage::Settled(decision) => {
                let scope = self.account_scope(&policy).await?;
                Box::pin(scope.apply_decision(case, decision, None, &scope.transition(&policy, now), report))
                    .await?;
                Ok(None)
            }
        }
    }

    /// Postpones a case whose cluster has no policy by a minute: it must not take the time of the others.
    async fn postpone(&self, mut case: Box<Case>, now: Timestamp) -> Result<(), RepairError> {
        case.postpone(now);
        // After a lost race it has another due time.
        let _ = self.store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await?;
        Ok(())
    }

    /// Decides with the facts that this run has read, and applies everything except a call. Returns the fault to
    /// repair, and its group; none where all groups of the cluster are repaired one at a time.
    async fn settle(
        &self,
        case: Case,
        cache: &mut RunCache,
        report: &mut RunReport,
    ) -> Result<Option<(Fault, Option<GroupName>)>, RepairError> {
        let Some(policy) = cache.policy(&self.store, case.cluster()).await? else {
            return Ok(None);
        };
        let now = cache.now();
        let scope = self.account_scope(&policy).await?;
        let context = Box::pin(cache.context(&self.store, &scope.cloud, &case)).await?;
        match decide::decide(&case, &context.borrow(), &policy, now) {
            Decision::Act { fault, .. } => {
                let group = (!context.one_at_a_time(&policy)).then(|| context.state.name().clone());
                Ok(Some((*fault, group)))
            }
            decision => {
                // What only ends a case changes its group only if that shows that its instances are nodes.
                let first = case.node().is_some() && !context.state.has_nodes();
                let changes = first || !matches!(decision, Decision::Close(_));
                let group = changes.then(|| context.state.name().clone());
                Box::pin(scope.apply_decision(
                    Box::new(case),
                    decision,
                    group,
                    &scope.transition(&policy, now),
                    report,
                ))
                .await?;
                Ok(None)
            }
        }
    }

    /// Reads everything again, consistently, decides again, and claims the repair. Applies any other decision. The group in
    /// which the case probably is can be read at the same time as the rest.
    async fn decide_and_claim(
        &self,
        key: &CaseKey,
        group: Option<&GroupName>,
        logs: &ClusterLogs,
        report: &mut RunReport,
    ) -> Result<Option<Claimed>, RepairError> {
        for _ in 0..MAX_CLAIMS {
            let now = self.clock.now();
            let read_at = now;
            let mut cache = RunCache::at(now);
            let (case, policy) = join(self.store.case(key), cache.policy(&self.store, &key.cluster)).await;
            let (Some(mut case), Some(policy)) = (case?, policy?) else {
                return Ok(None);
            };
            if case.due().is_none_or(|due| due > now) {
                return Ok(None);
            }
            // The case has changed since it was first read, and needs no more facts: left to the next run.
            if decide::triage(&case, &policy, now) != Triage::NeedsContext {
                return Ok(None);
            }
            let scope = self.account_scope(&policy).await?;
            let context = Box::pin(cache.context_of_one(&self.store, &scope.cloud, &case, group));
            let mut context = context.await?;
            let fault = match decide::decide(&case, &context.borrow(), &policy, now) {
                Decision::Act { fault, .. } => fault,
                decision => {
                    let group = Some(context.state.name().clone());
                    let ctx = scope.transition(&policy, now);
                    Box::pin(scope.apply_decision(case, decision, group, &ctx, report)).await?;
                    return Ok(None);
                }
            };
            let known = ClusterContext { policy: &policy, sources: context.borrow().sources, logs };
            let Verified { verification, changed } =
                Box::pin(scope.verify(&mut case, &fault, known, report)).await?;
            if changed {
                // The case is not what was decided on: it is read and decided again.
                continue;
            }
            // The answers of other calls are recorded meanwhile, which changes the group: what was read of the node still
            // counts.
            for _ in 0..MAX_CLAIMS {
                let now = self.clock.now();
                let verified = DecisionContext { verification: Some(&verification), ..context.borrow() };
                let (fault, action) = match decide::decide(&case, &verified, &policy, now) {
                    Decision::Act { fault, action } => (*fault, action),
                    decision => {
                        let group = Some(context.state.name().clone());
                        let ctx = scope.transition(&policy, now);
                        Box::pin(scope.apply_decision(case, decision, group, &ctx, report)).await?;
                        return Ok(None);
                    }
                };
                let (group, verification) = (context.state.clone(), verification.clone());
                let plan = claim_and_call::Plan { fault, action, group, verification, read_at };
                if let Some(claimed) = scope.claim(case.clone(), plan, policy.clone(), report).await? {
                    return Ok(Some(claimed));
                }
                let state = self.store.group(&key.cluster, context.state.name()).await?;
                // The case has changed; or repairs of other groups count, too, and are read again with the rest.
                if state == context.state || context.one_at_a_time(&policy) {
                    break;
                }
                context.state = state;
            }
        }
        // The case stays due.
        Ok(None)
    }

    fn transition<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> TransitionContext<'a> {
        TransitionContext { policy, caller: self.cloud.caller(), now }
    }
}
