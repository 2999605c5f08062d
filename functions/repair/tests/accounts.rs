//! Clusters in several accounts: each is asked about its own, and one that can't be asked stops no other.

mod ward;

use nodemend_testkit::edit;
use serde_json::json;
use std::sync::Arc;

use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId},
    policy::Policy,
};
use nodemend_ports::{
    cloud::{Cloud, CloudError, MemoryCloud},
    store::{CaseKey, MemoryStore, Store},
};
use nodemend_repair::Repairer;

use self::ward::{Episode, Ward, cluster, instance, minutes, policy, terminate};

/// Our own account, with one more beside it, or with one that lets nobody in.
#[derive(Clone)]
struct Accounts {
    here: MemoryCloud,
    there: Option<MemoryCloud>,
}

fn member() -> AccountId {
    AccountId::new("222222222222").expect("an id")
}

impl Cloud for Accounts {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        let here = match account {
            None => self.here.clone(),
            Some(account) if *account == member() => self.there.clone().ok_or_else(|| CloudError {
                code: "AccessDenied".to_owned(),
                message: "not authorized to perform sts:AssumeRole".to_owned(),
            })?,
            Some(other) => panic!("{other}"),
        };
        Ok(Self { here, there: None })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.here.describe_instances(instances).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.here.group(name).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        self.here.cluster(name).await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.here.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        self.here.call(call).await
    }

    fn caller(&self) -> &Caller {
        self.here.caller()
    }
}

/// Node 1 of the cluster here, and node 1 of another cluster there, both bad since the start, in one store.
fn two_clusters() -> (Ward, MemoryCloud, MemoryStore) {
    let here = Ward::sick(1, Episode::Network, policy(1));
    let there = Ward::new(2, policy(1));
    let store = here.store.clone();
    let other = ClusterName::new("other").expect("a name");
    store.set_policy(&cluster(), policy(1));
    store.set_policy(&other, Policy { account: Some(member()), ..policy(1) });
    let mut case = here.case(1);
    edit(&mut case, json!({ "cluster": other, "instanceId": instance(2), "version": 0 }));
    let change = nodemend_ports::store::CaseWrite { case: &case, group: None, entries: &[] };
    assert_eq!(pollster::block_on(store.commit(change)), Ok(nodemend_ports::store::Commit::Won));
    there.cloud.change(|fleet| {
        // What is there belongs to the other cluster.
        for name in fleet.group_names().cloned().collect::<Vec<_>>() {
            let zone = nodemend_domain::ident::Zone::new("us-east-1a").expect("a zone");
            fleet.leave(&instance(1));
            fleet.leave(&instance(2));
            let name = GroupName::new(format!("{name}-there")).expect("a name");
            fleet.join(&name, Some(&ClusterName::new("other").expect("a name")), &instance(2), &zone);
        }
    });
    (here, there.cloud, store)
}

#[test]
fn each_cluster_is_repaired_in_its_own_account() {
    let (here, there, store) = two_clusters();
    here.clock.advance_to(minutes(31));
    let cloud = Accounts { here: here.cloud.clone(), there: Some(there.clone()) };
    let swept =
        pollster::block_on(Repairer::new(store, cloud, here.clock.clone()).run_once()).expect("swept");
    assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    assert_eq!((here.cloud.calls(), there.calls()), (vec![terminate(1)], vec![terminate(2)]));
}

#[test]
fn an_account_that_lets_nobody_in_stops_no_other() {
    let (here, there, store) = two_clusters();
    here.clock.advance_to(minutes(31));
    let cloud = Accounts { here: here.cloud.clone(), there: None };
    let repairer = Repairer::new(store.clone(), cloud, here.clock.clone());
    let swept = pollster::block_on(repairer.run_once()).expect("swept");
    assert_eq!((here.cloud.calls(), there.calls()), (vec![terminate(1)], vec![]));
    assert!(
        !swept.failures.is_empty()
            && swept.failures.iter().all(|why| why.to_string().contains("AccessDenied"))
    );
    let key = CaseKey { cluster: ClusterName::new("other").expect("a name"), instance_id: instance(2) };
    let waits = pollster::block_on(store.case(&key)).expect("a memory").expect("a case");
    assert!(waits.due().is_some_and(|due| due <= minutes(31)), "it stays due");
}
