//! The facts that a run has read, each at most once.
//!
//! A cache lives as long as its run, so that no decision depends on older facts.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use futures_util::future::join;
use jiff::Timestamp;
use nodemend_domain::{
    case::Case,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::{CountedNodes, DecisionContext, GroupCounts, GroupTags, UnhealthyCounts, UnhealthyNode},
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
    /// By cluster: a group of the same name in another account is another one.
    groups: HashMap<(ClusterName, GroupName), Option<Arc<Group>>>,
}

#[derive(Debug, Clone)]
struct ClusterView {
    facts: Arc<ClusterFacts>,
    unhealthy_nodes: Arc<[UnhealthyNode]>,
    /// The unhealthy nodes that count, and their counts, once a decision needs them.
    counted: Option<(Arc<CountedNodes>, Arc<UnhealthyCounts>)>,
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
    unhealthy_counts: UnhealthyCounts,
    group_counts: GroupCounts,
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
            unhealthy_counts: &self.unhealthy_counts,
            unhealthy_nodes: &self.cluster.unhealthy_nodes,
            group_counts: self.group_counts,
            group_has_nodes: self.group_has_nodes,
            holds: &self.cluster.holds,
            sources: self.cluster.sources.as_deref(),
            verification: None,
        }
    }
}

/// Instances of a group that are looked up to see whether they are nodes.
const MAX_LOOKUPS: usize = 50;

/// The group name of an instance without a group.
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
                Box::pin(ClusterView::read(store, cloud, case.cluster(), |id| id == case.instance_id())),
                Box::pin(group),
            ),
        )
        .await;
        let (cluster, locations) = cluster?;
        self.location.extend(locations);
        if let Some((name, group)) = group {
            self.groups.insert((case.cluster().clone(), name.clone()), group?);
        }
        self.location.extend(found?.into_iter().map(|found| (case.instance_id().clone(), found)));
        self.clusters.insert(case.cluster().clone(), cluster);
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
        let (group, state) = match name {
            Some(name) => {
                let (group, state) = join(
                    Box::pin(self.group(cloud, case.cluster(), &name)),
                    store.group(case.cluster(), &name),
                )
                .await;
                (group?, state?)
            }
            None => {
                let name = GroupName::new(NO_GROUP).map_err(|error| StoreError::Broken(Cause::new(error)))?;
                let state = store.group(case.cluster(), &name).await?;
                (None, state)
            }
        };
        // A group with the tags of another cluster is never touched.
        let group = group.filter(|group| group.cluster.as_ref().is_none_or(|owner| owner == case.cluster()));
        let cluster = self.cluster(store, cloud, case.cluster()).await?;
        let (cluster, counted, counts) = self.counted(store, cloud, case, cluster).await?;
        let id = case.instance_id();
        let unhealthy_counts = counts.with(id, case.zone(), &counted.nodes);
        let group_counts = group
            .as_deref()
            .map_or_else(GroupCounts::default, |group| GroupCounts::of(group, &state, &counted.nodes, id));
        // Only an instance that is not known as a node raises the question.
        let group_has_nodes = case.node().is_some()
            || state.has_nodes()
            || !state.slots().is_empty()
            || Self::has_other_nodes(store, case, group.as_deref()).await?;
        Ok(ContextData { location, group, state, cluster, unhealthy_counts, group_counts, group_has_nodes })
    }

    /// The cluster with its unhealthy nodes that count.
    async fn counted<S: Store, C: Cloud>(
        &mut self,
        store: &S,
        cloud: &C,
        case: &Case,
        mut view: ClusterView,
    ) -> Result<(ClusterView, Arc<CountedNodes>, Arc<UnhealthyCounts>), RepairError> {
        if let Some((counted, counts)) = view.counted.clone() {
            return Ok((view, counted, counts));
        }
        let policy = self.policy(store, case.cluster()).await?.unwrap_or_default();
        let mut tags = GroupTags::new();
        if policy.groups.iter().any(|rule| !rule.tags.is_empty()) {
            for node in view.unhealthy_nodes.iter() {
                let Some(InstanceLocation::Member { group, .. }) = self.location.get(&node.instance_id)
                else {
                    continue;
                };
                let name = group.clone();
                if let Entry::Vacant(unknown) = tags.entry(name) {
                    let group = Box::pin(self.group(cloud, case.cluster(), unknown.key())).await?;
                    unknown.insert(group.map(|group| group.tags.clone()).unwrap_or_default());
                }
            }
        }
        let counted = CountedNodes::of(&view.unhealthy_nodes, &self.location, &tags, &policy, self.now);
        let counts = Arc::new(UnhealthyCounts::of(&counted, &policy, self.now));
        let counted = Arc::new(counted);
        view.counted = Some((counted.clone(), counts.clone()));
        self.clusters.insert(case.cluster().clone(), view.clone());
        Ok((view, counted, counts))
    }

    /// Whether any other instance of its group is known as a node. The group's state knows only of those that joined since it
    /// is kept.
    async fn has_other_nodes<S: Store>(
        store: &S,
        case: &Case,
        group: Option<&Group>,
    ) -> Result<bool, StoreError> {
        let members = group.into_iter().flat_map(|group| &group.members);
        let others = members.filter(|member| member.instance_id != *case.instance_id());
        for member in others.take(MAX_LOOKUPS) {
            let key = CaseKey { cluster: case.cluster().clone(), instance_id: member.instance_id.clone() };
            if store.case(&key).await?.is_some_and(|case| case.node().is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn group<C: Cloud>(
        &mut self,
        cloud: &C,
        cluster: &ClusterName,
        name: &GroupName,
    ) -> Result<Option<Arc<Group>>, RepairError> {
        let key = (cluster.clone(), name.clone());
        if let Some(group) = self.groups.get(&key) {
            return Ok(group.clone());
        }
        let group = cloud.group(name).await?;
        self.groups.insert(key, group.clone());
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
        let known = |id: &InstanceId| self.location.contains_key(id);
        let (cluster, locations) = ClusterView::read(store, cloud, name, known).await?;
        self.location.extend(locations);
        self.clusters.insert(name.clone(), cluster.clone());
        Ok(cluster)
    }
}

impl ClusterView {
    /// Reads a cluster, and where its unhealthy nodes are whose location is not known.
    async fn read<S: Store, C: Cloud>(
        store: &S,
        cloud: &C,
        name: &ClusterName,
        is_known: impl Fn(&InstanceId) -> bool,
    ) -> Result<(Self, Vec<(InstanceId, InstanceLocation)>), RepairError> {
        let unhealthy = async {
            let nodes = store.unhealthy_nodes(name).await?;
            let ids = nodes.iter().map(|node| node.instance_id.clone());
            let unknown: Vec<InstanceId> = ids.filter(|id| !is_known(id)).collect();
            let found = match unknown.as_slice() {
                [] => Vec::new(),
                unknown => Box::pin(cloud.describe_instances(unknown)).await?,
            };
            Ok::<_, RepairError>((nodes, unknown.into_iter().zip(found).collect()))
        };
        let of_store = join(join(unhealthy, store.holds(name)), store.sources(name));
        let (((unhealthy, holds), sources), facts) = join(of_store, Box::pin(cloud.cluster(name))).await;
        let (unhealthy_nodes, locations) = unhealthy?;
        let view = Self {
            facts: facts?,
            unhealthy_nodes: unhealthy_nodes.into(),
            counted: None,
            holds: holds?.into(),
            sources: sources?.map(Arc::new),
        };
        Ok((view, locations))
    }
}
