//! The port to AWS: where instances are, and the two calls that change anything.

mod memory;

use std::{future::Future, sync::Arc};

use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId},
};

pub use self::memory::{Fleet, MemoryCloud, Recorded};

/// What AWS could not tell us. Nothing is decided then; the next sweep asks again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read from AWS: {code}: {message}")]
pub struct CloudError {
    /// AWS's error code.
    pub code: String,
    /// AWS's message.
    pub message: String,
}

/// AWS, in our words.
pub trait Cloud: Clone + Send + Sync {
    /// The same in another account; our own, where none is named.
    fn in_account(
        &self,
        account: Option<&AccountId>,
    ) -> impl Future<Output = Result<Self, CloudError>> + Send;

    /// Where instances are, in the order asked for.
    fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> impl Future<Output = Result<Vec<InstanceLocation>, CloudError>> + Send;

    /// One group with its instances.
    fn group(&self, name: &GroupName) -> impl Future<Output = Result<Option<Arc<Group>>, CloudError>> + Send;

    /// How many nodes a cluster has, and where.
    fn cluster(
        &self,
        name: &ClusterName,
    ) -> impl Future<Output = Result<Arc<ClusterFacts>, CloudError>> + Send;

    /// The end of an instance's console output: the last words of a kernel.
    fn console_output(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<String>, CloudError>> + Send;

    /// Makes a call. Whatever happens is an answer: it goes to the trail.
    fn call(&self, call: &ApiCall) -> impl Future<Output = CallAnswer> + Send;

    /// Who we are to AWS.
    fn caller(&self) -> &Caller;
}
