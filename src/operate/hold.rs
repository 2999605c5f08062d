//! `nodemend hold` and `nodemend release`: no repairs of a node, a group or a cluster for a while, and again.

use std::io::Write;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{GroupName, NodeName},
    policy::{Hold, Policy},
    stamp,
};

use super::{Installation, OperateError, PROBLEMS, WELL, wake::wake, whoever};
use crate::table;

/// What `nodemend hold` is told.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["node", "group", "all"]),
    group = clap::ArgGroup::new("end").required(true).args(["for_", "until"]),
    after_help = "\
Examples:
  nodemend hold --node ip-10-0-1-23.ec2.internal --for 2h --reason 'debugging the CNI'
  nodemend hold --group workers-a --until 2026-12-01T08:00:00Z --reason 'kernel rollout'
  nodemend hold --all --for 30m --reason 'cluster upgrade' --by alice

It holds from the moment that this command ends: everything is read again right before a call. A call that was made
before it is not taken back.

Exit codes: 0 placed, 1 could not be placed, 64 wrong usage"
)]
pub struct Options {
    /// Only this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,

    /// Only this Auto Scaling group
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,

    /// The whole cluster
    #[arg(long)]
    all: bool,

    /// Why: whoever is paged reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// For how long from now
    #[arg(long = "for", id = "for_", value_name = "LENGTH")]
    length: Option<SignedDuration>,

    /// Until when
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,

    /// Whose hold it is [default: the ARN that AWS knows you by]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    installation: Installation,
}

/// What `nodemend release` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend release 3f9a0c1d2e4b

What waited for the hold is decided anew by the next sweep.

Exit codes: 0 released, 1 there is no such hold, 64 wrong usage")]
pub struct ReleaseOptions {
    /// The hold's id, as nodemend hold printed it and nodemend status shows it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    installation: Installation,
}

/// Places a hold.
pub async fn run(options: &Options) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let now = connection.now;
    if options.reason.trim().is_empty() {
        return Err(OperateError::Usage("--reason says nothing".to_owned()));
    }
    let ends = options.length.map(|length| now.checked_add(length).ok()).or(Some(options.until)).flatten();
    let until = ends.filter(|until| *until > now).ok_or_else(|| {
        OperateError::Usage("the hold would be over already, or never end: see --for and --until".to_owned())
    })?;
    let hold = Hold {
        cluster: Some(connection.cluster.clone()),
        group: options.group.clone(),
        node: options.node.clone(),
        owner: whoever(options.by.as_ref()).await?,
        reason: options.reason.clone(),
        from: None,
        until,
    };
    // What a policy's file may not say, a command may not either.
    let checked = Policy { holds: vec![hold.clone()], ..Policy::default() }.check();
    checked.map_err(|error| OperateError::Usage(error.to_string()))?;
    let id = connection.store.place_hold(&connection.cluster, &hold).await?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "{id}")?;
    let what = match (&hold.node, &hold.group) {
        (Some(node), _) => format!("node {node}"),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => "everything".to_owned(),
    };
    anstream::eprintln!(
        "{what} in cluster {} is held until {}; nodemend release {id} ends it",
        connection.cluster,
        stamp::seconds(until)
    );
    Ok(WELL)
}

/// Takes a hold back, and wakes what waited for it.
pub async fn release(options: &ReleaseOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let (store, cluster) = (&connection.store, &connection.cluster);
    let Some(hold) = store.release_hold(cluster, &options.id).await? else {
        anstream::eprintln!("nodemend: cluster {cluster} has no hold {}", table::plain(&options.id));
        return Ok(PROBLEMS);
    };
    let policy = store.newest_policy(cluster).await?.map(|newest| newest.policy).unwrap_or_default();
    let woken = wake(store, cluster, &policy, connection.now).await?;
    let waited = match woken {
        0 => "nothing waited for it".to_owned(),
        1 => "1 blocked case is decided anew".to_owned(),
        more => format!("{more} blocked cases are decided anew"),
    };
    anstream::println!(
        "released: {} held by {}; {waited}",
        table::plain(&hold.reason),
        table::plain(&hold.owner)
    );
    Ok(WELL)
}
