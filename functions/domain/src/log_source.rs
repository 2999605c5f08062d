//! The log groups that reports come from, and where to find the reports of a fault in them.

use std::{collections::BTreeSet, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    case::{Case, Fault, Source},
    ident::ClusterName,
    timestamp,
};

/// The prefix of the log streams of the API server's audit log.
pub const AUDIT_STREAMS: &str = "kube-apiserver-audit";
/// How long before a fault to start reading: reports take time to arrive, and clocks differ.
const BEFORE: SignedDuration = SignedDuration::from_mins(1);

/// The writer of a log group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSource {
    /// Our agents: `/nodemend/<cluster>/nodes`.
    Agents(ClusterName),
    /// The control plane: `/aws/eks/<cluster>/cluster`.
    ControlPlane(ClusterName),
}

impl LogSource {
    /// Parses a log group's name; none if it is neither.
    pub fn of(log_group: &str) -> Option<Self> {
        let between = |prefix: &str, suffix: &str| {
            let name = log_group.strip_prefix(prefix)?.strip_suffix(suffix)?;
            ClusterName::new(name).ok()
        };
        between("/nodemend/", "/nodes")
            .map(Self::Agents)
            .or_else(|| between("/aws/eks/", "/cluster").map(Self::ControlPlane))
    }

    /// The cluster whose logs it has.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Agents(cluster) | Self::ControlPlane(cluster) => cluster,
        }
    }
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agents(cluster) => write!(f, "/nodemend/{cluster}/nodes"),
            Self::ControlPlane(cluster) => write!(f, "/aws/eks/{cluster}/cluster"),
        }
    }
}

/// Where to find the reports about a node: the arguments of `aws logs filter-log-events`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPointer {
    /// The log group.
    pub log_group_name: String,
    /// The prefix of its log streams.
    pub log_stream_name_prefix: String,
    /// The pattern that selects the lines about the node. None if all lines are about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_pattern: Option<String>,
    /// The time from which to read.
    #[serde(with = "timestamp")]
    pub start_time: Timestamp,
}

/// Where to find the reports of these faults: one pointer for each source, from its oldest fault on.
pub fn pointers(case: &Case, faults: &[Fault]) -> Vec<LogPointer> {
    let sources: BTreeSet<Source> = faults.iter().map(|fault| fault.source).collect();
    let pointer = |source| {
        let (log_group, log_stream_name_prefix, filter_pattern) = match source {
            Source::Agent => {
                (LogSource::Agents(case.cluster().clone()), case.instance_id().as_str().to_owned(), None)
            }
            Source::ControlPlane => {
                let about = |node| format!("{{ $.objectRef.name = \"{node}\" }}");
                let filter = case.node().map(about);
                (LogSource::ControlPlane(case.cluster().clone()), AUDIT_STREAMS.to_owned(), filter)
            }
            // It follows from a missing report, or a person asks for it.
            Source::Inference | Source::Operator => return None,
        };
        let reported = faults.iter().filter(|fault| fault.source == source);
        let since = reported.map(|fault| fault.since).min()?;
        Some(LogPointer {
            log_group_name: log_group.to_string(),
            log_stream_name_prefix,
            filter_pattern,
            start_time: since.checked_sub(BEFORE).unwrap_or(since),
        })
    };
    sources.into_iter().filter_map(pointer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_read_from_the_log_group() {
        let cluster = ClusterName::new("prod").expect("a name");
        for (name, source) in [
            ("/nodemend/prod/nodes", LogSource::Agents(cluster.clone())),
            ("/aws/eks/prod/cluster", LogSource::ControlPlane(cluster)),
        ] {
            assert_eq!(source.to_string(), name);
            assert_eq!(LogSource::of(name), Some(source));
        }
        for other in ["/aws/lambda/x", "/nodemend//nodes", "/nodemend/a/b/nodes", ""] {
            assert_eq!(LogSource::of(other), None, "{other}");
        }
    }
}
