//! The store in memory: what replay, backtest, simulation and tests run on. The same promises as DynamoDB's:
//! conditional writes, a sparse index of what is due, a sparse index of what is unhealthy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::builder::AuditEntry,
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
};

use super::{CaseKey, CaseWrite, Commit, Store, StoreError};
use crate::audit_log::AuditLog;

/// A store in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    clusters: HashMap<ClusterName, Shelf>,
    due: BTreeSet<(Timestamp, CaseKey)>,
    instances: HashMap<InstanceId, ClusterName>,
    calls: HashMap<String, (CaseKey, usize)>,
    /// For clusters that have none of their own.
    any_policy: Option<Arc<Policy>>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Boxed: a case is a kilobyte, and a table of names is searched faster than one of cases.
    cases: HashMap<InstanceId, Box<Case>>,
    names: HashMap<NodeName, Vec<InstanceId>>,
    unhealthy_nodes: BTreeMap<InstanceId, UnhealthyNode>,
    groups: HashMap<GroupName, GroupState>,
    audit_logs: HashMap<InstanceId, Vec<AuditEntry>>,
    policy: Option<Arc<Policy>>,
    holds: Vec<Hold>,
}

impl MemoryStore {
    /// A store that serves every cluster under one policy.
    pub fn with_policy(policy: Policy) -> Self {
        let store = Self::default();
        store.lock().any_policy = Some(Arc::new(policy));
        store
    }

    /// Sets one cluster's policy.
    pub fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        self.lock().clusters.entry(cluster.clone()).or_default().policy = Some(Arc::new(policy));
    }

    /// Sets the policy of all clusters that have none of their own.
    pub fn set_any_policy(&self, policy: Policy) {
        self.lock().any_policy = Some(Arc::new(policy));
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
            .flat_map(|shelf| shelf.cases.values().map(|case| (**case).clone()))
            .collect()
    }

    /// Every group, in no order.
    pub fn groups(&self) -> Vec<GroupState> {
        self.lock().clusters.values().flat_map(|shelf| shelf.groups.values().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        // A panic elsewhere leaves no half-made change: each is made under one lock, checks first.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, cluster: &ClusterName, read: impl FnOnce(&Shelf) -> T) -> Option<T> {
        self.lock().clusters.get(cluster).map(read)
    }
}

impl Store for MemoryStore {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        Ok(self.read(&key.cluster, |shelf| shelf.cases.get(&key.instance_id).cloned()).flatten())
    }

    async fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> Result<Vec<InstanceId>, StoreError> {
        Ok(self.read(cluster, |shelf| shelf.names.get(node).cloned()).flatten().unwrap_or_default())
    }

    async fn cluster_of_instance(&self, instance_id: &InstanceId) -> Result<Option<ClusterName>, StoreError> {
        Ok(self.lock().instances.get(instance_id).cloned())
    }

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<CaseKey>, StoreError> {
        let shelves = self.lock();
        let due = shelves.due.iter().take_while(|(due, _)| *due <= until).take(limit);
        Ok(due.map(|(_, key)| key.clone()).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.lock().due.first().map(|(due, _)| *due))
    }

    async fn unhealthy_nodes(&self, cluster: &ClusterName) -> Result<Vec<UnhealthyNode>, StoreError> {
        Ok(self.read(cluster, |shelf| shelf.unhealthy_nodes.values().cloned().collect()).unwrap_or_default())
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        let known = self.read(cluster, |shelf| shelf.groups.get(name).cloned()).flatten();
        Ok(known.unwrap_or_else(|| GroupState::new(cluster.clone(), name.clone())))
    }

    async fn commit(&self, change: CaseWrite<'_>) -> Result<Commit, StoreError> {
        let mut shelves = self.lock();
        let Shelves { clusters, due, instances, calls, .. } = &mut *shelves;
        let case = change.case;
        if !clusters.contains_key(case.cluster()) {
            clusters.insert(case.cluster().clone(), Shelf::default());
        }
        let Some(shelf) = clusters.get_mut(case.cluster()) else {
            return Ok(Commit::Lost);
        };
        let before = shelf.cases.get(case.instance_id());
        let version = before.map_or(0, |before| before.version());
        if version != case.version() {
            return Ok(Commit::Lost);
        }
        let group_version =
            |group: &GroupState| shelf.groups.get(group.name()).map_or(0, |known| known.version());
        let elder = |group: &GroupState| group_version(group) != group.version();
        if change.group.is_some_and(elder) {
            return Ok(Commit::Lost);
        }
        let next = shelf.audit_logs.get(case.instance_id()).map_or(0, Vec::len) as u64 + 1;
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
            let named = shelf.names.entry(node.clone()).or_default();
            named.retain(|known| known != case.instance_id());
            named.push(case.instance_id().clone());
        }
        match case.unhealthy_reason() {
            Some(unhealthy_reason) => {
                let unhealthy_nodes = UnhealthyNode {
                    instance_id: case.instance_id().clone(),
                    zone: case.zone().cloned(),
                    unhealthy_reason: unhealthy_reason.clone(),
                };
                shelf.unhealthy_nodes.insert(case.instance_id().clone(), unhealthy_nodes);
            }
            None => {
                shelf.unhealthy_nodes.remove(case.instance_id());
            }
        }
        if let Some(group) = change.group {
            shelf.groups.insert(group.name().clone(), group.next_version());
        }
        if !change.entries.is_empty() {
            let audit_log = shelf.audit_logs.entry(case.instance_id().clone()).or_default();
            for entry in change.entries {
                if let Some(request_id) = &entry.request_id {
                    calls.insert(request_id.clone(), (CaseKey::of(case), audit_log.len()));
                }
                audit_log.push(entry.clone());
            }
        }
        shelf.cases.insert(case.instance_id().clone(), Box::new(case.next_version()));
        Ok(Commit::Won)
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        let shelves = self.lock();
        let own = shelves.clusters.get(cluster).and_then(|shelf| shelf.policy.clone());
        Ok(own.or_else(|| shelves.any_policy.clone()))
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        Ok(self.read(cluster, |shelf| shelf.holds.clone()).unwrap_or_default())
    }
}

impl AuditLog for MemoryStore {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(self
            .read(&key.cluster, |shelf| shelf.audit_logs.get(&key.instance_id).cloned())
            .flatten()
            .unwrap_or_default())
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, AuditEntry)>, StoreError> {
        let shelves = self.lock();
        let Some((key, place)) = shelves.calls.get(request_id) else {
            return Ok(None);
        };
        let audit_log =
            shelves.clusters.get(&key.cluster).and_then(|shelf| shelf.audit_logs.get(&key.instance_id));
        Ok(audit_log.and_then(|audit_log| audit_log.get(*place)).map(|entry| (key.clone(), entry.clone())))
    }
}
