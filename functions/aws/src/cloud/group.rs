//! Reads groups and their instances from Auto Scaling.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_autoscaling::{
    Client,
    types::{AutoScalingGroup, AutoScalingInstanceDetails, Instance},
};
use nodemend_domain::{
    group::{Group, InstanceLocation, Lifecycle, Member},
    ident::{ClusterName, GroupName, InstanceId, InvalidName, Zone},
};

use super::CloudError;
use crate::error::{read_failed, unreadable};

/// The most instance IDs of one DescribeAutoScalingInstances request.
const INSTANCES_A_CALL: usize = 50;

/// The instances that are in a group, with the group and lifecycle state.
pub(super) async fn memberships(
    client: &Client,
    instances: &[InstanceId],
) -> Result<HashMap<InstanceId, InstanceLocation>, CloudError> {
    let mut found = HashMap::with_capacity(instances.len());
    for chunk in instances.chunks(INSTANCES_A_CALL) {
        let ids = chunk.iter().map(ToString::to_string).collect();
        let request = client.describe_auto_scaling_instances().set_instance_ids(Some(ids));
        let mut pages = request.into_paginator().items().send();
        while let Some(details) = pages.next().await {
            found.extend(membership(&details.map_err(read_failed)?));
        }
    }
    Ok(found)
}

fn membership(details: &AutoScalingInstanceDetails) -> Option<(InstanceId, InstanceLocation)> {
    let instance_id = InstanceId::new(details.instance_id()?).ok()?;
    let lifecycle = Lifecycle::from_aws(details.lifecycle_state().unwrap_or_default());
    // A group with an invalid name could not be called: treated as no group.
    let group = GroupName::new(details.auto_scaling_group_name()?);
    let location =
        group.map_or(InstanceLocation::Ungrouped, |group| InstanceLocation::Member { group, lifecycle });
    Some((instance_id, location))
}

/// A group, without what only EKS knows about it.
pub(super) async fn describe(client: &Client, name: &GroupName) -> Result<Option<Group>, CloudError> {
    let request = client.describe_auto_scaling_groups().auto_scaling_group_names(name.as_str());
    let mut pages = request.into_paginator().items().send();
    while let Some(group) = pages.next().await {
        let group = group.map_err(read_failed)?;
        if group.auto_scaling_group_name() == Some(name.as_str()) {
            return read(name, &group).map(Some);
        }
    }
    Ok(None)
}

fn read(name: &GroupName, group: &AutoScalingGroup) -> Result<Group, CloudError> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let tags = group.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect();
    let members = group.instances().iter().map(member).collect::<Result<_, _>>();
    Ok(Group {
        name: name.clone(),
        cluster: cluster_of(&tags).map_err(|why| unreadable(format!("group {name}: {why}")))?,
        members: members.map_err(|why| unreadable(format!("group {name}: {why}")))?,
        suspended: group.suspended_processes().iter().map(|process| text(process.process_name())).collect(),
        tags,
        eks_repair_enabled: false,
        desired_capacity: group.desired_capacity().and_then(|desired| usize::try_from(desired).ok()),
    })
}

fn member(instance: &Instance) -> Result<Member, InvalidName> {
    let lifecycle = instance.lifecycle_state().map(|state| state.as_str()).unwrap_or_default();
    Ok(Member {
        instance_id: InstanceId::new(instance.instance_id().unwrap_or_default())?,
        zone: Zone::new(instance.availability_zone().unwrap_or_default())?,
        lifecycle: Lifecycle::from_aws(lifecycle),
    })
}

/// Set by EKS on the groups that it manages.
const EKS_CLUSTER: &str = "eks:cluster-name";

/// The cluster in a group's tags. The kinds of tags are tried in the order of their reliability. If the tags of one
/// kind name two clusters, the owner is unknown, and the group is not touched.
fn cluster_of(tags: &BTreeMap<String, String>) -> Result<Option<ClusterName>, String> {
    let keyed = |prefix: &'static str, value: Option<&'static str>| {
        tags.iter()
            .filter(move |(_, found)| value.is_none_or(|value| *found == value))
            .filter_map(move |(key, _)| key.strip_prefix(prefix))
    };
    let kinds: [Vec<&str>; 4] = [
        tags.get(EKS_CLUSTER).map(String::as_str).into_iter().collect(),
        keyed("kubernetes.io/cluster/", Some("owned")).collect(),
        keyed("kubernetes.io/cluster/", None).collect(),
        // `enabled` is the autoscaler's switch; longer keys are its hints about nodes, and no names.
        keyed("k8s.io/cluster-autoscaler/", None).filter(|name| *name != "enabled").collect(),
    ];
    for kind in kinds {
        let named: BTreeSet<ClusterName> =
            kind.into_iter().filter_map(|name| ClusterName::new(name).ok()).collect();
        if named.len() > 1 {
            let names: Vec<&str> = named.iter().map(ClusterName::as_str).collect();
            return Err(format!("its tags name the clusters {}", names.join(" and ")));
        }
        if let Some(name) = named.into_iter().next() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_by(tags: &[(&str, &str)]) -> Result<Option<String>, String> {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        cluster_of(&tags).map(|name| name.map(|name| name.to_string()))
    }

    #[test]
    fn a_group_belongs_to_the_cluster_in_its_tags() {
        for (tags, expected) in [
            (&[("eks:cluster-name", "prod"), ("kubernetes.io/cluster/other", "owned")][..], Some("prod")),
            (&[("kubernetes.io/cluster/prod", "owned")], Some("prod")),
            (&[("kubernetes.io/cluster/prod", "shared")], Some("prod")),
            (
                &[("kubernetes.io/cluster/prod", "owned"), ("kubernetes.io/cluster/test", "shared")],
                Some("prod"),
            ),
            (&[("k8s.io/cluster-autoscaler/enabled", "true")], None),
            (
                &[("k8s.io/cluster-autoscaler/enabled", "true"), ("k8s.io/cluster-autoscaler/prod", "owned")],
                Some("prod"),
            ),
            (&[("k8s.io/cluster-autoscaler/node-template/label/a", "b")], None),
            (&[("Name", "prod"), ("eks:cluster-name", "")], None),
            (&[], None),
        ] {
            assert_eq!(named_by(tags), Ok(expected.map(ToOwned::to_owned)), "{tags:?}");
        }
    }

    #[test]
    fn a_group_of_two_clusters_is_an_error() {
        for kind in ["kubernetes.io/cluster", "k8s.io/cluster-autoscaler"] {
            let (prod, test) = (format!("{kind}/prod"), format!("{kind}/test"));
            let why = named_by(&[(&prod, "owned"), (&test, "owned")]).expect_err("refused");
            assert_eq!(why, "its tags name the clusters prod and test");
        }
    }
}
