//! The port to the Kubernetes API, as far as a drain asks of it.

use std::future::Future;

use nodemend_domain::{
    drain::{Evicted, Node, Pod, PodId},
    ident::NodeName,
};

/// What the API could not do for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// It may work in a while.
    #[error("failed to reach the Kubernetes API: {0}")]
    Unavailable(String),
    /// It knows us not, or allows us not.
    #[error("failed to be let in by the Kubernetes API: {0}")]
    Denied(String),
    /// It answered what we can't read.
    #[error("failed to read an answer of the Kubernetes API: {0}")]
    Broken(String),
}

/// The API server of one cluster.
pub trait Kubernetes: Send + Sync {
    /// A node, if there is one of this name.
    fn node(&self, name: &NodeName) -> impl Future<Output = Result<Option<Node>, KubernetesError>> + Send;

    /// Keeps new pods from a node. One that is gone needs it not.
    fn cordon(&self, name: &NodeName) -> impl Future<Output = Result<(), KubernetesError>> + Send;

    /// All pods of a node.
    fn pods(&self, name: &NodeName) -> impl Future<Output = Result<Vec<Pod>, KubernetesError>> + Send;

    /// Asks for a pod's eviction.
    fn evict(&self, pod: &PodId) -> impl Future<Output = Result<Evicted, KubernetesError>> + Send;
}
