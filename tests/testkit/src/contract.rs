//! What every store must keep to, as facts that any side of the port can be held to.
//!
//! [`store_contract!`](crate::store_contract) makes a test of each. A fact gets a store that holds nothing, and
//! panics where the store breaks it.

mod claims;
mod facts;
mod finding;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::builder::{self, AuditEntry, CallRecord, StepRecord},
    audit_log::{ApiCall, CallAnswer, CallOutcome, Caller, RecordStep},
    case::{Case, UnhealthyReason},
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use serde_json::Value;

pub use self::{claims::*, facts::*, finding::*};

/// A store that operators can write to: what they decide has no place in the [`Store`] port, since no handler
/// may write it.
pub trait Furnished: Store + AuditLog {
    /// Sets one cluster's policy.
    fn set_policy(&self, cluster: &ClusterName, policy: Policy) -> impl Future<Output = ()>;

    /// Places a hold on a cluster.
    fn place_hold(&self, cluster: &ClusterName, hold: Hold) -> impl Future<Output = ()>;
}

impl Furnished for MemoryStore {
    async fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        Self::set_policy(self, cluster, policy);
    }

    async fn place_hold(&self, cluster: &ClusterName, hold: Hold) {
        self.hold(cluster, hold);
    }
}

#[cfg(feature = "aws")]
impl Furnished for nodemend_aws::dynamodb::DynamoStore {
    async fn set_policy(&self, cluster: &ClusterName, policy: Policy) {
        self.put_policy(cluster, &policy, "the contract", at(0)).await.expect("a write");
    }

    async fn place_hold(&self, cluster: &ClusterName, hold: Hold) {
        Self::place_hold(self, cluster, &hold).await.expect("a write");
    }
}

/// Makes a test of each fact: `store_contract!(run, fresh)`, where `run` runs a future to its end and `fresh` is
/// a future of a store that holds nothing.
#[macro_export]
macro_rules! store_contract {
    ($run:expr, $fresh:expr) => {
        $crate::store_contract! { @tests $run, $fresh;
            what_was_never_written_is_not_there
            a_case_is_read_back_as_it_was_written
            a_case_is_created_once
            a_write_to_an_old_version_is_lost_and_changes_nothing
            case_group_and_trail_are_written_together_or_not_at_all
            a_record_is_never_written_over
            a_trail_is_read_back_as_one_chain
            a_call_is_found_by_its_request_id
            the_longest_overdue_come_first
            no_more_are_due_than_were_asked_for
            a_case_is_due_once_and_at_its_newest_time
            the_next_due_time_is_the_earliest
            the_unwell_of_a_cluster_are_all_that_count_and_no_others
            a_node_name_leads_to_its_instances_the_newest_last
            an_instance_leads_to_its_cluster
            clusters_do_not_know_of_each_other
            policies_and_holds_are_a_clusters_own
            of_many_claims_at_once_a_group_takes_as_many_as_it_allows
            no_update_is_lost_between_many_writers
            many_writers_of_one_trail_leave_one_chain
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

/// An instant so many seconds after the suite's own start.
fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_790_000_000 + seconds)
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a cluster's name")
}

fn workers() -> GroupName {
    GroupName::new("workers").expect("a group's name")
}

fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an instance id")
}

fn node(number: u64) -> NodeName {
    NodeName::new(format!("ip-10-0-0-{number}.ec2.internal")).expect("a node's name")
}

fn key(number: u64) -> CaseKey {
    CaseKey { cluster: cluster("prod"), instance_id: instance(number) }
}

fn new_case(number: u64) -> Case {
    Case::new(cluster("prod"), instance(number))
}

fn unhealthy_reason(since: i64) -> UnhealthyReason {
    UnhealthyReason { since: at(since), silent: false, unhealthy: true }
}

fn caller() -> Caller {
    Caller {
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
        principal_id: None,
        user_agent: None,
    }
}

/// A record for the end of a case's trail.
fn step(case: &mut Case, step: RecordStep) -> AuditEntry {
    builder::record_step(case, StepRecord::new(step, "as asked for", Value::Null), &caller(), at(0))
}

/// A record of a call that was answered under this id.
fn call(case: &mut Case, request_id: &str) -> AuditEntry {
    let call = ApiCall::RebootInstances { instance_id: case.instance_id().clone() };
    let answer = CallAnswer {
        request_id: Some(request_id.to_owned()),
        outcome: CallOutcome::Accepted { activity: None },
    };
    let decision = "as asked for";
    let record = CallRecord { call: &call, at: at(0), answer, decision, evidence: Value::Null };
    builder::record_call(case, record, &caller()).0
}

async fn write<S: Store>(store: &S, case: &Case, entries: &[AuditEntry]) -> Commit {
    store.commit(CaseWrite { case, group: None, entries }).await.expect("a write")
}

/// Writes, and leaves the case at the version that it then has.
async fn put<S: Store>(store: &S, case: &mut Case) {
    assert_eq!(write(store, case, &[]).await, Commit::Won, "{}", case.instance_id());
    *case = case.next_version();
}

async fn read<S: Store>(store: &S, key: &CaseKey) -> Case {
    *store.case(key).await.expect("a read").expect("a case")
}

/// Runs all at once, in one task.
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

/// Lets the others run.
async fn step_aside() {
    let mut aside = false;
    poll_fn(|context| {
        if std::mem::replace(&mut aside, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
