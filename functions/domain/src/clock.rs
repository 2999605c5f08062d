//! Turns what is reported of one condition, in any order and any number of times, into the start of its fault.
//!
//! A fault begins when a condition first goes bad. A recovery ends it only when it holds; one that does not is bridged, so
//! that flapping neither escapes repair nor resets the clock. Two kinds of source are kept apart, because one clock must
//! measure each duration:
//!
//! * the control plane dates every change by the API server's clock: [`History`] orders the changes;
//! * an agent reports the whole condition under a rising number, in its node's own time: [`LatestReport`] keeps the newest,
//!   and counts its age back from its arrival.
//!
//! Arrival counts beside the start ([`Onset`]): a line can be delivered hours late, and a node can claim any time. No
//! repair may be hastened by either.

mod history;
mod latest;
mod node_clock;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::{
    history::{ConditionChange, History},
    latest::{ConditionReport, LatestReport, NodeOnset, Recency},
    node_clock::{NodeClock, NodeTime, ReportPlace},
};
use crate::{condition::Health, timestamp};

/// The state of a condition by one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The latest health.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// Start of the fault that has not ended yet: the condition is bad, or its recovery has not held.
    pub episode: Option<Onset>,
}

/// The start of a fault, and what bounds its repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Onset {
    /// When it began, as far as what is reported can be true.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// From when its grace period counts: from the arrival of its first bad report where the source had reported healthy
    /// before, else from its start.
    #[serde(with = "timestamp")]
    pub counts_from: Timestamp,
    /// When its first bad report arrived, by our clock.
    #[serde(with = "timestamp")]
    pub arrived: Timestamp,
}

impl Onset {
    /// When a repair may begin: the grace period is over, and what was written meanwhile has had its time to arrive.
    pub fn deadline(&self, grace: SignedDuration, settling: SignedDuration) -> Option<Timestamp> {
        let settled = self.arrived.checked_add(settling).ok()?;
        Some(self.counts_from.checked_add(grace).ok()?.max(settled))
    }

    /// The same fault is known from another bad report, too, which arrived then. Where the grace period counts from the arrival
    /// of the first, that is the one that arrived first.
    #[must_use]
    pub fn also_known(self, arrived: Timestamp) -> Self {
        Self {
            arrived: self.arrived.min(arrived),
            counts_from: self.since.max(self.counts_from.min(arrived)),
            ..self
        }
    }

    /// What began, became known and arrived at the same time.
    pub fn at(at: Timestamp) -> Self {
        Self { since: at, counts_from: at, arrived: at }
    }

    /// The earlier of two, by each clock.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            since: self.since.min(other.since),
            counts_from: self.counts_from.min(other.counts_from),
            arrived: self.arrived.min(other.arrived),
        }
    }

    /// The later of two, by each clock.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            since: self.since.max(other.since),
            counts_from: self.counts_from.max(other.counts_from),
            arrived: self.arrived.max(other.arrived),
        }
    }
}
