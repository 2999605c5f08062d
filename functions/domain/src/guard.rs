//! Every reason not to act: one function each, with a sentence that an operator understands.
//!
//! A guard looks at a due repair and its surroundings and lets it pass, or says why not, and until when if it
//! knows. They don't know of each other; all are asked, so that an operator sees everything in the way at once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    case::{Case, Fault, Source, UnhealthyReason},
    group::{ClusterFacts, Group, GroupState, InstanceLocation, Lifecycle},
    ident::{InstanceId, Zone},
    policy::{Hold, Mode, Policy, Rules, next_opening},
    timestamp,
};

/// Everything that a guard may look at.
#[derive(Debug, Clone, Copy)]
pub struct GuardContext<'a> {
    /// The case.
    pub case: &'a Case,
    /// The fault that is due.
    pub fault: &'a Fault,
    /// What is around it.
    pub context: &'a DecisionContext<'a>,
    /// The rules of the group.
    pub rules: Rules<'a>,
    /// The policy.
    pub policy: &'a Policy,
    /// Now.
    pub now: Timestamp,
}

/// What a decision needs besides the case.
#[derive(Debug, Clone, Copy)]
pub struct DecisionContext<'a> {
    /// Where AWS has the instance.
    pub location: &'a InstanceLocation,
    /// Its group, as AWS describes it.
    pub group: Option<&'a Group>,
    /// What we have under way in that group.
    pub state: &'a GroupState,
    /// The cluster.
    pub cluster: &'a ClusterFacts,
    /// The cluster's unhealthy nodes, counted.
    pub unhealthy_counts: &'a UnhealthyCounts,
    /// How many of them are in the group.
    pub unhealthy_in_group: usize,
    /// The holds that operators placed.
    pub holds: &'a [Hold],
}

/// One of a cluster's unhealthy nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnhealthyNode {
    /// Its instance.
    pub instance_id: InstanceId,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Why it counts.
    pub unhealthy_reason: UnhealthyReason,
}

/// A cluster's unhealthy nodes, counted once for all the decisions of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnhealthyCounts {
    /// How many there are.
    pub unhealthy: usize,
    /// How many in each zone.
    pub by_zone: BTreeMap<Zone, usize>,
    /// The most that fell silent within the policy's length of each other.
    pub silent_at_once: usize,
}

impl UnhealthyCounts {
    /// Counts.
    pub fn of(unhealthy_nodes: &[UnhealthyNode], policy: &Policy) -> Self {
        let mut unhealthy_counts = Self::default();
        let mut silences = Vec::new();
        for node in unhealthy_nodes {
            if node.unhealthy_reason.unhealthy {
                unhealthy_counts.unhealthy += 1;
                if let Some(zone) = &node.zone {
                    *unhealthy_counts.by_zone.entry(zone.clone()).or_default() += 1;
                }
            }
            if node.unhealthy_reason.silent {
                silences.push(node.unhealthy_reason.since);
            }
        }
        silences.sort_unstable();
        unhealthy_counts.silent_at_once = most_within(&silences, policy.silence.within);
        unhealthy_counts
    }
}

/// How many of a group's nodes are unhealthy.
pub fn unhealthy_in(group: &Group, unhealthy_nodes: &[UnhealthyNode]) -> usize {
    // Of two sets the one that is small where all is well.
    let unhealthy: BTreeSet<&InstanceId> = unhealthy_nodes
        .iter()
        .filter(|node| node.unhealthy_reason.unhealthy)
        .map(|node| &node.instance_id)
        .collect();
    group.members.iter().filter(|member| unhealthy.contains(&member.instance_id)).count()
}

/// The guards, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Guard {
    /// The group's `nodeRepairConfig.enabled` is false.
    Disabled,
    /// EKS repairs this group itself.
    EksRepairEnabled,
    /// Somebody set the opt-out tag.
    OptedOut,
    /// The instance is in no Auto Scaling group.
    NotInGroup,
    /// The instance is not in service in its group.
    NotInService,
    /// Its group can't terminate or replace.
    ScalingSuspended,
    /// What it rests on was said before the last reboot.
    Fenced,
    /// Somebody asked for no repairs.
    Held,
    /// No maintenance window is open.
    OutsideMaintenanceWindow,
    /// Too many of the group's nodes are unhealthy for this to be the nodes' fault.
    UnhealthyThreshold,
    /// The zone is unhealthy, not its nodes.
    ZoneImpaired,
    /// The log path is silent, not the nodes.
    LogPipelineSuspect,
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
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

type Question = fn(&GuardContext<'_>) -> Option<Block>;

/// All guards, those that no waiting helps first.
pub const GUARDS: [(Guard, Question); 15] = [
    (Guard::Disabled, disabled),
    (Guard::EksRepairEnabled, eks_repair_enabled),
    (Guard::OptedOut, opted_out),
    (Guard::NotInGroup, not_in_group),
    (Guard::NotInService, not_in_service),
    (Guard::ScalingSuspended, scaling_suspended),
    (Guard::Fenced, fenced),
    (Guard::Held, held),
    (Guard::OutsideMaintenanceWindow, outside_maintenance_window),
    (Guard::UnhealthyThreshold, unhealthy_threshold),
    (Guard::ZoneImpaired, zone_impaired),
    (Guard::LogPipelineSuspect, log_pipeline_suspect),
    (Guard::ReplacementsFailing, replacements_failing),
    (Guard::ParallelLimit, parallel_limit),
    (Guard::ObserveMode, observe_mode),
];

/// Asks every guard; what stands in the way.
pub fn ask_all(input: &GuardContext<'_>) -> Vec<Block> {
    GUARDS.iter().filter_map(|(_, question)| question(input)).collect()
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

fn group_name<'a>(input: &GuardContext<'a>) -> &'a str {
    input.context.state.name().as_str()
}

/// `nodeRepairConfig.enabled` is false for the group: EKS's own default.
pub fn disabled(input: &GuardContext<'_>) -> Option<Block> {
    if input.rules.node_repair_config.enabled {
        return None;
    }
    block(Guard::Disabled, format!("repair is not enabled for group {}", group_name(input)))
}

/// A managed group whose EKS node auto repair is on is EKS's to repair: two repairers would terminate twice.
pub fn eks_repair_enabled(input: &GuardContext<'_>) -> Option<Block> {
    if !input.context.group.is_some_and(|group| group.eks_repair_enabled) {
        return None;
    }
    block(Guard::EksRepairEnabled, format!("EKS node auto repair is enabled for group {}", group_name(input)))
}

/// The opt-out tag on the group.
pub fn opted_out(input: &GuardContext<'_>) -> Option<Block> {
    let tag = &input.policy.opt_out_tag;
    if input.context.group?.tags.get(tag)? != "disabled" {
        return None;
    }
    block(Guard::OptedOut, format!("group {} has the tag {tag}=disabled", group_name(input)))
}

/// Only a group replaces what is terminated in it.
pub fn not_in_group(input: &GuardContext<'_>) -> Option<Block> {
    match input.context.location {
        InstanceLocation::Member { .. } if input.context.group.is_some() => None,
        InstanceLocation::Member { group, .. } => block(
            Guard::NotInGroup,
            format!("group {group} cannot be described or belongs to another cluster"),
        ),
        InstanceLocation::Ungrouped | InstanceLocation::Gone => block(
            Guard::NotInGroup,
            format!("{} is in no Auto Scaling group: nothing would replace it", input.case.instance_id()),
        ),
    }
}

/// Somebody set it aside, or it comes, goes, or waits in a warm pool.
pub fn not_in_service(input: &GuardContext<'_>) -> Option<Block> {
    let InstanceLocation::Member { lifecycle, .. } = input.context.location else {
        return None;
    };
    let state = match lifecycle {
        Lifecycle::InService => return None,
        // A replacement that never joins hangs here, and is what this repair is for.
        Lifecycle::Pending if input.fault.reason == "FailedToJoin" => return None,
        Lifecycle::Pending => "still launching",
        Lifecycle::OutOfService => "on standby or detached",
        Lifecycle::Terminating => "already terminating",
        Lifecycle::WarmPool => "in a warm pool, and cannot be terminated through its group",
    };
    block(Guard::NotInService, format!("{} is {state}", input.case.instance_id()))
}

/// With Terminate suspended the call is refused; with Launch suspended nothing comes in its place.
pub fn scaling_suspended(input: &GuardContext<'_>) -> Option<Block> {
    let suspended = &input.context.group?.suspended;
    let process = suspended.iter().find(|process| matches!(process.as_str(), "Launch" | "Terminate"))?;
    block(
        Guard::ScalingSuspended,
        format!("the process {process} is suspended in group {}", group_name(input)),
    )
}

/// The agent's word counts for the boot that it was said in.
pub fn fenced(input: &GuardContext<'_>) -> Option<Block> {
    let boot = input.case.boot();
    let unfounded = input.fault.source == Source::Agent && boot.is_none();
    if !unfounded {
        return None;
    }
    block(Guard::Fenced, "the agent has not reported from the current boot".to_owned())
}

/// Holds: of everything, a cluster, a group or a node.
pub fn held(input: &GuardContext<'_>) -> Option<Block> {
    let mine = |hold: &&Hold| {
        hold.until > input.now
            && hold.from.is_none_or(|from| from <= input.now)
            && hold.cluster.as_ref().is_none_or(|cluster| cluster == input.case.cluster())
            && hold.group.as_ref().is_none_or(|group| group == input.context.state.name())
            && hold.node.as_ref().is_none_or(|node| Some(node) == input.case.node())
    };
    let hold =
        input.policy.holds.iter().chain(input.context.holds).filter(mine).max_by_key(|hold| hold.until)?;
    let what = match (&hold.node, &hold.group, &hold.cluster) {
        (Some(node), ..) => format!("node {node}"),
        (_, Some(group), _) => format!("group {group}"),
        (_, _, Some(cluster)) => format!("cluster {cluster}"),
        _ => "everything".to_owned(),
    };
    let sentence =
        format!("{} holds {what} until {}: {}", hold.owner, timestamp::seconds(hold.until), hold.reason);
    Some(Block { guard: Guard::Held, sentence, until: Some(hold.until) })
}

/// Windows limit when calls may be made; where there is none they may always.
pub fn outside_maintenance_window(input: &GuardContext<'_>) -> Option<Block> {
    let windows = input.rules.maintenance_windows;
    if windows.is_empty() || windows.iter().any(|window| window.contains(input.now)) {
        return None;
    }
    let until = next_opening(windows, input.now);
    let sentence = match until {
        Some(opens) => format!("the next maintenance window opens at {}", timestamp::seconds(opens)),
        None => "no maintenance window is open".to_owned(),
    };
    Some(Block { guard: Guard::OutsideMaintenanceWindow, sentence, until })
}

/// EKS's own stop: more than five nodes and more than 20 % of them unhealthy, or the configured threshold.
/// What waits is named, and goes on when enough have recovered.
pub fn unhealthy_threshold(input: &GuardContext<'_>) -> Option<Block> {
    let group = input.context.group?;
    let unhealthy = input.context.unhealthy_in_group;
    let size = group.size();
    let (exceeded, limit) = match input.rules.node_repair_config.max_unhealthy_node_threshold {
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
            group_name(input)
        ),
    )
}

/// One zone dark, the others well: replacing its nodes would launch more of them into the dark.
pub fn zone_impaired(input: &GuardContext<'_>) -> Option<Block> {
    let zone =
        input.case.zone().or_else(|| Some(&input.context.group?.member(input.case.instance_id())?.zone))?;
    if input.context.cluster.zonal_shifts.contains(zone) {
        return block(Guard::ZoneImpaired, format!("an ARC zonal shift is active for {zone}"));
    }
    let (of_zone, in_all) =
        (input.context.cluster.zones.get(zone).copied().unwrap_or(0), input.context.cluster.zones.len());
    let all = input.context.unhealthy_counts.unhealthy;
    let here = input.context.unhealthy_counts.by_zone.get(zone).copied().unwrap_or(0);
    let limits = &input.policy.zones;
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
            "{here} of the {of_zone} nodes in {zone} are unhealthy (cluster: {all}): the Availability Zone appears impaired"
        ),
    )
}

/// Most of a cluster fell silent at once: nobody can say which of its nodes are well.
pub fn log_pipeline_suspect(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.silence;
    let nodes = input.context.cluster.nodes();
    let at_once = input.context.unhealthy_counts.silent_at_once;
    if at_once < limits.min_silent || at_once * 100 < nodes * limits.percentage {
        return None;
    }
    block(
        Guard::LogPipelineSuspect,
        format!(
            "{at_once} of {nodes} nodes went silent within {}: the log pipeline appears down, not the nodes",
            timestamp::duration(limits.within)
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
pub fn replacements_failing(input: &GuardContext<'_>) -> Option<Block> {
    let until = input.context.state.backoff_until(input.policy).filter(|until| *until > input.now)?;
    let failures = input.context.state.failures();
    let sentence = format!(
        "backoff until {}: the last {failures} replacement{} of group {} failed to join",
        timestamp::seconds(until),
        if failures == 1 { "" } else { "s" },
        group_name(input)
    );
    Some(Block { guard: Guard::ReplacementsFailing, sentence, until: Some(until) })
}

/// `maxParallelNodesRepaired…`; a percentage is one of the unhealthy nodes, as in EKS.
pub fn parallel_limit(input: &GuardContext<'_>) -> Option<Block> {
    let limit = input.rules.node_repair_config.max_parallel_nodes_repaired?;
    if input.context.state.slot(input.case.instance_id()).is_some() {
        return None;
    }
    let under_way = input.context.state.slots().len();
    let allowed = limit.of(input.context.unhealthy_in_group.max(1));
    if under_way < allowed {
        return None;
    }
    block(
        Guard::ParallelLimit,
        format!("{under_way} repairs are in progress in group {}, the limit is {allowed}", group_name(input)),
    )
}

/// The last one: everything else would let it pass.
pub fn observe_mode(input: &GuardContext<'_>) -> Option<Block> {
    match input.rules.mode {
        Mode::Repair => None,
        Mode::Observe => {
            let action = input.fault.action.as_str();
            block(
                Guard::ObserveMode,
                format!("observe mode: would {}; no action taken", action.to_lowercase()),
            )
        }
    }
}
