//! Turns a question to a server on this node into its answer, over HTTP/1.0.
//!
//! The instance metadata service, the kubelet and the VPC CNI's daemon are asked for a line or a page on the node itself:
//! an HTTP client would weigh more than the rest of the agent. Asked so, a server says all it has in one piece and hangs
//! up.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::Duration,
};

use super::socket;

/// An answer is a line of text, or a page of HTML that says why there is none.
const MAX_ANSWER: u64 = 16 * 1024;
const MAX_STATUS: usize = 80;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its first line.
    pub status: String,
    /// What it is about, without the space around it.
    pub body: String,
}

impl Answer {
    /// Whether it is what was asked for.
    pub fn is_ok(&self) -> bool {
        is_ok(&self.status)
    }
}

/// Asks for a few lines; `headers` are whole lines. All of it shares the time.
pub fn request(
    address: &SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    within: Duration,
) -> io::Result<Answer> {
    let (answer, ended) = exchange(address, method, path, headers, MAX_ANSWER, within)?;
    // Some servers keep the connection open in spite of HTTP/1.0: what came is what counts.
    if answer.is_empty() {
        ended?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (head, body) = split(&answer).unwrap_or((&answer, &[]));
    Ok(Answer { status: status(head), body: String::from_utf8_lossy(body).trim().to_owned() })
}

/// The body at a path; an error if the server does not say 200, or does not say all of it in time or in `limit` bytes.
pub fn get(address: SocketAddr, path: &str, limit: u64, within: Duration) -> io::Result<Vec<u8>> {
    let (mut answer, ended) = exchange(&address, "GET", path, "", limit, within)?;
    if answer.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("an answer longer than {limit} bytes"),
        ));
    }
    ended?;
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let (head, body) =
        split(&answer).ok_or_else(|| invalid("an answer without an end of its head".to_owned()))?;
    let status = status(head);
    if !is_ok(&status) {
        return Err(invalid(format!("the answer {status:?}")));
    }
    let start = answer.len() - body.len();
    answer.drain(..start);
    Ok(answer)
}

/// What was said, one byte more than the limit at most, and how it ended.
fn exchange(
    address: &SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    limit: u64,
    within: Duration,
) -> io::Result<(Vec<u8>, io::Result<()>)> {
    let mut stream = socket::tcp(address, within)?;
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", address.ip());
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let ended = (&mut stream).take(limit + 1).read_to_end(&mut answer);
    Ok((answer, ended.map(|_| ())))
}

/// Head and body.
fn split(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((&answer[..end], &answer[end + 4..]))
}

fn status(head: &[u8]) -> String {
    let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    first.chars().take(MAX_STATUS).filter(|character| !character.is_control()).collect()
}

fn is_ok(status: &str) -> bool {
    let mut words = status.split(' ');
    words.next().is_some_and(|version| version.starts_with("HTTP/1.")) && words.next() == Some("200")
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
