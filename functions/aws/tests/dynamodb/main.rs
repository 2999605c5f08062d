//! The store in DynamoDB keeps the store's contract over a real socket, and what only a network can break.

mod server;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use nodemend_aws::dynamodb::{DynamoStore, create_tables};
use nodemend_domain::{
    audit_log::builder::{self, AuditEntry, StepRecord},
    audit_log::{Caller, RecordStep, verify_chain},
    case::{Case, Closed, UnhealthyReason},
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Mode, Policy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, CaseWrite, Commit, Store, StoreError},
};
use nodemend_testkit::edit;
use serde_json::Value;
use serde_json::json;

use self::server::{Wire, client, fresh, run, serve, tables};

nodemend_testkit::store_contract!(run, fresh());

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

fn prod() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

fn new_case(number: u64) -> Case {
    Case::new(prod(), InstanceId::new(format!("i-{number:017x}")).expect("an id"))
}

fn node() -> NodeName {
    NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name")
}

fn record_step(case: &mut Case, data: Value) -> AuditEntry {
    let caller = Caller {
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
        principal_id: None,
        user_agent: None,
    };
    builder::record_step(case, StepRecord::new(RecordStep::Claimed, "as asked for", data), &caller, at(0))
}

async fn put(store: &DynamoStore, case: &mut Case) {
    let change = CaseWrite { case, group: None, entries: &[] };
    assert_eq!(store.commit(change).await, Ok(Commit::Won));
    *case = case.next_version();
}

/// An attribute of a case's item.
async fn attribute(
    client: &aws_sdk_dynamodb::Client,
    pk: &str,
    sk: &str,
    name: &str,
) -> Option<AttributeValue> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let got = client
        .get_item()
        .table_name(tables().state)
        .key("pk", key(pk))
        .key("sk", key(sk))
        .consistent_read(true)
        .send()
        .await
        .expect("a read");
    got.item.expect("an item").remove(name)
}

#[test]
fn tables_are_made_once() {
    run(async {
        let client = client(&serve().await).await;
        assert_eq!(create_tables(&client, &tables()).await, Ok(()));
    });
}

#[test]
fn a_write_whose_answer_was_lost_is_made_once_and_reads_as_won() {
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let (entry, before) = (record_step(&mut case, Value::Null), wire.writes());
        wire.mark_unanswered(1);
        let change = CaseWrite { case: &case, group: None, entries: std::slice::from_ref(&entry) };
        assert_eq!(store.commit(change).await, Ok(Commit::Won));
        assert_eq!(wire.writes() - before, 2, "it was tried again");
        let key = CaseKey::of(&case);
        assert_eq!(store.case(&key).await.expect("a read").expect("a case").version(), 2);
        assert_eq!(store.chain(&key).await, Ok(vec![entry]));
    });
}

#[test]
fn a_race_is_lost_also_where_the_answer_to_the_first_try_was() {
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let stale = case.clone();
        put(&store, &mut case).await;
        wire.mark_unanswered(1);
        assert_eq!(
            store.commit(CaseWrite { case: &stale, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(store.case(&CaseKey::of(&case)).await, Ok(Some(Box::new(case))));
    });
}

/// A plain put has no token: whoever is told that it lost reads again, and finds its own words.
#[test]
fn a_lone_case_whose_answer_was_lost_reads_as_lost_and_is_written_once() {
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let before = wire.writes();
        wire.mark_unanswered(1);
        assert_eq!(
            store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(wire.writes() - before, 2, "it was tried again");
        let read = store.case(&CaseKey::of(&case)).await.expect("a read").expect("a case");
        assert_eq!(read.version(), case.version() + 1);
    });
}

#[test]
fn two_that_decide_the_same_on_the_same_version_do_not_both_win() {
    run(async {
        let store = fresh().await;
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let change = || CaseWrite { case: &case, group: None, entries: &[] };
        let (one, other) = tokio::join!(store.commit(change()), store.commit(change()));
        let mut answers = [one.expect("an answer"), other.expect("an answer")];
        answers.sort_by_key(|answer| *answer == Commit::Lost);
        assert_eq!(answers, [Commit::Won, Commit::Lost]);
    });
}

#[test]
fn a_write_that_nobody_answered_is_unavailable_and_may_have_been_made() {
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        wire.mark_unanswered(3);
        let unanswered = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
        assert!(matches!(unanswered, Err(StoreError::Unavailable(_))), "{unanswered:?}");
        // Whoever reads again sees it, and whoever doesn't loses.
        let again = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(store.commit(again).await, Ok(Commit::Lost));
        let read = store.case(&CaseKey::of(&case)).await.expect("a read").expect("a case");
        assert_eq!(read.version(), case.version() + 1);
    });
}

#[test]
fn a_store_that_is_not_there_is_unavailable() {
    run(async {
        let store = DynamoStore::new(client("127.0.0.1:1").await, tables());
        let read = store.case(&CaseKey::of(&new_case(1))).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let mut others = tables();
        others.state = "somebody-elses".to_owned();
        let store = DynamoStore::new(client(&serve().await).await, others);
        let case = new_case(1);
        let written = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    });
}

#[test]
fn what_is_more_than_an_item_or_a_transaction_takes_is_refused_whole() {
    run(async {
        let store = fresh().await;
        let refused = async |entries: usize, bytes: usize| {
            let mut case = new_case(1);
            let entries: Vec<_> =
                (0..entries).map(|_| record_step(&mut case, Value::String("x".repeat(bytes)))).collect();
            let commit = store.commit(CaseWrite { case: &case, group: None, entries: &entries }).await;
            matches!(commit, Err(StoreError::Broken(why)) if why.contains("are more than"))
        };
        assert!(refused(1, 400 * 1024).await, "an item of more than 400 KB");
        assert!(refused(12, 350 * 1024).await, "a transaction of more than 4 MB");
        assert!(refused(99, 1).await, "a transaction of 101 items");
        let key = CaseKey::of(&new_case(1));
        assert_eq!(store.case(&key).await, Ok(None));
        assert_eq!(store.chain(&key).await, Ok(Vec::new()));
        assert!(!refused(98, 1).await, "a transaction of 100 items");
        assert_eq!(store.chain(&key).await.expect("a read").len(), 98);
    });
}

#[test]
fn a_long_trail_is_read_to_its_end() {
    run(async {
        let store = fresh().await;
        let mut case = new_case(1);
        // Three pages of a query, each at most 1 MB.
        for _ in 0..9 {
            let entry = record_step(&mut case, Value::String("x".repeat(300 * 1024)));
            let change = CaseWrite { case: &case, group: None, entries: &[entry] };
            assert_eq!(store.commit(change).await, Ok(Commit::Won));
            case = case.next_version();
        }
        let chain = store.chain(&CaseKey::of(&case)).await.expect("a read");
        assert_eq!(verify_chain(chain.iter().map(|entry| &entry.line)), Ok(case.audit_log().clone()));
    });
}

#[test]
fn the_indexes_hold_the_due_and_the_unhealthy_and_nothing_else() {
    const CASES: u64 = 300;
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let client = client(&address).await;
        let store = DynamoStore::new(client.clone(), tables());
        for number in 0..CASES {
            let mut case = new_case(number);
            if number % 30 == 0 {
                edit(&mut case, json!({ "due": at(number as i64) }));
                edit(
                    &mut case,
                    json!({ "unhealthyReason": UnhealthyReason { since: at(0), silent: true, unhealthy: true } }),
                );
            }
            put(&store, &mut case).await;
            if number % 60 == 0 {
                edit(&mut case, json!({ "due": null, "unhealthyReason": null }));
                put(&store, &mut case).await;
            }
        }
        for index in ["due", "unhealthy"] {
            let scan =
                client.scan().table_name(tables().state).index_name(index).send().await.expect("a scan");
            assert_eq!(scan.scanned_count(), 5, "{index} of {CASES}");
        }
        let before = wire.queries();
        assert_eq!(store.due(at(CASES as i64), 1_000).await.expect("a read").len(), 5);
        assert_eq!(wire.queries() - before, 8, "one for each shard");
    });
}

#[test]
fn a_name_is_paid_for_when_it_changes_and_only_then() {
    run(async {
        let (wire, address) = Wire::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        edit(&mut case, json!({ "node": node() }));
        let mut transactions = Vec::new();
        for _ in 0..3 {
            let before = wire.writes();
            put(&store, &mut case).await;
            transactions.push(wire.writes() - before);
        }
        assert_eq!(transactions, [2, 1, 1]);
        assert_eq!(store.instances_of_node(&prod(), &node()).await, Ok(vec![case.instance_id().clone()]));

        let mut stale = case.clone();
        let before = stale.version() - 1;
        edit(&mut stale, json!({ "version": before }));
        edit(&mut stale, json!({ "node": NodeName::new("another").expect("a name") }));
        let before = wire.writes();
        assert_eq!(
            store.commit(CaseWrite { case: &stale, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(wire.writes() - before, 1, "a race that is lost is no new name");
    });
}

#[test]
fn of_a_name_that_many_had_the_newest_are_known() {
    run(async {
        let store = fresh().await;
        for number in 0..40 {
            let mut case = new_case(number);
            edit(&mut case, json!({ "node": node() }));
            put(&store, &mut case).await;
        }
        let known = store.instances_of_node(&prod(), &node()).await.expect("a read");
        let newest: Vec<_> = (8..40).map(|number| new_case(number).instance_id().clone()).collect();
        assert_eq!(known, newest);
    });
}

#[test]
fn a_closed_case_goes_after_thirty_days_and_what_leads_to_it_too() {
    run(async {
        let client = client(&serve().await).await;
        let store = DynamoStore::new(client.clone(), tables());
        let mut case = new_case(1);
        edit(&mut case, json!({ "node": node() }));
        put(&store, &mut case).await;
        let (of_case, of_instance) =
            (format!("case#prod#{}", case.instance_id()), format!("instance#{}", case.instance_id()));
        let of_node = format!("node#prod#{}", node());
        let items = [(&of_case, "case"), (&of_instance, "instance"), (&of_node, "node")];
        let expires = async || {
            let mut found = Vec::new();
            for (pk, sk) in items {
                found.push(attribute(&client, pk, sk, "expires").await);
            }
            found
        };
        assert_eq!(expires().await, [None, None, None], "it lives");
        edit(&mut case, json!({ "closed": Closed { at: at(0), outcome: "replaced".to_owned() } }));
        edit(&mut case, json!({ "due": at(60) }));
        put(&store, &mut case).await;
        assert_eq!(expires().await, [None, None, None], "somebody must look at it still");
        edit(&mut case, json!({ "due": null }));
        put(&store, &mut case).await;
        let end = Some(AttributeValue::N((at(0).as_second() + 30 * 86_400).to_string()));
        assert_eq!(expires().await, [end.clone(), end.clone(), end.clone()]);

        let mut next = new_case(2);
        edit(&mut next, json!({ "node": node() }));
        put(&store, &mut next).await;
        put(&store, &mut case).await;
        assert_eq!(expires().await, [end.clone(), end, None], "the name is another's now");
    });
}

#[test]
fn of_more_claims_than_a_group_allows_as_many_win_over_separate_connections() {
    const ALLOWED: usize = 5;
    run(async {
        let address = serve().await;
        let group_name = GroupName::new("a group # with an odd name").expect("a name");
        let mut claims = tokio::task::JoinSet::new();
        for process in 0..8 {
            let store = DynamoStore::new(client(&address).await, tables());
            let group_name = group_name.clone();
            claims.spawn(async move {
                let mut won = 0;
                for number in 0..25 {
                    let case = new_case(process * 25 + number);
                    loop {
                        let mut group = store.group(&prod(), &group_name).await.expect("a read");
                        if group.slots().len() >= ALLOWED {
                            break;
                        }
                        group.acquire_slot(case.instance_id().clone(), at(0));
                        let change = CaseWrite { case: &case, group: Some(&group), entries: &[] };
                        if store.commit(change).await.expect("an answer") == Commit::Won {
                            won += 1;
                            break;
                        }
                    }
                }
                won
            });
        }
        assert_eq!(claims.join_all().await.iter().sum::<usize>(), ALLOWED);
        let store = DynamoStore::new(client(&address).await, tables());
        let group = store.group(&prod(), &group_name).await.expect("a read");
        assert_eq!((group.slots().len(), group.version()), (ALLOWED, ALLOWED as u64));
    });
}

#[test]
fn each_policy_is_kept_with_who_applied_it() {
    run(async {
        let store = fresh().await;
        for version in 1..=12 {
            let mut policy = Policy::eks_defaults();
            policy.mode = if version % 2 == 0 { Mode::Repair } else { Mode::Observe };
            let by = format!("operator {version}");
            assert_eq!(store.put_policy(&prod(), &policy, &by, at(version)).await, Ok(version as u64));
        }
        let newest = store.newest_policy(&prod()).await.expect("a read").expect("a policy");
        assert_eq!((newest.version, newest.by.as_str(), newest.at), (12, "operator 12", at(12)));
        let history = store.policy_history(&prod(), 3).await.expect("a read");
        let told: Vec<_> = history.iter().map(|applied| (applied.version, applied.policy.mode)).collect();
        assert_eq!(told, [(12, Mode::Repair), (11, Mode::Observe), (10, Mode::Repair)]);
        assert_eq!(store.policy_history(&prod(), 100).await.expect("a read").len(), 12);
        assert_eq!(store.holds(&prod()).await, Ok(Vec::new()), "a policy is no hold");
    });
}

#[test]
fn of_policies_applied_at_once_none_is_lost() {
    run(async {
        let (store, policy, cluster) = (fresh().await, Policy::default(), prod());
        let (one, other) = tokio::join!(
            store.put_policy(&cluster, &policy, "alice", at(0)),
            store.put_policy(&cluster, &policy, "bob", at(0)),
        );
        let mut versions = [one.expect("a version"), other.expect("a version")];
        versions.sort_unstable();
        assert_eq!(versions, [1, 2]);
        assert_eq!(store.policy_history(&prod(), 9).await.expect("a read").len(), 2);
    });
}

#[test]
fn a_hold_is_there_once_until_it_is_released() {
    run(async {
        let client = client(&serve().await).await;
        let store = DynamoStore::new(client.clone(), tables());
        let hold = Hold {
            cluster: None,
            group: None,
            node: Some(node()),
            owner: "alice".to_owned(),
            reason: "kernel test".to_owned(),
            from: None,
            until: at(60),
        };
        let id = store.place_hold(&prod(), &hold).await.expect("an id");
        assert_eq!(store.place_hold(&prod(), &hold).await, Ok(id.clone()), "the same again");
        assert_eq!(store.holds(&prod()).await, Ok(vec![hold.clone()]));
        let expires = attribute(&client, "cluster#prod", &format!("hold#{id}"), "expires").await;
        assert_eq!(expires, Some(AttributeValue::N((at(60).as_second() + 30 * 86_400).to_string())));
        assert_eq!(store.placed_holds(&prod()).await.expect("a read")[0].id, id);
        assert_eq!(store.release_hold(&prod(), &id).await, Ok(Some(hold)));
        assert_eq!(store.release_hold(&prod(), &id).await, Ok(None));
        assert_eq!(store.holds(&prod()).await, Ok(Vec::new()));
    });
}

#[test]
fn of_two_sweeps_one_waits_and_a_dead_ones_lease_runs_out() {
    run(async {
        let store = fresh().await;
        assert_eq!(store.lease_run(at(0), at(58)).await, Ok(None));
        assert_eq!(store.lease_run(at(1), at(59)).await, Ok(Some(at(58))));
        assert_eq!(store.lease_run(at(58), at(116)).await, Ok(None));
        assert_eq!(store.end_run(at(58), at(60)).await, Ok(()), "not any more this one's to give back");
        assert_eq!(store.lease_run(at(61), at(119)).await, Ok(Some(at(116))));
        assert_eq!(store.end_run(at(116), at(62)).await, Ok(()));
        assert_eq!(store.lease_run(at(62), at(120)).await, Ok(None));
    });
}
