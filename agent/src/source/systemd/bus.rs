//! Calls D-Bus methods over the system bus or systemd's private socket.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use super::message::{self, DbusBody, DbusCall, DbusReply};
use crate::source::socket::{self, TimedStream};

const SYSTEM_BUS: &str = "run/dbus/system_bus_socket";
/// systemd's own socket, which only root can use and only in the same PID namespace. It works before the bus starts
/// and after it stops, but sends all signals to each client.
pub(super) const PRIVATE: &str = "run/systemd/private";
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const BUS: &str = "org.freedesktop.DBus";

/// The maximum length of a handshake line.
const MAX_LINE: usize = 1024;

/// A D-Bus connection to systemd.
#[derive(Debug)]
pub(super) struct SystemdBus {
    pub(super) stream: TimedStream,
    serial: u32,
}

impl SystemdBus {
    /// Connects. All calls on the connection share the same time limit.
    pub(super) fn open(root: &Path, within: Duration) -> io::Result<Self> {
        let first = match Self::join(&root.join(SYSTEM_BUS), within) {
            Ok(bus) => return Ok(bus),
            Err(error) => error,
        };
        Self::connect(&root.join(PRIVATE), within)
            .map_err(|second| if second.kind() == io::ErrorKind::NotFound { first } else { second })
    }

    /// Connects to the bus and sends Hello, which a bus requires first.
    fn join(path: &Path, within: Duration) -> io::Result<Self> {
        let mut bus = Self::connect(path, within)?;
        let hello = DbusCall {
            path: "/org/freedesktop/DBus".to_owned(),
            interface: BUS,
            member: "Hello",
            signature: "",
            body: DbusBody::new(),
        };
        bus.call_at(BUS, &[hello])?;
        Ok(bus)
    }

    fn connect(path: &Path, within: Duration) -> io::Result<Self> {
        let mut stream = socket::unix(path, within)?;
        // The kernel authenticates the user; this is only the claim.
        // https://dbus.freedesktop.org/doc/dbus-specification.html#auth-mechanisms-external
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let response = line(&mut stream)?;
        if !response.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "authentication failed"));
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    /// Sends several calls to systemd at once and waits for all replies.
    pub(super) fn call(&mut self, calls: &[DbusCall]) -> io::Result<Vec<DbusReply>> {
        self.call_at(SYSTEMD, calls)
    }

    pub(super) fn call_at(&mut self, destination: &str, calls: &[DbusCall]) -> io::Result<Vec<DbusReply>> {
        let first = self.serial + 1;
        let mut sent = Vec::new();
        for call in calls {
            self.serial += 1;
            sent.extend_from_slice(&call.encode(self.serial, destination));
        }
        self.stream.write_all(&sent)?;
        let mut replies: Vec<Option<DbusReply>> = vec![None; calls.len()];
        // Other messages in between are skipped until the time limit.
        while replies.iter().any(Option::is_none) {
            let Some((serial, reply)) = message::read(&mut self.stream)? else { continue };
            let index = serial.checked_sub(first).map(|index| index as usize);
            if let Some(empty) = index.and_then(|index| replies.get_mut(index)) {
                *empty = Some(reply);
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }
}

/// Reads up to the end of the line and no further, because binary data follows.
pub(super) fn line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
        from.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}
