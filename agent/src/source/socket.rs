//! Connections to Unix sockets, with a limit on their total time.
//!
//! A hanging program still has its socket. Once its backlog is full, even connecting blocks forever, and a server
//! that sends a byte now and then outlasts any timeout of a single read.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// A connection whose operations share one time limit.
#[derive(Debug)]
pub struct TimedStream {
    stream: UnixStream,
    end: Instant,
}

/// Connects to a Unix socket. Later reads and writes share the same time limit.
pub fn unix(path: &Path, within: Duration) -> io::Result<TimedStream> {
    let end = Instant::now() + within;
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // unix(7): connecting to a stream socket blocks for at most SO_SNDTIMEO while the backlog is full.
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    connect(&socket, &address).map_err(|error| timed_out(error.into()))?;
    Ok(TimedStream { stream: socket.into(), end })
}

impl TimedStream {
    /// The connection and the remaining time.
    pub fn into_parts(self) -> io::Result<(UnixStream, Duration)> {
        let left = self.left()?;
        Ok((self.stream, left))
    }

    fn left(&self) -> io::Result<Duration> {
        match self.end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's timeout is returned as `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn connecting_to_a_full_backlog_ends_at_the_time_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("full");
        let _listener = UnixListener::bind(&path).expect("a socket");
        // No process accepts connections, and the backlog has a fixed size.
        let mut callers = Vec::new();
        let error = loop {
            match unix(&path, SOON) {
                Ok(caller) => callers.push(caller),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_slow_response_ends_at_the_time_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("slow");
        let listener = UnixListener::bind(&path).expect("a socket");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            // Until the client closes the connection.
            while stream.write_all(b".").is_ok() {}
        });
        let mut stream = unix(&path, SOON).expect("a connection");
        let error = io::copy(&mut stream, &mut io::sink()).expect_err("no end");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(stream);
        server.join().expect("a server that ended");
    }
}
