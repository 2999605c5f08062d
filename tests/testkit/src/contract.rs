//! The contract of every store, as facts that each implementation of the port must keep.
//!
//! [`store_contract!`](crate::store_contract) makes a test of each fact. A fact gets an empty store, and panics if the
//! store breaks it.

mod claims;
mod facts;
mod finding;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use nodemend_domain::{
    audit_log::{ApiCall, AuditEntry, CallAnswer, CallOutcome, RecordStep},
    case::{
        Case, UnhealthyReason,
        audit_records::{self, CallRecord, StepRecord},
    },
    ident::ClusterName,
    policy::{Hold, Policy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use serde_json::Value;

use crate::fixture::{at, caller, cluster, cluster_named, group as workers, instance, key, node};

pub use self::{claims::*, facts::*, finding::*};

/// A store that operators can write to. Policies and holds are not written through the [`Store`] port, because no
/// handler may write them.
pub trait ConfigurableStore: Store + AuditLog {
    /// Sets one cluster's policy.
    fn set_policy(&self, cluster: &ClusterName, policy: Policy) -> impl Future<Output = ()>;

    /// Places a hold on a cluster.
    fn place_hold(&self, cluster: &ClusterName, hold: Hold) -> impl Future<Output = ()>;
}

impl ConfigurableStore for MemoryStore {
    async fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        Self::set_policy(self, cluster, policy);
    }

    async fn place_hold(&self, cluster: &ClusterName, hold: Hold) {
        self.hold(cluster, hold);
    }
}

#[cfg(feature = "aws")]
impl ConfigurableStore for nodemend_aws::dynamodb::DynamoStore {
    async fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        self.put_policy(cluster, &policy, "the contract", at(0)).await.expect("a write");
    }

    async fn place_hold(&self, cluster: &ClusterName, hold: Hold) {
        Self::place_hold(self, cluster, &hold).await.expect("a write");
    }
}

/// Makes a test of each fact: `store_contract!(run, fresh)`, where `run` runs a future to its end and `fresh` is a
/// future of an empty store.
#[macro_export]
macro_rules! store_contract {
    ($run:expr, $fresh:expr) => {
        $crate::store_contract! { @tests $run, $fresh;
            an_empty_store_finds_nothing
            a_case_is_read_as_it_was_written
            a_case_is_created_once
            a_write_of_another_version_is_lost_and_changes_nothing
            case_group_and_audit_records_are_written_together_or_not_at_all
            an_audit_record_is_never_overwritten
            an_audit_log_is_read_as_one_chain
            a_call_is_found_by_its_request_id
            the_longest_overdue_cases_come_first
            due_cases_are_limited_to_the_longest_overdue
            a_case_is_due_once_at_its_newest_time
            the_next_due_time_is_the_earliest
            the_unhealthy_nodes_of_a_cluster_are_found_once_each
            the_instances_of_a_node_name_are_found_newest_last
            the_cluster_of_an_instance_is_found
            clusters_are_separate
            policies_and_holds_belong_to_one_cluster
            the_sources_of_a_cluster_are_replaced_as_a_whole
            concurrent_claims_get_as_many_slots_as_a_group_has
            concurrent_writers_lose_no_update
            concurrent_writers_of_an_audit_log_leave_one_chain
        }
    };
    (@tests $run:expr, $fresh:expr; $($fact:ident)+) => {
        $(
            #[test]
            fn $fact() {
                $run(async { $crate::contract::$fact(&$fresh.await).await });
            }
        )+
    };
}

fn new_case(number: u64) -> Case {
    Case::new(cluster(), instance(number))
}

fn unhealthy_reason(since: i64) -> UnhealthyReason {
    UnhealthyReason { since: at(since), unhealthy: true, ..UnhealthyReason::default() }
}

/// A record at the end of a case's audit log.
fn step(case: &mut Case, step: RecordStep) -> AuditEntry {
    audit_records::record_step(case, StepRecord::new(step, "a decision", Value::Null), &caller(), at(0))
}

/// A record of a call that was answered with this request ID.
fn call(case: &mut Case, request_id: &str) -> AuditEntry {
    let call = ApiCall::RebootInstances { instance_id: case.instance_id().clone() };
    let answer = CallAnswer {
        request_id: Some(request_id.to_owned()),
        outcome: CallOutcome::Accepted { activity: None },
    };
    let decision = "a decision";
    let record = CallRecord { call: &call, at: at(0), answer, decision, evidence: Value::Null };
    audit_records::record_call(case, record, &caller()).0
}

async fn write<S: Store>(store: &S, case: &Case, entries: &[AuditEntry]) -> Commit {
    store.commit(CaseWrite { case, group: None, entries }).await.expect("a write")
}

/// Writes a case, and sets it to the version that it then has.
async fn put<S: Store>(store: &S, case: &mut Case) {
    assert_eq!(write(store, case, &[]).await, Commit::Won, "{}", case.instance_id());
    *case = case.next_version();
}

async fn read<S: Store>(store: &S, key: &CaseKey) -> Case {
    *store.case(key).await.expect("a read").expect("a case")
}

/// Runs all futures concurrently, in one task.
async fn all_at_once<T>(work: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut work: Vec<Pin<Box<_>>> = work.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = work.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (work, done) in work.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            match work.as_mut().poll(context) {
                Poll::Ready(result) => *done = Some(result),
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Lets the other futures run.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
