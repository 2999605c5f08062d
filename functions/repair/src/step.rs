//! Carries out every decision but a call.

use std::iter;

use jiff::Timestamp;
use nodemend_adapters::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Change, Commit, Store},
    trail::Trail,
};
use nodemend_domain::{
    case::{Blocked, Case, Closed, Fault},
    condition::{ConditionType, RepairAction},
    confirm::{self, occurrence},
    decide::{Decision, Outcome, RETRY},
    guard::{Block, Guard},
    ident::GroupName,
    ledger::{self, Guards},
    occurrence::{Occurrence, Step},
    policy::Policy,
    repair::Phase,
    stamp, trail,
};
use serde_json::json;

use crate::{
    RepairError, Repairer, Swept,
    act::{self, STILL_THERE},
};

/// The wait of a fault is over.
pub(crate) fn due(case: &Case, fault: &Fault, now: Timestamp) -> Occurrence {
    let detail = format!(
        "{} is due: bad for {}{}",
        fault.action.as_str(),
        stamp::length(now.duration_since(fault.since)),
        fault.meaning().map(|meaning| format!("; {meaning}")).unwrap_or_default(),
    );
    about_fault(occurrence(case, Step::Due, detail, now), fault)
}

fn about_fault(occurrence: Occurrence, fault: &Fault) -> Occurrence {
    Occurrence { condition: Some(fault.condition.clone()), reason: Some(fault.reason.clone()), ..occurrence }
}

impl<S: Store + Trail + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Its future holds that of every decision: whoever awaits it keeps it on the heap.
    pub(crate) async fn carry_out(
        &self,
        case: Box<Case>,
        decision: Decision,
        group: Option<GroupName>,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let key = CaseKey::of(&case);
        match decision {
            // Acted on where it can be decided anew; never from here.
            Decision::Act { .. } => Ok(()),
            Decision::Wait => self.wait(&case, policy, now).await,
            Decision::TellSilence(since) => self.tell_silence(&key, since, policy, now, swept).await,
            Decision::TellMissing { call } => self.tell_missing(&key, call, policy, now, swept).await,
            Decision::Blocked { fault, action, blocks, until } => {
                self.block(case, &fault, action, &blocks, until, policy, now, swept).await
            }
            Decision::Adopt => self.adopt(case, policy, now, swept).await,
            Decision::Release(why) => self.release(case, &why, policy, now, swept).await,
            Decision::Introduce(told) => self.introduce(case, told, policy, now, swept).await,
            Decision::Close(outcome) => {
                let group = case.repair.as_ref().map(|repair| repair.group.clone()).or(group);
                self.close(case, group, &outcome, policy, now, swept).await
            }
        }
    }

    /// Nothing to do. The item's own due time may be one that has passed, so it is set anew.
    pub(crate) async fn wait(&self, case: &Case, policy: &Policy, now: Timestamp) -> Result<(), RepairError> {
        let mut planned = case.clone();
        planned.plan(policy, now);
        if planned.due.is_some_and(|due| due <= now) {
            // What the case waits for, it doesn't know: look again in a while.
            planned.due = Some(now + RETRY);
        }
        if planned == *case {
            return Ok(());
        }
        // A lost race means news, and with it another due time.
        let _ = self.store.commit(Change { case: &planned, group: None, entries: &[] }).await?;
        Ok(())
    }

    async fn tell_silence(
        &self,
        key: &CaseKey,
        since: Timestamp,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let told = self
            .update(key, None, policy, now, |case, _| {
                if case.silent_since.is_some() || case.silence(policy, now) != Some(since) {
                    return (Vec::new(), None);
                }
                case.silent_since = Some(since);
                let detail =
                    format!("the agent has not been heard for {}", stamp::length(now.duration_since(since)));
                let mut told = occurrence(case, Step::Event, detail, now);
                told.condition = Some(ConditionType::Ready);
                told.reason = Some("AgentSilent".to_owned());
                (Vec::new(), Some(told))
            })
            .await?;
        swept.occurrences.extend(told.flatten());
        Ok(())
    }

    async fn tell_missing(
        &self,
        key: &CaseKey,
        call: Timestamp,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let caller = self.cloud.caller();
        let told = self
            .update(key, None, policy, now, |case, _| {
                confirm::miss(case, call, policy, caller, now)
                    .map_or_else(Default::default, |(entry, told)| (vec![entry], Some(told)))
            })
            .await?;
        swept.occurrences.extend(told.flatten());
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "a decision's parts, taken apart once")]
    async fn block(
        &self,
        mut case: Box<Case>,
        fault: &Fault,
        action: RepairAction,
        blocks: &[Block],
        until: Timestamp,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let (mut told, mut entries) = (Vec::new(), Vec::new());
        let guards: Vec<String> = blocks.iter().map(|block| block.guard.name()).collect();
        // Its lease is over. Newcomers would wait for this answer as long as the way is blocked.
        if let Some(lost) = self.lose(&mut case, STILL_THERE, now) {
            (entries, told) = (lost.entries, lost.told);
        }
        let before = case.blocked.take();
        if before.is_none() && case.repair.is_none() {
            told.push(due(&case, fault, now));
        }
        if before.as_ref().is_none_or(|before| before.guards != guards) {
            let detail = blocks.iter().map(|block| block.sentence.as_str()).collect::<Vec<_>>().join("; ");
            let blocked = about_fault(occurrence(&case, Step::Blocked, detail, now), fault);
            told.push(Occurrence { guards: guards.clone(), ..blocked });
        }
        let mut observed = before.as_ref().is_some_and(|before| before.observed);
        let only_observing = guards.as_slice() == [Guard::ObserveMode.name()];
        if only_observing && !observed {
            observed = true;
            let call = act::api_call(&case, action);
            let data = json!({ "wouldHaveCalled": call.to_value(), "fault": fault });
            let decision = format!("{} observed, not called", action.as_str());
            let caller = self.cloud.caller();
            let guards = Guards::Blocked(blocks);
            let entry = ledger::enter(&mut case, caller, trail::Step::Observed, &decision, guards, data, now);
            if let Some(told) = told.last_mut() {
                told.record = serde_json::from_str(&entry.line).ok();
            }
            entries.push(entry);
        }
        let since = before.map_or(now, |before| before.since);
        case.blocked = Some(Blocked { since, guards, until, observed });
        // A repair that has its place keeps it, and is tried again when the way may be clear.
        if let Some(repair) = case.repair.as_mut()
            && matches!(repair.phase, Phase::Claimed { .. } | Phase::Acting { .. })
        {
            repair.phase = Phase::Claimed { until };
        }
        // A lost race means news of this node: it stays due, and is decided anew.
        if self.commit(&mut case, None, &entries, policy, now).await? == Commit::Won {
            swept.occurrences.append(&mut told);
        }
        Ok(())
    }

    /// The answer was lost, the call was not.
    async fn adopt(
        &self,
        case: Box<Case>,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let group = case.repair.as_ref().map(|repair| repair.group.clone());
        let told = self
            .write_as_decided(case, group.as_ref(), policy, now, |case, group| {
                let what = match case.action() {
                    Some(RepairAction::Reboot) => "no answer came, and a new boot will tell",
                    _ => "no answer came, but the call took effect",
                };
                let Some(lost) = self.lose(case, what, now) else {
                    return (Vec::new(), Vec::new());
                };
                let instance_id = case.instance_id.clone();
                let Some(repair) = case.repair.as_mut() else {
                    return (Vec::new(), Vec::new());
                };
                repair.phase = match repair.action {
                    RepairAction::Reboot => Phase::Rebooting,
                    _ => Phase::Confirming,
                };
                if let (Some(group), Phase::Confirming) = (group, &repair.phase) {
                    group.terminated(&instance_id, lost.at);
                }
                let detail = format!("{}: {what}", repair.action.as_str());
                let mut called = occurrence(case, Step::Called, detail, now);
                called.record = lost.entries.first().and_then(|entry| serde_json::from_str(&entry.line).ok());
                (lost.entries, iter::once(called).chain(lost.told).collect())
            })
            .await?;
        swept.occurrences.extend(told.unwrap_or_default());
        Ok(())
    }

    /// Gives a place back that was claimed and is not needed any more.
    async fn release(
        &self,
        case: Box<Case>,
        why: &str,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let group = case.repair.as_ref().map(|repair| repair.group.clone());
        let caller = self.cloud.caller();
        let told = self
            .write_as_decided(case, group.as_ref(), policy, now, |case, group| {
                let Some(repair) = &case.repair else {
                    return (Vec::new(), Vec::new());
                };
                if repair.phase == Phase::Confirming {
                    return (Vec::new(), Vec::new());
                }
                let (mut entries, mut told) = (Vec::new(), Vec::new());
                if let Some(lost) = self.lose(case, STILL_THERE, now) {
                    (entries, told) = (lost.entries, lost.told);
                }
                told.push(occurrence(case, Step::Recovered, format!("{why}: the claim is given back"), now));
                let step = trail::Step::Released;
                entries.push(ledger::enter(case, caller, step, why, Guards::NotAsked, json!(null), now));
                case.end_repair();
                if let Some(group) = group {
                    group.release(&case.instance_id);
                }
                (entries, told)
            })
            .await?;
        swept.occurrences.extend(told.unwrap_or_default());
        Ok(())
    }

    async fn close(
        &self,
        case: Box<Case>,
        group: Option<GroupName>,
        outcome: &Outcome,
        policy: &Policy,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let caller = self.cloud.caller();
        let told = self
            .write_as_decided(case, group.as_ref(), policy, now, |case, group| {
                let (mut entries, mut told) = (Vec::new(), Vec::new());
                if case.closed.is_some() {
                    return (entries, told);
                }
                if let Some(lost) = self.lose(case, "no answer came before the case ended", now) {
                    (entries, told) = (lost.entries, lost.told);
                }
                let sentence = outcome.sentence(case, now);
                told.push(occurrence(case, Step::Closed, sentence.clone(), now));
                // A node that left before anything was decided about it has no trail to end.
                if case.trail.sequence() > 0 {
                    let data = json!({ "outcome": format!("{outcome:?}").split([' ', '{']).next() });
                    let step = trail::Step::Closed;
                    entries.push(ledger::enter(case, caller, step, &sentence, Guards::NotAsked, data, now));
                }
                if let Some(group) = group {
                    group.release(&case.instance_id);
                    if *outcome == Outcome::ReplacementFailed {
                        group.failed(now);
                    }
                }
                case.blocked = None;
                match outcome {
                    Outcome::Rebooted => case.end_repair(),
                    _ => case.closed = Some(Closed { at: now, outcome: sentence }),
                }
                (entries, told)
            })
            .await?;
        swept.occurrences.extend(told.unwrap_or_default());
        Ok(())
    }
}
