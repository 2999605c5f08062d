//! What the Kubernetes API and the log groups of the simulated cluster answer: the true state, not what was
//! delivered, with the faults of a real service.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::{ConditionType, Health},
    ident::{BootId, NodeName, NodeUid},
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::ObservedCondition,
};
use nodemend_ports::cluster_reader::{LogLine as Line, LogPage, LogQuery, ReadError, Streams};
use nodemend_testkit::fixture::AUDIT_STREAM;

use crate::{
    messages::{LogLine, boot_id, uid},
    oracle::node::{Fact, Node, NodeObject},
    rng::Rng,
};

/// The lines of one page.
const PAGE: usize = 50;

/// What the deployment may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The Kubernetes API, and the log groups.
    Api,
    /// The log groups alone.
    Logs,
    Neither,
}

/// How reads fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    Denied,
    Throttled,
    Unavailable,
}

/// What was written to the cluster's log groups, delivered or not, and how reading it goes.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) access: Access,
    /// All reads fail.
    pub(crate) failing: Option<Failing>,
    /// So many of a thousand reads are throttled, and so many take 1 to 15 seconds.
    pub(crate) throttled: u64,
    pub(crate) slow: u64,
    /// A line can be found only so long after it was written.
    pub(crate) lag: SignedDuration,
    /// For how long EC2 does not know a new instance.
    pub(crate) ec2_lag: SignedDuration,
    rng: Rng,
    pub(crate) agents: Vec<Arc<LogLine>>,
    pub(crate) control_plane: Vec<Arc<LogLine>>,
}

impl Reading {
    pub(crate) fn new(seed: u64, access: Access) -> Self {
        Self {
            access,
            failing: None,
            throttled: 0,
            slow: 0,
            lag: SignedDuration::from_secs(1),
            ec2_lag: SignedDuration::ZERO,
            rng: Rng::of(seed, 4),
            agents: Vec::new(),
            control_plane: Vec::new(),
        }
    }

    /// How long the answer to the next read takes.
    pub(crate) fn delay(&mut self) -> Option<SignedDuration> {
        if self.rng.happens(self.slow) { Some(self.rng.seconds(1, 16)) } else { None }
    }

    /// Why the next read fails, if it does.
    pub(crate) fn failure(&mut self, what: &str) -> Option<ReadError> {
        let throttled = self.rng.happens(self.throttled).then_some(Failing::Throttled);
        let (what, source) = (what.to_owned(), "simulated".into());
        Some(match self.failing.or(throttled)? {
            Failing::Denied => ReadError::Denied { what, source },
            Failing::Throttled => ReadError::Throttled { what, source },
            Failing::Unavailable => ReadError::Unavailable { what, source },
        })
    }

    /// One page of the lines that a query selects, and the facts that they carry.
    pub(crate) fn page(
        &mut self,
        query: &LogQuery,
        next: Option<&str>,
        now: Timestamp,
        named: Option<usize>,
    ) -> (LogPage, Vec<(usize, Fact)>) {
        let lines = match named {
            Some(_) => &self.agents,
            None => &self.control_plane,
        };
        let until = query.until.min(now - self.lag);
        let first = lines.partition_point(|line| line.at < query.from);
        let end = lines.partition_point(|line| line.at < until);
        let stream = |line: &&Arc<LogLine>| match &query.streams {
            Streams::Named(name) => line.log_stream == *name,
            Streams::Prefix(prefix) => line.log_stream.starts_with(prefix.as_str()),
        };
        let skip = next.and_then(|next| next.parse::<usize>().ok()).unwrap_or(0);
        // `FilterLogEvents` answers with empty pages, too.
        let count = if next.is_none() && self.rng.happens(100) { 0 } else { PAGE };
        let mut found = lines[first.min(end)..end].iter().filter(stream).skip(skip);
        let page: Vec<&Arc<LogLine>> = found.by_ref().take(count).collect();
        let more = found.next().is_some() || count == 0;
        let facts = page.iter().flat_map(|line| line.facts.iter().cloned()).collect();
        let as_read = |line: &&Arc<LogLine>| Line {
            stream: line.log_stream.clone(),
            timestamp: line.at,
            ingested: line.at,
            message: line.message.clone(),
        };
        let lines = page.iter().map(as_read).collect();
        (LogPage { lines, next: more.then(|| (skip + page.len()).to_string()) }, facts)
    }
}

/// A line that concerns no node: only its time matters.
pub(crate) fn other_line(at: Timestamp) -> LogPage {
    let line =
        Line { stream: AUDIT_STREAM.to_owned(), timestamp: at, ingested: at, message: "{}".to_owned() };
    LogPage { lines: vec![line], next: None }
}

/// A request that a kubelet has made.
pub(crate) fn request_of(node: &NodeName, at: Timestamp) -> Line {
    let message = format!("{{\"user\":{{\"username\":\"system:node:{node}\"}}}}");
    Line { stream: AUDIT_STREAM.to_owned(), timestamp: at, ingested: at, message }
}

/// The Node object of a node as the Kubernetes API returns it.
pub(crate) fn snapshot(node: &Node, object: &NodeObject) -> NodeSnapshot {
    let (reason, health) = match object.ready {
        Health::Healthy => ("KubeletReady", Health::Healthy),
        Health::Bad => ("KubeletNotReady", Health::Bad),
        Health::Unknown => ("NodeStatusUnknown", Health::Unknown),
    };
    let ready = ObservedCondition {
        condition: ConditionType::Ready,
        health,
        reason: reason.to_owned(),
        message: "simulated".to_owned(),
    };
    let boot: BootId = boot_id(object.boot);
    NodeSnapshot {
        name: node.name.clone(),
        uid: NodeUid::new(uid(object.uid)).ok(),
        instance_id: Some(node.instance.clone()),
        boot_id: Some(boot),
        created: Some(object.created),
        conditions: vec![SnapshotCondition { observed: ready, since: Some(object.ready_since) }],
        hold: None,
        cordoned: false,
    }
}

/// The node whose Node object has this name.
pub(crate) fn named(nodes: &[Node], name: &NodeName) -> Option<usize> {
    nodes.iter().position(|node| node.object.is_some() && node.name == *name)
}
