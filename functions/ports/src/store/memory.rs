//! The store in memory, for replay, backtest, simulation and tests.
//!
//! It passes the same contract test as the store in DynamoDB: conditional writes, and indexes of due and of unhealthy
//! cases.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::AuditEntry,
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
    sources::ClusterSources,
};

use super::{CaseKey, CaseWrite, Commit, Store, StoreError};
use crate::audit_log::AuditLog;

/// A store in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    clusters: HashMap<ClusterName, ClusterItems>,
    due: BTreeSet<(Timestamp, CaseKey)>,
    instances: HashMap<InstanceId, ClusterName>,
    calls: HashMap<String, (CaseKey, usize)>,
    /// The policy of clusters without one of their own.
    default_policy: Option<Arc<Policy>>,
}

#[derive(Debug, Default)]
struct ClusterItems {
    /// Boxed: a case takes a kilobyte, and a map of small values is faster to search.
    cases: HashMap<InstanceId, Box<Case>>,
    names: HashMap<NodeName, Vec<InstanceId>>,
    unhealthy_nodes: BTreeMap<InstanceId, UnhealthyNode>,
    groups: HashMap<GroupName, GroupState>,
    audit_logs: HashMap<InstanceId, Vec<AuditEntry>>,
    policy: Option<Arc<Policy>>,
    holds: Vec<Hold>,
    sources: Option<ClusterSources>,
}

impl MemoryStore {
    /// A store that has one policy for every cluster.
    pub fn with_policy(policy: Policy) -> Self {
        let store = Self::default();
        store.lock().default_policy = Some(Arc::new(policy));
        store
    }

    /// Sets one cluster's policy.
    pub fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        self.lock().clusters.entry(cluster.clone()).or_default().policy = Some(Arc::new(policy));
    }

    /// Sets the policy of all clusters without one of their own.
    pub fn set_any_policy(&self, policy: Policy) {
        self.lock().default_policy = Some(Arc::new(policy));
    }

    /// Places a hold.
    pub fn hold(&self, cluster: &ClusterName, hold: Hold) {
        self.lock().clusters.entry(cluster.clone()).or_default().holds.push(hold);
    }

    /// Every case, in no order.
    pub fn cases(&self) -> Vec<Case> {
        self.lock()
            .clusters
            .values()
            .flat_map(|items| items.cases.values().map(|case| (**case).clone()))
            .collect()
    }

    /// Every group, in no order.
    pub fn groups(&self) -> Vec<GroupState> {
        self.lock().clusters.values().flat_map(|items| items.groups.values().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves no partial change: each is made under one lock, after all checks.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, cluster: &ClusterName, read: impl FnOnce(&ClusterItems) -> T) -> Option<T> {
        self.lock().clusters.get(cluster).map(read)
    }
}

impl Store for MemoryStore {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        Ok(self.read(&key.cluster, |items| items.cases.get(&key.instance_id).cloned()).flatten())
    }

    async fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> Result<Vec<InstanceId>, StoreError> {
        Ok(self.read(cluster, |items| items.names.get(node).cloned()).flatten().unwrap_or_default())
    }

    async fn cluster_of_instance(&self, instance_id: &InstanceId) -> Result<Option<ClusterName>, StoreError> {
        Ok(self.lock().instances.get(instance_id).cloned())
    }

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<CaseKey>, StoreError> {
        let inner = self.lock();
        let due = inner.due.iter().take_while(|(due, _)| *due <= until).take(limit);
        Ok(due.map(|(_, key)| key.clone()).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.lock().due.first().map(|(due, _)| *due))
    }

    async fn unhealthy_nodes(&self, cluster: &ClusterName) -> Result<Vec<UnhealthyNode>, StoreError> {
        Ok(self.read(cluster, |items| items.unhealthy_nodes.values().cloned().collect()).unwrap_or_default())
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        let known = self.read(cluster, |items| items.groups.get(name).cloned()).flatten();
        Ok(known.unwrap_or_else(|| GroupState::new(cluster.clone(), name.clone())))
    }

    async fn put_group(&self, group: &GroupState) -> Result<Commit, StoreError> {
        let mut inner = self.lock();
        let items = inner.clusters.entry(group.cluster().clone()).or_default();
        let known = items.groups.get(group.name()).map_or(0, |known| known.version());
        if known != group.version() {
            return Ok(Commit::Lost);
        }
        items.groups.insert(group.name().clone(), group.next_version());
        Ok(Commit::Won)
    }

    async fn commit(&self, change: CaseWrite<'_>) -> Result<Commit, StoreError> {
        let mut inner = self.lock();
        let Inner { clusters, due, instances, calls, .. } = &mut *inner;
        let case = change.case;
        if !clusters.contains_key(case.cluster()) {
            clusters.insert(case.cluster().clone(), ClusterItems::default());
        }
        let Some(items) = clusters.get_mut(case.cluster()) else {
            return Ok(Commit::Lost);
        };
        let before = items.cases.get(case.instance_id());
        let version = before.map_or(0, |before| before.version());
        if version != case.version() {
            return Ok(Commit::Lost);
        }
        let group_version =
            |group: &GroupState| items.groups.get(group.name()).map_or(0, |known| known.version());
        let stale = |group: &GroupState| group_version(group) != group.version();
        if change.group.is_some_and(stale) {
            return Ok(Commit::Lost);
        }
        let next = items.audit_logs.get(case.instance_id()).map_or(0, Vec::len) as u64 + 1;
        if change.entries.iter().zip(next..).any(|(entry, sequence)| entry.sequence != sequence) {
            return Ok(Commit::Lost);
        }

        let due_before = before.and_then(|before| before.due());
        if due_before != case.due() {
            if let Some(at) = due_before {
                due.remove(&(at, CaseKey::of(case)));
            }
            if let Some(at) = case.due() {
                due.insert((at, CaseKey::of(case)));
            }
        }
        if before.is_none() {
            instances.insert(case.instance_id().clone(), case.cluster().clone());
        }
        let named_before = before.and_then(|before| before.node().cloned());
        if let Some(node) = case.node().filter(|node| named_before.as_ref() != Some(*node)) {
            let named = items.names.entry(node.clone()).or_default();
            named.retain(|known| known != case.instance_id());
            // As in DynamoDB, a name that only an agent claims comes before those of the control plane.
            let index = if case.is_named_by_the_control_plane() { named.len() } else { 0 };
            named.insert(index, case.instance_id().clone());
        }
        match case.unhealthy_reason() {
            Some(unhealthy_reason) => {
                let unhealthy_nodes = UnhealthyNode {
                    instance_id: case.instance_id().clone(),
                    zone: case.zone().cloned(),
                    unhealthy_reason: unhealthy_reason.clone(),
                };
                items.unhealthy_nodes.insert(case.instance_id().clone(), unhealthy_nodes);
            }
            None => {
                items.unhealthy_nodes.remove(case.instance_id());
            }
        }
        if let Some(group) = change.group {
            items.groups.insert(group.name().clone(), group.next_version());
        }
        if !change.entries.is_empty() {
            let audit_log = items.audit_logs.entry(case.instance_id().clone()).or_default();
            for entry in change.entries {
                if let Some(request_id) = &entry.request_id {
                    calls.insert(request_id.clone(), (CaseKey::of(case), audit_log.len()));
                }
                audit_log.push(entry.clone());
            }
        }
        items.cases.insert(case.instance_id().clone(), Box::new(case.next_version()));
        Ok(Commit::Won)
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        let inner = self.lock();
        let own = inner.clusters.get(cluster).and_then(|items| items.policy.clone());
        Ok(own.or_else(|| inner.default_policy.clone()))
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        Ok(self.read(cluster, |items| items.holds.clone()).unwrap_or_default())
    }

    async fn sources(&self, cluster: &ClusterName) -> Result<Option<ClusterSources>, StoreError> {
        Ok(self.read(cluster, |items| items.sources.clone()).flatten())
    }

    async fn put_sources(&self, cluster: &ClusterName, sources: &ClusterSources) -> Result<(), StoreError> {
        self.lock().clusters.entry(cluster.clone()).or_default().sources = Some(sources.clone());
        Ok(())
    }
}

impl AuditLog for MemoryStore {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(self
            .read(&key.cluster, |items| items.audit_logs.get(&key.instance_id).cloned())
            .flatten()
            .unwrap_or_default())
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, AuditEntry)>, StoreError> {
        let inner = self.lock();
        let Some((key, position)) = inner.calls.get(request_id) else {
            return Ok(None);
        };
        let audit_log =
            inner.clusters.get(&key.cluster).and_then(|items| items.audit_logs.get(&key.instance_id));
        Ok(audit_log.and_then(|audit_log| audit_log.get(*position)).map(|entry| (key.clone(), entry.clone())))
    }
}
