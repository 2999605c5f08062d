//! Turns an input into bytes, to be put aside until its time comes, and back.

use nodemend_domain::trail::CloudTrailEvent;

use crate::replay::input::{Group, Input, What};

use super::spill::Entry;

/// An input, and until when its agent is known to be heard without a pause.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) input: Input,
    pub(super) heard_until: Option<jiff::Timestamp>,
}

/// Writes what an entry of the history holds.
pub(super) fn write(what: &What, place: &str, heard_until: Option<i64>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_024);
    let (tag, fields): (u8, Vec<&[u8]>) = match what {
        What::Payload(payload) => (0, vec![payload]),
        What::Log { group: Group::Named(group), stream, message, .. } => {
            (1, vec![group.as_bytes(), stream.as_bytes(), message.as_bytes()])
        }
        What::Log { group: Group::AnyControlPlane, stream, message, .. } => {
            (2, vec![stream.as_bytes(), message.as_bytes()])
        }
        What::Event(value) => {
            bytes.push(3);
            put(&mut bytes, value.to_string().as_bytes());
            return finish(bytes, what, place, heard_until);
        }
        What::CloudTrail(event) => {
            bytes.push(4);
            put(&mut bytes, serde_json::to_string(event).unwrap_or_default().as_bytes());
            return finish(bytes, what, place, heard_until);
        }
    };
    bytes.push(tag);
    for field in fields {
        put(&mut bytes, field);
    }
    finish(bytes, what, place, heard_until)
}

fn finish(mut bytes: Vec<u8>, what: &What, place: &str, heard_until: Option<i64>) -> Vec<u8> {
    if let What::Log { at, .. } = what {
        bytes.extend_from_slice(&at.as_second().to_le_bytes());
        bytes.extend_from_slice(&at.subsec_nanosecond().to_le_bytes());
    }
    bytes.extend_from_slice(&heard_until.unwrap_or(i64::MIN).to_le_bytes());
    bytes.extend_from_slice(place.as_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}

/// Reads it back; none, if it is not what was written.
pub(super) fn read(entry: Entry, file: &str) -> Option<Put> {
    let mut rest = &entry.bytes[..];
    let tag = take(&mut rest, 1)?[0];
    let what = match tag {
        0 => What::Payload(field(&mut rest)?.to_vec()),
        1 | 2 => {
            let group = match tag {
                1 => Group::Named(text(&mut rest)?),
                _ => Group::AnyControlPlane,
            };
            let (stream, message) = (text(&mut rest)?, text(&mut rest)?);
            let seconds = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
            let nanoseconds = i32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
            What::Log { group, stream, at: jiff::Timestamp::new(seconds, nanoseconds).ok()?, message }
        }
        3 => What::Event(serde_json::from_slice(field(&mut rest)?).ok()?),
        4 => What::CloudTrail(Box::new(serde_json::from_slice::<CloudTrailEvent>(field(&mut rest)?).ok()?)),
        _ => return None,
    };
    let heard_until = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let heard_until = jiff::Timestamp::from_millisecond(heard_until).ok();
    let place = format!("{file}:{}", std::str::from_utf8(rest).ok()?);
    Some(Put { input: Input { at: entry.key.at, place, what }, heard_until })
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

fn text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(field(rest)?.to_vec()).ok()
}
