//! Turns the lines of one instance's trail into proof that none was altered, removed, added or moved.
//!
//! A chain proves itself only up to its last line: that the end was not cut off or altered shows when
//! [`Chain::sha256`] is compared with the head kept elsewhere (with the case).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What the first record of a case has for its predecessor.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 of a line's bytes, without its line break, in hexadecimal.
pub fn sha256(line: &str) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    Sha256::digest(line.as_bytes()).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Where a case's chain ends: all that a writer must keep to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Chain {
    sequence: u64,
    sha256: Cow<'static, str>,
}

impl Default for Chain {
    fn default() -> Self {
        Self { sequence: 0, sha256: Cow::Borrowed(GENESIS) }
    }
}

impl Chain {
    /// Before the first record.
    pub fn start() -> Self {
        Self::default()
    }

    /// The last record's sequence number, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What the next record's will be.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.saturating_add(1)
    }

    /// The last line's hash.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Goes one line further: a line that was just written to follow.
    pub fn append(&mut self, line: &str) {
        self.sequence = self.next_sequence();
        self.sha256 = sha256(line).into();
    }

    /// Goes one line further, or says why that line cannot be the next.
    pub fn follow(&mut self, line: &str) -> Result<(), BrokenChain> {
        self.link(line).map(drop)
    }

    fn link(&mut self, line: &str) -> Result<Link, BrokenChain> {
        let broken = |why| BrokenChain { sequence: self.next_sequence(), why };
        let Line { nodemend: link } =
            serde_json::from_str(line).map_err(|error| broken(format!("it is no record: {error}")))?;
        if link.sequence != self.next_sequence() {
            return Err(broken(format!("record {} stands here", link.sequence)));
        }
        if link.previous_sha256 != self.sha256 {
            return Err(broken("the record before it is not the one that it was written after".to_owned()));
        }
        self.sequence = link.sequence;
        self.sha256 = sha256(line).into();
        Ok(link)
    }
}

/// The first place where a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the trail is broken at record {sequence}: {why}")]
pub struct BrokenChain {
    /// The number of the record that should stand there.
    pub sequence: u64,
    /// What is wrong.
    pub why: String,
}

/// Reads an instance's lines from the first on, and returns where they end. A node that was cured and broke again
/// has a second case, `i-…#2`, whose records follow the first one's in the same chain.
pub fn verify_chain<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Result<Chain, BrokenChain> {
    let mut chain = Chain::start();
    let mut known: Option<String> = None;
    for line in lines {
        let sequence = chain.next_sequence();
        let link = chain.link(line.as_ref())?;
        let instance = link.case.split('#').next().unwrap_or_default().to_owned();
        if *known.get_or_insert_with(|| instance.clone()) != instance {
            return Err(BrokenChain { sequence, why: "it belongs to another case".to_owned() });
        }
    }
    Ok(chain)
}

/// The little of a record that the chain hangs on, so that records of a later version are verified too.
#[derive(Deserialize)]
struct Line {
    nodemend: Link,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    case: String,
    sequence: u64,
    previous_sha256: String,
}

/// One record of an audit log, as the bytes that the next record's hash covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number in the case's audit log, from 1.
    pub sequence: u64,
    /// The case's id.
    pub case: String,
    /// The record, one line of JSON.
    pub line: String,
    /// The AWS request that it records, if it records one.
    pub request_id: Option<String>,
}
