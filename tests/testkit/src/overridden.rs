//! A cloud in which a test replaces single methods.
//!
//! All other methods are those of the cloud inside. A new method of [`Cloud`] is forwarded here, and nowhere else.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    case::Consistency,
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};
use nodemend_ports::{
    cloud::{Cloud, CloudError},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError},
};

/// The methods that a test can replace. Each has the method of the cloud inside as its default.
#[expect(missing_docs, reason = "the methods are those of the two ports")]
pub trait CloudOverrides<C: Cloud>: Clone + Send + Sync {
    fn node(
        &self,
        cloud: &C,
        cluster: &ClusterName,
        name: &NodeName,
    ) -> impl Future<Output = Result<Option<NodeSnapshot>, ReadError>> + Send {
        cloud.node(cluster, name)
    }

    fn nodes(
        &self,
        cloud: &C,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Vec<NodeSnapshot>, ReadError>> + Send {
        cloud.nodes(cluster, consistency)
    }

    fn log_page(
        &self,
        cloud: &C,
        query: &LogQuery,
        next: Option<&str>,
    ) -> impl Future<Output = Result<LogPage, ReadError>> + Send {
        cloud.log_page(query, next)
    }

    fn streams(
        &self,
        cloud: &C,
        group: &str,
        prefix: &str,
        since: Timestamp,
    ) -> impl Future<Output = Result<Vec<String>, ReadError>> + Send {
        cloud.streams(group, prefix, since)
    }

    fn in_account(
        &self,
        cloud: &C,
        account: Option<&AccountId>,
    ) -> impl Future<Output = Result<C, CloudError>> + Send {
        cloud.in_account(account)
    }
}

/// A cloud with overrides.
#[derive(Debug, Clone)]
pub struct OverriddenCloud<C, O> {
    /// The cloud inside.
    pub cloud: C,
    /// What differs from it.
    pub overrides: O,
}

impl<C: Cloud, O: CloudOverrides<C>> ClusterReader for OverriddenCloud<C, O> {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.overrides.node(&self.cloud, cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.overrides.nodes(&self.cloud, cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.overrides.log_page(&self.cloud, query, next).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        self.overrides.streams(&self.cloud, group, prefix, since).await
    }
}

impl<C: Cloud, O: CloudOverrides<C>> Cloud for OverriddenCloud<C, O> {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        let cloud = self.overrides.in_account(&self.cloud, account).await?;
        Ok(Self { cloud, overrides: self.overrides.clone() })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.cloud.describe_instances(instances).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.cloud.group(name).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        self.cloud.cluster(name).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.cloud.instance_status(instance_id).await
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        self.cloud.failed_status_checks().await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.cloud.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        self.cloud.call(call).await
    }

    fn caller(&self) -> &Caller {
        self.cloud.caller()
    }
}
