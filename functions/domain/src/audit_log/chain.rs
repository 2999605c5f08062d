//! The hash chain of one instance's audit log. It shows if a line was altered, removed, added or moved.
//!
//! The chain alone does not show that its last lines were removed or altered: for that, [`Chain::sha256`] is compared
//! with the end that the case stores.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The previous hash in the first record of a chain.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The SHA-256 of a line's bytes without its line break, in lowercase hexadecimal.
pub fn sha256(line: &str) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    Sha256::digest(line.as_bytes()).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// The end of a chain: all that a writer needs to append to it.
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
    /// The chain before its first record.
    pub fn start() -> Self {
        Self::default()
    }

    /// The last record's sequence number, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The next record's sequence number.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.saturating_add(1)
    }

    /// The last line's hash, [`GENESIS`] before the first.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Appends a line that was just built to follow this end. It is not checked.
    pub fn append(&mut self, line: &str) {
        self.sequence = self.next_sequence();
        self.sha256 = sha256(line).into();
    }

    /// Appends a line after checking it.
    ///
    /// # Errors
    ///
    /// If the line is not the next record of this chain.
    pub fn follow(&mut self, line: &str) -> Result<(), BrokenChain> {
        self.link(line).map(drop)
    }

    fn link(&mut self, line: &str) -> Result<Link, BrokenChain> {
        let broken = |why| BrokenChain { sequence: self.next_sequence(), why };
        let Line { nodemend: link } =
            serde_json::from_str(line).map_err(|error| broken(format!("it is not a record: {error}")))?;
        if link.sequence != self.next_sequence() {
            return Err(broken(format!("record {} is in its place", link.sequence)));
        }
        if link.previous_sha256 != self.sha256 {
            return Err(broken("its hash of the previous record does not match".to_owned()));
        }
        self.sequence = link.sequence;
        self.sha256 = sha256(line).into();
        Ok(link)
    }
}

/// The first record at which a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at record {sequence}: {why}")]
pub struct BrokenChain {
    /// The sequence number that the record should have.
    pub sequence: u64,
    /// What is wrong with it, as one clause.
    pub why: String,
}

/// Checks the lines of an instance from the first on, and returns the end of their chain. A node that was repaired
/// twice has records of two repairs, `i-…#1` and `i-…#2`, in the same chain.
///
/// # Errors
///
/// The first record at which the chain is broken.
pub fn verify_chain<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Result<Chain, BrokenChain> {
    let mut chain = Chain::start();
    let mut known: Option<String> = None;
    for line in lines {
        let sequence = chain.next_sequence();
        let link = chain.link(line.as_ref())?;
        let instance = link.case.split('#').next().unwrap_or_default().to_owned();
        if *known.get_or_insert_with(|| instance.clone()) != instance {
            return Err(BrokenChain { sequence, why: "it belongs to another instance".to_owned() });
        }
    }
    Ok(chain)
}

/// The part of a record that the chain needs, so that records of later versions can be checked too.
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

/// One record of an audit log, as the line that the next record's hash covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its sequence number in the instance's audit log, from 1.
    pub sequence: u64,
    /// The case's id.
    pub case: String,
    /// The record, one line of JSON.
    pub line: String,
    /// The AWS request that it records, if it records one.
    pub request_id: Option<String>,
}
