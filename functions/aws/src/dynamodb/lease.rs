//! The lease of the run that waits for this minute's deadlines.
//!
//! It saves cost, and nothing depends on it for correctness: two waiting runs are safe, because every write is
//! conditional.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use jiff::Timestamp;
use nodemend_domain::timestamp;

use super::{DynamoStore, answer::failed, item};
use nodemend_ports::store::StoreError;

const LEASE: &str = "lease";

impl DynamoStore {
    /// Acquires the lease until `until`. If another run holds it, returns the end of that lease, which is also how long
    /// a run that died can keep it.
    pub async fn lease_run(&self, now: Timestamp, until: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let mut lease = item::run_key();
        lease.insert(LEASE.to_owned(), item::text(timestamp::millis(until)));
        let put = self
            .client
            .put_item()
            .table_name(&self.tables.state)
            .set_item(Some(lease))
            .condition_expression("attribute_not_exists(#lease) OR #lease <= :now")
            .expression_attribute_names("#lease", LEASE)
            .expression_attribute_values(":now", item::text(timestamp::millis(now)))
            .send()
            .await;
        match put {
            Ok(_) => Ok(None),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                let other = self.get(item::run_key()).await?;
                let end = other.as_ref().and_then(|item| item::read_text(item, LEASE).ok()?.parse().ok());
                Ok(Some(end.unwrap_or(until)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Ends a lease that was acquired until `until`, if it is still held: its run no longer waits.
    pub async fn end_run(&self, until: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        if now >= until {
            return Ok(());
        }
        let mut ended = item::run_key();
        ended.insert(LEASE.to_owned(), item::text(timestamp::millis(now)));
        let put = self
            .client
            .put_item()
            .table_name(&self.tables.state)
            .set_item(Some(ended))
            .condition_expression("#lease = :mine")
            .expression_attribute_names("#lease", LEASE)
            .expression_attribute_values(":mine", item::text(timestamp::millis(until)))
            .send()
            .await;
        match put {
            Err(error)
                if !error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                Err(failed(error))
            }
            _ => Ok(()),
        }
    }
}
