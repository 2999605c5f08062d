//! Applies every decision except a call.
//!
//! A decision is written on the version of the case that it was made on. After a lost race the case stays due.

use nodemend_domain::{
    case::{Case, Effects, IllegalTransition, TransitionContext, transition::BlockedRepair},
    decide::Decision,
    group::GroupState,
    guard::{self, Guard},
    ident::GroupName,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, CaseWrite, Commit, Store},
    write::{self, Target},
};

use crate::{
    RepairError, Repairer, RunReport,
    verify::{ClusterContext, ClusterLogs, Verified},
};

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Applies a decision. The future is large: callers keep it on the heap.
    pub(crate) async fn apply_decision(
        &self,
        mut case: Box<Case>,
        decision: Decision,
        group: Option<GroupName>,
        ctx: &TransitionContext<'_>,
        report: &mut RunReport,
    ) -> Result<(), RepairError> {
        let own_group = case.repair().map(|repair| repair.group().clone());
        match decision {
            // A call is decided again on a consistent read, and made there; never here.
            Decision::Act { .. } => Ok(()),
            Decision::Wait => self.wait(case, ctx).await,
            Decision::RecordSilence(since) => {
                let change = |case: &mut Case, _: Option<&mut GroupState>| case.record_silence(since, ctx);
                self.update(&CaseKey::of(&case), ctx, report, change).await
            }
            Decision::Reopen => {
                let change = |case: &mut Case, _: Option<&mut GroupState>| case.reopen(ctx);
                self.write_as_decided(case, None, ctx, report, change).await
            }
            Decision::StayClosed => {
                let change = |case: &mut Case, _: Option<&mut GroupState>| case.stay_closed(ctx);
                self.write_as_decided(case, None, ctx, report, change).await
            }
            Decision::RecordNodeDeletion => {
                let change = |case: &mut Case, _: Option<&mut GroupState>| case.record_node_deletion(ctx);
                self.write_as_decided(case, None, ctx, report, change).await
            }
            Decision::RecordMissing { call } => {
                let change =
                    |case: &mut Case, _: Option<&mut GroupState>| case.expire_confirmation(call, ctx);
                self.update(&CaseKey::of(&case), ctx, report, change).await
            }
            Decision::Blocked { fault, action, mut blocks, until } => {
                // Observe mode does everything but the call. Verification is part of it, once for each repair.
                let observed = case.blocked().is_some_and(|blocked| blocked.observed);
                if !observed && matches!(blocks.as_slice(), [block] if block.guard == Guard::ObserveMode) {
                    let sources = self.store.sources(case.cluster()).await?;
                    let logs = ClusterLogs::default();
                    let known = ClusterContext { policy: ctx.policy, sources: sources.as_ref(), logs: &logs };
                    let Verified { verification, changed } =
                        Box::pin(self.verify(&mut case, &fault, known, report)).await?;
                    if changed {
                        // It stays due, and the next run decides on what it is now.
                        return Ok(());
                    }
                    blocks.extend(guard::unverified_block(&verification, ctx.policy));
                }
                let blocked = BlockedRepair { fault: &fault, action, blocks: &blocks, until };
                // The end of an outage is counted from its last stop. One write a minute is enough to know that.
                let outage = blocks.iter().any(|block| block.guard.is_of_an_outage());
                let group = group.filter(|_| outage);
                let change =
                    |case: &mut Case, group: Option<&mut GroupState>| case.block(group, blocked, ctx);
                self.write_as_decided(case, group, ctx, report, change).await
            }
            Decision::ConfirmByState => {
                let change =
                    |case: &mut Case, group: Option<&mut GroupState>| case.confirm_by_state(group, ctx);
                self.write_as_decided(case, own_group, ctx, report, change).await
            }
            Decision::Release(why) => {
                let change = |case: &mut Case, group: Option<&mut GroupState>| case.release(group, &why, ctx);
                self.write_as_decided(case, own_group, ctx, report, change).await
            }
            Decision::RecordJoin(stage) => self.record_join(case, stage, ctx, report).await,
            Decision::Close(outcome) => {
                let change =
                    |case: &mut Case, group: Option<&mut GroupState>| case.close(group, &outcome, ctx);
                self.write_as_decided(case, own_group.or(group), ctx, report, change).await
            }
        }
    }

    /// Nothing to do. The item's due time may have passed, so the next evaluation is planned again.
    pub(crate) async fn wait(
        &self,
        mut case: Box<Case>,
        ctx: &TransitionContext<'_>,
    ) -> Result<(), RepairError> {
        if case.wait(ctx.policy, ctx.now) {
            // After a lost race the case has another due time.
            let _ = self.store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await?;
        }
        Ok(())
    }

    /// Changes the newest version of a case.
    pub(crate) async fn update(
        &self,
        key: &CaseKey,
        ctx: &TransitionContext<'_>,
        report: &mut RunReport,
        change: impl FnMut(&mut Case, Option<&mut GroupState>) -> Result<Effects, IllegalTransition>,
    ) -> Result<(), RepairError> {
        let update = write::update(&self.store, Target::case(key), ctx.policy, ctx.now, change).await?;
        report.repair_events.extend(update.into_events());
        Ok(())
    }

    /// Writes what was decided on this version of the case, or nothing. After a lost race the case stays due, and is
    /// decided again.
    async fn write_as_decided(
        &self,
        mut case: Box<Case>,
        group: Option<GroupName>,
        ctx: &TransitionContext<'_>,
        report: &mut RunReport,
        change: impl FnOnce(&mut Case, Option<&mut GroupState>) -> Result<Effects, IllegalTransition>,
    ) -> Result<(), RepairError> {
        let mut state = match group {
            Some(name) => Some(self.store.group(case.cluster(), &name).await?),
            None => None,
        };
        let Effects { records, events } = change(&mut case, state.as_mut())?;
        let (policy, now) = (ctx.policy, ctx.now);
        let commit =
            write::write_exactly(&self.store, &mut case, state.as_ref(), &records, policy, now).await?;
        if commit == Commit::Won {
            report.repair_events.extend(events);
        }
        Ok(())
    }
}
