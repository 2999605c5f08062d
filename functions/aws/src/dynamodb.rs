//! The store and the audit logs in DynamoDB: one item for each case, each group and each audit record.
//!
//! - There are two tables. The state table has what changes. Records are only added to the audit table, so that IAM can
//!   deny every change of them.
//! - Reads by key are consistent. The two indexes, by due time and of unhealthy nodes, lag by some milliseconds, and
//!   more while DynamoDB throttles: see [`due`](Store::due) and [`unhealthy_nodes`](Store::unhealthy_nodes) for the
//!   effects.

mod answer;
mod audit_logs;
mod item;
mod lease;
mod operators;
mod tables;
mod write;

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::query::{builders::QueryFluentBuilder, paginator::QueryPaginatorItems},
};
use jiff::Timestamp;
use nodemend_domain::{
    audit_log::AuditEntry,
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
    sources::ClusterSources,
};
use tokio::task::JoinSet;

use self::{
    answer::failed,
    item::{DUE_SHARDS, Item},
};
pub use self::{
    operators::{PlacedHold, PolicyVersion},
    tables::{TableError, create_tables},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::Cause,
    config::environment::{self, Environment, EnvironmentError},
    store::{CaseKey, CaseWrite, Commit, Store, StoreError},
};

/// The names of the two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Cases, groups, policies and holds.
    pub state: String,
    /// Audit logs.
    pub audit: String,
}

impl Tables {
    /// The tables in a function's environment.
    pub fn of(environment: &Environment) -> Result<Self, EnvironmentError> {
        let state = environment.table(environment::STATE_TABLE)?;
        Ok(Self { state, audit: environment.table(environment::AUDIT_LOG_TABLE)? })
    }
}

/// A store in DynamoDB. Clones share its connections.
#[derive(Debug, Clone)]
pub struct DynamoStore {
    client: Client,
    tables: Arc<Tables>,
}

impl DynamoStore {
    /// The store in these tables, with a new client.
    pub fn connect(shared: &SdkConfig, tables: Tables) -> Self {
        Self::new(Client::new(shared), tables)
    }

    /// The store in these tables.
    pub fn new(client: Client, tables: Tables) -> Self {
        Self { client, tables: Arc::new(tables) }
    }

    /// One item of the state table, read consistently.
    async fn get(&self, key: Item) -> Result<Option<Item>, StoreError> {
        self.get_from(&self.tables.state, key).await
    }

    async fn get_from(&self, table: &str, key: Item) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(table).consistent_read(true).set_key(Some(key));
        Ok(request.send().await.map_err(failed)?.item)
    }

    /// The due cases of one shard, the longest overdue first, at most `limit`.
    async fn due_in(
        self,
        shard: u32,
        until: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, CaseKey)>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(&self.tables.state)
            .index_name(item::DUE_INDEX)
            .expression_attribute_names("#shard", item::DUE_SHARD)
            .expression_attribute_values(":shard", item::text(shard.to_string()))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let request = match until {
            Some(until) => request
                .key_condition_expression("#shard = :shard AND #due <= :until")
                .expression_attribute_names("#due", item::DUE)
                .expression_attribute_values(":until", item::text(item::due_text(until))),
            None => request.key_condition_expression("#shard = :shard"),
        };
        let mut items = pages(request).send();
        let mut due = Vec::new();
        // No more is read than needed: every item has a price.
        while due.len() < limit
            && let Some(item) = items.next().await
        {
            let item = item.map_err(failed)?;
            let at = item::read_text(&item, item::DUE)?;
            let at =
                at.parse().map_err(|_| StoreError::Broken(format!("{at:?} is not a due time").into()))?;
            due.push((at, item::read_case_key(&item, item::PK)?));
        }
        Ok(due)
    }

    /// The due cases of all shards, which are queried concurrently.
    async fn due_in_all(
        &self,
        until: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, CaseKey)>, StoreError> {
        let mut shards = JoinSet::new();
        for shard in 0..DUE_SHARDS {
            shards.spawn(self.clone().due_in(shard, until, limit));
        }
        let mut due = Vec::new();
        while let Some(shard) = shards.join_next().await {
            due.extend(shard.map_err(|error| StoreError::Unavailable(Cause::new(error)))??);
        }
        due.sort_unstable();
        due.truncate(limit);
        Ok(due)
    }
}

/// The items of a query, whose pages are requested as they are needed.
fn pages(request: QueryFluentBuilder) -> QueryPaginatorItems {
    request.into_paginator().items()
}

async fn all(request: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
    pages(request).send().collect::<Result<_, _>>().await.map_err(failed)
}

impl Store for DynamoStore {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        let item = self.get(item::case_key(key)).await?;
        item.map(|item| item::read_json(&item, item::BODY)).transpose()
    }

    async fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> Result<Vec<InstanceId>, StoreError> {
        Ok(self.named(cluster, node).await?.instances)
    }

    async fn cluster_of_instance(&self, instance_id: &InstanceId) -> Result<Option<ClusterName>, StoreError> {
        let Some(item) = self.get(item::instance_key(instance_id)).await? else {
            return Ok(None);
        };
        let cluster = ClusterName::new(item::read_text(&item, item::CLUSTER)?);
        cluster.map(Some).map_err(|error| StoreError::Broken(Cause::new(error)))
    }

    /// The index lags: it may have a case that is no longer due, and miss one that has just become due. So a key is
    /// only a hint, and the run reads the case again, consistently, before it decides. A missing case appears a moment
    /// later with the same due time.
    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<CaseKey>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let due = self.due_in_all(Some(until), limit).await?;
        Ok(due.into_iter().map(|(_, key)| key).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let due = self.due_in_all(None, 1).await?;
        Ok(due.first().map(|(at, _)| *at))
    }

    /// The index lags: a node that has just become unhealthy may not count yet. A node counts from the start of its
    /// episode, many minutes before its repair, so only one that becomes unhealthy at the moment of another's repair is
    /// missed.
    async fn unhealthy_nodes(&self, cluster: &ClusterName) -> Result<Vec<UnhealthyNode>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(&self.tables.state)
            .index_name(item::UNHEALTHY_INDEX)
            .key_condition_expression("#in = :in")
            .expression_attribute_names("#in", item::UNHEALTHY_IN)
            .expression_attribute_values(":in", item::text(cluster.as_str()));
        all(request).await?.iter().map(item::read_unhealthy).collect()
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        match self.get(item::group_key(cluster, name)).await? {
            Some(item) => item::read_json(&item, item::BODY),
            None => Ok(GroupState::new(cluster.clone(), name.clone())),
        }
    }

    async fn commit(&self, change: CaseWrite<'_>) -> Result<Commit, StoreError> {
        self.write(&change).await
    }

    async fn put_group(&self, group: &GroupState) -> Result<Commit, StoreError> {
        self.write_group(group).await
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        Ok(self.newest_policy(cluster).await?.map(|newest| Arc::new(newest.policy)))
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        Ok(self.placed_holds(cluster).await?.into_iter().map(|placed| placed.hold).collect())
    }

    async fn sources(&self, cluster: &ClusterName) -> Result<Option<ClusterSources>, StoreError> {
        let item = self.get(item::sources_key(cluster)).await?;
        item.map(|item| item::read_json(&item, item::BODY)).transpose()
    }

    async fn put_sources(&self, cluster: &ClusterName, sources: &ClusterSources) -> Result<(), StoreError> {
        let mut item = item::sources_key(cluster);
        item.insert(item::BODY.to_owned(), item::json(sources)?);
        let request = self.client.put_item().table_name(&self.tables.state).set_item(Some(item));
        request.send().await.map_err(failed)?;
        Ok(())
    }
}

impl AuditLog for DynamoStore {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<AuditEntry>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(&self.tables.audit)
            .consistent_read(true)
            .key_condition_expression("#pk = :pk")
            .expression_attribute_names("#pk", item::PK)
            .expression_attribute_values(":pk", item::text(item::case_partition(key)));
        all(request).await?.iter().map(item::read_entry).collect()
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, AuditEntry)>, StoreError> {
        let Some(key) = item::request_key(request_id) else {
            return Ok(None);
        };
        let Some(pointer) = self.get_from(&self.tables.audit, key).await? else {
            return Ok(None);
        };
        let case = item::read_case_key(&pointer, item::OF)?;
        let record = item::record_key(&case, item::read_number(&pointer, item::SEQUENCE)?);
        let Some(record) = self.get_from(&self.tables.audit, record).await? else {
            return Ok(None);
        };
        Ok(Some((case, item::read_entry(&record)?)))
    }
}
