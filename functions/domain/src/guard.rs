//! The guards: each is one function that can block a due repair, with a message for the operator.
//!
//! A guard checks a due repair and its context. It passes, or returns why it blocks, and until when if that is known.
//! Guards do not depend on each other, and all are evaluated each time, so that an operator sees everything that blocks
//! at once.

mod counts;
mod instance;
mod operator;
mod outage;
mod pace;
mod source_behind;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    counts::{CountedNodes, GroupCounts, GroupTags},
    instance::unverified_block,
    outage::UnhealthyCounts,
};
use crate::{
    case::{Case, Fault, UnhealthyReason},
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    ident::{InstanceId, Zone},
    policy::{Hold, Policy, Rules},
    sources::ClusterSources,
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
    /// What was read besides the case.
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
    /// The two halves of the group's threshold.
    pub group_counts: GroupCounts,
    /// Whether an instance of the group is or was a node.
    pub group_has_nodes: bool,
    /// The holds that operators placed.
    pub holds: &'a [Hold],
    /// What is known of the cluster's sources, once reconciling has checked them.
    pub sources: Option<&'a ClusterSources>,
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
    /// The source that reported the fault is behind.
    SourceBehind,
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
    /// Its instance is out of service, or in no group: once it is back, it gets its time to become Ready.
    #[serde(skip)]
    pub out_of_service: bool,
}

type Check = fn(&GuardContext<'_>) -> Option<Block>;

/// All guards. Those that block until an operator changes something are first.
pub const GUARDS: [(Guard, Check); 22] = [
    (Guard::Disabled, operator::disabled),
    (Guard::EksRepairEnabled, operator::eks_repair_enabled),
    (Guard::OptedOut, operator::opted_out),
    (Guard::NotInGroup, instance::not_in_group),
    (Guard::NotInService, instance::not_in_service),
    (Guard::NoNodeInGroup, instance::no_node_in_group),
    (Guard::ScalingSuspended, instance::scaling_suspended),
    (Guard::Fenced, instance::fenced),
    (Guard::Held, operator::held),
    (Guard::OutsideMaintenanceWindow, operator::outside_maintenance_window),
    (Guard::UnhealthyThreshold, outage::unhealthy_threshold),
    (Guard::ClusterThreshold, outage::cluster_threshold),
    (Guard::ZoneImpaired, outage::zone_impaired),
    (Guard::LogPipelineSuspect, outage::log_pipeline_suspect),
    (Guard::OutageEnding, outage::outage_ending),
    (Guard::SameFaultAgain, pace::same_fault_again),
    (Guard::ReplacementsFailing, pace::replacements_failing),
    (Guard::ParallelLimit, pace::parallel_limit),
    (Guard::GradualLimit, pace::gradual_limit),
    (Guard::SourceBehind, source_behind::source_behind),
    (Guard::Unverified, instance::unverified),
    (Guard::ObserveMode, operator::observe_mode),
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

    /// Whether nobody wants the repair that it blocks: no alarm is raised for it.
    pub fn is_by_choice(self) -> bool {
        matches!(
            self,
            Self::Disabled | Self::EksRepairEnabled | Self::OptedOut | Self::NotInGroup | Self::ObserveMode
        )
    }

    /// The name in audit records, logs and tables.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Whether nobody wants the repair that guards of these names block, whatever else blocks it.
pub fn is_unwanted(names: &[String]) -> bool {
    GUARDS.iter().any(|(guard, _)| guard.is_by_choice() && names.contains(&guard.name()))
}

fn block(guard: Guard, sentence: String) -> Option<Block> {
    block_until(guard, sentence, None)
}

fn block_until(guard: Guard, sentence: String, until: Option<Timestamp>) -> Option<Block> {
    Some(Block { guard, sentence, until, out_of_service: false })
}

fn group_name<'a>(input: &GuardContext<'a>) -> &'a str {
    input.context.state.name().as_str()
}
