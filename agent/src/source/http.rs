//! Turns a path of a server on this node into what the server says there.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

const READ: usize = 16 * 1024;

/// The body at a path; an error if the server does not say 200, or does not say all of it in time or in `limit` bytes.
///
/// Asked by HTTP/1.0, a server says all it has in one piece and hangs up.
pub fn get(server: SocketAddr, path: &str, limit: usize, within: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + within;
    let mut stream = TcpStream::connect_timeout(&server, within)?;
    stream.set_write_timeout(Some(within))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; READ];
    loop {
        // One that says a byte a second would never run into a limit of each reading alone.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer took too long"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return body(answer),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if answer.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("an answer longer than {limit} bytes"),
            ));
        }
    }
}

/// What follows the head, if the head says 200.
fn body(mut answer: Vec<u8>) -> io::Result<Vec<u8>> {
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return invalid("an answer without an end of its head".to_owned());
    };
    let first = answer[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ');
    if !words.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) || words.next() != Some(b"200") {
        let first: String = String::from_utf8_lossy(first)
            .chars()
            .take(80)
            .filter(|character| !character.is_control())
            .collect();
        return invalid(format!("the answer {first:?}"));
    }
    answer.drain(..end + 4);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;

    /// A server that says that to whoever asks, and hangs up unless it is to hold on.
    fn server(answer: &'static [u8], hold: bool) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 512];
                let length = stream.read(&mut request).expect("a request");
                assert!(request[..length].starts_with(b"GET /v1/enis HTTP/1.0\r\n"));
                stream.write_all(answer).expect("an answer");
                if hold {
                    held.push(stream);
                }
            }
        });
        address
    }

    fn said(answer: &'static [u8], hold: bool) -> Result<Vec<u8>, io::ErrorKind> {
        get(server(answer, hold), "/v1/enis", 100, Duration::from_millis(300)).map_err(|error| error.kind())
    }

    #[test]
    fn the_body_of_a_good_answer_is_what_comes() {
        assert_eq!(said(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}\r\n\r\n", false), Ok(b"{}\r\n\r\n".to_vec()));
        assert_eq!(said(b"HTTP/1.1 200 OK\r\n\r\n", false), Ok(Vec::new()));
    }

    #[test]
    fn any_other_answer_is_an_error() {
        for (answer, hold, kind) in [
            (&b"HTTP/1.0 404 Not Found\r\n\r\n{}"[..], false, io::ErrorKind::InvalidData),
            (b"HTTP/1.0 2000 Odd\r\n\r\n{}", false, io::ErrorKind::InvalidData),
            (b"SSH-2.0-OpenSSH 200\r\n\r\n", false, io::ErrorKind::InvalidData),
            (b"HTTP/1.0 200 OK\r\n", false, io::ErrorKind::InvalidData),
            (b"", false, io::ErrorKind::InvalidData),
            (&[b'x'; 200], false, io::ErrorKind::FileTooLarge),
            (b"HTTP/1.0 200 OK\r\n\r\n{", true, io::ErrorKind::TimedOut),
        ] {
            assert_eq!(said(answer, hold), Err(kind), "{}", String::from_utf8_lossy(answer));
        }
    }
}
