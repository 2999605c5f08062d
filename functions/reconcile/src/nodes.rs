//! Compares the cases of a cluster with the Nodes of its API server.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use jiff::Timestamp;
use nodemend_domain::{
    case::{Case, Consistency},
    ident::InstanceId,
    node_snapshot::NodeSnapshot,
};
use nodemend_ports::{clock::Clock, cloud::Cloud, cluster_reader::ReadError, store::Store, write::Target};

use crate::{Applied, ReconcileError, ReconcileReport, Run};

/// Cases that are read at once: 5,000 nodes take some seconds.
const CONCURRENCY: usize = 16;

impl<S: Store, C: Cloud, K: Clock> Run<'_, S, C, K> {
    /// Lists the Nodes and applies them. Returns false where there is no API to list them from, none that lets us in, or
    /// none that can be reached.
    pub(crate) async fn reconcile_nodes(&self, report: &mut ReconcileReport) -> Result<bool, ReconcileError> {
        // What the list shows was so when it was requested.
        let at = self.clock.now();
        let nodes = match self.cloud.nodes(self.cluster, Consistency::Cached).await {
            Ok(nodes) => nodes,
            Err(ReadError::NotConfigured(_)) => {
                (report.sources.listed_at, report.sources.nodes) = (None, BTreeSet::new());
                return Ok(false);
            }
            // As in a cluster without an access entry, or with a private endpoint, of a deployment that has others.
            Err(error @ (ReadError::Denied { .. } | ReadError::Unavailable { .. }))
                if report.sources.reads_audit_log =>
            {
                report.not_listed = Some(error);
                return Ok(false);
            }
            Err(error) => {
                report.failures.push(error.into());
                return Ok(true);
            }
        };
        let listed = by_instance(nodes);
        for chunk in listed.values().collect::<Vec<_>>().chunks(CONCURRENCY) {
            let applied = chunk.iter().map(|node| self.apply_node(node, Consistency::Cached, at));
            for result in join_all(applied).await {
                report.applied(result);
            }
        }
        report.listed = Some(listed.len());
        report.sources.listed_at = Some(at);
        let missing = self.missing(&listed, report).await?;
        let undecided = if missing.is_empty() { missing } else { self.look_for(missing, report).await };
        report.sources.nodes = listed.into_keys().chain(undecided).collect();
        Ok(true)
    }

    /// The instances whose case has a Node object that the list lacks.
    async fn missing(
        &self,
        listed: &BTreeMap<InstanceId, NodeSnapshot>,
        report: &ReconcileReport,
    ) -> Result<BTreeSet<InstanceId>, ReconcileError> {
        let unhealthy = self.store.unhealthy_nodes(self.cluster).await?;
        let unlisted: BTreeSet<InstanceId> = unhealthy
            .into_iter()
            .map(|node| node.instance_id)
            .chain(report.sources.nodes.iter().cloned())
            .filter(|instance_id| !listed.contains_key(instance_id))
            .collect();
        let mut missing = BTreeSet::new();
        for instance_id in unlisted {
            let case = self.store.case(&self.key(&instance_id)).await?;
            // In another account, a cluster of the same name has other Nodes.
            let is_of_this_account = |case: &Case| case.account() == self.policy.account.as_ref();
            if case.is_some_and(|case| case.expects_node_object() && is_of_this_account(&case)) {
                missing.insert(instance_id);
            }
        }
        Ok(missing)
    }

    /// Looks for Nodes in a consistent list: the cache may be behind. Returns the instances that are still to be looked for.
    async fn look_for(
        &self,
        mut missing: BTreeSet<InstanceId>,
        report: &mut ReconcileReport,
    ) -> BTreeSet<InstanceId> {
        let at = self.clock.now();
        let nodes = match self.cloud.nodes(self.cluster, Consistency::Latest).await {
            Ok(nodes) => by_instance(nodes),
            Err(error) => {
                report.failures.push(error.into());
                return missing;
            }
        };
        for instance_id in missing.clone() {
            let result = match nodes.get(&instance_id) {
                Some(node) => self.apply_node(node, Consistency::Latest, at).await,
                None => {
                    let key = self.key(&instance_id);
                    let absent = |case: &mut Case| {
                        case.apply_snapshot(None, Consistency::Latest, at, self.policy).unwrap_or_default()
                    };
                    self.apply(Target::case(&key), at, absent).await
                }
            };
            if report.applied(result) {
                missing.remove(&instance_id);
            }
        }
        missing
    }

    async fn apply_node(&self, node: &NodeSnapshot, consistency: Consistency, at: Timestamp) -> Applied {
        let Some(instance_id) = &node.instance_id else { return Ok((Vec::new(), false)) };
        let key = self.key(instance_id);
        let apply = |case: &mut Case| {
            // The case is that of the Node's own instance.
            case.apply_snapshot(Some(node), consistency, at, self.policy).unwrap_or_default()
        };
        self.apply(Target::case(&key).or_new(), at, apply).await
    }
}

/// The Nodes of instances. Of two Nodes with one provider ID the newer one stands for the instance: the older one is left
/// from before it changed its name.
fn by_instance(nodes: Vec<NodeSnapshot>) -> BTreeMap<InstanceId, NodeSnapshot> {
    let mut by_instance: BTreeMap<InstanceId, NodeSnapshot> = BTreeMap::new();
    for node in nodes {
        let Some(instance_id) = node.instance_id.clone() else { continue };
        match by_instance.get(&instance_id) {
            Some(known) if known.created > node.created => {}
            _ => {
                by_instance.insert(instance_id, node);
            }
        }
    }
    by_instance
}
