//! Clusters in several accounts: each is repaired in its own, and an account without access stops no other.

use std::collections::BTreeMap;

use nodemend_domain::{
    group::{Group, Lifecycle, Member as GroupMember},
    ident::AccountId,
    policy::Policy,
};
use nodemend_ports::{
    cause::chain,
    cloud::{CloudError, MemoryCloud},
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    CloudOverrides, Deployment, OverriddenCloud, edit, edit_stored,
    fixture::{
        INTERFACE_DOWN, cluster, cluster_named, group, group_named, hold_until, instance, minutes,
        policy_with_limit, terminate, zone,
    },
};
use serde_json::json;

/// The other account, if its role can be assumed.
#[derive(Clone)]
struct Member(Option<MemoryCloud>);

fn member() -> AccountId {
    AccountId::new("222222222222").expect("an id")
}

impl CloudOverrides<MemoryCloud> for Member {
    async fn in_account(
        &self,
        own: &MemoryCloud,
        account: Option<&AccountId>,
    ) -> Result<MemoryCloud, CloudError> {
        match account {
            None => Ok(own.clone()),
            Some(account) if *account == member() => self.0.clone().ok_or_else(|| CloudError {
                code: "AccessDenied".to_owned(),
                source: "not authorized to perform sts:AssumeRole".into(),
            }),
            Some(other) => panic!("{other}"),
        }
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
    let cloud = OverriddenCloud { cloud: own.cloud.clone(), overrides: Member(Some(member.clone())) };
    let run = pollster::block_on(Repairer::new(store, cloud, own.clock.clone()).run_once()).expect("a run");
    assert!(run.failures.is_empty(), "{:?}", run.failures);
    assert_eq!((own.cloud.calls(), member.calls()), (vec![terminate(1)], vec![terminate(2)]));
}

#[test]
fn an_account_that_denies_access_delays_no_other_account() {
    let (own, member, store) = two_clusters();
    own.clock.advance_to(minutes(31));
    let cloud = OverriddenCloud { cloud: own.cloud.clone(), overrides: Member(None) };
    let repairer = Repairer::new(store.clone(), cloud, own.clock.clone());
    let run = pollster::block_on(repairer.run_once()).expect("a run");
    assert_eq!((own.cloud.calls(), member.calls()), (vec![terminate(1)], vec![]));
    assert!(!run.failures.is_empty() && run.failures.iter().all(|why| chain(why).contains("AccessDenied")));
    let key = CaseKey { cluster: cluster_named("other"), instance_id: instance(2) };
    let case = pollster::block_on(store.case(&key)).expect("a read").expect("a case");
    assert!(case.due().is_some_and(|due| due <= minutes(31)), "it stays due");
}

/// The same, and the group of the other account has the same name as ours.
fn two_groups_of_one_name() -> (Deployment, MemoryCloud, MemoryStore) {
    let (own, there, store) = two_clusters();
    there.change(|fleet| {
        fleet.leave(&instance(2));
        let lifecycle = Lifecycle::InService;
        fleet.add_group(Group {
            name: group(),
            cluster: Some(cluster_named("other")),
            members: vec![GroupMember { instance_id: instance(2), zone: zone(), lifecycle }],
            suspended: Vec::new(),
            tags: BTreeMap::new(),
            eks_repair_enabled: false,
            desired_capacity: None,
        });
    });
    (own, there, store)
}

fn run_each_minute(
    own: &Deployment,
    there: &MemoryCloud,
    store: &MemoryStore,
    minutes_of: std::ops::Range<i64>,
) {
    for minute in minutes_of {
        own.clock.advance_to(minutes(minute));
        let cloud = OverriddenCloud { cloud: own.cloud.clone(), overrides: Member(Some(there.clone())) };
        let run = pollster::block_on(Repairer::new(store.clone(), cloud, own.clock.clone()).run_once());
        assert!(run.expect("a run").failures.is_empty(), "{minute}");
    }
}

#[test]
fn a_group_of_the_same_name_in_another_account_is_another_group() {
    let (own, there, store) = two_groups_of_one_name();
    store.hold(&cluster(), hold_until(minutes(600)));
    run_each_minute(&own, &there, &store, 31..40);
    assert_eq!((own.cloud.calls(), there.calls()), (vec![], vec![terminate(2)]));
}

#[test]
fn a_policy_with_the_wrong_account_closes_no_case() {
    let wrong = [None, Some(member())];
    for (wrong, cluster_of_it) in wrong.into_iter().zip([cluster_named("other"), cluster()]) {
        let (own, there, store) = two_groups_of_one_name();
        let right = pollster::block_on(store.policy(&cluster_of_it)).expect("a read").expect("a policy");
        // Its reports came from its own account.
        let number = if cluster_of_it == cluster() { 1 } else { 2 };
        let key = CaseKey { cluster: cluster_of_it.clone(), instance_id: instance(number) };
        let mut case = pollster::block_on(store.case(&key)).expect("a read").expect("a case");
        edit_stored(&mut *case, |case| case["account"] = json!(right.account));
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(store.commit(change)), Ok(Commit::Won));
        store.set_policy(&cluster_of_it, Policy { account: wrong.clone(), ..policy_with_limit(1) });
        run_each_minute(&own, &there, &store, 31..60);
        store.set_policy(&cluster_of_it, (*right).clone());
        run_each_minute(&own, &there, &store, 60..65);
        assert_eq!(
            (own.cloud.calls(), there.calls()),
            (vec![terminate(1)], vec![terminate(2)]),
            "{wrong:?}: repaired once the policy is right again"
        );
    }
}
