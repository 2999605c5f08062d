//! Intake and the repair function over a store in memory, and a cloud whose Kubernetes API is that of the real server.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{clock::SystemClock, cloud::AwsCloud};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    case::{Case, CaseState, Consistency},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    verification::InstanceStatus,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::{Cloud, CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError},
    store::{MemoryStore, Store},
    subscription::Decoder,
};
use nodemend_repair::Repairer;
use nodemend_testkit::fixture::{
    caller, cluster, control_plane_payload, fleet, key, policy_with_limit, zone,
};

use crate::{authenticator::REPAIR_KEY, aws::Aws, server::ControlPlane};

/// AWS in memory, and the Kubernetes API of the real server. No log group has a line.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) cloud: MemoryCloud,
    api: AwsCloud,
}

impl ClusterReader for Account {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.api.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.api.nodes(cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.cloud.log_page(query, next).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        self.cloud.streams(group, prefix, since).await
    }
}

impl Cloud for Account {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(Self { cloud: self.cloud.in_account(account).await?, ..self.clone() })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.cloud.describe_instances(instances).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.cloud.group(name).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        Cloud::cluster(&self.cloud, name).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.cloud.instance_status(instance_id).await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.cloud.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        self.cloud.call(call).await
    }

    fn caller(&self) -> &Caller {
        self.cloud.caller()
    }
}

/// Intake and repair over a store in memory. Their clock begins with the real one, and can be advanced.
pub(crate) struct Deployment {
    pub(crate) clock: VirtualClock,
    pub(crate) store: MemoryStore,
    pub(crate) account: Account,
    delivered: usize,
}

impl Deployment {
    pub(crate) async fn new(aws: &Aws, nodes: u64) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(SystemClock.now());
        let cloud = MemoryCloud::new(clock.clone(), caller(), fleet(nodes, &[zone()]));
        let store = MemoryStore::default();
        // Grace periods as by default, and no limit that counts the nodes of so small a cluster.
        store.set_policy(&cluster(), policy_with_limit(2));
        let account = Account { cloud, api: aws.client(REPAIR_KEY).await };
        Self { clock, store, account, delivered: 0 }
    }

    /// Delivers what the API server has written to its audit log since the last delivery.
    pub(crate) async fn deliver(&mut self, control_plane: &ControlPlane) {
        let lines = control_plane.audit_lines().split_off(self.delivered);
        self.delivered += lines.len();
        let now = SystemClock.now();
        self.clock.advance_to(now);
        let payload = control_plane_payload(&lines);
        let intake = Intake::new(self.store.clone());
        let result = intake.handle(&mut Decoder::new(), &payload, now).await.expect("intake succeeds");
        assert!(result.rejected.is_empty() && result.failures.is_empty(), "{result:?}");
    }

    /// Runs the repair function whenever a case is due, for so long.
    pub(crate) async fn run_for(&self, duration: SignedDuration) {
        let end = self.clock.now() + duration;
        while let Some(due) = self.store.next_due().await.expect("a read").filter(|due| *due <= end) {
            self.clock.advance_to(due);
            let repairer = Repairer::new(self.store.clone(), self.account.clone(), self.clock.clone());
            let run = repairer.run_once().await.expect("a run");
            assert!(run.failures.is_empty(), "{:?}", run.failures);
            for event in run.repair_events {
                println!("{} {} {:?} {}", event.at, event.instance_id, event.step, event.detail);
            }
        }
    }

    async fn case(&self, number: u64) -> Case {
        *self.store.case(&key(number)).await.expect("a read").expect("a case")
    }

    pub(crate) async fn state(&self, number: u64) -> CaseState {
        let policy = policy_with_limit(2);
        self.case(number).await.state_and_faults(Some(&policy.default_rules()), &policy, self.clock.now()).0
    }
}
