//! Decodes CloudWatch Logs subscription payloads into log events.
//!
//! - Lambda receives `{"awslogs":{"data": base64(gzip(JSON))}}`. Anyone who can write to the log group controls its
//!   content, so every length is limited.
//! - A bad log event is rejected with its reason, and the other events of the batch are processed: Lambda would retry a
//!   failed batch twice and then drop all of it.
//! - The [`Decoder`] owns all buffers and reuses them for the next payload; the events borrow from them.

pub mod our_patterns;
mod parse;
mod records;
#[cfg(test)]
mod tests;
mod text;
mod write;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use records::{StreamRecord, SubscriptionRecord, records};
pub use write::{encode, envelope};

use crate::gunzip::{GunzipError, gunzip};

/// The most bytes that one payload may decompress to, by default.
pub const DEFAULT_CAP: usize = 8 * 1024 * 1024;

/// The most bytes of a payload. Lambda accepts 6 MB in a synchronous invocation, and less in an asynchronous one.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// The most log events of one payload: ten times the limit of one `PutLogEvents` request.
pub const MAX_EVENTS: usize = 100_000;

/// The most names of subscription filters. A log group has at most two, and an account few of its own.
const MAX_FILTERS: usize = 100;

/// The most characters of a rejected record that are kept.
pub const MAX_EXCERPT: usize = 256;

/// Why a whole payload could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The payload is larger than any that Lambda delivers.
    #[error("the payload is {size} bytes, and at most {MAX_PAYLOAD} are read")]
    TooLarge {
        /// The size of the payload.
        size: usize,
    },
    /// The Lambda event is not JSON, or `awslogs.data` is missing or no string.
    #[error("failed to read awslogs.data from the event")]
    Envelope(#[source] serde_json::Error),
    /// `awslogs.data` is not base64.
    #[error("failed to decode awslogs.data as base64")]
    Base64(#[source] base64::DecodeSliceError),
    /// The decoded data is not a whole gzip stream.
    #[error("failed to decompress awslogs.data")]
    Gzip(#[source] std::io::Error),
    /// The data decompresses to more than the cap.
    #[error("awslogs.data decompresses to more than the cap of {cap} bytes")]
    OverCap {
        /// The cap in force.
        cap: usize,
    },
    /// The decompressed data is not UTF-8.
    #[error("the decompressed data is not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    /// The decompressed data is not JSON, or one of its fields is missing or of another type.
    #[error("failed to read the decompressed data")]
    Json(#[source] serde_json::Error),
    /// A message type that is not documented.
    #[error("unknown messageType {0:?}: expected DATA_MESSAGE or CONTROL_MESSAGE")]
    MessageType(String),
}

/// The content of one payload.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'d> {
    /// CloudWatch Logs checks that the destination is reachable: nothing to do.
    Control,
    /// Log events of one stream.
    Data(Batch<'d>),
}

/// The log events of one payload: all of one log stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch<'d> {
    /// The account that owns the log group.
    pub owner: Cow<'d, str>,
    /// The log group.
    pub log_group: Cow<'d, str>,
    /// The log stream.
    pub log_stream: Cow<'d, str>,
    /// The names of the subscription filters that the events matched.
    pub subscription_filters: Vec<Cow<'d, str>>,
    /// The log events that could be read, in the order of the payload.
    pub events: Vec<LogEvent<'d>>,
    /// The log events that could not be read, in the order of the payload.
    pub rejected: Vec<Rejected>,
}

/// One log event.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEvent<'d> {
    /// CloudWatch Logs' ID of the event, the same if a payload is delivered again.
    pub id: Cow<'d, str>,
    /// The event's time, as reported by its writer.
    pub timestamp: Timestamp,
    /// The log line.
    pub message: Cow<'d, str>,
}

/// A log event that cannot be read. It never stops the batch: it is counted, and logged with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its position among the payload's log events, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub why: String,
    /// Its beginning, at most [`MAX_EXCERPT`] characters, with control characters replaced.
    pub excerpt: String,
}

/// Decodes payloads into buffers that it reuses.
#[derive(Debug)]
pub struct Decoder {
    cap: usize,
    compressed: Vec<u8>,
    plain: Vec<u8>,
    /// The text of strings that have escapes.
    unescaped: String,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    awslogs: AwsLogs<'a>,
}

#[derive(Deserialize)]
struct AwsLogs<'a> {
    // Without `borrow`, a `Cow` copies the whole payload. This borrows, unless base64's `/` is written as `\/`.
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl Decoder {
    /// A decoder with the default cap of 8 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_cap(DEFAULT_CAP)
    }

    /// A decoder that rejects a payload which decompresses to more than `cap` bytes.
    ///
    /// It keeps its buffers: up to the cap for the decompressed text, as much for unescaped strings, and as much as
    /// [`MAX_EVENTS`] and [`MAX_PAYLOAD`] allow for the payload and its events.
    #[must_use]
    pub fn with_cap(cap: usize) -> Self {
        Self { cap, compressed: Vec::new(), plain: Vec::new(), unescaped: String::new() }
    }

    /// Decodes a whole Lambda event, `{"awslogs":{"data":"…"}}`.
    ///
    /// # Errors
    /// When the payload as a whole cannot be read. A bad log event is not an error but a [`Rejected`].
    pub fn decode(&mut self, payload: &[u8]) -> Result<Message<'_>, SubscriptionError> {
        bounded(payload.len())?;
        let envelope: Envelope<'_> = serde_json::from_slice(payload).map_err(SubscriptionError::Envelope)?;
        self.decode_data(&envelope.awslogs.data)
    }

    /// Decodes the content of `awslogs.data`.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_data(&mut self, base64: &str) -> Result<Message<'_>, SubscriptionError> {
        bounded(base64.len())?;
        let length = base64::decoded_len_estimate(base64.len());
        if self.compressed.len() < length {
            self.compressed.resize(length, 0);
        }
        let length =
            STANDARD.decode_slice(base64, &mut self.compressed).map_err(SubscriptionError::Base64)?;
        let length = gunzip(&self.compressed[..length], &mut self.plain, self.cap)?;
        let text = std::str::from_utf8(&self.plain[..length]).map_err(SubscriptionError::Utf8)?;
        parse::message(text, &mut self.unescaped)
    }
}

impl From<GunzipError> for SubscriptionError {
    fn from(error: GunzipError) -> Self {
        match error {
            GunzipError::Gzip(error) => Self::Gzip(error),
            GunzipError::OverCap { cap } => Self::OverCap { cap },
        }
    }
}

fn bounded(size: usize) -> Result<(), SubscriptionError> {
    if size > MAX_PAYLOAD { Err(SubscriptionError::TooLarge { size }) } else { Ok(()) }
}
