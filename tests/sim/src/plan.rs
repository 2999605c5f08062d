//! Turns a seed into a schedule: a fleet, its policy, and a list of items that go wrong, each of which can be left out.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{GroupName, Zone},
    policy::{GroupRule, Limit, MaintenanceWindow, Mode, Policy},
};

use crate::dice::Dice;

pub(crate) const CLUSTER: &str = "prod";
const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes there are at first.
    pub nodes: usize,
    /// For so long things go wrong; a calm follows in which everything must end.
    pub hours: i64,
    /// Items that are left out, by number: what is left of a run that was shrunk.
    pub without: Vec<usize>,
    /// Every heartbeat of every node is delivered, rather than those that can make a difference.
    pub every_heartbeat: bool,
    /// Tell what happens.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 50, hours: 3, without: Vec::new(), every_heartbeat: false, verbose: false }
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A node's trouble.
    Ail(Ail),
    /// A subscription filter is off, and what is written meanwhile is skipped.
    FilterOff { agents: bool, from: Timestamp, until: Timestamp },
    /// An operator asks for no repairs, and may take that back before its end.
    Hold { what: Held, from: Timestamp, until: Timestamp, lifted: Option<Timestamp> },
    /// AWS refuses every call for a while.
    Refusals { from: Timestamp, until: Timestamp, code: &'static str },
    /// Somebody suspends a process of a group, or sets a node aside, for a while.
    Suspended { group: usize, process: &'static str, from: Timestamp, until: Timestamp },
    /// Somebody sets a node aside for a while.
    Aside { node: usize, from: Timestamp, until: Timestamp },
    /// An ARC zonal shift leads traffic away from a zone for a while.
    Shift { zone: usize, from: Timestamp, until: Timestamp },
    /// The operator has calls only told of for a while.
    Observed { from: Timestamp, until: Timestamp },
    /// Of a thousand operations of a function so many fail, or kill it.
    Crashes(u64),
    /// Of a thousand operations so many take seconds, and a few of them most of a function's life.
    Stalls(u64),
    /// Of a thousand deliveries so many come twice.
    Twice(u64),
    /// Of a thousand deliveries so many come minutes late.
    Late(u64),
    /// Of a thousand deliveries of an agent's words so many are lost.
    Skipped(u64),
    /// Of a thousand minutes so many are swept by two at once, and as many by nobody.
    Sweeps(u64),
    /// Of a thousand replacements so many never come, never join, or join late.
    Stillborn(u64),
    /// Of a thousand replacements so many get the name of the node that they replace.
    SameName(u64),
    /// Of a thousand calls CloudTrail tells so many late, and as many never.
    TrailLate(u64),
    /// Nodes' clocks are wrong by up to hours, functions' by up to a second.
    Clocks,
}

/// Of what no repairs are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held {
    Everything,
    Group(usize),
    Node(usize),
}

/// What is wrong with a node.
#[derive(Debug, Clone)]
pub(crate) struct Ail {
    pub(crate) node: usize,
    pub(crate) kind: Kind,
    /// Each with its beginning and its end; the last may have none.
    pub(crate) spells: Vec<(Timestamp, Option<Timestamp>)>,
    /// The agent forgets everything then.
    pub(crate) agent_restarts: Option<Timestamp>,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Interface,
    InterfaceUnknown,
    Gpu,
    GpuReboot {
        cures: bool,
    },
    /// The reason changes in the middle of it.
    ReasonChanges,
    /// Only told, never acted on.
    Minor,
    /// A reason that is acted on comes to one that is not.
    MinorGrows,
    /// A reason that is acted on takes the place of one that is not.
    MinorTurns,
    Both,
    KubeletStops,
    /// With the agent.
    Hangs,
    NotReady,
    Deleted,
    InstanceLost,
    Foreign,
}

const KINDS: [Kind; 22] = [
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
    Kind::Deleted,
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
    pub(crate) left_alone: Option<LeftAlone>,
    pub(crate) parallel: Option<Limit>,
    pub(crate) threshold: Option<Limit>,
    /// In minutes of the UTC day.
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) gpu_grace: Option<SignedDuration>,
}

/// Why a group is somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftAlone {
    OptedOut,
    EksRepairs,
}

impl GroupPlan {
    /// Whether a call may ever be made in it.
    pub(crate) fn may_be_repaired(&self) -> bool {
        !self.disabled && !self.observe && self.left_alone.is_none()
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
    /// Group and zone of each node.
    pub(crate) nodes: Vec<(usize, usize)>,
    pub(crate) items: Vec<Item>,
    /// An agent counts as silent after this.
    pub(crate) silent_after: Option<SignedDuration>,
}

impl Plan {
    pub(crate) fn of(seed: u64, options: &Options) -> Self {
        let mut dice = Dice::of(seed, 1);
        let start = Timestamp::from_second(1_790_000_000).unwrap_or_default();
        let calm = start + SignedDuration::from_hours(options.hours);
        let zones = ZONES.iter().filter_map(|zone| Zone::new(zone).ok()).collect();
        let count = dice.pick(&[1, 2, 2, 3, 4]);
        let groups: Vec<GroupPlan> = (0..count).map(|number| group(&mut dice, number)).collect();
        let nodes = (0..options.nodes).map(|_| (dice.index(groups.len()), dice.index(3))).collect();
        let silent_after = Policy::eks_defaults().silence.agent_silent_after;
        let mut plan = Self { seed, start, calm, zones, groups, nodes, items: Vec::new(), silent_after };
        plan.ails(&mut dice, options);
        plan.disturbances(&mut dice, options);
        let longer = dice.pick(&[silent_after, Some(SignedDuration::from_mins(46)), None]);
        if !plan.items.iter().any(Item::silences) {
            plan.silent_after = longer;
        }
        plan
    }

    fn moment(&self, dice: &mut Dice, options: &Options) -> Timestamp {
        self.start + dice.seconds(60, options.hours * 3_600 - 1_800)
    }

    fn ails(&mut self, dice: &mut Dice, options: &Options) {
        // Mostly one: a fault is found as soon by the second, and its story is short. Of more, half go bad together.
        let few = dice.pick(&[1, 1, 1, 1, 1, 2]) * options.nodes.div_ceil(50);
        let mut free: Vec<usize> = (0..options.nodes).collect();
        for _ in 0..few.min(options.nodes) {
            let mut place = dice.index(free.len());
            let (mut from, mut kind) = (self.moment(dice, options), dice.pick(&KINDS));
            if let Some(Item::Ail(last)) = self.items.last()
                && dice.happens(500)
            {
                let near = |node: &usize| self.nodes[*node].0 == self.nodes[last.node].0;
                place = free.iter().position(near).unwrap_or(place);
                (from, kind) = (last.spells[0].0 + dice.seconds(0, 90), last.kind);
            }
            let node = free.swap_remove(place);
            self.items.push(Item::Ail(ail(dice, node, kind, from, false)));
        }
        // Now and then much of the fleet fails within minutes, or most of a zone.
        if dice.happens(10) {
            let (at, kind) = (self.moment(dice, options), dice.pick(&KINDS[..19]));
            let zone = dice.happens(500).then(|| dice.index(3));
            let part = if zone.is_some() { dice.pick(&[600, 900]) } else { dice.pick(&[150, 250, 400]) };
            free.retain(|node| zone.is_none_or(|zone| self.nodes[*node].1 == zone) && dice.happens(part));
            for node in free {
                let from = at + dice.seconds(0, 240);
                self.items.push(Item::Ail(ail(dice, node, kind, from, true)));
            }
        }
    }

    fn disturbances(&mut self, dice: &mut Dice, options: &Options) {
        for agents in [true, false] {
            if dice.happens(120) {
                let from = self.moment(dice, options);
                // The documented ten minutes; rarely so long that every agent counts as silent, by the time that
                // somebody is due.
                let (from, length) = match self.items.iter().find_map(Item::begins) {
                    Some(trouble) if dice.happens(60) => {
                        (trouble + dice.seconds(10, 900), dice.seconds(1_200, 2_400))
                    }
                    _ => (from, dice.seconds(60, 600)),
                };
                self.items.push(Item::FilterOff { agents, from, until: from + length });
            }
        }
        if dice.happens(150) {
            let from = self.moment(dice, options);
            let until = from + dice.seconds(600, 5_400);
            let group = dice.index(self.groups.len());
            let node = self.items.iter().find_map(Item::node);
            let what = match dice.below(3) {
                0 => Held::Everything,
                1 => Held::Group(group),
                _ => Held::Node(node.unwrap_or(0)),
            };
            let lifted = dice.happens(400).then(|| from + dice.seconds(60, 3_600)).filter(|at| *at < until);
            self.items.push(Item::Hold { what, from, until, lifted });
        }
        if dice.happens(150) {
            let from = self.moment(dice, options);
            let until = from + dice.seconds(60, 1_800);
            let code =
                dice.pick(&["Throttling", "ScalingActivityInProgress", "ResourceContention", "AccessDenied"]);
            self.items.push(Item::Refusals { from, until, code });
        }
        if dice.happens(60) {
            let (group, from) = (dice.index(self.groups.len()), self.moment(dice, options));
            let (process, until) = (dice.pick(&["Launch", "Terminate"]), from + dice.seconds(600, 3_600));
            self.items.push(Item::Suspended { group, process, from, until });
        }
        let ailing: Vec<usize> = self.items.iter().filter_map(Item::node).collect();
        if dice.happens(60) && !ailing.is_empty() {
            let (node, from) = (dice.pick(&ailing), self.moment(dice, options));
            self.items.push(Item::Aside { node, from, until: from + dice.seconds(600, 5_400) });
        }
        if dice.happens(40) {
            let (zone, from) = (dice.index(3), self.moment(dice, options));
            self.items.push(Item::Shift { zone, from, until: from + dice.seconds(600, 5_400) });
        }
        if dice.happens(40) {
            let from = self.moment(dice, options);
            self.items.push(Item::Observed { from, until: from + dice.seconds(600, 5_400) });
        }
        type Rate = (u64, fn(u64) -> Item, [u64; 3]);
        let rates: [Rate; 9] = [
            (350, Item::Crashes, [2, 10, 40]),
            (250, Item::Stalls, [2, 10, 30]),
            (300, Item::Twice, [30, 200, 500]),
            (200, Item::Late, [30, 100, 300]),
            (150, Item::Skipped, [30, 100, 300]),
            (400, Item::Sweeps, [200, 400, 800]),
            (300, Item::Stillborn, [100, 300, 600]),
            (400, Item::TrailLate, [100, 300, 500]),
            (200, Item::SameName, [200, 500, 1_000]),
        ];
        for (often, item, rates) in rates {
            if dice.happens(often) {
                self.items.push(item(dice.pick(&rates)));
            }
        }
        if dice.happens(400) {
            self.items.push(Item::Clocks);
        }
    }

    /// What the operator of this cluster allows.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::eks_defaults();
        policy.silence.agent_silent_after = self.silent_after;
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

fn group(dice: &mut Dice, number: usize) -> GroupPlan {
    let limit = |dice: &mut Dice, counts: [u32; 3], percentages: [u32; 3]| match dice.below(4) {
        0 => Some(Limit::Percentage(dice.pick(&percentages))),
        _ => Some(Limit::Count(dice.pick(&counts))),
    };
    GroupPlan {
        name: GroupName::new(format!("workers-{number}")).expect("a name"),
        observe: number > 0 && dice.happens(40),
        disabled: number > 0 && dice.happens(25),
        left_alone: (number > 0 && dice.happens(30))
            .then(|| dice.pick(&[LeftAlone::OptedOut, LeftAlone::EksRepairs])),
        parallel: if dice.happens(500) { limit(dice, [1, 1, 2], [10, 30, 50]) } else { None },
        threshold: if dice.happens(300) { limit(dice, [1, 3, 6], [10, 20, 50]) } else { None },
        // The run begins at 14:13 UTC.
        window: dice.happens(40).then(|| {
            let start = 14 * 60 + dice.below(180) as i64;
            (start, start + 20 + dice.below(120) as i64)
        }),
        gpu_grace: dice.happens(100).then(|| SignedDuration::from_mins(dice.pick(&[3, 5, 20]))),
    }
}

/// Lengths on both sides of the hold (2 min) and of the grace periods (10 and 30 min).
fn ail(dice: &mut Dice, node: usize, kind: Kind, from: Timestamp, for_good: bool) -> Ail {
    let mut spells = Vec::new();
    let mut at = from;
    let count = if for_good { 1 } else { dice.pick(&[1, 1, 1, 2, 3, 6]) };
    let lasts = for_good && dice.happens(600) || !for_good && dice.happens(650);
    for number in 0..count {
        let length = if dice.happens(300) { dice.seconds(10, 240) } else { dice.seconds(240, 2_700) };
        let last = number + 1 == count;
        spells.push((at, (!last || !lasts).then_some(at + length)));
        at += length;
        at += if dice.happens(600) { dice.seconds(5, 240) } else { dice.seconds(240, 1_800) };
    }
    let (first, until) = spells[0];
    let length = until.map_or(1_200, |until| until.duration_since(first).as_secs());
    let agent_restarts = dice.happens(200).then(|| first + dice.seconds(1, length.max(2)));
    Ail { node, kind, spells, agent_restarts }
}

impl Item {
    /// Whether it keeps every agent's words back for so long that each counts as silent.
    fn silences(&self) -> bool {
        match self {
            Self::FilterOff { agents: true, from, until } => is_long(*from, *until),
            _ => false,
        }
    }

    /// When a node's trouble begins.
    fn begins(&self) -> Option<Timestamp> {
        match self {
            Self::Ail(ail) => ail.spells.first().map(|(from, _)| *from),
            _ => None,
        }
    }

    /// The node that ails.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Ail(ail) => Some(ail.node),
            _ => None,
        }
    }
}

/// Longer than the documented ten minutes.
pub(crate) fn is_long(from: Timestamp, until: Timestamp) -> bool {
    until.duration_since(from) > SignedDuration::from_secs(660)
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ail(ail) => {
                write!(f, "node {} ails: {:?}", ail.node, ail.kind)?;
                for (from, until) in &ail.spells {
                    match until {
                        Some(until) => write!(f, ", {from:.0} to {until:.0}")?,
                        None => write!(f, ", from {from:.0} on")?,
                    }
                }
                ail.agent_restarts.map_or(Ok(()), |at| write!(f, "; its agent restarts at {at:.0}"))
            }
            other => write!(f, "{other:?}"),
        }
    }
}
