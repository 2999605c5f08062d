//! Turns what each policy would have done into the comparison: what JSON says, and tables and pictures are drawn from.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::stamp;
use serde::Serialize;

use super::{
    judge::Ending,
    trial::{Outcome, Repair, Want, Withheld},
};

/// Everything that a backtest tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comparison {
    /// What was read.
    pub(super) history: Facts,
    /// What was supposed of what can't be known.
    pub(super) assumed: Terms,
    /// One for each policy, in the order in which they were named.
    pub(super) policies: Vec<Verdicts>,
}

/// What was read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    #[serde(with = "stamp::option")]
    pub(super) from: Option<Timestamp>,
    #[serde(with = "stamp::option")]
    pub(super) to: Option<Timestamp>,
    pub(super) nodes: usize,
    pub(super) files: usize,
    /// Streams of the control plane's other parts, which tell of no node and were left unread.
    pub(super) streams_left_out: usize,
    pub(super) lines: u64,
    /// Lines that could change a case, and were taken in.
    pub(super) taken_in: u64,
    pub(super) bytes: u64,
    pub(super) bytes_on_disk: u64,
    pub(super) unreadable: u64,
    pub(super) reading_seconds: f64,
    pub(super) seconds: f64,
    pub(super) threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_memory_bytes: Option<u64>,
}

/// What was supposed.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Terms {
    /// A repair is false if its node was well by itself within so many seconds of the call.
    pub(super) false_within_seconds: i64,
    /// A replacement is ready so many seconds after a call of which the history does not tell.
    pub(super) replacement_after_seconds: Option<i64>,
    /// The clock ran on for so many seconds after the last line.
    pub(super) run_on_seconds: i64,
    /// `repair`, `observe`, or `own`: as each policy says.
    pub(super) mode: &'static str,
}

/// One policy's part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdicts {
    pub(super) name: String,
    /// How many repairs fell due.
    pub(super) due: usize,
    pub(super) totals: Sums,
    pub(super) groups: Vec<GroupSums>,
    /// How many repairs each guard withheld to the end.
    pub(super) lost_to: BTreeMap<String, usize>,
    pub(super) repairs: Vec<Line>,
    pub(super) withheld: Vec<Line>,
}

/// One group's part, day by day.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GroupSums {
    pub(super) group: String,
    pub(super) totals: Sums,
    /// By day, UTC: `2026-08-20`.
    pub(super) days: BTreeMap<String, Sums>,
}

/// What came of repairs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sums {
    /// Repairs that were, or would have been, called.
    pub(super) repairs: usize,
    /// Of those, reboots that were enough.
    pub(super) reboots: usize,
    /// Of those, on nodes that were well by themselves soon after.
    pub(super) false_repairs: usize,
    /// Of those, on nodes of which the history ends too soon to tell.
    pub(super) unclear: usize,
    /// Repairs that guards withheld, of nodes that stayed sick.
    pub(super) lost_to_guards: usize,
    /// Repairs that guards withheld, of nodes that were well by themselves soon after.
    pub(super) spared_by_guards: usize,
    /// From the trouble's start to the call, half of the repairs were faster.
    pub(super) median_seconds: Option<i64>,
    /// The slowest.
    pub(super) max_seconds: Option<i64>,
    /// How much sooner than in the history the troubles that were not false would have been acted on, in all.
    pub(super) sooner_seconds: i64,
    #[serde(skip)]
    waits: Vec<i64>,
}

/// What is said of one repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Its node would not have become well by itself in time.
    True,
    /// It would have.
    False,
    /// The history ends too soon to tell.
    Unclear,
}

/// One repair, made or withheld.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    /// When it was called, or due where it was withheld.
    #[serde(with = "stamp")]
    pub(super) at: Timestamp,
    pub(super) node: String,
    pub(super) instance_id: String,
    pub(super) case: String,
    pub(super) group: String,
    pub(super) condition: String,
    pub(super) reason: String,
    pub(super) why: String,
    #[serde(with = "stamp")]
    pub(super) since: Timestamp,
    #[serde(with = "stamp")]
    pub(super) due: Timestamp,
    /// The call, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<String>,
    /// How often AWS was called for it.
    pub(super) calls: u32,
    /// The history tells of this very call: it was made.
    pub(super) made_in_history: bool,
    /// What stood in its way, for a while or to the end.
    pub(super) guards: BTreeSet<String>,
    pub(super) verdict: Verdict,
    /// How its trouble ended in the history.
    pub(super) ending: String,
    /// When; none, where the history ended first.
    #[serde(with = "stamp::option")]
    pub(super) ended: Option<Timestamp>,
}

impl Verdict {
    fn of(at: Timestamp, ending: &Ending, within: SignedDuration, last: Timestamp) -> Self {
        match ending {
            Ending::Recovered(end) if end.duration_since(at) <= within => Self::False,
            Ending::Lasted(_) | Ending::Open if last.duration_since(at) < within => Self::Unclear,
            _ => Self::True,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::False => "false",
            Self::Unclear => "unclear",
        }
    }
}

impl Ending {
    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Recovered(at) | Self::Rebooted(at) | Self::Gone(at, _) => Some(*at),
            Self::Open | Self::Made | Self::Lasted(_) => None,
        }
    }

    fn sentence(&self, from: Timestamp) -> String {
        let after = |at: &Timestamp| stamp::length(at.duration_since(from));
        match self {
            Self::Recovered(at) => format!("well again by itself {} later", after(at)),
            Self::Rebooted(at) => format!("well again after a reboot {} later", after(at)),
            Self::Gone(at, how) => format!("{}, {} later", how.trim_end_matches('.'), after(at)),
            Self::Lasted(at) if *at < from => "the history had ended".to_owned(),
            Self::Lasted(at) => format!("still sick when the history ended {} later", after(at)),
            Self::Open | Self::Made => "not known".to_owned(),
        }
    }
}

impl Line {
    fn new(want: &Want, at: Timestamp, ending: &Ending, within: SignedDuration, last: Timestamp) -> Self {
        Self {
            at,
            node: want.node.clone(),
            instance_id: want.instance_id.to_string(),
            case: want.case.clone(),
            group: want.group.clone(),
            condition: want.condition.clone(),
            reason: want.reason.clone(),
            why: want.why.clone(),
            since: want.since,
            due: want.due,
            call: None,
            calls: 0,
            made_in_history: false,
            guards: want.guards.clone(),
            verdict: Verdict::of(at, ending, within, last),
            ending: ending.sentence(at),
            ended: ending.at(),
        }
    }
}

impl Sums {
    fn repair(&mut self, line: &Line) {
        self.repairs += 1;
        self.reboots += usize::from(line.call.as_deref() == Some("RebootInstances"));
        self.waits.push(line.at.duration_since(line.since).as_secs());
        match line.verdict {
            Verdict::False => self.false_repairs += 1,
            Verdict::Unclear => self.unclear += 1,
            // A call that was made gains nothing on itself.
            Verdict::True if line.made_in_history => {}
            Verdict::True => {
                let sooner = line.ended.map_or(0, |ended| ended.duration_since(line.at).as_secs());
                self.sooner_seconds += sooner.max(0);
            }
        }
    }

    fn withheld(&mut self, line: &Line) {
        match line.verdict {
            Verdict::False => self.spared_by_guards += 1,
            Verdict::True => self.lost_to_guards += 1,
            Verdict::Unclear => self.unclear += 1,
        }
    }

    fn finish(&mut self) {
        self.waits.sort_unstable();
        self.median_seconds = self.waits.get(self.waits.len().saturating_sub(1) / 2).copied();
        self.max_seconds = self.waits.last().copied();
    }
}

impl Verdicts {
    /// Judges and adds up.
    pub(super) fn new(name: &str, outcome: &Outcome, within: SignedDuration, last: Timestamp) -> Self {
        let made = outcome.repairs.iter().map(|Repair { want, call, at, calls, in_history, ending }| Line {
            call: Some(call.clone()),
            calls: *calls,
            made_in_history: *in_history,
            ..Line::new(want, *at, ending, within, last)
        });
        let withheld = outcome
            .withheld
            .iter()
            .map(|Withheld { want, ending }| Line::new(want, want.due, ending, within, last));
        let (repairs, withheld): (Vec<Line>, Vec<Line>) = (made.collect(), withheld.collect());
        let mut totals = Sums::default();
        let mut groups: BTreeMap<&str, GroupSums> = BTreeMap::new();
        let mut lost_to: BTreeMap<String, usize> = BTreeMap::new();
        let all = repairs.iter().map(|line| (line, true)).chain(withheld.iter().map(|line| (line, false)));
        for (line, made) in all {
            let group = groups.entry(&line.group).or_insert_with(|| GroupSums {
                group: line.group.clone(),
                totals: Sums::default(),
                days: BTreeMap::new(),
            });
            let day = group.days.entry(line.at.strftime("%Y-%m-%d").to_string()).or_default();
            for sums in [&mut totals, &mut group.totals, day] {
                if made {
                    sums.repair(line);
                } else {
                    sums.withheld(line);
                }
            }
            if !made && line.verdict == Verdict::True {
                for guard in &line.guards {
                    *lost_to.entry(guard.clone()).or_default() += 1;
                }
            }
        }
        totals.finish();
        let mut groups: Vec<GroupSums> = groups.into_values().collect();
        for group in &mut groups {
            group.totals.finish();
            group.days.values_mut().for_each(Sums::finish);
        }
        Self { name: name.to_owned(), due: outcome.due, totals, groups, lost_to, repairs, withheld }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_false_only_if_its_node_was_well_by_itself_in_time() {
        let at = |minute: i64| Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time");
        let within = SignedDuration::from_mins(30);
        for (ending, last, expected) in [
            (Ending::Recovered(at(30)), 500, Verdict::False),
            (Ending::Recovered(at(31)), 500, Verdict::True),
            (Ending::Rebooted(at(5)), 500, Verdict::True),
            (Ending::Gone(at(5), "alice terminated it".to_owned()), 500, Verdict::True),
            (Ending::Lasted(at(500)), 500, Verdict::True),
            (Ending::Lasted(at(29)), 29, Verdict::Unclear),
            (Ending::Lasted(at(-5)), -5, Verdict::Unclear),
        ] {
            assert_eq!(Verdict::of(at(0), &ending, within, at(last)), expected, "{ending:?}");
        }
    }
}
