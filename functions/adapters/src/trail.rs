//! The port to the trail: append-only, written with the case it tells of, read by whoever checks.

use std::future::Future;

use nodemend_domain::ledger::Entry;

use crate::store::{CaseKey, StoreError};

/// The trail, to read. It is written through [`Store::commit`](crate::store::Store::commit) alone, so that no
/// step is without its record and no record without its step.
pub trait Trail: Send + Sync {
    /// A case's records, oldest first.
    fn chain(&self, key: &CaseKey) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send;

    /// The record of the call that AWS answered under this request id.
    fn call(
        &self,
        request_id: &str,
    ) -> impl Future<Output = Result<Option<(CaseKey, Entry)>, StoreError>> + Send;
}
