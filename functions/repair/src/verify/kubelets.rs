//! Whether a kubelet that is reported to be unreachable has made a request lately.
//!
//! The audit log has each request with its user. One query asks for the kubelets of several nodes that are due in the same
//! run: claims of one group follow each other, and the account's quota is five pages a second.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Fault},
    condition::Health,
    control_plane_log,
    ident::NodeName,
    log_source::AUDIT_STREAMS,
    timestamp,
    verification::VerificationResult,
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{
        Lines, LogQuery, MAX_NAMES_BYTES, Streams,
        bounded::{BoundedError, BoundedReader},
    },
    store::Store,
};

use super::control_plane_log::LIMITS;
use crate::{Repairer, concurrency::ReadOnce};

/// A kubelet that is reported unreachable and made a request this recently is reachable.
const KUBELET_ALIVE: SignedDuration = SignedDuration::from_mins(2);

/// Nodes of one cluster that one query asks for.
#[derive(Debug, Default)]
pub(super) struct Kubelets {
    names: Vec<NodeName>,
    requests: ReadOnce<Requests>,
}

/// The requests of the last two minutes.
#[derive(Debug, Clone)]
struct Requests {
    read_at: Timestamp,
    /// The newest of each kubelet that has made any.
    newest: BTreeMap<NodeName, Timestamp>,
}

/// What a query for the requests of a kubelet shows.
pub(super) struct KubeletReading {
    pub(super) result: VerificationResult,
    /// When it was read, if it was.
    pub(super) at: Option<Timestamp>,
}

impl Kubelets {
    /// Divides the nodes among as few queries as possible.
    pub(super) fn divide(nodes: &BTreeSet<NodeName>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut left = 0;
        for node in nodes {
            let bytes = Lines::bytes_of_kubelet(node);
            match all.last_mut().filter(|_| bytes <= left) {
                Some(some) => some.names.push(node.clone()),
                None => {
                    left = MAX_NAMES_BYTES;
                    all.push(Self { names: vec![node.clone()], ..Self::default() });
                }
            }
            left = left.saturating_sub(bytes);
        }
        all
    }

    fn has(&self, node: &NodeName) -> bool {
        self.names.contains(node)
    }
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Whether the kubelet of an unreachable node has made a request lately, by the query that asks for it, or by one of its
    /// own.
    pub(super) async fn kubelet_requests(
        &self,
        shared: &[Kubelets],
        group: &str,
        case: &Case,
        fault: &Fault,
    ) -> KubeletReading {
        let Some(node) = case.node().filter(|_| fault.health == Health::Unknown) else {
            return KubeletReading { result: VerificationResult::FaultPresent, at: None };
        };
        let alone = Kubelets { names: vec![node.clone()], ..Kubelets::default() };
        let kubelets = shared.iter().find(|kubelets| kubelets.has(node)).unwrap_or(&alone);
        let is_usable = |requests: &Requests| self.is_young(requests.read_at);
        let read = async || self.read_requests(group, &kubelets.names).await;
        match kubelets.requests.get(is_usable, read).await {
            Ok(Requests { read_at, newest }) => {
                // What it requested before it was last reported unreachable contradicts nothing.
                let unknown_since = case.last_change(&fault.condition).unwrap_or(fault.since);
                let result = match newest.get(node).filter(|request| **request >= unknown_since) {
                    None => VerificationResult::FaultPresent,
                    Some(request) => {
                        let when = timestamp::seconds(*request);
                        let why = format!("the kubelet made a request at {when}: it is not unreachable");
                        VerificationResult::Contradicted(why)
                    }
                };
                KubeletReading { result, at: Some(read_at) }
            }
            Err(error) => KubeletReading { result: VerificationResult::NotVerified(chain(&error)), at: None },
        }
    }

    async fn read_requests(&self, group: &str, names: &[NodeName]) -> Result<Requests, BoundedError> {
        let reader = BoundedReader::new(&self.cloud, &self.clock, LIMITS);
        let (at, streams) = (reader.begun(), Streams::Prefix(AUDIT_STREAMS.to_owned()));
        let query = LogQuery::new(group, streams, at - KUBELET_ALIVE, at)
            .lines(Lines::RequestsOfKubelets(names.to_vec()));
        let (mut pages, mut newest) = (reader.pages(&query), BTreeMap::new());
        while let Some(lines) = pages.next().await? {
            for line in &lines {
                if let Some(node) = control_plane_log::kubelet_of(&line.message) {
                    let known = newest.entry(node).or_insert(line.timestamp);
                    *known = line.timestamp.max(*known);
                }
            }
        }
        Ok(Requests { read_at: at, newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize, bytes: usize) -> BTreeSet<NodeName> {
        let name = |number: usize| NodeName::new(format!("{number:0bytes$}")).expect("a name");
        (0..count).map(name).collect()
    }

    #[test]
    fn each_node_is_in_one_query_and_each_pattern_is_as_long_as_one_may_be() {
        for (count, bytes, queries) in
            [(0, 20, 0), (1, 253, 1), (16, 25, 1), (17, 25, 2), (4, 250, 2), (200, 25, 13)]
        {
            let nodes = names(count, bytes);
            let divided = Kubelets::divide(&nodes);
            assert_eq!(divided.len(), queries, "{count} names of {bytes} bytes");
            let all: Vec<_> = divided.iter().flat_map(|some| some.names.clone()).collect();
            assert_eq!(all, nodes.into_iter().collect::<Vec<_>>());
            for some in divided {
                let bytes: usize = some.names.iter().map(Lines::bytes_of_kubelet).sum();
                assert!(bytes <= MAX_NAMES_BYTES, "{bytes}");
            }
        }
    }
}
