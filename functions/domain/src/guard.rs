//! The guards: each is one function that can block a due repair, with a message for the operator.
//!
//! A guard checks a due repair and its context. It passes, or returns why it blocks, and until when if that is known.
//! Guards do not depend on each other, and all are evaluated each time, so that an operator sees everything that blocks
//! at once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    case::{Case, Fault, Source, UnhealthyReason},
    group::{ClusterFacts, Group, GroupState, InstanceLocation, Lifecycle, ReplacedFor},
    ident::{InstanceId, Zone},
    policy::{Hold, Mode, Policy, Rules, VerificationPolicy, next_opening},
    timestamp,
    verification::Verification,
};

/// The input of a guard.
#[derive(Debug, Clone, Copy)]
pub struct GuardContext<'a> {
    /// The case whose repair is due.
    pub case: &'a Case,
    /// The fault that is due.
    pub fault: &'a Fault,
    /// What was read about its surroundings.
    pub context: &'a DecisionContext<'a>,
    /// The rules of the group.
    pub rules: Rules<'a>,
    /// The policy of the cluster.
    pub policy: &'a Policy,
    /// The time of the decision, by our clock.
    pub now: Timestamp,
}

/// What a decision needs besides the case.
#[derive(Debug, Clone, Copy)]
pub struct DecisionContext<'a> {
    /// Where AWS reports the instance.
    pub location: &'a InstanceLocation,
    /// Its group, as AWS describes it.
    pub group: Option<&'a Group>,
    /// Our repairs in that group.
    pub state: &'a GroupState,
    /// The facts about the whole cluster.
    pub cluster: &'a ClusterFacts,
    /// The cluster's unhealthy nodes, counted.
    pub unhealthy_counts: &'a UnhealthyCounts,
    /// The cluster's unhealthy nodes.
    pub unhealthy_nodes: &'a [UnhealthyNode],
    /// How many of its unhealthy nodes are in the group.
    pub unhealthy_in_group: usize,
    /// Whether an instance of the group is or was a node.
    pub group_has_nodes: bool,
    /// The holds that operators placed.
    pub holds: &'a [Hold],
    /// What verification found, once everything else lets the repair pass.
    pub verification: Option<&'a Verification>,
}

/// One of a cluster's unhealthy nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnhealthyNode {
    /// The id of its EC2 instance.
    pub instance_id: InstanceId,
    /// Its Availability Zone, once known.
    pub zone: Option<Zone>,
    /// Why it counts as unhealthy.
    pub unhealthy_reason: UnhealthyReason,
}

/// After this, the silence of an agent alone no longer counts as a failure of the log pipeline.
const LONG_SILENCE: SignedDuration = SignedDuration::from_hours(1);

/// The counts of a cluster's unhealthy nodes, computed once for all decisions of a repair run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnhealthyCounts {
    /// How many nodes are unhealthy.
    pub unhealthy: usize,
    /// How many of them are in each zone.
    pub by_zone: BTreeMap<Zone, usize>,
    /// The maximum number of nodes that became silent within the policy's `silence.within`.
    pub silent_at_once: usize,
    /// The same of the nodes whose agents report all the while.
    pub unreachable_at_once: usize,
    /// How many have a repair in progress.
    pub repairing: usize,
}

impl UnhealthyCounts {
    /// Counts the unhealthy nodes of a cluster.
    pub fn of(unhealthy_nodes: &[UnhealthyNode], policy: &Policy, now: Timestamp) -> Self {
        let mut unhealthy_counts = Self::default();
        let (mut silences, mut unreachable) = (Vec::new(), Vec::new());
        for node in unhealthy_nodes {
            if node.unhealthy_reason.unhealthy {
                unhealthy_counts.unhealthy += 1;
                if let Some(zone) = &node.zone {
                    *unhealthy_counts.by_zone.entry(zone.clone()).or_default() += 1;
                }
            }
            unhealthy_counts.repairing += usize::from(node.unhealthy_reason.repairing);
            // An agent that has long been silent, of a node that the control plane hears, says nothing of the others.
            let counts = |since: &Timestamp| {
                node.unhealthy_reason.unhealthy || now.duration_since(*since) < LONG_SILENCE
            };
            silences.extend(node.unhealthy_reason.silent_since.filter(counts));
            if node.unhealthy_reason.agent_reports {
                unreachable.extend(node.unhealthy_reason.silent_since);
            }
        }
        silences.sort_unstable();
        unreachable.sort_unstable();
        unhealthy_counts.silent_at_once = most_within(&silences, policy.silence.within);
        unhealthy_counts.unreachable_at_once = most_within(&unreachable, policy.silence.within);
        unhealthy_counts
    }
}

/// How many of a group's nodes are unhealthy.
pub fn unhealthy_in(group: &Group, unhealthy_nodes: &[UnhealthyNode]) -> usize {
    // The smaller set in a healthy cluster.
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
    /// The group has the opt-out tag.
    OptedOut,
    /// The instance is in no Auto Scaling group.
    NotInGroup,
    /// The instance is not in service in its group.
    NotInService,
    /// No instance of the group was ever a node.
    NoNodeInGroup,
    /// The group's process Launch or Terminate is suspended.
    ScalingSuspended,
    /// The agent's reports are not from the current boot.
    Fenced,
    /// An operator's hold covers the node.
    Held,
    /// No maintenance window is open.
    OutsideMaintenanceWindow,
    /// Too many of the group's nodes are unhealthy: the cause is probably not in the nodes.
    UnhealthyThreshold,
    /// Too many of the cluster's nodes are unhealthy, across all groups.
    ClusterThreshold,
    /// The Availability Zone appears impaired, not its nodes.
    ZoneImpaired,
    /// The log pipeline appears down, not the nodes.
    LogPipelineSuspect,
    /// Nodes of the group are just coming back from an outage.
    OutageEnding,
    /// A replacement has the fault that its predecessor was replaced for.
    SameFaultAgain,
    /// The group's last replacements failed to join.
    ReplacementsFailing,
    /// The group has the maximum number of repairs in progress.
    ParallelLimit,
    /// Repairs for one reason begin with one.
    GradualLimit,
    /// Whether the fault is still there could not be read.
    Unverified,
    /// The policy's mode is observe: no calls are made.
    ObserveMode,
}

/// A guard's answer that blocks a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The guard that blocks.
    pub guard: Guard,
    /// Why it blocks, as one clause for operators.
    pub sentence: String,
    /// When it will no longer block, if that is known.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

type Check = fn(&GuardContext<'_>) -> Option<Block>;

/// All guards. Those that block until an operator changes something are first.
pub const GUARDS: [(Guard, Check); 21] = [
    (Guard::Disabled, disabled),
    (Guard::EksRepairEnabled, eks_repair_enabled),
    (Guard::OptedOut, opted_out),
    (Guard::NotInGroup, not_in_group),
    (Guard::NotInService, not_in_service),
    (Guard::NoNodeInGroup, no_node_in_group),
    (Guard::ScalingSuspended, scaling_suspended),
    (Guard::Fenced, fenced),
    (Guard::Held, held),
    (Guard::OutsideMaintenanceWindow, outside_maintenance_window),
    (Guard::UnhealthyThreshold, unhealthy_threshold),
    (Guard::ClusterThreshold, cluster_threshold),
    (Guard::ZoneImpaired, zone_impaired),
    (Guard::LogPipelineSuspect, log_pipeline_suspect),
    (Guard::OutageEnding, outage_ending),
    (Guard::SameFaultAgain, same_fault_again),
    (Guard::ReplacementsFailing, replacements_failing),
    (Guard::ParallelLimit, parallel_limit),
    (Guard::GradualLimit, gradual_limit),
    (Guard::Unverified, unverified),
    (Guard::ObserveMode, observe_mode),
];

/// Evaluates every guard. Returns those that block, in the order of [`GUARDS`].
pub fn evaluate_all(input: &GuardContext<'_>) -> Vec<Block> {
    GUARDS.iter().filter_map(|(_, check)| check(input)).collect()
}

impl Guard {
    /// Whether it blocks because many nodes are unhealthy at once.
    pub fn is_of_an_outage(self) -> bool {
        matches!(
            self,
            Self::UnhealthyThreshold
                | Self::ClusterThreshold
                | Self::ZoneImpaired
                | Self::LogPipelineSuspect
                | Self::OutageEnding
        )
    }

    /// The name in audit records, logs and tables.
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

/// EKS repairs a managed group with node auto repair itself: two repair systems would terminate two instances for one
/// fault.
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

/// An instance in no group would be terminated without a replacement.
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

/// An instance that is launching, terminating, on standby, detached or in a warm pool is not repaired.
pub fn not_in_service(input: &GuardContext<'_>) -> Option<Block> {
    let InstanceLocation::Member { lifecycle, .. } = input.context.location else {
        return None;
    };
    let state = match lifecycle {
        Lifecycle::InService => return None,
        // An instance that fails to join can stay in Pending: it is the one to repair.
        Lifecycle::Pending if input.fault.reason == "FailedToJoin" => return None,
        Lifecycle::Pending => "still launching",
        Lifecycle::OutOfService => "on standby or detached",
        Lifecycle::Terminating => "already terminating",
        Lifecycle::WarmPool => "in a warm pool, and cannot be terminated through its group",
    };
    block(Guard::NotInService, format!("{} is {state}", input.case.instance_id()))
}

/// Not every instance is a node: an Auto Scaling group of a cluster can hold proxies, bastions or build machines.
pub fn no_node_in_group(input: &GuardContext<'_>) -> Option<Block> {
    if input.fault.reason != "FailedToJoin" || input.context.group_has_nodes {
        return None;
    }
    block(
        Guard::NoNodeInGroup,
        format!("no instance of group {} has ever registered as a node of this cluster", group_name(input)),
    )
}

/// With Terminate suspended AWS refuses the call; with Launch suspended it launches no replacement.
pub fn scaling_suspended(input: &GuardContext<'_>) -> Option<Block> {
    let suspended = &input.context.group?.suspended;
    let process = suspended.iter().find(|process| matches!(process.as_str(), "Launch" | "Terminate"))?;
    block(
        Guard::ScalingSuspended,
        format!("the process {process} is suspended in group {}", group_name(input)),
    )
}

/// An agent's reports count only for the boot that they are from.
pub fn fenced(input: &GuardContext<'_>) -> Option<Block> {
    let boot = input.case.boot();
    let has_no_boot = input.fault.source == Source::Agent && boot.is_none();
    if !has_no_boot {
        return None;
    }
    block(Guard::Fenced, "the agent has not reported from the current boot".to_owned())
}

/// Holds: of everything, a cluster, a group or a node.
pub fn held(input: &GuardContext<'_>) -> Option<Block> {
    let applies = |hold: &&Hold| {
        hold.until > input.now
            && hold.from.is_none_or(|from| from <= input.now)
            && hold.cluster.as_ref().is_none_or(|cluster| cluster == input.case.cluster())
            && hold.group.as_ref().is_none_or(|group| group == input.context.state.name())
            && hold.node.as_ref().is_none_or(|node| Some(node) == input.case.node())
    };
    let hold =
        input.policy.holds.iter().chain(input.context.holds).filter(applies).max_by_key(|hold| hold.until)?;
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

/// Calls are made only in maintenance windows. Without any, they are always made.
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

/// EKS's own threshold: more than five nodes and more than 20 % of them unhealthy, or the configured one. Repairs
/// continue when enough nodes have recovered.
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

/// Many unhealthy nodes in several groups have one cause, too: a broken image, CNI configuration or control plane. The
/// default is cluster-autoscaler's: more than 3 nodes and more than 45 %.
pub fn cluster_threshold(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.outage;
    let (unhealthy, nodes) = (input.context.unhealthy_counts.unhealthy, input.context.cluster.nodes());
    if unhealthy <= limits.max_unhealthy || unhealthy * 100 <= nodes * limits.percentage {
        return None;
    }
    block(
        Guard::ClusterThreshold,
        format!(
            "{unhealthy} of {nodes} nodes of the cluster are unhealthy, more than {} %",
            limits.percentage
        ),
    )
}

/// If a zone is impaired, replacing its nodes would launch others in the same zone.
pub fn zone_impaired(input: &GuardContext<'_>) -> Option<Block> {
    let zone =
        input.case.zone().or_else(|| Some(&input.context.group?.member(input.case.instance_id())?.zone))?;
    if input.context.cluster.zonal_shifts.contains(zone) {
        return block(Guard::ZoneImpaired, format!("an ARC zonal shift is active for {zone}"));
    }
    let (of_zone, zones) =
        (input.context.cluster.zones.get(zone).copied().unwrap_or(0), input.context.cluster.zones.len());
    let all = input.context.unhealthy_counts.unhealthy;
    let unhealthy = input.context.unhealthy_counts.by_zone.get(zone).copied().unwrap_or(0);
    let limits = &input.policy.zones;
    let impaired = zones > 1
        && unhealthy >= limits.min_unhealthy
        && unhealthy * 100 >= of_zone * limits.zone_percentage
        && unhealthy * 100 >= all * limits.share_percentage;
    if !impaired {
        return None;
    }
    block(
        Guard::ZoneImpaired,
        format!(
            "{unhealthy} of the {of_zone} nodes in {zone} are unhealthy (cluster: {all}): the Availability Zone appears impaired"
        ),
    )
}

/// Most of a cluster became silent at once: what is down is the way that its reports take. Agents that report while the
/// control plane does not hear their kubelets show which way; two such nodes are enough, where they are most of a cluster.
pub fn log_pipeline_suspect(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.silence;
    let nodes = input.context.cluster.nodes();
    let counts = input.context.unhealthy_counts;
    let most = |count: usize| count * 100 >= nodes * limits.percentage;
    let silent = counts.silent_at_once >= limits.min_silent && most(counts.silent_at_once);
    let unreachable = counts.unreachable_at_once >= 2 && most(counts.unreachable_at_once);
    let within = timestamp::duration(limits.within);
    let sentence = match (silent, unreachable) {
        (_, true) => format!(
            "{} of {nodes} nodes became unreachable within {within} while their agents report: the way from the kubelets to the API server appears down, not the nodes",
            counts.unreachable_at_once
        ),
        (true, false) => format!(
            "{} of {nodes} nodes went silent within {within}: the log pipeline appears down, not the nodes",
            counts.silent_at_once
        ),
        (false, false) => return None,
    };
    block(Guard::LogPipelineSuspect, sentence)
}

/// The last nodes that come back after an outage are as healthy as the others, seconds later. After a stop, a group waits
/// until no node of it has recovered for a while; one node that recovers alone is no outage.
pub fn outage_ending(input: &GuardContext<'_>) -> Option<Block> {
    let cooldown = input.policy.outage.cooldown;
    let halted_at = input.context.state.halted_at()?;
    if input.now.duration_since(halted_at) > cooldown + SignedDuration::from_secs(120) {
        return None;
    }
    let group = input.context.group?;
    let recovered: Vec<Timestamp> = input
        .context
        .unhealthy_nodes
        .iter()
        .filter(|node| group.member(&node.instance_id).is_some())
        .filter_map(|node| node.unhealthy_reason.recovered)
        .filter(|recovered| input.now.duration_since(*recovered) < cooldown)
        .collect();
    let latest = recovered.iter().max().filter(|_| recovered.len() > 1)?;
    let sentence = format!(
        "{} nodes of group {} have recovered within {}: the outage appears to end",
        recovered.len(),
        group_name(input),
        timestamp::duration(cooldown)
    );
    Some(Block { guard: Guard::OutageEnding, sentence, until: latest.checked_add(cooldown).ok() })
}

/// A replacement that has the very fault that its predecessor was replaced for shows that replacing does not help.
pub fn same_fault_again(input: &GuardContext<'_>) -> Option<Block> {
    if !input.policy.outage.gradual {
        return None;
    }
    let reason = &input.fault.reason;
    let has_it = |replaced: &&ReplacedFor| {
        if replaced.instance_id == *input.case.instance_id() {
            return replaced.is_repeated_by(reason, input.fault.since);
        }
        let same = |node: &&UnhealthyNode| node.instance_id == replaced.instance_id;
        let found = input.context.unhealthy_nodes.iter().find(same).map(|node| &node.unhealthy_reason);
        found.is_some_and(|found| {
            found.reason.as_ref() == Some(reason) && replaced.is_repeated_by(reason, found.since)
        })
    };
    let again = &input.context.state.replacements().iter().find(has_it)?.instance_id;
    let zone = input.context.group.and_then(|group| group.member(again)).map(|member| &member.zone);
    let zone = zone.map(|zone| format!(" in {zone}")).unwrap_or_default();
    block(
        Guard::SameFaultAgain,
        format!(
            "{again}{zone} replaced a node of group {} for {reason} and has the same fault: the cause appears to be in what they share, such as the image or the launch template",
            group_name(input)
        ),
    )
}

/// The maximum number of timestamps within one window of this duration.
fn most_within(sorted: &[Timestamp], window: SignedDuration) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (last, at) in sorted.iter().enumerate() {
        while at.duration_since(sorted[first]) > window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// A group whose replacements fail to join loses capacity with each repair, so it waits for the end of its backoff.
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

/// Repairs of a group for one reason begin with one, and go on with 2, 4, … at a time as replacements become Ready. In a
/// small group, and in a small cluster, they go one at a time.
pub fn gradual_limit(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.outage;
    let (state, instance_id) = (input.context.state, input.case.instance_id());
    if !limits.gradual || state.slot(instance_id).is_some() {
        return None;
    }
    let nodes = input.context.cluster.nodes();
    if nodes <= limits.small && input.context.unhealthy_counts.repairing > 0 {
        let sentence =
            format!("a repair is in progress in the cluster, which has {nodes} nodes: one at a time");
        return block(Guard::GradualLimit, sentence);
    }
    let size = input.context.group.map_or(0, Group::size);
    if size <= limits.small && !state.slots().is_empty() {
        let sentence = format!(
            "a repair is in progress in group {}, which has {size} nodes: one at a time",
            group_name(input)
        );
        return block(Guard::GradualLimit, sentence);
    }
    let reason = &input.fault.reason;
    let in_progress = state.slots().iter().filter(|slot| slot.reason == *reason).count();
    let limit = state.gradual_limit(reason, input.now);
    if in_progress < limit {
        return None;
    }
    block(
        Guard::GradualLimit,
        format!(
            "{in_progress} repair{} in progress for {reason} in group {}: more follow when {} Ready",
            if in_progress == 1 { " is" } else { "s are" },
            group_name(input),
            if in_progress == 1 { "its replacement is" } else { "their replacements are" },
        ),
    )
}

/// Right before the call, the fault is read again from where it is kept. What cannot be read is not repaired.
pub fn unverified(input: &GuardContext<'_>) -> Option<Block> {
    unverified_block(input.context.verification?, input.policy)
}

/// What a verification has against a repair.
pub fn unverified_block(verification: &Verification, policy: &Policy) -> Option<Block> {
    let failure = verification.failure.as_ref()?;
    if policy.verification == VerificationPolicy::Preferred {
        return None;
    }
    block(Guard::Unverified, format!("could not verify that the fault is still there: {failure}"))
}

/// Evaluated last: in observe mode, a repair that only this blocks is recorded as one that would be made.
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
