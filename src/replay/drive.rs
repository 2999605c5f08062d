//! Runs inputs through the handlers on a virtual clock, with the in-memory side of each port.
//!
//! Invariant: the clock never passes an input, a fleet change or a due time before it is handled.

use std::{borrow::Cow, collections::VecDeque};

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::{ConfirmError, Confirmer};
use nodemend_domain::{
    group::Group, ident::ClusterName, log_source::AUDIT_STREAMS, policy::Policy, repair_event::RepairEvent,
    timestamp,
};
use nodemend_intake::{Intake, IntakeResult};
use nodemend_ports::{
    cause::chain,
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    cluster_reader::LogLine,
    store::MemoryStore,
    subscription::{Batch, Decoder, LogEvent, Message},
};
use nodemend_repair::Repairer;

use super::{
    cluster::ApiServer,
    environment::{FleetChange, ReplayEnvironment},
    error::ReplayError,
    input::{self, Input, Inputs, LogGroup, Payload},
    subscribed::{self, Delivery},
};

/// So many runs at the same virtual time mean that a case stays due: a bug.
const MAX_RUNS_AT_ONE_TIME: usize = 10_000;

/// The result of a replay.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Every step, in order.
    pub(super) events: Vec<RepairEvent>,
    /// What the handlers rejected, as `file:line: cause`.
    pub(super) unreadable: Vec<String>,
    /// What concerns a case and is not delivered to intake, as `file:line`.
    pub(super) not_subscribed: Vec<String>,
}

/// The handlers with the in-memory side of each port, under one policy.
pub(crate) struct Driver {
    pub(crate) clock: VirtualClock,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    /// The handler of CloudTrail, Auto Scaling and EC2 events.
    pub(crate) confirm: Confirmer<MemoryStore, MemoryCloud>,
    /// The steps since the caller last took them, in order.
    pub(crate) events: Vec<RepairEvent>,
    /// What the handlers rejected, as `file:line: cause`.
    pub(crate) unreadable: Vec<String>,
    intake: Intake<MemoryStore>,
    repairer: Repairer<MemoryStore, MemoryCloud, VirtualClock>,
    policy: Policy,
    cluster: ClusterName,
    fleet_changes: VecDeque<(Timestamp, FleetChange)>,
    runs_at_this_time: usize,
}

/// Runs all inputs, then continues for `until` while cases are open.
pub(super) fn drive(
    Inputs { inputs, undelivered, .. }: &Inputs,
    policy: Policy,
    groups: Option<&[Group]>,
    api_server: &ApiServer,
    until: SignedDuration,
) -> Result<Replayed, ReplayError> {
    let mut environment = ReplayEnvironment::new([&policy]);
    for input in inputs {
        environment.observe(input);
    }
    let Some(mut driver) = Driver::new(&environment, policy, groups) else { return Ok(Replayed::default()) };
    api_server.set_up(driver.cloud.cluster_state());
    for input in inputs.iter().chain(undelivered) {
        driver.add_to_log_groups(input);
    }
    let mut not_subscribed = Vec::new();
    for input in inputs {
        while let Some((at, change)) = driver.next_fleet_change(input.at) {
            driver.run_until(at, false)?;
            driver.clock.advance_to(at);
            environment.apply(&driver.cloud, &change);
        }
        driver.run_until(input.at, false)?;
        match subscribed::delivery(input) {
            Delivery::Delivered => driver.deliver(input),
            Delivery::Dropped { concerns_a_case } => {
                driver.clock.advance_to(input.at);
                if concerns_a_case {
                    not_subscribed.push(input.source.clone());
                }
            }
        }
    }
    while let Some((_, change)) = driver.next_fleet_change(Timestamp::MAX) {
        environment.apply(&driver.cloud, &change);
    }
    driver.end_of_recording();
    let end = driver.clock.now().checked_add(until).unwrap_or(Timestamp::MAX);
    driver.run_until(end, true)?;
    Ok(Replayed { events: driver.events, unreadable: driver.unreadable, not_subscribed })
}

impl Driver {
    /// Handlers without any case. None only if the environment names no cluster and the fallback name is refused.
    pub(crate) fn new(
        environment: &ReplayEnvironment,
        policy: Policy,
        groups: Option<&[Group]>,
    ) -> Option<Self> {
        let clock = VirtualClock::default();
        let (cloud, fleet_changes) = environment.build(&clock, groups);
        let store = MemoryStore::with_policy(policy.clone());
        Some(Self {
            intake: Intake::new(store.clone()),
            repairer: Repairer::new(store.clone(), cloud.clone(), clock.clone()),
            confirm: Confirmer::new(store.clone(), cloud.clone()),
            cluster: environment.cluster.clone().or_else(|| ClusterName::new("replay").ok())?,
            clock,
            store,
            cloud,
            events: Vec::new(),
            unreadable: Vec::new(),
            policy,
            fleet_changes: fleet_changes.into(),
            runs_at_this_time: 0,
        })
    }

    /// Takes the next change of the fleet that is not later than `until`.
    pub(crate) fn next_fleet_change(&mut self, until: Timestamp) -> Option<(Timestamp, FleetChange)> {
        self.fleet_changes.pop_front_if(|(at, _)| *at <= until)
    }

    /// Call it at the end of the recording: that no heartbeat follows must not make any agent silent.
    pub(crate) fn end_of_recording(&mut self) {
        self.policy.silence.agent_silent_after = None;
        self.store.set_any_policy(self.policy.clone());
    }

    /// Runs the repair function at each due time before `end`, or also at it.
    pub(crate) fn run_until(&mut self, end: Timestamp, inclusive: bool) -> Result<(), ReplayError> {
        while let Some(due) = self.next_due()?.filter(|due| *due < end || inclusive && *due == end) {
            self.run_at(due)?;
        }
        Ok(())
    }

    /// The earliest due time of all cases.
    pub(crate) fn next_due(&self) -> Result<Option<Timestamp>, ReplayError> {
        pollster::block_on(self.repairer.next_due()).map_err(|error| self.no_progress(&chain(&error)))
    }

    /// Runs the repair function at a due time.
    pub(crate) fn run_at(&mut self, due: Timestamp) -> Result<(), ReplayError> {
        if due > self.clock.now() {
            self.runs_at_this_time = 0;
        }
        self.runs_at_this_time += 1;
        if self.runs_at_this_time > MAX_RUNS_AT_ONE_TIME {
            return Err(self.no_progress("a case stays due"));
        }
        self.clock.advance_to(due);
        let report =
            pollster::block_on(self.repairer.run_once()).map_err(|error| self.no_progress(&chain(&error)))?;
        if let Some(failure) = report.failures.first() {
            return Err(self.no_progress(&chain(failure)));
        }
        self.events.extend(report.repair_events);
        Ok(())
    }

    fn no_progress(&self, why: &str) -> ReplayError {
        ReplayError::NoProgress { at: timestamp::millis(self.clock.now()), why: why.to_owned() }
    }

    /// Adds the lines of an input to the log groups, where verification reads them from their time on.
    fn add_to_log_groups(&self, input: &Input) {
        let cluster = self.cloud.cluster_state();
        match &input.payload {
            Payload::Subscription(bytes) => {
                let mut decoder = Decoder::new();
                // One that cannot be decoded is reported when it is delivered.
                let Ok(Message::Data(batch)) = decoder.decode(bytes) else { return };
                for event in &batch.events {
                    let line = LogLine {
                        stream: batch.log_stream.to_string(),
                        timestamp: event.timestamp,
                        ingested: event.timestamp,
                        message: event.message.to_string(),
                    };
                    cluster.add_line(&batch.log_group, line);
                }
            }
            Payload::Log { group, stream, at, message } => {
                let line = LogLine {
                    stream: stream.clone(),
                    timestamp: *at,
                    ingested: *at,
                    message: message.clone(),
                };
                cluster.add_line(&self.log_group(group), line);
            }
            Payload::Event(_) | Payload::CloudTrail(_) => {}
        }
    }

    /// Adds an audit stream of an input to the log groups, without its lines. Returns its name.
    ///
    /// A history is delivered in the order of its time: verification would read nothing that was not delivered, but it
    /// refuses a log group without a stream.
    pub(crate) fn add_audit_stream(&self, input: &Input) -> Option<String> {
        let Payload::Log { group, stream, at, .. } = &input.payload else { return None };
        if !stream.starts_with(AUDIT_STREAMS) {
            return None;
        }
        let line = LogLine { stream: stream.clone(), timestamp: *at, ingested: *at, message: String::new() };
        self.cloud.cluster_state().add_line(&self.log_group(group), line);
        Some(stream.clone())
    }

    fn log_group<'a>(&self, group: &'a LogGroup) -> Cow<'a, str> {
        match group {
            LogGroup::Named(name) => Cow::Borrowed(name.as_str()),
            LogGroup::AnyControlPlane => format!("/aws/eks/{}/cluster", self.cluster).into(),
        }
    }

    /// Passes an input to its handler, at the time of its arrival.
    pub(crate) fn deliver(&mut self, input: &Input) {
        self.clock.advance_to(input.at);
        let now = self.clock.now();
        match &input.payload {
            Payload::Subscription(bytes) => {
                let mut decoder = Decoder::new();
                let result = pollster::block_on(self.intake.handle(&mut decoder, bytes, now));
                self.apply_intake(result.map_err(|error| chain(&error)), &input.source);
            }
            Payload::Log { group, stream, at, message } => {
                let log_group = self.log_group(group);
                let batch = Batch {
                    owner: Cow::Borrowed(""),
                    log_group,
                    log_stream: stream.into(),
                    subscription_filters: Vec::new(),
                    events: vec![LogEvent { id: Cow::Borrowed(""), timestamp: *at, message: message.into() }],
                    rejected: Vec::new(),
                };
                let result = pollster::block_on(self.intake.take(batch, now));
                self.apply_intake(result.map_err(|error| chain(&error)), &input.source);
            }
            Payload::Event(value) => self.handle_event(value.to_string().as_bytes(), &input.source),
            Payload::CloudTrail(event) => {
                self.handle_event(input::envelope(event).to_string().as_bytes(), &input.source);
            }
        }
    }

    fn apply_intake(&mut self, result: Result<IntakeResult, String>, source: &str) {
        match result {
            Ok(taken) => {
                self.events.extend(taken.repair_events);
                for rejected in taken.rejected {
                    self.unreadable.push(format!("{source}: {}", rejected.why));
                }
            }
            Err(why) => self.unreadable.push(format!("{source}: {why}")),
        }
    }

    fn handle_event(&mut self, payload: &[u8], source: &str) {
        match pollster::block_on(self.confirm.handle(payload, self.clock.now())) {
            Ok(result) => self.events.extend(result.repair_events),
            // In a replay a call's record is written with the call, so this policy did not make the call.
            Err(ConfirmError::Early(_)) => {}
            Err(error) => self.unreadable.push(format!("{source}: {error}")),
        }
    }
}
