//! Other clusters, whose nodes and groups have the names of ours: what is reported, read and counted of one must never be
//! taken for the other's.
//!
//! One has the name of ours, too, in an account that this deployment does not serve. The other is served: it has a name of
//! its own, and its faults are repaired in its account. Their instances have what ours have, under ids of their own.

use nodemend_domain::{
    audit_log::Caller,
    group::Group,
    ident::{AccountId, ClusterName, InstanceId},
    policy::{Policy, VerificationPolicy},
};
use nodemend_ports::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud},
    store::MemoryStore,
};
use nodemend_testkit::fixture::{self, ACCOUNT, AGENT_LOGS};

use crate::messages::LogLine;

const OTHER_ACCOUNT: &str = "210987654321";

/// The id that an instance of another cluster has where ours has this one.
fn id_of_other(text: &str) -> String {
    text.replace("i-0", "i-f")
}

/// Whether it is not an instance of our cluster.
pub(crate) fn is_of_other(instance_id: &InstanceId) -> bool {
    instance_id.as_str().starts_with("i-f")
}

/// The same line of the instance in the account that is not served.
pub(crate) fn line_of_other_account(line: &LogLine) -> LogLine {
    let (log_stream, message) = (id_of_other(&line.log_stream), id_of_other(&line.message));
    LogLine {
        owner: OTHER_ACCOUNT,
        log_group: line.log_group,
        log_stream,
        at: line.at,
        message,
        facts: Vec::new(),
    }
}

/// The same event of the other account's instance.
pub(crate) fn event_of_other_account(bytes: &[u8]) -> Vec<u8> {
    let text = id_of_other(&String::from_utf8_lossy(bytes)).replace(ACCOUNT, OTHER_ACCOUNT);
    format!("{{\"account\":\"{OTHER_ACCOUNT}\",{}", text.strip_prefix('{').unwrap_or("}")).into_bytes()
}

/// The same line of the served cluster's instance.
pub(crate) fn line_of_second_cluster(line: &LogLine) -> LogLine {
    let of_agents = line.log_group == AGENT_LOGS;
    let log_group = if of_agents { "/nodemend/second/nodes" } else { "/aws/eks/second/cluster" };
    let other = line_of_other_account(line);
    let message = other.message.replace(r#""cluster":"prod""#, r#""cluster":"second""#);
    LogLine { log_group, message, ..other }
}

/// Begins to serve the second cluster, with our policy and groups, and returns its account. Nothing can be read of its nodes,
/// and its repairs need no verification. Nothing comes of its calls: its repairs fail, and its groups are in backoff, which
/// must not hold up ours.
pub(crate) fn serve_second(
    clock: VirtualClock,
    store: &MemoryStore,
    policy: Policy,
    groups: Vec<Group>,
) -> MemoryCloud {
    let name = ClusterName::new("second").expect("a name");
    let policy =
        Policy { account: Some(other_account()), verification: VerificationPolicy::Preferred, ..policy };
    store.set_policy(&name, policy);
    let mut fleet = Fleet::default();
    for mut group in groups {
        group.cluster = Some(name.clone());
        for member in &mut group.members {
            let id = id_of_other(member.instance_id.as_str());
            member.instance_id = InstanceId::new(id).expect("an id");
        }
        fleet.add_group(group);
    }
    MemoryCloud::new(clock, Caller { account: OTHER_ACCOUNT.to_owned(), ..fixture::caller() }, fleet)
}

/// The account of both.
pub(crate) fn other_account() -> AccountId {
    AccountId::new(OTHER_ACCOUNT).expect("an account")
}
