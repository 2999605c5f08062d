//! Writes a change as one transaction, on condition of the versions that were read.
//!
//! - A case that changes alone, as with each heartbeat, is one conditional put: half the price and half the time (ADR
//!   19). Such a put has no idempotency token: if its answer is lost, the retry fails on the first attempt's version,
//!   and counts as lost. This is safe, because a loser reads again. Everything that is acted on (a claim, a call, a
//!   record) is written with its group or its audit log, and so in a transaction.
//! - The SDK gives each transaction its own token and repeats it in retries, so that a retry after a lost answer is not
//!   applied twice and still counts as won. The token does not depend on the content: otherwise two writers with the
//!   same decision on the same version would both win, and both act.
//! - If all attempts are unanswered, the write may have taken effect: [`StoreError::Unavailable`]. Callers read again
//!   before they act: after an unanswered write there is no call, the claim's lease ends, and the next run decides on
//!   the stored state.

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{put_item::PutItemError, transact_write_items::TransactWriteItemsError},
    types::{
        AttributeValue, CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
        builders::PutBuilder,
    },
};
use nodemend_domain::{
    case::Case,
    group::GroupState,
    ident::{ClusterName, NodeName},
};

use super::{
    DynamoStore,
    answer::{Cancelled, cancelled, failed},
    item::{self, Item, Named},
};
use nodemend_ports::{
    cause::Cause,
    store::{CaseKey, CaseWrite, Commit, StoreError},
};

/// The limits of one transaction, and of one item.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const MAX_ITEMS: usize = 100;
const MAX_TRANSACTION_BYTES: usize = 4 * 1024 * 1024;
const MAX_ITEM_BYTES: usize = 400 * 1024;

/// The result of one transaction.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Won,
    Lost,
    /// The case has the expected version, but is not stored under its node's name yet.
    Unnamed,
}

impl DynamoStore {
    pub(super) async fn write(&self, change: &CaseWrite<'_>) -> Result<Commit, StoreError> {
        if !continues_audit_log(change) {
            return Ok(Commit::Lost);
        }
        let case = change.case;
        // Most writes do not change the name and need not write it: its presence is one more condition.
        let first = match (case.node(), case.version()) {
            (Some(_), 0) => Written::Unnamed,
            _ => self.transact(change, None).await?,
        };
        let written = match (first, case.node()) {
            (Written::Unnamed, Some(node)) => {
                let named = self.named(case.cluster(), node).await?;
                self.transact(change, Some((&named, node))).await?
            }
            (first, _) => first,
        };
        if written != Written::Won {
            return Ok(Commit::Lost);
        }
        if let Some(over) = item::over(case) {
            self.let_expire(case, over).await;
        }
        Ok(Commit::Won)
    }

    /// Writes a group alone: a transaction of one item, whose retries are not applied twice.
    pub(super) async fn write_group(&self, group: &GroupState) -> Result<Commit, StoreError> {
        let mut puts = Transaction::default();
        puts.add(at_version(put(self.tables.state.as_str()), group.version()), item::group_item(group)?)?;
        Ok(match self.send(puts).await? {
            Answered::Won => Commit::Won,
            Answered::Raced(..) => Commit::Lost,
        })
    }

    /// The instances of a node name.
    pub(super) async fn named(&self, cluster: &ClusterName, node: &NodeName) -> Result<Named, StoreError> {
        let item = self.get(item::node_key(cluster, node)).await?;
        item.map_or_else(|| Ok(Named::default()), |item| Named::read(&item))
    }

    async fn transact(
        &self,
        change: &CaseWrite<'_>,
        naming: Option<(&Named, &NodeName)>,
    ) -> Result<Written, StoreError> {
        let case = change.case;
        let (state, audit) = (self.tables.state.as_str(), self.tables.audit.as_str());
        if case.version() > 0 && naming.is_none() && change.group.is_none() && change.entries.is_empty() {
            return self.put_alone(change, case_put(change, false, put(state))).await;
        }
        let mut puts = Transaction::default();
        puts.add(case_put(change, naming.is_some(), put(state)), item::case_item(case)?)?;
        if case.version() == 0 {
            puts.add(put(state), item::instance_item(case))?;
        }
        if let Some((named, node)) = naming {
            puts.add(at_version(put(state), named.version), named.item_with(case, node))?;
        }
        if let Some(group) = change.group {
            puts.add(at_version(put(state), group.version()), item::group_item(group)?)?;
        }
        let key = CaseKey::of(case);
        for entry in change.entries {
            puts.add(absent(put(audit)), item::record_item(&key, entry))?;
            if let Some(pointer) = item::request_item(&key, entry) {
                puts.add(put(audit), pointer)?;
            }
        }
        match self.send(puts).await? {
            Answered::Won => Ok(Written::Won),
            Answered::Raced(raced, reasons) => Ok(match reasons.first() {
                Some(reason) if raced == [0] && is_at(reason.item(), change) => Written::Unnamed,
                _ => Written::Lost,
            }),
        }
    }

    async fn put_alone(&self, change: &CaseWrite<'_>, put: PutBuilder) -> Result<Written, StoreError> {
        let put = sized(put, item::case_item(change.case)?)?;
        let sent = self
            .client
            .put_item()
            .table_name(put.table_name)
            .set_item(Some(put.item))
            .set_condition_expression(put.condition_expression)
            .set_expression_attribute_names(put.expression_attribute_names)
            .set_expression_attribute_values(put.expression_attribute_values)
            .set_return_values_on_condition_check_failure(put.return_values_on_condition_check_failure)
            .send()
            .await;
        let error = match sent {
            Ok(_) => return Ok(Written::Won),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                Ok(if is_at(failed.item(), change) { Written::Unnamed } else { Written::Lost })
            }
            _ => Err(failed(error)),
        }
    }

    pub(super) async fn send(&self, transaction: Transaction) -> Result<Answered, StoreError> {
        let items = transaction.items()?;
        let sent = self.client.transact_write_items().set_transact_items(Some(items)).send().await;
        let error = match sent {
            Ok(_) => return Ok(Answered::Won),
            Err(error) => error,
        };
        let SdkError::ServiceError(service) = &error else {
            return Err(failed(error));
        };
        let TransactWriteItemsError::TransactionCanceledException(cancellation) = service.err() else {
            return Err(failed(error));
        };
        let reasons = cancellation.cancellation_reasons();
        match cancelled(reasons) {
            Cancelled::Raced(raced) => Ok(Answered::Raced(raced, reasons.to_vec())),
            Cancelled::Retryable(why) => Err(StoreError::Unavailable(why.into())),
            Cancelled::Permanent(why) => Err(StoreError::Broken(why.into())),
        }
    }

    /// Lets the items that point to a closed case expire with it. If that fails, a stale item remains, which does no
    /// harm.
    async fn let_expire(&self, case: &Case, over: AttributeValue) {
        let update = |key: Item, name: &str, is: &str| {
            self.client
                .update_item()
                .table_name(&self.tables.state)
                .set_key(Some(key))
                .update_expression("SET #expires = :expires")
                .condition_expression("#name = :is")
                .expression_attribute_names("#expires", item::EXPIRES)
                .expression_attribute_names("#name", name)
                .expression_attribute_values(":expires", over.clone())
                .expression_attribute_values(":is", item::text(is))
                .send()
        };
        let instance = item::instance_key(case.instance_id());
        let _ = update(instance, item::CLUSTER, case.cluster().as_str()).await;
        if let Some(node) = case.node() {
            // A name that another instance has by now stays.
            let name = item::node_key(case.cluster(), node);
            let _ = update(name, item::NEWEST, case.instance_id().as_str()).await;
        }
    }
}

/// The answer to a transaction.
#[derive(Debug)]
pub(super) enum Answered {
    Won,
    /// A lost race: the positions of the items that lost, and the reasons of all items.
    Raced(Vec<usize>, Vec<CancellationReason>),
}

/// Items to write in one transaction, within DynamoDB's limits.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    puts: Vec<TransactWriteItem>,
    bytes: usize,
}

impl Transaction {
    pub(super) fn add(&mut self, put: PutBuilder, item: Item) -> Result<(), StoreError> {
        self.bytes += item::size(&item);
        let put = sized(put, item)?;
        self.puts.push(TransactWriteItem::builder().put(put).build());
        Ok(())
    }

    fn items(self) -> Result<Vec<TransactWriteItem>, StoreError> {
        let (items, bytes) = (self.puts.len(), self.bytes);
        if items > MAX_ITEMS || bytes > MAX_TRANSACTION_BYTES {
            let why = format!(
                "{items} items of {bytes} bytes are more than a transaction's {MAX_ITEMS} of {MAX_TRANSACTION_BYTES}"
            );
            return Err(StoreError::Broken(why.into()));
        }
        Ok(self.puts)
    }
}

/// A put of an item, within DynamoDB's limit.
fn sized(put: PutBuilder, item: Item) -> Result<Put, StoreError> {
    let size = item::size(&item);
    if size > MAX_ITEM_BYTES {
        let label = item::label(&item);
        let why = format!("{label}: {size} bytes are more than an item's {MAX_ITEM_BYTES}");
        return Err(StoreError::Broken(why.into()));
    }
    put.set_item(Some(item)).build().map_err(|error| StoreError::Broken(Cause::new(error)))
}

pub(super) fn put(table: &str) -> PutBuilder {
    Put::builder().table_name(table)
}

/// On condition that there is no such item.
pub(super) fn absent(put: PutBuilder) -> PutBuilder {
    put.condition_expression("attribute_not_exists(#pk)").expression_attribute_names("#pk", item::PK)
}

/// On condition of the version that was read. 0 means that there was no item.
pub(super) fn at_version(put: PutBuilder, version: u64) -> PutBuilder {
    if version == 0 {
        return absent(put);
    }
    put.condition_expression("#version = :version")
        .expression_attribute_names("#version", item::VERSION)
        .expression_attribute_values(":version", item::number(version))
}

/// On condition of the version that was read, and of the number of audit records at that time.
fn case_put(change: &CaseWrite<'_>, naming: bool, put: PutBuilder) -> PutBuilder {
    let case = change.case;
    if case.version() == 0 {
        return absent(put);
    }
    let put = at_version(put, case.version())
        .expression_attribute_names("#records", item::RECORDS)
        .expression_attribute_values(":records", item::number(records_before(change)));
    let node = case.node().filter(|_| !naming);
    let Some(node) = node else {
        return put.condition_expression("#version = :version AND #records = :records");
    };
    put.condition_expression("#version = :version AND #records = :records AND #node = :node")
        .expression_attribute_names("#node", item::NODE)
        .expression_attribute_values(":node", item::text(node.as_str()))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
}

/// Whether the case that failed the condition is the one that was read.
fn is_at(found: Option<&Item>, change: &CaseWrite<'_>) -> bool {
    let Some(found) = found else {
        return false;
    };
    change.case.node().is_some()
        && item::read_number(found, item::VERSION) == Ok(change.case.version())
        && item::read_number(found, item::RECORDS) == Ok(records_before(change))
}

fn records_before(change: &CaseWrite<'_>) -> u64 {
    change.case.audit_log().sequence().saturating_sub(change.entries.len() as u64)
}

/// Whether the records continue the case's audit log without a gap.
fn continues_audit_log(change: &CaseWrite<'_>) -> bool {
    let before = records_before(change);
    let in_order =
        change.entries.iter().zip(before + 1..).all(|(entry, sequence)| entry.sequence == sequence);
    let complete = change.case.audit_log().sequence() == before + change.entries.len() as u64;
    in_order && complete && (change.case.version() > 0 || before == 0)
}
