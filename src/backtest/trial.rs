//! Drives one policy through the history: the very handlers that replay drives, and beside them a witness that only hears
//! what really happened, and by which what the policy would have done is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Change, Commit, Store},
};
use nodemend_domain::{
    case::Case,
    group::{Group, Whereabouts},
    guard::Guard,
    ident::InstanceId,
    occurrence::{Occurrence, Step},
    policy::Policy,
};

use super::{
    BacktestError,
    assume::Assumed,
    files::File,
    judge::{Ending, Judge, Subject},
    record::{self, Put},
    spill::History,
};
use crate::replay::{
    drive::Driver,
    input::{Input, What},
    json,
    world::{Turn, World},
};

/// How a policy is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// When a replacement is ready, after a call of which the history does not tell; never, where none is assumed.
    pub(super) replacement_after: Option<SignedDuration>,
    /// How long the clock runs on after the history's end.
    pub(super) run_on: SignedDuration,
    /// The history's last time.
    pub(super) last: Timestamp,
}

/// A repair that the policy would have made.
#[derive(Debug, Clone)]
pub(super) struct Repair {
    pub(super) want: Want,
    /// `TerminateInstanceInAutoScalingGroup` or `RebootInstances`.
    pub(super) call: String,
    pub(super) at: Timestamp,
    /// How often AWS was called for it, refusals included.
    pub(super) calls: u32,
    /// The history tells of this very call.
    pub(super) in_history: bool,
    pub(super) ending: Ending,
}

/// A repair that was due, and which the guards withheld to the end.
#[derive(Debug, Clone)]
pub(super) struct Withheld {
    pub(super) want: Want,
    pub(super) ending: Ending,
}

/// A repair that is due.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) case: String,
    pub(super) node: String,
    pub(super) instance_id: InstanceId,
    pub(super) group: String,
    pub(super) condition: String,
    pub(super) reason: String,
    pub(super) why: String,
    /// When the trouble began.
    pub(super) since: Timestamp,
    /// When its wait was over.
    pub(super) due: Timestamp,
    /// What stood in its way.
    pub(super) guards: BTreeSet<String>,
}

/// What a policy would have done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) repairs: Vec<Repair>,
    pub(super) withheld: Vec<Withheld>,
    /// How many repairs fell due.
    pub(super) due: usize,
    pub(super) nodes: usize,
    /// What the handlers could not read, as `file:line: why`.
    pub(super) bad: Vec<String>,
}

/// One policy on its way through the history.
pub(super) struct Trial<'a> {
    driver: Driver,
    witness: Driver,
    assumed: Assumed,
    judge: Judge,
    wants: BTreeMap<String, Want>,
    /// By case: its repair's place among the repairs.
    made: BTreeMap<String, usize>,
    refused: BTreeMap<String, u32>,
    withheld: BTreeMap<String, usize>,
    outcome: Outcome,
    world: &'a World,
    terms: Terms,
    steps: Option<Box<dyn Write + Send>>,
}

impl<'a> Trial<'a> {
    /// A policy at the history's beginning; none, if no cluster's name can be had.
    pub(super) fn new(
        world: &'a World,
        policy: &Policy,
        groups: Option<&[Group]>,
        terms: Terms,
        steps: Option<Box<dyn Write + Send>>,
    ) -> Option<Self> {
        Some(Self {
            driver: Driver::new(world, policy.clone(), groups)?,
            witness: Driver::new(world, policy.clone(), groups)?,
            assumed: Assumed::new(terms.replacement_after),
            judge: Judge::new(policy.clone()),
            wants: BTreeMap::new(),
            made: BTreeMap::new(),
            refused: BTreeMap::new(),
            withheld: BTreeMap::new(),
            outcome: Outcome::default(),
            world,
            terms,
            steps,
        })
    }

    /// Goes through the whole history.
    pub(super) fn run(mut self, history: &History, files: &[File]) -> Result<Outcome, BacktestError> {
        for entry in history.by_time().map_err(BacktestError::Spill)? {
            let entry = entry.map_err(BacktestError::Spill)?;
            let name = files.get(entry.key.file as usize).map(|file| file.path.display().to_string());
            let put = record::read(entry, &name.unwrap_or_default());
            self.hear(put.ok_or_else(|| BacktestError::Spill(std::io::ErrorKind::InvalidData.into()))?)?;
        }
        self.end()
    }

    fn hear(&mut self, put: Put) -> Result<(), BacktestError> {
        let Put { input, heard_until } = put;
        self.turn_until(input.at)?;
        self.advance(input.at, false)?;
        self.judge.before(&self.witness, &input);
        let bad = self.driver.bad.len();
        self.driver.deliver(&input);
        self.witness.deliver(&input);
        self.witness.told.clear();
        self.judge.after(&self.witness, &input);
        if let Some(until) = heard_until.filter(|_| self.driver.bad.len() == bad) {
            self.heard_until(&input, until)?;
        }
        self.listen()
    }

    /// An agent is heard until then: between its first and its last word there is no silence to wait for.
    fn heard_until(&mut self, input: &Input, until: Timestamp) -> Result<(), BacktestError> {
        let What::Log { stream, .. } = &input.what else { return Ok(()) };
        let store = &self.driver.store;
        let stuck = |error: &dyn std::fmt::Display| BacktestError::Broken(error.to_string());
        let Some(instance_id) = InstanceId::new(stream).ok() else { return Ok(()) };
        let cluster = pollster::block_on(store.cluster_of_instance(&instance_id));
        let Some(cluster) = cluster.map_err(|error| stuck(&error))? else { return Ok(()) };
        let key = CaseKey { cluster, instance_id };
        let Some(mut case) = self.case(&key) else { return Ok(()) };
        if case.closed.is_some() || case.heard_agent.is_none_or(|heard| heard >= until) {
            return Ok(());
        }
        case.heard_agent = Some(until);
        let policy = pollster::block_on(store.policy(&key.cluster)).map_err(|error| stuck(&error))?;
        if let Some(policy) = policy {
            case.plan(&policy, input.at);
            let change = Change { case: &case, group: None, entries: &[] };
            match pollster::block_on(store.commit(change)).map_err(|error| stuck(&error))? {
                Commit::Won => {}
                Commit::Lost => return Err(BacktestError::Broken("nobody else writes".to_owned())),
            }
        }
        Ok(())
    }

    fn turn_until(&mut self, until: Timestamp) -> Result<(), BacktestError> {
        while let Some((at, turn)) = self.driver.next_turn(until) {
            self.advance(at, false)?;
            self.driver.clock.advance_to(at);
            self.turn(&turn);
        }
        while let Some((_, turn)) = self.witness.next_turn(until) {
            self.world.turn(&self.witness.cloud, &turn);
        }
        Ok(())
    }

    fn turn(&mut self, turn: &Turn) {
        self.world.turn(&self.driver.cloud, turn);
        // What really took its place comes: what was assumed to have taken it goes.
        if let Turn::Leave(instance_id) = turn {
            self.assumed.forget(instance_id, &self.driver.cloud);
        }
    }

    /// Lets happen what is due, and what is assumed, before an instant, or at it.
    fn advance(&mut self, end: Timestamp, inclusive: bool) -> Result<(), BacktestError> {
        let within = |at: &Timestamp| *at < end || inclusive && *at == end;
        loop {
            let due = self.driver.next_due()?.filter(within);
            let assumed = self.assumed.next_at().filter(within);
            match (due, assumed) {
                (due, Some(at)) if due.is_none_or(|due| at <= due.max(self.driver.clock.now())) => {
                    self.assumed.happen(&mut self.driver)?;
                }
                (Some(due), _) => self.driver.sweep_at(due)?,
                (None, _) => return Ok(()),
            }
            self.listen()?;
        }
    }

    fn case(&self, key: &CaseKey) -> Option<Box<Case>> {
        pollster::block_on(self.driver.store.case(key)).ok().flatten()
    }

    fn listen(&mut self) -> Result<(), BacktestError> {
        for occurrence in std::mem::take(&mut self.driver.told) {
            if let Some(steps) = &mut self.steps {
                json::step(steps, &occurrence).map_err(BacktestError::Output)?;
            }
            match occurrence.step {
                Step::Due => self.wants(&occurrence),
                Step::Blocked => self.blocked(&occurrence),
                Step::Called => self.called(&occurrence),
                Step::Recovered | Step::Closed => {
                    self.wants.remove(&occurrence.case);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wants(&mut self, occurrence: &Occurrence) {
        // One that flaps falls due again and again, and is one trouble as long as none of its recoveries holds.
        let made = self.made.get(&occurrence.case).map(|place| Subject::Repair(*place));
        let withheld = self.withheld.get(&occurrence.case).map(|place| Subject::Withheld(*place));
        if !made.into_iter().chain(withheld).any(|subject| self.judge.is_open(subject)) {
            self.outcome.due += 1;
            self.made.remove(&occurrence.case);
            self.withheld.remove(&occurrence.case);
        }
        let key = key_of(occurrence);
        let case = self.case(&key);
        let policy = self.judge.policy();
        let since = case.as_ref().and_then(|case| {
            let faults = case.standing(None, policy, occurrence.at).1;
            let same = |fault: &&nodemend_domain::case::Fault| {
                Some(&fault.condition) == occurrence.condition.as_ref() && fault.is_bad()
            };
            faults.iter().find(same).map(|fault| fault.since)
        });
        let located = pollster::block_on(self.driver.cloud.locate(std::slice::from_ref(&key.instance_id)));
        let group = match located.ok().and_then(|found| found.into_iter().next()) {
            Some(Whereabouts::Member { group, .. }) => group.to_string(),
            _ => case.and_then(|case| case.group).map_or_else(|| "-".to_owned(), |group| group.to_string()),
        };
        let want = Want {
            case: occurrence.case.clone(),
            node: occurrence.node.as_ref().map_or_else(|| key.instance_id.to_string(), ToString::to_string),
            instance_id: key.instance_id,
            group,
            condition: occurrence
                .condition
                .as_ref()
                .map_or_else(String::new, |kind| kind.as_str().to_owned()),
            reason: occurrence.reason.clone().unwrap_or_default(),
            why: occurrence.detail.clone(),
            since: since.unwrap_or(occurrence.at),
            due: occurrence.at,
            guards: BTreeSet::new(),
        };
        self.wants.insert(occurrence.case.clone(), want);
    }

    fn blocked(&mut self, occurrence: &Occurrence) {
        let guards = self.case(&key_of(occurrence)).and_then(|case| case.blocked);
        let guards: BTreeSet<String> = guards.map(|blocked| blocked.guards).into_iter().flatten().collect();
        // Nothing but the mode stands in the way: this is what would have been done.
        if occurrence.record.is_some() {
            return self.called(occurrence);
        }
        let Some(want) = self.wants.get_mut(&occurrence.case) else { return };
        want.guards.extend(guards.into_iter().filter(|guard| *guard != Guard::ObserveMode.name()));
        if want.guards.is_empty() || self.made.contains_key(&occurrence.case) {
            return;
        }
        let want = want.clone();
        if let Some(place) = self.withheld.get(&occurrence.case) {
            self.outcome.withheld[*place].want = want;
            return;
        }
        let place = self.outcome.withheld.len();
        self.judge.open(&self.witness, occurrence, want.due, Subject::Withheld(place));
        self.outcome.withheld.push(Withheld { want, ending: Ending::Open });
        self.withheld.insert(occurrence.case.clone(), place);
    }

    fn called(&mut self, occurrence: &Occurrence) {
        let record = occurrence.record.as_deref();
        let accepted = record.is_none_or(|record| record.error_code.is_none());
        if !accepted {
            *self.refused.entry(occurrence.case.clone()).or_default() += 1;
            return;
        }
        let call = record.map_or("", |record| {
            let would = record.response_elements.as_ref().and_then(|_| would_have_called(occurrence));
            would.unwrap_or(&record.event_name)
        });
        let call = call.to_owned();
        if let Some(place) = self.made.get(&occurrence.case) {
            let repair = &mut self.outcome.repairs[*place];
            repair.calls += u32::from(occurrence.step == Step::Called);
            // What a reboot did not cure is replaced: it is as the last call says.
            repair.call = call;
        } else {
            let Some(want) = self.wants.remove(&occurrence.case) else { return };
            let place = self.outcome.repairs.len();
            self.judge.open(&self.witness, occurrence, occurrence.at, Subject::Repair(place));
            let calls = 1 + self.refused.remove(&occurrence.case).unwrap_or_default();
            let request_id = record.and_then(|record| record.request_id.as_deref());
            let in_history = request_id.is_some_and(|id| self.world.tells_of(id));
            self.outcome.repairs.push(Repair {
                want,
                call,
                at: occurrence.at,
                calls,
                in_history,
                ending: Ending::Open,
            });
            self.made.insert(occurrence.case.clone(), place);
        }
        // It was not lost, only late.
        if let Some(place) = self.withheld.remove(&occurrence.case) {
            self.outcome.withheld[place].ending = Ending::Made;
        }
        self.assumed.called(occurrence, self.world, &self.driver);
    }

    fn end(mut self) -> Result<Outcome, BacktestError> {
        let last = self.terms.last;
        self.turn_until(last)?;
        self.advance(last, false)?;
        self.driver.clock.advance_to(last);
        self.witness.clock.advance_to(last);
        while let Some((_, turn)) = self.driver.next_turn(Timestamp::MAX) {
            self.turn(&turn);
        }
        self.judge.finish(&self.witness, last);
        self.driver.end_of_recording();
        self.advance(last.checked_add(self.terms.run_on).unwrap_or(Timestamp::MAX), true)?;
        self.judge.finish(&self.witness, last);
        for (subject, ending) in self.judge.endings() {
            match subject {
                Subject::Repair(place) => self.outcome.repairs[place].ending = ending,
                Subject::Withheld(place) if self.outcome.withheld[place].ending != Ending::Made => {
                    self.outcome.withheld[place].ending = ending;
                }
                Subject::Withheld(_) => {}
            }
        }
        self.outcome.withheld.retain(|withheld| withheld.ending != Ending::Made);
        self.outcome.nodes = self.witness.store.cases().len();
        self.outcome.bad = self.driver.bad;
        if let Some(steps) = &mut self.steps {
            steps.flush().map_err(BacktestError::Output)?;
        }
        Ok(self.outcome)
    }
}

fn key_of(occurrence: &Occurrence) -> CaseKey {
    CaseKey { cluster: occurrence.cluster.clone(), instance_id: occurrence.instance_id.clone() }
}

/// The call that observe mode wrote down instead of making it.
fn would_have_called(occurrence: &Occurrence) -> Option<&'static str> {
    if occurrence.step != Step::Blocked {
        return None;
    }
    let record = serde_json::to_value(occurrence.record.as_deref()?).ok()?;
    let text = record.to_string();
    ["TerminateInstanceInAutoScalingGroup", "RebootInstances"].into_iter().find(|name| text.contains(name))
}
