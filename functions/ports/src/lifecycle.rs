//! The port to Auto Scaling's lifecycle hooks, which hold a termination while a node is drained.

use std::future::Future;

use nodemend_domain::{
    drain::Hook,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
};

use crate::cloud::CloudError;

/// The state of a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum HookState {
    /// The termination was on hold when Auto Scaling answered.
    Held,
    /// The termination is no longer on hold: it timed out, someone else completed it, or the instance is gone.
    Over,
}

/// The cluster that an Auto Scaling group belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The cluster in the group's tags.
    Cluster(ClusterName),
    /// The group has no tag of a cluster.
    Untagged,
    /// The group no longer exists.
    NoGroup,
}

/// Lifecycle hooks, and what a drain needs to know from AWS about their instances.
pub trait Hooks: Send + Sync {
    /// The cluster that a group belongs to.
    fn owner(&self, group: &GroupName) -> impl Future<Output = Result<Owner, CloudError>> + Send;

    /// The private DNS name of an instance, which is its node's name by default.
    fn private_name(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<NodeName>, CloudError>> + Send;

    /// Restarts the hook's timeout.
    fn heartbeat(&self, hook: &Hook) -> impl Future<Output = Result<HookState, CloudError>> + Send;

    /// Completes the lifecycle action: the termination continues.
    fn complete(&self, hook: &Hook) -> impl Future<Output = Result<HookState, CloudError>> + Send;
}
