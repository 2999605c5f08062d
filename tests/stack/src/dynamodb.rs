//! DynamoDB in this process, on a thread of its own: what it stores, it stores while it serves nobody else.

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

/// The tables, named as an installation names them.
pub fn tables() -> Tables {
    Tables { state: "nodemend-state".to_owned(), audit: "nodemend-audit-log".to_owned() }
}

/// Why there is no DynamoDB.
#[derive(Debug, thiserror::Error)]
pub enum DynamoError {
    /// It can't serve.
    #[error("failed to start DynamoDB: {0}")]
    Serve(#[from] io::Error),
    /// It can't store.
    #[error("failed to start DynamoDB: {0}")]
    Database(String),
    /// It takes no tables.
    #[error(transparent)]
    Tables(#[from] TableError),
}

/// Starts it; where it is.
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

/// Our own way to it, with its tables made.
pub async fn store(address: SocketAddr) -> Result<DynamoStore, DynamoError> {
    let client = Client::new(&shared(address).await);
    create_tables(&client, &tables()).await?;
    Ok(DynamoStore::new(client, tables()))
}

/// Nothing of the environment counts: neither an operator's credentials nor their region.
async fn shared(address: SocketAddr) -> SdkConfig {
    sdk::defaults()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new(ids::REGION))
        .credentials_provider(Credentials::new("local", "local", None, None, "nodemend up"))
        .load()
        .await
}
