//! Policies, with all of their versions, and holds. Operators write them; IAM denies it to the functions.

use jiff::Timestamp;
use nodemend_domain::{
    ident::ClusterName,
    policy::{Hold, Policy},
    timestamp,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    DynamoStore, all,
    answer::failed,
    item::{self, Item},
    pages,
    write::{Answered, Transaction, absent, at_version, put},
};
use nodemend_ports::store::StoreError;

const POLICY: &str = "policy";
const HISTORY: &str = "policy#";
const HOLD: &str = "hold#";
/// Attempts to apply a policy while other operators apply theirs.
const MAX_ATTEMPTS: usize = 8;

/// One version of a cluster's policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// 1, 2, 3… for each cluster.
    pub version: u64,
    /// The operator who applied it.
    pub by: String,
    /// The time at which it was applied.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// The policy.
    pub policy: Policy,
}

/// A hold, with the ID by which it is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedHold {
    /// A digest of the hold, so that a hold that is placed twice is stored once.
    pub id: String,
    /// The hold.
    pub hold: Hold,
}

impl DynamoStore {
    /// Applies a policy to a cluster, and keeps the previous versions. Returns its version.
    pub async fn put_policy(
        &self,
        cluster: &ClusterName,
        policy: &Policy,
        by: &str,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let before = self.newest_policy(cluster).await?.map_or(0, |newest| newest.version);
            let version = before + 1;
            let applied = PolicyVersion { version, by: by.to_owned(), at, policy: policy.clone() };
            let item = |sk: &str| -> Result<Item, StoreError> {
                let mut item = item::cluster_key(cluster, sk);
                item.insert(item::BODY.to_owned(), item::json(&applied)?);
                item.insert(item::VERSION.to_owned(), item::number(version));
                Ok(item)
            };
            let state = self.tables.state.as_str();
            let mut puts = Transaction::default();
            puts.add(at_version(put(state), before), item(POLICY)?)?;
            // Of constant length, so that the order of the strings is the order of the versions.
            puts.add(absent(put(state)), item(&format!("{HISTORY}{version:020}"))?)?;
            if let Answered::Won = self.send(puts).await? {
                return Ok(version);
            }
        }
        Err(StoreError::Unavailable(
            format!("other operators applied policies to {cluster} at the same time").into(),
        ))
    }

    /// The current policy, read consistently.
    pub async fn newest_policy(&self, cluster: &ClusterName) -> Result<Option<PolicyVersion>, StoreError> {
        let item = self.get(item::cluster_key(cluster, POLICY)).await?;
        item.map(|item| item::read_json(&item, item::BODY)).transpose()
    }

    /// Every cluster that this deployment serves, with its policy: without one nothing is called. A scan of the whole table,
    /// for operators' commands.
    pub async fn served_clusters(&self) -> Result<Vec<(ClusterName, PolicyVersion)>, StoreError> {
        let mut items = self
            .client
            .scan()
            .table_name(&self.tables.state)
            .consistent_read(true)
            .filter_expression("#sk = :policy")
            .expression_attribute_names("#sk", item::SK)
            .expression_attribute_values(":policy", item::text(POLICY))
            .into_paginator()
            .items()
            .send();
        let mut served = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(failed)?;
            served.push((item::read_cluster(&item)?, item::read_json(&item, item::BODY)?));
        }
        served.sort_by(|(a, _): &(ClusterName, PolicyVersion), (b, _)| a.cmp(b));
        Ok(served)
    }

    /// The cluster's policies, the newest first, at most `limit`.
    pub async fn policy_history(
        &self,
        cluster: &ClusterName,
        limit: usize,
    ) -> Result<Vec<PolicyVersion>, StoreError> {
        let mut items = pages(self.of_cluster(cluster, HISTORY).scan_index_forward(false)).send();
        let mut history = Vec::new();
        while history.len() < limit
            && let Some(item) = items.next().await
        {
            history.push(item::read_json(&item.map_err(failed)?, item::BODY)?);
        }
        Ok(history)
    }

    /// Places a hold. DynamoDB deletes it some time after its end.
    pub async fn place_hold(&self, cluster: &ClusterName, hold: &Hold) -> Result<String, StoreError> {
        let body = item::json(hold)?;
        let id = hold_id(body.as_s().map_or("", String::as_str));
        let mut item = item::cluster_key(cluster, &format!("{HOLD}{id}"));
        item.insert(item::BODY.to_owned(), body);
        item.insert(item::EXPIRES.to_owned(), item::expires(hold.until));
        let request = self.client.put_item().table_name(&self.tables.state).set_item(Some(item));
        request.send().await.map_err(failed)?;
        Ok(id)
    }

    /// Releases a hold. Returns it, if it existed.
    pub async fn release_hold(&self, cluster: &ClusterName, id: &str) -> Result<Option<Hold>, StoreError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.tables.state)
            .set_key(Some(item::cluster_key(cluster, &format!("{HOLD}{id}"))))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllOld);
        let released = request.send().await.map_err(failed)?.attributes;
        released.map(|item| item::read_json(&item, item::BODY)).transpose()
    }

    /// The cluster's holds with their IDs, read consistently, so that a hold is effective at once.
    pub async fn placed_holds(&self, cluster: &ClusterName) -> Result<Vec<PlacedHold>, StoreError> {
        let placed = |item: &Item| {
            let id = item::read_text(item, item::SK)?.trim_start_matches(HOLD).to_owned();
            Ok(PlacedHold { id, hold: item::read_json(item, item::BODY)? })
        };
        all(self.of_cluster(cluster, HOLD)).await?.iter().map(placed).collect()
    }

    fn of_cluster(
        &self,
        cluster: &ClusterName,
        prefix: &str,
    ) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.tables.state)
            .consistent_read(true)
            .key_condition_expression("#pk = :pk AND begins_with(#sk, :prefix)")
            .expression_attribute_names("#pk", item::PK)
            .expression_attribute_names("#sk", item::SK)
            .expression_attribute_values(":pk", item::text(item::cluster_partition(cluster)))
            .expression_attribute_values(":prefix", item::text(prefix))
    }
}

/// The ID of a hold, short enough to type.
fn hold_id(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
