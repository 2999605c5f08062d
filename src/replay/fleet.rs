//! Reads the output of `aws autoscaling describe-auto-scaling-groups` as groups.

use std::{collections::BTreeMap, path::Path};

use nodemend_domain::{
    group::{Group, Lifecycle, Member},
    ident::{ClusterName, GroupName, InstanceId, Zone},
};
use serde::Deserialize;

use super::error::ReplayError;
use crate::file::read_text;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeOutput {
    auto_scaling_groups: Vec<DescribedGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedGroup {
    auto_scaling_group_name: GroupName,
    #[serde(default)]
    desired_capacity: Option<usize>,
    #[serde(default)]
    instances: Vec<DescribedInstance>,
    #[serde(default)]
    suspended_processes: Vec<SuspendedProcess>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedInstance {
    instance_id: InstanceId,
    availability_zone: Zone,
    lifecycle_state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuspendedProcess {
    process_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// Reads the groups of a file; an error names the field that is wrong.
pub(crate) fn read(path: &Path) -> Result<Vec<Group>, ReplayError> {
    let text = read_text(path)?;
    let deserializer = &mut serde_json::Deserializer::from_str(&text);
    let invalid = |why: String| ReplayError::Config { path: path.to_owned(), why };
    let output: DescribeOutput =
        serde_path_to_error::deserialize(&mut *deserializer).map_err(|error| invalid(error.to_string()))?;
    deserializer.end().map_err(|error| invalid(error.to_string()))?;
    Ok(output.auto_scaling_groups.into_iter().map(DescribedGroup::group).collect())
}

impl DescribedGroup {
    fn group(self) -> Group {
        let tags: BTreeMap<String, String> = self.tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
        Group {
            name: self.auto_scaling_group_name,
            cluster: cluster_of(&tags),
            members: self
                .instances
                .into_iter()
                .map(|instance| Member {
                    instance_id: instance.instance_id,
                    zone: instance.availability_zone,
                    lifecycle: Lifecycle::from_aws(&instance.lifecycle_state),
                })
                .collect(),
            suspended: self.suspended_processes.into_iter().map(|process| process.process_name).collect(),
            tags,
            eks_repair_enabled: false,
            desired_capacity: self.desired_capacity,
        }
    }
}

/// The cluster in a group's tags, as EKS, eksctl and the Cluster Autoscaler write them.
fn cluster_of(tags: &BTreeMap<String, String>) -> Option<ClusterName> {
    let eks = tags.get("eks:cluster-name").and_then(|name| ClusterName::new(name).ok());
    eks.or_else(|| {
        tags.keys()
            .filter_map(|key| {
                key.strip_prefix("kubernetes.io/cluster/").or_else(|| key.strip_prefix("k8s.io/cluster/"))
            })
            .find_map(|name| ClusterName::new(name).ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_cluster_is_read_from_its_tags() {
        for (key, value, expected) in [
            ("eks:cluster-name", "prod", Some("prod")),
            ("kubernetes.io/cluster/prod", "owned", Some("prod")),
            ("Name", "prod", None),
        ] {
            let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(cluster_of(&tags).as_ref().map(ClusterName::as_str), expected);
        }
    }
}
