//! Turns a call of ours into a record in CloudTrail's own shape, and compares it with CloudTrail's.
//!
//! The record uses CloudTrail's names, casing and formats for everything that both sides know, so that the
//! comparison is field by field and a reader who knows one trail can read the other. What CloudTrail cannot
//! know (why we called) is in the block `nodemend`. What we cannot know is left out rather than guessed:
//! `sourceIPAddress` (a function behind NAT does not see it), `tlsDetails`, `sessionContext`, `accessKeyId`.
//!
//! The records of one case form a chain: each holds the SHA-256 of the line before it.

pub mod builder;
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
    call::{Activity, ApiCall, CallAnswer, CallOutcome, Caller},
    chain::{AuditEntry, BrokenChain, Chain, GENESIS, sha256, verify_chain},
    compare::{Difference, NEVER_COMPARED, Verdict, compare},
    event::{CloudTrailEvent, SessionContext, SessionIssuer, UserIdentity},
    record::{
        About, ActivityElement, DoneElement, GuardNote, Identity, Item, Items, Nodemend, Record, RecordStep,
        RequestParameters, ResponseElements,
    },
    verify::{RecordedCall, Verified, verify},
};

/// The longest CloudTrail event that is read: EventBridge carries none longer.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// The longest record of ours that is read: CloudWatch Logs takes no longer event.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Why a text is no record.
#[derive(Debug, thiserror::Error)]
pub enum AuditLogError {
    /// Longer than any genuine one.
    #[error("failed to read a trail record: {bytes} bytes, more than {max}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// Not JSON, or a field is missing or of another type.
    #[error("failed to read a trail record")]
    Malformed(#[from] serde_json::Error),
    /// A major version whose fields may mean something else.
    #[error("failed to read a trail record: eventVersion {found:?} is not 1.x")]
    Version {
        /// What `eventVersion` says, cut to 20 characters.
        found: String,
    },
}

fn bounded(text: &str, max: usize) -> Result<&str, AuditLogError> {
    if text.len() > max {
        return Err(AuditLogError::TooLong { bytes: text.len(), max });
    }
    Ok(text)
}
