//! The port to the state of a cluster, in one account: its log groups, and its Nodes where the deployment has access.

use jiff::Timestamp;
use nodemend_domain::{
    case::Consistency,
    ident::{ClusterName, NodeName},
    node_snapshot::NodeSnapshot,
};
use nodemend_ports::cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError};

use super::{AwsCloud, log_group};
use crate::kubernetes::NodeReader;

impl AwsCloud {
    fn node_reader(&self, cluster: &ClusterName) -> Result<&NodeReader, ReadError> {
        self.nodes.as_deref().ok_or_else(|| NodeReader::no_access(cluster))
    }
}

impl ClusterReader for AwsCloud {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.node_reader(cluster)?.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.node_reader(cluster)?.nodes(cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        log_group::page(&self.logs, query, next).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        log_group::streams(&self.logs, group, prefix, since).await
    }
}
