//! The port that reads the audit log.
//!
//! The log is append-only. [`Store::commit`](crate::store::Store::commit) alone writes it, together with the case, so
//! that there is no step without its record and no record without its step.

use std::future::Future;

use nodemend_domain::audit_log::AuditEntry;

use crate::store::{CaseKey, StoreError};

/// Reads audit logs.
pub trait AuditLog: Send + Sync {
    /// A case's records, oldest first.
    fn chain(&self, key: &CaseKey) -> impl Future<Output = Result<Vec<AuditEntry>, StoreError>> + Send;

    /// The record of the call that AWS answered with this request ID.
    fn call(
        &self,
        request_id: &str,
    ) -> impl Future<Output = Result<Option<(CaseKey, AuditEntry)>, StoreError>> + Send;
}
