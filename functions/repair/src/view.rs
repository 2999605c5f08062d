//! What a sweep has read of the world around its cases, each thing once.

use std::{collections::HashMap, sync::Arc};

use nodemend_adapters::{
    cloud::{Cloud, CloudError},
    store::{Store, StoreError},
};
use nodemend_domain::{
    case::Case,
    group::{ClusterFacts, Group, GroupState, Whereabouts},
    guard::{self, Ailing, Surroundings, Unwell},
    ident::{ClusterName, GroupName, InstanceId},
    policy::{Hold, Policy},
};

use crate::{RepairError, together::both};

#[derive(Debug, Default)]
pub(crate) struct View {
    policies: HashMap<ClusterName, Option<Arc<Policy>>>,
    clusters: HashMap<ClusterName, ClusterView>,
    whereabouts: HashMap<InstanceId, Whereabouts>,
    groups: HashMap<GroupName, Option<Arc<Group>>>,
    unhealthy: HashMap<GroupName, usize>,
}

#[derive(Debug, Clone)]
struct ClusterView {
    facts: Arc<ClusterFacts>,
    unwell: Arc<[Unwell]>,
    ailing: Arc<Ailing>,
    holds: Arc<[Hold]>,
}

/// Everything that a decision needs, held together.
#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) whereabouts: Whereabouts,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) state: GroupState,
    cluster: ClusterView,
    unhealthy_in_group: usize,
}

impl Around {
    pub(crate) fn borrow(&self) -> Surroundings<'_> {
        Surroundings {
            whereabouts: &self.whereabouts,
            group: self.group.as_deref(),
            state: &self.state,
            cluster: &self.cluster.facts,
            ailing: &self.cluster.ailing,
            unhealthy_in_group: self.unhealthy_in_group,
            holds: &self.cluster.holds,
        }
    }
}

/// Stands for the group of an instance that is in none.
const NO_GROUP: &str = "(no group)";

impl View {
    pub(crate) async fn policy<S: Store>(
        &mut self,
        store: &S,
        cluster: &ClusterName,
    ) -> Result<Option<Arc<Policy>>, StoreError> {
        if let Some(policy) = self.policies.get(cluster) {
            return Ok(policy.clone());
        }
        let policy = store.policy(cluster).await?;
        self.policies.insert(cluster.clone(), policy.clone());
        Ok(policy)
    }

    /// Asks AWS once where all these instances are.
    pub(crate) async fn locate<C: Cloud>(&mut self, cloud: &C, cases: &[Case]) -> Result<(), CloudError> {
        let instances: Vec<InstanceId> = cases.iter().map(|case| case.instance_id.clone()).collect();
        let found = cloud.locate(&instances).await?;
        self.whereabouts.extend(instances.into_iter().zip(found));
        Ok(())
    }

    /// All around one case, with nothing of it read yet: what needs nothing of the other is asked for at once.
    pub(crate) async fn around_one<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
    ) -> Result<Around, RepairError> {
        let policy = self.policy(store, &case.cluster).await?.unwrap_or_default();
        // Calls of AWS are large futures, and live on the heap.
        let (found, cluster) = both(
            Box::pin(cloud.locate(std::slice::from_ref(&case.instance_id))),
            Box::pin(ClusterView::read(store, cloud, &case.cluster, &policy)),
        )
        .await;
        self.whereabouts.extend(found?.into_iter().map(|found| (case.instance_id.clone(), found)));
        self.clusters.insert(case.cluster.clone(), cluster?);
        self.around(store, cloud, case).await
    }

    pub(crate) async fn around<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
    ) -> Result<Around, RepairError> {
        let whereabouts = self.whereabouts.get(&case.instance_id).cloned().unwrap_or(Whereabouts::Gone);
        let name = match &whereabouts {
            Whereabouts::Member { group, .. } => Some(group.clone()),
            // A repair under way keeps its place in the group that its instance has left.
            _ => case.repair.as_ref().map(|repair| repair.group.clone()).or_else(|| case.group.clone()),
        };
        let (group, name, state) = match name {
            Some(name) => {
                let (group, state) =
                    both(Box::pin(self.group(cloud, &name)), store.group(&case.cluster, &name)).await;
                (group?, name, state?)
            }
            None => {
                let name = GroupName::new(NO_GROUP).map_err(|error| StoreError::Broken(error.to_string()))?;
                let state = store.group(&case.cluster, &name).await?;
                (None, name, state)
            }
        };
        // A group that another cluster's tags claim is not ours to touch.
        let group = group.filter(|group| group.cluster.as_ref().is_none_or(|owner| *owner == case.cluster));
        let cluster = self.cluster(store, cloud, &case.cluster).await?;
        let unhealthy_in_group = match &group {
            Some(group) => {
                *self.unhealthy.entry(name).or_insert_with(|| guard::unhealthy_in(group, &cluster.unwell))
            }
            None => 0,
        };
        Ok(Around { whereabouts, group, state, cluster, unhealthy_in_group })
    }

    async fn group<C: Cloud>(
        &mut self,
        cloud: &C,
        name: &GroupName,
    ) -> Result<Option<Arc<Group>>, RepairError> {
        if let Some(group) = self.groups.get(name) {
            return Ok(group.clone());
        }
        let group = cloud.group(name).await?;
        self.groups.insert(name.clone(), group.clone());
        Ok(group)
    }

    async fn cluster<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        name: &ClusterName,
    ) -> Result<ClusterView, RepairError> {
        if let Some(cluster) = self.clusters.get(name) {
            return Ok(cluster.clone());
        }
        let policy = self.policy(store, name).await?.unwrap_or_default();
        let cluster = ClusterView::read(store, cloud, name, &policy).await?;
        self.clusters.insert(name.clone(), cluster.clone());
        Ok(cluster)
    }
}

impl ClusterView {
    async fn read<S: Store, C: Cloud>(
        store: &S,
        cloud: &C,
        name: &ClusterName,
        policy: &Policy,
    ) -> Result<Self, RepairError> {
        let ((unwell, holds), facts) =
            both(both(store.unwell(name), store.holds(name)), Box::pin(cloud.cluster(name))).await;
        let unwell = unwell?;
        Ok(Self {
            facts: facts?,
            ailing: Arc::new(Ailing::of(&unwell, policy)),
            unwell: unwell.into(),
            holds: holds?.into(),
        })
    }
}
