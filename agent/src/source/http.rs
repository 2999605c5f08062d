//! Turns a request of one line into its answer, over HTTP/1.0.
//!
//! The instance metadata service and the kubelet are asked for a line of text on the node itself: an HTTP client would
//! weigh more than the rest of the agent.

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
        self.status.split(' ').nth(1) == Some("200")
    }
}

/// Asks; `headers` are whole lines. All of it shares the time.
pub fn request(
    address: &SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    within: Duration,
) -> io::Result<Answer> {
    let mut stream = socket::tcp(address, within)?;
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n", address.ip());
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let read = (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer);
    // Some servers keep the connection open in spite of HTTP/1.0: what came is what counts.
    if answer.is_empty() {
        read?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    Ok(Answer {
        status: status.chars().take(MAX_STATUS).filter(|character| !character.is_control()).collect(),
        body: body.trim().to_owned(),
    })
}
