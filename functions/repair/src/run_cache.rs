//! The facts that a run has read, each at most once.
//!
//! A cache lives as long as its run, so that no decision depends on older facts.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join;
use jiff::Timestamp;
use nodemend_domain::{
    case::Case,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::{self, DecisionContext, UnhealthyCounts, UnhealthyNode},
    ident::{ClusterName, GroupName, InstanceId},
    policy::{Hold, Policy},
    sources::ClusterSources,
};
use nodemend_ports::{
    cause::Cause,
    cloud::{Cloud, CloudError},
    store::{CaseKey, Store, StoreError},
};

use crate::RepairError;

#[derive(Debug)]
pub(crate) struct RunCache {
    now: Timestamp,
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
    sources: Option<Arc<ClusterSources>>,
}

/// The owned facts of one decision.
#[derive(Debug)]
pub(crate) struct ContextData {
    pub(crate) location: InstanceLocation,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) state: GroupState,
    cluster: ClusterView,
    unhealthy_in_group: usize,
    group_has_nodes: bool,
}

impl ContextData {
    /// Whether the cluster is so small that its repairs go one at a time.
    pub(crate) fn one_at_a_time(&self, policy: &Policy) -> bool {
        policy.outage.gradual && self.cluster.facts.nodes() <= policy.outage.small
    }

    pub(crate) fn borrow(&self) -> DecisionContext<'_> {
        DecisionContext {
            location: &self.location,
            group: self.group.as_deref(),
            state: &self.state,
            cluster: &self.cluster.facts,
            unhealthy_counts: &self.cluster.unhealthy_counts,
            unhealthy_nodes: &self.cluster.unhealthy_nodes,
            unhealthy_in_group: self.unhealthy_in_group,
            group_has_nodes: self.group_has_nodes,
            holds: &self.cluster.holds,
            sources: self.cluster.sources.as_deref(),
            verification: None,
        }
    }
}

/// The group name of an instance without a group.
/// Instances of a group that are looked up to see whether they are nodes.
const MAX_LOOKUPS: usize = 50;

const NO_GROUP: &str = "(no group)";

impl RunCache {
    /// When the run began.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Nothing read yet, by a run that began then.
    pub(crate) fn at(now: Timestamp) -> Self {
        Self {
            now,
            policies: HashMap::new(),
            clusters: HashMap::new(),
            location: HashMap::new(),
            groups: HashMap::new(),
            unhealthy: HashMap::new(),
        }
    }

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

    /// Reads the locations of these instances in one request.
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

    /// The facts for one case, with nothing cached: independent reads are concurrent. `group` is the one that the case was in
    /// when it was last known; a case of another group costs one more read.
    pub(crate) async fn context_of_one<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
        group: Option<&GroupName>,
    ) -> Result<ContextData, RepairError> {
        let policy = self.policy(store, case.cluster()).await?.unwrap_or_default();
        let group = async {
            match group {
                Some(name) => Some((name, cloud.group(name).await)),
                None => None,
            }
        };
        // Futures of AWS requests are large, so they are on the heap.
        let (found, (cluster, group)) = join(
            Box::pin(cloud.describe_instances(std::slice::from_ref(case.instance_id()))),
            join(
                Box::pin(ClusterView::read(store, cloud, case.cluster(), &policy, self.now)),
                Box::pin(group),
            ),
        )
        .await;
        if let Some((name, group)) = group {
            self.groups.insert(name.clone(), group?);
        }
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
            // A repair in progress keeps its slot in the group that its instance has left.
            _ => case.repair().map(nodemend_domain::repair::Repair::group).or(case.group()).cloned(),
        };
        let (group, name, state) = match name {
            Some(name) => {
                let (group, state) =
                    join(Box::pin(self.group(cloud, &name)), store.group(case.cluster(), &name)).await;
                (group?, name, state?)
            }
            None => {
                let name = GroupName::new(NO_GROUP).map_err(|error| StoreError::Broken(Cause::new(error)))?;
                let state = store.group(case.cluster(), &name).await?;
                (None, name, state)
            }
        };
        // A group with the tags of another cluster is never touched.
        let group = group.filter(|group| group.cluster.as_ref().is_none_or(|owner| owner == case.cluster()));
        let cluster = self.cluster(store, cloud, case.cluster()).await?;
        let unhealthy_in_group = match &group {
            Some(group) => *self
                .unhealthy
                .entry(name)
                .or_insert_with(|| guard::unhealthy_in(group, &cluster.unhealthy_nodes)),
            None => 0,
        };
        // Only an instance that is not known as a node raises the question.
        let group_has_nodes = case.node().is_some()
            || state.has_nodes()
            || !state.slots().is_empty()
            || Self::has_nodes(store, case.cluster(), group.as_deref()).await?;
        Ok(ContextData { location, group, state, cluster, unhealthy_in_group, group_has_nodes })
    }

    /// Whether any instance of a group is known as a node. Its state knows only of those that joined since it is kept.
    async fn has_nodes<S: Store>(
        store: &S,
        cluster: &ClusterName,
        group: Option<&Group>,
    ) -> Result<bool, StoreError> {
        for member in group.into_iter().flat_map(|group| &group.members).take(MAX_LOOKUPS) {
            let key = CaseKey { cluster: cluster.clone(), instance_id: member.instance_id.clone() };
            if store.case(&key).await?.is_some_and(|case| case.node().is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
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
        let cluster = ClusterView::read(store, cloud, name, &policy, self.now).await?;
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
        now: Timestamp,
    ) -> Result<Self, RepairError> {
        let of_store = join(join(store.unhealthy_nodes(name), store.holds(name)), store.sources(name));
        let (((unhealthy_nodes, holds), sources), facts) =
            join(of_store, Box::pin(cloud.cluster(name))).await;
        let unhealthy_nodes = unhealthy_nodes?;
        Ok(Self {
            facts: facts?,
            unhealthy_counts: Arc::new(UnhealthyCounts::of(&unhealthy_nodes, policy, now)),
            unhealthy_nodes: unhealthy_nodes.into(),
            holds: holds?.into(),
            sources: sources?.map(Arc::new),
        })
    }
}
