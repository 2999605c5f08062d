//! Reads two facts about a cluster from EKS and ARC: the zones with an active zonal shift, and whether EKS node auto
//! repair is enabled for a group.

use aws_sdk_arczonalshift::types::{AppliedStatus, AutoshiftAppliedStatus};
use aws_sdk_eks::{
    error::{ProvideErrorMetadata, SdkError},
    types::Nodegroup,
};
use nodemend_domain::{
    group::Group,
    ident::{ClusterName, GroupName},
};

use super::CloudError;
use crate::error::{read_failed, unreadable};

/// Set by EKS on the groups that it manages.
const EKS_NODEGROUP: &str = "eks:nodegroup-name";
/// How EKS names the groups that it manages: `eks-<node group>-<uuid>`.
const EKS_GROUP_PREFIX: &str = "eks-";

/// Whether EKS node auto repair is enabled for a group.
///
/// EKS's tags name the node group. A tag can be removed, and two repairers would terminate twice: a group that is named
/// like one of EKS's is searched for in all node groups of the cluster.
pub(super) async fn repairs(client: &aws_sdk_eks::Client, group: &Group) -> Result<bool, CloudError> {
    let tag = group.tags.get(EKS_NODEGROUP);
    if tag.is_none() && !group.name.as_str().starts_with(EKS_GROUP_PREFIX) {
        return Ok(false);
    }
    let Some(cluster) = &group.cluster else {
        // Its cluster is unknown, so EKS cannot be asked. A group that may be EKS's is left to EKS.
        return Ok(true);
    };
    if let Some(name) = tag {
        return Ok(nodegroup(client, cluster, name).await?.is_some_and(|found| is_repaired(&found)));
    }
    let mut names = client.list_nodegroups().cluster_name(cluster.as_str()).into_paginator().items().send();
    while let Some(name) = names.next().await {
        let name = match name {
            Ok(name) => name,
            Err(error) if is_not_found(&error) => break,
            Err(error) => return Err(read_failed(error)),
        };
        if let Some(found) = nodegroup(client, cluster, &name).await?
            && owns(&found, &group.name)
        {
            return Ok(is_repaired(&found));
        }
    }
    Ok(false)
}

/// The node group, or `None` if EKS has none of this name.
async fn nodegroup(
    client: &aws_sdk_eks::Client,
    cluster: &ClusterName,
    name: &str,
) -> Result<Option<Nodegroup>, CloudError> {
    let request = client.describe_nodegroup().cluster_name(cluster.as_str()).nodegroup_name(name);
    match request.send().await {
        Ok(answer) => answer.nodegroup.map(Some).ok_or_else(|| unreadable("EKS returned no node group")),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(read_failed(error)),
    }
}

fn is_repaired(group: &Nodegroup) -> bool {
    group.node_repair_config().and_then(|config| config.enabled()).unwrap_or(false)
}

fn owns(nodegroup: &Nodegroup, group: &GroupName) -> bool {
    let groups = nodegroup.resources().map(|resources| resources.auto_scaling_groups()).unwrap_or_default();
    groups.iter().any(|owned| owned.name() == Some(group.as_str()))
}

/// The IDs of the zones that an active zonal shift of the cluster moves traffic away from: an operator's shift, an
/// autoshift, or a practice run. ARC is asked only if zonal shift is enabled for the cluster.
pub(super) async fn shifted_away(
    eks: &aws_sdk_eks::Client,
    arc: &aws_sdk_arczonalshift::Client,
    name: &ClusterName,
) -> Result<Vec<String>, CloudError> {
    let cluster = match eks.describe_cluster().name(name.as_str()).send().await {
        Ok(answer) => answer.cluster.ok_or_else(|| unreadable("EKS returned no cluster"))?,
        // A deleted cluster has no traffic to shift. Its cases must end all the same.
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(read_failed(error)),
    };
    if !cluster.zonal_shift_config().and_then(|config| config.enabled()).unwrap_or(false) {
        return Ok(Vec::new());
    }
    let Some(arn) = cluster.arn() else {
        return Err(unreadable(format!("EKS returned no ARN for the cluster {name}")));
    };
    let resource = match arc.get_managed_resource().resource_identifier(arn).send().await {
        Ok(resource) => resource,
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(read_failed(error)),
    };
    let shifts = resource.zonal_shifts().iter();
    let shifts = shifts.filter(|shift| *shift.applied_status() != AppliedStatus::NotApplied);
    let autoshifts = resource.autoshifts().iter();
    let autoshifts = autoshifts.filter(|shift| *shift.applied_status() != AutoshiftAppliedStatus::NotApplied);
    let mut zones: Vec<String> = shifts
        .map(|shift| shift.away_from().to_owned())
        .chain(autoshifts.map(|shift| shift.away_from().to_owned()))
        .collect();
    zones.sort();
    zones.dedup();
    Ok(zones)
}

fn is_not_found<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("ResourceNotFoundException")
}
