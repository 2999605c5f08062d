//! The guards against an outage: what is broken is not in the nodes, or not in each of them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Block, CountedNodes, GroupCounts, Guard, GuardContext, block, block_until, group_name};
use crate::{ident::Zone, policy::Policy, timestamp};

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
    /// How many nodes of each zone run, and count neither as healthy nor as unhealthy.
    pub set_aside: BTreeMap<Zone, usize>,
}

impl UnhealthyCounts {
    /// Counts the unhealthy nodes of a cluster.
    pub fn of(counted: &CountedNodes, policy: &Policy, now: Timestamp) -> Self {
        let mut unhealthy_counts = Self { set_aside: counted.set_aside.clone(), ..Self::default() };
        let (mut silences, mut unreachable) = (Vec::new(), Vec::new());
        for node in &counted.nodes {
            if node.unhealthy_reason.unhealthy {
                unhealthy_counts.unhealthy += 1;
                if let Some(zone) = &node.zone {
                    *unhealthy_counts.by_zone.entry(zone.clone()).or_default() += 1;
                }
            }
            unhealthy_counts.repairing += usize::from(node.unhealthy_reason.repairing);
            // A long silent agent proves nothing about other nodes, if its kubelet still reports.
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

/// EKS's own threshold: more than five nodes and more than 20 % of them unhealthy, or the configured one. Repairs
/// continue when enough nodes have recovered.
pub(super) fn unhealthy_threshold(input: &GuardContext<'_>) -> Option<Block> {
    input.context.group?;
    let GroupCounts { unhealthy, size } = input.context.group_counts;
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
pub(super) fn cluster_threshold(input: &GuardContext<'_>) -> Option<Block> {
    let limits = &input.policy.outage;
    let counts = input.context.unhealthy_counts;
    let nodes = input.context.cluster.nodes().saturating_sub(counts.set_aside.values().sum());
    let unhealthy = counts.unhealthy;
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
pub(super) fn zone_impaired(input: &GuardContext<'_>) -> Option<Block> {
    // By Auto Scaling first: what the node itself reports can be false.
    let member = input.context.group.and_then(|group| group.member(input.case.instance_id()));
    let zone = member.map(|member| &member.zone).or(input.case.zone())?;
    if input.context.cluster.zonal_shifts.contains(zone) {
        return block(Guard::ZoneImpaired, format!("an ARC zonal shift is active for {zone}"));
    }
    let zones = input.context.cluster.zones.len();
    let set_aside = input.context.unhealthy_counts.set_aside.get(zone).copied().unwrap_or(0);
    let of_zone = input.context.cluster.zones.get(zone).copied().unwrap_or(0).saturating_sub(set_aside);
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

/// Most of a cluster became silent at once: what is down is the way that its reports take. Agents that report while
/// their kubelets no longer reach the control plane show which way; two such nodes are enough, where they are most of a cluster.
pub(super) fn log_pipeline_suspect(input: &GuardContext<'_>) -> Option<Block> {
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
pub(super) fn outage_ending(input: &GuardContext<'_>) -> Option<Block> {
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
    block_until(Guard::OutageEnding, sentence, latest.checked_add(cooldown).ok())
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
