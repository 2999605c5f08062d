//! Converts cases, groups and records to items and back: keys, attributes, and index attributes.
//!
//! - The content of an item is one JSON attribute. The other attributes are for conditions and indexes.
//! - The key attribute of an index is present only while the item belongs in that index.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::AuditEntry,
    case::{Case, UnhealthyReason},
    group::GroupState,
    guard::UnhealthyNode,
    ident::{ClusterName, GroupName, InstanceId, NodeName, Zone},
    timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use nodemend_ports::{
    cause::Cause,
    store::{CaseKey, StoreError},
};

/// An item, or the key of one.
pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) const PK: &str = "pk";
pub(super) const SK: &str = "sk";
pub(super) const BODY: &str = "body";
pub(super) const VERSION: &str = "version";
/// The number of records in a case's audit log.
pub(super) const RECORDS: &str = "records";
pub(super) const NODE: &str = "node";
/// When DynamoDB may delete the item, in seconds, as time to live requires.
pub(super) const EXPIRES: &str = "expires";
/// The index by due time.
pub(super) const DUE_INDEX: &str = "due";
pub(super) const DUE_SHARD: &str = "dueShard";
pub(super) const DUE: &str = "due";
/// The index of unhealthy nodes by cluster.
pub(super) const UNHEALTHY_INDEX: &str = "unhealthy";
pub(super) const UNHEALTHY_IN: &str = "unhealthyIn";
pub(super) const UNHEALTHY: &str = "unhealthy";
/// The instances of a node name, and the newest of them.
pub(super) const INSTANCES: &str = "instances";
pub(super) const NEWEST: &str = "newest";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const CASE: &str = "case";
pub(super) const LINE: &str = "line";
pub(super) const REQUEST_ID: &str = "requestId";
pub(super) const OF: &str = "of";
pub(super) const SEQUENCE: &str = "sequence";

/// The number of partitions of the due index: one accepts 1,000 writes per second.
pub(super) const DUE_SHARDS: u32 = 8;
/// How long a closed case and an ended hold are kept. Longer than CloudWatch Logs accepts late events (14 days): a case
/// that was created again without its past could not continue its audit log.
const RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A node name has a few instances a year; only one of the newest is ever needed.
const MAX_INSTANCES_OF_NAME: usize = 32;
/// DynamoDB's keys have at most 2,048 bytes, AWS's request IDs 36.
const MAX_REQUEST_ID: usize = 1_024;

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn key(pk: String, sk: AttributeValue) -> Item {
    HashMap::from([(PK.to_owned(), text(pk)), (SK.to_owned(), sk)])
}

/// A case's partition key, in both tables.
pub(super) fn case_partition(key: &CaseKey) -> String {
    // Neither a cluster's name nor an instance ID can contain the separator.
    format!("{}{}", case_prefix(&key.cluster), key.instance_id)
}

/// The prefix of the partition keys of a cluster's cases.
pub(super) fn case_prefix(cluster: &ClusterName) -> String {
    format!("case#{cluster}#")
}

fn parse_case_partition(partition: &str) -> Option<CaseKey> {
    let (cluster, instance_id) = partition.strip_prefix("case#")?.split_once('#')?;
    let (cluster, instance_id) = (ClusterName::new(cluster).ok()?, InstanceId::new(instance_id).ok()?);
    Some(CaseKey { cluster, instance_id })
}

pub(super) fn case_key(case: &CaseKey) -> Item {
    key(case_partition(case), text("case"))
}

pub(super) fn group_key(cluster: &ClusterName, name: &GroupName) -> Item {
    // A group's name can contain the separator, so it comes last.
    key(format!("group#{cluster}#{name}"), text("group"))
}

pub(super) fn node_key(cluster: &ClusterName, node: &NodeName) -> Item {
    key(format!("node#{cluster}#{node}"), text("node"))
}

pub(super) fn instance_key(instance_id: &InstanceId) -> Item {
    key(format!("instance#{instance_id}"), text("instance"))
}

pub(super) fn cluster_partition(cluster: &ClusterName) -> String {
    format!("cluster#{cluster}")
}

/// The cluster of a partition of policies and holds.
pub(super) fn read_cluster(item: &Item) -> Result<ClusterName, StoreError> {
    let name = read_text(item, PK)?.strip_prefix("cluster#").and_then(|name| ClusterName::new(name).ok());
    name.ok_or_else(|| broken(item, PK))
}

pub(super) fn cluster_key(cluster: &ClusterName, sk: &str) -> Item {
    key(cluster_partition(cluster), text(sk))
}

/// What is known of a cluster's sources. Not in the cluster's partition, whose items no function may write.
pub(super) fn sources_key(cluster: &ClusterName) -> Item {
    key(format!("sources#{cluster}"), text("sources"))
}

/// The lease of the waiting run.
pub(super) fn run_key() -> Item {
    key("run".to_owned(), text("lease"))
}

pub(super) fn record_key(case: &CaseKey, sequence: u64) -> Item {
    key(case_partition(case), number(sequence))
}

/// The key of the pointer to a call's record, or `None` if the ID is longer than AWS's.
pub(super) fn request_key(request_id: &str) -> Option<Item> {
    (request_id.len() <= MAX_REQUEST_ID).then(|| key(format!("request#{request_id}"), number(0)))
}

/// The shard of the due index: instance IDs are random, and so is their last digit.
pub(super) fn due_shard(instance_id: &InstanceId) -> String {
    let digit = instance_id.as_str().chars().last().and_then(|digit| digit.to_digit(16));
    (digit.unwrap_or(0) % DUE_SHARDS).to_string()
}

/// A due time in the index: of constant length, so that the order of the strings is the order of the times.
pub(super) fn due_text(due: Timestamp) -> String {
    timestamp::millis(due)
}

pub(super) fn expires(at: Timestamp) -> AttributeValue {
    number(at.saturating_add(RETENTION).unwrap_or(Timestamp::MAX).as_second())
}

/// The content of the index of unhealthy nodes.
#[derive(Serialize, Deserialize)]
struct UnhealthyBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    unhealthy_reason: UnhealthyReason,
}

/// The item of a case, with its next version.
pub(super) fn case_item(case: &Case) -> Result<Item, StoreError> {
    let written = case.next_version();
    let mut item = case_key(&CaseKey::of(case));
    let mut set = |name: &str, value| item.insert(name.to_owned(), value);
    set(BODY, json(&written)?);
    set(VERSION, number(written.version()));
    set(RECORDS, number(case.audit_log().sequence()));
    if let Some(node) = case.node() {
        set(NODE, text(node.as_str()));
    }
    if let Some(due) = case.due() {
        set(DUE_SHARD, text(due_shard(case.instance_id())));
        set(DUE, text(due_text(due)));
    }
    if let Some(unhealthy_reason) = case.unhealthy_reason() {
        let body = UnhealthyBody { zone: case.zone().cloned(), unhealthy_reason: unhealthy_reason.clone() };
        set(UNHEALTHY_IN, text(case.cluster().as_str()));
        set(UNHEALTHY, json(&body)?);
    }
    if let Some(over) = over(case) {
        set(EXPIRES, over);
    }
    Ok(item)
}

/// When a case may be deleted: some time after it was closed, if it need not be evaluated again.
pub(super) fn over(case: &Case) -> Option<AttributeValue> {
    case.closed().filter(|_| case.due().is_none()).map(|closed| expires(closed.at))
}

pub(super) fn group_item(group: &GroupState) -> Result<Item, StoreError> {
    let written = group.next_version();
    let mut item = group_key(group.cluster(), group.name());
    item.insert(BODY.to_owned(), json(&written)?);
    item.insert(VERSION.to_owned(), number(written.version()));
    Ok(item)
}

/// The instances of a name, the newest last.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) instances: Vec<InstanceId>,
    pub(super) version: u64,
}

impl Named {
    pub(super) fn read(item: &Item) -> Result<Self, StoreError> {
        let instances = match item.get(INSTANCES) {
            Some(AttributeValue::L(instances)) => instances,
            _ => return Err(broken(item, INSTANCES)),
        };
        let read = |instance: &AttributeValue| instance.as_s().ok().and_then(|id| InstanceId::new(id).ok());
        let instances = instances.iter().map(read).collect::<Option<_>>();
        Ok(Self {
            instances: instances.ok_or_else(|| broken(item, INSTANCES))?,
            version: read_number(item, VERSION)?,
        })
    }

    /// The item with one more instance, which has the name now. It does not expire, because the name is in use. An agent can
    /// claim any name: an instance that the control plane has not named comes first, and takes the place of no other one.
    pub(super) fn item_with(&self, case: &Case, node: &NodeName) -> Item {
        let others = self.instances.iter().filter(|known| *known != case.instance_id());
        let mut instances: Vec<_> = others.map(|instance| text(instance.as_str())).collect();
        let index = if case.is_named_by_the_control_plane() { instances.len() } else { 0 };
        instances.insert(index, text(case.instance_id().as_str()));
        instances.drain(..instances.len().saturating_sub(MAX_INSTANCES_OF_NAME));
        let newest = instances[instances.len() - 1].clone();
        let mut item = node_key(case.cluster(), node);
        item.insert(INSTANCES.to_owned(), AttributeValue::L(instances));
        item.insert(NEWEST.to_owned(), newest);
        item.insert(VERSION.to_owned(), number(self.version + 1));
        item
    }
}

pub(super) fn instance_item(case: &Case) -> Item {
    let mut item = instance_key(case.instance_id());
    item.insert(CLUSTER.to_owned(), text(case.cluster().as_str()));
    item
}

pub(super) fn record_item(case: &CaseKey, entry: &AuditEntry) -> Item {
    let mut item = record_key(case, entry.sequence);
    item.insert(CASE.to_owned(), text(&entry.case));
    item.insert(LINE.to_owned(), text(&entry.line));
    if let Some(request_id) = &entry.request_id {
        item.insert(REQUEST_ID.to_owned(), text(request_id));
    }
    item
}

/// The pointer from a request ID to the record of its call. It is an item and not an index, because an index lags, and
/// a CloudTrail event without a known request ID counts as a foreign call.
pub(super) fn request_item(case: &CaseKey, entry: &AuditEntry) -> Option<Item> {
    let mut item = request_key(entry.request_id.as_deref()?)?;
    item.insert(OF.to_owned(), text(case_partition(case)));
    item.insert(SEQUENCE.to_owned(), number(entry.sequence));
    Some(item)
}

pub(super) fn read_entry(item: &Item) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        sequence: read_number(item, SK)?,
        case: read_text(item, CASE)?.to_owned(),
        line: read_text(item, LINE)?.to_owned(),
        request_id: item.get(REQUEST_ID).and_then(|id| id.as_s().ok()).cloned(),
    })
}

/// The case of an item, by its partition key or an attribute that has one.
pub(super) fn read_case_key(item: &Item, name: &str) -> Result<CaseKey, StoreError> {
    parse_case_partition(read_text(item, name)?).ok_or_else(|| broken(item, name))
}

pub(super) fn read_unhealthy(item: &Item) -> Result<UnhealthyNode, StoreError> {
    let instance_id = read_case_key(item, PK)?.instance_id;
    let UnhealthyBody { zone, unhealthy_reason } = read_json(item, UNHEALTHY)?;
    Ok(UnhealthyNode { instance_id, zone, unhealthy_reason })
}

pub(super) fn read_text<'a>(item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    let value = item.get(name).and_then(|value| value.as_s().ok());
    value.map(String::as_str).ok_or_else(|| broken(item, name))
}

pub(super) fn read_number(item: &Item, name: &str) -> Result<u64, StoreError> {
    let value = item.get(name).and_then(|value| value.as_n().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| broken(item, name))
}

pub(super) fn read_json<T: DeserializeOwned>(item: &Item, name: &str) -> Result<T, StoreError> {
    serde_json::from_str(read_text(item, name)?).map_err(|source| {
        let error = AttributeError { item: label(item), attribute: name.to_owned(), source };
        StoreError::Broken(Cause::new(error))
    })
}

/// An attribute whose JSON cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{item}: {attribute}")]
struct AttributeError {
    item: String,
    attribute: String,
    source: serde_json::Error,
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<AttributeValue, StoreError> {
    let json = serde_json::to_string(value).map_err(|error| StoreError::Broken(Cause::new(error)))?;
    Ok(text(json))
}

fn broken(item: &Item, name: &str) -> StoreError {
    StoreError::Broken(format!("{}: {name} is missing or malformed", label(item)).into())
}

/// An item's key, for messages.
pub(super) fn label(item: &Item) -> String {
    let part = |name: &str| match item.get(name) {
        Some(AttributeValue::S(value) | AttributeValue::N(value)) => value.clone(),
        _ => "?".to_owned(),
    };
    format!("{} {}", part(PK), part(SK))
}

/// The size of an item as DynamoDB counts it, rounded up: UTF-8 bytes of names and values.
pub(super) fn size(item: &Item) -> usize {
    // A number has one byte for two digits, and one more; its text is at least as long.
    fn of(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(value) => value.len(),
            AttributeValue::N(value) => value.len() + 1,
            AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + of(value)).sum::<usize>(),
            _ => 1,
        }
    }
    item.iter().map(|(name, value)| name.len() + of(value)).sum()
}
