//! Builds batches within the limits of PutLogEvents:
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>.
//!
//! Records older than 14 days or than the log group's retention are sent as well. Only the service knows its clock
//! and settings, and it rejects such events one by one. A node with a wrong clock would otherwise drop valid records.

use jiff::{SignedDuration, Timestamp};

use crate::outbox::SpoolRecord;

/// The maximum number of events in a batch.
pub const MAX_EVENTS: usize = 10_000;
/// The maximum size of a batch: its events' bytes, and [`EVENT_BYTES`] for each event.
pub const MAX_BYTES: usize = 1_048_576;
/// The size of an event beyond its own bytes.
pub const EVENT_BYTES: usize = 26;
/// The maximum time span of a batch; the service rejects a longer one as a whole.
pub const MAX_SPAN: SignedDuration = SignedDuration::from_hours(24);

/// The events of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Sorted by time.
    pub events: Vec<BatchEvent<'a>>,
    /// The number of the last record in the batch, which also contains all records before it.
    pub upto: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEvent<'a> {
    /// Milliseconds since 1970.
    pub at: i64,
    pub text: &'a str,
}

/// Builds a batch of the first records; `None` if there are none.
///
/// A time in the future was written before the clock was set back, and a time before 1970 is invalid: both are moved
/// into the accepted range. The report itself contains the original time.
pub fn form(records: &[SpoolRecord], now: Timestamp) -> Option<Batch<'_>> {
    let now = now.as_millisecond().max(0);
    let time = |record: &SpoolRecord| record.at.as_millisecond().clamp(0, now);
    let first = records.first()?;
    let (mut earliest, mut latest, mut bytes, mut number) = (time(first), time(first), 0, 0);
    for record in records.iter().take(MAX_EVENTS) {
        let at = time(record);
        bytes += record.text.len() + EVENT_BYTES;
        let span = latest.max(at) - earliest.min(at);
        let fits = bytes <= MAX_BYTES && span <= i64::try_from(MAX_SPAN.as_millis()).unwrap_or(i64::MAX);
        // An outbox has no record that exceeds a batch alone. If there were one, it would be sent and rejected, and
        // not block the others.
        if number > 0 && !fits {
            break;
        }
        (earliest, latest, number) = (earliest.min(at), latest.max(at), number + 1);
    }
    let taken = &records[..number];
    let mut events: Vec<BatchEvent<'_>> =
        taken.iter().map(|record| BatchEvent { at: time(record), text: &record.text }).collect();
    events.sort_by_key(|event| event.at);
    Some(Batch { events, upto: taken.last().map_or(first.number, |record| record.number) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outbox::RecordClass;

    const NOW: i64 = 1_790_000_000_000;

    fn record(number: u64, at: i64, length: usize) -> SpoolRecord {
        let at = Timestamp::from_millisecond(at).expect("a time");
        SpoolRecord { number, class: RecordClass::Change, at, text: "x".repeat(length) }
    }

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW).expect("a time")
    }

    #[test]
    fn each_limit_is_used_up_and_not_passed() {
        let hour = 3_600_000;
        for (records, expected) in [
            ((0..10_001).map(|n| record(n, NOW, 1)).collect::<Vec<_>>(), 10_000),
            ((0..300).map(|n| record(n, NOW, 4_096 - 26)).collect(), 256),
            ((0..300).map(|n| record(n, NOW, 4_096 - 25)).collect(), 255),
            (vec![record(0, NOW - 24 * hour, 1), record(1, NOW, 1)], 2),
            (vec![record(0, NOW - 24 * hour - 1, 1), record(1, NOW, 1)], 1),
            (vec![record(0, NOW, 1), record(1, NOW - 24 * hour - 1, 1)], 1),
            (vec![record(0, NOW, 2 * MAX_BYTES), record(1, NOW, 1)], 1),
        ] {
            let batch = form(&records, now()).expect("a batch");
            assert_eq!((batch.events.len(), batch.upto), (expected, expected as u64 - 1));
        }
        assert_eq!(form(&[], now()), None);
    }

    #[test]
    fn events_stand_in_the_order_of_their_times() {
        let records = [record(1, NOW, 1), record(2, NOW - 5, 2), record(3, NOW, 3), record(4, NOW - 5, 4)];
        let batch = form(&records, now()).expect("a batch");
        let lengths: Vec<usize> = batch.events.iter().map(|event| event.text.len()).collect();
        assert_eq!(lengths, [2, 4, 1, 3], "of one time, in the order in which they were written");
    }

    #[test]
    fn times_that_the_service_never_accepts_are_moved() {
        let records = [record(1, NOW + 7_200_001, 1), record(2, NOW - 1, 2)];
        let batch = form(&records, now()).expect("a batch");
        assert_eq!(batch.events.iter().map(|event| event.at).collect::<Vec<_>>(), [NOW - 1, NOW]);
        assert_eq!(form(&[record(1, -5, 1)], now()).expect("a batch").events[0].at, 0);
    }

    proptest! {
        #[test]
        fn any_records_go_out_once_and_in_batches_within_all_limits(
            records in prop::collection::vec((-200_000_000i64..20_000_000, 0usize..30_000), 1..300)
        ) {
            let records: Vec<SpoolRecord> = records
                .iter()
                .enumerate()
                .map(|(number, (at, length))| record(number as u64, NOW + at, *length))
                .collect();
            let mut left = &records[..];
            let mut sent = 0;
            while let Some(batch) = form(left, now()) {
                let size: usize = batch.events.iter().map(|event| event.text.len() + 26).sum();
                prop_assert!(size <= 1_048_576 && batch.events.len() <= 10_000);
                prop_assert!(batch.events.is_sorted_by_key(|event| event.at));
                let (first, last) = (batch.events[0].at, batch.events[batch.events.len() - 1].at);
                prop_assert!(last - first <= 86_400_000 && last <= NOW);
                sent += batch.events.len();
                prop_assert_eq!(batch.upto, sent as u64 - 1);
                left = &records[sent..];
            }
            prop_assert_eq!(sent, records.len());
        }
    }
}
