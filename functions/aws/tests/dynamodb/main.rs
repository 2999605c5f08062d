//! The store in DynamoDB, through a socket: the contract of every store, and what only a network can break.

mod server;

use aws_sdk_dynamodb::types::AttributeValue;
use nodemend_aws::dynamodb::{DynamoStore, create_tables};
use nodemend_domain::{
    audit_log::{AuditEntry, RecordStep, verify_chain},
    case::{
        Case, Closed, UnhealthyReason,
        audit_records::{self, StepRecord},
    },
    ident::NodeName,
    policy::{Hold, Mode, Policy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    store::{CaseKey, CaseWrite, Commit, Store, StoreError},
};
use nodemend_testkit::{
    edit,
    fixture::{at, caller, cluster, group_named, hold_until, instance, node},
};
use serde_json::{Value, json};

use self::server::{Proxy, client, fresh, run, serve, tables};

nodemend_testkit::store_contract!(run, fresh());

fn new_case(number: u64) -> Case {
    Case::new(cluster(), instance(number))
}

fn record_step(case: &mut Case, data: Value) -> AuditEntry {
    let record = StepRecord::new(RecordStep::Claimed, "a decision", data);
    audit_records::record_step(case, record, &caller(), at(0))
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
fn creating_existing_tables_succeeds() {
    run(async {
        let client = client(&serve().await).await;
        assert_eq!(create_tables(&client, &tables()).await, Ok(()));
    });
}

#[test]
fn a_write_with_a_lost_answer_is_retried_and_won() {
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let (entry, before) = (record_step(&mut case, Value::Null), proxy.writes());
        proxy.lose_answers(1);
        let change = CaseWrite { case: &case, group: None, entries: std::slice::from_ref(&entry) };
        assert_eq!(store.commit(change).await, Ok(Commit::Won));
        assert_eq!(proxy.writes() - before, 2, "the write was retried");
        let key = CaseKey::of(&case);
        assert_eq!(store.case(&key).await.expect("a read").expect("a case").version(), 2);
        assert_eq!(store.chain(&key).await, Ok(vec![entry]));
    });
}

#[test]
fn a_stale_write_with_a_lost_answer_is_lost() {
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let stale = case.clone();
        put(&store, &mut case).await;
        proxy.lose_answers(1);
        assert_eq!(
            store.commit(CaseWrite { case: &stale, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(store.case(&CaseKey::of(&case)).await, Ok(Some(Box::new(case))));
    });
}

/// A plain put has no idempotency token. A writer that lost reads again, and finds its own change.
#[test]
fn a_single_item_write_with_a_lost_answer_counts_as_lost_and_is_made_once() {
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        let before = proxy.writes();
        proxy.lose_answers(1);
        assert_eq!(
            store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(proxy.writes() - before, 2, "the write was retried");
        let read = store.case(&CaseKey::of(&case)).await.expect("a read").expect("a case");
        assert_eq!(read.version(), case.version() + 1);
    });
}

#[test]
fn of_two_equal_writes_of_one_version_one_wins() {
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
fn an_unanswered_write_is_unavailable_and_may_have_been_made() {
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        proxy.lose_answers(3);
        let unanswered = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
        assert!(matches!(unanswered, Err(StoreError::Unavailable(_))), "{unanswered:?}");
        // A writer that reads again sees the change, and one that does not loses.
        let again = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(store.commit(again).await, Ok(Commit::Lost));
        let read = store.case(&CaseKey::of(&case)).await.expect("a read").expect("a case");
        assert_eq!(read.version(), case.version() + 1);
    });
}

#[test]
fn a_missing_server_or_table_is_unavailable() {
    run(async {
        let store = DynamoStore::new(client("127.0.0.1:1").await, tables());
        let read = store.case(&CaseKey::of(&new_case(1))).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let chain = chain(&read.expect_err("no server"));
        assert!(chain.starts_with("failed to reach the store: dispatch failure: "), "{chain}");
        assert!(
            chain.contains("Connection refused") && !chain.contains('{'),
            "the SDK's sources, not its Debug: {chain}"
        );
        let mut others = tables();
        others.state = "other-tables".to_owned();
        let store = DynamoStore::new(client(&serve().await).await, others);
        let case = new_case(1);
        let written = store.commit(CaseWrite { case: &case, group: None, entries: &[] }).await;
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    });
}

#[test]
fn a_write_beyond_the_limits_of_dynamodb_is_refused_as_a_whole() {
    run(async {
        let store = fresh().await;
        let refused = async |entries: usize, bytes: usize| {
            let mut case = new_case(1);
            let entries: Vec<_> =
                (0..entries).map(|_| record_step(&mut case, Value::String("x".repeat(bytes)))).collect();
            let commit = store.commit(CaseWrite { case: &case, group: None, entries: &entries }).await;
            matches!(commit, Err(error @ StoreError::Broken(_)) if chain(&error).contains("are more than"))
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
fn an_audit_log_of_several_pages_is_read_to_its_end() {
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
fn the_indexes_contain_due_and_unhealthy_cases_only() {
    const CASES: u64 = 300;
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let client = client(&address).await;
        let store = DynamoStore::new(client.clone(), tables());
        for number in 0..CASES {
            let mut case = new_case(number);
            if number % 30 == 0 {
                edit(&mut case, json!({ "due": at(number as i64) }));
                edit(
                    &mut case,
                    json!({ "unhealthyReason": UnhealthyReason { since: at(0), silent: true, unhealthy: true, ..UnhealthyReason::default() } }),
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
        let before = proxy.queries();
        assert_eq!(store.due(at(CASES as i64), 1_000).await.expect("a read").len(), 5);
        assert_eq!(proxy.queries() - before, 8, "one for each shard");
    });
}

#[test]
fn a_node_name_is_written_only_when_it_changes() {
    run(async {
        let (proxy, address) = Proxy::to(&serve().await).await;
        let store = DynamoStore::new(client(&address).await, tables());
        let mut case = new_case(1);
        put(&store, &mut case).await;
        edit(&mut case, json!({ "node": node(1) }));
        let mut transactions = Vec::new();
        for _ in 0..3 {
            let before = proxy.writes();
            put(&store, &mut case).await;
            transactions.push(proxy.writes() - before);
        }
        assert_eq!(transactions, [2, 1, 1]);
        assert_eq!(store.instances_of_node(&cluster(), &node(1)).await, Ok(vec![case.instance_id().clone()]));

        let mut stale = case.clone();
        let before = stale.version() - 1;
        edit(&mut stale, json!({ "version": before }));
        edit(&mut stale, json!({ "node": NodeName::new("another").expect("a name") }));
        let before = proxy.writes();
        assert_eq!(
            store.commit(CaseWrite { case: &stale, group: None, entries: &[] }).await,
            Ok(Commit::Lost)
        );
        assert_eq!(proxy.writes() - before, 1, "a lost write does not write the name");
    });
}

#[test]
fn the_newest_instances_of_a_node_name_are_kept() {
    run(async {
        let store = fresh().await;
        for number in 0..40 {
            let mut case = new_case(number);
            edit(&mut case, json!({ "node": node(1), "registered": at(0) }));
            put(&store, &mut case).await;
        }
        // What only an agent claims takes the place of none.
        for number in 40..80 {
            let mut claim = new_case(number);
            edit(&mut claim, json!({ "node": node(1) }));
            put(&store, &mut claim).await;
        }
        let known = store.instances_of_node(&cluster(), &node(1)).await.expect("a read");
        let newest: Vec<_> = (8..40).map(|number| new_case(number).instance_id().clone()).collect();
        assert_eq!(known, newest);
    });
}

#[test]
fn a_closed_case_and_its_references_expire_after_thirty_days() {
    run(async {
        let client = client(&serve().await).await;
        let store = DynamoStore::new(client.clone(), tables());
        let mut case = new_case(1);
        edit(&mut case, json!({ "node": node(1) }));
        put(&store, &mut case).await;
        let (of_case, of_instance) =
            (format!("case#prod#{}", case.instance_id()), format!("instance#{}", case.instance_id()));
        let of_node = format!("node#prod#{}", node(1));
        let items = [(&of_case, "case"), (&of_instance, "instance"), (&of_node, "node")];
        let expires = async || {
            let mut found = Vec::new();
            for (pk, sk) in items {
                found.push(attribute(&client, pk, sk, "expires").await);
            }
            found
        };
        assert_eq!(expires().await, [None, None, None], "the case is open");
        edit(&mut case, json!({ "closed": Closed::new(at(0), "replaced".to_owned()) }));
        edit(&mut case, json!({ "due": at(60) }));
        put(&store, &mut case).await;
        assert_eq!(expires().await, [None, None, None], "the case must still be evaluated");
        edit(&mut case, json!({ "due": null }));
        put(&store, &mut case).await;
        let end = Some(AttributeValue::N((at(0).as_second() + 30 * 86_400).to_string()));
        assert_eq!(expires().await, [end.clone(), end.clone(), end.clone()]);

        let mut next = new_case(2);
        edit(&mut next, json!({ "node": node(1), "registered": at(60) }));
        put(&store, &mut next).await;
        put(&store, &mut case).await;
        assert_eq!(expires().await, [end.clone(), end, None], "the node name belongs to another instance");
    });
}

#[test]
fn no_more_claims_win_than_a_group_has_slots_over_separate_connections() {
    const ALLOWED: usize = 5;
    run(async {
        let address = serve().await;
        let group_name = group_named("a group # with an odd name");
        let mut claims = tokio::task::JoinSet::new();
        for process in 0..8 {
            let store = DynamoStore::new(client(&address).await, tables());
            let group_name = group_name.clone();
            claims.spawn(async move {
                let mut won = 0;
                for number in 0..25 {
                    let case = new_case(process * 25 + number);
                    loop {
                        let mut group = store.group(&cluster(), &group_name).await.expect("a read");
                        if group.slots().len() >= ALLOWED {
                            break;
                        }
                        group.acquire_slot(case.instance_id().clone(), "NodeStatusUnknown", at(0));
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
        let group = store.group(&cluster(), &group_name).await.expect("a read");
        assert_eq!((group.slots().len(), group.version()), (ALLOWED, ALLOWED as u64));
    });
}

#[test]
fn each_policy_version_is_kept_with_its_author() {
    run(async {
        let store = fresh().await;
        for version in 1..=12 {
            let mut policy = Policy::eks_defaults();
            policy.mode = if version % 2 == 0 { Mode::Repair } else { Mode::Observe };
            let by = format!("operator {version}");
            assert_eq!(store.put_policy(&cluster(), &policy, &by, at(version)).await, Ok(version as u64));
        }
        let newest = store.newest_policy(&cluster()).await.expect("a read").expect("a policy");
        assert_eq!((newest.version, newest.by.as_str(), newest.at), (12, "operator 12", at(12)));
        let history = store.policy_history(&cluster(), 3).await.expect("a read");
        let versions: Vec<_> = history.iter().map(|applied| (applied.version, applied.policy.mode)).collect();
        assert_eq!(versions, [(12, Mode::Repair), (11, Mode::Observe), (10, Mode::Repair)]);
        assert_eq!(store.policy_history(&cluster(), 100).await.expect("a read").len(), 12);
        assert_eq!(store.holds(&cluster()).await, Ok(Vec::new()), "a policy is not listed as a hold");
    });
}

#[test]
fn concurrently_applied_policies_get_separate_versions() {
    run(async {
        let (store, policy, cluster) = (fresh().await, Policy::default(), cluster());
        let (one, other) = tokio::join!(
            store.put_policy(&cluster, &policy, "alice", at(0)),
            store.put_policy(&cluster, &policy, "bob", at(0)),
        );
        let mut versions = [one.expect("a version"), other.expect("a version")];
        versions.sort_unstable();
        assert_eq!(versions, [1, 2]);
        assert_eq!(store.policy_history(&cluster, 9).await.expect("a read").len(), 2);
    });
}

#[test]
fn a_hold_is_stored_once_until_it_is_released() {
    run(async {
        let client = client(&serve().await).await;
        let store = DynamoStore::new(client.clone(), tables());
        let hold = Hold { node: Some(node(1)), ..hold_until(at(60)) };
        let id = store.place_hold(&cluster(), &hold).await.expect("an id");
        assert_eq!(store.place_hold(&cluster(), &hold).await, Ok(id.clone()), "the same hold again");
        assert_eq!(store.holds(&cluster()).await, Ok(vec![hold.clone()]));
        let expires = attribute(&client, "cluster#prod", &format!("hold#{id}"), "expires").await;
        assert_eq!(expires, Some(AttributeValue::N((at(60).as_second() + 30 * 86_400).to_string())));
        assert_eq!(store.placed_holds(&cluster()).await.expect("a read")[0].id, id);
        assert_eq!(store.release_hold(&cluster(), &id).await, Ok(Some(hold)));
        assert_eq!(store.release_hold(&cluster(), &id).await, Ok(None));
        assert_eq!(store.holds(&cluster()).await, Ok(Vec::new()));
    });
}

#[test]
fn one_run_at_a_time_has_the_lease_until_it_ends() {
    run(async {
        let store = fresh().await;
        assert_eq!(store.lease_run(at(0), at(58)).await, Ok(None));
        assert_eq!(store.lease_run(at(1), at(59)).await, Ok(Some(at(58))));
        assert_eq!(store.lease_run(at(58), at(116)).await, Ok(None));
        assert_eq!(store.end_run(at(58), at(60)).await, Ok(()), "the lease no longer belongs to this run");
        assert_eq!(store.lease_run(at(61), at(119)).await, Ok(Some(at(116))));
        assert_eq!(store.end_run(at(116), at(62)).await, Ok(()));
        assert_eq!(store.lease_run(at(62), at(120)).await, Ok(None));
    });
}
