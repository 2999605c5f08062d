//! An account whose log groups cannot be read as they should.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    case::Consistency,
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    verification::InstanceStatus,
};
use nodemend_ports::{
    cloud::{Cloud, CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError, Streams},
};
use nodemend_testkit::fixture::{AUDIT_STREAM, CONTROL_PLANE_LOGS};

/// What is wrong with the log groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The account's quota is used up.
    Throttled,
    /// The stream of an API server has had no line for longer than the settling time.
    StaleStream,
    /// The API server's streams have had no line for an hour, as where audit logs are not enabled.
    NoStream,
    /// DescribeLogStreams, which is eventually consistent, knows only one stream.
    HiddenStream,
}

/// An account whose log groups have a defect.
#[derive(Clone)]
pub(crate) struct BrokenLogs {
    pub(crate) cloud: MemoryCloud,
    pub(crate) defect: Defect,
}

fn throttled() -> ReadError {
    ReadError::Throttled {
        what: CONTROL_PLANE_LOGS.to_owned(),
        source: "ThrottlingException: Rate exceeded".into(),
    }
}

impl ClusterReader for BrokenLogs {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.cloud.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.cloud.nodes(cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        match self.defect {
            Defect::Throttled => Err(throttled()),
            Defect::StaleStream if query.streams == Streams::Named(AUDIT_STREAM.to_owned()) => {
                Ok(LogPage::default())
            }
            Defect::StaleStream | Defect::NoStream | Defect::HiddenStream => {
                self.cloud.log_page(query, next).await
            }
        }
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        match self.defect {
            Defect::Throttled => Err(throttled()),
            Defect::StaleStream => self.cloud.streams(group, prefix, since).await,
            Defect::NoStream => Ok(Vec::new()),
            Defect::HiddenStream => Ok(vec![AUDIT_STREAM.to_owned()]),
        }
    }
}

impl Cloud for BrokenLogs {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(Self { cloud: self.cloud.in_account(account).await?, ..*self })
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
        Cloud::cluster(&self.cloud, name).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.cloud.instance_status(instance_id).await
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
