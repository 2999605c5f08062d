//! Intake and the repair function over a store in memory, and a cloud whose Kubernetes API is that of the real server.

use jiff::SignedDuration;
use nodemend_aws::{clock::SystemClock, cloud::AwsCloud};
use nodemend_domain::{
    case::{Case, CaseState, Consistency},
    ident::{ClusterName, NodeName},
    node_snapshot::NodeSnapshot,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    cluster_reader::{ClusterReader, ReadError},
    store::{MemoryStore, Store},
    subscription::Decoder,
};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    CloudOverrides, OverriddenCloud,
    fixture::{caller, cluster, control_plane_payload, fleet, key, policy_with_limit, zone},
};

use crate::{authenticator::REPAIR_KEY, aws::Aws, server::ControlPlane};

/// AWS in memory, and the Kubernetes API of the real server. No log group has a line.
pub(crate) type Account = OverriddenCloud<MemoryCloud, KubernetesApi>;

#[derive(Clone)]
pub(crate) struct KubernetesApi(AwsCloud);

impl CloudOverrides<MemoryCloud> for KubernetesApi {
    async fn node(
        &self,
        _: &MemoryCloud,
        cluster: &ClusterName,
        name: &NodeName,
    ) -> Result<Option<NodeSnapshot>, ReadError> {
        self.0.node(cluster, name).await
    }

    async fn nodes(
        &self,
        _: &MemoryCloud,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.0.nodes(cluster, consistency).await
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
        let account = Account { cloud, overrides: KubernetesApi(aws.client(REPAIR_KEY).await) };
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
