//! Drives the handlers through the inputs on a virtual clock.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    store::MemoryStore,
    subscription::{Batch, Decoder, LogEvent},
};
use nodemend_audit::Audit;
use nodemend_domain::{group::Group, ident::ClusterName, occurrence::Occurrence, policy::Policy, stamp};
use nodemend_intake::{Intake, Intaken};
use nodemend_repair::Repairer;

use super::{
    ReplayError,
    input::{self, Group as LogGroup, Input, What},
    world::World,
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

struct Driver {
    clock: VirtualClock,
    intake: Intake<MemoryStore>,
    repairer: Repairer<MemoryStore, MemoryCloud, VirtualClock>,
    audit: Audit<MemoryStore, MemoryCloud>,
    cluster: ClusterName,
    replayed: Replayed,
    sweeps_at_once: usize,
}

/// Replays.
pub(super) fn drive(
    inputs: Vec<Input>,
    mut policy: Policy,
    groups: Option<Vec<Group>>,
    until: SignedDuration,
) -> Result<Replayed, ReplayError> {
    let mut world = World::of(&inputs);
    let clock = VirtualClock::default();
    let cloud = world.cloud(&clock, groups);
    let store = MemoryStore::with_policy(policy.clone());
    let Some(cluster) = world.cluster.clone().or_else(|| ClusterName::new("replay").ok()) else {
        return Ok(Replayed::default());
    };
    let mut driver = Driver {
        clock: clock.clone(),
        intake: Intake::new(store.clone()),
        repairer: Repairer::new(store.clone(), cloud.clone(), clock.clone()),
        audit: Audit::new(store.clone(), cloud.clone()),
        cluster,
        replayed: Replayed::default(),
        sweeps_at_once: 0,
    };
    let mut turns = std::mem::take(&mut world.turns).into_iter().peekable();
    for input in inputs {
        driver.sweep_until(input.at, false)?;
        clock.advance_to(input.at);
        while let Some((_, turn)) = turns.next_if(|(at, _)| *at <= input.at) {
            world.turn(&cloud, &turn);
        }
        driver.deliver(&input);
    }
    for (_, turn) in turns {
        world.turn(&cloud, &turn);
    }
    // The recording ends here; that no heartbeat follows says nothing about any agent.
    policy.silence.agent_silent_after = None;
    store.set_any_policy(policy);
    let end = clock.now().checked_add(until).unwrap_or(Timestamp::MAX);
    driver.sweep_until(end, true)?;
    Ok(driver.replayed)
}

impl Driver {
    /// Sweeps whenever something is due before an instant, or at it.
    fn sweep_until(&mut self, end: Timestamp, inclusive: bool) -> Result<(), ReplayError> {
        loop {
            let due = pollster::block_on(self.repairer.next_due())
                .map_err(|error| self.stuck(&error.to_string()))?;
            let Some(due) = due.filter(|due| *due < end || inclusive && *due == end) else { return Ok(()) };
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
            self.replayed.occurrences.extend(swept.occurrences);
        }
    }

    fn stuck(&self, why: &str) -> ReplayError {
        ReplayError::Stuck { at: stamp::millis(self.clock.now()), why: why.to_owned() }
    }

    fn deliver(&mut self, input: &Input) {
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
                self.replayed.occurrences.extend(taken.occurrences);
                for rejected in taken.rejected {
                    self.replayed.bad.push(format!("{place}: {}", rejected.why));
                }
            }
            Err(why) => self.replayed.bad.push(format!("{place}: {why}")),
        }
    }

    fn audit(&mut self, payload: &[u8], place: &str) {
        match pollster::block_on(self.audit.handle(payload, self.clock.now())) {
            Ok(audited) => self.replayed.occurrences.extend(audited.occurrences),
            Err(error) => self.replayed.bad.push(format!("{place}: {error}")),
        }
    }
}
