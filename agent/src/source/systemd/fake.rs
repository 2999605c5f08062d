//! A systemd for tests.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

use super::{
    Unit,
    bus::{self, PRIVATE},
    message::{
        DESTINATION, DbusBody, DbusReader, ERROR, ERROR_NAME, FIXED, LITTLE_ENDIAN, MEMBER, METHOD_RETURN,
        PATH, REPLY_SERIAL, SIGNATURE, VERSION,
    },
    path_of,
};

/// The header field of the sender, which only a bus adds.
const SENDER: u8 = 7;

pub(crate) fn running(name: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: "running".to_owned(),
        file_state: "enabled".to_owned(),
        n_restarts: Some(0),
        active_enter: Some(jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1)),
        active_exit: None,
    }
}

/// Serves the private socket under a root until the process ends.
pub(crate) fn start(root: &Path, units: Vec<Unit>) {
    let path = root.join(PRIVATE);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let greeting = bus::line(&mut stream).expect("a greeting");
            assert!(greeting.starts_with(b"\0AUTH EXTERNAL "), "{greeting:?}");
            stream.write_all(b"OK 1234deadbeef\r\n").expect("a response");
            assert_eq!(bus::line(&mut stream).expect("a message"), b"BEGIN\r\n");
            serve(&mut stream, &units);
        }
    });
}

/// Replies to calls until the client closes the connection.
pub(super) fn serve(stream: &mut (impl Read + Write), units: &[Unit]) {
    while let Ok(call) = IncomingCall::read(stream) {
        if call.member == "Get" || call.member == "ListUnitsByPatterns" {
            stream.write_all(&call.response(units)).expect("a response");
        }
    }
}

#[derive(Debug, Default)]
struct IncomingCall {
    serial: u32,
    path: String,
    member: String,
    sender: Option<String>,
    body: Vec<u8>,
}

impl IncomingCall {
    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = vec![0; FIXED];
        from.read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (body, serial, fields) = (word(4) as usize, word(8), word(12) as usize);
        header.resize((FIXED + fields).next_multiple_of(8), 0);
        from.read_exact(&mut header[FIXED..])?;
        let mut call = Self { serial, body: vec![0; body], ..Self::default() };
        from.read_exact(&mut call.body)?;
        let mut reader = DbusReader { bytes: &header[..FIXED + fields], at: FIXED };
        while reader.at < reader.bytes.len() {
            reader.pad(8).expect("padding");
            let code = reader.u8().expect("a field");
            let value = match reader.signature().expect("a type") {
                "g" => reader.signature().expect("a signature").to_owned(),
                "u" => reader.u32().expect("a number").to_string(),
                _ => reader.string().expect("a text").to_owned(),
            };
            match code {
                PATH => call.path = value,
                MEMBER => call.member = value,
                SENDER => call.sender = Some(value),
                _ => {}
            }
        }
        Ok(call)
    }

    fn response(&self, units: &[Unit]) -> Vec<u8> {
        if self.member == "ListUnitsByPatterns" {
            return self.message(METHOD_RETURN, "a(ssssssouso)", None, &list(units));
        }
        let mut reader = DbusReader { bytes: &self.body, at: 0 };
        reader.string().expect("an interface");
        let property = reader.string().expect("a property");
        let unknown = Unit {
            load_state: "not-found".to_owned(),
            active_state: "inactive".to_owned(),
            sub_state: "dead".to_owned(),
            file_state: String::new(),
            active_enter: None,
            ..running("")
        };
        let unit = units.iter().find(|unit| path_of(&unit.name) == self.path).unwrap_or(&unknown);
        let text = |text: &str| Some(DbusBody::new().signature("s").string(text));
        let time = |at: Option<jiff::Timestamp>| {
            let mut body = DbusBody::new().signature("t");
            body.pad(8);
            let micros = at.map_or(0, |at| at.as_microsecond() as u64);
            body.0.extend_from_slice(&micros.to_le_bytes());
            Some(body)
        };
        let value = match property {
            "LoadState" => text(&unit.load_state),
            "ActiveState" => text(&unit.active_state),
            "SubState" => text(&unit.sub_state),
            "UnitFileState" => text(&unit.file_state),
            "ActiveEnterTimestamp" => time(unit.active_enter),
            "ActiveExitTimestamp" => time(unit.active_exit),
            "NRestarts" => unit.n_restarts.map(|count| DbusBody::new().signature("u").u32(count)),
            _ => None,
        };
        match value {
            Some(value) => self.message(METHOD_RETURN, "v", None, &value),
            None => {
                let name = "org.freedesktop.DBus.Error.UnknownProperty";
                self.message(ERROR, "s", Some(name), &DbusBody::new().string("no such property"))
            }
        }
    }

    fn message(&self, kind: u8, signature: &str, error: Option<&str>, body: &DbusBody) -> Vec<u8> {
        let mut fields = DbusBody::new().field(REPLY_SERIAL, "u").u32(self.serial);
        if let Some(sender) = &self.sender {
            fields = fields.field(DESTINATION, "s").string(sender);
        }
        if let Some(error) = error {
            fields = fields.field(ERROR_NAME, "s").string(error);
        }
        fields = fields.field(SIGNATURE, "g").signature(signature);
        let mut out = DbusBody(vec![LITTLE_ENDIAN, kind, 1, VERSION]);
        out = out.u32(body.0.len() as u32).u32(self.serial).u32(fields.0.len() as u32);
        out.0.extend_from_slice(&fields.0);
        out.pad(8);
        out.0.extend_from_slice(&body.0);
        out.0
    }
}

fn list(units: &[Unit]) -> DbusBody {
    let mut out = DbusBody::new().u32(0);
    out.pad(8);
    let start = out.0.len();
    for unit in units {
        out.pad(8);
        out = out.string(&unit.name).string("");
        out = out.string(&unit.load_state).string(&unit.active_state).string(&unit.sub_state);
        out = out.string("").string(&path_of(&unit.name)).u32(0).string("").string("/");
    }
    let length = (out.0.len() - start) as u32;
    out.0[..4].copy_from_slice(&length.to_le_bytes());
    out
}
