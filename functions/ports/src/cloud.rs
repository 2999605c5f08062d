//! The port to AWS: instances, groups and clusters, and the two calls that change an instance.
//!
//! A failed read is an error; the answer to a call, whatever it is, is a [`CallAnswer`] and goes to the audit log.

mod memory;

use std::{future::Future, sync::Arc};

use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId},
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};

pub use self::memory::{Fleet, MemoryCloud, Recorded};
use crate::{cause::Cause, cluster_reader::ClusterReader};

/// A read from AWS failed. Nothing is decided without it; the next run reads again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read from AWS: {code}")]
pub struct CloudError {
    /// AWS's error code, or one of our own where AWS gave none.
    pub code: String,
    /// AWS's message, or the error that prevented an answer.
    pub source: Cause,
}

/// AWS, in the types of the domain.
pub trait Cloud: ClusterReader + Clone {
    /// The same port in another account, or in our own if `account` is `None`.
    fn in_account(
        &self,
        account: Option<&AccountId>,
    ) -> impl Future<Output = Result<Self, CloudError>> + Send;

    /// The location of each instance, in the order of the request.
    fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> impl Future<Output = Result<Vec<InstanceLocation>, CloudError>> + Send;

    /// One Auto Scaling group with its instances.
    fn group(&self, name: &GroupName) -> impl Future<Output = Result<Option<Arc<Group>>, CloudError>> + Send;

    /// How many nodes a cluster has in each zone, and its zonal shifts.
    fn cluster(
        &self,
        name: &ClusterName,
    ) -> impl Future<Output = Result<Arc<ClusterFacts>, CloudError>> + Send;

    /// An instance as EC2 describes it, with its status checks; `None` if EC2 does not know it.
    fn instance_status(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<InstanceStatus>, CloudError>> + Send;

    /// The end of an instance's console output, where a kernel panic shows.
    fn console_output(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<String>, CloudError>> + Send;

    /// The status checks that fail, of all instances of the account.
    fn failed_status_checks(&self)
    -> impl Future<Output = Result<Vec<FailedStatusCheck>, CloudError>> + Send;

    /// Makes a call. Every result, a timeout too, is an answer for the audit log.
    fn call(&self, call: &ApiCall) -> impl Future<Output = CallAnswer> + Send;

    /// The identity that our calls have in CloudTrail.
    fn caller(&self) -> &Caller;
}
