//! Lists the cases that have an audit log. Only operators use it: it scans the whole table.

use std::collections::BTreeSet;

use nodemend_domain::ident::ClusterName;

use super::{DynamoStore, answer::failed, item};
use nodemend_ports::store::{CaseKey, StoreError};

impl DynamoStore {
    /// All cases of a cluster that have an audit log: those with a first record.
    pub async fn audit_logs(&self, cluster: &ClusterName) -> Result<BTreeSet<CaseKey>, StoreError> {
        let mut items = self
            .client
            .scan()
            .table_name(&self.tables.audit)
            .consistent_read(true)
            .filter_expression("begins_with(#pk, :prefix) AND #sk = :first")
            .projection_expression("#pk")
            .expression_attribute_names("#pk", item::PK)
            .expression_attribute_names("#sk", item::SK)
            .expression_attribute_values(":prefix", item::text(item::case_prefix(cluster)))
            .expression_attribute_values(":first", item::number(1))
            .into_paginator()
            .items()
            .send();
        let mut cases = BTreeSet::new();
        while let Some(item) = items.next().await {
            cases.insert(item::read_case_key(&item.map_err(failed)?, item::PK)?);
        }
        Ok(cases)
    }
}
