//! An AWS account whose API server has a cache that is behind, whose log group is read in small pages, and beside which
//! there is another account.

use nodemend_domain::{
    case::Consistency,
    ident::{AccountId, ClusterName},
    node_snapshot::NodeSnapshot,
};
use nodemend_ports::{
    cloud::{CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError, Streams},
};
use nodemend_testkit::CloudOverrides;

/// The account of the other cluster.
pub(crate) fn member() -> AccountId {
    AccountId::new("210987654321").expect("an account")
}

/// What differs from AWS in memory.
#[derive(Clone)]
pub(crate) struct Overrides {
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

impl Default for Overrides {
    fn default() -> Self {
        Self {
            member: None,
            cached: None,
            page: usize::MAX,
            fails_at: usize::MAX,
            behind: false,
            known_stream: None,
        }
    }
}

impl CloudOverrides<MemoryCloud> for Overrides {
    async fn nodes(
        &self,
        cloud: &MemoryCloud,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        match &self.cached {
            Some(cached) if consistency == Consistency::Cached => Ok(cached.clone()),
            _ => cloud.nodes(cluster, consistency).await,
        }
    }

    async fn log_page(
        &self,
        cloud: &MemoryCloud,
        query: &LogQuery,
        next: Option<&str>,
    ) -> Result<LogPage, ReadError> {
        if self.behind && matches!(query.streams, Streams::Named(_)) {
            return Ok(LogPage::default());
        }
        let mut page = cloud.log_page(query, None).await?;
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
        cloud: &MemoryCloud,
        group: &str,
        prefix: &str,
        since: jiff::Timestamp,
    ) -> Result<Vec<String>, ReadError> {
        match self.known_stream {
            Some(known) => Ok(vec![known.to_owned()]),
            None => cloud.streams(group, prefix, since).await,
        }
    }

    async fn in_account(
        &self,
        cloud: &MemoryCloud,
        account: Option<&AccountId>,
    ) -> Result<MemoryCloud, CloudError> {
        let Some(account) = account else { return Ok(cloud.clone()) };
        assert_eq!(*account, member());
        self.member.clone().ok_or_else(|| CloudError {
            code: "AccessDenied".to_owned(),
            source: "not authorized to perform sts:AssumeRole".into(),
        })
    }
}
