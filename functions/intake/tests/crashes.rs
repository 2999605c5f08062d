//! A delivery that fails or dies at any of its steps, and comes again, as Lambda delivers it.

mod ward;

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use nodemend_domain::{
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
};
use nodemend_intake::Intake;
use nodemend_ports::{
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store, StoreError},
    subscription::Decoder,
};
use nodemend_testkit::faults::{
    Fate, Faults, Faulty,
    schedule::{self, Process},
};
use proptest::prelude::*;

use self::ward::{
    at, faults, find, instance, of_agent, of_api_server, ready, report, state, store, take, try_take,
};

/// Three nodes by id, and one that is known by its name alone.
fn payload() -> Vec<u8> {
    of_api_server(&[
        ready(1, 10, "False", false),
        ready(2, 11, "False", false),
        ready(9, 12, "Unknown", true),
        ready(3, 13, "True", false),
        ready(1, 14, "Unknown", true),
    ])
}

fn prepared() -> MemoryStore {
    let store = store();
    take(&store, &of_api_server(&[ready(9, 0, "True", false)]), 1);
    take(&store, &of_agent(1, &[report(1, 1, 0, Some(0))]), 1);
    store
}

#[test]
fn wherever_a_delivery_ends_the_next_one_comes_to_the_same() {
    let expected = prepared();
    take(&expected, &payload(), 20);
    for fate in Fate::BAD {
        for operation in 1.. {
            let store = prepared();
            let faults = Faults::at(operation, fate);
            let intake = Intake::new(Faulty::new(store.clone(), faults.clone()));
            let payload = payload();
            let mut decoder = Decoder::new();
            let result = schedule::run_one(&faults, intake.handle(&mut decoder, &payload, at(20)));
            if faults.operations() < operation {
                assert!(operation > 8, "a delivery has that many steps at least");
                break;
            }
            match result {
                None => assert!(matches!(fate, Fate::DieBefore | Fate::DieAfter)),
                Some(Err(error)) => assert!(error.is_retryable(), "{error}"),
                Some(Ok(_)) => panic!("{fate:?} at {operation} was not told of"),
            }
            take(&store, &payload, 20);
            assert_eq!(state(&store), state(&expected), "{fate:?} at {operation}");
        }
    }
}

#[test]
fn a_late_redelivery_moves_no_deadline() {
    for operation in 1..12 {
        let store = prepared();
        let faults = Faults::at(operation, Fate::FailAfter);
        let _ = try_take(Faulty::new(store.clone(), faults), &payload(), 20);
        take(&store, &payload(), 20 + 3 * 3_600);
        let expected = prepared();
        take(&expected, &payload(), 20);
        for number in [1, 2, 9] {
            let deadlines = |store| -> Vec<_> {
                ward::faults(store, number)
                    .into_iter()
                    .map(|fault| (fault.condition, fault.deadline))
                    .collect()
            };
            assert_eq!(deadlines(&store), deadlines(&expected), "{number} after {operation}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn deliveries_at_once_lose_races_and_no_words(order in prop::collection::vec(any::<u8>(), 1..60)) {
        let store = prepared();
        let payloads = [
            payload(),
            of_agent(1, &[report(1, 2, 60, Some(0))]),
            of_agent(1, &[report(1, 3, 90, Some(0)), report(1, 2, 60, Some(0))]),
            payload(),
        ];
        let process = |payload: &'static [u8]| {
            let faults = Faults::none();
            let intake = Intake::new(Faulty::new(store.clone(), faults.clone()));
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
        let known: Vec<_> = faults(&store, 1).into_iter().map(|fault| (fault.condition.as_str().to_owned(), fault.since)).collect();
        prop_assert_eq!(known, [("NetworkingReady".to_owned(), at(1)), ("Ready".to_owned(), at(10))]);
        prop_assert_eq!(faults(&store, 2).len(), 1);
    }
}

/// A store with one item that nobody can read any more.
#[derive(Clone)]
struct Spoilt(MemoryStore, InstanceId);

impl Store for Spoilt {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        if key.instance_id == self.1 {
            return Err(StoreError::Broken("as asked for".to_owned()));
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

    fn policy(
        &self,
        cluster: &ClusterName,
    ) -> impl Future<Output = Result<Option<Arc<Policy>>, StoreError>> + Send {
        self.0.policy(cluster)
    }

    fn holds(&self, cluster: &ClusterName) -> impl Future<Output = Result<Vec<Hold>, StoreError>> + Send {
        self.0.holds(cluster)
    }
}

#[test]
fn one_case_that_cannot_be_read_does_not_silence_the_others() {
    let store = prepared();
    let spoilt = Spoilt(store.clone(), instance(1));
    let error = try_take(spoilt, &payload(), 20).expect_err("it is told of");
    assert!(!error.is_retryable(), "{error}");
    for number in [2, 3, 9] {
        assert!(find(&store, number).is_some(), "{number}");
    }
    assert_eq!(faults(&store, 2).len(), 1);
    assert_eq!(faults(&store, 9).len(), 1, "placed by its name");
}
