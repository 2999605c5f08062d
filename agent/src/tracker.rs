//! Tracks the conditions of a node and emits reports.
//!
//! Time is an argument with two clocks: the wall clock for timestamps, and the monotonic clock since boot for
//! durations. A step of the wall clock moves no window, no quiet time and no start of an episode.
//!
//! A condition is True or False, never Unknown: a probe that is not checkable changes nothing. An agent that has lost
//! its state within a boot does not report a condition until it was healthy for the hold time, because otherwise
//! missing knowledge would look like a recovery.

mod condition;
mod pack;
mod snapshot;
mod tracked_finding;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::ConditionType,
    report::{Body, ConditionState, Report},
};
use serde::{Deserialize, Serialize};

use self::condition::ConditionTracker;
pub use self::snapshot::{Snapshot, SnapshotError};
use crate::{
    finding::{DetectedFinding, FindingChange},
    identity::NodeIdentity,
};

/// A reader of heartbeats accepts no more conditions.
const MAX_CONDITIONS: usize = 16;
/// The wall clock was set if it deviates this much from the monotonic clock. With a lower limit, small adjustments
/// would change the start of an episode, which identifies it.
const STEP: SignedDuration = SignedDuration::from_secs(5);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The node's wall clock.
    pub wall: Timestamp,
    /// The time since boot, by a monotonic clock.
    pub mono: SignedDuration,
}

/// Settings of the tracker.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// The interval between heartbeat reports.
    pub heartbeat: SignedDuration,
    /// How often an unhealthy condition and a continuing event are reported again.
    pub repeat: SignedDuration,
    /// How long a recovery must last to count.
    pub hold: SignedDuration,
    /// The conditions that are reported from the start.
    pub conditions: Vec<ConditionType>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            heartbeat: SignedDuration::from_mins(5),
            repeat: SignedDuration::from_mins(5),
            hold: SignedDuration::from_mins(2),
            conditions: ConditionType::AGENT.to_vec(),
        }
    }
}

/// The conditions of a node in one boot.
#[derive(Debug, Clone)]
pub struct Tracker {
    identity: NodeIdentity,
    config: TrackerConfig,
    state: TrackerState,
}

/// The state that survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TrackerState {
    /// The sequence number of the last report.
    seq: u64,
    /// When this state was created.
    start: SignedDuration,
    /// The latest time that was passed in.
    now: SignedDuration,
    /// The wall clock time of the boot, as used in reports.
    zero: Timestamp,
    conditions: Vec<ConditionTracker>,
    heartbeat_due: SignedDuration,
}

/// The current time in the tracker.
#[derive(Debug, Clone, Copy)]
struct TrackerClock {
    mono: SignedDuration,
    zero: Timestamp,
}

impl TrackerClock {
    fn wall_of(&self, mono: SignedDuration) -> Timestamp {
        self.zero.saturating_add(mono).unwrap_or(self.zero)
    }
}

/// What the tracker started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedFrom {
    /// A state of an earlier boot: no agent ran in this boot before.
    NewBoot,
    /// No state: an agent may have run in this boot before.
    NoState,
    /// A state of this boot.
    SavedState,
}

impl Tracker {
    /// Continues from a saved state; without one, or with one of another boot, starts with no findings.
    pub fn begin(
        identity: NodeIdentity,
        config: TrackerConfig,
        snapshot: Option<Snapshot>,
        now: Now,
    ) -> (Self, StartedFrom) {
        let (started_from, state) = match snapshot {
            Some(snapshot) if snapshot.boot_id == identity.boot_id => {
                (StartedFrom::SavedState, Some(snapshot.state))
            }
            Some(_) => (StartedFrom::NewBoot, None),
            None => (StartedFrom::NoState, None),
        };
        let mut state = state.unwrap_or_else(|| TrackerState {
            seq: 0,
            start: now.mono,
            now: now.mono,
            zero: zero(now),
            conditions: Vec::new(),
            heartbeat_due: now.mono,
        });
        // Fewer reports are written than milliseconds pass, so a later start has a higher number: no sequence number
        // is used twice in a boot, even if the state with the last ones is lost.
        state.seq = state.seq.max(u64::try_from(now.mono.as_millis()).unwrap_or(0));
        for condition in &config.conditions {
            if !state.conditions.iter().any(|tracked| tracked.condition == *condition) {
                let known = started_from != StartedFrom::NoState;
                state.conditions.push(ConditionTracker::new(condition.clone(), state.start, known));
            }
        }
        (Self { identity, config, state }, started_from)
    }

    /// The state that must be saved to continue from here.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { boot_id: self.identity.boot_id.clone(), state: self.state.clone() }
    }

    /// Applies a change that a detector or probe emitted.
    pub fn apply(&mut self, change: &FindingChange, now: Now) {
        let clock = self.advance(now);
        let seen = |at: Timestamp| {
            let age = now.wall.duration_since(at).clamp(SignedDuration::ZERO, clock.mono);
            clock.mono - age
        };
        match change {
            FindingChange::Raised(finding) => self.raise(finding, seen(finding.at), clock.mono),
            FindingChange::Cleared { reason, subject, at } => {
                let reason = tracked_finding::reason(reason);
                let subject = subject.as_deref().map(tracked_finding::subject);
                for tracked in &mut self.state.conditions {
                    tracked.clear(&reason, subject.as_deref(), seen(*at), clock.mono);
                }
            }
        }
    }

    fn raise(&mut self, finding: &DetectedFinding, seen: SignedDuration, now: SignedDuration) {
        let TrackerState { conditions, start, .. } = &mut self.state;
        let index = match conditions.iter().position(|tracked| tracked.condition == finding.condition) {
            Some(index) => index,
            None if conditions.len() >= MAX_CONDITIONS => {
                if let Some(tracked) = conditions.first_mut() {
                    tracked.overflow(&tracked_finding::reason(&finding.reason), finding, now);
                }
                return;
            }
            None => {
                conditions.push(ConditionTracker::new(finding.condition.clone(), *start, true));
                conditions.len() - 1
            }
        };
        conditions[index].raise(finding, seen, now, &self.config);
    }

    /// Advances the time and returns the reports that are due.
    pub fn poll(&mut self, now: Now) -> Vec<Report<'static>> {
        let clock = self.advance(now);
        let mut bodies = Vec::new();
        for tracked in &mut self.state.conditions {
            if tracked.report_due(&self.config).is_some_and(|due| due <= clock.mono) {
                tracked.mark_reported(clock.mono);
                bodies.push(Body::Condition(tracked.report_state(&clock)));
            }
            let condition = tracked.condition.clone();
            let findings = tracked.take_due_events(&clock, &self.config);
            bodies.extend(pack::events(&self.identity, &condition, findings));
        }
        if self.state.heartbeat_due <= clock.mono {
            self.state.heartbeat_due = clock.mono.saturating_add(self.config.heartbeat);
            bodies.push(Body::Heartbeat(self.states_at(&clock)));
        }
        bodies.into_iter().map(|body| self.report(body, &clock)).collect()
    }

    fn report(&mut self, body: Body<'static>, clock: &TrackerClock) -> Report<'static> {
        self.state.seq += 1;
        let mut report = report(&self.identity, body);
        (report.seq, report.at) = (self.state.seq, clock.wall_of(clock.mono));
        report
    }

    /// When [`poll`](Self::poll) has something to do next, in time since boot.
    pub fn next_due(&self) -> SignedDuration {
        let TrackerState { conditions, start, heartbeat_due, .. } = &self.state;
        let each = conditions.iter().flat_map(|tracked| {
            let settles = tracked.settle_due(*start, &self.config);
            [
                tracked.report_due(&self.config),
                tracked.events_due(&self.config),
                tracked.change_due(),
                settles,
            ]
        });
        each.flatten().min().map_or(*heartbeat_due, |due| due.min(*heartbeat_due))
    }

    /// The states of all conditions that are known.
    pub fn states(&self) -> Vec<ConditionState<'static>> {
        self.states_at(&TrackerClock { mono: self.state.now, zero: self.state.zero })
    }

    fn states_at(&self, clock: &TrackerClock) -> Vec<ConditionState<'static>> {
        self.state
            .conditions
            .iter()
            .filter(|tracked| tracked.is_known())
            .map(|tracked| tracked.report_state(clock))
            .collect()
    }

    /// The number of unhealthy conditions.
    pub fn unhealthy(&self) -> usize {
        self.state.conditions.iter().filter(|tracked| tracked.is_unhealthy()).count()
    }

    fn advance(&mut self, now: Now) -> TrackerClock {
        let state = &mut self.state;
        // The monotonic clock of a correct caller never goes back; otherwise time stands still.
        state.now = state.now.max(now.mono);
        let zero = zero(now);
        if zero.duration_since(state.zero).abs() > STEP {
            state.zero = zero;
        }
        let mut settled = false;
        for tracked in &mut state.conditions {
            tracked.advance(state.now, &self.config);
            settled |= tracked.settle(state.start, state.now, &self.config);
        }
        if settled {
            state.heartbeat_due = state.now;
        }
        TrackerClock { mono: state.now, zero: state.zero }
    }
}

/// The wall clock time of the boot.
fn zero(now: Now) -> Timestamp {
    now.wall.saturating_sub(now.mono).unwrap_or(now.wall)
}

fn report(identity: &NodeIdentity, body: Body<'static>) -> Report<'static> {
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
