//! Counts events by their spells, so that the same report counts once in whatever order it comes.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    condition::ConditionType,
    report::{Finding, Report},
    timestamp,
};

const MAX_SPELLS: usize = 16;
/// More than any node can tell of: sums and shares of so many fit in 64 bits.
const MAX_COUNT: u64 = 1 << 32;

/// How often an event was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounter {
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// Its reason.
    pub reason: Box<str>,
    /// What was seen last.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub message: Box<str>,
    spells: Vec<Spell>,
}

/// One run of an event, named by its start on the node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spell {
    #[serde(with = "timestamp")]
    node_since: Timestamp,
    #[serde(with = "timestamp")]
    first: Timestamp,
    #[serde(with = "timestamp")]
    last: Timestamp,
    count: u64,
}

impl EventCounter {
    pub(super) fn new(condition: ConditionType, reason: &str) -> Self {
        Self { condition, reason: reason.into(), message: Box::default(), spells: Vec::new() }
    }

    /// Takes a finding in; true if it begins a spell.
    pub(super) fn note(&mut self, report: &Report<'_>, finding: &Finding<'_>, arrival: Timestamp) -> bool {
        let ago = |node: Timestamp| super::agent::ago(arrival, report.at, node);
        let (first, last) = (ago(finding.since), ago(finding.last));
        let count = finding.count.clamp(1, MAX_COUNT);
        if let Some(spell) = self.spells.iter_mut().find(|spell| spell.node_since == finding.since) {
            spell.first = spell.first.min(first);
            if count > spell.count {
                (spell.count, spell.last) = (count, last);
            }
            return false;
        }
        if self.spells.last().is_none_or(|newest| newest.first <= first) {
            self.message = (*finding.message).into();
        }
        let place = self.spells.partition_point(|spell| spell.node_since < finding.since);
        self.spells.insert(place, Spell { node_since: finding.since, first, last, count });
        if self.spells.len() > MAX_SPELLS {
            self.spells.remove(0);
        }
        true
    }

    /// First and last sight, and how often.
    pub fn span(&self) -> Option<(Timestamp, Timestamp, u64)> {
        let first = self.spells.iter().map(|spell| spell.first).min()?;
        let last = self.spells.iter().map(|spell| spell.last).max()?;
        Some((first, last, self.spells.iter().map(|spell| spell.count).sum()))
    }

    /// If the event now comes at least so often within any such window: since when it has.
    pub fn reached(&self, count: u64, window: SignedDuration, now: Timestamp) -> Option<Timestamp> {
        let until_now = |(at, _): &(Timestamp, u64)| *at <= now;
        let stashed_events: Vec<_> =
            self.spells.iter().flat_map(Spell::stashed_events).filter(until_now).collect();
        let mut reached: Option<(Timestamp, Timestamp)> = None;
        let (mut oldest, mut sum) = (0, 0);
        for (at, weight) in &stashed_events {
            sum += weight;
            while at.duration_since(stashed_events[oldest].0) > window {
                sum -= stashed_events[oldest].1;
                oldest += 1;
            }
            if sum < count {
                continue;
            }
            // It stays reached until so many have left the window that too few are left.
            let (mut left, mut leaving) = (sum, oldest);
            while left - stashed_events[leaving].1 >= count {
                left -= stashed_events[leaving].1;
                leaving += 1;
            }
            let until = stashed_events[leaving].0.checked_add(window).unwrap_or(Timestamp::MAX);
            reached = match reached {
                Some((start, end)) if *at <= end => Some((start, end.max(until))),
                _ => Some((*at, until)),
            };
        }
        reached.filter(|(_, end)| now <= *end).map(|(start, _)| start)
    }
}

impl Spell {
    /// The spell's sightings, taken to be evenly spread; at most 32, each with its weight.
    fn stashed_events(&self) -> impl Iterator<Item = (Timestamp, u64)> {
        let points = self.count.clamp(1, 32);
        let step = self.last.duration_since(self.first).as_millis() / i128::from(points.max(2) - 1);
        let step = i64::try_from(step).unwrap_or(0);
        (0..points).map(move |n| {
            let at = self.first + SignedDuration::from_millis(step * n as i64);
            (at, self.count * (n + 1) / points - self.count * n / points)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
    }

    fn counter(spells: &[(i64, i64, u64)]) -> EventCounter {
        let mut counter = EventCounter::new(ConditionType::KernelReady, "OOMKilling");
        for (first, last, count) in spells {
            counter.spells.push(Spell {
                node_since: at(*first),
                first: at(*first),
                last: at(*last),
                count: *count,
            });
        }
        counter
    }

    #[test]
    fn a_promotion_begins_when_its_count_is_reached_and_holds_while_it_is() {
        let five_minutes = SignedDuration::from_mins(5);
        let reached = |spells: &[(i64, i64, u64)], now| counter(spells).reached(3, five_minutes, at(now));
        assert_eq!(reached(&[(0, 0, 2)], 0), None);
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 60), Some(at(60)));
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 300), Some(at(60)));
        assert_eq!(reached(&[(0, 0, 2), (60, 60, 1)], 301), None, "the first two have left the window");
        assert_eq!(
            reached(&[(0, 0, 2), (301, 301, 1)], 301),
            None,
            "never within five minutes of each other"
        );
        assert_eq!(reached(&[(0, 3_100, 32)], 3_100), Some(at(200)), "a steady run began long ago");
        assert_eq!(reached(&[(0, 0, 1_000)], 10), Some(at(0)));
    }

    #[test]
    fn what_comes_after_now_is_not_counted_yet() {
        let counter = counter(&[(0, 3_100, 32), (10, 10, 1)]);
        assert_eq!(counter.reached(3, SignedDuration::from_mins(5), at(10)), None);
    }

    #[test]
    fn a_node_may_count_without_end_and_live_at_the_ends_of_time() {
        let line = r#"{"v":1,"kind":"event","cluster":"prod","node":"n","instanceId":"i-08736224042c4ee75","bootId":"3c2f687e-27bd-4642-bee9-8503552bada0","seq":1,"at":"9999-12-30T21:59:59Z","condition":"KernelReady","findings":[{"reason":"OOMKilling","severity":"Event","since":"-009999-01-02T01:59:59Z","last":"9999-12-30T21:59:59Z","count":18446744073709551615}],"agent":"0.1.0"}"#;
        let report = Report::decode(line).expect("a report");
        let crate::report::Body::Event { findings, .. } = &report.body else { panic!("an event") };
        let mut counter = EventCounter::new(ConditionType::KernelReady, "OOMKilling");
        for seconds in [0, 1] {
            // Another spell each time.
            let finding = Finding {
                since: findings[0].since + SignedDuration::from_secs(seconds),
                ..findings[0].clone()
            };
            assert!(counter.note(&report, &finding, at(0)));
        }
        assert_eq!(counter.span(), Some((at(0), at(0), 2 * MAX_COUNT)));
        assert_eq!(counter.reached(u64::MAX, SignedDuration::from_mins(5), at(0)), None);
        assert_eq!(counter.reached(1, SignedDuration::from_mins(5), at(0)), Some(at(0)));
    }
}
