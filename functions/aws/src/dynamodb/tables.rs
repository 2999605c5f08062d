//! Creates the tables, for tests and for a local stack. A deployment's tables come from its template.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    client::Waiters,
    error::{BuildError, SdkError},
    operation::create_table::{CreateTableError, builders::CreateTableFluentBuilder},
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
        ProjectionType, ScalarAttributeType, TimeToLiveSpecification,
    },
};

use nodemend_ports::cause::Cause;

use super::{Tables, item};
use crate::error::cause;

/// A new table is ready within seconds.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A table could not be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to create the table {table}")]
pub struct TableError {
    table: String,
    source: Cause,
}

/// Creates both tables with on-demand billing, if they do not exist.
pub async fn create_tables(client: &Client, tables: &Tables) -> Result<(), TableError> {
    let text = ScalarAttributeType::S;
    let state = async || {
        let request = client
            .create_table()
            .attribute_definitions(attribute(item::PK, text.clone())?)
            .attribute_definitions(attribute(item::SK, text.clone())?)
            .attribute_definitions(attribute(item::DUE_SHARD, text.clone())?)
            .attribute_definitions(attribute(item::DUE, text.clone())?)
            .attribute_definitions(attribute(item::UNHEALTHY_IN, text.clone())?)
            .global_secondary_indexes(index(
                item::DUE_INDEX,
                [item::DUE_SHARD, item::DUE],
                Projection::builder().projection_type(ProjectionType::KeysOnly).build(),
            )?)
            .global_secondary_indexes(index(
                item::UNHEALTHY_INDEX,
                [item::UNHEALTHY_IN, item::PK],
                Projection::builder()
                    .projection_type(ProjectionType::Include)
                    .non_key_attributes(item::UNHEALTHY)
                    .build(),
            )?);
        create(client, request, &tables.state).await?;
        let expiry =
            TimeToLiveSpecification::builder().enabled(true).attribute_name(item::EXPIRES).build()?;
        let request =
            client.update_time_to_live().table_name(&tables.state).time_to_live_specification(expiry);
        match request.send().await {
            Err(error) if !is_enabled_already(&error) => Err(CreateFailure(cause(error))),
            _ => Ok(()),
        }
    };
    let audit = async || {
        let request = client
            .create_table()
            .attribute_definitions(attribute(item::PK, text.clone())?)
            .attribute_definitions(attribute(item::SK, ScalarAttributeType::N)?);
        create(client, request, &tables.audit).await
    };
    let named = |table: &String| {
        let table = table.clone();
        move |CreateFailure(source)| TableError { table, source }
    };
    state().await.map_err(named(&tables.state))?;
    audit().await.map_err(named(&tables.audit))
}

struct CreateFailure(Cause);

impl From<BuildError> for CreateFailure {
    fn from(error: BuildError) -> Self {
        Self(Cause::new(error))
    }
}

async fn create(client: &Client, request: CreateTableFluentBuilder, name: &str) -> Result<(), CreateFailure> {
    let request = request
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(schema([item::PK, item::SK])?));
    match request.send().await {
        Err(error)
            if !matches!(error.as_service_error(), Some(CreateTableError::ResourceInUseException(_))) =>
        {
            return Err(CreateFailure(cause(error)));
        }
        _ => {}
    }
    let wait = client.wait_until_table_exists().table_name(name).wait(MAX_WAIT).await;
    wait.map(drop).map_err(|error| CreateFailure(Cause::new(error)))
}

fn attribute(name: &str, kind: ScalarAttributeType) -> Result<AttributeDefinition, BuildError> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()
}

fn schema([partition, sort]: [&str; 2]) -> Result<Vec<KeySchemaElement>, BuildError> {
    let element = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    Ok(vec![element(partition, KeyType::Hash)?, element(sort, KeyType::Range)?])
}

fn index(name: &str, keys: [&str; 2], projection: Projection) -> Result<GlobalSecondaryIndex, BuildError> {
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(schema(keys)?))
        .projection(projection)
        .build()
}

/// DynamoDB rejects the request if time to live is already enabled.
fn is_enabled_already<E: aws_sdk_dynamodb::error::ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error
        .as_service_error()
        .and_then(|error| error.message())
        .is_some_and(|why| why.contains("already enabled"))
}
