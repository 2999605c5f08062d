//! Turns calls into replies, over systemd's own socket or the system bus.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::message::{self, Body, Call, Reply};
use crate::source::socket::{self, Timed};

const SYSTEM_BUS: &str = "run/dbus/system_bus_socket";
/// systemd itself, for root alone and within sight of its process ids: it works before the bus is there and after it
/// is gone, but tells everybody of everything that happens.
pub(super) const PRIVATE: &str = "run/systemd/private";
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const BUS: &str = "org.freedesktop.DBus";

/// A line of the handshake.
const MAX_LINE: usize = 1024;

/// A connection that systemd answers on.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) stream: Timed<UnixStream>,
    serial: u32,
}

impl Bus {
    /// Connects; everything asked on the connection shares the same time.
    pub(super) fn open(root: &Path, within: Duration) -> io::Result<Self> {
        let first = match Self::join(&root.join(SYSTEM_BUS), within) {
            Ok(bus) => return Ok(bus),
            Err(error) => error,
        };
        Self::connect(&root.join(PRIVATE), within)
            .map_err(|second| if second.kind() == io::ErrorKind::NotFound { first } else { second })
    }

    /// A bus knows nobody who has not said hello.
    fn join(path: &Path, within: Duration) -> io::Result<Self> {
        let mut bus = Self::connect(path, within)?;
        let hello = Call {
            path: "/org/freedesktop/DBus".to_owned(),
            interface: BUS,
            member: "Hello",
            signature: "",
            body: Body::new(),
        };
        bus.call_at(BUS, &[hello])?;
        Ok(bus)
    }

    fn connect(path: &Path, within: Duration) -> io::Result<Self> {
        let mut stream = socket::unix(path, within)?;
        // The kernel tells the other side who is calling; here it is only claimed.
        // https://dbus.freedesktop.org/doc/dbus-specification.html#auth-mechanisms-external
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let answer = line(&mut stream)?;
        if !answer.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not take this user"));
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    /// Sends calls to systemd together, and waits for the reply to each.
    pub(super) fn call(&mut self, calls: &[Call]) -> io::Result<Vec<Reply>> {
        self.call_at(SYSTEMD, calls)
    }

    pub(super) fn call_at(&mut self, destination: &str, calls: &[Call]) -> io::Result<Vec<Reply>> {
        let first = self.serial + 1;
        let mut sent = Vec::new();
        for call in calls {
            self.serial += 1;
            sent.extend_from_slice(&call.encode(self.serial, destination));
        }
        self.stream.write_all(&sent)?;
        let mut replies: Vec<Option<Reply>> = vec![None; calls.len()];
        // Whatever else is told in between is passed over, for as long as there is time.
        while replies.iter().any(Option::is_none) {
            let Some((serial, reply)) = message::read(&mut self.stream)? else { continue };
            let place = serial.checked_sub(first).map(|place| place as usize);
            if let Some(empty) = place.and_then(|place| replies.get_mut(place)) {
                *empty = Some(reply);
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }
}

/// Reads no further than the line's end: what follows is no text.
pub(super) fn line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
        }
        from.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}
