//! What operators ask of an installation, and tell it: where nodes stand and why, holds, policies, the trail.

pub mod audit;
pub mod explain;
pub mod hold;
pub mod policies;
pub mod status;
mod wake;

use std::{io, path::PathBuf};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    aws::{self, NoRegion},
    clock::{Clock, SystemClock},
    cloud::{AwsCloud, Cloud, CloudError},
    config::environment::EnvironmentError,
    store::{
        CaseKey, Store, StoreError,
        dynamodb::{DynamoStore, Tables},
    },
};
use nodemend_domain::{
    ident::{ClusterName, InstanceId, NodeName},
    stamp,
};
use nodemend_repair::RepairError;

pub use crate::table::Format;

/// Found well, or found something.
pub const WELL: u8 = 0;
/// Problems were found.
pub const PROBLEMS: u8 = 1;
/// A node is unhealthy.
pub const UNHEALTHY: u8 = 2;

/// Which installation is meant. AWS's own environment says which account and region.
#[derive(Debug, Clone, Args)]
pub struct Installation {
    /// The cluster
    #[arg(long, env = "NODEMEND_CLUSTER", value_name = "NAME", global = true, hide_env_values = true)]
    pub cluster: Option<ClusterName>,

    /// The table of cases, holds and policies
    #[arg(
        long,
        env = "NODEMEND_STATE_TABLE",
        value_name = "TABLE",
        default_value = "nodemend-state",
        hide_env_values = true
    )]
    pub state_table: String,

    /// The table of the trail
    #[arg(
        long,
        env = "NODEMEND_AUDIT_TABLE",
        value_name = "TABLE",
        default_value = "nodemend-audit",
        hide_env_values = true
    )]
    pub audit_table: String,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The command line leaves something open, or a file it names is wrong.
    #[error("{0}")]
    Usage(String),
    /// A file can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was asked for is not there.
    #[error("{0}")]
    Unknown(String),
    /// AWS has regions.
    #[error(transparent)]
    Region(#[from] NoRegion),
    /// A variable is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// AWS.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The repairer could not decide.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
}

impl OperateError {
    /// Whether the command line or a file it names is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Read { .. } | Self::Region(_) | Self::Environment(_))
    }
}

/// An installation that is connected to.
pub struct Connection {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its store.
    pub store: DynamoStore,
    /// Now, once for a command.
    pub now: Timestamp,
}

impl Installation {
    /// Connects to the store. Nothing is read yet.
    pub async fn connect(&self) -> Result<Connection, OperateError> {
        let cluster = self.cluster.clone().ok_or_else(|| {
            OperateError::Usage("which cluster? --cluster NAME, or NODEMEND_CLUSTER".to_owned())
        })?;
        let tables = Tables { state: self.state_table.clone(), audit: self.audit_table.clone() };
        let store = DynamoStore::connect(&aws::load().await?, tables);
        Ok(Connection { cluster, store, now: SystemClock.now() })
    }
}

impl Connection {
    /// The case that a node's name or an instance's id means: of a name's instances, the last to bear it.
    pub async fn case_of(&self, what: &str) -> Result<CaseKey, OperateError> {
        let key = |instance_id| CaseKey { cluster: self.cluster.clone(), instance_id };
        // A case's id names its instance: `i-0123456789abcdef0#2`.
        if let Ok(instance_id) = InstanceId::new(what.split('#').next().unwrap_or_default()) {
            return Ok(key(instance_id));
        }
        let node = NodeName::new(what).map_err(|error| OperateError::Usage(error.to_string()))?;
        let instances = self.store.instances_of_node(&self.cluster, &node).await?;
        instances.into_iter().next_back().map(key).ok_or_else(|| {
            OperateError::Unknown(format!("no node {node} was ever heard of in cluster {}", self.cluster))
        })
    }
}

/// Who asks: as said, else as AWS knows the caller.
async fn whoever(said: Option<&String>) -> Result<String, OperateError> {
    match said {
        Some(said) => Ok(said.clone()),
        None => Ok(AwsCloud::connect(&aws::load().await?).await?.caller().arn.clone()),
    }
}

/// How long it is from one instant to a later one, to the second.
fn between(earlier: Timestamp, later: Timestamp) -> String {
    stamp::length(SignedDuration::from_secs(later.duration_since(earlier).as_secs()))
}

/// Runs one command to its end.
pub fn block_on<T>(command: impl Future<Output = Result<T, OperateError>>) -> Result<T, OperateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
