//! The newest report of an agent on one condition.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ClockReading, NodeClock, NodeTime, Onset, ReportPlace};
use crate::{condition::Health, timestamp};

/// The newest report of an agent on one condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatestReport {
    /// Its place among the node's reports.
    #[serde(flatten)]
    place: ReportPlace,
    /// When it arrived, by our clock.
    #[serde(with = "timestamp")]
    arrived: Timestamp,
    /// The health that it reports.
    health: Health,
    /// Since when, by the node's clock.
    #[serde(with = "timestamp")]
    node_since: Timestamp,
    /// The same time by our clock: the arrival less the age, the least of all arrivals.
    #[serde(with = "timestamp")]
    since: Timestamp,
    /// The fault that it reports, or the last one that was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    episode: Option<NodeOnset>,
    /// The report that reported that fault first, where its agent knows nothing of the time before: the one written right
    /// before it may still arrive, and report an earlier start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_by: Option<u64>,
    /// The lowest number of the reports of that fault: what has a lower one and another start is of an earlier fault,
    /// whatever the node's clock shows.
    #[serde(default)]
    fault_seq: u64,
}

/// When something began on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOnset {
    /// By the node's clock: it orders what began on one node.
    #[serde(with = "timestamp")]
    pub node_since: Timestamp,
    /// It did not begin before this, by our clock, whatever the node claims.
    #[serde(with = "timestamp")]
    not_before: Timestamp,
    /// Whether its grace period counts from its arrival: its agent had reported healthy before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    counts_from_arrival: bool,
    /// By our clock.
    #[serde(flatten)]
    pub onset: Onset,
}

impl NodeOnset {
    /// The earlier of two, by each clock.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            node_since: self.node_since.min(other.node_since),
            not_before: self.not_before.min(other.not_before),
            counts_from_arrival: self.counts_from_arrival && other.counts_from_arrival,
            onset: self.onset.min(other.onset),
        }
    }

    /// The same, counted from its arrival, and not before it, whatever the node claims.
    #[must_use]
    pub fn from_its_arrival(self) -> Self {
        let arrived = self.onset.arrived;
        Self {
            not_before: arrived,
            counts_from_arrival: true,
            onset: Onset { since: arrived, counts_from: arrived, arrived },
            ..self
        }
    }

    /// This onset, or an earlier one that another report gives it: within what is known of it.
    #[must_use]
    pub fn or_earlier(mut self, reported: Self) -> Self {
        self.node_since = self.node_since.min(reported.node_since);
        self.onset.arrived = self.onset.arrived.min(reported.onset.arrived);
        self.extend_back_to(reported.onset.since);
        self
    }

    /// The later of two, by each clock.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            node_since: self.node_since.max(other.node_since),
            not_before: self.not_before.max(other.not_before),
            counts_from_arrival: self.counts_from_arrival || other.counts_from_arrival,
            onset: self.onset.max(other.onset),
        }
    }

    /// A report that was delayed less shows that it began earlier.
    fn extend_back_to(&mut self, since: Timestamp) {
        let since = since.max(self.not_before);
        self.onset.since = self.onset.since.min(since);
        if !self.counts_from_arrival {
            self.onset.counts_from = self.onset.counts_from.min(since);
        }
    }
}

/// One report of a condition, with the ages that only the node's own clock can measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionReport {
    /// The report's number within its boot.
    pub seq: u64,
    /// The health that it reports.
    pub health: Health,
    /// Since when, by the node's clock.
    pub node_since: Timestamp,
    /// When the report was written, by the node's clock.
    pub node_at: Timestamp,
    /// The node's clock.
    pub clock: NodeClock,
    /// For how long it had been healthy before, where the agent knows.
    pub healthy_before: Option<SignedDuration>,
    /// When it reached us, by our clock.
    pub arrival: Timestamp,
    /// When this boot of the node was first seen, by our clock: nothing that it reports began before.
    pub seen_since: Timestamp,
}

impl ConditionReport {
    /// The start by our clock. A start after the report itself is a wrong clock's: it has no age.
    fn since(&self) -> Timestamp {
        self.start_of(self.node_since)
    }

    fn start_of(&self, node_since: Timestamp) -> Timestamp {
        let age = self.node_at.duration_since(node_since).max(SignedDuration::ZERO);
        self.arrival.checked_sub(age).unwrap_or(self.arrival).max(self.seen_since.min(self.arrival))
    }

    /// The onset of what this report says began then.
    pub fn onset_of(&self, node_since: Timestamp) -> NodeOnset {
        let since = self.start_of(node_since);
        let not_before = self.seen_since.min(self.arrival);
        NodeOnset {
            node_since,
            not_before,
            counts_from_arrival: false,
            onset: Onset { since, counts_from: since, arrived: self.arrival },
        }
    }

    fn written(&self) -> NodeTime {
        NodeTime::of_report(self.seq, self.node_at, self.arrival, &self.clock)
    }

    /// Its number, where its agent does not know what was before.
    fn reported_by(&self) -> Option<u64> {
        self.healthy_before.is_none().then_some(self.seq)
    }
}

/// Whether a report is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recency {
    /// The newest so far.
    Newest,
    /// Older than what is known, or the same again.
    Stale,
}

impl LatestReport {
    /// The first report of a condition.
    pub fn first(reported: ConditionReport) -> Self {
        let since = reported.since();
        let episode = reported.health.is_bad().then(|| reported.onset_of(reported.node_since));
        let reported_by = episode.and(reported.reported_by());
        Self {
            place: ReportPlace::first(reported.seq, reported.written()),
            arrived: reported.arrival,
            health: reported.health,
            node_since: reported.node_since,
            since,
            episode,
            reported_by,
            fault_seq: reported.seq,
        }
    }

    /// Applies another report of the same boot.
    pub fn note(&mut self, reported: ConditionReport, hold: SignedDuration) -> Recency {
        let (since, written) = (reported.since(), reported.written());
        // A late or repeated report may still have been delayed less than the ones before it. The age in one from the future
        // is made up.
        if reported.node_since == self.node_since && written.is_plausible() {
            self.since = self.since.min(since);
        }
        if let Some(episode) = self.episode.as_mut().filter(|known| known.node_since == reported.node_since)
            && written.is_plausible()
        {
            episode.extend_back_to(since);
        }
        if !self.place.is_before(reported.seq, written) {
            if reported.health.is_bad()
                && self.reported_by == reported.seq.checked_add(1)
                && let Some(episode) =
                    self.episode.as_mut().filter(|known| reported.node_since < known.node_since)
            {
                episode.node_since = reported.node_since;
                episode.extend_back_to(since);
                self.reported_by = reported.reported_by();
                self.fault_seq = self.fault_seq.min(reported.seq);
            }
            return Recency::Stale;
        }
        if reported.health.is_bad()
            && self.episode.is_none_or(|episode| self.has_recovered(&reported, episode, hold))
        {
            self.episode = Some(self.onset_after(&reported));
            self.reported_by = reported.reported_by();
            self.fault_seq = reported.seq;
        } else if let Some(episode) = self
            .episode
            .as_mut()
            .filter(|known| reported.health.is_bad() && reported.node_since < known.node_since)
        {
            // The node's clock has stepped back: from now on it dates the same fault so. Or its start is made up, and hastens
            // nothing.
            episode.node_since = reported.node_since;
            (episode.not_before, episode.counts_from_arrival) = (episode.onset.since, true);
        }
        // An agent that lost its state starts from a low number again.
        self.fault_seq = self.fault_seq.min(reported.seq);
        if reported.node_since != self.node_since {
            self.since = since;
        }
        self.place = self.place.next(reported.seq, written);
        (self.health, self.node_since) = (reported.health, reported.node_since);
        self.arrived = self.arrived.max(reported.arrival);
        Recency::Newest
    }

    /// The onset of a fault that is reported after this report. Where this one was healthy the fault began after its
    /// arrival, whatever the node claims, and its grace period counts from its own.
    fn onset_after(&self, reported: &ConditionReport) -> NodeOnset {
        let mut began = reported.onset_of(reported.node_since);
        if self.health == Health::Healthy {
            began.not_before = began.not_before.max(self.arrived.min(reported.arrival));
            began.onset.since = began.onset.since.max(began.not_before);
            began.counts_from_arrival = true;
            began.onset.counts_from = reported.arrival;
        } else if let Some(known) = self.episode {
            // A clock that steps makes a known fault look like a new one, which must not be due any earlier.
            began.not_before = began.not_before.max(known.onset.counts_from);
            if began.onset.counts_from < known.onset.counts_from {
                began.counts_from_arrival = true;
                began.onset.counts_from = known.onset.counts_from;
            }
        }
        began
    }

    /// Whether the fault that is reported now is a new one: only where a recovery held in between. A later start alone
    /// proves none: an agent that lost its memory has one too.
    fn has_recovered(&self, reported: &ConditionReport, episode: NodeOnset, hold: SignedDuration) -> bool {
        if reported.node_since <= episode.node_since {
            // A fault that began before the one that is known: the node's clock has stepped back. Ours measures the recovery,
            // and where that was not reported, whether the fault began after all that was.
            let held = match self.health {
                Health::Healthy => reported.arrival.duration_since(self.since) >= hold,
                _ => {
                    reported.since() > self.arrived
                        && reported.healthy_before.is_some_and(|healthy| healthy >= hold)
                }
            };
            return reported.node_since < episode.node_since && held;
        }
        // Two faults with a recovery between them begin further apart than that: by our clock it is the same one, and the
        // node's clock has stepped ahead of ours. Unless the first report came late: then the healthy time fits in between.
        let apart = reported.since().duration_since(episode.onset.since).abs();
        let between = reported.node_since.duration_since(episode.node_since);
        let fits = reported.node_at.duration_since(reported.arrival) < hold
            && reported.healthy_before.is_some_and(|healthy| healthy <= between);
        if self.health.is_bad() && apart < hold && !fits {
            return false;
        }
        match reported.healthy_before {
            Some(sound) => sound >= hold,
            None => {
                self.health == Health::Healthy && reported.node_since.duration_since(self.node_since) >= hold
            }
        }
    }

    /// Whether a report of this number, written then by the node's clock, can be newer.
    pub fn can_be_before(&self, seq: u64, node_at: Timestamp) -> bool {
        self.place.can_be_before(seq, node_at)
    }

    /// Whether a report is one whose number was made up.
    pub fn is_made_up(&self, seq: u64, node_at: Timestamp) -> bool {
        self.place.is_made_up(seq, node_at)
    }

    /// When the first report of its latest fault arrived.
    pub fn fault_arrived(&self) -> Option<Timestamp> {
        self.episode.map(|episode| episode.onset.arrived)
    }

    /// Its number within its boot.
    pub fn seq(&self) -> u64 {
        self.place.seq()
    }

    /// The latest health.
    pub fn health(&self) -> Health {
        self.health
    }

    /// The onset of the present fault, if a report that was applied is of it and not of an earlier one.
    pub fn episode_of(&self, reported: &ConditionReport) -> Option<NodeOnset> {
        self.episode.filter(|episode| {
            reported.node_since == episode.node_since
                || reported.node_since > episode.node_since && reported.seq >= self.fault_seq
        })
    }

    /// The present state.
    pub fn read(&self) -> ClockReading {
        ClockReading {
            health: self.health,
            since: self.since,
            episode: self.episode.map(|episode| episode.onset),
        }
    }
}

#[cfg(test)]
mod tests;
