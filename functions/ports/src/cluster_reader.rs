//! The port to what is so in a cluster: its API server, and the log groups that report on it.
//!
//! Verification reads it right before a call, reconciling every few minutes. It changes nothing. Every read is bounded in
//! time and size, and a read that fails is an answer, too: what cannot be verified is not repaired.

pub mod bounded;
mod memory;

use std::future::Future;

use jiff::Timestamp;
use nodemend_domain::{
    case::Consistency,
    ident::{ClusterName, NodeName},
    node_snapshot::NodeSnapshot,
};

pub use self::memory::MemoryCluster;
use crate::cause::Cause;

/// Why a source could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deployment has no such source: no access entry in the cluster, or no such log group.
    #[error("{0}")]
    NotConfigured(String),
    /// We may not read it.
    #[error("access to {what} is denied")]
    Denied {
        /// The source.
        what: String,
        /// The answer.
        source: Cause,
    },
    /// Its quota, which is shared with everybody in the account, is used up.
    #[error("reading {what} is throttled")]
    Throttled {
        /// The source.
        what: String,
        /// The answer.
        source: Cause,
    },
    /// No answer in time, or none that can be read.
    #[error("failed to read {what}")]
    Unavailable {
        /// The source.
        what: String,
        /// The error.
        source: Cause,
    },
}

impl ReadError {
    /// Whether there is no such source, so that another one is to be asked.
    pub fn is_not_configured(&self) -> bool {
        matches!(self, Self::NotConfigured(_))
    }
}

/// Which streams of a log group a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streams {
    /// Those whose name begins so.
    Prefix(String),
    /// This one.
    Named(String),
}

/// Which lines a query returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// All.
    All,
    /// Those that the subscription to the control plane's audit log delivers.
    Subscribed,
    /// Requests of the kubelets of these nodes: as many as [`MAX_NAMES_BYTES`] allows.
    RequestsOfKubelets(Vec<NodeName>),
}

/// The most that [`Lines::bytes_of_kubelet`] of all nodes of a query may be together: a filter pattern has at most 1,024
/// characters.
pub const MAX_NAMES_BYTES: usize = 1_000;

impl Lines {
    /// What a node takes of a filter pattern: its name, and the term that it is compared in.
    pub fn bytes_of_kubelet(node: &NodeName) -> usize {
        const TERM: usize = " || $.user.username = \"system:node:\"".len();
        TERM + node.as_str().len()
    }
}

/// A query of a log group, as `FilterLogEvents` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// The log group.
    pub group: String,
    /// Its streams.
    pub streams: Streams,
    /// The lines.
    pub lines: Lines,
    /// From this time on.
    pub from: Timestamp,
    /// Before this time.
    pub until: Timestamp,
    /// At most so many lines a page.
    pub limit: Option<i32>,
}

impl LogQuery {
    /// All lines that a group's streams have of a period.
    pub fn new(group: &str, streams: Streams, from: Timestamp, until: Timestamp) -> Self {
        Self { group: group.to_owned(), streams, lines: Lines::All, from, until, limit: None }
    }

    /// Of these, such lines.
    #[must_use]
    pub fn lines(mut self, lines: Lines) -> Self {
        self.lines = lines;
        self
    }

    /// One line a page: whether there is any.
    #[must_use]
    pub fn first(mut self) -> Self {
        self.limit = Some(1);
        self
    }
}

/// One page of an answer. A page can be empty although more follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// Its lines, in the order of their time.
    pub lines: Vec<LogLine>,
    /// Where to go on; none at the end.
    pub next: Option<String>,
}

/// One line of a log group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its stream.
    pub stream: String,
    /// When it was written, by the clock of who wrote it.
    pub timestamp: Timestamp,
    /// When CloudWatch Logs received it.
    pub ingested: Timestamp,
    /// The line.
    pub message: String,
}

/// Reads what is so in a cluster.
pub trait ClusterReader: Send + Sync {
    /// The Node of this name by a consistent read; `None` if there is none.
    fn node(
        &self,
        cluster: &ClusterName,
        name: &NodeName,
    ) -> impl Future<Output = Result<Option<NodeSnapshot>, ReadError>> + Send;

    /// All Nodes of the cluster: by a consistent read, or from the API server's cache, which costs it far less.
    fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Vec<NodeSnapshot>, ReadError>> + Send;

    /// One page of a query, from the place where an earlier page ended.
    fn log_page(
        &self,
        query: &LogQuery,
        next: Option<&str>,
    ) -> impl Future<Output = Result<LogPage, ReadError>> + Send;

    /// The streams of a log group whose name begins so and that have had a line since then.
    fn streams(
        &self,
        group: &str,
        prefix: &str,
        since: Timestamp,
    ) -> impl Future<Output = Result<Vec<String>, ReadError>> + Send;
}
