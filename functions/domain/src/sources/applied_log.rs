//! The part of the audit log that reconciling has applied to the cases, so that verification need not read it again.
//!
//! A repair ends a machine, so no line that reports a healthy node may be in neither reading. CloudWatch Logs takes the
//! lines of one stream in their order. So if a stream has a line that is younger than the settling time, every line that is
//! older than the settling time can be read, too. From that follows:
//!
//! - The period ends the settling time before the reading began, and only a reading before which each audit stream had such
//!   a line extends it. Verification reads from that end on, so both together cover every line.
//! - A stream that was behind for longer than DescribeLogStreams counts it as alive is not among the streams of the period.
//!   When it is written again, its old lines may be in no reading: until reconciling knows the stream, the period is not
//!   used, and from then on a new period begins.
//! - A reading that does not begin where the period ends, or that was made with another settling time, begins a new period.
//! - A line only counts for a case that exists and has its name when the line is read. From the arrival of a fault's first
//!   report on, the case has both. The next reading begins at the latest the settling time before that arrival. So the
//!   period is used only for a fault whose first report arrived within the settling time.
//!
//! Whatever does not meet these conditions is read from the start of the fault.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::timestamp;

/// How long after the first report of a fault every reading finds its case by the name of the node.
const FOUND_BY_NAME: SignedDuration = SignedDuration::from_mins(1);

/// A period of the audit log of which every line has been applied to the cases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedLog {
    /// Its start: the first reading began there.
    #[serde(with = "timestamp")]
    from: Timestamp,
    /// Its end: the settling time before the last reading began.
    #[serde(with = "timestamp")]
    to: Timestamp,
    /// When the last reading began, by our clock.
    #[serde(with = "timestamp")]
    read_at: Timestamp,
    /// The audit streams at that time. Each had a line younger than the settling time.
    streams: BTreeSet<String>,
}

impl AppliedLog {
    /// The period of one reading of all lines since `from`, which was begun at `read_at`. Each of the streams had a line
    /// younger than the settling time before.
    pub fn of_reading(
        from: Timestamp,
        read_at: Timestamp,
        settling: SignedDuration,
        streams: BTreeSet<String>,
    ) -> Self {
        Self { from, to: read_at - settling, read_at, streams }
    }

    /// The period of this reading and of those before it, as far as there is no gap between them.
    #[must_use]
    pub fn after(self, before: Option<&Self>) -> Self {
        match before {
            Some(before)
                if self.from <= before.to
                    && self.settling() == before.settling()
                    && self.streams.is_subset(&before.streams) =>
            {
                Self { from: before.from.min(self.from), ..self }
            }
            _ => self,
        }
    }

    /// Its end: later lines are still to be read.
    pub fn to(&self) -> Timestamp {
        self.to
    }

    /// Whether a stream was known when the period was last extended.
    pub fn has_stream(&self, stream: &str) -> bool {
        self.streams.contains(stream)
    }

    /// Whether a verification that needs all lines since `since` can leave this period out. `arrived` is when the first
    /// report of the fault arrived, and `streams` are the audit streams now.
    pub fn covers(
        &self,
        since: Timestamp,
        arrived: Timestamp,
        settling: SignedDuration,
        streams: &BTreeSet<String>,
    ) -> bool {
        self.from <= since
            && since < self.to
            && self.settling() == settling
            && arrived <= self.read_at - FOUND_BY_NAME
            && arrived.duration_since(since) <= settling
            && streams.is_subset(&self.streams)
    }

    fn settling(&self) -> SignedDuration {
        self.read_at.duration_since(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLING: SignedDuration = SignedDuration::from_mins(10);

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minutes * 60).expect("a time")
    }

    fn streams(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn reading(from: i64, read_at: i64, names: &[&str]) -> AppliedLog {
        AppliedLog::of_reading(at(from), at(read_at), SETTLING, streams(names))
    }

    /// Whether lines since that minute are in a period, for a fault that was reported at that minute.
    fn covers(applied: &AppliedLog, since: i64, arrived: i64) -> bool {
        applied.covers(at(since), at(arrived), SETTLING, &streams(&["a"]))
    }

    #[test]
    fn readings_without_a_gap_are_one_period() {
        let first = reading(0, 20, &["a"]);
        assert_eq!((first.from, first.to), (at(0), at(10)));
        let second = reading(10, 25, &["a"]).after(Some(&first));
        assert_eq!((second.from, second.to, second.read_at), (at(0), at(15), at(25)));
        assert_eq!(reading(11, 25, &["a"]).after(Some(&first)).from, at(11), "a minute is missing");
    }

    #[test]
    fn a_stream_that_was_not_known_begins_a_new_period() {
        let first = reading(0, 20, &["a", "b"]);
        assert_eq!(reading(9, 25, &["a", "c"]).after(Some(&first)).from, at(9));
        // Stream b has ended. If it is written again, what it lacks may be in no reading.
        let second = reading(9, 25, &["a"]).after(Some(&first));
        assert_eq!(second.from, at(0));
        assert_eq!(reading(14, 30, &["a", "b"]).after(Some(&second)).from, at(14));
        assert!(second.covers(at(5), at(6), SETTLING, &streams(&["a"])));
        assert!(!second.covers(at(5), at(6), SETTLING, &streams(&["a", "b"])));
    }

    #[test]
    fn another_settling_time_begins_a_new_period() {
        let first = reading(0, 20, &["a"]);
        let longer = SignedDuration::from_mins(11);
        let second = AppliedLog::of_reading(at(9), at(25), longer, streams(&["a"])).after(Some(&first));
        assert_eq!(second.from, at(9));
        assert!(!second.covers(at(9), at(9), SETTLING, &streams(&["a"])));
    }

    #[test]
    fn what_is_before_the_period_is_not_covered() {
        let applied = reading(5, 30, &["a"]);
        assert!(covers(&applied, 5, 5));
        assert!(!covers(&applied, 4, 5));
        assert!(!covers(&applied, 20, 20), "nothing to leave out");
    }

    #[test]
    fn lines_that_were_read_before_the_fault_was_known_are_not_covered() {
        let applied = reading(0, 30, &["a"]);
        assert!(covers(&applied, 5, 15));
        assert!(!covers(&applied, 5, 16), "its first report was later than the settling time");
        let covers_late = |arrived| applied.covers(at(19), at(arrived), SETTLING, &streams(&["a"]));
        assert!(covers_late(29));
        assert!(!covers_late(30), "nothing has been read since its first report");
    }

    #[test]
    fn it_is_stored_and_read_again() {
        let applied = reading(0, 30, &["a", "b"]);
        let text = serde_json::to_string(&applied).expect("JSON");
        assert_eq!(serde_json::from_str::<AppliedLog>(&text).expect("an applied log"), applied);
    }
}
