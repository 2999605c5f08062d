//! The port to lifecycle hooks: a termination is held, kept held, and let go.

use std::future::Future;

use nodemend_domain::{
    drain::Hook,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
};

use crate::cloud::CloudError;

/// How a hook's action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum HookState {
    /// It was held when we spoke.
    Held,
    /// Nobody holds it any more: its time was up, somebody let it go, or the instance is gone.
    Over,
}

/// Whose a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The cluster's that its tags name.
    Cluster(ClusterName),
    /// Its tags name none.
    Nobody,
    /// There is no such group any more.
    NoGroup,
}

/// Lifecycle hooks, and what of the instances that they hold only AWS knows.
pub trait Hooks: Send + Sync {
    /// Whose a group is.
    fn owner(&self, group: &GroupName) -> impl Future<Output = Result<Owner, CloudError>> + Send;

    /// The name that an instance's node registers under where nobody says another.
    fn private_name(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<NodeName>, CloudError>> + Send;

    /// Holds the termination for as long again.
    fn heartbeat(&self, hook: &Hook) -> impl Future<Output = Result<HookState, CloudError>> + Send;

    /// Lets the termination go on.
    fn complete(&self, hook: &Hook) -> impl Future<Output = Result<HookState, CloudError>> + Send;
}
