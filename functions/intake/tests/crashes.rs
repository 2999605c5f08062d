//! A delivery that fails or crashes at any of its steps, and is repeated, as Lambda repeats it.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use nodemend_domain::{
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
    sources::ClusterSources,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store, StoreError},
    subscription::Decoder,
};
use nodemend_testkit::{
    Deployment,
    faults::{
        Fate, Faults,
        schedule::{self, Process},
    },
    fixture::{
        INTERFACE_DOWN, agent_payload, at, control_plane_payload, instance, kubelet_ready,
        node_controller_unknown, policy, raised,
    },
};
use proptest::prelude::*;

/// Three nodes by instance ID, and one by its name only.
fn payload() -> Vec<u8> {
    control_plane_payload(&[
        kubelet_ready(1, at(10), "False"),
        kubelet_ready(2, at(11), "False"),
        node_controller_unknown(9, at(12)),
        kubelet_ready(3, at(13), "True"),
        node_controller_unknown(1, at(14)),
    ])
}

/// Nodes 1 and 9 have reported before.
fn prepared() -> Deployment {
    let deployment = Deployment::new(0, policy());
    deployment.deliver(&control_plane_payload(&[kubelet_ready(9, at(0), "True")]), at(1));
    deployment.deliver(&agent_payload(1, &[raised(1, INTERFACE_DOWN, at(0)).line(at(0))]), at(1));
    deployment
}

#[test]
fn a_delivery_that_fails_at_any_step_is_completed_by_the_next() {
    let expected = prepared();
    expected.deliver(&payload(), at(20));
    for fate in Fate::BAD {
        for operation in 1.. {
            let deployment = prepared();
            let faults = Faults::at(operation, fate);
            let intake = deployment.intake(&faults);
            let payload = payload();
            let mut decoder = Decoder::new();
            let result = schedule::run_one(&faults, intake.handle(&mut decoder, &payload, at(20)));
            if faults.operations() < operation {
                assert!(operation > 8, "a delivery has at least that many steps");
                break;
            }
            match result {
                None => assert!(matches!(fate, Fate::DieBefore | Fate::DieAfter)),
                Some(Err(error)) => assert!(error.is_retryable(), "{error}"),
                Some(Ok(_)) => panic!("{fate:?} at {operation} was not reported"),
            }
            deployment.deliver(&payload, at(20));
            assert_eq!(deployment.cases(), expected.cases(), "{fate:?} at {operation}");
        }
    }
}

#[test]
fn a_late_redelivery_hastens_no_deadline() {
    for operation in 1..12 {
        let deployment = prepared();
        let intake = deployment.intake(&Faults::at(operation, Fate::FailAfter));
        let _ = pollster::block_on(intake.handle(&mut Decoder::new(), &payload(), at(20)));
        let redelivered = at(20 + 3 * 3_600);
        deployment.deliver(&payload(), redelivered);
        let expected = prepared();
        expected.deliver(&payload(), at(20));
        // What arrives for the first time so late waits for what else may be late, or, where the node was known to be
        // healthy, for its whole grace period.
        let settled = redelivered + deployment.policy.settling_time;
        for number in [1, 2, 9] {
            let (faults, expected) =
                (deployment.faults(number, at(3_600)), expected.faults(number, at(3_600)));
            assert_eq!(faults.len(), expected.len(), "{number} after {operation}");
            for (fault, expected) in faults.iter().zip(&expected) {
                assert_eq!(
                    (&fault.condition, fault.since),
                    (&expected.condition, expected.since),
                    "{number} after {operation}"
                );
                let waited =
                    expected.deadline.zip(expected.arrived).map(|(deadline, arrived)| deadline - arrived);
                let counted_again = waited.map(|waited| redelivered + waited);
                assert!(
                    [expected.deadline, Some(settled), counted_again].contains(&fault.deadline),
                    "{number} after {operation}: {fault:?}, expected {expected:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn concurrent_deliveries_lose_no_report(order in prop::collection::vec(any::<u8>(), 1..60)) {
        let deployment = prepared();
        let report = |seq, seconds| raised(1, INTERFACE_DOWN, at(0)).seq(seq).line(at(seconds));
        let payloads = [
            payload(),
            agent_payload(1, &[report(2, 60)]),
            agent_payload(1, &[report(3, 90), report(2, 60)]),
            payload(),
        ];
        let process = |payload: &'static [u8]| {
            let faults = Faults::none();
            let intake = deployment.intake(&faults);
            Process::new(faults, async move {
                intake.handle(&mut Decoder::new(), payload, at(95)).await.map(|_| ())
            })
        };
        let mut step = 0;
        let processes = payloads.into_iter().map(|payload| process(payload.leak())).collect();
        let results = schedule::run(processes, |_| {
            step += 1;
            usize::from(order[step % order.len()])
        });
        for result in results {
            prop_assert!(matches!(result, Some(Ok(()))), "{:?}", result);
        }
        let known: Vec<_> = deployment.faults(1, at(3_600)).into_iter().map(|fault| (fault.condition.as_str().to_owned(), fault.since)).collect();
        prop_assert_eq!(known, [("NetworkingReady".to_owned(), at(1)), ("Ready".to_owned(), at(10))]);
        prop_assert_eq!(deployment.faults(2, at(3_600)).len(), 1);
    }
}

/// A store in which the case of one instance cannot be read.
#[derive(Clone)]
struct OneUnreadableCase(MemoryStore, InstanceId);

impl Store for OneUnreadableCase {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        if key.instance_id == self.1 {
            return Err(StoreError::Broken("this test makes it unreadable".into()));
        }
        self.0.case(key).await
    }

    fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> impl Future<Output = Result<Vec<InstanceId>, StoreError>> + Send {
        self.0.instances_of_node(cluster, node)
    }

    fn cluster_of_instance(
        &self,
        instance_id: &InstanceId,
    ) -> impl Future<Output = Result<Option<ClusterName>, StoreError>> + Send {
        self.0.cluster_of_instance(instance_id)
    }

    fn due(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<CaseKey>, StoreError>> + Send {
        self.0.due(until, limit)
    }

    fn next_due(&self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send {
        self.0.next_due()
    }

    fn unhealthy_nodes(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Vec<UnhealthyNode>, StoreError>> + Send {
        self.0.unhealthy_nodes(cluster)
    }

    fn group(
        &self,
        cluster: &ClusterName,
        name: &GroupName,
    ) -> impl Future<Output = Result<GroupState, StoreError>> + Send {
        self.0.group(cluster, name)
    }

    fn commit(&self, change: CaseWrite<'_>) -> impl Future<Output = Result<Commit, StoreError>> + Send {
        self.0.commit(change)
    }

    fn put_group(&self, group: &GroupState) -> impl Future<Output = Result<Commit, StoreError>> + Send {
        self.0.put_group(group)
    }

    fn policy(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<Arc<Policy>>, StoreError>> + Send {
        self.0.policy(cluster)
    }

    fn holds(&self, cluster: &ClusterName) -> impl Future<Output = Result<Vec<Hold>, StoreError>> + Send {
        self.0.holds(cluster)
    }

    fn sources(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<ClusterSources>, StoreError>> + Send {
        self.0.sources(cluster)
    }

    fn put_sources(
        &self,
        cluster: &ClusterName,
        sources: &ClusterSources,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.0.put_sources(cluster, sources)
    }
}

#[test]
fn a_case_that_cannot_be_read_does_not_stop_the_others() {
    let deployment = prepared();
    let intake = Intake::new(OneUnreadableCase(deployment.store.clone(), instance(1)));
    let result = pollster::block_on(intake.handle(&mut Decoder::new(), &payload(), at(20)));
    let error = result.expect_err("the failure is reported");
    assert!(!error.is_retryable(), "{error}");
    for number in [2, 3, 9] {
        assert!(deployment.find(number).is_some(), "{number}");
    }
    assert_eq!(deployment.faults(2, at(3_600)).len(), 1);
    assert_eq!(deployment.faults(9, at(3_600)).len(), 1, "matched by its name");
}
