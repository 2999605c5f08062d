//! Finds the instance that an observation of the control plane is about.

use nodemend_domain::{
    case::CaseState,
    ident::{ClusterName, InstanceId},
    observation::Observation,
};

use crate::store::{CaseKey, Store, StoreError};

/// The instance of an observation: the one that it names, or else the one whose Node object has this uid; only where
/// nobody knows that, the one that has the node's name now. An agent can claim the name of any node: its claim counts only
/// where the control plane has not given the name to another instance. Of several that claim it, one that has been
/// terminated has it no longer.
pub async fn instance_of<S: Store>(
    store: &S,
    cluster: &ClusterName,
    observation: &Observation,
) -> Result<Option<InstanceId>, StoreError> {
    if let Some(instance_id) = &observation.instance_id {
        return Ok(Some(instance_id.clone()));
    }
    // A replacement can get the name of the old instance: the newest one whose case is open has it.
    let (mut by_name, mut claimed) = (None, None);
    for instance_id in store.instances_of_node(cluster, &observation.node).await?.into_iter().rev() {
        let key = CaseKey { cluster: cluster.clone(), instance_id };
        let Some(case) = store.case(&key).await? else { continue };
        match (case.node_uid(), &observation.uid) {
            (Some(known), Some(uid)) if known == uid => return Ok(Some(key.instance_id)),
            (Some(_), Some(_)) => {}
            _ if case.closed().is_some() => {}
            _ if !case.is_named_by_the_control_plane() => {
                let ends = case.departure().is_some() || case.repair_state() == CaseState::Confirming;
                if claimed.as_ref().is_none_or(|(other_ends, _)| *other_ends && !ends) {
                    claimed = Some((ends, key.instance_id));
                }
            }
            _ if case.node() == Some(&observation.node) => by_name = by_name.or(Some(key.instance_id)),
            _ => {}
        }
    }
    Ok(by_name.or(claimed.map(|(_, instance_id)| instance_id)))
}
