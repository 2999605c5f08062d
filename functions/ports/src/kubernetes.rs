//! The port to the Kubernetes API: the requests that a drain needs.

use std::future::Future;

use nodemend_domain::{
    drain::{Evicted, Node, Pod, PodId},
    ident::NodeName,
};

use crate::cause::Cause;

/// Why a request to the API failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// No answer, or a temporary error: a retry can help.
    #[error("failed to reach the Kubernetes API")]
    Unavailable(#[source] Cause),
    /// No connection: the endpoint has no address, cannot be reached, or belongs to another cluster.
    #[error("failed to connect to the Kubernetes API")]
    Unreachable(#[source] Cause),
    /// Authentication or authorization failed.
    #[error("the Kubernetes API refused the request (check the access entry and RBAC)")]
    Denied(#[source] Cause),
    /// The answer cannot be read, or the API rejects the request as invalid.
    #[error("failed to read an answer of the Kubernetes API")]
    Broken(#[source] Cause),
}

/// The API server of one cluster.
pub trait Kubernetes: Send + Sync {
    /// The node of this name, if there is one.
    fn node(&self, name: &NodeName) -> impl Future<Output = Result<Option<Node>, KubernetesError>> + Send;

    /// Marks a node as unschedulable. Succeeds if the node no longer exists.
    fn cordon(&self, name: &NodeName) -> impl Future<Output = Result<(), KubernetesError>> + Send;

    /// All pods on a node.
    fn pods(&self, name: &NodeName) -> impl Future<Output = Result<Vec<Pod>, KubernetesError>> + Send;

    /// Requests the eviction of a pod.
    fn evict(&self, pod: &PodId) -> impl Future<Output = Result<Evicted, KubernetesError>> + Send;
}
