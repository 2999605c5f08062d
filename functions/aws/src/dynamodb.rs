//! The store in DynamoDB: one item a case, one a group, one a trail record, written in one transaction.
//!
//! Two tables. The state's holds what changes; the trail's is only ever added to, so that a role can be kept from
//! changing it. What is read by its key is read consistently. The two indexes, by due time and of the unhealthy,
//! lag behind by some milliseconds, more while DynamoDB is throttled: see [`due`](Store::due) and
//! [`unhealthy_nodes`](Store::unhealthy_nodes) for what that comes to.

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
    audit_log::builder::AuditEntry,
    case::Case,
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    policy::{Hold, Policy},
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
    config::environment::{self, Environment, EnvironmentError},
    store::{CaseKey, CaseWrite, Commit, Store, StoreError},
};

/// The names of the two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Cases, groups, and what operators decided.
    pub state: String,
    /// The trail.
    pub audit: String,
}

impl Tables {
    /// Those that a function's environment names.
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
    /// The store in these tables, through a client of its own.
    pub fn connect(shared: &SdkConfig, tables: Tables) -> Self {
        Self::new(Client::new(shared), tables)
    }

    /// The store in these tables.
    pub fn new(client: Client, tables: Tables) -> Self {
        Self { client, tables: Arc::new(tables) }
    }

    /// One item of the state, read consistently.
    async fn get(&self, key: Item) -> Result<Option<Item>, StoreError> {
        self.get_from(&self.tables.state, key).await
    }

    async fn get_from(&self, table: &str, key: Item) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(table).consistent_read(true).set_key(Some(key));
        Ok(request.send().await.map_err(|error| failed(&error))?.item)
    }

    /// The due cases of one shard, the longest overdue first, at most so many.
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
        // Asked for no more than is wanted: every item read is paid for.
        while due.len() < limit
            && let Some(item) = items.next().await
        {
            let item = item.map_err(|error| failed(&error))?;
            let at = item::read_text(&item, item::DUE)?;
            let at = at.parse().map_err(|_| StoreError::Broken(format!("{at:?} is no due time")))?;
            due.push((at, item::read_case_key(&item, item::PK)?));
        }
        Ok(due)
    }

    /// The due cases of all shards, asked for at once.
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
            due.extend(shard.map_err(|error| StoreError::Unavailable(error.to_string()))??);
        }
        due.sort_unstable();
        due.truncate(limit);
        Ok(due)
    }
}

/// A query to its end, page by page as they are wanted.
fn pages(request: QueryFluentBuilder) -> QueryPaginatorItems {
    request.into_paginator().items()
}

async fn all(request: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
    pages(request).send().collect::<Result<_, _>>().await.map_err(|error| failed(&error))
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
        cluster.map(Some).map_err(|error| StoreError::Broken(error.to_string()))
    }

    /// The index lags: a case may be named that is due no more, and one that has just fallen due may be missing.
    /// So a key is a hint, and the sweep reads its case again, consistently, before it decides; what is missing
    /// now is there a moment later, with a due time that has not changed.
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

    /// The index lags: a node that turned unhealthy within the last moments may not count yet. A node counts from
    /// the start of its trouble, many minutes before anything is done about it; only one that turns unhealthy in
    /// the very moment of another's repair is missed.
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

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        Ok(self.newest_policy(cluster).await?.map(|newest| Arc::new(newest.policy)))
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        Ok(self.placed_holds(cluster).await?.into_iter().map(|placed| placed.hold).collect())
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
