//! Turns a seed into a schedule: a fleet, its policy, and a list of items that fail, each of which can be left out.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{ident::Zone, policy::Policy};

pub(crate) use crate::fleet::{GroupPlan, Unmanaged};
pub(crate) use crate::items::{Change, Decided, HoldScope, Item, Kind, Lie, NodeFailure, is_long};
use crate::{
    fleet::{SMALL, group, small_fleet},
    reading::{Access, Failing},
    rng::Rng,
};

pub(crate) const CLUSTER: &str = "prod";
pub(crate) const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

/// How to make and run a schedule.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes there are at first.
    pub nodes: usize,
    /// For how many hours things fail. A calm follows, in which everything must end.
    pub hours: i64,
    /// The numbers of the items that are left out: what shrinking removed.
    pub without: Vec<usize>,
    /// Delivers every heartbeat of every node, rather than those that can make a difference.
    pub every_heartbeat: bool,
    /// Faults are verified before a call. Without that, calls on healthy nodes are counted and are no violation.
    pub verification: bool,
    /// Keeps a trace of what happens.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 50,
            hours: 3,
            without: Vec::new(),
            every_heartbeat: false,
            verification: true,
            verbose: false,
        }
    }
}

/// A schedule.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) start: Timestamp,
    /// When the calm begins.
    pub(crate) calm: Timestamp,
    pub(crate) zones: Vec<Zone>,
    pub(crate) groups: Vec<GroupPlan>,
    /// The group and the zone of each node, by index.
    pub(crate) nodes: Vec<(usize, usize)>,
    pub(crate) items: Vec<Item>,
    /// An agent counts as silent after this; never, if there is none.
    pub(crate) silent_after: Option<SignedDuration>,
    /// What the deployment may read of the cluster.
    pub(crate) access: Access,
    /// Whether the policy requires that.
    pub(crate) verifies: bool,
    /// Whether repairs for one reason begin with one.
    pub(crate) gradual: bool,
}

/// How many of a thousand schedules have replacements with their predecessor's fault.
const SAME_FAULT: u64 = 100;

/// With more nodes than this, no schedule has a small fleet.
const LARGE: usize = 100;

/// When every schedule begins: 14:13 UTC.
pub(crate) fn start() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap_or_default()
}

impl Plan {
    pub(crate) fn of(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::of(seed, 1);
        let start = start();
        let calm = start + SignedDuration::from_hours(options.hours);
        let zones = ZONES.iter().filter_map(|zone| Zone::new(zone).ok()).collect();
        let count = rng.pick(&[1, 2, 2, 3, 4]);
        let mut shape = Rng::of(seed, 6);
        let small = options.nodes <= LARGE && shape.happens(200);
        let sizes = if small { small_fleet(&mut shape) } else { Vec::new() };
        let count = if small { sizes.len() } else { count };
        let mut groups: Vec<GroupPlan> = (0..count).map(|number| group(&mut rng, number)).collect();
        if let Some(last) = groups.iter_mut().skip(1).next_back().filter(|_| shape.happens(100)) {
            (last.nodes, last.agents) = (false, false);
        }
        let nodes = if small {
            let of_group = |(group, size): (usize, &usize)| std::iter::repeat_n(group, *size);
            sizes.iter().enumerate().flat_map(of_group).map(|group| (group, shape.index(3))).collect()
        } else {
            (0..options.nodes).map(|_| (rng.index(groups.len()), rng.index(3))).collect()
        };
        let silent_after = Policy::eks_defaults().silence.agent_silent_after;
        let mut plan = Self {
            seed,
            start,
            calm,
            zones,
            groups,
            nodes,
            items: Vec::new(),
            silent_after,
            access: Access::Api,
            verifies: options.verification,
            gradual: shape.happens(800),
        };
        plan.node_failures(&mut rng, options);
        plan.disturbances(&mut rng, options);
        let longer = rng.pick(&[silent_after, Some(SignedDuration::from_mins(46)), None]);
        if !plan.items.iter().any(Item::silences) {
            plan.silent_after = longer;
        }
        plan.reads(&mut Rng::of(seed, 5), options);
        plan.changes(&mut shape, options);
        plan.acts_of_aws(&mut Rng::of(seed, 7), options);
        plan
    }

    /// Whether no group has more than five nodes.
    pub(crate) fn is_small(&self) -> bool {
        (0..self.groups.len()).all(|group| self.nodes.iter().filter(|(of, _)| *of == group).count() <= SMALL)
    }

    pub(crate) fn moment(&self, rng: &mut Rng, options: &Options) -> Timestamp {
        self.start + rng.seconds(60, options.hours * 3_600 - 1_800)
    }

    fn disturbances(&mut self, rng: &mut Rng, options: &Options) {
        for agents in [true, false] {
            if rng.happens(120) {
                let from = self.moment(rng, options);
                // The documented ten minutes; rarely so long that every agent counts as silent when a node is due for
                // its repair.
                let (from, length) = match self.items.iter().find_map(Item::begins) {
                    Some(episode) if rng.happens(60) => {
                        (episode + rng.seconds(10, 900), rng.seconds(1_200, 2_400))
                    }
                    _ => (from, rng.seconds(60, 600)),
                };
                self.items.push(Item::FilterOff { agents, from, until: from + length });
            }
        }
        if rng.happens(150) {
            let from = self.moment(rng, options);
            let until = from + rng.seconds(600, 5_400);
            let group = rng.index(self.groups.len());
            let node = self.items.iter().find_map(Item::node);
            let what = match rng.below(3) {
                0 => HoldScope::Everything,
                1 => HoldScope::Group(group),
                _ => HoldScope::Node(node.unwrap_or(0)),
            };
            let lifted = rng.happens(400).then(|| from + rng.seconds(60, 3_600)).filter(|at| *at < until);
            self.items.push(Item::Hold { what, from, until, lifted });
        }
        if rng.happens(150) {
            let from = self.moment(rng, options);
            let until = from + rng.seconds(60, 1_800);
            let code =
                rng.pick(&["Throttling", "ScalingActivityInProgress", "ResourceContention", "AccessDenied"]);
            self.items.push(Item::Refusals { from, until, code });
        }
        if rng.happens(60) {
            let (group, from) = (rng.index(self.groups.len()), self.moment(rng, options));
            let (process, until) = (rng.pick(&["Launch", "Terminate"]), from + rng.seconds(600, 3_600));
            self.items.push(Item::ScalingSuspended { group, process, from, until });
        }
        let failing: Vec<usize> = self.items.iter().filter_map(Item::node).collect();
        if rng.happens(60) && !failing.is_empty() {
            let (node, from) = (rng.pick(&failing), self.moment(rng, options));
            self.items.push(Item::Standby { node, from, until: from + rng.seconds(600, 5_400) });
        }
        if rng.happens(40) {
            let (zone, from) = (rng.index(3), self.moment(rng, options));
            self.items.push(Item::Shift { zone, from, until: from + rng.seconds(600, 5_400) });
        }
        if rng.happens(40) {
            let from = self.moment(rng, options);
            self.items.push(Item::Observed { from, until: from + rng.seconds(600, 5_400) });
        }
        type Rate = (u64, fn(u64) -> Item, [u64; 3]);
        let rates: [Rate; 10] = [
            (350, Item::Crashes, [2, 10, 40]),
            (250, Item::Stalls, [2, 10, 30]),
            (300, Item::Duplicates, [30, 200, 500]),
            (200, Item::Late, [30, 100, 300]),
            (150, Item::Skipped, [30, 100, 300]),
            (400, Item::RepairRuns, [200, 400, 800]),
            (300, Item::FailedLaunches, [100, 300, 600]),
            (400, Item::CloudTrailLate, [100, 300, 500]),
            (200, Item::SameName, [200, 500, 1_000]),
            (SAME_FAULT, Item::SameFault, [300, 600, 1_000]),
        ];
        for (often, item, rates) in rates {
            if rng.happens(often) {
                self.items.push(item(rng.pick(&rates)));
            }
        }
        if rng.happens(400) {
            self.items.push(Item::Clocks);
        }
    }

    /// What Auto Scaling and EC2 do without being asked by us.
    fn acts_of_aws(&mut self, rng: &mut Rng, options: &Options) {
        let failing = self.items.iter().find_map(Item::node);
        let any = rng.index(self.nodes.len());
        let node = |rng: &mut Rng| failing.filter(|_| rng.happens(400)).unwrap_or(any);
        let of_group = |node: usize| self.nodes[node].0;
        let mut items = Vec::new();
        if rng.happens(80) {
            items.push(Item::ScalesIn { node: node(rng), at: self.moment(rng, options) });
        }
        if rng.happens(60) {
            let (group, instances) = (of_group(node(rng)), 1 + rng.index(4));
            items.push(Item::Refresh { group, instances, from: self.moment(rng, options) });
        }
        if rng.happens(60) {
            let from = self.moment(rng, options);
            items.push(Item::CapacityOutage { from, until: from + rng.seconds(1_800, 9_000) });
        }
        if rng.happens(100) {
            items.push(Item::WarmPool { group: of_group(node(rng)), rate: rng.pick(&[300, 700, 1_000]) });
        }
        if rng.happens(40) && !self.items.iter().any(|item| item.node() == Some(any)) {
            let from = self.moment(rng, options);
            items.push(Item::Stopped { node: any, from, until: from + rng.seconds(300, 5_400) });
        }
        self.items.append(&mut items);
    }

    /// What may be read of the cluster, and how reads of it fail.
    fn reads(&mut self, rng: &mut Rng, options: &Options) {
        self.access = match rng.below(100) {
            0..48 => Access::Api,
            48..96 => Access::Logs,
            _ => Access::Neither,
        };
        let failing: Vec<usize> = self.items.iter().filter_map(Item::node).collect();
        let node = |rng: &mut Rng| if rng.happens(800) { failing.first().copied() } else { None };
        let any = rng.index(self.nodes.len());
        let of = |rng: &mut Rng| node(rng).unwrap_or(any);
        type Rate = (u64, fn(u64) -> Item, [u64; 3]);
        let rates: [Rate; 3] = [
            (150, Item::Lost, [30, 100, 300]),
            (150, Item::VeryLate, [30, 100, 300]),
            (150, Item::Redriven, [30, 100, 300]),
        ];
        for (often, item, rates) in rates {
            if rng.happens(often) {
                self.items.push(item(rng.pick(&rates)));
            }
        }
        if rng.happens(60) {
            let at = self.moment(rng, options);
            self.items.push(Item::DryRun { node: of(rng), at });
        }
        if rng.happens(60) {
            let (at, lie) =
                (self.moment(rng, options), rng.pick(&[Lie::Age, Lie::Time, Lie::Number, Lie::Boot]));
            self.items.push(Item::Lies { node: of(rng), at, lie });
        }
        if rng.happens(60) {
            let (at, by) = (self.moment(rng, options), rng.seconds(-7_200, 7_200));
            self.items.push(Item::ClockSteps { node: of(rng), at, by });
        }
        if rng.happens(60) {
            self.items.push(Item::SlowReads(rng.pick(&[50, 200, 500])));
        }
        if rng.happens(60) {
            self.items.push(Item::ThrottledReads(rng.pick(&[50, 200, 500])));
        }
        if rng.happens(200) {
            self.items.push(Item::IndexLag(2 + rng.below(7)));
        }
        if rng.happens(250) {
            self.items.push(Item::Reconciles);
        }
        if rng.happens(60) {
            let from = self.moment(rng, options);
            let until = from + rng.seconds(60, 5_400);
            let how = rng.pick(&[Failing::Denied, Failing::Throttled, Failing::Unavailable]);
            self.items.push(Item::ReadsFail { how, from, until });
        }
        if rng.happens(100) {
            self.items.push(Item::Ec2Lag(rng.pick(&[5, 60, 600])));
        }
    }
}
