//! Counts events by their spells, so that the same report counts once in whatever order it comes.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    condition::ConditionType,
    report::{Finding, Report},
    stamp,
};

const MAX_SPELLS: usize = 16;

/// How often an event was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
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
    #[serde(with = "stamp")]
    node_since: Timestamp,
    #[serde(with = "stamp")]
    first: Timestamp,
    #[serde(with = "stamp")]
    last: Timestamp,
    count: u64,
}

impl Tally {
    pub(super) fn new(condition: ConditionType, reason: &str) -> Self {
        Self { condition, reason: reason.into(), message: Box::default(), spells: Vec::new() }
    }

    /// Takes a finding in; true if it begins a spell.
    pub(super) fn note(&mut self, report: &Report<'_>, finding: &Finding<'_>, arrival: Timestamp) -> bool {
        let ago = |node: Timestamp| arrival - super::agent::age(report.at, node);
        let (first, last) = (ago(finding.since), ago(finding.last));
        if let Some(spell) = self.spells.iter_mut().find(|spell| spell.node_since == finding.since) {
            spell.first = spell.first.min(first);
            if finding.count > spell.count {
                (spell.count, spell.last) = (finding.count, last);
            }
            return false;
        }
        if self.spells.last().is_none_or(|newest| newest.first <= first) {
            self.message = (*finding.message).into();
        }
        let place = self.spells.partition_point(|spell| spell.node_since < finding.since);
        self.spells
            .insert(place, Spell { node_since: finding.since, first, last, count: finding.count.max(1) });
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
        let sightings: Vec<(Timestamp, u64)> = self.spells.iter().flat_map(Spell::sightings).collect();
        let mut reached: Option<(Timestamp, Timestamp)> = None;
        let (mut oldest, mut sum) = (0, 0);
        for (at, weight) in sightings.iter().filter(|(at, _)| *at <= now) {
            sum += weight;
            while at.duration_since(sightings[oldest].0) > window {
                sum -= sightings[oldest].1;
                oldest += 1;
            }
            if sum < count {
                continue;
            }
            // It stays reached until so many have left the window that too few are left.
            let (mut left, mut leaving) = (sum, oldest);
            while left - sightings[leaving].1 >= count {
                left -= sightings[leaving].1;
                leaving += 1;
            }
            let until = sightings[leaving].0.checked_add(window).unwrap_or(Timestamp::MAX);
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
    fn sightings(&self) -> impl Iterator<Item = (Timestamp, u64)> {
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

    fn tally(spells: &[(i64, i64, u64)]) -> Tally {
        let mut tally = Tally::new(ConditionType::KernelReady, "OOMKilling");
        for (first, last, count) in spells {
            tally.spells.push(Spell {
                node_since: at(*first),
                first: at(*first),
                last: at(*last),
                count: *count,
            });
        }
        tally
    }

    #[test]
    fn a_promotion_begins_when_its_count_is_reached_and_holds_while_it_is() {
        let five_minutes = SignedDuration::from_mins(5);
        let reached = |spells: &[(i64, i64, u64)], now| tally(spells).reached(3, five_minutes, at(now));
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
}
