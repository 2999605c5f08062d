//! Turns an address into a connection that ends within a time, however the other side behaves.
//!
//! A program that hangs still has a socket. Once its queue of callers is full, even connecting waits for ever; and one
//! that answers a byte now and then outlasts any timeout of a single read.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// A connection with an end.
#[derive(Debug)]
pub struct Timed<S> {
    stream: S,
    end: Instant,
}

/// What such a connection is made of.
pub trait Stream: Read + Write {
    /// Limits the next read, and the next write.
    fn limit(&self, left: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Stream for TcpStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

/// Connects to a Unix socket. Whatever is read or written later shares the same time.
pub fn unix(path: &Path, within: Duration) -> io::Result<Timed<UnixStream>> {
    let end = Instant::now() + within;
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // unix(7): connecting to a stream socket waits no longer than SO_SNDTIMEO for room in the queue.
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    connect(&socket, &address).map_err(|error| timed_out(error.into()))?;
    Ok(Timed { stream: socket.into(), end })
}

/// Connects over TCP. Whatever is read or written later shares the same time.
pub fn tcp(address: &SocketAddr, within: Duration) -> io::Result<Timed<TcpStream>> {
    let end = Instant::now() + within;
    Ok(Timed { stream: TcpStream::connect_timeout(address, within)?, end })
}

impl<S: Stream> Timed<S> {
    /// The connection, to be read in some other way, and how much of the time is left.
    pub fn into_parts(self) -> io::Result<(S, Duration)> {
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

impl<S: Stream> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.limit(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl<S: Stream> Write for Timed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.limit(self.left()?)?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's timeout comes as "try again".
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn a_full_queue_of_callers_ends_with_the_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("full");
        let _listener = UnixListener::bind(&path).expect("a socket");
        // Nobody accepts: the queue holds a fixed number of callers.
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
    fn an_answer_that_trickles_ends_with_the_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("slow");
        let listener = UnixListener::bind(&path).expect("a socket");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            // Until the other side hangs up.
            while stream.write_all(b".").is_ok() {}
        });
        let mut stream = unix(&path, SOON).expect("a connection");
        let error = io::copy(&mut stream, &mut io::sink()).expect_err("no end");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(stream);
        server.join().expect("a server that ended");
    }
}
