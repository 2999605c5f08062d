//! A node's clock and the numbers of its reports: which of two reports is the newer one, whatever a node claims.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::timestamp;

/// A report written later than it arrived, by more than this, comes from a clock that is ahead, or is made up.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// Two reports written this far apart, that arrived as far apart, show a clock.
const STEP: SignedDuration = SignedDuration::from_mins(1);

/// A time of the node's clock, and whether that clock was ahead of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTime {
    #[serde(with = "timestamp")]
    at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    from_future: bool,
}

/// How far a node's clock is ahead of ours. One that is always wrong by as much makes up nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClock {
    /// Negative for a clock that was seen to step back behind ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead_seconds: Option<i64>,
    /// A report that was further ahead, and by how much. The next one shows whether the clock has stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    further: Option<(Timestamp, i64)>,
    /// The number of the first report after the clock stepped back: the times of those before it are another clock's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stepped_at: Option<u64>,
    /// The newest number before that, and when it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest_before: Option<(u64, Timestamp)>,
}

impl NodeClock {
    /// Notes a report of the present boot that was written and arrived then. What was known before the clock stepped back shows
    /// nothing about it, at whatever pace it is delivered again.
    pub fn note_report(&mut self, seq: u64, at: Timestamp, arrived: Timestamp) {
        if self.newest_before.is_none_or(|(newest, written)| seq > newest || at > written) {
            self.note(at, arrived);
        }
    }

    /// Notes a report that was written and arrived then.
    pub fn note(&mut self, at: Timestamp, arrived: Timestamp) {
        let ahead = at.duration_since(arrived).as_secs();
        let Some(known) = self.ahead_seconds else {
            // The first report can be late: that makes no clock one that is behind.
            self.ahead_seconds = Some(ahead.max(0));
            return;
        };
        if ahead - known <= CLOCK_TOLERANCE.as_secs() {
            return;
        }
        // A clock that has stepped goes on from there, as ours does. What is delivered twice, or late and in a batch, does
        // not.
        let goes_on = self.further.is_some_and(|(before, further)| {
            at.duration_since(before) >= STEP && (ahead - further).abs() <= STEP.as_secs() / 2
        });
        if goes_on {
            *self = Self { ahead_seconds: Some(ahead), ..Self::default() };
        } else {
            self.further = Some((at, ahead));
        }
    }

    /// Each boot numbers its reports from the start.
    pub fn begin_boot(&mut self) {
        (self.stepped_at, self.newest_before) = (None, None);
    }

    /// Notes a report that was written before one of a lower number: the clock has stepped back, or a time was made up.
    /// What was written before the step is from the future of that clock.
    ///
    /// Where that is by little, the times before and after can still be compared: a made-up number must not make the reports
    /// that follow it look like those before a step.
    pub fn step_back(
        &mut self,
        (newest, before): (u64, NodeTime),
        seq: u64,
        at: Timestamp,
        arrived: Timestamp,
    ) {
        let ahead_seconds = Some(at.duration_since(arrived).as_secs());
        let far = before.at.duration_since(at) > CLOCK_TOLERANCE;
        let (stepped_at, newest_before) = (far.then_some(seq), far.then_some((newest, before.at)));
        *self = Self { ahead_seconds, further: None, stepped_at, newest_before };
    }

    fn is_ahead_of(&self, at: Timestamp, arrived: Timestamp) -> bool {
        let ahead = SignedDuration::from_secs(self.ahead_seconds.unwrap_or(0));
        at.duration_since(arrived) > ahead + CLOCK_TOLERANCE
    }
}

impl NodeTime {
    /// A time that a node with this clock gave in a report that arrived then.
    pub fn new(at: Timestamp, arrived: Timestamp, clock: &NodeClock) -> Self {
        Self { at, from_future: clock.is_ahead_of(at, arrived) }
    }

    /// The same of a report of the present boot, whose number shows whether it was written before the clock stepped back.
    pub fn of_report(seq: u64, at: Timestamp, arrived: Timestamp, clock: &NodeClock) -> Self {
        let before_step = clock.stepped_at.is_some_and(|stepped| seq < stepped);
        Self { at, from_future: before_step || clock.is_ahead_of(at, arrived) }
    }

    /// Whether the report of this time was written after the one of the other. A time from the future is after no other
    /// one: it would silence what is reported later.
    pub fn is_after(self, other: Self) -> bool {
        match (self.from_future, other.from_future) {
            (false, true) => true,
            (true, false) => false,
            _ => self.at > other.at,
        }
    }

    /// Whether the clock showed an earlier time than the other, plausible or not.
    pub fn reads_earlier_than(self, other: Self) -> bool {
        self.at < other.at
    }

    /// Whether the node's clock was not ahead.
    pub fn is_plausible(self) -> bool {
        !self.from_future
    }
}

/// The place of a report among those of one boot. Its number gives it, but a number or a time from the future must not
/// silence the reports that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportPlace {
    /// The report's number within its boot.
    seq: u64,
    /// When it was written.
    written: NodeTime,
    /// The number of the newest report before the one from the future, if this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq_before: Option<u64>,
    /// The report of a higher number than those that follow it: an agent's numbers only rise, so it was made up. Delivered
    /// or read again, it is no news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_up: Option<MadeUp>,
}

/// A report whose number was made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeUp {
    seq: u64,
    written: NodeTime,
}

impl MadeUp {
    /// A report of its number or a higher one was made up, too, if it was written by then. A time from the
    /// future proves nothing about other reports: it would silence them.
    fn covers(self, seq: u64, node_at: Timestamp) -> bool {
        if self.written.from_future {
            seq == self.seq && node_at == self.written.at
        } else {
            seq >= self.seq && node_at <= self.written.at
        }
    }
}

impl ReportPlace {
    /// The place of the first report.
    pub fn first(seq: u64, written: NodeTime) -> Self {
        Self { seq, written, seq_before: None, made_up: None }
    }

    /// The place of the report that follows.
    #[must_use]
    pub fn next(self, seq: u64, written: NodeTime) -> Self {
        let seq_before = match (written.from_future, self.written.from_future) {
            (true, false) => Some(self.seq),
            (true, true) => self.seq_before,
            (false, _) => None,
        };
        let made_up = if seq < self.seq && !written.from_future {
            Some(MadeUp { seq: self.seq, written: self.written })
        } else {
            self.made_up
        };
        Self { seq, written, seq_before, made_up }
    }

    /// Whether a report is one that was made up, or as old as that.
    pub fn is_made_up(self, seq: u64, node_at: Timestamp) -> bool {
        self.made_up.is_some_and(|known| known.covers(seq, node_at))
    }

    /// Whether another report is newer: by its number, or, where the number is lower, because it was written later.
    pub fn is_before(self, seq: u64, written: NodeTime) -> bool {
        !self.is_made_up(seq, written.at)
            && (seq > self.seq
                || written.is_after(self.written) && self.seq_before.is_none_or(|before| seq > before))
    }

    /// Whether another report can be newer, before it is known when it arrived and so whether its time is plausible.
    pub fn can_be_before(self, seq: u64, node_at: Timestamp) -> bool {
        !self.is_made_up(seq, node_at)
            && (seq > self.seq
                || node_at > self.written.at && self.seq_before.is_none_or(|before| seq > before)
                || self.written.from_future
                    && self.seq_before.is_some_and(|before| seq > before)
                    && seq < self.seq)
    }

    /// The report's number within its boot.
    pub fn seq(self) -> u64 {
        self.seq
    }
}
