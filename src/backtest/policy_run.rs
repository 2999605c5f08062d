//! Runs one policy through the history, with the handlers of a replay.
//!
//! A second driver, the baseline, sees the same history and makes no call: its cases show what happened to the nodes,
//! and so how the policy's repairs are classified.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    group::{Group, InstanceLocation},
    guard::Guard,
    ident::InstanceId,
    policy::Policy,
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, CaseWrite, Commit, Store},
};

use super::{
    assumed_events::AssumedEvents,
    classify::{Classifier, RepairRef, Resolution},
    entry::{self, StoredInput},
    error::BacktestError,
    external_sort::SortedHistory,
    files::HistoryFile,
};
use crate::{
    output::json,
    replay::{
        drive::Driver,
        environment::{FleetChange, ReplayEnvironment},
        input::{Input, Payload},
    },
};

/// Where a policy's steps are written.
pub(super) type StepsOutput = Box<dyn Write + Send>;

/// The options of a run, the same for every policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunOptions {
    /// When a replacement is Ready after a call that is not in the history; with none, no replacement is assumed.
    pub(super) replacement_after: Option<SignedDuration>,
    /// How long the virtual clock continues after the end of the history.
    pub(super) continue_for: SignedDuration,
    /// The end of the history.
    pub(super) last: Timestamp,
}

/// A repair that the policy would have called.
#[derive(Debug, Clone)]
pub(super) struct SimulatedRepair {
    pub(super) due: DueRepair,
    /// `TerminateInstanceInAutoScalingGroup` or `RebootInstances`.
    pub(super) call: String,
    pub(super) at: Timestamp,
    /// How many API calls it took, refused ones included.
    pub(super) calls: u32,
    /// Whether this very call is in the history.
    pub(super) call_in_history: bool,
    pub(super) resolution: Resolution,
}

/// A due repair that guards blocked until the incident was over.
#[derive(Debug, Clone)]
pub(super) struct BlockedRepair {
    pub(super) due: DueRepair,
    pub(super) resolution: Resolution,
}

/// A repair that is due.
#[derive(Debug, Clone)]
pub(super) struct DueRepair {
    pub(super) case: String,
    pub(super) node: String,
    pub(super) instance_id: InstanceId,
    pub(super) group: String,
    pub(super) condition: String,
    pub(super) reason: String,
    pub(super) detail: String,
    /// When the incident started.
    pub(super) since: Timestamp,
    /// When the grace period ended.
    pub(super) due: Timestamp,
    /// The guards that blocked it.
    pub(super) guards: BTreeSet<String>,
}

/// What a policy would have done.
#[derive(Debug, Default)]
pub(super) struct PolicyOutcome {
    pub(super) repairs: Vec<SimulatedRepair>,
    pub(super) blocked: Vec<BlockedRepair>,
    /// How many repairs became due.
    pub(super) due: usize,
    pub(super) nodes: usize,
    /// What the handlers rejected, as `file:line: cause`.
    pub(super) unreadable: Vec<String>,
}

/// One policy on its way through the history.
pub(super) struct PolicyRun<'a> {
    driver: Driver,
    baseline: Driver,
    assumed: AssumedEvents,
    classifier: Classifier,
    /// By case: a due repair that was not called yet.
    due: BTreeMap<String, DueRepair>,
    /// By case: the index of its repair in the outcome.
    called: BTreeMap<String, usize>,
    /// By case: the index of its blocked repair in the outcome.
    blocked: BTreeMap<String, usize>,
    /// By case: the refused calls.
    refused: BTreeMap<String, u32>,
    /// The audit streams so far.
    audit_streams: BTreeSet<String>,
    outcome: PolicyOutcome,
    environment: &'a ReplayEnvironment,
    options: RunOptions,
    steps: Option<StepsOutput>,
}

impl<'a> PolicyRun<'a> {
    /// The start of a run; none if the history names no cluster.
    pub(super) fn new(
        environment: &'a ReplayEnvironment,
        policy: &Policy,
        groups: Option<&[Group]>,
        options: RunOptions,
        steps: Option<StepsOutput>,
    ) -> Option<Self> {
        Some(Self {
            driver: Driver::new(environment, policy.clone(), groups)?,
            baseline: Driver::new(environment, policy.clone(), groups)?,
            assumed: AssumedEvents::new(options.replacement_after),
            classifier: Classifier::new(policy.clone()),
            due: BTreeMap::new(),
            called: BTreeMap::new(),
            blocked: BTreeMap::new(),
            refused: BTreeMap::new(),
            audit_streams: BTreeSet::new(),
            outcome: PolicyOutcome::default(),
            environment,
            options,
            steps,
        })
    }

    /// Runs the policy through the whole history.
    pub(super) fn run(
        mut self,
        history: &SortedHistory,
        files: &[HistoryFile],
    ) -> Result<PolicyOutcome, BacktestError> {
        for entry in history.by_time().map_err(BacktestError::TemporaryFile)? {
            let entry = entry.map_err(BacktestError::TemporaryFile)?;
            let name = files.get(entry.key.file as usize).map(|file| file.path.display().to_string());
            self.handle(entry::read(entry, &name.unwrap_or_default())?)?;
        }
        self.finish()
    }

    fn handle(&mut self, stored: StoredInput) -> Result<(), BacktestError> {
        let StoredInput { input, reporting_until } = stored;
        self.change_fleet_until(input.at)?;
        self.advance(input.at, false)?;
        self.classifier.before(&self.baseline, &input);
        self.add_audit_stream(&input);
        let unreadable = self.driver.unreadable.len();
        self.driver.deliver(&input);
        self.baseline.deliver(&input);
        self.baseline.events.clear();
        self.classifier.after(&self.baseline, &input);
        if let Some(until) = reporting_until.filter(|_| self.driver.unreadable.len() == unreadable) {
            self.extend_reporting(&input, until)?;
        }
        self.process_events()
    }

    fn add_audit_stream(&mut self, input: &Input) {
        let is_known = matches!(
            &input.payload,
            Payload::Log { stream, .. } if self.audit_streams.contains(stream)
        );
        if !is_known {
            self.audit_streams.extend(self.driver.add_audit_stream(input));
        }
    }

    /// Records that an agent reports until `until`: the prefilter skipped the heartbeats in between.
    fn extend_reporting(&mut self, input: &Input, until: Timestamp) -> Result<(), BacktestError> {
        let Payload::Log { stream, .. } = &input.payload else { return Ok(()) };
        let store = &self.driver.store;
        let bug = |error: &dyn std::fmt::Display| BacktestError::Bug(error.to_string());
        let Some(instance_id) = InstanceId::new(stream).ok() else { return Ok(()) };
        let cluster = pollster::block_on(store.cluster_of_instance(&instance_id));
        let Some(cluster) = cluster.map_err(|error| bug(&error))? else { return Ok(()) };
        let key = CaseKey { cluster, instance_id };
        let Some(mut case) = self.case(&key) else { return Ok(()) };
        if !case.assume_agent_reports_until(until) {
            return Ok(());
        }
        let policy = pollster::block_on(store.policy(&key.cluster)).map_err(|error| bug(&error))?;
        if let Some(policy) = policy {
            case.plan(&policy, input.at);
            let change = CaseWrite { case: &case, group: None, entries: &[] };
            match pollster::block_on(store.commit(change)).map_err(|error| bug(&error))? {
                Commit::Won => {}
                Commit::Lost => return Err(BacktestError::Bug("another writer changed a case".to_owned())),
            }
        }
        Ok(())
    }

    fn change_fleet_until(&mut self, until: Timestamp) -> Result<(), BacktestError> {
        while let Some((at, change)) = self.driver.next_fleet_change(until) {
            self.advance(at, false)?;
            self.driver.clock.advance_to(at);
            self.change_fleet(&change);
        }
        while let Some((_, change)) = self.baseline.next_fleet_change(until) {
            self.environment.apply(&self.baseline.cloud, &change);
        }
        Ok(())
    }

    fn change_fleet(&mut self, change: &FleetChange) {
        self.environment.apply(&self.driver.cloud, change);
        // The real replacement follows, so the assumed one goes.
        if let FleetChange::Leave(instance_id) = change {
            self.assumed.remove_replacement(instance_id, &self.driver.cloud);
        }
    }

    /// Runs due cases and assumed events before `end`, or also at it.
    fn advance(&mut self, end: Timestamp, inclusive: bool) -> Result<(), BacktestError> {
        let within = |at: &Timestamp| *at < end || inclusive && *at == end;
        loop {
            let due = self.driver.next_due()?.filter(within);
            let assumed = self.assumed.next_at().filter(within);
            match (due, assumed) {
                (due, Some(at)) if due.is_none_or(|due| at <= due.max(self.driver.clock.now())) => {
                    self.assumed.deliver_next(&mut self.driver)?;
                }
                (Some(due), _) => self.driver.run_at(due)?,
                (None, _) => return Ok(()),
            }
            self.process_events()?;
        }
    }

    fn case(&self, key: &CaseKey) -> Option<Box<Case>> {
        pollster::block_on(self.driver.store.case(key)).ok().flatten()
    }

    fn process_events(&mut self) -> Result<(), BacktestError> {
        for event in std::mem::take(&mut self.driver.events) {
            if let Some(steps) = &mut self.steps {
                json::step(steps, &event).map_err(BacktestError::Output)?;
            }
            match event.step {
                Step::Due => self.apply_due(&event),
                Step::Blocked => self.apply_blocked(&event),
                Step::Called => self.apply_call(&event),
                Step::Recovered | Step::Closed => {
                    self.due.remove(&event.case);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn apply_due(&mut self, event: &RepairEvent) {
        // A flapping node becomes due repeatedly. It is one incident as long as no recovery lasts.
        let called = self.called.get(&event.case).map(|index| RepairRef::Called(*index));
        let blocked = self.blocked.get(&event.case).map(|index| RepairRef::Blocked(*index));
        if !called.into_iter().chain(blocked).any(|repair| self.classifier.is_open(repair)) {
            self.outcome.due += 1;
            self.called.remove(&event.case);
            self.blocked.remove(&event.case);
        }
        let key = key_of(event);
        let case = self.case(&key);
        let policy = self.classifier.policy();
        let since = case.as_ref().and_then(|case| {
            let faults = case.state_and_faults(None, policy, event.at).1;
            let same = |fault: &&nodemend_domain::case::Fault| {
                Some(&fault.condition) == event.condition.as_ref() && fault.is_bad()
            };
            faults.iter().find(same).map(|fault| fault.since)
        });
        let located =
            pollster::block_on(self.driver.cloud.describe_instances(std::slice::from_ref(&key.instance_id)));
        let group = match located.ok().and_then(|found| found.into_iter().next()) {
            Some(InstanceLocation::Member { group, .. }) => group.to_string(),
            _ => case
                .and_then(|case| case.group().cloned())
                .map_or_else(|| "-".to_owned(), |group| group.to_string()),
        };
        let due = DueRepair {
            case: event.case.clone(),
            node: event.node.as_ref().map_or_else(|| key.instance_id.to_string(), ToString::to_string),
            instance_id: key.instance_id,
            group,
            condition: event.condition.as_ref().map_or_else(String::new, |kind| kind.as_str().to_owned()),
            reason: event.reason.clone().unwrap_or_default(),
            detail: event.detail.clone(),
            since: since.unwrap_or(event.at),
            due: event.at,
            guards: BTreeSet::new(),
        };
        self.due.insert(event.case.clone(), due);
    }

    fn apply_blocked(&mut self, event: &RepairEvent) {
        let guards = self.case(&key_of(event)).and_then(|case| case.blocked().cloned());
        let guards: BTreeSet<String> = guards.map(|blocked| blocked.guards).into_iter().flatten().collect();
        // Only observe mode blocks it: the record has the call that would have been made.
        if event.record.is_some() {
            return self.apply_call(event);
        }
        let Some(due) = self.due.get_mut(&event.case) else { return };
        due.guards.extend(guards.into_iter().filter(|guard| *guard != Guard::ObserveMode.name()));
        if due.guards.is_empty() || self.called.contains_key(&event.case) {
            return;
        }
        let due = due.clone();
        if let Some(index) = self.blocked.get(&event.case) {
            self.outcome.blocked[*index].due = due;
            return;
        }
        let index = self.outcome.blocked.len();
        self.classifier.watch(&self.baseline, event, due.due, RepairRef::Blocked(index));
        self.outcome.blocked.push(BlockedRepair { due, resolution: Resolution::Unknown });
        self.blocked.insert(event.case.clone(), index);
    }

    fn apply_call(&mut self, event: &RepairEvent) {
        let record = event.record.as_deref();
        let accepted = record.is_none_or(|record| record.error_code.is_none());
        if !accepted {
            *self.refused.entry(event.case.clone()).or_default() += 1;
            return;
        }
        let call = record.map_or("", |record| {
            let would = record.response_elements.as_ref().and_then(|_| would_have_called(event));
            would.unwrap_or(&record.event_name)
        });
        let call = call.to_owned();
        if let Some(index) = self.called.get(&event.case) {
            let repair = &mut self.outcome.repairs[*index];
            repair.calls += u32::from(event.step == Step::Called);
            // A node that a reboot did not fix is replaced: the last call counts.
            repair.call = call;
        } else {
            let Some(due) = self.due.remove(&event.case) else { return };
            let index = self.outcome.repairs.len();
            self.classifier.watch(&self.baseline, event, event.at, RepairRef::Called(index));
            let calls = 1 + self.refused.remove(&event.case).unwrap_or_default();
            let request_id = record.and_then(|record| record.request_id.as_deref());
            let call_in_history = request_id.is_some_and(|id| self.environment.contains_call(id));
            self.outcome.repairs.push(SimulatedRepair {
                due,
                call,
                at: event.at,
                calls,
                call_in_history,
                resolution: Resolution::Unknown,
            });
            self.called.insert(event.case.clone(), index);
        }
        // The repair was not missed, only delayed.
        if let Some(index) = self.blocked.remove(&event.case) {
            self.outcome.blocked[index].resolution = Resolution::Called;
        }
        self.assumed.add_call(event, self.environment, &self.driver);
    }

    fn finish(mut self) -> Result<PolicyOutcome, BacktestError> {
        let last = self.options.last;
        self.change_fleet_until(last)?;
        self.advance(last, false)?;
        self.driver.clock.advance_to(last);
        self.baseline.clock.advance_to(last);
        while let Some((_, change)) = self.driver.next_fleet_change(Timestamp::MAX) {
            self.change_fleet(&change);
        }
        self.classifier.finish(&self.baseline, last);
        self.driver.end_of_recording();
        self.advance(last.checked_add(self.options.continue_for).unwrap_or(Timestamp::MAX), true)?;
        self.classifier.finish(&self.baseline, last);
        for (repair, resolution) in self.classifier.take_resolved() {
            match repair {
                RepairRef::Called(index) => self.outcome.repairs[index].resolution = resolution,
                RepairRef::Blocked(index) if self.outcome.blocked[index].resolution != Resolution::Called => {
                    self.outcome.blocked[index].resolution = resolution;
                }
                RepairRef::Blocked(_) => {}
            }
        }
        self.outcome.blocked.retain(|blocked| blocked.resolution != Resolution::Called);
        self.outcome.nodes = self.baseline.store.cases().len();
        self.outcome.unreadable = self.driver.unreadable;
        if let Some(steps) = &mut self.steps {
            steps.flush().map_err(BacktestError::Output)?;
        }
        Ok(self.outcome)
    }
}

fn key_of(event: &RepairEvent) -> CaseKey {
    CaseKey { cluster: event.cluster.clone(), instance_id: event.instance_id.clone() }
}

/// The call that observe mode recorded instead of making it.
fn would_have_called(event: &RepairEvent) -> Option<&'static str> {
    if event.step != Step::Blocked {
        return None;
    }
    let record = serde_json::to_value(event.record.as_deref()?).ok()?;
    let text = record.to_string();
    ["TerminateInstanceInAutoScalingGroup", "RebootInstances"].into_iter().find(|name| text.contains(name))
}
