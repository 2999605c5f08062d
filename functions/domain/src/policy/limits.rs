//! EKS's `nodeRepairConfig`: its fields, their validation, and how its limits are applied.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::condition::{ConditionType, RepairAction};

/// EKS's `nodeRepairConfig` block. Disabled by default, as in EKS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct NodeRepairConfig {
    /// Whether this group is repaired at all.
    pub enabled: bool,
    /// Repairs stop above this number of unhealthy nodes. None: EKS's rule, above 20 % of more than five nodes.
    pub max_unhealthy_node_threshold: Option<Limit>,
    /// The maximum number of parallel repairs. A percentage is one of the unhealthy nodes. None: no limit, as in EKS.
    pub max_parallel_nodes_repaired: Option<Limit>,
    /// Actions and grace periods for single reasons.
    pub overrides: Vec<Override>,
}

/// A maximum number of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A number of nodes.
    Count(u32),
    /// A percentage of nodes, 1 to 100.
    Percentage(u32),
}

/// The action and the grace period for one condition and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The condition's type.
    pub node_monitoring_condition: ConditionType,
    /// The reason, as in the catalogue.
    pub node_unhealthy_reason: String,
    /// The grace period.
    pub min_repair_wait_time: SignedDuration,
    /// The repair action after it.
    pub repair_action: RepairAction,
}

impl NodeRepairConfig {
    /// The entry for a condition and reason.
    pub fn override_for(&self, condition: &ConditionType, reason: &str) -> Option<&Override> {
        self.overrides.iter().find(|entry| {
            entry.node_monitoring_condition == *condition && entry.node_unhealthy_reason == reason
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    /// Enables repair for the group.
    #[serde(default)]
    enabled: bool,
    /// Repairs stop above this number of unhealthy nodes. Default: above 20 % of more than five nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_unhealthy_node_threshold_count: Option<Number>,
    /// The same as a percentage of the group's nodes, 1 to 100. Set only one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_unhealthy_node_threshold_percentage: Option<Number>,
    /// The maximum number of parallel repairs. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_parallel_nodes_repaired_count: Option<Number>,
    /// The same as a percentage of the unhealthy nodes, 1 to 100; at least one node. Set only one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_parallel_nodes_repaired_percentage: Option<Number>,
    /// Actions and grace periods for one condition and reason each. All four fields are required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    node_repair_config_overrides: Vec<WireOverride>,
}

type Number = i64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireOverride {
    /// The condition's type.
    node_monitoring_condition: ConditionType,
    /// The reason.
    node_unhealthy_reason: String,
    /// The grace period in minutes, 1 to 10,080.
    min_repair_wait_time_mins: Number,
    /// The repair action: `Replace`, `Reboot` or `NoAction`.
    repair_action: RepairAction,
}

impl TryFrom<Wire> for NodeRepairConfig {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let overrides = wire.node_repair_config_overrides.into_iter().enumerate();
        Ok(Self {
            enabled: wire.enabled,
            max_unhealthy_node_threshold: limit(
                "maxUnhealthyNodeThreshold",
                wire.max_unhealthy_node_threshold_count,
                wire.max_unhealthy_node_threshold_percentage,
            )?,
            max_parallel_nodes_repaired: limit(
                "maxParallelNodesRepaired",
                wire.max_parallel_nodes_repaired_count,
                wire.max_parallel_nodes_repaired_percentage,
            )?,
            overrides: overrides
                .map(|(n, wire)| {
                    let minutes = wire.min_repair_wait_time_mins;
                    if !(1..=10_080).contains(&minutes) {
                        return Err(format!(
                            "nodeRepairConfigOverrides[{n}].minRepairWaitTimeMins: {minutes} is not between 1 and 10080"
                        ));
                    }
                    Ok(Override {
                        node_monitoring_condition: wire.node_monitoring_condition,
                        node_unhealthy_reason: wire.node_unhealthy_reason,
                        min_repair_wait_time: SignedDuration::from_mins(minutes),
                        repair_action: wire.repair_action,
                    })
                })
                .collect::<Result<_, _>>()?,
        })
    }
}

fn limit(field: &str, count: Option<Number>, percentage: Option<Number>) -> Result<Option<Limit>, String> {
    let number = |suffix: &str, value: Number, max: Number| {
        u32::try_from(value)
            .ok()
            .filter(|_| (1..=max).contains(&value))
            .ok_or_else(|| format!("{field}{suffix}: {value} is not between 1 and {max}"))
    };
    match (count, percentage) {
        (Some(_), Some(_)) => {
            Err(format!("{field}Count and {field}Percentage are both set: EKS takes one of the two"))
        }
        (Some(count), None) => Ok(Some(Limit::Count(number("Count", count, 1_000_000)?))),
        (None, Some(percentage)) => Ok(Some(Limit::Percentage(number("Percentage", percentage, 100)?))),
        (None, None) => Ok(None),
    }
}

impl From<NodeRepairConfig> for Wire {
    fn from(config: NodeRepairConfig) -> Self {
        let parts = |limit: Option<Limit>| match limit {
            Some(Limit::Count(count)) => (Some(count.into()), None),
            Some(Limit::Percentage(percentage)) => (None, Some(percentage.into())),
            None => (None, None),
        };
        let (threshold_count, threshold_percentage) = parts(config.max_unhealthy_node_threshold);
        let (parallel_count, parallel_percentage) = parts(config.max_parallel_nodes_repaired);
        Self {
            enabled: config.enabled,
            max_unhealthy_node_threshold_count: threshold_count,
            max_unhealthy_node_threshold_percentage: threshold_percentage,
            max_parallel_nodes_repaired_count: parallel_count,
            max_parallel_nodes_repaired_percentage: parallel_percentage,
            node_repair_config_overrides: config
                .overrides
                .into_iter()
                .map(|entry| WireOverride {
                    node_monitoring_condition: entry.node_monitoring_condition,
                    node_unhealthy_reason: entry.node_unhealthy_reason,
                    min_repair_wait_time_mins: entry.min_repair_wait_time.as_mins(),
                    repair_action: entry.repair_action,
                })
                .collect(),
        }
    }
}

impl Limit {
    /// How many of `nodes` the limit allows. A percentage rounds down, but allows at least one node if there is one:
    /// otherwise a small group could never be repaired.
    pub fn of(self, nodes: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percentage(percentage) => (nodes * percentage as usize / 100).max(nodes.min(1)),
        }
    }

    /// Whether `part` nodes of `whole` are more than the limit allows. Percentages are compared without rounding.
    pub fn is_exceeded_by(self, part: usize, whole: usize) -> bool {
        match self {
            Self::Count(count) => part > count as usize,
            Self::Percentage(percentage) => part * 100 > whole * percentage as usize,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percentage(percentage) => write!(f, "{percentage} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<NodeRepairConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_eks_refuses_is_refused_with_the_name_of_the_field() {
        for (json, expected) in [
            (
                r#"{"maxUnhealthyNodeThresholdCount":1,"maxUnhealthyNodeThresholdPercentage":20}"#,
                "maxUnhealthyNodeThresholdCount and maxUnhealthyNodeThresholdPercentage are both set",
            ),
            (
                r#"{"maxParallelNodesRepairedCount":1,"maxParallelNodesRepairedPercentage":20}"#,
                "maxParallelNodesRepairedCount and maxParallelNodesRepairedPercentage are both set",
            ),
            (r#"{"maxParallelNodesRepairedPercentage":101}"#, "maxParallelNodesRepairedPercentage: 101"),
            (r#"{"maxUnhealthyNodeThresholdCount":0}"#, "maxUnhealthyNodeThresholdCount: 0"),
            (r#"{"enable":true}"#, "unknown field `enable`"),
            (
                r#"{"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"X","repairAction":"Replace"}]}"#,
                "missing field `minRepairWaitTimeMins`",
            ),
            (
                r#"{"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"X","minRepairWaitTimeMins":0,"repairAction":"Replace"}]}"#,
                "nodeRepairConfigOverrides[0].minRepairWaitTimeMins: 0",
            ),
            (
                r#"{"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"X","minRepairWaitTimeMins":1,"repairAction":"Restart"}]}"#,
                "unknown variant `Restart`",
            ),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_block_from_eks_is_serialized_as_it_was_read() {
        let json = r#"{"enabled":true,"maxUnhealthyNodeThresholdPercentage":40,"maxParallelNodesRepairedCount":2,"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"AcceleratedHardwareReady","nodeUnhealthyReason":"NvidiaXID64Error","minRepairWaitTimeMins":5,"repairAction":"Replace"}]}"#;
        assert_eq!(serde_json::to_string(&read(json).expect("valid")).expect("json"), json);
    }

    #[test]
    fn thresholds_are_exact_and_a_small_group_can_be_repaired() {
        assert!(!Limit::Percentage(20).is_exceeded_by(6, 30));
        assert!(Limit::Percentage(20).is_exceeded_by(7, 30));
        assert_eq!(Limit::Percentage(10).of(3), 1);
        assert_eq!(Limit::Percentage(50).of(7), 3);
        assert_eq!(Limit::Percentage(50).of(0), 0);
    }
}
