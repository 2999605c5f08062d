//! The port to the store of cases, groups and audit logs.
//!
//! - One item for each case, each group and each audit record.
//! - Every write is conditional on the versions that were read. A lost race is an answer, not an error.

mod memory;

use std::{future::Future, sync::Arc};

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

pub use self::memory::MemoryStore;
use crate::cause::Cause;

/// The key of a case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The instance.
    pub instance_id: InstanceId,
}

impl CaseKey {
    /// The key of this case.
    pub fn of(case: &Case) -> Self {
        Self { cluster: case.cluster().clone(), instance_id: case.instance_id().clone() }
    }
}

/// One atomic write.
#[derive(Debug)]
pub struct CaseWrite<'a> {
    /// The case, with the version that was read.
    pub case: &'a Case,
    /// Its group, with the version that was read, if it changes too.
    pub group: Option<&'a GroupState>,
    /// Records to append to its audit log.
    pub entries: &'a [AuditEntry],
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Commit {
    /// Written, with the next version.
    Won,
    /// Another process wrote first: read again and decide again.
    Lost,
}

/// Why a read or write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A temporary error: a retry can help.
    #[error("failed to reach the store")]
    Unavailable(#[source] Cause),
    /// A permanent error: a retry cannot help.
    #[error("failed to read or write an item of the store")]
    Broken(#[source] Cause),
}

impl StoreError {
    /// Whether a retry can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Cases, groups, and the policies and holds of operators.
pub trait Store: Send + Sync {
    /// One case, read consistently.
    fn case(&self, key: &CaseKey) -> impl Future<Output = Result<Option<Box<Case>>, StoreError>> + Send;

    /// The instances whose node has, or had, this name.
    fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> impl Future<Output = Result<Vec<InstanceId>, StoreError>> + Send;

    /// The cluster that has a case of this instance.
    fn cluster_of_instance(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<ClusterName>, StoreError>> + Send;

    /// The cases that are due at `until`, the longest overdue first. The cost depends on the due cases, not on all
    /// cases.
    fn due(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<CaseKey>, StoreError>> + Send;

    /// When the next case is due.
    fn next_due(&self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send;

    /// A cluster's unhealthy nodes. The cost depends on their number, not on all nodes.
    fn unhealthy_nodes(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Vec<UnhealthyNode>, StoreError>> + Send;

    /// One group, read consistently, or a new one if none is stored.
    fn group(
        &self,
        cluster: &ClusterName,
        name: &GroupName,
    ) -> impl Future<Output = Result<GroupState, StoreError>> + Send;

    /// Writes a case with its group and audit records, if nothing has been written since they were read. After an error
    /// it is unknown whether they are written: read again before acting.
    fn commit(&self, change: CaseWrite<'_>) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// Writes a group alone, if nothing has written it since it was read. After an error it is unknown whether it is
    /// written.
    fn put_group(&self, group: &GroupState) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// A cluster's policy, or `None` if this deployment does not serve the cluster.
    fn policy(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<Arc<Policy>>, StoreError>> + Send;

    /// The holds on a cluster.
    fn holds(&self, cluster: &ClusterName) -> impl Future<Output = Result<Vec<Hold>, StoreError>> + Send;

    /// What reconciling last found of a cluster's sources, or `None` if it has not run yet.
    fn sources(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<ClusterSources>, StoreError>> + Send;

    /// Replaces what is known of a cluster's sources. Not conditional: of two runs at once either result is right, and a
    /// line that is read twice changes nothing.
    fn put_sources(
        &self,
        cluster: &ClusterName,
        sources: &ClusterSources,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
