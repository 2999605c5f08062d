//! Encodes and decodes the tracker's saved state, version 1.
//!
//! The agent writes it for its own next start. State that it cannot decode is discarded with a log line.

use nodemend_domain::ident::BootId;
use serde::{Deserialize, Serialize};

use super::TrackerState;

const VERSION: u64 = 1;
/// Sixteen conditions with the maximum number of findings are smaller.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The tracker's state with its boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) boot_id: BootId,
    pub(super) state: TrackerState,
}

/// Why a saved state cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0} bytes exceed the limit of {MAX_BYTES}")]
    TooLong(usize),
    /// Not valid JSON of this structure.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Written by another version of the agent.
    #[error("v: version {0} is not {VERSION}")]
    Version(u64),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EncodedSnapshot<'a> {
    v: u64,
    boot_id: &'a BootId,
    state: &'a TrackerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DecodedSnapshot {
    boot_id: BootId,
    state: TrackerState,
}

impl Snapshot {
    /// Decodes a saved state.
    pub fn decode(text: &str) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct SnapshotVersion {
            v: u64,
        }
        if text.len() > MAX_BYTES {
            return Err(SnapshotError::TooLong(text.len()));
        }
        let malformed = |error: serde_json::Error| SnapshotError::Malformed(error.to_string());
        let SnapshotVersion { v } = serde_json::from_str(text).map_err(malformed)?;
        if v != VERSION {
            return Err(SnapshotError::Version(v));
        }
        let decoded: DecodedSnapshot = serde_json::from_str(text).map_err(malformed)?;
        Ok(Self { boot_id: decoded.boot_id, state: decoded.state })
    }

    pub fn encode(&self) -> String {
        let encoded = EncodedSnapshot { v: VERSION, boot_id: &self.boot_id, state: &self.state };
        serde_json::to_string(&encoded).unwrap_or_default()
    }
}
