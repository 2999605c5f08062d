//! Claims one repair, makes its call, and records the answer.
//!
//! - Each step is one conditional write: claim, call (with the evidence read concurrently), record.
//! - A run that dies before the call leaves a claim whose lease ends. One that dies after it leaves an unanswered call,
//!   and the instance's state shows whether it took effect.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, CallOutcome},
    case::{CallMade, Case, Claim, Fault, audit_records},
    condition::RepairAction,
    decide,
    group::GroupState,
    policy::Policy,
    verification::Verification,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Commit, Store},
    write::{self, Target},
};

use crate::{RepairError, Repairer, RunReport, concurrency::with_optional, run_cache::RunCache};

/// What stops a call is read at most this long before it: policy, holds, the group, and what they are compared with.
const STOPS_VALID_FOR: SignedDuration = SignedDuration::from_secs(5);

/// The most bytes of console output in a record.
const MAX_CONSOLE: usize = 4 * 1024;

/// A repair to claim.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    pub(crate) action: RepairAction,
    pub(crate) group: GroupState,
    pub(crate) verification: Verification,
    /// When the reading of policy, holds and group began.
    pub(crate) read_at: Timestamp,
}

/// A repair that holds a slot of its group, and whose call is this process's to make.
#[derive(Debug)]
pub(crate) struct Claimed {
    case: Box<Case>,
    policy: Arc<Policy>,
    read_at: Timestamp,
}

impl Claimed {
    /// The policy that it was decided by.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Claims the repair that was decided on this version of the case and its group. Returns `None` if they have
    /// changed.
    pub(crate) async fn claim(
        &self,
        mut case: Box<Case>,
        plan: Plan,
        policy: Arc<Policy>,
        report: &mut RunReport,
    ) -> Result<Option<Claimed>, RepairError> {
        let ctx = self.transition(&policy, self.clock.now());
        let mut group = plan.group.clone();
        let Plan { fault, action, verification, read_at, .. } = &plan;
        let claim = Claim { fault, action: *action, verification: Some(verification) };
        let mut effects = case.claim(&mut group, claim, &ctx)?;
        let commit =
            write::write_exactly(&self.store, &mut case, Some(&group), &effects.records, &policy, ctx.now)
                .await?;
        if commit == Commit::Lost {
            return Ok(None);
        }
        report.repair_events.append(&mut effects.events);
        Ok(Some(Claimed { case, policy, read_at: *read_at }))
    }

    /// Makes the call that was claimed, and records the answer.
    pub(crate) async fn make(&self, claimed: Claimed, report: &mut RunReport) -> Result<(), RepairError> {
        let Claimed { case, policy, read_at } = claimed;
        let key = CaseKey::of(&case);
        let faults = case.faults(&policy.default_rules(), &policy, self.clock.now());
        // The console is read while the call is made, and recorded if it is there by then: it delays nothing, and one
        // that can't be read stops nothing.
        let console = self.cloud.console_output(case.instance_id());
        let (called, console) = with_optional(self.call(case.clone(), &policy, read_at), console).await;
        let Some((call, at, answer)) = called? else {
            return Ok(());
        };
        let console = console.and_then(Result::ok).flatten();
        let tail = console
            .as_deref()
            .map(|text| &text[text.ceil_char_boundary(text.len().saturating_sub(MAX_CONSOLE))..]);
        let evidence = audit_records::evidence(&case, &faults, tail);
        self.record(&key, &CallMade { call, at, answer, evidence }, &policy, report).await
    }

    /// Records that the call is about to be made, and makes it. Returns `None` if the case has changed, or if something stops
    /// the call.
    async fn call(
        &self,
        mut case: Box<Case>,
        policy: &Policy,
        mut read_at: Timestamp,
    ) -> Result<Option<(ApiCall, Timestamp, CallAnswer)>, RepairError> {
        let ctx = self.transition(policy, self.clock.now());
        let call = case.begin_call(&ctx)?;
        let commit = write::write_exactly(&self.store, &mut case, None, &[], policy, ctx.now).await?;
        if commit == Commit::Lost {
            // A report was applied in between. The claim stays, and the case is decided again at once.
            let now = self.clock.now();
            let end_lease = |case: &mut Case, _: Option<&mut GroupState>| {
                case.end_lease(now).map(|()| Default::default())
            };
            write::update(&self.store, Target::case(&CaseKey::of(&case)), policy, now, end_lease).await?;
            return Ok(None);
        }
        let is_current = |read_at: Timestamp| self.clock.now().duration_since(read_at) <= STOPS_VALID_FOR;
        let mut stopped = false;
        if !is_current(read_at) {
            read_at = self.clock.now();
            stopped = Box::pin(self.is_stopped(&case)).await.unwrap_or(true);
        }
        let now = self.clock.now();
        let outdated = case.repair().is_some_and(|repair| repair.must_be_verified_again(now));
        if stopped || !is_current(read_at) || outdated || case.lease_end().is_none_or(|end| now >= end) {
            // Somebody has stopped it meanwhile. Or this process was suspended: what it read is too old, and another run may
            // have continued the repair. If not, the call is withdrawn before it is sent, and decided again.
            if case.withdraw_call(now).is_ok() {
                let _ = write::write_exactly(&self.store, &mut case, None, &[], policy, now).await?;
            }
            return Ok(None);
        }
        let answer = self.cloud.call(&call).await;
        Ok(Some((call, ctx.now, answer)))
    }

    /// Whether a guard blocks the claimed repair by now: a hold was placed, the policy was changed, the group was tagged.
    async fn is_stopped(&self, case: &Case) -> Result<bool, RepairError> {
        let now = self.clock.now();
        let Some(repair) = case.repair() else { return Ok(true) };
        let mut cache = RunCache::at(now);
        let Some(policy) = cache.policy(&self.store, case.cluster()).await? else { return Ok(true) };
        let context = cache.context_of_one(&self.store, &self.cloud, case, Some(repair.group())).await?;
        let answers = decide::explain(case, repair.fault(), &context.borrow(), &policy, now);
        Ok(answers.iter().any(|answer| answer.block.is_some()))
    }

    /// Records AWS's answer, which only this process knows: it is written in spite of other writes.
    async fn record(
        &self,
        key: &CaseKey,
        made: &CallMade,
        policy: &Policy,
        report: &mut RunReport,
    ) -> Result<(), RepairError> {
        if matches!(made.answer.outcome, CallOutcome::Unanswered { .. }) {
            // Unknown: after the lease, the state of the instance decides.
            return Ok(());
        }
        let ctx = self.transition(policy, self.clock.now());
        let case = self.store.case(key).await?;
        let group = case.as_deref().and_then(Case::repair).map(|repair| repair.group().clone());
        let target = Target::case(key).with_group(group.as_ref());
        let update = write::update(&self.store, target, policy, ctx.now, |case, group| {
            case.record_answer(group, made, &ctx)
        })
        .await?;
        report.repair_events.extend(update.into_events());
        Ok(())
    }
}
