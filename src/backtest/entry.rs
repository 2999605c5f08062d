//! Encodes an input as bytes for the external sort, and decodes it.

use nodemend_domain::audit_log::CloudTrailEvent;

use super::{error::BacktestError, external_sort::HistoryEntry};
use crate::replay::input::{Input, LogGroup, Payload};

/// An input of the history.
#[derive(Debug)]
pub(super) struct StoredInput {
    pub(super) input: Input,
    /// For the first of repeated heartbeats: the time of the last of them.
    pub(super) reporting_until: Option<jiff::Timestamp>,
}

/// Encodes a payload and its line number.
pub(super) fn write(payload: &Payload, source: &str, reporting_until: Option<i64>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_024);
    let (tag, fields): (u8, Vec<&[u8]>) = match payload {
        Payload::Subscription(bytes) => (0, vec![bytes]),
        Payload::Log { group: LogGroup::Named(group), stream, message, .. } => {
            (1, vec![group.as_bytes(), stream.as_bytes(), message.as_bytes()])
        }
        Payload::Log { group: LogGroup::AnyControlPlane, stream, message, .. } => {
            (2, vec![stream.as_bytes(), message.as_bytes()])
        }
        Payload::Event(value) => {
            bytes.push(3);
            push_field(&mut bytes, value.to_string().as_bytes());
            return finish(bytes, payload, source, reporting_until);
        }
        Payload::CloudTrail(event) => {
            bytes.push(4);
            push_field(&mut bytes, serde_json::to_string(event).unwrap_or_default().as_bytes());
            return finish(bytes, payload, source, reporting_until);
        }
    };
    bytes.push(tag);
    for field in fields {
        push_field(&mut bytes, field);
    }
    finish(bytes, payload, source, reporting_until)
}

fn finish(mut bytes: Vec<u8>, payload: &Payload, source: &str, reporting_until: Option<i64>) -> Vec<u8> {
    if let Payload::Log { at, .. } = payload {
        bytes.extend_from_slice(&at.as_second().to_le_bytes());
        bytes.extend_from_slice(&at.subsec_nanosecond().to_le_bytes());
    }
    bytes.extend_from_slice(&reporting_until.unwrap_or(i64::MIN).to_le_bytes());
    bytes.extend_from_slice(source.as_bytes());
    bytes
}

fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}

/// Decodes an entry that [`write`] encoded; `file` is the name of the file it was read from.
pub(super) fn read(entry: HistoryEntry, file: &str) -> Result<StoredInput, BacktestError> {
    decode(&entry, file).ok_or_else(|| BacktestError::TemporaryFile(std::io::ErrorKind::InvalidData.into()))
}

fn decode(entry: &HistoryEntry, file: &str) -> Option<StoredInput> {
    let mut rest = &entry.bytes[..];
    let tag = take(&mut rest, 1)?[0];
    let payload = match tag {
        0 => Payload::Subscription(field(&mut rest)?.to_vec()),
        1 | 2 => {
            let group = match tag {
                1 => LogGroup::Named(text_field(&mut rest)?),
                _ => LogGroup::AnyControlPlane,
            };
            let (stream, message) = (text_field(&mut rest)?, text_field(&mut rest)?);
            let seconds = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
            let nanoseconds = i32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
            Payload::Log { group, stream, at: jiff::Timestamp::new(seconds, nanoseconds).ok()?, message }
        }
        3 => Payload::Event(serde_json::from_slice(field(&mut rest)?).ok()?),
        4 => {
            Payload::CloudTrail(Box::new(serde_json::from_slice::<CloudTrailEvent>(field(&mut rest)?).ok()?))
        }
        _ => return None,
    };
    let reporting_until = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let reporting_until = jiff::Timestamp::from_millisecond(reporting_until).ok();
    let source = format!("{file}:{}", std::str::from_utf8(rest).ok()?);
    Some(StoredInput { input: Input { at: entry.key.at, source, payload }, reporting_until })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, usize::try_from(length).ok()?)
}

fn text_field(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(field(rest)?.to_vec()).ok()
}
