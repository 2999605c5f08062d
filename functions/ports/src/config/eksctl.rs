//! Converts an eksctl ClusterConfig into a policy.
//!
//! Only the settings of node repair are read. An unknown field among them is an error, because ignoring it would change
//! what is repaired.

use std::collections::BTreeMap;

use nodemend_domain::policy::{GroupRule, NodeRepairConfig, Policy};
use serde::Deserialize;

use super::{one_line, read_yaml};

/// The most bytes of a ClusterConfig. One with a hundred groups has a few thousand lines.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The tag that EKS puts on the Auto Scaling group of a managed node group.
const MANAGED_TAG: &str = "eks:nodegroup-name";
/// The tag that eksctl puts on the Auto Scaling group of a self-managed node group.
const SELF_MANAGED_TAG: &str = "alpha.eksctl.io/nodegroup-name";

/// Why a ClusterConfig cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Larger than the limit.
    #[error("{0} bytes are more than {MAX_BYTES}")]
    TooLong(usize),
    /// Not YAML.
    #[error("not YAML: {0}")]
    Yaml(String),
    /// A field has an invalid value.
    #[error("{field}: {why}")]
    Field {
        /// Its path.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// YAML of another kind.
    #[error("kind: not an eksctl ClusterConfig")]
    OtherKind,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterConfig {
    kind: String,
    #[serde(default)]
    managed_node_groups: Vec<NodeGroup>,
    #[serde(default)]
    node_groups: Vec<NodeGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeGroup {
    name: String,
    node_repair_config: Option<NodeRepairConfig>,
}

/// The policy for a ClusterConfig, in observe mode: an import alone never starts a repair.
pub fn policy(text: &str) -> Result<Policy, ImportError> {
    if text.len() > MAX_BYTES {
        return Err(ImportError::TooLong(text.len()));
    }
    let value = read_yaml(text).map_err(ImportError::Yaml)?;
    let config: ClusterConfig = serde_path_to_error::deserialize(value).map_err(|error| {
        // A key becomes part of the path, and can contain any characters.
        let (field, why) = (one_line(&error.path().to_string()), one_line(&error.inner().to_string()));
        ImportError::Field { field, why }
    })?;
    if config.kind != "ClusterConfig" {
        return Err(ImportError::OtherKind);
    }
    let managed = config.managed_node_groups.into_iter().map(|group| (MANAGED_TAG, group));
    let own = config.node_groups.into_iter().map(|group| (SELF_MANAGED_TAG, group));
    let groups = managed.chain(own).filter_map(|(tag, group)| {
        Some(GroupRule {
            name: None,
            tags: BTreeMap::from([(tag.to_owned(), group.name)]),
            mode: None,
            node_repair_config: Some(group.node_repair_config?),
            grace: None,
            maintenance_windows: None,
        })
    });
    Ok(Policy { groups: groups.collect(), ..Policy::default() })
}

#[cfg(test)]
mod tests {
    use nodemend_domain::policy::{Limit, Mode};

    use super::*;

    const CONFIG: &str = "\
apiVersion: eksctl.io/v1alpha5
kind: ClusterConfig
metadata: {name: prod, region: us-east-1}
managedNodeGroups:
- name: workers
  instanceType: m7g.large
  nodeRepairConfig:
    enabled: true
    maxUnhealthyNodeThresholdPercentage: 20
    maxParallelNodesRepairedCount: 2
    nodeRepairConfigOverrides:
    - nodeMonitoringCondition: AcceleratedHardwareReady
      nodeUnhealthyReason: NvidiaXID64Error
      minRepairWaitTimeMins: 5
      repairAction: Replace
- name: no-repair
nodeGroups:
- name: gpu
  nodeRepairConfig: {enabled: true}
";

    #[test]
    fn every_group_with_repair_settings_is_imported_in_observe_mode() {
        let policy = policy(CONFIG).expect("a policy");
        assert_eq!(policy.mode, Mode::Observe);
        let tags: Vec<_> = policy.groups.iter().map(|rule| rule.tags.clone()).collect();
        assert_eq!(
            tags,
            [
                BTreeMap::from([(MANAGED_TAG.to_owned(), "workers".to_owned())]),
                BTreeMap::from([(SELF_MANAGED_TAG.to_owned(), "gpu".to_owned())]),
            ]
        );
        let config = policy.groups[0].node_repair_config.as_ref().expect("its block");
        assert_eq!(config.max_unhealthy_node_threshold, Some(Limit::Percentage(20)));
        assert_eq!(config.max_parallel_nodes_repaired, Some(Limit::Count(2)));
        assert_eq!(config.overrides.len(), 1);
    }

    #[test]
    fn an_imported_policy_reads_back_unchanged() {
        let policy = policy(CONFIG).expect("a policy");
        let text = crate::config::write_policy(&policy).expect("YAML");
        assert_eq!(crate::config::read_policy(&text).expect("a policy"), policy, "{text}");
    }

    #[test]
    fn an_error_names_what_cannot_be_imported() {
        for (text, expected) in [
            ("kind: Deployment", "kind: not an eksctl ClusterConfig"),
            ("apiVersion: eksctl.io/v1alpha5", "missing field `kind`"),
            ("a: [", "not YAML"),
            (
                "kind: ClusterConfig\nmanagedNodeGroups:\n- name: a\n  nodeRepairConfig: {enabled: true, maxNodes: 1}\n",
                "managedNodeGroups[0].nodeRepairConfig",
            ),
            (
                "kind: ClusterConfig\nmanagedNodeGroups:\n- name: a\n  nodeRepairConfig: {\"max\\nNodes\": 1}\n",
                "managedNodeGroups[0].nodeRepairConfig.max Nodes: unknown field",
            ),
        ] {
            let error = policy(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
