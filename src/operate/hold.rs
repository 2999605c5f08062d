//! `nodemend hold` and `nodemend release`: forbid repairs of a node, a group or a cluster for a time, and allow them.

use std::io::Write;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{GroupName, NodeName},
    policy::{Hold, Policy},
    timestamp,
};

use super::{Deployment, OperateError, PROBLEMS_FOUND, SUCCESS, identity, reschedule::reschedule_blocked};
use crate::output::printable;

/// The arguments of `nodemend hold`.
#[derive(Debug, Args)]
#[command(
    override_usage = "nodemend hold --node <NODE>|--group <GROUP>|--all\n                     \
                      --for <DURATION>|--until <TIME> --reason <TEXT> [OPTIONS]",
    group = clap::ArgGroup::new("scope").required(true).args(["node", "group", "all"]),
    group = clap::ArgGroup::new("end").required(true).args(["for_", "until"]),
    after_help = "\
Examples:
  nodemend hold --node ip-10-0-1-23.ec2.internal --for 2h --reason 'CNI test'
  nodemend hold --group workers-a --until 2026-12-01T08:00:00Z \\
    --reason 'kernel rollout'
  nodemend hold --all --for 30m --reason 'cluster upgrade' --by alice

The hold is in effect when this command ends: repairs read holds again before
each call. It does not undo a call that was already made.

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

The next run of the repair function evaluates the nodes that the hold blocked.

Exit codes: 0 success, 1 there is no such hold, 64 usage or configuration error")]
pub struct ReleaseOptions {
    /// The id of the hold, from nodemend hold or nodemend status
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    deployment: Deployment,
}

/// Places a hold and prints its id.
pub async fn run(options: &HoldOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let now = connection.now;
    if options.reason.trim().is_empty() {
        return Err(OperateError::Usage("--reason: must not be empty".to_owned()));
    }
    let end =
        options.duration.map(|duration| now.checked_add(duration).ok()).or(Some(options.until)).flatten();
    let until = end.filter(|until| *until > now).ok_or_else(|| {
        OperateError::Usage("--for or --until: the end of the hold is not in the future".to_owned())
    })?;
    let hold = Hold {
        cluster: Some(connection.cluster.clone()),
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
    let id = connection.store.place_hold(&connection.cluster, &hold).await?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "{id}")?;
    let scope = match (&hold.node, &hold.group) {
        (Some(node), _) => format!("node {node} of cluster {}", connection.cluster),
        (None, Some(group)) => format!("group {group} of cluster {}", connection.cluster),
        (None, None) => format!("cluster {}", connection.cluster),
    };
    anstream::eprintln!(
        "No repairs of {scope} until {}. To end the hold earlier: nodemend release {id}",
        timestamp::seconds(until)
    );
    Ok(SUCCESS)
}

/// Removes a hold, and makes the cases due that it blocked.
pub async fn release(options: &ReleaseOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let (store, cluster) = (&connection.store, &connection.cluster);
    let Some(hold) = store.release_hold(cluster, &options.id).await? else {
        anstream::eprintln!("nodemend: cluster {cluster} has no hold {}", printable(&options.id));
        return Ok(PROBLEMS_FOUND);
    };
    let policy = store.newest_policy(cluster).await?.map(|newest| newest.policy).unwrap_or_default();
    let rescheduled = reschedule_blocked(store, cluster, &policy, connection.now).await?;
    let next = match rescheduled {
        0 => "no case was blocked",
        1 => "1 blocked case is now due",
        more => &format!("{more} blocked cases are now due"),
    };
    anstream::println!(
        "Released the hold of {} ({}): {next}.",
        printable(&hold.owner),
        printable(&hold.reason)
    );
    Ok(SUCCESS)
}
