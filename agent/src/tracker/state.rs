//! Turns what a tracker remembers into text, and back. Version 1.
//!
//! It is written by this agent for its own next start: text that it can't read is as good as none, but said.

use nodemend_domain::ident::BootId;
use serde::{Deserialize, Serialize};

use super::Memory;

const VERSION: u64 = 1;
/// Sixteen conditions with all the findings they may have take less.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What a tracker remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(super) boot_id: BootId,
    pub(super) memory: Memory,
}

/// Why a state can't be gone on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Longer than any that was written.
    #[error("{0} bytes are more than a state's {MAX_BYTES}")]
    TooLong(usize),
    /// Not what was written.
    #[error("not a state: {0}")]
    Malformed(String),
    /// Another agent's.
    #[error("v: version {0} is not {VERSION}")]
    Version(u64),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    v: u64,
    boot_id: &'a BootId,
    memory: &'a Memory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    boot_id: BootId,
    memory: Memory,
}

impl State {
    /// Reads a state.
    pub fn decode(text: &str) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        if text.len() > MAX_BYTES {
            return Err(StateError::TooLong(text.len()));
        }
        let malformed = |error: serde_json::Error| StateError::Malformed(error.to_string());
        let Version { v } = serde_json::from_str(text).map_err(malformed)?;
        if v != VERSION {
            return Err(StateError::Version(v));
        }
        let wire: Wire = serde_json::from_str(text).map_err(malformed)?;
        Ok(Self { boot_id: wire.boot_id, memory: wire.memory })
    }

    /// Writes a state.
    pub fn encode(&self) -> String {
        let written = Written { v: VERSION, boot_id: &self.boot_id, memory: &self.memory };
        serde_json::to_string(&written).unwrap_or_default()
    }
}
