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
        NodeTime::new(self.node_at, self.arrival, &self.clock)
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
        }
    }

    /// Applies another report of the same boot.
    pub fn note(&mut self, reported: ConditionReport, hold: SignedDuration) -> Recency {
        let since = reported.since();
        // A late or repeated report may still have been delayed less than the ones before it.
        if reported.node_since == self.node_since {
            self.since = self.since.min(since);
        }
        if let Some(episode) =
            self.episode.as_mut().filter(|episode| episode.node_since == reported.node_since)
        {
            episode.extend_back_to(since);
        }
        let written = reported.written();
        if !self.place.is_before(reported.seq, written) {
            if reported.health.is_bad()
                && self.reported_by == reported.seq.checked_add(1)
                && let Some(episode) =
                    self.episode.as_mut().filter(|known| reported.node_since < known.node_since)
            {
                episode.node_since = reported.node_since;
                episode.extend_back_to(since);
                self.reported_by = reported.reported_by();
            }
            return Recency::Stale;
        }
        if reported.health.is_bad()
            && self.episode.is_none_or(|episode| self.has_recovered(&reported, episode, hold))
        {
            self.episode = Some(self.onset_after(&reported));
            self.reported_by = reported.reported_by();
        }
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
        }
        began
    }

    /// Whether the fault that is reported now is a new one: only where a recovery held in between. A later start alone
    /// proves none: an agent that lost its memory has one too.
    fn has_recovered(&self, reported: &ConditionReport, episode: NodeOnset, hold: SignedDuration) -> bool {
        if reported.node_since <= episode.node_since {
            // A fault that began before the one that is over: the node's clock has stepped back. Ours measures the recovery.
            let held = reported.arrival.duration_since(self.since) >= hold;
            return reported.node_since < episode.node_since && self.health == Health::Healthy && held;
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
        self.episode.filter(|episode| reported.node_since >= episode.node_since)
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
mod tests {
    use super::*;

    const HOLD: SignedDuration = SignedDuration::from_mins(2);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
    }

    /// Of a node that was seen long before.
    fn reported(seq: u64, health: Health, since: i64, written: i64) -> ConditionReport {
        let mut clock = NodeClock::default();
        clock.note(at(-1_000), at(-1_000));
        ConditionReport {
            seq,
            health,
            node_since: at(since),
            node_at: at(written),
            clock,
            healthy_before: None,
            arrival: at(written + 1),
            seen_since: at(-1_000_000),
        }
    }

    fn start(latest: &LatestReport) -> Option<Timestamp> {
        latest.read().episode.map(|episode| episode.since)
    }

    fn counts_from(latest: &LatestReport) -> Option<Timestamp> {
        latest.read().episode.map(|episode| episode.counts_from)
    }

    #[test]
    fn a_nodes_wrong_clock_neither_hastens_nor_delays() {
        for skew in [-86_400, 0, 3_600] {
            let report = ConditionReport { arrival: at(300), ..reported(1, Health::Bad, skew, skew + 300) };
            assert_eq!(start(&LatestReport::first(report)), Some(at(0)), "{skew}");
        }
    }

    #[test]
    fn a_start_in_the_nodes_future_has_no_age() {
        let report = ConditionReport { arrival: at(300), ..reported(1, Health::Bad, 900, 300) };
        assert_eq!(start(&LatestReport::first(report)), Some(at(300)));
    }

    #[test]
    fn an_agent_that_lost_its_memory_does_not_reset_the_clock() {
        let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
        latest.note(reported(2, Health::Bad, 600, 600), HOLD);
        assert_eq!(start(&latest), Some(at(1)));
    }

    #[test]
    fn an_agent_that_lost_its_memory_does_not_reset_the_clock_though_its_reports_cross() {
        // 3 was written before the restart, 4 after it, a second later, and 4 arrives first.
        let crossed = |before: ConditionReport, after: ConditionReport| {
            let mut latest = LatestReport::first(after);
            assert_eq!(latest.note(before, HOLD), Recency::Stale);
            start(&latest)
        };
        assert_eq!(
            crossed(reported(3, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)),
            Some(at(1))
        );
        // So late that its start, counted back from its arrival, is later than what is known.
        let late = ConditionReport { arrival: at(900), ..reported(3, Health::Bad, 0, 240) };
        assert_eq!(crossed(late, reported(4, Health::Bad, 241, 241)), Some(at(242)));
        // Another report may lie between them, and report that all was healthy.
        assert_eq!(
            crossed(reported(2, Health::Bad, 0, 240), reported(4, Health::Bad, 241, 241)),
            Some(at(242))
        );
        // It knows that all was healthy.
        let mut remembers = reported(4, Health::Bad, 241, 241);
        remembers.healthy_before = Some(SignedDuration::from_mins(2));
        assert_eq!(crossed(reported(3, Health::Bad, 0, 120), remembers), Some(at(242)));
    }

    #[test]
    fn the_least_delayed_report_has_the_start() {
        let late = ConditionReport { arrival: at(500), ..reported(1, Health::Bad, 0, 0) };
        let mut latest = LatestReport::first(late);
        latest.note(reported(2, Health::Bad, 0, 300), HOLD);
        assert_eq!(start(&latest), Some(at(1)));
        latest.note(ConditionReport { arrival: at(2_000), ..reported(3, Health::Bad, 0, 400) }, HOLD);
        assert_eq!(start(&latest), Some(at(1)));
    }

    #[test]
    fn a_lost_recovery_is_in_the_next_report() {
        let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
        let mut again = reported(9, Health::Bad, 600, 660);
        again.healthy_before = Some(SignedDuration::from_mins(5));
        latest.note(again, HOLD);
        assert_eq!(start(&latest), Some(at(601)));
    }

    #[test]
    fn no_claim_of_a_node_that_was_healthy_shortens_its_grace_period() {
        let long_ago = -1_000_000_000;
        for (what, since, written) in [
            ("a start long ago", long_ago, 600),
            ("a report from the future", 590, 1_000_000_000),
            ("both", long_ago, 1_000_000_000),
        ] {
            let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 300));
            let lie = ConditionReport { arrival: at(601), ..reported(2, Health::Bad, since, written) };
            latest.note(lie, HOLD);
            assert_eq!(counts_from(&latest), Some(at(601)), "{what}");
            assert!(start(&latest) >= Some(at(301)), "{what}");
            // Nor does the next one of the same fault.
            latest.note(ConditionReport { seq: 3, arrival: at(700), ..lie }, HOLD);
            assert_eq!(counts_from(&latest), Some(at(601)), "{what}");
        }
    }

    #[test]
    fn nothing_began_before_the_boot_was_first_seen() {
        let first = ConditionReport { seen_since: at(0), ..reported(1, Health::Bad, -86_400, 300) };
        assert_eq!(counts_from(&LatestReport::first(first)), Some(at(0)));
    }

    #[test]
    fn a_number_or_a_time_from_the_future_silences_no_later_report() {
        let year = 31_536_000;
        for (what, forged) in [
            ("a number", reported(u64::MAX, Health::Healthy, 100, 100)),
            ("a time", ConditionReport { arrival: at(101), ..reported(2, Health::Healthy, 100, year) }),
            ("both", ConditionReport { arrival: at(101), ..reported(u64::MAX, Health::Healthy, 100, year) }),
        ] {
            let mut latest = LatestReport::first(reported(1, Health::Healthy, 0, 0));
            latest.note(forged, HOLD);
            assert_eq!(latest.note(reported(3, Health::Bad, 200, 200), HOLD), Recency::Newest, "{what}");
            assert_eq!(latest.note(reported(4, Health::Bad, 200, 500), HOLD), Recency::Newest, "{what}");
            assert_eq!(latest.health(), Health::Bad, "{what}");
        }
    }

    #[test]
    fn a_late_duplicate_of_a_clock_that_is_ahead_is_still_late() {
        let mut clock = NodeClock::default();
        let ahead = |written: i64| written + 10_000;
        let report =
            |seq: u64, health: Health, written: i64, arrived: i64, clock: NodeClock| ConditionReport {
                arrival: at(arrived),
                clock,
                ..reported(seq, health, ahead(written), ahead(written))
            };
        clock.note(at(ahead(0)), at(1));
        let mut latest = LatestReport::first(report(1, Health::Bad, 0, 1, clock));
        clock.note(at(ahead(600)), at(601));
        latest.note(report(2, Health::Healthy, 600, 601, clock), HOLD);
        clock.note(at(ahead(0)), at(10_001));
        assert_eq!(latest.note(report(1, Health::Bad, 0, 10_001, clock), HOLD), Recency::Stale);
        assert_eq!(latest.health(), Health::Healthy);
    }

    #[test]
    fn a_fault_after_a_clock_stepped_back_is_another_one() {
        let mut latest = LatestReport::first(reported(1, Health::Bad, 0, 0));
        let stepped = |seq: u64, health: Health, since: i64, arrived: i64| ConditionReport {
            arrival: at(arrived),
            ..reported(seq, health, since, since)
        };
        latest.note(stepped(2, Health::Healthy, 100, 100), HOLD);
        latest.note(stepped(3, Health::Bad, -3_000, 1_000), HOLD);
        assert_eq!(latest.read().episode.expect("a fault").counts_from, at(1_000));
    }

    #[test]
    fn a_duplicate_from_before_a_clock_stepped_back_is_still_late() {
        let hour = 3_600;
        let before = reported(1, Health::Bad, 0, 0);
        let mut latest = LatestReport::first(before);
        let mut clock = before.clock;
        clock.step_back(at(300 - hour), at(301));
        let stepped = |seq: u64, written: i64| ConditionReport {
            arrival: at(written + 1),
            clock,
            ..reported(seq, Health::Healthy, 300 - hour, written - hour)
        };
        latest.note(stepped(2, 300), HOLD);
        latest.note(stepped(3, 600), HOLD);
        // Two old reports that are delivered again, together, show no clock that goes on.
        for written in [0, 120] {
            clock.note(at(written), at(900));
            let again = ConditionReport { arrival: at(900), clock, ..reported(1, Health::Bad, 0, written) };
            assert_eq!(latest.note(again, HOLD), Recency::Stale);
        }
        assert_eq!(latest.health(), Health::Healthy);
        // The clock that goes on is believed, even if it is set right again.
        for (seq, written) in [(4, 1_200), (5, 1_500)] {
            clock.note(at(written), at(written + 1));
            latest.note(ConditionReport { clock, ..reported(seq, Health::Bad, 1_200, written) }, HOLD);
        }
        assert!(NodeTime::new(at(1_800), at(1_801), &clock).is_plausible());
        assert_eq!(latest.health(), Health::Bad);
    }
}
