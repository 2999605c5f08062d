//! Turns findings into reports: what each condition is, since when, and how long it was well before.
//!
//! Time is an argument, twice: the wall clock names instants, the monotonic clock since boot measures lengths. A
//! step of the wall clock moves no window, no quiet time and no start of trouble.
//!
//! A condition is True or False, never Unknown: a probe that can't read says nothing, neither good nor bad. An agent
//! that lost its memory within a boot keeps silent of a condition until it has been well for the hold, else its
//! ignorance would pass for a recovery.

mod entry;
mod pack;
mod state;
mod watch;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::ConditionType,
    report::{Body, ConditionState, Report},
};
use serde::{Deserialize, Serialize};

pub use self::state::{State, StateError};
use self::watch::Watch;
use crate::{
    finding::{Change, Finding},
    identity::Identity,
};

/// A heartbeat's reader accepts no more.
const MAX_WATCHES: usize = 16;
/// The wall clock has been set if it strays so far from the monotonic one. Less would give a new start to every
/// spell whenever the clock is nudged, and a spell is named by its start.
const STEP: SignedDuration = SignedDuration::from_secs(5);

/// One instant, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The node's wall clock.
    pub wall: Timestamp,
    /// Since boot, by the clock that goes on while the machine sleeps.
    pub mono: SignedDuration,
}

/// What may be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often all conditions are reported.
    pub heartbeat: SignedDuration,
    /// How often a bad condition is reported, and an event that goes on.
    pub repeat: SignedDuration,
    /// How long a recovery must hold to be one.
    pub hold: SignedDuration,
    /// The conditions that are reported from the start.
    pub conditions: Vec<ConditionType>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: SignedDuration::from_mins(5),
            repeat: SignedDuration::from_mins(5),
            hold: SignedDuration::from_mins(2),
            conditions: ConditionType::AGENT.to_vec(),
        }
    }
}

/// The conditions of one node in one boot.
#[derive(Debug, Clone)]
pub struct Tracker {
    identity: Identity,
    config: Config,
    memory: Memory,
}

/// All that must survive a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// The last report's number.
    seq: u64,
    /// When this memory begins.
    start: SignedDuration,
    /// The latest instant that was given.
    now: SignedDuration,
    /// The wall clock's reading at boot, as far as reports say.
    zero: Timestamp,
    watches: Vec<Watch>,
    heartbeat_due: SignedDuration,
}

/// One instant in the agent's own reckoning.
#[derive(Debug, Clone, Copy)]
struct Moment {
    mono: SignedDuration,
    zero: Timestamp,
}

impl Moment {
    fn wall_of(&self, mono: SignedDuration) -> Timestamp {
        self.zero.saturating_add(mono).unwrap_or(self.zero)
    }
}

/// What a tracker begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Nobody watched this boot before, as an older boot's state shows.
    Boot,
    /// Somebody may have watched this boot before, but nothing is left of it.
    NoMemory,
    /// It goes on where the last one ended.
    Memory,
}

impl Tracker {
    /// Goes on where the state ends; without one, or with one of another boot, begins anew.
    pub fn begin(identity: Identity, config: Config, state: Option<State>, now: Now) -> (Self, Beginning) {
        let (beginning, memory) = match state {
            Some(state) if state.boot_id == identity.boot_id => (Beginning::Memory, Some(state.memory)),
            Some(_) => (Beginning::Boot, None),
            None => (Beginning::NoMemory, None),
        };
        let mut memory = memory.unwrap_or_else(|| Memory {
            seq: 0,
            start: now.mono,
            now: now.mono,
            zero: zero(now),
            watches: Vec::new(),
            heartbeat_due: now.mono,
        });
        // Reports come more slowly than milliseconds pass, so that whoever begins later begins higher: no number
        // is used twice in a boot even if the last ones used are lost with the state.
        memory.seq = memory.seq.max(u64::try_from(now.mono.as_millis()).unwrap_or(0));
        for condition in &config.conditions {
            if !memory.watches.iter().any(|watch| watch.condition == *condition) {
                let known = beginning != Beginning::NoMemory;
                memory.watches.push(Watch::new(condition.clone(), memory.start, known));
            }
        }
        (Self { identity, config, memory }, beginning)
    }

    /// What must be kept to go on from here.
    pub fn snapshot(&self) -> State {
        State { boot_id: self.identity.boot_id.clone(), memory: self.memory.clone() }
    }

    /// Takes in what a detector or a probe saw.
    pub fn take(&mut self, change: &Change, now: Now) {
        let moment = self.advance(now);
        let seen = |at: Timestamp| {
            let age = now.wall.duration_since(at).clamp(SignedDuration::ZERO, moment.mono);
            moment.mono - age
        };
        match change {
            Change::Raised(finding) => self.raise(finding, seen(finding.at), moment.mono),
            Change::Cleared { reason, subject, at } => {
                let reason = entry::reason(reason);
                let subject = subject.as_deref().map(entry::subject);
                for watch in &mut self.memory.watches {
                    watch.clear(&reason, subject.as_deref(), seen(*at), moment.mono);
                }
            }
        }
    }

    fn raise(&mut self, finding: &Finding, seen: SignedDuration, now: SignedDuration) {
        let Memory { watches, start, .. } = &mut self.memory;
        let place = match watches.iter().position(|watch| watch.condition == finding.condition) {
            Some(place) => place,
            None if watches.len() >= MAX_WATCHES => {
                if let Some(watch) = watches.first_mut() {
                    watch.overflow(&entry::reason(&finding.reason), finding, now);
                }
                return;
            }
            None => {
                watches.push(Watch::new(finding.condition.clone(), *start, true));
                watches.len() - 1
            }
        };
        watches[place].raise(finding, seen, now, &self.config);
    }

    /// Lets time pass, and hands out the reports that are due.
    pub fn poll(&mut self, now: Now) -> Vec<Report<'static>> {
        let moment = self.advance(now);
        let mut bodies = Vec::new();
        for watch in &mut self.memory.watches {
            if watch.report_due(&self.config).is_some_and(|due| due <= moment.mono) {
                watch.tell(moment.mono);
                bodies.push(Body::Condition(watch.state(&moment)));
            }
            let condition = watch.condition.clone();
            let findings = watch.tell_events(&moment, &self.config);
            bodies.extend(pack::events(&self.identity, &condition, findings));
        }
        if self.memory.heartbeat_due <= moment.mono {
            self.memory.heartbeat_due = moment.mono.saturating_add(self.config.heartbeat);
            bodies.push(Body::Heartbeat(self.states_at(&moment)));
        }
        bodies.into_iter().map(|body| self.report(body, &moment)).collect()
    }

    fn report(&mut self, body: Body<'static>, moment: &Moment) -> Report<'static> {
        self.memory.seq += 1;
        let mut report = report(&self.identity, body);
        (report.seq, report.at) = (self.memory.seq, moment.wall_of(moment.mono));
        report
    }

    /// When [`poll`](Self::poll) next has something to do, since boot.
    pub fn next_due(&self) -> SignedDuration {
        let Memory { watches, start, heartbeat_due, .. } = &self.memory;
        let each = watches.iter().flat_map(|watch| {
            let settles = watch.settle_due(*start, &self.config);
            [watch.report_due(&self.config), watch.events_due(&self.config), watch.change_due(), settles]
        });
        each.flatten().min().map_or(*heartbeat_due, |due| due.min(*heartbeat_due))
    }

    /// The state of all conditions of which anything can be said.
    pub fn states(&self) -> Vec<ConditionState<'static>> {
        self.states_at(&Moment { mono: self.memory.now, zero: self.memory.zero })
    }

    fn states_at(&self, moment: &Moment) -> Vec<ConditionState<'static>> {
        self.memory.watches.iter().filter(|watch| watch.is_known()).map(|watch| watch.state(moment)).collect()
    }

    /// How many conditions are bad.
    pub fn unhealthy(&self) -> usize {
        self.memory.watches.iter().filter(|watch| watch.is_bad()).count()
    }

    fn advance(&mut self, now: Now) -> Moment {
        let memory = &mut self.memory;
        // A monotonic clock that goes back is a caller's mistake: time stands still meanwhile.
        memory.now = memory.now.max(now.mono);
        let zero = zero(now);
        if zero.duration_since(memory.zero).abs() > STEP {
            memory.zero = zero;
        }
        let mut settled = false;
        for watch in &mut memory.watches {
            watch.advance(memory.now, &self.config);
            settled |= watch.settle(memory.start, memory.now, &self.config);
        }
        if settled {
            memory.heartbeat_due = memory.now;
        }
        Moment { mono: memory.now, zero: memory.zero }
    }
}

/// What the wall clock would have shown at boot.
fn zero(now: Now) -> Timestamp {
    now.wall.saturating_sub(now.mono).unwrap_or(now.wall)
}

fn report(identity: &Identity, body: Body<'static>) -> Report<'static> {
    Report {
        cluster: identity.cluster.clone(),
        node: identity.node.clone(),
        instance_id: identity.instance_id.clone(),
        zone: identity.zone.clone(),
        boot_id: identity.boot_id.clone(),
        seq: u64::MAX,
        at: Timestamp::UNIX_EPOCH,
        agent: Cow::Borrowed(env!("CARGO_PKG_VERSION")),
        body,
    }
}
