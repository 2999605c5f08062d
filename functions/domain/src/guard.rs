//! Every reason not to act: one function each, with a sentence that an operator understands.
//!
//! A guard looks at a due repair and its surroundings and lets it pass, or says why not, and until when if it
//! knows. They don't know of each other; all are asked, so that an operator sees everything in the way at once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    case::{Attention, Case, Fault, Testimony},
    group::{ClusterFacts, Group, GroupState, Lifecycle, Whereabouts},
    ident::{InstanceId, Zone},
    policy::{Hold, Mode, Policy, Rules, next_opening},
    stamp,
};

/// Everything that a guard may look at.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The case.
    pub case: &'a Case,
    /// The fault that is due.
    pub fault: &'a Fault,
    /// What is around it.
    pub around: &'a Surroundings<'a>,
    /// The rules of the group.
    pub rules: Rules<'a>,
    /// The policy.
    pub policy: &'a Policy,
    /// Now.
    pub now: Timestamp,
}

/// What a decision needs besides the case.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where AWS has the instance.
    pub whereabouts: &'a Whereabouts,
    /// Its group, as AWS describes it.
    pub group: Option<&'a Group>,
    /// What we have under way in that group.
    pub state: &'a GroupState,
    /// The cluster.
    pub cluster: &'a ClusterFacts,
    /// The cluster's unhealthy nodes, counted.
    pub ailing: &'a Ailing,
    /// How many of them are in the group.
    pub unhealthy_in_group: usize,
    /// The holds that operators placed.
    pub holds: &'a [Hold],
}

/// One of a cluster's unhealthy nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwell {
    /// Its instance.
    pub instance_id: InstanceId,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Why it counts.
    pub attention: Attention,
}

/// A cluster's unhealthy nodes, counted once for all the decisions of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ailing {
    /// How many there are.
    pub unhealthy: usize,
    /// How many in each zone.
    pub by_zone: BTreeMap<Zone, usize>,
    /// The most that fell silent within the policy's length of each other.
    pub silent_at_once: usize,
}

impl Ailing {
    /// Counts.
    pub fn of(unwell: &[Unwell], policy: &Policy) -> Self {
        let mut ailing = Self::default();
        let mut silences = Vec::new();
        for node in unwell {
            if node.attention.unhealthy {
                ailing.unhealthy += 1;
                if let Some(zone) = &node.zone {
                    *ailing.by_zone.entry(zone.clone()).or_default() += 1;
                }
            }
            if node.attention.silent {
                silences.push(node.attention.since);
            }
        }
        silences.sort_unstable();
        ailing.silent_at_once = most_within(&silences, policy.silence.within);
        ailing
    }
}

/// How many of a group's nodes are unhealthy.
pub fn unhealthy_in(group: &Group, unwell: &[Unwell]) -> usize {
    // Of two sets the one that is small where all is well.
    let unhealthy: BTreeSet<&InstanceId> =
        unwell.iter().filter(|node| node.attention.unhealthy).map(|node| &node.instance_id).collect();
    group.members.iter().filter(|member| unhealthy.contains(&member.instance_id)).count()
}

/// The guards, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Guard {
    /// The group's `nodeRepairConfig.enabled` is false.
    Disabled,
    /// EKS repairs this group itself.
    EksRepairs,
    /// Somebody set the opt-out tag.
    OptedOut,
    /// The instance is in no Auto Scaling group.
    NotInGroup,
    /// The instance is not in service in its group.
    NotInService,
    /// Its group can't terminate or replace.
    Suspended,
    /// What it rests on was said before the last reboot.
    Fenced,
    /// Somebody asked for no repairs.
    Held,
    /// No maintenance window is open.
    OutsideWindow,
    /// Too many of the group's nodes are unhealthy for this to be the nodes' fault.
    UnhealthyThreshold,
    /// The zone is unhealthy, not its nodes.
    ZoneImpaired,
    /// The log path is silent, not the nodes.
    LogPathSuspect,
    /// The group's last replacements did not come up.
    ReplacementsFailing,
    /// So many repairs are under way in the group.
    ParallelLimit,
    /// Calls are only told of, not made.
    ObserveMode,
}

/// A guard in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Which.
    pub guard: Guard,
    /// Why, for people.
    pub sentence: String,
    /// Until when, where it is known.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

type Question = fn(&Scene<'_>) -> Option<Block>;

/// All guards, those that no waiting helps first.
pub const GUARDS: [(Guard, Question); 15] = [
    (Guard::Disabled, disabled),
    (Guard::EksRepairs, eks_repairs),
    (Guard::OptedOut, opted_out),
    (Guard::NotInGroup, not_in_group),
    (Guard::NotInService, not_in_service),
    (Guard::Suspended, suspended),
    (Guard::Fenced, fenced),
    (Guard::Held, held),
    (Guard::OutsideWindow, outside_window),
    (Guard::UnhealthyThreshold, unhealthy_threshold),
    (Guard::ZoneImpaired, zone_impaired),
    (Guard::LogPathSuspect, log_path_suspect),
    (Guard::ReplacementsFailing, replacements_failing),
    (Guard::ParallelLimit, parallel_limit),
    (Guard::ObserveMode, observe_mode),
];

/// Asks every guard; what stands in the way.
pub fn ask_all(scene: &Scene<'_>) -> Vec<Block> {
    GUARDS.iter().filter_map(|(_, question)| question(scene)).collect()
}

impl Guard {
    /// The name as it is written in trails and tables.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

fn block(guard: Guard, sentence: String) -> Option<Block> {
    Some(Block { guard, sentence, until: None })
}

fn group_name<'a>(scene: &Scene<'a>) -> &'a str {
    scene.around.state.name.as_str()
}

/// `nodeRepairConfig.enabled` is false for the group: EKS's own default.
pub fn disabled(scene: &Scene<'_>) -> Option<Block> {
    if scene.rules.node_repair_config.enabled {
        return None;
    }
    block(Guard::Disabled, format!("repair is not enabled for group {}", group_name(scene)))
}

/// A managed group whose EKS node auto repair is on is EKS's to repair: two repairers would terminate twice.
pub fn eks_repairs(scene: &Scene<'_>) -> Option<Block> {
    if !scene.around.group.is_some_and(|group| group.eks_repairs) {
        return None;
    }
    block(Guard::EksRepairs, format!("EKS repairs group {} itself", group_name(scene)))
}

/// The opt-out tag on the group.
pub fn opted_out(scene: &Scene<'_>) -> Option<Block> {
    let tag = &scene.policy.opt_out_tag;
    if scene.around.group?.tags.get(tag)? != "disabled" {
        return None;
    }
    block(Guard::OptedOut, format!("group {} carries the tag {tag}=disabled", group_name(scene)))
}

/// Only a group replaces what is terminated in it.
pub fn not_in_group(scene: &Scene<'_>) -> Option<Block> {
    match scene.around.whereabouts {
        Whereabouts::Member { .. } if scene.around.group.is_some() => None,
        Whereabouts::Member { group, .. } => {
            block(Guard::NotInGroup, format!("group {group} can't be read or is not this cluster's"))
        }
        Whereabouts::Ungrouped | Whereabouts::Gone => block(
            Guard::NotInGroup,
            format!("{} is in no Auto Scaling group: nothing would replace it", scene.case.instance_id),
        ),
    }
}

/// Somebody set it aside, or it comes, goes, or waits in a warm pool.
pub fn not_in_service(scene: &Scene<'_>) -> Option<Block> {
    let Whereabouts::Member { lifecycle, .. } = scene.around.whereabouts else {
        return None;
    };
    let state = match lifecycle {
        Lifecycle::InService => return None,
        // A replacement that never joins hangs here, and is what this repair is for.
        Lifecycle::Pending if scene.fault.reason == "FailedToJoin" => return None,
        Lifecycle::Pending => "still being launched",
        Lifecycle::SetAside => "on standby or detached: somebody set it aside",
        Lifecycle::Terminating => "already being terminated",
        Lifecycle::WarmPool => "in a warm pool, where it can't be terminated through its group",
    };
    block(Guard::NotInService, format!("{} is {state}", scene.case.instance_id))
}

/// With Terminate suspended the call is refused; with Launch suspended nothing comes in its place.
pub fn suspended(scene: &Scene<'_>) -> Option<Block> {
    let suspended = &scene.around.group?.suspended;
    let process = suspended.iter().find(|process| matches!(process.as_str(), "Launch" | "Terminate"))?;
    block(Guard::Suspended, format!("the process {process} is suspended in group {}", group_name(scene)))
}

/// The agent's word counts for the boot that it was said in.
pub fn fenced(scene: &Scene<'_>) -> Option<Block> {
    let boot = scene.case.boot.as_ref();
    let unfounded = scene.fault.testimony == Testimony::Agent && boot.is_none();
    if !unfounded {
        return None;
    }
    block(Guard::Fenced, "what it rests on was not said in the present boot".to_owned())
}

/// Holds: of everything, a cluster, a group or a node.
pub fn held(scene: &Scene<'_>) -> Option<Block> {
    let mine = |hold: &&Hold| {
        hold.until > scene.now
            && hold.from.is_none_or(|from| from <= scene.now)
            && hold.cluster.as_ref().is_none_or(|cluster| *cluster == scene.case.cluster)
            && hold.group.as_ref().is_none_or(|group| *group == scene.around.state.name)
            && hold.node.as_ref().is_none_or(|node| Some(node) == scene.case.node.as_ref())
    };
    let hold =
        scene.policy.holds.iter().chain(scene.around.holds).filter(mine).max_by_key(|hold| hold.until)?;
    let what = match (&hold.node, &hold.group, &hold.cluster) {
        (Some(node), ..) => format!("node {node}"),
        (_, Some(group), _) => format!("group {group}"),
        (_, _, Some(cluster)) => format!("cluster {cluster}"),
        _ => "everything".to_owned(),
    };
    let sentence =
        format!("{} holds {what} until {}: {}", hold.owner, stamp::seconds(hold.until), hold.reason);
    Some(Block { guard: Guard::Held, sentence, until: Some(hold.until) })
}

/// Windows limit when calls may be made; where there is none they may always.
pub fn outside_window(scene: &Scene<'_>) -> Option<Block> {
    let windows = scene.rules.maintenance_windows;
    if windows.is_empty() || windows.iter().any(|window| window.contains(scene.now)) {
        return None;
    }
    let until = next_opening(windows, scene.now);
    let sentence = match until {
        Some(opens) => format!("no maintenance window is open before {}", stamp::seconds(opens)),
        None => "no maintenance window is open".to_owned(),
    };
    Some(Block { guard: Guard::OutsideWindow, sentence, until })
}

/// EKS's own stop: more than five nodes and more than 20 % of them unhealthy, or the configured threshold.
/// What waits is named, and goes on when enough have recovered.
pub fn unhealthy_threshold(scene: &Scene<'_>) -> Option<Block> {
    let group = scene.around.group?;
    let unhealthy = scene.around.unhealthy_in_group;
    let size = group.size();
    let (exceeded, limit) = match scene.rules.node_repair_config.max_unhealthy_node_threshold {
        Some(limit) => (limit.is_exceeded_by(unhealthy, size), limit.to_string()),
        None => (size > 5 && unhealthy * 100 > size * 20, "20 %".to_owned()),
    };
    if !exceeded {
        return None;
    }
    block(
        Guard::UnhealthyThreshold,
        format!(
            "{unhealthy} of {size} nodes of group {} are unhealthy, more than {limit}",
            group_name(scene)
        ),
    )
}

/// One zone dark, the others well: replacing its nodes would launch more of them into the dark.
pub fn zone_impaired(scene: &Scene<'_>) -> Option<Block> {
    let zone = scene
        .case
        .zone
        .as_ref()
        .or_else(|| Some(&scene.around.group?.member(&scene.case.instance_id)?.zone))?;
    if scene.around.cluster.zonal_shifts.contains(zone) {
        return block(Guard::ZoneImpaired, format!("an ARC zonal shift leads traffic away from {zone}"));
    }
    let (of_zone, in_all) =
        (scene.around.cluster.zones.get(zone).copied().unwrap_or(0), scene.around.cluster.zones.len());
    let all = scene.around.ailing.unhealthy;
    let here = scene.around.ailing.by_zone.get(zone).copied().unwrap_or(0);
    let limits = &scene.policy.zones;
    let impaired = in_all > 1
        && here >= limits.min_unhealthy
        && here * 100 >= of_zone * limits.zone_percentage
        && here * 100 >= all * limits.share_percentage;
    if !impaired {
        return None;
    }
    block(
        Guard::ZoneImpaired,
        format!(
            "{here} of the {of_zone} nodes in {zone} are unhealthy, and {all} in the whole cluster: the zone is suspect"
        ),
    )
}

/// Most of a cluster fell silent at once: nobody can say which of its nodes are well.
pub fn log_path_suspect(scene: &Scene<'_>) -> Option<Block> {
    let limits = &scene.policy.silence;
    let nodes = scene.around.cluster.nodes();
    let at_once = scene.around.ailing.silent_at_once;
    if at_once < limits.min_silent || at_once * 100 < nodes * limits.percentage {
        return None;
    }
    block(
        Guard::LogPathSuspect,
        format!(
            "{at_once} of {nodes} nodes fell silent within {}: the log path is suspect, not the nodes",
            stamp::length(limits.within)
        ),
    )
}

/// The most instants that lie within a length of each other.
fn most_within(sorted: &[Timestamp], length: SignedDuration) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (last, at) in sorted.iter().enumerate() {
        while at.duration_since(sorted[first]) > length {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Replacing more would only lose more.
pub fn replacements_failing(scene: &Scene<'_>) -> Option<Block> {
    let until = scene.around.state.rests_until(scene.policy).filter(|until| *until > scene.now)?;
    let failures = scene.around.state.failures;
    let sentence = format!(
        "the last {failures} replacement{} of group {} did not come up: it rests until {}",
        if failures == 1 { "" } else { "s" },
        group_name(scene),
        stamp::seconds(until)
    );
    Some(Block { guard: Guard::ReplacementsFailing, sentence, until: Some(until) })
}

/// `maxParallelNodesRepaired…`; a percentage is one of the unhealthy nodes, as in EKS.
pub fn parallel_limit(scene: &Scene<'_>) -> Option<Block> {
    let limit = scene.rules.node_repair_config.max_parallel_nodes_repaired?;
    if scene.around.state.place(&scene.case.instance_id).is_some() {
        return None;
    }
    let under_way = scene.around.state.in_flight.len();
    let allowed = limit.of(scene.around.unhealthy_in_group.max(1));
    if under_way < allowed {
        return None;
    }
    block(
        Guard::ParallelLimit,
        format!("{under_way} repairs are under way in group {}, of {allowed} at once", group_name(scene)),
    )
}

/// The last one: everything else would let it pass.
pub fn observe_mode(scene: &Scene<'_>) -> Option<Block> {
    match scene.rules.mode {
        Mode::Repair => None,
        Mode::Observe => {
            let action = scene.fault.action.as_str();
            block(Guard::ObserveMode, format!("mode is observe: {action} is only told of"))
        }
    }
}
