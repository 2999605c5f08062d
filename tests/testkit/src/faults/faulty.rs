//! A port around another port, whose operations fail as its faults decide.

use std::{
    future::{Future, pending, poll_fn},
    sync::Arc,
    task::Poll,
};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{ApiCall, AuditEntry, CallAnswer, CallOutcome, Caller},
    case::{Case, Consistency},
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::UnhealthyNode,
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    policy::{Hold, Policy},
    sources::ClusterSources,
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};

use super::{Fate, Faults};
use nodemend_ports::{
    audit_log::AuditLog,
    cloud::{Cloud, CloudError},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError},
    store::{CaseKey, CaseWrite, Commit, Store, StoreError},
};

/// The message of every error that is injected.
const INJECTED: &str = "an injected fault";

/// A port whose operations fail as its faults decide.
#[derive(Clone)]
pub struct Faulty<P> {
    port: P,
    faults: Faults,
}

impl<P: Sync> Faulty<P> {
    /// A port around another.
    pub fn new(port: P, faults: Faults) -> Self {
        Self { port, faults }
    }

    async fn apply<T, E>(
        &self,
        operation: impl Future<Output = Result<T, E>> + Send,
        error: impl FnOnce() -> E + Send,
    ) -> Result<T, E> {
        yield_once().await;
        match self.faults.draw() {
            Fate::Proceed => operation.await,
            Fate::FailBefore => Err(error()),
            Fate::FailAfter => operation.await.and_then(|_| Err(error())),
            Fate::DieBefore => self.die().await,
            Fate::DieAfter => {
                let _ = operation.await;
                self.die().await
            }
        }
    }

    async fn store<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.apply(operation, || StoreError::Unavailable(INJECTED.into())).await
    }

    async fn cloud<T>(
        &self,
        operation: impl Future<Output = Result<T, CloudError>> + Send,
    ) -> Result<T, CloudError> {
        let error = || CloudError { code: "ServiceUnavailable".to_owned(), source: INJECTED.into() };
        self.apply(operation, error).await
    }

    async fn cluster_reader<T>(
        &self,
        operation: impl Future<Output = Result<T, ReadError>> + Send,
    ) -> Result<T, ReadError> {
        let error = || ReadError::Unavailable { what: "the cluster".to_owned(), source: INJECTED.into() };
        self.apply(operation, error).await
    }

    async fn die<T>(&self) -> T {
        self.faults.kill();
        pending().await
    }
}

/// Lets other processes run once.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<P: Store> Store for Faulty<P> {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        self.store(self.port.case(key)).await
    }

    async fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> Result<Vec<InstanceId>, StoreError> {
        self.store(self.port.instances_of_node(cluster, node)).await
    }

    async fn cluster_of_instance(&self, instance_id: &InstanceId) -> Result<Option<ClusterName>, StoreError> {
        self.store(self.port.cluster_of_instance(instance_id)).await
    }

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<CaseKey>, StoreError> {
        self.store(self.port.due(until, limit)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.store(self.port.next_due()).await
    }

    async fn unhealthy_nodes(&self, cluster: &ClusterName) -> Result<Vec<UnhealthyNode>, StoreError> {
        self.store(self.port.unhealthy_nodes(cluster)).await
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        self.store(self.port.group(cluster, name)).await
    }

    async fn commit(&self, change: CaseWrite<'_>) -> Result<Commit, StoreError> {
        self.store(self.port.commit(change)).await
    }

    async fn put_group(&self, group: &GroupState) -> Result<Commit, StoreError> {
        self.store(self.port.put_group(group)).await
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        self.store(self.port.policy(cluster)).await
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        self.store(self.port.holds(cluster)).await
    }

    async fn sources(&self, cluster: &ClusterName) -> Result<Option<ClusterSources>, StoreError> {
        self.store(self.port.sources(cluster)).await
    }

    async fn put_sources(&self, cluster: &ClusterName, sources: &ClusterSources) -> Result<(), StoreError> {
        self.store(self.port.put_sources(cluster, sources)).await
    }
}

impl<P: AuditLog> AuditLog for Faulty<P> {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<AuditEntry>, StoreError> {
        self.store(self.port.chain(key)).await
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, AuditEntry)>, StoreError> {
        self.store(self.port.call(request_id)).await
    }
}

impl<P: ClusterReader> ClusterReader for Faulty<P> {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.cluster_reader(self.port.node(cluster, name)).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.cluster_reader(self.port.nodes(cluster, consistency)).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.cluster_reader(self.port.log_page(query, next)).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        self.cluster_reader(self.port.streams(group, prefix, since)).await
    }
}

impl<P: Cloud> Cloud for Faulty<P> {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(Self { port: self.port.in_account(account).await?, ..self.clone() })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.cloud(self.port.describe_instances(instances)).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.cloud(self.port.group(name)).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        self.cloud(self.port.cluster(name)).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.cloud(self.port.instance_status(instance_id)).await
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        self.cloud(self.port.failed_status_checks()).await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.cloud(self.port.console_output(instance_id)).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        let unanswered = || CallOutcome::Unanswered { why: INJECTED.to_owned() };
        let made = async { Ok(self.port.call(call).await) };
        self.apply(made, unanswered).await.unwrap_or_else(|outcome| CallAnswer { request_id: None, outcome })
    }

    fn caller(&self) -> &Caller {
        self.port.caller()
    }
}
