//! Turns a seed into a schedule: a fleet, its policy, and a list of items that fail, each of which can be left out.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{AccountId, GroupName, Zone},
    policy::{GroupRule, Limit, MaintenanceWindow, Mode, Policy, VerificationPolicy},
};
use nodemend_testkit::fixture::ACCOUNT;

pub(crate) use crate::items::{HoldScope, Item, Kind, Lie, NodeFailure, is_long};
use crate::{
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

const KINDS: [Kind; 23] = [
    Kind::Interface,
    Kind::Interface,
    Kind::Interface,
    Kind::InterfaceUnknown,
    Kind::Gpu,
    Kind::Gpu,
    Kind::Gpu,
    Kind::GpuReboot { cures: true },
    Kind::GpuReboot { cures: true },
    Kind::GpuReboot { cures: false },
    Kind::ReasonChanges,
    Kind::ReasonChanges,
    Kind::Minor,
    Kind::MinorGrows,
    Kind::MinorTurns,
    Kind::Both,
    Kind::KubeletStops,
    Kind::Hangs,
    Kind::NotReady,
    Kind::NodeDeleted,
    Kind::Restored,
    Kind::InstanceLost,
    Kind::Foreign,
];

/// One Auto Scaling group, and what an operator allows in it.
#[derive(Debug, Clone)]
pub(crate) struct GroupPlan {
    pub(crate) name: GroupName,
    pub(crate) observe: bool,
    pub(crate) disabled: bool,
    /// It carries the opt-out tag, or EKS repairs it itself.
    pub(crate) unmanaged: Option<Unmanaged>,
    pub(crate) parallel: Option<Limit>,
    pub(crate) threshold: Option<Limit>,
    /// From and until, in minutes of the UTC day.
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) gpu_grace: Option<SignedDuration>,
    /// Its nodes have agents.
    pub(crate) agents: bool,
}

/// Why no call may be made in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmanaged {
    OptedOut,
    EksRepairEnabled,
}

impl GroupPlan {
    /// Whether a call may ever be made in it.
    pub(crate) fn may_be_repaired(&self) -> bool {
        !self.disabled && !self.observe && self.unmanaged.is_none()
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
}

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
        let groups: Vec<GroupPlan> = (0..count).map(|number| group(&mut rng, number)).collect();
        let nodes = (0..options.nodes).map(|_| (rng.index(groups.len()), rng.index(3))).collect();
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
        };
        plan.node_failures(&mut rng, options);
        plan.disturbances(&mut rng, options);
        let longer = rng.pick(&[silent_after, Some(SignedDuration::from_mins(46)), None]);
        if !plan.items.iter().any(Item::silences) {
            plan.silent_after = longer;
        }
        plan.reads(&mut Rng::of(seed, 5), options);
        plan
    }

    fn moment(&self, rng: &mut Rng, options: &Options) -> Timestamp {
        self.start + rng.seconds(60, options.hours * 3_600 - 1_800)
    }

    fn node_failures(&mut self, rng: &mut Rng, options: &Options) {
        // Mostly one: it finds a fault as soon by the second, and its trace is short. Of several, half fail together.
        let few = rng.pick(&[1, 1, 1, 1, 1, 2]) * options.nodes.div_ceil(50);
        let mut free: Vec<usize> = (0..options.nodes).collect();
        for _ in 0..few.min(options.nodes) {
            let mut place = rng.index(free.len());
            let (mut from, mut kind) = (self.moment(rng, options), rng.pick(&KINDS));
            if let Some(Item::NodeFails(last)) = self.items.last()
                && rng.happens(500)
            {
                let near = |node: &usize| self.nodes[*node].0 == self.nodes[last.node].0;
                place = free.iter().position(near).unwrap_or(place);
                (from, kind) = (last.periods[0].0 + rng.seconds(0, 90), last.kind);
            }
            let node = free.swap_remove(place);
            let kind = self.kind_for(node, kind);
            self.items.push(Item::NodeFails(failure(rng, node, kind, from, false)));
        }
        // Now and then much of the fleet fails within minutes, or most of a zone.
        if rng.happens(10) {
            let (at, kind) = (self.moment(rng, options), rng.pick(&KINDS[..19]));
            let zone = rng.happens(500).then(|| rng.index(3));
            let part = if zone.is_some() { rng.pick(&[600, 900]) } else { rng.pick(&[150, 250, 400]) };
            free.retain(|node| zone.is_none_or(|zone| self.nodes[*node].1 == zone) && rng.happens(part));
            // It may end node by node, over seconds or an hour.
            let ends = rng.happens(500).then(|| (rng.seconds(600, 3_600), rng.pick(&[10, 300, 3_600])));
            for node in free {
                let from = at + rng.seconds(0, 240);
                let mut failure = failure(rng, node, self.kind_for(node, kind), from, true);
                if let (Some((length, spread)), [period]) = (ends, failure.periods.as_mut_slice()) {
                    period.1 = Some(at + length + rng.seconds(240, 240 + spread));
                }
                self.items.push(Item::NodeFails(failure));
            }
        }
    }

    /// A node without an agent fails in the ways that the control plane sees.
    fn kind_for(&self, node: usize, kind: Kind) -> Kind {
        let seen = matches!(
            kind,
            Kind::KubeletStops
                | Kind::Hangs
                | Kind::NotReady
                | Kind::NodeDeleted
                | Kind::Restored
                | Kind::InstanceLost
                | Kind::Foreign
        );
        if seen || self.groups[self.nodes[node].0].agents { kind } else { Kind::KubeletStops }
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
        let rates: [Rate; 9] = [
            (350, Item::Crashes, [2, 10, 40]),
            (250, Item::Stalls, [2, 10, 30]),
            (300, Item::Duplicates, [30, 200, 500]),
            (200, Item::Late, [30, 100, 300]),
            (150, Item::Skipped, [30, 100, 300]),
            (400, Item::RepairRuns, [200, 400, 800]),
            (300, Item::FailedLaunches, [100, 300, 600]),
            (400, Item::CloudTrailLate, [100, 300, 500]),
            (200, Item::SameName, [200, 500, 1_000]),
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

    /// What may be read of the cluster, and what is the matter with it.
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
        if rng.happens(60) {
            let from = self.moment(rng, options);
            let until = from + rng.seconds(60, 5_400);
            let how = rng.pick(&[Failing::Denied, Failing::Throttled, Failing::Unavailable]);
            self.items.push(Item::ReadsFail { how, from, until });
        }
    }

    /// The policy of this cluster.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::eks_defaults();
        policy.silence.agent_silent_after = self.silent_after;
        // How repairs begin has tests of its own: here it would hide which other rule delays them.
        policy.outage.gradual = false;
        policy.account = AccountId::new(ACCOUNT).ok();
        if !self.verifies {
            policy.verification = VerificationPolicy::Preferred;
        }
        let block = |group: &GroupPlan| {
            let mut block = policy.node_repair_config.clone();
            block.enabled = !group.disabled;
            block.max_parallel_nodes_repaired = group.parallel;
            block.max_unhealthy_node_threshold = group.threshold;
            block
        };
        let rules = self.groups.iter().map(|group| GroupRule {
            name: Some(group.name.to_string()),
            tags: std::collections::BTreeMap::new(),
            mode: group.observe.then_some(Mode::Observe),
            node_repair_config: Some(block(group)),
            grace: group.gpu_grace.map(|grace| {
                let condition = nodemend_domain::condition::ConditionType::AcceleratedHardwareReady;
                let mut graces = nodemend_domain::policy::Grace::default();
                graces.conditions.insert(condition, grace);
                graces
            }),
            maintenance_windows: group.window.map(|window| vec![maintenance(window)]),
        });
        let rules = rules.collect();
        policy.groups = rules;
        policy
    }
}

fn maintenance((start, end): (i64, i64)) -> MaintenanceWindow {
    let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let window = serde_json::json!({ "start": clock(start), "end": clock(end) });
    serde_json::from_value(window).expect("a window")
}

fn group(rng: &mut Rng, number: usize) -> GroupPlan {
    let limit = |rng: &mut Rng, counts: [u32; 3], percentages: [u32; 3]| match rng.below(4) {
        0 => Some(Limit::Percentage(rng.pick(&percentages))),
        _ => Some(Limit::Count(rng.pick(&counts))),
    };
    GroupPlan {
        name: GroupName::new(format!("workers-{number}")).expect("a name"),
        observe: number > 0 && rng.happens(40),
        disabled: number > 0 && rng.happens(25),
        unmanaged: (number > 0 && rng.happens(30))
            .then(|| rng.pick(&[Unmanaged::OptedOut, Unmanaged::EksRepairEnabled])),
        parallel: if rng.happens(500) { limit(rng, [1, 1, 2], [10, 30, 50]) } else { None },
        threshold: if rng.happens(300) { limit(rng, [1, 3, 6], [10, 20, 50]) } else { None },
        // The schedule begins at 14:13 UTC.
        window: rng.happens(40).then(|| {
            let start = 14 * 60 + rng.below(180) as i64;
            (start, start + 20 + rng.below(120) as i64)
        }),
        agents: number == 0 || !rng.happens(150),
        gpu_grace: rng.happens(100).then(|| SignedDuration::from_mins(rng.pick(&[3, 5, 20]))),
    }
}

/// Durations on both sides of the recovery hold (2 min) and of the grace periods (10 and 30 min).
fn failure(rng: &mut Rng, node: usize, kind: Kind, from: Timestamp, for_good: bool) -> NodeFailure {
    let mut periods = Vec::new();
    let mut at = from;
    let count = if for_good { 1 } else { rng.pick(&[1, 1, 1, 2, 3, 6]) };
    let lasts = for_good && rng.happens(600) || !for_good && rng.happens(650);
    for number in 0..count {
        let length = if rng.happens(300) { rng.seconds(10, 240) } else { rng.seconds(240, 2_700) };
        let last = number + 1 == count;
        periods.push((at, (!last || !lasts).then_some(at + length)));
        at += length;
        at += if rng.happens(600) { rng.seconds(5, 240) } else { rng.seconds(240, 1_800) };
    }
    let (first, until) = periods[0];
    let length = until.map_or(1_200, |until| until.duration_since(first).as_secs());
    let agent_restarts = rng.happens(200).then(|| first + rng.seconds(1, length.max(2)));
    NodeFailure { node, kind, periods, agent_restarts }
}
