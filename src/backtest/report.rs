//! The comparison of policies, as JSON has it; tables, chart and page are drawn from it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::timestamp;
use serde::Serialize;

use super::{
    classify::Resolution,
    policy_run::{BlockedRepair, DueRepair, PolicyOutcome, SimulatedRepair},
};

/// The output of a backtest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comparison {
    pub(super) history: HistoryFacts,
    pub(super) assumptions: Assumptions,
    /// In the order of the command line.
    pub(super) policies: Vec<PolicyReport>,
}

/// What was read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryFacts {
    #[serde(with = "timestamp::option")]
    pub(super) from: Option<Timestamp>,
    #[serde(with = "timestamp::option")]
    pub(super) to: Option<Timestamp>,
    pub(super) nodes: usize,
    pub(super) files: usize,
    /// Log streams of control-plane components without audit events; they were not read.
    pub(super) skipped_streams: usize,
    pub(super) lines: u64,
    /// Lines that can change a case; the others were not parsed.
    pub(super) relevant_lines: u64,
    pub(super) bytes: u64,
    pub(super) bytes_on_disk: u64,
    pub(super) unreadable: u64,
    pub(super) reading_seconds: f64,
    pub(super) seconds: f64,
    pub(super) threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_memory_bytes: Option<u64>,
}

/// What the backtest assumes where the history has no answer.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Assumptions {
    /// A repair is unnecessary if its node recovered without it within so many seconds after the call.
    pub(super) unnecessary_within_seconds: i64,
    /// The replacement is Ready so many seconds after a call that is not in the history.
    pub(super) replacement_after_seconds: Option<i64>,
    /// The virtual clock ran for so many seconds after the last line.
    pub(super) continue_for_seconds: i64,
    /// `repair`, `observe`, or `own` for the mode of each policy.
    pub(super) mode: &'static str,
}

/// What one policy would have done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyReport {
    pub(super) name: String,
    /// Repairs that became due.
    pub(super) due: usize,
    pub(super) totals: RepairTotals,
    pub(super) groups: Vec<GroupReport>,
    /// For each guard, the missed repairs that it blocked.
    pub(super) missed_by_guard: BTreeMap<String, usize>,
    pub(super) repairs: Vec<RepairRow>,
    pub(super) blocked: Vec<RepairRow>,
}

/// What one policy would have done in one group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GroupReport {
    pub(super) group: String,
    pub(super) totals: RepairTotals,
    /// By UTC day, like `2026-08-20`.
    pub(super) days: BTreeMap<String, RepairTotals>,
}

/// Counts and times of repairs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepairTotals {
    /// Repairs that were, or would have been, called.
    pub(super) repairs: usize,
    /// Of these, repairs by a reboot alone.
    pub(super) reboots: usize,
    /// Of these, repairs whose node recovered without them in time.
    pub(super) unnecessary: usize,
    /// Repairs, called or blocked, after which the history ends too early to classify them.
    pub(super) unclear: usize,
    /// Repairs that guards blocked although the node did not recover in time.
    pub(super) missed: usize,
    /// Repairs that guards blocked and whose node recovered without them in time.
    pub(super) avoided: usize,
    /// From the start of the incident to the call: the median.
    pub(super) median_seconds: Option<i64>,
    /// From the start of the incident to the call: the maximum.
    pub(super) max_seconds: Option<i64>,
    /// The sum, over necessary repairs, of the time from the call to the end of the incident in the history.
    pub(super) time_saved_seconds: i64,
    #[serde(skip)]
    waits: Vec<i64>,
}

/// How a repair is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Assessment {
    /// The node did not recover without it in time.
    Necessary,
    /// The node recovered without it in time.
    Unnecessary,
    /// The history ends too early.
    Unclear,
}

/// One repair, called or blocked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepairRow {
    /// When it was called; for a blocked repair, when it became due.
    #[serde(with = "timestamp")]
    pub(super) at: Timestamp,
    pub(super) node: String,
    pub(super) instance_id: String,
    pub(super) case: String,
    pub(super) group: String,
    pub(super) condition: String,
    pub(super) reason: String,
    pub(super) detail: String,
    #[serde(with = "timestamp")]
    pub(super) since: Timestamp,
    #[serde(with = "timestamp")]
    pub(super) due: Timestamp,
    /// The API operation; none for a blocked repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<String>,
    /// How many API calls it took, refused ones included.
    pub(super) calls: u32,
    /// Whether this very call is in the history.
    pub(super) call_in_history: bool,
    /// The guards that blocked it, temporarily or until the incident was over.
    pub(super) guards: BTreeSet<String>,
    pub(super) assessment: Assessment,
    /// How the incident ended in the history.
    pub(super) resolution: String,
    /// When the incident ended; none if the history ended first.
    #[serde(with = "timestamp::option")]
    pub(super) resolved_at: Option<Timestamp>,
}

/// What tables and chart show for a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Necessary,
    Unnecessary,
    Unclear,
    Missed,
    Avoided,
}

impl Mark {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Necessary => "necessary",
            Self::Unnecessary => "unnecessary",
            Self::Unclear => "unclear",
            Self::Missed => "missed",
            Self::Avoided => "avoided",
        }
    }
}

impl Assessment {
    fn of(at: Timestamp, resolution: &Resolution, within: SignedDuration, last: Timestamp) -> Self {
        match resolution {
            Resolution::Recovered(end) if end.duration_since(at) <= within => Self::Unnecessary,
            Resolution::Ongoing(_) | Resolution::Unknown if last.duration_since(at) < within => Self::Unclear,
            _ => Self::Necessary,
        }
    }
}

impl Resolution {
    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Recovered(at) | Self::Rebooted(at) | Self::InstanceGone(at, _) => Some(*at),
            Self::Unknown | Self::Called | Self::Ongoing(_) => None,
        }
    }

    fn sentence(&self, from: Timestamp) -> String {
        let after = |at: &Timestamp| timestamp::duration(at.duration_since(from));
        match self {
            Self::Recovered(at) => format!("recovered without repair after {}", after(at)),
            Self::Rebooted(at) => format!("recovered by a reboot after {}", after(at)),
            Self::InstanceGone(at, how) => format!("{}, after {}", how.trim_end_matches('.'), after(at)),
            Self::Ongoing(at) if *at < from => "the history ends before the call".to_owned(),
            Self::Ongoing(at) => format!("still unhealthy after {}, when the history ends", after(at)),
            Self::Unknown | Self::Called => "unknown".to_owned(),
        }
    }
}

impl RepairRow {
    fn new(
        due: &DueRepair,
        at: Timestamp,
        resolution: &Resolution,
        within: SignedDuration,
        last: Timestamp,
    ) -> Self {
        Self {
            at,
            node: due.node.clone(),
            instance_id: due.instance_id.to_string(),
            case: due.case.clone(),
            group: due.group.clone(),
            condition: due.condition.clone(),
            reason: due.reason.clone(),
            detail: due.detail.clone(),
            since: due.since,
            due: due.due,
            call: None,
            calls: 0,
            call_in_history: false,
            guards: due.guards.clone(),
            assessment: Assessment::of(at, resolution, within, last),
            resolution: resolution.sentence(at),
            resolved_at: resolution.at(),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        match (self.call.is_some(), self.assessment) {
            (_, Assessment::Unclear) => Mark::Unclear,
            (true, Assessment::Necessary) => Mark::Necessary,
            (true, Assessment::Unnecessary) => Mark::Unnecessary,
            (false, Assessment::Necessary) => Mark::Missed,
            (false, Assessment::Unnecessary) => Mark::Avoided,
        }
    }

    /// The guards that blocked it, separated by commas.
    pub(super) fn guard_names(&self) -> String {
        self.guards.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl RepairTotals {
    fn add(&mut self, row: &RepairRow) {
        if row.call.is_some() {
            self.repairs += 1;
            self.reboots += usize::from(row.call.as_deref() == Some("RebootInstances"));
            self.waits.push(row.at.duration_since(row.since).as_secs());
        }
        match row.mark() {
            Mark::Unnecessary => self.unnecessary += 1,
            Mark::Unclear => self.unclear += 1,
            Mark::Missed => self.missed += 1,
            Mark::Avoided => self.avoided += 1,
            // A call that is in the history saves no time compared with itself.
            Mark::Necessary if row.call_in_history => {}
            Mark::Necessary => {
                let saved = row.resolved_at.map_or(0, |end| end.duration_since(row.at).as_secs());
                self.time_saved_seconds += saved.max(0);
            }
        }
    }

    fn finish(&mut self) {
        self.waits.sort_unstable();
        self.median_seconds = self.waits.get(self.waits.len().saturating_sub(1) / 2).copied();
        self.max_seconds = self.waits.last().copied();
    }
}

impl PolicyReport {
    /// Classifies each repair and adds them up.
    pub(super) fn new(name: &str, outcome: &PolicyOutcome, within: SignedDuration, last: Timestamp) -> Self {
        let called = outcome.repairs.iter().map(|repair| {
            let SimulatedRepair { due, call, at, calls, call_in_history, resolution } = repair;
            RepairRow {
                call: Some(call.clone()),
                calls: *calls,
                call_in_history: *call_in_history,
                ..RepairRow::new(due, *at, resolution, within, last)
            }
        });
        let blocked = outcome
            .blocked
            .iter()
            .map(|BlockedRepair { due, resolution }| RepairRow::new(due, due.due, resolution, within, last));
        let (repairs, blocked): (Vec<RepairRow>, Vec<RepairRow>) = (called.collect(), blocked.collect());
        let mut totals = RepairTotals::default();
        let mut groups: BTreeMap<&str, GroupReport> = BTreeMap::new();
        let mut missed_by_guard: BTreeMap<String, usize> = BTreeMap::new();
        for row in repairs.iter().chain(&blocked) {
            let group = groups.entry(&row.group).or_insert_with(|| GroupReport {
                group: row.group.clone(),
                totals: RepairTotals::default(),
                days: BTreeMap::new(),
            });
            let day = group.days.entry(row.at.strftime("%Y-%m-%d").to_string()).or_default();
            for sums in [&mut totals, &mut group.totals, day] {
                sums.add(row);
            }
            if row.mark() == Mark::Missed {
                for guard in &row.guards {
                    *missed_by_guard.entry(guard.clone()).or_default() += 1;
                }
            }
        }
        totals.finish();
        let mut groups: Vec<GroupReport> = groups.into_values().collect();
        for group in &mut groups {
            group.totals.finish();
            group.days.values_mut().for_each(RepairTotals::finish);
        }
        Self { name: name.to_owned(), due: outcome.due, totals, groups, missed_by_guard, repairs, blocked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_unnecessary_only_if_its_node_recovered_without_it_in_time() {
        let at = |minute: i64| Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time");
        let within = SignedDuration::from_mins(30);
        for (resolution, last, expected) in [
            (Resolution::Recovered(at(30)), 500, Assessment::Unnecessary),
            (Resolution::Recovered(at(31)), 500, Assessment::Necessary),
            (Resolution::Rebooted(at(5)), 500, Assessment::Necessary),
            (Resolution::InstanceGone(at(5), "alice terminated it".to_owned()), 500, Assessment::Necessary),
            (Resolution::Ongoing(at(500)), 500, Assessment::Necessary),
            (Resolution::Ongoing(at(29)), 29, Assessment::Unclear),
            (Resolution::Ongoing(at(-5)), -5, Assessment::Unclear),
        ] {
            assert_eq!(Assessment::of(at(0), &resolution, within, at(last)), expected, "{resolution:?}");
        }
    }
}
