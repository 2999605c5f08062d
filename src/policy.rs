//! `nodemend policy`: check a policy before it is applied, and take over what stands in an eksctl file.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use nodemend_adapters::config::{self, eksctl};
use nodemend_domain::{
    policy::{Limit, Mode, NodeRepairConfig, Policy},
    stamp,
};

#[cfg(feature = "aws")]
use crate::operate::{self, OperateError, policies};
use crate::table;

/// What `nodemend policy` is told.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a policy can be applied, and what it means
    #[command(after_help = "Examples:\n  nodemend policy check policy.yaml\n\nExit codes: 0 well, 64 wrong")]
    Check {
        /// The policy, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Write the policy that an eksctl ClusterConfig asks for
    #[command(after_help = "\
Takes managedNodeGroups[].nodeRepairConfig and nodeGroups[] of the same shape, for self-managed groups. Groups are
matched by the tags that EKS and eksctl put on them.

Examples:
  nodemend policy import cluster.yaml > policy.yaml

Exit codes: 0 well, 64 wrong")]
    Import {
        /// The ClusterConfig
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a policy the cluster's
    #[cfg(feature = "aws")]
    Apply(policies::ApplyOptions),
    /// Show the policy that holds, as a file that can be applied
    #[cfg(feature = "aws")]
    Show(policies::ShowOptions),
    /// List the policies that held, and who applied them
    #[cfg(feature = "aws")]
    History(policies::HistoryOptions),
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PolicyCommandError {
    /// A file can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file says what it may not.
    #[error("{}: {why}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
    /// An installation could not be asked, or told.
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Operate(#[from] OperateError),
}

impl PolicyCommandError {
    /// Whether the command line or a file it names is at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Wrong { .. } => true,
            Self::Output(_) => false,
            #[cfg(feature = "aws")]
            Self::Operate(error) => error.is_usage(),
        }
    }
}

/// Carries it out; the exit code.
pub fn run(command: &Command) -> Result<u8, PolicyCommandError> {
    match command {
        Command::Check { file } => {
            let mut out = anstream::stdout().lock();
            let policy =
                config::read_policy(&text_of(file)?).map_err(|error| wrong(file, error.to_string()))?;
            describe(&mut out, &policy)?;
            out.flush()?;
        }
        Command::Import { file } => {
            let mut out = anstream::stdout().lock();
            let policy = eksctl::policy(&text_of(file)?).map_err(|error| wrong(file, error.to_string()))?;
            out.write_all(
                config::write_policy(&policy).map_err(|error| wrong(file, error.to_string()))?.as_bytes(),
            )?;
            out.flush()?;
        }
        #[cfg(feature = "aws")]
        Command::Apply(options) => return Ok(operate::block_on(policies::apply(options))?),
        #[cfg(feature = "aws")]
        Command::Show(options) => return Ok(operate::block_on(policies::show(options))?),
        #[cfg(feature = "aws")]
        Command::History(options) => return Ok(operate::block_on(policies::history(options))?),
    }
    Ok(0)
}

fn text_of(path: &Path) -> Result<String, PolicyCommandError> {
    fs::read_to_string(path).map_err(|source| PolicyCommandError::Read { path: path.to_owned(), source })
}

fn wrong(path: &Path, why: String) -> PolicyCommandError {
    PolicyCommandError::Wrong { path: path.to_owned(), why }
}

/// What a policy means, a line a group.
pub(crate) fn describe(out: &mut impl Write, policy: &Policy) -> io::Result<()> {
    let mut rows = Vec::new();
    for rule in &policy.groups {
        let tags = rule.tags.iter().map(|(key, value)| format!("{key}={value}"));
        let group: Vec<String> = rule.name.iter().cloned().chain(tags).collect();
        let config = rule.node_repair_config.as_ref().unwrap_or(&policy.node_repair_config);
        rows.push(row(group.join(", "), rule.mode.unwrap_or(policy.mode), config));
    }
    let rest = if policy.groups.is_empty() { "every group" } else { "every other group" };
    rows.push(row(rest.to_owned(), policy.mode, &policy.node_repair_config));
    table::write(out, "", ["group", "mode", "repair", "halts above", "at once"], &rows)?;
    for hold in &policy.holds {
        writeln!(out, "held by {} until {}: {}", hold.owner, stamp::seconds(hold.until), hold.reason)?;
    }
    Ok(())
}

fn row(group: String, mode: Mode, config: &NodeRepairConfig) -> [String; 5] {
    let limit = |limit: Option<Limit>, of: &str, unset: &str| match limit {
        Some(Limit::Count(count)) => format!("{count} nodes"),
        Some(Limit::Percentage(percentage)) => format!("{percentage} % of {of}"),
        None => unset.to_owned(),
    };
    [
        group,
        mode.as_str().to_owned(),
        if config.enabled { "enabled" } else { "disabled" }.to_owned(),
        limit(config.max_unhealthy_node_threshold, "the group", "20 % of more than 5 nodes"),
        limit(config.max_parallel_nodes_repaired, "the unhealthy", "no limit"),
    ]
}
