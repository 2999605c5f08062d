//! `nodemend policy apply | show | history`: the cluster's policy, and its earlier versions.

use std::{io::Write, path::PathBuf};

use clap::Args;
use nodemend_aws::dynamodb::PolicyVersion;
use nodemend_domain::{
    policy::{Mode, Policy},
    timestamp,
};
use nodemend_ports::config;
use serde_json::json;

use super::{Deployment, OperateError, SUCCESS, identity, reschedule::reschedule_blocked};
use crate::{
    file::read_text,
    output::{
        Format,
        policy_effect::{describe, warn},
        printable, table,
    },
};

/// How many versions `history` lists by default.
const DEFAULT_LIMIT: usize = 20;

/// The arguments of `nodemend policy apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend policy apply policy.yaml --cluster prod
  nodemend policy apply policy.yaml --dry-run
  nodemend policy show --version 3 > v3.yaml && nodemend policy apply v3.yaml

Until the first policy is applied, all reports from the cluster are dropped.

Exit codes: 0 applied or already in effect, 1 the policy could not be stored,
64 usage or configuration error")]
pub struct PolicyApplyOptions {
    /// The policy, YAML or JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Show the effect of the policy without applying it
    #[arg(long)]
    dry_run: bool,

    /// Who applies it [default: your ARN, from AWS STS]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    deployment: Deployment,
}

/// The arguments of `nodemend policy show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend policy show --cluster prod
  nodemend policy show --version 3 > v3.yaml

Exit codes: 0 success, 1 there is no such policy, 64 usage or configuration
error")]
pub struct PolicyShowOptions {
    /// An earlier version [default: the version in effect]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,

    #[command(flatten)]
    deployment: Deployment,
}

/// The arguments of `nodemend policy history`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend policy history --cluster prod
  nodemend policy history --limit 1 --format json | jq .by

Exit codes: 0 success, 1 the history could not be read,
64 usage or configuration error")]
pub struct PolicyHistoryOptions {
    /// How many versions, newest first
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_LIMIT)]
    limit: usize,

    /// A table to read, or one JSON object per line for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    deployment: Deployment,
}

pub async fn apply(options: &PolicyApplyOptions) -> Result<u8, OperateError> {
    let path = &options.file;
    let policy = config::read_policy(&read_text(path)?)
        .map_err(|error| OperateError::Usage(format!("{}: {error}", path.display())))?;
    let connection = options.deployment.connect().await?;
    let (store, cluster, now) = (&connection.store, &connection.cluster, connection.now);
    let before = store.newest_policy(cluster).await?;
    let mut out = anstream::stdout().lock();
    describe(&mut out, &policy)?;
    warn(&mut out, path, &policy.warnings(now, Some(cluster)))?;
    if let Some(same) = before.as_ref().filter(|before| before.policy == policy) {
        writeln!(out, "\nNo change: version {} of cluster {cluster} is the same policy.", same.version)?;
        return Ok(SUCCESS);
    }
    let was = before.as_ref().map(|before| overall_mode(&before.policy));
    if options.dry_run {
        let next = before.map_or(1, |before| before.version + 1);
        writeln!(out, "\nDry run: this would become version {next} for cluster {cluster}.")?;
        return Ok(SUCCESS);
    }
    let by = identity(options.by.as_ref()).await?;
    let version = store.put_policy(cluster, &policy, &by, now).await?;
    let rescheduled = reschedule_blocked(store, cluster, &policy, now).await?;
    writeln!(out, "\nVersion {version} is in effect for cluster {cluster}.")?;
    match rescheduled {
        0 => {}
        1 => writeln!(out, "1 blocked case is now due.")?,
        more => writeln!(out, "{more} blocked cases are now due.")?,
    }
    match (was, overall_mode(&policy)) {
        (None, Mode::Repair) => writeln!(out, "Repairs are now ENABLED (there was no policy).")?,
        (Some(Mode::Observe), Mode::Repair) => writeln!(out, "Repairs are now ENABLED (was: observe).")?,
        (Some(Mode::Repair), Mode::Observe) => writeln!(out, "Repairs are now DISABLED (was: repair).")?,
        _ => {}
    }
    Ok(SUCCESS)
}

/// Repair mode where it is the mode of any group.
fn overall_mode(policy: &Policy) -> Mode {
    let repairs =
        policy.mode == Mode::Repair || policy.groups.iter().any(|rule| rule.mode == Some(Mode::Repair));
    if repairs { Mode::Repair } else { Mode::Observe }
}

/// Prints a policy as a file that `apply` takes.
pub async fn show(options: &PolicyShowOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let (store, cluster) = (&connection.store, &connection.cluster);
    let found = match options.version {
        None => store.newest_policy(cluster).await?,
        Some(version) => {
            let history = store.policy_history(cluster, usize::MAX).await?;
            history.into_iter().find(|policy| policy.version == version)
        }
    };
    let found = found.ok_or_else(|| match options.version {
        None => OperateError::NotFound(format!("cluster {cluster} has no policy")),
        Some(version) => OperateError::NotFound(format!("cluster {cluster} has no policy version {version}")),
    })?;
    let yaml =
        config::write_policy(&found.policy).map_err(|error| OperateError::NotFound(error.to_string()))?;
    let mut out = anstream::stdout().lock();
    let by = printable(&found.by);
    writeln!(
        out,
        "# cluster {cluster}, version {}, by {by}, {}",
        found.version,
        timestamp::seconds(found.at)
    )?;
    out.write_all(yaml.as_bytes())?;
    out.flush()?;
    Ok(SUCCESS)
}

/// Lists the versions, newest first.
pub async fn history(options: &PolicyHistoryOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let history = connection.store.policy_history(&connection.cluster, options.limit).await?;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Json => {
            for version in &history {
                writeln!(out, "{}", json!(version))?;
            }
        }
        Format::Text => {
            let rows: Vec<_> = history.iter().map(row).collect();
            table::write(&mut out, "", ["version", "at", "mode", "groups", "by"], &rows)?;
        }
    }
    out.flush()?;
    Ok(SUCCESS)
}

fn row(version: &PolicyVersion) -> [String; 5] {
    [
        version.version.to_string(),
        timestamp::seconds(version.at),
        overall_mode(&version.policy).as_str().to_owned(),
        version.policy.groups.len().to_string(),
        version.by.clone(),
    ]
}
