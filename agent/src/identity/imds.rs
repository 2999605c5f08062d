//! Asks the instance metadata service, version 2: a token first, then one value a request.

use std::{net::SocketAddr, time::Duration};

use crate::source::http;

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
        let answer = http::request(&self.address, method, path, &format!("{header}\r\n"), self.timeout)
            .map_err(|error| ImdsError::Silent(error.to_string()))?;
        if answer.is_ok() && !answer.body.is_empty() {
            Ok(answer.body)
        } else {
            Err(ImdsError::Refused { path: path.to_owned(), status: answer.status })
        }
    }
}
