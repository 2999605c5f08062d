//! Turns a case into the one word that people ask for: where it stands.

use jiff::Timestamp;
use serde::Serialize;

use super::{Case, Fault};
use crate::{
    policy::{Policy, Rules},
    repair::Phase,
};

/// Where a case stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is wrong that is ever repaired.
    Healthy,
    /// Its agent is not heard; nobody complains.
    Silent,
    /// It is well again, and that has yet to hold.
    Recovering,
    /// Something is wrong, and its wait runs.
    Suspect,
    /// The wait is over.
    Due,
    /// The wait is over, and something stands in the way.
    Blocked,
    /// A repair has its place.
    Claimed,
    /// A call is being made.
    Acting,
    /// The instance was called for; CloudTrail and the replacement are awaited.
    Confirming,
    /// The instance is rebooting.
    Rebooting,
    /// The instance is no more.
    Closed,
}

impl State {
    /// As it is written in tables and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Silent => "silent",
            Self::Recovering => "recovering",
            Self::Suspect => "suspect",
            Self::Due => "due",
            Self::Blocked => "blocked",
            Self::Claimed => "claimed",
            Self::Acting => "acting",
            Self::Confirming => "confirming",
            Self::Rebooting => "rebooting",
            Self::Closed => "closed",
        }
    }

    /// Whether a node in this state is one to look at.
    pub fn is_unhealthy(self) -> bool {
        !matches!(self, Self::Healthy | Self::Closed)
    }
}

impl Case {
    /// Where it stands, and what is wrong, the earliest deadline first. Without a group's rules, whose tags only AWS
    /// knows, the hastiest rules count, as for its due time.
    pub fn standing(
        &self,
        rules: Option<&Rules<'_>>,
        policy: &Policy,
        now: Timestamp,
    ) -> (State, Vec<Fault>) {
        let faults = match rules {
            Some(rules) => self.faults(rules, policy, now),
            None => self.earliest_faults(policy, now),
        };
        (self.state(&faults, now), faults)
    }

    fn state(&self, faults: &[Fault], now: Timestamp) -> State {
        if self.closed.is_some() {
            return State::Closed;
        }
        if let Some(repair) = &self.repair {
            return match &repair.phase {
                Phase::Claimed { .. } if self.blocked.is_some() => State::Blocked,
                Phase::Claimed { .. } => State::Claimed,
                Phase::Acting { .. } => State::Acting,
                Phase::Confirming => State::Confirming,
                Phase::Rebooting => State::Rebooting,
            };
        }
        let mut acting = faults.iter().filter(|fault| fault.deadline.is_some());
        if acting.clone().any(|fault| fault.is_due(now)) {
            return if self.blocked.is_some() { State::Blocked } else { State::Due };
        }
        if acting.clone().any(Fault::is_bad) {
            return State::Suspect;
        }
        if acting.next().is_some() {
            return State::Recovering;
        }
        if self.silent_since.is_some() { State::Silent } else { State::Healthy }
    }
}
