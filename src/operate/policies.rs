//! `nodemend policy apply | show | history`: the policy that holds, and those that held before it.

use std::{fs, io::Write, path::PathBuf};

use clap::Args;
use nodemend_adapters::{config, store::dynamodb::PolicyVersion};
use nodemend_domain::{
    policy::{Mode, Policy},
    stamp,
};
use serde_json::json;

use super::{Format, Installation, OperateError, WELL, wake::wake, whoever};
use crate::{policy::describe, table};

/// How many versions are shown, if nobody says.
const SHOWN: usize = 20;

/// What `nodemend policy apply` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend policy apply policy.yaml --cluster prod
  nodemend policy apply policy.yaml --dry-run
  nodemend policy show --version 3 > policy.yaml && nodemend policy apply policy.yaml   # back to version 3

The first policy makes the cluster known: before it, what its nodes say is dropped.

Exit codes: 0 applied, or already so; 1 could not be applied; 64 wrong usage or policy")]
pub struct ApplyOptions {
    /// The policy, YAML or JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Who applies it [default: the ARN that AWS knows you by]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    installation: Installation,
}

/// What `nodemend policy show` is told.
#[derive(Debug, Args)]
pub struct ShowOptions {
    /// An earlier version
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,

    #[command(flatten)]
    installation: Installation,
}

/// What `nodemend policy history` is told.
#[derive(Debug, Args)]
pub struct HistoryOptions {
    /// How many versions, the newest first
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN)]
    limit: usize,

    /// A table for people, or one JSON object a line for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    installation: Installation,
}

/// Applies a policy.
pub async fn apply(options: &ApplyOptions) -> Result<u8, OperateError> {
    let path = &options.file;
    let text =
        fs::read_to_string(path).map_err(|source| OperateError::Read { path: path.clone(), source })?;
    let policy = config::read_policy(&text)
        .map_err(|error| OperateError::Usage(format!("{}: {error}", path.display())))?;
    let connection = options.installation.connect().await?;
    let (store, cluster, now) = (&connection.store, &connection.cluster, connection.now);
    let before = store.newest_policy(cluster).await?;
    let mut out = anstream::stdout().lock();
    describe(&mut out, &policy)?;
    if let Some(same) = before.as_ref().filter(|before| before.policy == policy) {
        writeln!(out, "\nVersion {} says the same: nothing to apply.", same.version)?;
        return Ok(WELL);
    }
    let arms = before.as_ref().is_none_or(|before| !repairs(&before.policy)) && repairs(&policy);
    if options.dry_run {
        let next = before.map_or(1, |before| before.version + 1);
        writeln!(out, "\nIt would be version {next} for cluster {cluster}.")?;
        return Ok(WELL);
    }
    let by = whoever(options.by.as_ref()).await?;
    let version = store.put_policy(cluster, &policy, &by, now).await?;
    let woken = wake(store, cluster, &policy, now).await?;
    writeln!(out, "\nVersion {version} holds for cluster {cluster}.")?;
    if woken > 0 {
        writeln!(out, "{woken} blocked {} decided anew.", if woken == 1 { "case is" } else { "cases are" })?;
    }
    if arms {
        writeln!(out, "Calls are made from now on: until now they were only told of.")?;
    }
    Ok(WELL)
}

/// Whether any group is repaired under it.
fn repairs(policy: &Policy) -> bool {
    policy.mode == Mode::Repair || policy.groups.iter().any(|rule| rule.mode == Some(Mode::Repair))
}

/// Shows a policy as the file that would apply it.
pub async fn show(options: &ShowOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let (store, cluster) = (&connection.store, &connection.cluster);
    let found = match options.version {
        None => store.newest_policy(cluster).await?,
        Some(version) => {
            let history = store.policy_history(cluster, usize::MAX).await?;
            history.into_iter().find(|policy| policy.version == version)
        }
    };
    let found = found.ok_or_else(|| match options.version {
        None => OperateError::Unknown(format!("cluster {cluster} has no policy")),
        Some(version) => OperateError::Unknown(format!("cluster {cluster} never had a policy {version}")),
    })?;
    let yaml =
        config::write_policy(&found.policy).map_err(|error| OperateError::Unknown(error.to_string()))?;
    let mut out = anstream::stdout().lock();
    let by = table::plain(&found.by);
    writeln!(out, "# cluster {cluster}, version {}, by {by}, {}", found.version, stamp::seconds(found.at))?;
    out.write_all(yaml.as_bytes())?;
    out.flush()?;
    Ok(WELL)
}

/// Lists the versions.
pub async fn history(options: &HistoryOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
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
    Ok(WELL)
}

fn row(version: &PolicyVersion) -> [String; 5] {
    let mode = if repairs(&version.policy) { Mode::Repair } else { Mode::Observe };
    [
        version.version.to_string(),
        stamp::seconds(version.at),
        mode.as_str().to_owned(),
        version.policy.groups.len().to_string(),
        version.by.clone(),
    ]
}
