//! Finds the instance that an observation of the control plane is about.

use std::collections::HashMap;

use jiff::Timestamp;
use nodemend_domain::{
    case::CaseState,
    ident::{ClusterName, InstanceId, NodeName, NodeUid},
    observation::{Observation, What},
};

use crate::store::{CaseKey, Store, StoreError};

/// Finds the instances of the observations of one batch of lines, in their order. What an earlier line of the
/// batch reports about a Node object counts before it is written to a case.
#[derive(Debug)]
pub struct Instances<'s, S> {
    store: &'s S,
    cluster: &'s ClusterName,
    by_uid: HashMap<NodeUid, InstanceId>,
    registered: HashMap<NodeName, (Timestamp, InstanceId)>,
}

impl<'s, S: Store> Instances<'s, S> {
    /// Of the nodes of a cluster.
    pub fn new(store: &'s S, cluster: &'s ClusterName) -> Self {
        Self { store, cluster, by_uid: HashMap::new(), registered: HashMap::new() }
    }

    /// The instance of an observation: the one that it names, or else the one whose Node object has this uid; only where
    /// nobody knows that, the one that has the node's name now. An agent can claim the name of any node: its claim counts
    /// only where the control plane has not given the name to another instance. Of several that claim it, one that has been
    /// terminated has it no longer.
    ///
    /// A kubelet that finds a Node object of its name goes on with it and creates none: once the instance that created the
    /// object is gone, what is reported about the object is about the one that was Ready on it.
    pub async fn of(&mut self, observation: &Observation) -> Result<Option<InstanceId>, StoreError> {
        if let Some(instance_id) = &observation.instance_id {
            self.note(observation, instance_id);
            return Ok(Some(instance_id.clone()));
        }
        if let Some(instance_id) = observation.uid.as_ref().and_then(|uid| self.by_uid.get(uid)) {
            return Ok(Some(instance_id.clone()));
        }
        // Another uid is that of another object, whose registration is not in this batch.
        if observation.uid.is_none()
            && let Some((at, instance_id)) = self.registered.get(&observation.node)
            && *at <= observation.at
        {
            return Ok(Some(instance_id.clone()));
        }
        self.of_known(observation).await
    }

    fn note(&mut self, observation: &Observation, instance_id: &InstanceId) {
        if let Some(uid) = &observation.uid {
            self.by_uid.insert(uid.clone(), instance_id.clone());
        }
        if matches!(observation.what, What::Registered { .. } | What::Created { .. }) {
            let newest = self.registered.get(&observation.node).is_none_or(|(at, _)| *at <= observation.at);
            if newest {
                let registered = (observation.at, instance_id.clone());
                self.registered.insert(observation.node.clone(), registered);
            }
        }
    }

    /// The same by the cases alone.
    async fn of_known(&self, observation: &Observation) -> Result<Option<InstanceId>, StoreError> {
        // A replacement can get the name of the old instance: the newest one whose case is open has it.
        let (mut by_name, mut claimed) = (None, None);
        let (mut created_it, mut went_on_with_it) = (None, None);
        for instance_id in
            self.store.instances_of_node(self.cluster, &observation.node).await?.into_iter().rev()
        {
            let key = CaseKey { cluster: self.cluster.clone(), instance_id };
            let Some(case) = self.store.case(&key).await? else { continue };
            match (case.node_uid(), &observation.uid) {
                (Some(known), Some(uid)) if known == uid => {
                    if case.closed().is_none() {
                        return Ok(Some(key.instance_id));
                    }
                    created_it = Some(key.instance_id);
                }
                (Some(_), Some(_)) => {}
                _ if case.closed().is_some() => {}
                _ if !case.is_named_by_the_control_plane() => {
                    let ends = case.departure().is_some() || case.repair_state() == CaseState::Confirming;
                    if claimed.as_ref().is_none_or(|(other_ends, _)| *other_ends && !ends) {
                        claimed = Some((ends, key.instance_id));
                    }
                }
                _ if case.node() == Some(&observation.node) => {
                    if case.node_uid().is_none() && case.was_ready_by(observation.at) {
                        went_on_with_it = went_on_with_it.or_else(|| Some(key.instance_id.clone()));
                    }
                    by_name = by_name.or(Some(key.instance_id));
                }
                _ => {}
            }
        }
        if created_it.is_some() {
            return Ok(went_on_with_it.or(created_it));
        }
        Ok(by_name.or(claimed.map(|(_, instance_id)| instance_id)))
    }
}
