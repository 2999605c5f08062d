//! The port to the trail: append-only, written with the case it tells of, read by whoever checks.

use std::future::Future;

use nodemend_domain::audit_log::builder::AuditEntry;

use crate::store::{CaseKey, StoreError};

/// The trail, to read. It is written through [`Store::commit`](crate::store::Store::commit) alone, so that no
/// step is without its record and no record without its step.
pub trait AuditLog: Send + Sync {
    /// A case's records, oldest first.
    fn chain(&self, key: &CaseKey) -> impl Future<Output = Result<Vec<AuditEntry>, StoreError>> + Send;

    /// The record of the call that AWS answered under this request id.
    fn call(
        &self,
        request_id: &str,
    ) -> impl Future<Output = Result<Option<(CaseKey, AuditEntry)>, StoreError>> + Send;
}
