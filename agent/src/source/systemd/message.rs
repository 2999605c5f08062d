//! Encodes D-Bus calls and decodes replies: the part of the wire format that is needed.
//!
//! <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol>

use std::io::{self, Read};

/// The longest reply is the list of services, with about 300 bytes each.
const MAX_MESSAGE: usize = 1024 * 1024;
/// The size of the fixed part of a message header.
pub(super) const FIXED: usize = 16;

pub(super) const LITTLE_ENDIAN: u8 = b'l';
pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
/// Reading systemd's state must not start anything.
const NO_AUTO_START: u8 = 2;
pub(super) const VERSION: u8 = 1;

pub(super) const PATH: u8 = 1;
const INTERFACE: u8 = 2;
pub(super) const MEMBER: u8 = 3;
pub(super) const ERROR_NAME: u8 = 4;
pub(super) const REPLY_SERIAL: u8 = 5;
pub(super) const DESTINATION: u8 = 6;
pub(super) const SIGNATURE: u8 = 8;

#[derive(Debug, Clone)]
pub(super) struct DbusCall {
    pub(super) path: String,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    pub(super) signature: &'static str,
    pub(super) body: DbusBody,
}

impl DbusCall {
    pub(super) fn encode(&self, serial: u32, destination: &str) -> Vec<u8> {
        let mut out = DbusBody(vec![LITTLE_ENDIAN, METHOD_CALL, NO_AUTO_START, VERSION]);
        out = out.u32(self.body.0.len() as u32).u32(serial);
        let mut fields = DbusBody::new();
        let texts = [
            (PATH, "o", self.path.as_str()),
            (INTERFACE, "s", self.interface),
            (MEMBER, "s", self.member),
            (DESTINATION, "s", destination),
        ];
        for (code, kind, text) in texts {
            fields = fields.field(code, kind).string(text);
        }
        if !self.signature.is_empty() {
            fields = fields.field(SIGNATURE, "g").signature(self.signature);
        }
        // The array of header fields starts at a multiple of eight, so its inner padding stays correct.
        out = out.u32(fields.0.len() as u32);
        out.0.extend_from_slice(&fields.0);
        out.pad(8);
        out.0.extend_from_slice(&self.body.0);
        out.0
    }
}

#[derive(Debug, Clone)]
pub(super) struct DbusBody(pub(super) Vec<u8>);

impl DbusBody {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn string(mut self, text: &str) -> Self {
        self = self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn strings(mut self, texts: &[&str]) -> Self {
        self.pad(4);
        let at = self.0.len();
        self = self.u32(0);
        for text in texts {
            self = self.string(text);
        }
        let length = (self.0.len() - at - 4) as u32;
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.pad(4);
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn signature(mut self, text: &str) -> Self {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn field(mut self, code: u8, kind: &str) -> Self {
        self.pad(8);
        self.0.push(code);
        self.signature(kind)
    }

    pub(super) fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DbusReply {
    Return(DbusValues),
    /// The name of the D-Bus error.
    Error(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DbusValues {
    signature: String,
    bytes: Vec<u8>,
}

impl DbusValues {
    pub(super) fn text(&self) -> Option<String> {
        self.property("s")?.string().map(str::to_owned)
    }

    /// A 32-bit unsigned property.
    pub(super) fn u32(&self) -> Option<u32> {
        self.property("u")?.u32()
    }

    /// A 64-bit unsigned property.
    pub(super) fn u64(&self) -> Option<u64> {
        self.property("t")?.u64()
    }

    /// The names in a list of units.
    pub(super) fn units(&self, max: usize) -> Option<Vec<String>> {
        if self.signature != "a(ssssssouso)" {
            return None;
        }
        let mut reader = DbusReader::new(&self.bytes);
        let length = reader.u32()? as usize;
        reader.pad(8)?;
        let end = reader.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut names = Vec::new();
        while reader.at < end && names.len() < max {
            reader.pad(8)?;
            names.push(reader.string()?.to_owned());
            // Description, load state, active state, sub state, followed unit, object path.
            for _ in 0..6 {
                reader.string()?;
            }
            // The job's ID, type and path.
            reader.u32()?;
            reader.string()?;
            reader.string()?;
        }
        Some(names)
    }

    fn property(&self, kind: &str) -> Option<DbusReader<'_>> {
        let mut reader = DbusReader::new(&self.bytes);
        (self.signature == "v" && reader.signature()? == kind).then_some(reader)
    }
}

/// Reads the next message: the serial number of its call and the reply. `None` if it is not a reply.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<(u32, DbusReply)>> {
    let mut header = vec![0; FIXED];
    from.read_exact(&mut header)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a D-Bus message");
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (kind, body, fields) = (header[1], word(4) as usize, word(12) as usize);
    if header[0] != LITTLE_ENDIAN || header[3] != VERSION || body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(malformed());
    }
    header.resize((FIXED + fields).next_multiple_of(8), 0);
    from.read_exact(&mut header[FIXED..])?;
    let mut bytes = vec![0; body];
    from.read_exact(&mut bytes)?;
    let fields = fields_of(&header[..FIXED + fields]).ok_or_else(malformed)?;
    Ok(match (kind, fields.reply_serial) {
        (METHOD_RETURN, Some(serial)) => {
            Some((serial, DbusReply::Return(DbusValues { signature: fields.signature, bytes })))
        }
        (ERROR, Some(serial)) => Some((serial, DbusReply::Error(fields.error_name))),
        _ => None,
    })
}

#[derive(Debug, Default)]
struct HeaderFields {
    reply_serial: Option<u32>,
    error_name: String,
    signature: String,
}

fn fields_of(header: &[u8]) -> Option<HeaderFields> {
    let mut fields = HeaderFields::default();
    let mut reader = DbusReader { bytes: header, at: FIXED };
    while reader.at < header.len() {
        reader.pad(8)?;
        let code = reader.u8()?;
        match (code, reader.signature()?) {
            (REPLY_SERIAL, "u") => fields.reply_serial = Some(reader.u32()?),
            (SIGNATURE, "g") => fields.signature = reader.signature()?.to_owned(),
            (ERROR_NAME, "s") => fields.error_name = reader.string()?.to_owned(),
            (_, "s" | "o") => {
                reader.string()?;
            }
            (_, "u") => {
                reader.u32()?;
            }
            (_, "g") => {
                reader.signature()?;
            }
            // The specification has no other types; a field of unknown length cannot be skipped.
            _ => return None,
        }
    }
    Some(fields)
}

/// Decodes values in sequence. Offsets are relative to a multiple of eight: the start of a message or of its body.
#[derive(Debug)]
pub(super) struct DbusReader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> DbusReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(super) fn pad(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(|_| ())
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.pad(4)?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        self.pad(8)?;
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A string or object path.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    pub(super) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let (end, text) = self.take(length.checked_add(1)?)?.split_last()?;
        std::str::from_utf8(text).ok().filter(|_| *end == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::any, proptest};

    use super::*;

    /// The bytes that systemd 252 sent over its private socket: six replies, and signals in between.
    const RECORDED: &[u8] = include_bytes!("../../../fixtures/systemd/answers");

    #[test]
    fn recorded_replies_are_decoded_and_signals_are_skipped() {
        let mut rest = RECORDED;
        let mut replies = Vec::new();
        let mut passed = 0;
        while !rest.is_empty() {
            match read(&mut rest).expect("a message") {
                Some((serial, reply)) => {
                    assert_eq!(serial as usize, replies.len() + 1);
                    replies.push(reply);
                }
                None => passed += 1,
            }
        }
        assert!(passed > 10, "{passed}");
        let Ok([restarts, failed, since, absent, rejected, list]) = <[DbusReply; 6]>::try_from(replies)
        else {
            panic!("not six replies");
        };
        let values = |reply| match reply {
            DbusReply::Return(values) => values,
            DbusReply::Error(name) => panic!("{name}"),
        };
        let restarts = values(restarts);
        assert!(restarts.u32().is_some_and(|restarts| restarts > 3), "{restarts:?}");
        assert_eq!((restarts.text(), restarts.u64()), (None, None), "of another type");
        assert_eq!(values(failed).text().as_deref(), Some("failed"));
        // 2026-11-25T04:44:06.652065Z
        assert_eq!(values(since).u64(), Some(1_795_581_846_652_065));
        assert_eq!(values(absent).text().as_deref(), Some("not-found"));
        assert_eq!(rejected, DbusReply::Error("org.freedesktop.DBus.Error.UnknownProperty".to_owned()));
        let names = values(list).units(100).expect("names");
        assert!(names.iter().any(|name| name == "flap.service"), "{names:?}");
        assert!(names.iter().all(|name| name.ends_with(".service")), "{names:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut message = RECORDED.to_vec();
            let at = bytes.first().map_or(0, |first| usize::from(*first)) % message.len();
            message.splice(at.., bytes.iter().copied());
            for bytes in [&bytes[..], &message[..]] {
                let _ = read(&mut &bytes[..]);
                let _ = fields_of(&[&[0; FIXED], bytes].concat());
                for signature in ["v", "a(ssssssouso)"] {
                    let values = DbusValues { signature: signature.to_owned(), bytes: bytes.to_vec() };
                    let _ = (values.text(), values.u32(), values.u64(), values.units(4));
                }
            }
        }
    }
}
