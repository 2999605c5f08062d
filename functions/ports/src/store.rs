//! The port to where cases, groups and trails are kept.
//!
//! One item a node, one a group, one a trail record. A write is conditional on the versions that it was
//! decided on; a lost race is an answer, not an error.

mod memory;

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::builder::AuditEntry,
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
};

pub use self::memory::MemoryStore;

/// Under which a case is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The instance.
    pub instance_id: InstanceId,
}

impl CaseKey {
    /// The key of a case.
    pub fn of(case: &Case) -> Self {
        Self { cluster: case.cluster().clone(), instance_id: case.instance_id().clone() }
    }
}

/// What is written at once, or not at all.
#[derive(Debug)]
pub struct CaseWrite<'a> {
    /// The case, at the version that it was read at.
    pub case: &'a Case,
    /// Its group, at the version that it was read at, where it changes too.
    pub group: Option<&'a GroupState>,
    /// Records for the end of its trail.
    pub entries: &'a [AuditEntry],
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Commit {
    /// It is written, under the next version.
    Won,
    /// Somebody else wrote first: read again and decide again.
    Lost,
}

/// What the store could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It may work in a while.
    #[error("failed to reach the store: {0}")]
    Unavailable(String),
    /// It will not work by itself.
    #[error("failed to read or write an item of the store: {0}")]
    Broken(String),
}

impl StoreError {
    /// Whether trying again can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Cases, groups and what operators decided.
pub trait Store: Send + Sync {
    /// One case, read consistently.
    fn case(&self, key: &CaseKey) -> impl Future<Output = Result<Option<Box<Case>>, StoreError>> + Send;

    /// The instances that had, or have, a node of this name.
    fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> impl Future<Output = Result<Vec<InstanceId>, StoreError>> + Send;

    /// The cluster that an instance is known in.
    fn cluster_of_instance(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<ClusterName>, StoreError>> + Send;

    /// The cases that somebody must look at by then, the longest overdue first. Costs what is due, never what
    /// exists.
    fn due(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<CaseKey>, StoreError>> + Send;

    /// When the next case is due.
    fn next_due(&self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send;

    /// A cluster's unhealthy nodes. Costs what is unhealthy.
    fn unhealthy_nodes(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Vec<UnhealthyNode>, StoreError>> + Send;

    /// One group, read consistently; a new one where there is none yet.
    fn group(
        &self,
        cluster: &ClusterName,
        name: &GroupName,
    ) -> impl Future<Output = Result<GroupState, StoreError>> + Send;

    /// Writes a case, and its group and trail with it, if nobody has written them since they were read. An error
    /// leaves open whether it is written: read again before anything is done.
    fn commit(&self, change: CaseWrite<'_>) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// A cluster's policy; none for a cluster that is not ours to serve.
    fn policy(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<Arc<Policy>>, StoreError>> + Send;

    /// The holds that operators placed on a cluster.
    fn holds(&self, cluster: &ClusterName) -> impl Future<Output = Result<Vec<Hold>, StoreError>> + Send;
}
