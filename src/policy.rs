//! `nodemend policy`: checks a policy before it is applied, imports one from eksctl, and applies and shows policies.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use jiff::Timestamp;
use nodemend_ports::config::{self, eksctl};

#[cfg(feature = "aws")]
use crate::operate::{self, OperateError, policies, verifiable};
use crate::{
    file::{FileError, read_text},
    output::policy_effect::{describe, warn},
};

/// The subcommands of `nodemend policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Validate a policy file, show its effect, and warn of settings that cannot
    /// be meant
    #[cfg_attr(
        feature = "aws",
        command(after_help = "\
With --cluster it also reads from the deployment's state table whether faults
can be verified there: in the Kubernetes API or the control-plane audit log.

Examples:
  nodemend policy check policy.yaml
  nodemend policy check policy.yaml --cluster prod
  nodemend policy check policy.yaml --strict

Exit codes: 0 success, also with warnings, 1 problems found (with --strict
warnings, too), or the sources could not be read, 64 usage or configuration
error")
    )]
    #[cfg_attr(
        not(feature = "aws"),
        command(after_help = "\
Examples:
  nodemend policy check policy.yaml
  nodemend policy check policy.yaml --strict

Exit codes: 0 success, also with warnings, 1 warnings with --strict,
64 usage or configuration error")
    )]
    Check {
        /// The policy, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Exit with 1 if there are warnings, for a pipeline of checks
        #[arg(long)]
        strict: bool,

        #[cfg(feature = "aws")]
        #[command(flatten)]
        deployment: operate::Deployment,
    },
    /// Convert the repair settings of an eksctl ClusterConfig to a policy
    #[command(after_help = "\
Reads nodeRepairConfig of managedNodeGroups[] and, for self-managed groups, of
nodeGroups[]. The policy matches groups by the tags of EKS and eksctl.

Examples:
  nodemend policy import cluster.yaml > policy.yaml

Exit codes: 0 success, 64 usage or configuration error")]
    Import {
        /// The eksctl ClusterConfig, YAML
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Apply a policy to the cluster
    #[cfg(feature = "aws")]
    Apply(policies::PolicyApplyOptions),
    /// Print the policy in effect, or an earlier version, as a file that can be applied
    #[cfg(feature = "aws")]
    Show(policies::PolicyShowOptions),
    /// List policy versions and who applied them
    #[cfg(feature = "aws")]
    History(policies::PolicyHistoryOptions),
}

/// Why a policy command failed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyCommandError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A policy or a ClusterConfig is invalid.
    #[error("{}: {why}", path.display())]
    Invalid {
        path: PathBuf,
        /// The field and what is wrong with it.
        why: String,
    },
    /// Standard output cannot be written.
    #[error("failed to write the output")]
    Output(#[from] io::Error),
    /// The deployment's tables could not be read or written.
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Operate(#[from] OperateError),
}

impl PolicyCommandError {
    /// Whether the command line or a file that it names is at fault, for exit code 64.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::File(_) | Self::Invalid { .. } => true,
            Self::Output(_) => false,
            #[cfg(feature = "aws")]
            Self::Operate(error) => error.is_usage(),
        }
    }
}

/// Runs a subcommand and returns its exit code.
pub fn run(command: &PolicyCommand) -> Result<u8, PolicyCommandError> {
    match command {
        PolicyCommand::Check {
            file,
            strict,
            #[cfg(feature = "aws")]
            deployment,
        } => {
            let mut out = anstream::stdout().lock();
            let policy =
                config::read_policy(&read_text(file)?).map_err(|error| invalid(file, error.to_string()))?;
            describe(&mut out, &policy)?;
            #[cfg(feature = "aws")]
            let cluster = deployment.cluster.as_ref();
            #[cfg(not(feature = "aws"))]
            let cluster = None;
            let warnings = policy.warnings(now(), cluster);
            warn(&mut out, file, &warnings)?;
            out.flush()?;
            let code = u8::from(*strict && !warnings.is_empty());
            #[cfg(feature = "aws")]
            if deployment.cluster.is_some() {
                let verifiable = operate::block_on(verifiable::check(&policy, deployment))?;
                return Ok(verifiable.max(code));
            }
            return Ok(code);
        }
        PolicyCommand::Import { file } => {
            let mut out = anstream::stdout().lock();
            let policy =
                eksctl::policy(&read_text(file)?).map_err(|error| invalid(file, error.to_string()))?;
            out.write_all(
                config::write_policy(&policy).map_err(|error| invalid(file, error.to_string()))?.as_bytes(),
            )?;
            out.flush()?;
        }
        #[cfg(feature = "aws")]
        PolicyCommand::Apply(options) => return Ok(operate::block_on(policies::apply(options))?),
        #[cfg(feature = "aws")]
        PolicyCommand::Show(options) => return Ok(operate::block_on(policies::show(options))?),
        #[cfg(feature = "aws")]
        PolicyCommand::History(options) => return Ok(operate::block_on(policies::history(options))?),
    }
    Ok(0)
}

/// The current time: of a policy's settings only holds depend on it.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge, and has no Clock without the feature aws"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

fn invalid(path: &Path, why: String) -> PolicyCommandError {
    PolicyCommandError::Invalid { path: path.to_owned(), why }
}
