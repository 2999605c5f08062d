//! DynamoDB in this process. It blocks its thread while it stores an item, so it has a thread of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{Client, config::Credentials};
use dynoxide::Database;
use nodemend_aws::{
    dynamodb::{DynamoStore, TableError, Tables, create_tables},
    sdk,
};

use super::ids;

/// The names of the tables, as in a deployment.
pub fn tables() -> Tables {
    Tables { state: "nodemend-state".to_owned(), audit: "nodemend-audit-log".to_owned() }
}

/// Why DynamoDB could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DynamoError {
    /// The server could not be started.
    #[error("failed to start DynamoDB: {0}")]
    Serve(#[from] io::Error),
    /// The database could not be created.
    #[error("failed to start DynamoDB: {0}")]
    Database(String),
    /// The tables could not be created.
    #[error(transparent)]
    Tables(#[from] TableError),
}

/// Starts DynamoDB and returns its address.
pub fn serve() -> Result<SocketAddr, DynamoError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let database = Database::memory().map_err(|error| DynamoError::Database(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("dynamodb".to_owned()).spawn(move || {
        runtime.block_on(async {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                dynoxide::server::serve_on(listener, database).await;
            }
        });
    })?;
    Ok(address)
}

/// Creates the tables and returns a store on them.
pub async fn store(address: SocketAddr) -> Result<DynamoStore, DynamoError> {
    let client = Client::new(&sdk_config(address).await);
    create_tables(&client, &tables()).await?;
    Ok(DynamoStore::new(client, tables()))
}

/// A configuration that reads nothing from the environment: neither the operator's credentials nor their
/// region.
async fn sdk_config(address: SocketAddr) -> SdkConfig {
    sdk::defaults()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new(ids::REGION))
        .credentials_provider(Credentials::new("local", "local", None, None, "nodemend up"))
        .load()
        .await
}
