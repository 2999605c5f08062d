//! A cluster's API server and log groups in memory, for replays and tests.
//!
//! Log groups hold every line that was added, from its time on, whenever or if ever it was delivered. They are excerpts, as
//! captured files are: their streams count as alive.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Consistency,
    control_plane_log,
    ident::{ClusterName, NodeName},
    node_snapshot::NodeSnapshot,
};

use super::{ClusterReader, Lines, LogLine, LogPage, LogQuery, ReadError, Streams};
use crate::{
    clock::{Clock, VirtualClock},
    subscription::our_patterns,
};

/// A cluster's API server and log groups. Clones share them.
#[derive(Debug, Clone)]
pub struct MemoryCluster {
    clock: VirtualClock,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By log group, in the order of time.
    lines: BTreeMap<String, Vec<LogLine>>,
    /// What the API server answers from then on, in the order of time; without any there is no access.
    answers: Vec<(Timestamp, Answer)>,
}

/// A change of what the API server answers.
#[derive(Debug, Clone)]
enum Answer {
    Node(Box<NodeSnapshot>),
    Deleted(NodeName),
    Error(ReadError),
}

impl MemoryCluster {
    /// A cluster without access to its API server, and without any line.
    pub fn new(clock: VirtualClock) -> Self {
        Self { clock, inner: Arc::default() }
    }

    /// Adds a line to a log group.
    pub fn add_line(&self, group: &str, line: LogLine) {
        let mut inner = self.lock();
        let lines = inner.lines.entry(group.to_owned()).or_default();
        let index = lines.partition_point(|known| known.timestamp <= line.timestamp);
        lines.insert(index, line);
    }

    /// From then on the API server has this Node.
    pub fn set_node(&self, at: Timestamp, node: NodeSnapshot) {
        self.set(at, Answer::Node(Box::new(node)));
    }

    /// From then on the API server has no Node of this name.
    pub fn delete_node(&self, at: Timestamp, name: NodeName) {
        self.set(at, Answer::Deleted(name));
    }

    /// From then on every read fails so, until the next change.
    pub fn fail(&self, at: Timestamp, error: ReadError) {
        self.set(at, Answer::Error(error));
    }

    fn set(&self, at: Timestamp, answer: Answer) {
        let mut inner = self.lock();
        let index = inner.answers.partition_point(|(known, _)| *known <= at);
        inner.answers.insert(index, (at, answer));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn nodes(&self, now: Timestamp) -> Result<BTreeMap<NodeName, NodeSnapshot>, ReadError> {
        let mut nodes = BTreeMap::new();
        let mut failure =
            Some(ReadError::NotConfigured("there is no access to the Kubernetes API".to_owned()));
        for (_, answer) in self.answers.iter().take_while(|(at, _)| *at <= now) {
            failure = None;
            match answer {
                Answer::Node(node) => {
                    nodes.insert(node.name.clone(), (**node).clone());
                }
                Answer::Deleted(name) => {
                    nodes.remove(name);
                }
                Answer::Error(error) => failure = Some(error.clone()),
            }
        }
        failure.map_or(Ok(nodes), Err)
    }
}

impl ClusterReader for MemoryCluster {
    async fn node(&self, _: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        Ok(self.lock().nodes(self.clock.now())?.remove(name))
    }

    async fn nodes(&self, _: &ClusterName, _: Consistency) -> Result<Vec<NodeSnapshot>, ReadError> {
        Ok(self.lock().nodes(self.clock.now())?.into_values().collect())
    }

    async fn log_page(&self, query: &LogQuery, _: Option<&str>) -> Result<LogPage, ReadError> {
        let inner = self.lock();
        let now = self.clock.now();
        let wanted = |line: &&LogLine| {
            let time = (query.from..query.until).contains(&line.timestamp) && line.timestamp <= now;
            let stream = match &query.streams {
                Streams::Prefix(prefix) => line.stream.starts_with(prefix.as_str()),
                Streams::Named(name) => line.stream == *name,
            };
            // The lines of other times and streams are not parsed.
            time && stream
                && match &query.lines {
                    Lines::All => true,
                    Lines::Subscribed => our_patterns::control_plane_matches(&line.message),
                    Lines::RequestsOfKubelets(nodes) => {
                        control_plane_log::kubelet_of(&line.message).is_some_and(|node| nodes.contains(&node))
                    }
                }
        };
        let known = inner.lines.get(&query.group).map(Vec::as_slice).unwrap_or_default();
        let mut lines: Vec<LogLine> = known.iter().filter(wanted).cloned().collect();
        if query.limit == Some(1) {
            lines.truncate(1);
            // The rest of the stream is not in the excerpt.
            if lines.is_empty() && query.lines == Lines::All && known.iter().any(|line| of(line, query)) {
                let timestamp = query.until - SignedDuration::from_millis(1);
                let Streams::Named(stream) = &query.streams else { return Ok(LogPage::default()) };
                lines.push(LogLine {
                    stream: stream.clone(),
                    timestamp,
                    ingested: timestamp,
                    message: String::new(),
                });
            }
        }
        Ok(LogPage { lines, next: None })
    }

    async fn streams(&self, group: &str, prefix: &str, _: Timestamp) -> Result<Vec<String>, ReadError> {
        let inner = self.lock();
        let known = inner.lines.get(group).map(Vec::as_slice).unwrap_or_default();
        let mut streams: Vec<String> =
            known.iter().map(|line| &line.stream).filter(|name| name.starts_with(prefix)).cloned().collect();
        streams.sort();
        streams.dedup();
        Ok(streams)
    }
}

fn of(line: &LogLine, query: &LogQuery) -> bool {
    matches!(&query.streams, Streams::Named(name) if *name == line.stream)
}
