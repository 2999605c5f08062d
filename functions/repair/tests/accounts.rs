//! Clusters in several accounts: each is repaired in its own, and an account without access stops no other.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    case::Consistency,
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    policy::Policy,
    verification::InstanceStatus,
};
use nodemend_ports::{
    cause::chain,
    cloud::{Cloud, CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError},
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    Deployment, edit,
    fixture::{
        INTERFACE_DOWN, cluster, cluster_named, group_named, instance, minutes, policy_with_limit, terminate,
        zone,
    },
};
use serde_json::json;

/// The deployment's own account, and a member account, whose role may be missing.
#[derive(Clone)]
struct Accounts {
    own: MemoryCloud,
    member: Option<MemoryCloud>,
}

fn member() -> AccountId {
    AccountId::new("222222222222").expect("an id")
}

impl ClusterReader for Accounts {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.own.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.own.nodes(cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.own.log_page(query, next).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        self.own.streams(group, prefix, since).await
    }
}

impl Cloud for Accounts {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        let own = match account {
            None => self.own.clone(),
            Some(account) if *account == member() => self.member.clone().ok_or_else(|| CloudError {
                code: "AccessDenied".to_owned(),
                source: "not authorized to perform sts:AssumeRole".into(),
            })?,
            Some(other) => panic!("{other}"),
        };
        Ok(Self { own, member: None })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.own.describe_instances(instances).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.own.group(name).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        self.own.cluster(name).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.own.instance_status(instance_id).await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.own.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        self.own.call(call).await
    }

    fn caller(&self) -> &Caller {
        self.own.caller()
    }
}

/// Node 1 of our cluster, and node 2 of another cluster in the member account, both unhealthy since the start.
fn two_clusters() -> (Deployment, MemoryCloud, MemoryStore) {
    let own = Deployment::with_problem(1, INTERFACE_DOWN, policy_with_limit(1));
    let other_account = Deployment::new(2, policy_with_limit(1));
    let store = own.store.clone();
    let other = cluster_named("other");
    store.set_policy(&cluster(), policy_with_limit(1));
    store.set_policy(&other, Policy { account: Some(member()), ..policy_with_limit(1) });
    let mut case = own.case(1);
    edit(&mut case, json!({ "cluster": other, "instanceId": instance(2), "version": 0 }));
    let change = CaseWrite { case: &case, group: None, entries: &[] };
    assert_eq!(pollster::block_on(store.commit(change)), Ok(Commit::Won));
    // All groups of the member account belong to the other cluster.
    other_account.cloud.change(|fleet| {
        for name in fleet.group_names().cloned().collect::<Vec<_>>() {
            fleet.leave(&instance(1));
            fleet.leave(&instance(2));
            let name = group_named(&format!("{name}-of-member"));
            fleet.join(&name, Some(&cluster_named("other")), &instance(2), &zone());
        }
    });
    (own, other_account.cloud, store)
}

#[test]
fn each_cluster_is_repaired_in_its_own_account() {
    let (own, member, store) = two_clusters();
    own.clock.advance_to(minutes(31));
    let cloud = Accounts { own: own.cloud.clone(), member: Some(member.clone()) };
    let run = pollster::block_on(Repairer::new(store, cloud, own.clock.clone()).run_once()).expect("a run");
    assert!(run.failures.is_empty(), "{:?}", run.failures);
    assert_eq!((own.cloud.calls(), member.calls()), (vec![terminate(1)], vec![terminate(2)]));
}

#[test]
fn an_account_that_denies_access_delays_no_other_account() {
    let (own, member, store) = two_clusters();
    own.clock.advance_to(minutes(31));
    let cloud = Accounts { own: own.cloud.clone(), member: None };
    let repairer = Repairer::new(store.clone(), cloud, own.clock.clone());
    let run = pollster::block_on(repairer.run_once()).expect("a run");
    assert_eq!((own.cloud.calls(), member.calls()), (vec![terminate(1)], vec![]));
    assert!(!run.failures.is_empty() && run.failures.iter().all(|why| chain(why).contains("AccessDenied")));
    let key = CaseKey { cluster: cluster_named("other"), instance_id: instance(2) };
    let case = pollster::block_on(store.case(&key)).expect("a read").expect("a case");
    assert!(case.due().is_some_and(|due| due <= minutes(31)), "it stays due");
}
