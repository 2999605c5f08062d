//! The commands that operate a deployment: status, explain, holds, policies and the audit log.
//!
//! They read and write the deployment's DynamoDB tables directly, with the credentials of the AWS environment.

pub mod audit;
pub mod explain;
pub mod hold;
pub mod policies;
pub mod repair;
mod reschedule;
pub mod status;
pub mod verifiable;

use std::io;

use clap::Args;
use jiff::Timestamp;
use nodemend_aws::{
    clock::SystemClock,
    cloud::AwsCloud,
    dynamodb::{DynamoStore, Tables},
    sdk::{self, NoRegion},
};
use nodemend_domain::ident::{ClusterName, InstanceId, NodeName};
use nodemend_ports::{
    clock::Clock,
    cloud::{Cloud, CloudError},
    config::environment::EnvironmentError,
    store::{CaseKey, Store, StoreError},
    write::WriteError,
};
use nodemend_repair::RepairError;

use crate::{file::FileError, output};

/// The exit code of a command that did what was asked, and found all nodes healthy.
pub const SUCCESS: u8 = 0;
/// The exit code where a check found problems, or there was nothing to change.
pub const PROBLEMS_FOUND: u8 = 1;
/// The exit code where a node is unhealthy.
pub const UNHEALTHY: u8 = 2;

/// Which deployment. The account and the region come from AWS's own environment variables and profiles.
#[derive(Debug, Clone, Args)]
pub struct Deployment {
    /// The cluster
    #[arg(long, env = "NODEMEND_CLUSTER", value_name = "NAME", global = true, hide_env_values = true)]
    pub cluster: Option<ClusterName>,

    /// The DynamoDB table of cases, holds and policies
    #[arg(
        long,
        env = "NODEMEND_STATE_TABLE",
        value_name = "TABLE",
        default_value = "nodemend-state",
        hide_env_values = true
    )]
    pub state_table: String,

    /// The DynamoDB table of the audit log
    #[arg(
        long,
        env = "NODEMEND_AUDIT_LOG_TABLE",
        value_name = "TABLE",
        default_value = "nodemend-audit-log",
        hide_env_values = true
    )]
    pub audit_log_table: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// An argument is missing or invalid, or a file that it names is.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such node, policy or audit log.
    #[error("{0}")]
    NotFound(String),
    /// No AWS region is configured.
    #[error(transparent)]
    Region(#[from] NoRegion),
    /// An environment variable is invalid.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// DynamoDB failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Another AWS service failed.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The decision for a node failed.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// Standard output cannot be written.
    #[error("failed to write the output")]
    Output(#[from] io::Error),
}

impl OperateError {
    /// Whether the command line or a file that it names is at fault, for exit code 64.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::File(_) | Self::Region(_) | Self::Environment(_))
    }
}

/// A connection to a deployment's tables.
pub struct Connection {
    pub cluster: ClusterName,
    pub store: DynamoStore,
    /// The current time, read once so that all output of a command agrees.
    pub now: Timestamp,
}

impl Deployment {
    /// Loads the AWS configuration. No request is sent yet.
    pub async fn connect(&self) -> Result<Connection, OperateError> {
        let cluster = self
            .cluster
            .clone()
            .ok_or_else(|| OperateError::Usage("--cluster: missing (or set NODEMEND_CLUSTER)".to_owned()))?;
        Ok(Connection { cluster, store: self.store().await?, now: SystemClock.now() })
    }

    /// The same for what concerns all clusters of the deployment.
    pub async fn store(&self) -> Result<DynamoStore, OperateError> {
        let tables = Tables { state: self.state_table.clone(), audit: self.audit_log_table.clone() };
        Ok(DynamoStore::connect(&sdk::load().await?, tables))
    }
}

impl Connection {
    /// The case of a node name, an instance id or a case id. A name may have had several instances: the latest counts.
    pub async fn case_of(&self, id: &str) -> Result<CaseKey, OperateError> {
        let key = |instance_id| CaseKey { cluster: self.cluster.clone(), instance_id };
        // A case id starts with its instance id: `i-0123456789abcdef0#2`.
        if let Ok(instance_id) = InstanceId::new(id.split('#').next().unwrap_or_default()) {
            return Ok(key(instance_id));
        }
        let node = NodeName::new(id).map_err(|error| OperateError::Usage(error.to_string()))?;
        let instances = self.store.instances_of_node(&self.cluster, &node).await?;
        instances.into_iter().next_back().map(key).ok_or_else(|| {
            OperateError::NotFound(format!(
                "no report or audit event of node {node} in cluster {} was received",
                self.cluster
            ))
        })
    }
}

/// Who runs the command: `--by`, else the ARN from AWS STS.
async fn identity(by: Option<&String>) -> Result<String, OperateError> {
    match by {
        Some(by) => Ok(by.clone()),
        None => Ok(AwsCloud::connect(&sdk::load().await?).await?.caller().arn.clone()),
    }
}

/// The duration between two times, to the second.
fn between(earlier: Timestamp, later: Timestamp) -> String {
    output::duration_of_seconds(later.duration_since(earlier).as_secs())
}

/// Runs one command on a runtime of its own.
pub fn block_on<T>(command: impl Future<Output = Result<T, OperateError>>) -> Result<T, OperateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
