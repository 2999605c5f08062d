//! Drives the handlers through the inputs on a virtual clock.

use std::{borrow::Cow, collections::VecDeque};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    store::MemoryStore,
    subscription::{Batch, Decoder, LogEvent},
};
use nodemend_audit::{Audit, AuditError};
use nodemend_domain::{group::Group, ident::ClusterName, occurrence::Occurrence, policy::Policy, stamp};
use nodemend_intake::{Intake, Intaken};
use nodemend_repair::Repairer;

use super::{
    ReplayError,
    input::{self, Group as LogGroup, Input, What},
    world::{Turn, World},
};

/// A sweep that leaves something due at the same instant so often makes no progress.
const MAX_SWEEPS_AT_ONCE: usize = 10_000;

/// What a replay did.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// What happened, in order.
    pub(super) occurrences: Vec<Occurrence>,
    /// What the handlers could not read, as `file:line: why`.
    pub(super) bad: Vec<String>,
}

/// The handlers over the memory side of each port, under one policy.
pub(crate) struct Driver {
    /// What they take for the time.
    pub(crate) clock: VirtualClock,
    /// What they know.
    pub(crate) store: MemoryStore,
    /// What they ask and call.
    pub(crate) cloud: MemoryCloud,
    /// What CloudTrail and Auto Scaling tell goes in here.
    pub(crate) audit: Audit<MemoryStore, MemoryCloud>,
    /// What happened since it was last taken away, in order.
    pub(crate) told: Vec<Occurrence>,
    /// What they could not read, as `file:line: why`.
    pub(crate) bad: Vec<String>,
    intake: Intake<MemoryStore>,
    repairer: Repairer<MemoryStore, MemoryCloud, VirtualClock>,
    policy: Policy,
    cluster: ClusterName,
    turns: VecDeque<(Timestamp, Turn)>,
    sweeps_at_once: usize,
}

/// Replays.
pub(super) fn drive(
    inputs: &[Input],
    policy: Policy,
    groups: Option<&[Group]>,
    until: SignedDuration,
) -> Result<Replayed, ReplayError> {
    let mut world = World::default();
    for input in inputs {
        world.take_in(input);
    }
    let Some(mut driver) = Driver::new(&world, policy, groups) else { return Ok(Replayed::default()) };
    for input in inputs {
        while let Some((at, turn)) = driver.next_turn(input.at) {
            driver.sweep_until(at, false)?;
            driver.clock.advance_to(at);
            world.turn(&driver.cloud, &turn);
        }
        driver.sweep_until(input.at, false)?;
        driver.deliver(input);
    }
    while let Some((_, turn)) = driver.next_turn(Timestamp::MAX) {
        world.turn(&driver.cloud, &turn);
    }
    driver.end_of_recording();
    let end = driver.clock.now().checked_add(until).unwrap_or(Timestamp::MAX);
    driver.sweep_until(end, true)?;
    Ok(Replayed { occurrences: driver.told, bad: driver.bad })
}

impl Driver {
    /// Handlers that know nothing yet; none, if no cluster's name can be had.
    pub(crate) fn new(world: &World, policy: Policy, groups: Option<&[Group]>) -> Option<Self> {
        let clock = VirtualClock::default();
        let (cloud, turns) = world.stage(&clock, groups);
        let store = MemoryStore::with_policy(policy.clone());
        Some(Self {
            intake: Intake::new(store.clone()),
            repairer: Repairer::new(store.clone(), cloud.clone(), clock.clone()),
            audit: Audit::new(store.clone(), cloud.clone()),
            cluster: world.cluster.clone().or_else(|| ClusterName::new("replay").ok())?,
            clock,
            store,
            cloud,
            told: Vec::new(),
            bad: Vec::new(),
            policy,
            turns: turns.into(),
            sweeps_at_once: 0,
        })
    }

    /// The next change of the world, if it comes by then.
    pub(crate) fn next_turn(&mut self, until: Timestamp) -> Option<(Timestamp, Turn)> {
        self.turns.pop_front_if(|(at, _)| *at <= until)
    }

    /// The recording ends here; that no heartbeat follows says nothing about any agent.
    pub(crate) fn end_of_recording(&mut self) {
        self.policy.silence.agent_silent_after = None;
        self.store.set_any_policy(self.policy.clone());
    }

    /// Sweeps whenever something is due before an instant, or at it.
    pub(crate) fn sweep_until(&mut self, end: Timestamp, inclusive: bool) -> Result<(), ReplayError> {
        while let Some(due) = self.next_due()?.filter(|due| *due < end || inclusive && *due == end) {
            self.sweep_at(due)?;
        }
        Ok(())
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Result<Option<Timestamp>, ReplayError> {
        pollster::block_on(self.repairer.next_due()).map_err(|error| self.stuck(&error.to_string()))
    }

    /// Sweeps at the time at which something is due.
    pub(crate) fn sweep_at(&mut self, due: Timestamp) -> Result<(), ReplayError> {
        if due > self.clock.now() {
            self.sweeps_at_once = 0;
        }
        self.sweeps_at_once += 1;
        if self.sweeps_at_once > MAX_SWEEPS_AT_ONCE {
            return Err(self.stuck("something stays due"));
        }
        self.clock.advance_to(due);
        let swept =
            pollster::block_on(self.repairer.sweep()).map_err(|error| self.stuck(&error.to_string()))?;
        if let Some(failure) = swept.failures.first() {
            return Err(self.stuck(&failure.to_string()));
        }
        self.told.extend(swept.occurrences);
        Ok(())
    }

    fn stuck(&self, why: &str) -> ReplayError {
        ReplayError::Stuck { at: stamp::millis(self.clock.now()), why: why.to_owned() }
    }

    /// Hands an input to the handler that is for it, at the time at which it arrived.
    pub(crate) fn deliver(&mut self, input: &Input) {
        self.clock.advance_to(input.at);
        let now = self.clock.now();
        match &input.what {
            What::Payload(bytes) => {
                let mut decoder = Decoder::new();
                let taken = pollster::block_on(self.intake.handle(&mut decoder, bytes, now));
                self.taken(taken.map_err(|error| error.to_string()), &input.place);
            }
            What::Log { group, stream, at, message } => {
                let log_group = match group {
                    LogGroup::Named(name) => Cow::Borrowed(name.as_str()),
                    LogGroup::AnyControlPlane => format!("/aws/eks/{}/cluster", self.cluster).into(),
                };
                let batch = Batch {
                    owner: Cow::Borrowed(""),
                    log_group,
                    log_stream: stream.into(),
                    subscription_filters: Vec::new(),
                    events: vec![LogEvent { id: Cow::Borrowed(""), timestamp: *at, message: message.into() }],
                    rejected: Vec::new(),
                };
                let taken = pollster::block_on(self.intake.take(batch, now));
                self.taken(taken.map_err(|error| error.to_string()), &input.place);
            }
            What::Event(value) => self.audit(value.to_string().as_bytes(), &input.place),
            What::CloudTrail(event) => {
                self.audit(input::envelope(event).to_string().as_bytes(), &input.place);
            }
        }
    }

    fn taken(&mut self, taken: Result<Intaken, String>, place: &str) {
        match taken {
            Ok(taken) => {
                self.told.extend(taken.occurrences);
                for rejected in taken.rejected {
                    self.bad.push(format!("{place}: {}", rejected.why));
                }
            }
            Err(why) => self.bad.push(format!("{place}: {why}")),
        }
    }

    fn audit(&mut self, payload: &[u8], place: &str) {
        match pollster::block_on(self.audit.handle(payload, self.clock.now())) {
            Ok(audited) => self.told.extend(audited.occurrences),
            // Here a call's record comes with the call: this one was not made.
            Err(AuditError::Early(_)) => {}
            Err(error) => self.bad.push(format!("{place}: {error}")),
        }
    }
}
