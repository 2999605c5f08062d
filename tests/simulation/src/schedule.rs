//! Schedules from chosen parts, for property tests that choose and shrink them: one group, a few nodes that fail, and
//! how often everything else fails.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{GroupName, Zone},
    policy::Limit,
};

use crate::{
    Options, Outcome,
    plan::{self, GroupPlan, Item, Kind, NodeFailure, Plan},
    reading::Access,
    run_plan,
};

/// For this long things fail; then everything must end.
const HOURS: i64 = 5;

/// What helps a node that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A replacement alone.
    Replacement,
    /// A reboot.
    Reboot,
    /// The policy asks for a reboot, which does not help.
    ReplacementAfterReboot,
}

/// A node that fails.
#[derive(Debug, Clone)]
pub struct FailingNode {
    /// What helps.
    pub remedy: Remedy,
    /// In seconds: for how long it was healthy, and then unhealthy.
    pub periods: Vec<(u32, u32)>,
    /// Whether it recovers from the last of them by itself.
    pub recovers: bool,
}

/// How often things fail, of a thousand times.
#[derive(Debug, Clone, Copy, Default)]
pub struct FailureRates {
    /// An operation of a function fails, or ends its process.
    pub operations: u64,
    /// A function stalls before its next step, for seconds or most of its lifetime.
    pub stalls: u64,
    /// Something is delivered twice.
    pub duplicates: u64,
    /// A replacement is not launched, never joins or joins late.
    pub launches: u64,
    /// A minute has two runs of the repair function at once, or none.
    pub repair_runs: u64,
    /// CloudTrail's event of a call is very late, or never comes.
    pub cloud_trail: u64,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The nodes of the group: at most six, two in each of three zones, so that no zone looks impaired.
    pub nodes: Vec<FailingNode>,
    /// How many repairs the group allows at once.
    pub limit: u32,
    /// How often things fail.
    pub rates: FailureRates,
    /// Decides when they do.
    pub seed: u64,
}

impl Schedule {
    /// Runs it; `verbose` keeps a trace.
    pub fn run(&self, verbose: bool) -> Outcome {
        let options = Options { nodes: self.nodes.len(), hours: HOURS, verbose, ..Options::default() };
        run_plan(self.plan(), &options)
    }

    fn plan(&self) -> Plan {
        let start = plan::start();
        let group = GroupPlan {
            name: GroupName::new("workers").expect("a name"),
            observe: false,
            disabled: false,
            unmanaged: None,
            parallel: Some(Limit::Count(self.limit)),
            // One guard is tested. The others never block.
            threshold: Some(Limit::Count(1_000)),
            window: None,
            gpu_grace: None,
            nodes: true,
            agents: true,
        };
        let failures = self.nodes.iter().enumerate().map(|(node, failing)| {
            let kind = match failing.remedy {
                Remedy::Replacement => Kind::Interface,
                Remedy::Reboot => Kind::GpuReboot { cures: true },
                Remedy::ReplacementAfterReboot => Kind::GpuReboot { cures: false },
            };
            Item::NodeFails(NodeFailure { node, kind, periods: failing.periods(start), agent_restarts: None })
        });
        let FailureRates { operations, stalls, duplicates, launches, repair_runs, cloud_trail } = self.rates;
        let rates = [
            Item::Crashes(operations),
            Item::Stalls(stalls),
            Item::Duplicates(duplicates),
            Item::FailedLaunches(launches),
            Item::RepairRuns(repair_runs),
            Item::CloudTrailLate(cloud_trail),
        ];
        Plan {
            seed: self.seed,
            start,
            calm: start + SignedDuration::from_hours(HOURS),
            zones: plan::ZONES.iter().filter_map(|zone| Zone::new(zone).ok()).collect(),
            groups: vec![group],
            nodes: (0..self.nodes.len()).map(|node| (0, node % plan::ZONES.len())).collect(),
            items: failures.chain(rates).collect(),
            silent_after: None,
            access: Access::Api,
            verifies: true,
            gradual: self.seed.is_multiple_of(2),
        }
    }
}

impl FailingNode {
    fn periods(&self, start: Timestamp) -> Vec<(Timestamp, Option<Timestamp>)> {
        let mut at = start;
        let last = self.periods.len();
        let period = |(number, (healthy, unhealthy)): (usize, &(u32, u32))| {
            let from = at + SignedDuration::from_secs(i64::from(*healthy) + 1);
            at = from + SignedDuration::from_secs(i64::from(*unhealthy) + 1);
            (from, (self.recovers || number + 1 < last).then_some(at))
        };
        self.periods.iter().enumerate().map(period).collect()
    }
}
