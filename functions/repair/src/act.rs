//! Carries one repair from its claim to its call's answer. Each step is one conditional write.
//!
//! claim → call, and evidence beside it → record. A sweep that dies before the call leaves a claim whose lease runs out; one
//! that dies after it leaves a call without an answer, and where the instance is tells whether it took effect.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_adapters::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Commit, Store},
    trail::Trail,
};
use nodemend_domain::{
    case::{Case, Fault},
    condition::RepairAction,
    confirm::{self, Joined, occurrence},
    group::GroupState,
    ledger::{self, Entry, Guards},
    occurrence::{Occurrence, Step},
    policy::Policy,
    refusal::Refusal,
    repair::{Call, CallResult, LEASE, Phase, Repair},
    stamp,
    trail::{self, Answer, ApiCall, CloudTrailEvent, Outcome, Record},
};
use serde_json::{Value, json};

use crate::{RepairError, Repairer, Swept, together::beside};

/// The end of a console that a record holds.
const MAX_CONSOLE: usize = 4 * 1024;

/// What was decided.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    pub(crate) action: RepairAction,
    pub(crate) group: GroupState,
}

/// A repair that has its place in its group, and whose call is this process's to make.
#[derive(Debug)]
pub(crate) struct Claimed {
    case: Box<Case>,
    action: RepairAction,
    policy: Arc<Policy>,
}

impl Claimed {
    /// The policy that it was decided by.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// A call that was made.
#[derive(Debug)]
struct Made {
    call: ApiCall,
    at: Timestamp,
    answer: Answer,
    evidence: Value,
}

/// A call that was given up, as it is told: its own record is the first entry.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) at: Timestamp,
    pub(crate) entries: Vec<Entry>,
    pub(crate) told: Vec<Occurrence>,
}

impl<S: Store + Trail + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Claims the repair that was decided on this very version of the case and its group; nothing, if that is no more.
    pub(crate) async fn claim(
        &self,
        mut case: Box<Case>,
        plan: Plan,
        policy: Arc<Policy>,
        swept: &mut Swept,
    ) -> Result<Option<Claimed>, RepairError> {
        let now = self.clock.now();
        let (mut told, mut entries) = (Vec::new(), Vec::new());
        let mut group = plan.group;
        self.tell_due(&case, &plan.fault, now, &mut told);
        self.take_place(&mut case, &mut group, &plan.fault, plan.action, &mut told, &mut entries);
        if self.commit(&mut case, Some(&group), &entries, &policy, now).await? == Commit::Lost {
            return Ok(None);
        }
        swept.occurrences.append(&mut told);
        Ok(Some(Claimed { case, action: plan.action, policy }))
    }

    /// Makes the call that was claimed, and writes down what came of it.
    pub(crate) async fn make(&self, claimed: Claimed, swept: &mut Swept) -> Result<(), RepairError> {
        let Claimed { case, action, policy } = claimed;
        let key = CaseKey::of(&case);
        let faults = case.faults(&policy.default_rules(), &policy, self.clock.now());
        // The console is read while the call is made, and kept if it is there by then: it holds up nothing, and one that
        // can't be read stops nothing.
        let console = self.cloud.console_output(&case.instance_id);
        let (called, console) = beside(self.call(case.clone(), action, &policy), console).await;
        let Some((call, at, answer)) = called? else {
            return Ok(());
        };
        let console = console.and_then(Result::ok).flatten();
        let tail = console
            .as_deref()
            .map(|text| &text[text.ceil_char_boundary(text.len().saturating_sub(MAX_CONSOLE))..]);
        let evidence = ledger::evidence(&case, &faults, tail);
        self.record(&key, Made { call, at, answer, evidence }, &policy, swept).await
    }

    /// Writes down that a call is about to be made, and makes it; nothing, if news came in between.
    async fn call(
        &self,
        mut case: Box<Case>,
        action: RepairAction,
        policy: &Policy,
    ) -> Result<Option<(ApiCall, Timestamp, Answer)>, RepairError> {
        let now = self.clock.now();
        let Some(repair) = case.repair.as_mut() else {
            return Ok(None);
        };
        let until = now + LEASE;
        repair.phase = Phase::Acting { until };
        repair.begin_call(Call {
            repair: case.repairs,
            action,
            at: now,
            result: CallResult::Pending,
            request_id: None,
            sequence: None,
            verdict: None,
        });
        if self.commit(&mut case, None, &[], policy, now).await? == Commit::Lost {
            // A report came in between. The claim stands; when its lease ends the repair is decided anew.
            self.retry_soon(&case, policy).await?;
            return Ok(None);
        }
        if self.clock.now() >= until {
            // This process was frozen, and others may be at it by now. What was not sent is taken back.
            self.take_back(case, policy).await?;
            return Ok(None);
        }
        let call = api_call(&case, action);
        let answer = self.cloud.call(&call).await;
        Ok(Some((call, now, answer)))
    }

    fn tell_due(&self, case: &Case, fault: &Fault, now: Timestamp, told: &mut Vec<Occurrence>) {
        if case.repair.is_none() && case.blocked.is_none() {
            told.push(crate::step::due(case, fault, now));
        }
    }

    /// Gives the repair its place in the group, or takes up one that was left.
    fn take_place(
        &self,
        case: &mut Case,
        group: &mut GroupState,
        fault: &Fault,
        action: RepairAction,
        told: &mut Vec<Occurrence>,
        entries: &mut Vec<Entry>,
    ) {
        let now = self.clock.now();
        let caller = self.cloud.caller();
        let until = now + LEASE;
        group.take_place(case.instance_id.clone(), now);
        case.blocked = None;
        if let Some(repair) = case.repair.as_mut() {
            let other = repair.action != action;
            repair.phase = Phase::Claimed { until };
            repair.action = action;
            // What asks for it now, which need not be what asked first. What a reboot did not cure is the same trouble still.
            if !repair.has_escalated() {
                repair.fault = fault.clone();
            }
            if let Some(lost) = self.lose(case, STILL_THERE, now) {
                entries.extend(lost.entries);
                told.extend(lost.told);
            }
            if !other {
                return;
            }
        } else {
            case.group = Some(group.name.clone());
            case.repairs += 1;
            case.repair = Some(Box::new(Repair {
                action,
                group: group.name.clone(),
                fault: fault.clone(),
                claimed_at: now,
                phase: Phase::Claimed { until },
                calls: Vec::new(),
                sightings: Vec::new(),
                replacement: None,
            }));
        }
        let under_way = group.in_flight.len();
        let repairs = if under_way == 1 { "repair is" } else { "repairs are" };
        let detail = format!(
            "{} in group {}, where {under_way} {repairs} under way{}",
            action.as_str(),
            group.name,
            after_a_reboot(case),
        );
        let data = json!({ "autoScalingGroupName": group.name, "repairAction": action, "fault": fault });
        entries.push(ledger::enter(case, caller, trail::Step::Claimed, &detail, Guards::Passed, data, now));
        told.push(occurrence(case, Step::Claimed, detail, now));
    }

    /// Enters the call whose answer will never come, if there is one, and what CloudTrail has told of it.
    pub(crate) fn lose(&self, case: &mut Case, why: &str, now: Timestamp) -> Option<Lost> {
        let (action, at) = case.pending_call().map(|call| (call.action, call.at))?;
        let answer = Answer { request_id: None, outcome: Outcome::Lost { why: why.to_owned() } };
        let call = api_call(case, action);
        let (entry, record) =
            ledger::enter_call(case, self.cloud.caller(), &call, answer, why, Value::Null, at);
        let known = case.call_mut(at)?;
        (known.result, known.sequence) = (CallResult::Lost, Some(entry.sequence));
        let mut lost = Lost { at, entries: vec![entry], told: Vec::new() };
        self.join_sightings(case, at, &record, now, &mut lost.entries, &mut lost.told);
        Some(lost)
    }

    async fn retry_soon(&self, case: &Case, policy: &Policy) -> Result<(), RepairError> {
        let now = self.clock.now();
        let free = |case: &mut Case, _: Option<&mut GroupState>| {
            if let Some(repair) =
                case.repair.as_mut().filter(|repair| matches!(repair.phase, Phase::Claimed { .. }))
            {
                repair.phase = Phase::Claimed { until: now };
            }
            (Vec::new(), ())
        };
        self.update(&CaseKey::of(case), None, policy, now, free).await.map(|_| ())
    }

    /// Takes a call back that was written down and never sent, unless somebody took the repair up meanwhile.
    async fn take_back(&self, case: Box<Case>, policy: &Policy) -> Result<(), RepairError> {
        let now = self.clock.now();
        let unsent = |case: &mut Case, _: Option<&mut GroupState>| {
            if let Some(repair) = &mut case.repair {
                repair.calls.pop();
                repair.phase = Phase::Claimed { until: now };
            }
            (Vec::new(), ())
        };
        self.write_as_decided(case, None, policy, now, unsent).await.map(|_| ())
    }

    /// Writes down what AWS answered. Only this process knows it, so no race may lose it.
    async fn record(
        &self,
        key: &CaseKey,
        made: Made,
        policy: &Policy,
        swept: &mut Swept,
    ) -> Result<(), RepairError> {
        let Made { call, at: called_at, answer, evidence } = &made;
        if matches!(answer.outcome, Outcome::Lost { .. }) {
            // Nobody knows. The lease runs out, and where the instance is decides.
            return Ok(());
        }
        let now = self.clock.now();
        let caller = self.cloud.caller();
        let group = self.store.case(key).await?.and_then(|case| case.repair.map(|repair| repair.group));
        let told = self
            .update(key, group.as_ref(), policy, now, |case, group| {
                let (mut told, mut entries) = (Vec::new(), Vec::new());
                let Some(known) = case.call_mut(*called_at) else {
                    return (entries, told);
                };
                known.request_id.clone_from(&answer.request_id);
                if known.result != CallResult::Pending {
                    // Others gave this process up meanwhile, and the call is in the trail as lost. Its id is worth
                    // knowing: CloudTrail's event bears it.
                    return (entries, told);
                }
                known.result = match &answer.outcome {
                    Outcome::Accepted { .. } => CallResult::Accepted,
                    Outcome::Failed { .. } => CallResult::Refused,
                    Outcome::Lost { .. } => CallResult::Lost,
                };
                let action = known.action;
                let detail = answer_sentence(action, answer);
                let decision = decision_sentence(case, action);
                let (entry, record) = ledger::enter_call(
                    case,
                    caller,
                    call,
                    answer.clone(),
                    &decision,
                    evidence.clone(),
                    *called_at,
                );
                let mut called = occurrence(case, Step::Called, detail, now);
                called.record = Some(Box::new(record.clone()));
                told.push(called);
                entries.push(entry);
                if let Some(known) = case.call_mut(*called_at) {
                    known.sequence = entries.last().map(|entry| entry.sequence);
                }
                let Some(repair) = case.repair.as_mut() else {
                    return (entries, told);
                };
                repair.phase = match (&answer.outcome, action) {
                    (Outcome::Accepted { .. }, RepairAction::Reboot) => Phase::Rebooting,
                    (Outcome::Accepted { .. }, _) => Phase::Confirming,
                    (Outcome::Failed { code, message }, _) => {
                        Phase::Claimed { until: now + Refusal::of(code, message).pause(repair.refusals()) }
                    }
                    (Outcome::Lost { .. }, _) => return (Vec::new(), Vec::new()),
                };
                if let (Some(group), Phase::Confirming) = (group, &repair.phase) {
                    group.terminated(&case.instance_id, *called_at);
                }
                self.join_sightings(case, *called_at, &record, now, &mut entries, &mut told);
                (entries, told)
            })
            .await?;
        swept.occurrences.extend(told.unwrap_or_default());
        Ok(())
    }

    /// What CloudTrail told of a call before we knew what became of it: it tells but once.
    fn join_sightings(
        &self,
        case: &mut Case,
        call: Timestamp,
        record: &Record,
        now: Timestamp,
        entries: &mut Vec<Entry>,
        told: &mut Vec<Occurrence>,
    ) {
        let sightings = case.repair.as_mut().map(|repair| std::mem::take(&mut repair.sightings));
        for sighting in sightings.unwrap_or_default() {
            let Ok(event) = CloudTrailEvent::try_from(sighting) else {
                continue;
            };
            if confirm::call_of(case, &event) != Some(call) {
                continue;
            }
            let caller = self.cloud.caller();
            if let Joined::Verdict { entry, occurrence } =
                confirm::join(case, call, record, &event, caller, now)
            {
                entries.push(entry);
                told.push(*occurrence);
            }
        }
    }
}

/// Why a call whose answer is out counts as one that never left.
pub(crate) const STILL_THERE: &str = "no answer came, and the instance is where it was";

/// The call that an action is.
pub(crate) fn api_call(case: &Case, action: RepairAction) -> ApiCall {
    let instance_id = case.instance_id.clone();
    match action {
        RepairAction::Reboot => ApiCall::RebootInstances { instance_id },
        RepairAction::Replace | RepairAction::NoAction => {
            ApiCall::TerminateInstanceInAutoScalingGroup { instance_id }
        }
    }
}

/// Why the call was made, for its record.
fn decision_sentence(case: &Case, action: RepairAction) -> String {
    let Some(repair) = &case.repair else { return action.as_str().to_owned() };
    let fault = &repair.fault;
    let due = fault.deadline.map(|deadline| format!(", due {}", stamp::seconds(deadline)));
    format!(
        "{}: {} bad since {} ({}){}{}",
        action.as_str(),
        fault.condition,
        stamp::seconds(fault.since),
        fault.reason,
        due.unwrap_or_default(),
        after_a_reboot(case),
    )
}

fn after_a_reboot(case: &Case) -> &'static str {
    let follows = case.repair.as_ref().is_some_and(|repair| repair.follows_reboot());
    if follows { "; the reboot did not cure it" } else { "" }
}

fn answer_sentence(action: RepairAction, answer: &Answer) -> String {
    let name = match action {
        RepairAction::Reboot => "RebootInstances",
        _ => "TerminateInstanceInAutoScalingGroup",
    };
    match &answer.outcome {
        Outcome::Accepted { activity: Some(activity) } => {
            format!("{name}: accepted at {}: {}", stamp::seconds(activity.start_time), activity.description)
        }
        Outcome::Accepted { activity: None } => format!("{name}: accepted"),
        Outcome::Failed { code, message } => format!("{name}: refused with {code}: {message}"),
        Outcome::Lost { why } => format!("{name}: no answer: {why}"),
    }
}
