//! `nodemend hold` and `nodemend release`: forbid repairs of a node, a group or a cluster for a time, and allow them.

use std::io::Write;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::{DynamoStore, PolicyVersion},
};
use nodemend_domain::{
    ident::{AccountId, ClusterName, GroupName, NodeName},
    policy::{Hold, Policy},
    timestamp,
};
use nodemend_ports::{cause::chain, clock::Clock};

use super::{Deployment, OperateError, PROBLEMS_FOUND, SUCCESS, identity, reschedule::reschedule_blocked};
use crate::output::printable;

/// The arguments of `nodemend hold`.
#[derive(Debug, Args)]
#[command(
    override_usage = "nodemend hold --node <NODE>|--group <GROUP>|--whole-cluster|--all\n                     \
                      --for <DURATION>|--until <TIME> --reason <TEXT> [OPTIONS]",
    group = clap::ArgGroup::new("scope").required(true).args(["node", "group", "whole_cluster", "all"]),
    group = clap::ArgGroup::new("end").required(true).args(["for_", "until"]),
    after_help = "\
Examples:
  nodemend hold --node ip-10-0-1-23.ec2.internal --for 2h --reason 'CNI test'
  nodemend hold --group workers-a --until 2026-12-01T08:00:00Z \\
    --reason 'kernel rollout'
  nodemend hold --whole-cluster --for 30m --reason 'cluster upgrade' --by alice
  nodemend hold --all --for 2h --reason 'stop everything'

--all holds every cluster that has a policy in the deployment's state table, in
all accounts, and lists them. A policy that is applied later, for another
cluster, is not covered.

The hold is in effect when this command ends: what was read more than 5 seconds
before a call is read again. It does not undo a call that was already made.

Exit codes: 0 success, 1 the hold could not be stored,
64 usage or configuration error"
)]
pub struct HoldOptions {
    /// Only this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,

    /// Only this Auto Scaling group
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,

    /// The whole cluster
    #[arg(long)]
    whole_cluster: bool,

    /// Everything that the deployment can call, in all its clusters and accounts
    #[arg(long)]
    all: bool,

    /// Why, for the person on call
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// For how long, from now
    #[arg(long = "for", id = "for_", value_name = "DURATION")]
    duration: Option<SignedDuration>,

    /// Until when
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,

    /// The owner of the hold [default: your ARN, from AWS STS]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    deployment: Deployment,
}

/// The arguments of `nodemend release`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend release 3f9a0c1d2e4b
  nodemend release 3f9a0c1d2e4b --all

The next run of the repair function evaluates the nodes that the hold blocked.

Exit codes: 0 success, 1 there is no such hold, 64 usage or configuration error")]
pub struct ReleaseOptions {
    /// The id of the hold, from nodemend hold or nodemend status
    #[arg(value_name = "ID")]
    id: String,

    /// In all clusters of the deployment, for a hold that was placed with --all
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    deployment: Deployment,
}

/// Places a hold and prints its id.
pub async fn run(options: &HoldOptions) -> Result<u8, OperateError> {
    let now = SystemClock.now();
    if options.reason.trim().is_empty() {
        return Err(OperateError::Usage("--reason: must not be empty".to_owned()));
    }
    let end =
        options.duration.map(|duration| now.checked_add(duration).ok()).or(Some(options.until)).flatten();
    let until = end.filter(|until| *until > now).ok_or_else(|| {
        OperateError::Usage("--for or --until: the end of the hold is not in the future".to_owned())
    })?;
    let cluster = if options.all { None } else { Some(options.deployment.connect().await?.cluster) };
    let hold = Hold {
        cluster: cluster.clone(),
        group: options.group.clone(),
        node: options.node.clone(),
        owner: identity(options.by.as_ref()).await?,
        reason: options.reason.clone(),
        from: None,
        until,
    };
    // The same checks as for a hold in a policy file.
    let checked = Policy { holds: vec![hold.clone()], ..Policy::default() }.check();
    checked.map_err(|error| OperateError::Usage(error.to_string()))?;
    let store = options.deployment.store().await?;
    let Some(cluster) = cluster else {
        return hold_all(&store, &hold).await;
    };
    let id = store.place_hold(&cluster, &hold).await?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "{id}")?;
    let scope = match (&hold.node, &hold.group) {
        (Some(node), _) => format!("node {node} of cluster {cluster}"),
        (None, Some(group)) => format!("group {group} of cluster {cluster}"),
        (None, None) => format!("cluster {cluster}"),
    };
    anstream::eprintln!(
        "No repairs of {scope} until {}. To end the hold earlier: nodemend release {id}",
        timestamp::seconds(until)
    );
    Ok(SUCCESS)
}

/// Holds every cluster of the deployment, one after the other, and says which. One that cannot be held keeps no other from
/// being held.
async fn hold_all(store: &DynamoStore, hold: &Hold) -> Result<u8, OperateError> {
    let served = store.served_clusters().await?;
    if served.is_empty() {
        anstream::eprintln!("nodemend: no cluster has a policy in this state table: nothing can be called");
        return Ok(PROBLEMS_FOUND);
    }
    let mut out = anstream::stdout().lock();
    let (mut placed, mut failed) = (None, 0);
    for (cluster, PolicyVersion { policy, .. }) in &served {
        let account = policy.account.as_ref().map_or("the deployment's account", AccountId::as_str);
        match store.place_hold(cluster, hold).await {
            Ok(id) => {
                anstream::eprintln!("held: cluster {cluster} ({account})");
                placed = Some(id);
            }
            Err(error) => {
                failed += 1;
                anstream::eprintln!("NOT held: cluster {cluster} ({account}): {}", chain(&error));
            }
        }
    }
    // The same hold has the same id in each cluster.
    if let Some(id) = &placed {
        writeln!(out, "{id}")?;
        anstream::eprintln!(
            "No repairs of these {} of {} clusters until {}. To end the hold earlier: nodemend release {id} --all",
            served.len() - failed,
            served.len(),
            timestamp::seconds(hold.until)
        );
    }
    if failed > 0 {
        anstream::eprintln!("nodemend: {failed} of {} clusters are NOT held", served.len());
        return Ok(PROBLEMS_FOUND);
    }
    Ok(SUCCESS)
}

/// Removes a hold, and makes the cases due that it blocked.
pub async fn release(options: &ReleaseOptions) -> Result<u8, OperateError> {
    if !options.all {
        let connection = options.deployment.connect().await?;
        return release_in(&connection.store, &connection.cluster, &options.id, connection.now).await;
    }
    let store = options.deployment.store().await?;
    let (mut code, mut failed) = (PROBLEMS_FOUND, false);
    for (cluster, _) in store.served_clusters().await? {
        match release_in(&store, &cluster, &options.id, SystemClock.now()).await {
            Ok(of_cluster) => code = code.min(of_cluster),
            Err(error) => {
                failed = true;
                anstream::eprintln!("NOT released: cluster {cluster}: {}", chain(&error));
            }
        }
    }
    Ok(if failed { PROBLEMS_FOUND } else { code })
}

async fn release_in(
    store: &DynamoStore,
    cluster: &ClusterName,
    id: &str,
    now: Timestamp,
) -> Result<u8, OperateError> {
    let Some(hold) = store.release_hold(cluster, id).await? else {
        anstream::eprintln!("nodemend: cluster {cluster} has no hold {}", printable(id));
        return Ok(PROBLEMS_FOUND);
    };
    let policy = store.newest_policy(cluster).await?.map(|newest| newest.policy).unwrap_or_default();
    let rescheduled = reschedule_blocked(store, cluster, &policy, now).await?;
    let next = match rescheduled {
        0 => "no case was blocked",
        1 => "1 blocked case is now due",
        more => &format!("{more} blocked cases are now due"),
    };
    anstream::println!(
        "Released the hold of {} ({}) on cluster {cluster}: {next}.",
        printable(&hold.owner),
        printable(&hold.reason)
    );
    Ok(SUCCESS)
}
