//! The start of a function on Lambda: reads its environment, and connects what more than one function uses.
//!
//! Clients are created once, and share the connections of one configuration.

use std::sync::Arc;

use aws_config::SdkConfig;
use nodemend_ports::{
    cloud::CloudError,
    config::environment::{Environment, EnvironmentError},
};

use crate::{
    cloud::AwsCloud,
    dynamodb::{DynamoStore, Tables},
    eventbridge::EventBridge,
    sdk, telemetry,
};

/// Why a function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// A variable is missing or wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// No region is configured.
    #[error(transparent)]
    Region(#[from] sdk::NoRegion),
    /// STS does not return our identity.
    #[error(transparent)]
    Identity(#[from] CloudError),
}

/// What every function has from its start.
pub struct Startup {
    /// The function's environment.
    pub environment: Environment,
    /// The configuration of all AWS clients.
    pub shared: SdkConfig,
    /// The store, in the tables that the environment names.
    pub store: DynamoStore,
}

impl Startup {
    /// Begins telemetry, reads the environment, and loads the configuration.
    pub async fn load() -> Result<Self, StartupError> {
        telemetry::init();
        let environment = Environment::of_process();
        let tables = Tables::of(&environment)?;
        let shared = sdk::load().await?;
        Ok(Self { environment, store: DynamoStore::connect(&shared, tables), shared })
    }

    /// The event bus for repair events, if one is configured.
    pub fn event_bus(&self) -> Result<Option<Arc<EventBridge>>, StartupError> {
        let bus = self.environment.event_bus()?;
        Ok(bus.map(|bus| Arc::new(EventBridge::connect(&self.shared, bus))))
    }

    /// AWS in our own account and those of other clusters, with the clusters' Kubernetes API. `function` names the
    /// function in its requests to that API.
    pub async fn cloud(&self, function: &str) -> Result<AwsCloud, StartupError> {
        let (members, access) = (self.environment.members()?, self.environment.cluster_access()?);
        let user_agent = format!("{function}/{}", env!("CARGO_PKG_VERSION"));
        Ok(AwsCloud::connect(&self.shared).await?.with_members(&self.shared, members).with_cluster_access(
            &self.shared,
            access,
            &user_agent,
        ))
    }
}
