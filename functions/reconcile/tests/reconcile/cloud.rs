//! An AWS account whose API server has a cache that is behind, whose log group is read in small pages, and beside which
//! there is another account.

use std::sync::Arc;

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

/// The account of the other cluster.
pub(crate) fn member() -> AccountId {
    AccountId::new("210987654321").expect("an account")
}

#[derive(Clone)]
pub(crate) struct TestCloud {
    pub(crate) own: MemoryCloud,
    pub(crate) member: Option<MemoryCloud>,
    /// What the API server's cache has, if it is behind.
    pub(crate) cached: Option<Vec<NodeSnapshot>>,
    /// Lines a page.
    pub(crate) page: usize,
    /// The log group fails from this line on.
    pub(crate) fails_at: usize,
    /// The audit streams have no line that is younger than the settling time.
    pub(crate) behind: bool,
    /// The only stream that DescribeLogStreams knows, which is eventually consistent.
    pub(crate) known_stream: Option<&'static str>,
}

impl TestCloud {
    pub(crate) fn of(own: &MemoryCloud) -> Self {
        Self {
            own: own.clone(),
            member: None,
            cached: None,
            page: usize::MAX,
            fails_at: usize::MAX,
            behind: false,
            known_stream: None,
        }
    }
}

impl ClusterReader for TestCloud {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.own.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        match &self.cached {
            Some(cached) if consistency == Consistency::Cached => Ok(cached.clone()),
            _ => self.own.nodes(cluster, consistency).await,
        }
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        if self.behind && matches!(query.streams, Streams::Named(_)) {
            return Ok(LogPage::default());
        }
        let mut page = self.own.log_page(query, None).await?;
        let from: usize = next.map_or(0, |next| next.parse().expect("our own token"));
        if query.limit.is_none() && from >= self.fails_at {
            return Err(ReadError::Throttled { what: query.group.clone(), source: "slow down".into() });
        }
        let rest = page.lines.split_off(from.min(page.lines.len()));
        let more = rest.len() > self.page;
        page.lines = rest.into_iter().take(self.page).collect();
        page.next = more.then(|| (from + self.page).to_string());
        Ok(page)
    }

    async fn streams(
        &self,
        group: &str,
        prefix: &str,
        since: jiff::Timestamp,
    ) -> Result<Vec<String>, ReadError> {
        match self.known_stream {
            Some(known) => Ok(vec![known.to_owned()]),
            None => self.own.streams(group, prefix, since).await,
        }
    }
}

impl Cloud for TestCloud {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        let own = match account {
            None => self.own.clone(),
            Some(account) => {
                assert_eq!(*account, member());
                self.member.clone().ok_or_else(|| CloudError {
                    code: "AccessDenied".to_owned(),
                    source: "not authorized to perform sts:AssumeRole".into(),
                })?
            }
        };
        Ok(Self { own, ..self.clone() })
    }

    async fn describe_instances(&self, _: &[InstanceId]) -> Result<Vec<InstanceLocation>, CloudError> {
        panic!("reconciling does not describe instances")
    }

    async fn group(&self, _: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        panic!("reconciling does not describe groups")
    }

    async fn cluster(&self, _: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        panic!("reconciling does not describe clusters")
    }

    async fn instance_status(&self, _: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        panic!("reconciling reads no instance status")
    }

    async fn console_output(&self, _: &InstanceId) -> Result<Option<String>, CloudError> {
        panic!("reconciling reads no console output")
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        panic!("reconciling makes no call: {call:?}")
    }

    fn caller(&self) -> &Caller {
        self.own.caller()
    }
}
