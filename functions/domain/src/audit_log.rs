//! The audit log: a record of each decision and call, in the format of CloudTrail's events, and its comparison with
//! them.
//!
//! A record has CloudTrail's names, casing and formats for everything that both know, so that they are compared field
//! by field, and can be read with the same tools. What CloudTrail cannot know (why we called) is in the block
//! `nodemend`. What we cannot know is left out: `sourceIPAddress` (a function behind NAT does not see it),
//! `tlsDetails`, `sessionContext`, `accessKeyId`.
//!
//! Records are only added. Those of one instance form a chain: each has the SHA-256 of the line before it.

mod author;
mod call;
mod chain;
mod compare;
mod event;
mod record;
mod time;
mod verify;

#[cfg(test)]
mod tests;

pub use self::{
    author::Author,
    call::{Activity, ApiCall, CallAnswer, CallOutcome, Caller},
    chain::{AuditEntry, BrokenChain, Chain, GENESIS, sha256, verify_chain},
    compare::{ComparisonOutcome, Difference, NEVER_COMPARED, compare},
    event::{CloudTrailEvent, SessionContext, SessionIssuer, UserIdentity},
    record::{
        About, ActivityElement, DoneElement, GuardNote, Identity, Item, Items, Nodemend, Record, RecordStep,
        RequestParameters, ResponseElements,
    },
    verify::{RecordedCall, Verified, verify},
};

/// The maximum length in bytes of a CloudTrail event: EventBridge's limit is 256 KB.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// The maximum length in bytes of one of our records: CloudWatch Logs' limit for an event is 1 MB.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Why a text is not a valid record or CloudTrail event.
#[derive(Debug, thiserror::Error)]
pub enum AuditLogError {
    /// It is longer than its maximum.
    #[error("failed to read an audit record: {bytes} bytes, more than {max}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The maximum length in bytes.
        max: usize,
    },
    /// It is not JSON, or a field is missing or has another type.
    #[error("failed to read an audit record")]
    Malformed(#[from] serde_json::Error),
    /// It has another major version, whose fields can have another meaning.
    #[error("failed to read an audit record: eventVersion {found:?} is not 1.x")]
    Version {
        /// The value of `eventVersion`, shortened to 20 characters.
        found: String,
    },
}

fn bounded(text: &str, max: usize) -> Result<&str, AuditLogError> {
    if text.len() > max {
        return Err(AuditLogError::TooLong { bytes: text.len(), max });
    }
    Ok(text)
}
