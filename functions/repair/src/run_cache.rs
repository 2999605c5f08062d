//! What a sweep has read of the world around its cases, each thing once.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join;
use nodemend_domain::{
    case::Case,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::{self, DecisionContext, UnhealthyCounts, UnhealthyNode},
    ident::{ClusterName, GroupName, InstanceId},
    policy::{Hold, Policy},
};
use nodemend_ports::{
    cloud::{Cloud, CloudError},
    store::{Store, StoreError},
};

use crate::RepairError;

#[derive(Debug, Default)]
pub(crate) struct RunCache {
    policies: HashMap<ClusterName, Option<Arc<Policy>>>,
    clusters: HashMap<ClusterName, ClusterView>,
    location: HashMap<InstanceId, InstanceLocation>,
    groups: HashMap<GroupName, Option<Arc<Group>>>,
    unhealthy: HashMap<GroupName, usize>,
}

#[derive(Debug, Clone)]
struct ClusterView {
    facts: Arc<ClusterFacts>,
    unhealthy_nodes: Arc<[UnhealthyNode]>,
    unhealthy_counts: Arc<UnhealthyCounts>,
    holds: Arc<[Hold]>,
}

/// Everything that a decision needs, held together.
#[derive(Debug)]
pub(crate) struct ContextData {
    pub(crate) location: InstanceLocation,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) state: GroupState,
    cluster: ClusterView,
    unhealthy_in_group: usize,
}

impl ContextData {
    pub(crate) fn borrow(&self) -> DecisionContext<'_> {
        DecisionContext {
            location: &self.location,
            group: self.group.as_deref(),
            state: &self.state,
            cluster: &self.cluster.facts,
            unhealthy_counts: &self.cluster.unhealthy_counts,
            unhealthy_in_group: self.unhealthy_in_group,
            holds: &self.cluster.holds,
        }
    }
}

/// Stands for the group of an instance that is in none.
const NO_GROUP: &str = "(no group)";

impl RunCache {
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
    pub(crate) async fn describe_instances<C: Cloud>(
        &mut self,
        cloud: &C,
        cases: &[Case],
    ) -> Result<(), CloudError> {
        let instances: Vec<InstanceId> = cases.iter().map(|case| case.instance_id().clone()).collect();
        let found = cloud.describe_instances(&instances).await?;
        self.location.extend(instances.into_iter().zip(found));
        Ok(())
    }

    /// All around one case, with nothing of it read yet: what needs nothing of the other is asked for at once.
    pub(crate) async fn context_of_one<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
    ) -> Result<ContextData, RepairError> {
        let policy = self.policy(store, case.cluster()).await?.unwrap_or_default();
        // Calls of AWS are large futures, and live on the heap.
        let (found, cluster) = join(
            Box::pin(cloud.describe_instances(std::slice::from_ref(case.instance_id()))),
            Box::pin(ClusterView::read(store, cloud, case.cluster(), &policy)),
        )
        .await;
        self.location.extend(found?.into_iter().map(|found| (case.instance_id().clone(), found)));
        self.clusters.insert(case.cluster().clone(), cluster?);
        self.context(store, cloud, case).await
    }

    pub(crate) async fn context<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
    ) -> Result<ContextData, RepairError> {
        let location = self.location.get(case.instance_id()).cloned().unwrap_or(InstanceLocation::Gone);
        let name = match &location {
            InstanceLocation::Member { group, .. } => Some(group.clone()),
            // A repair under way keeps its place in the group that its instance has left.
            _ => case.repair().map(nodemend_domain::repair::Repair::group).or(case.group()).cloned(),
        };
        let (group, name, state) = match name {
            Some(name) => {
                let (group, state) =
                    join(Box::pin(self.group(cloud, &name)), store.group(case.cluster(), &name)).await;
                (group?, name, state?)
            }
            None => {
                let name = GroupName::new(NO_GROUP).map_err(|error| StoreError::Broken(error.to_string()))?;
                let state = store.group(case.cluster(), &name).await?;
                (None, name, state)
            }
        };
        // A group that another cluster's tags claim is not ours to touch.
        let group = group.filter(|group| group.cluster.as_ref().is_none_or(|owner| owner == case.cluster()));
        let cluster = self.cluster(store, cloud, case.cluster()).await?;
        let unhealthy_in_group = match &group {
            Some(group) => *self
                .unhealthy
                .entry(name)
                .or_insert_with(|| guard::unhealthy_in(group, &cluster.unhealthy_nodes)),
            None => 0,
        };
        Ok(ContextData { location, group, state, cluster, unhealthy_in_group })
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
        let ((unhealthy_nodes, holds), facts) =
            join(join(store.unhealthy_nodes(name), store.holds(name)), Box::pin(cloud.cluster(name))).await;
        let unhealthy_nodes = unhealthy_nodes?;
        Ok(Self {
            facts: facts?,
            unhealthy_counts: Arc::new(UnhealthyCounts::of(&unhealthy_nodes, policy)),
            unhealthy_nodes: unhealthy_nodes.into(),
            holds: holds?.into(),
        })
    }
}
