//! Counts occurrences of an event, or how often a condition became bad.
//!
//! An agent reports an event as a series with a start and a rising count. Series are identified by their start, so that
//! repeated and reordered reports count once.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::notice::Notice;
use crate::{
    clock::Onset,
    condition::ConditionType,
    report::{Finding, Report},
    timestamp,
};

const MAX_SERIES: usize = 16;
/// An hour of heartbeats.
const MAX_STEPS: usize = 12;
/// More than a node can count. Sums of this many fit in 64 bits.
const MAX_COUNT: u64 = 1 << 32;

/// The occurrences of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounter {
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// Its reason, as in the catalogue.
    pub reason: Box<str>,
    /// The message of the newest series.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub message: Box<str>,
    /// It counts how often the condition became bad for this reason, not an event.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaps: bool,
    #[serde(rename = "spells")]
    series: Vec<Series>,
}

/// One series of an event, as the agent counts it. Its start on the node's clock identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    #[serde(with = "timestamp")]
    node_since: Timestamp,
    #[serde(with = "timestamp")]
    first: Timestamp,
    #[serde(with = "timestamp")]
    last: Timestamp,
    /// How far it had counted when, in the order of arrival: what a report adds happened after the report before it had
    /// arrived, whatever the node claims.
    steps: Vec<Counted>,
}

/// How far a series had counted when a report arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    count: u64,
    #[serde(with = "timestamp")]
    arrived: Timestamp,
}

/// An occurrence, or so many at the same time.
pub(super) struct Occurrence {
    at: Timestamp,
    arrived: Timestamp,
    weight: u64,
}

impl Occurrence {
    /// One occurrence, and when its report arrived.
    pub(super) fn once(at: Timestamp, arrived: Timestamp) -> Self {
        Self { at, arrived, weight: 1 }
    }
}

/// Enough occurrences within a window that has not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Since when that has been so without a gap.
    pub(super) onset: Onset,
    /// Until when it is so, if nothing more occurs.
    pub(super) until: Timestamp,
}

impl EventCounter {
    pub(super) fn new(condition: ConditionType, reason: &str, flaps: bool) -> Self {
        Self { condition, reason: reason.into(), message: Box::default(), flaps, series: Vec::new() }
    }

    /// Applies a finding of a node whose boot was first seen then. Returns true if it begins a new series.
    pub(super) fn note(
        &mut self,
        report: &Report<'_>,
        finding: &Finding<'_>,
        arrival: Timestamp,
        seen_since: Timestamp,
    ) -> bool {
        let ago = |node: Timestamp| super::agent::ago(arrival, report.at, node).max(seen_since.min(arrival));
        let (first, last) = (ago(finding.since), ago(finding.last));
        let counted = Counted { count: finding.count.clamp(1, MAX_COUNT), arrived: arrival };
        if let Some(known) = self.series.iter_mut().find(|known| known.node_since == finding.since) {
            known.first = known.first.min(first);
            if counted.count > known.count() {
                known.last = last;
                known.steps.push(counted);
                if known.steps.len() > MAX_STEPS {
                    known.steps.remove(0);
                }
            }
            return false;
        }
        if self.series.last().is_none_or(|newest| newest.first <= first) {
            self.message = (*finding.message).into();
        }
        let index = self.series.partition_point(|known| known.node_since < finding.since);
        self.series.insert(index, Series { node_since: finding.since, first, last, steps: vec![counted] });
        if self.series.len() > MAX_SERIES {
            self.series.remove(0);
        }
        true
    }

    /// Counts a notice of AWS once, which arrived then. Returns true if it is new.
    pub(super) fn note_notice(&mut self, notice: &Notice, arrived: Timestamp) -> bool {
        let key = notice.effective;
        if self.series.iter().any(|known| known.node_since.as_millisecond() == key.as_millisecond()) {
            return false;
        }
        self.message = notice.message.as_str().into();
        let at = notice.at.min(arrived);
        let steps = vec![Counted { count: 1, arrived }];
        let index = self.series.partition_point(|known| known.node_since < key);
        self.series.insert(index, Series { node_since: key, first: at, last: at, steps });
        if self.series.len() > MAX_SERIES {
            self.series.remove(0);
        }
        true
    }

    /// How large it is at most in a stored case.
    pub(super) fn bytes(&self) -> usize {
        let steps: usize = self.series.iter().map(|known| known.steps.len()).sum();
        // A quote or a backslash takes two bytes.
        128 + self.reason.len() + 2 * self.message.len() + 160 * self.series.len() + 64 * steps
    }

    /// The first and the last occurrence, by our clock, and their number. None before the first.
    pub fn span(&self) -> Option<(Timestamp, Timestamp, u64)> {
        let first = self.series.iter().map(|known| known.first).min()?;
        let last = self.series.iter().map(|known| known.last).max()?;
        Some((first, last, self.series.iter().map(Series::count).sum()))
    }

    /// If `count` occurrences lie within a `window` that has not passed at `now`: since when that has been so without a
    /// gap, and when the report arrived that shows it.
    pub fn reached(&self, count: u64, window: SignedDuration, now: Timestamp) -> Option<Onset> {
        reached(self.occurrences(Timestamp::MIN), count, window, now).map(|reached| reached.onset)
    }

    /// Its occurrences since then.
    pub(super) fn occurrences(&self, since: Timestamp) -> Vec<Occurrence> {
        let all = self.series.iter().flat_map(Series::occurrences);
        all.filter(|occurrence| occurrence.at >= since).collect()
    }
}

/// If `count` of these occurrences lie within a `window` that has not passed at `now`: since when, and until when.
pub(super) fn reached(
    mut occurrences: Vec<Occurrence>,
    count: u64,
    window: SignedDuration,
    now: Timestamp,
) -> Option<Reached> {
    occurrences.retain(|occurrence| occurrence.at <= now);
    let mut reached: Option<Reached> = None;
    let (mut oldest, mut sum) = (0, 0);
    for occurrence in &occurrences {
        sum += occurrence.weight;
        while occurrence.at.duration_since(occurrences[oldest].at) > window {
            sum -= occurrences[oldest].weight;
            oldest += 1;
        }
        if sum < count {
            continue;
        }
        // It stays reached until fewer than `count` occurrences are left in the window.
        let (mut left, mut leaving) = (sum, oldest);
        while left - occurrences[leaving].weight >= count {
            left -= occurrences[leaving].weight;
            leaving += 1;
        }
        let until = occurrences[leaving].at.checked_add(window).unwrap_or(Timestamp::MAX);
        let Occurrence { at, arrived, .. } = *occurrence;
        reached = match reached {
            Some(known) if at <= known.until => Some(Reached { until: known.until.max(until), ..known }),
            _ => Some(Reached { onset: Onset { since: at, counts_from: at.max(arrived), arrived }, until }),
        };
    }
    reached.filter(|reached| now <= reached.until)
}

impl Series {
    fn count(&self) -> u64 {
        self.steps.last().map_or(0, |counted| counted.count)
    }

    /// Its occurrences. Those that a report adds are taken as evenly spaced between the report before it and the last one:
    /// at most 32 points each.
    fn occurrences(&self) -> impl Iterator<Item = Occurrence> {
        let newest = self.steps.len().saturating_sub(1);
        self.steps.iter().enumerate().flat_map(move |(n, counted)| {
            let before = n.checked_sub(1).map(|before| self.steps[before]);
            let first = before.map_or(self.first, |before| before.arrived.max(self.first));
            let last = if n == newest { self.last } else { self.last.min(counted.arrived) }.max(first);
            let count = counted.count - before.map_or(0, |before| before.count);
            let points = count.clamp(1, 32);
            let step = last.duration_since(first).as_millis() / i128::from(points.max(2) - 1);
            let step = i64::try_from(step).unwrap_or(0);
            (0..points).map(move |n| Occurrence {
                at: first + SignedDuration::from_millis(step * n as i64),
                arrived: counted.arrived,
                weight: count * (n + 1) / points - count * n / points,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
    }

    fn counter(series: &[(i64, i64, u64)]) -> EventCounter {
        let mut counter = EventCounter::new(ConditionType::KernelReady, "OOMKilling", false);
        for (first, last, count) in series {
            counter.series.push(Series {
                node_since: at(*first),
                first: at(*first),
                last: at(*last),
                steps: vec![Counted { count: *count, arrived: at(*last) }],
            });
        }
        counter
    }

    #[test]
    fn a_promotion_begins_when_its_count_is_reached_and_lasts_while_it_is() {
        let five_minutes = SignedDuration::from_mins(5);
        let reached = |series: &[(i64, i64, u64)], now| {
            counter(series).reached(3, five_minutes, at(now)).map(|onset| onset.since)
        };
        assert_eq!(reached(&[(0, 0, 2)], 0), None);
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 60), Some(at(60)));
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 300), Some(at(60)));
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 301), None, "the first two have left the window");
        assert_eq!(
            reached(&[(0, 0, 2), (301, 301, 1)], 301),
            None,
            "never within five minutes of each other"
        );
        assert_eq!(reached(&[(0, 3_100, 32)], 3_100), Some(at(200)), "a steady series began long ago");
        assert_eq!(reached(&[(0, 0, 1_000)], 10), Some(at(0)));
    }

    #[test]
    fn occurrences_after_now_are_not_counted() {
        let counter = counter(&[(0, 3_100, 32), (10, 10, 1)]);
        assert_eq!(counter.reached(3, SignedDuration::from_mins(5), at(10)), None);
    }

    #[test]
    fn counts_and_times_at_their_limits_do_not_overflow() {
        let line = r#"{"v":1,"kind":"event","cluster":"prod","node":"n","instanceId":"i-08736224042c4ee75","bootId":"3c2f687e-27bd-4642-bee9-8503552bada0","seq":1,"at":"9999-12-30T21:59:59Z","condition":"KernelReady","findings":[{"reason":"OOMKilling","severity":"Event","since":"-009999-01-02T01:59:59Z","last":"9999-12-30T21:59:59Z","count":18446744073709551615}],"agent":"0.1.0"}"#;
        let report = Report::decode(line).expect("a report");
        let crate::report::Body::Event { findings, .. } = &report.body else { panic!("an event") };
        let mut counter = EventCounter::new(ConditionType::KernelReady, "OOMKilling", false);
        for seconds in [0, 1] {
            // A new series each time.
            let finding = Finding {
                since: findings[0].since + SignedDuration::from_secs(seconds),
                ..findings[0].clone()
            };
            assert!(counter.note(&report, &finding, at(0), at(0)));
        }
        assert_eq!(counter.span(), Some((at(0), at(0), 2 * MAX_COUNT)));
        assert_eq!(counter.reached(u64::MAX, SignedDuration::from_mins(5), at(0)), None);
        assert_eq!(counter.reached(1, SignedDuration::from_mins(5), at(0)), Some(Onset::at(at(0))));
    }

    #[test]
    fn what_a_report_adds_happened_after_the_report_before_it() {
        let line = |seq: u64, at: &str, count: u64| {
            format!(
                r#"{{"v":1,"kind":"event","cluster":"prod","node":"n","instanceId":"i-08736224042c4ee75","bootId":"3c2f687e-27bd-4642-bee9-8503552bada0","seq":{seq},"at":"{at}","condition":"KernelReady","findings":[{{"reason":"OOMKilling","severity":"Event","since":"2026-09-21T10:00:00Z","last":"{at}","count":{count}}}],"agent":"0.1.0"}}"#
            )
        };
        let mut counter = EventCounter::new(ConditionType::KernelReady, "OOMKilling", false);
        let mut note = |line: String, arrival: i64| {
            let report = Report::decode(&line).expect("a report");
            let crate::report::Body::Event { findings, .. } = &report.body else { panic!("an event") };
            counter.note(&report, &findings[0], at(arrival), at(0));
            counter.reached(100, SignedDuration::from_mins(5), at(arrival))
        };
        assert_eq!(note(line(1, "2026-09-21T10:00:02Z", 1), 100), None);
        let onset = note(line(2, "2026-09-21T12:00:00Z", 1_000), 700).expect("reached");
        assert!(onset.since >= at(100), "claimed to have happened long before");
        assert_eq!((onset.counts_from, onset.arrived), (at(700), at(700)));
    }
}
