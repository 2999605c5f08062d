//! Turns a log group's name into who writes to it, and a fault into where its words stand.

use std::{collections::BTreeSet, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    case::{Case, Fault, Source},
    ident::ClusterName,
    timestamp,
};

/// The stream names of the API server's audit log begin so.
pub const AUDIT_STREAMS: &str = "kube-apiserver-audit";
/// What was said travels for a while, and clocks differ: a reader begins a little before.
const BEFORE: SignedDuration = SignedDuration::from_mins(1);

/// Who writes to a log group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSource {
    /// Our agents: `/nodemend/<cluster>/nodes`.
    Agents(ClusterName),
    /// The control plane: `/aws/eks/<cluster>/cluster`.
    ControlPlane(ClusterName),
}

impl LogSource {
    /// Reads a log group's name.
    pub fn of(log_group: &str) -> Option<Self> {
        let between = |prefix: &str, suffix: &str| {
            let name = log_group.strip_prefix(prefix)?.strip_suffix(suffix)?;
            ClusterName::new(name).ok()
        };
        between("/nodemend/", "/nodes")
            .map(Self::Agents)
            .or_else(|| between("/aws/eks/", "/cluster").map(Self::ControlPlane))
    }

    /// The cluster that it is written for.
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

/// Where to read what was said of a node, in the words of `aws logs filter-log-events`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPointer {
    /// The log group.
    pub log_group_name: String,
    /// How the names of its streams begin.
    pub log_stream_name_prefix: String,
    /// Which of their lines are about the node, where others are among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_pattern: Option<String>,
    /// From when on.
    #[serde(with = "timestamp")]
    pub start_time: Timestamp,
}

/// Where the words that these faults rest on stand: one place for each witness, from the oldest fault on.
pub fn pointers(case: &Case, faults: &[Fault]) -> Vec<LogPointer> {
    let witnesses: BTreeSet<Source> = faults.iter().map(|fault| fault.source).collect();
    let place = |state| {
        let (source, log_stream_name_prefix, filter_pattern) = match state {
            Source::Agent => {
                (LogSource::Agents(case.cluster().clone()), case.instance_id().as_str().to_owned(), None)
            }
            Source::ControlPlane => {
                let about = |node| format!("{{ $.objectRef.name = \"{node}\" }}");
                let filter = case.node().map(about);
                (LogSource::ControlPlane(case.cluster().clone()), AUDIT_STREAMS.to_owned(), filter)
            }
            // Nobody said it: that is the fault.
            Source::Inference => return None,
        };
        let said = faults.iter().filter(|fault| fault.source == state);
        let since = said.map(|fault| fault.since).min()?;
        Some(LogPointer {
            log_group_name: source.to_string(),
            log_stream_name_prefix,
            filter_pattern,
            start_time: since.checked_sub(BEFORE).unwrap_or(since),
        })
    };
    witnesses.into_iter().filter_map(place).collect()
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
