//! Asks the instance metadata service, version 2: a token first, then one value a request.
//!
//! Four requests of one line each: an HTTP client would weigh more than the rest of the agent.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer is a name, or a page of HTML that says why there is none.
const MAX_ANSWER: u64 = 16 * 1024;
const TOKEN_SECONDS: u32 = 60;

#[derive(Debug)]
pub(super) struct Imds {
    address: SocketAddr,
    timeout: Duration,
    token: Option<String>,
    /// Once it did not answer, it is not asked again: each try costs the whole timeout.
    dead: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ImdsError {
    #[error("{0}")]
    Silent(String),
    #[error("{path}: {status}")]
    Refused { path: String, status: String },
}

impl Imds {
    pub(super) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self { address, timeout, token: None, dead: None }
    }

    pub(super) fn get(&mut self, path: &str) -> Result<String, ImdsError> {
        if let Some(why) = &self.dead {
            return Err(ImdsError::Silent(why.clone()));
        }
        let result = self.try_get(path);
        if let Err(ImdsError::Silent(why)) = &result {
            self.dead = Some(why.clone());
        }
        result
    }

    fn try_get(&mut self, path: &str) -> Result<String, ImdsError> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => {
                let header = format!("X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_SECONDS}");
                let token = self.request("PUT", "/latest/api/token", &header)?;
                self.token.insert(token).clone()
            }
        };
        self.request(
            "GET",
            &format!("/latest/meta-data/{path}"),
            &format!("X-aws-ec2-metadata-token: {token}"),
        )
    }

    fn request(&self, method: &str, path: &str, header: &str) -> Result<String, ImdsError> {
        let answer = self
            .exchange(&format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n{header}\r\n\r\n", self.address.ip()))
            .map_err(|error| ImdsError::Silent(error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some("200") if !body.trim().is_empty() => Ok(body.trim().to_owned()),
            _ => Err(ImdsError::Refused {
                path: path.to_owned(),
                status: status.chars().take(80).filter(|character| !character.is_control()).collect(),
            }),
        }
    }

    fn exchange(&self, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let read = (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer);
        // Some servers keep the connection open in spite of HTTP/1.0: what came is what counts.
        if answer.is_empty() {
            read?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
