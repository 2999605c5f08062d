//! A client of the instance metadata service, version 2: a token first, then one value a request.

use std::{net::SocketAddr, time::Duration};

use crate::source::http::{self, Method, StatusCode};

const TOKEN_SECONDS: u32 = 60;

#[derive(Debug)]
pub(super) struct Imds {
    address: SocketAddr,
    timeout: Duration,
    token: Option<String>,
    /// The error of the first request without a response. After it no more requests are sent, since each would take
    /// the whole timeout.
    failure: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ImdsError {
    #[error("{0}")]
    NoResponse(String),
    #[error("{path}: {status}")]
    ErrorStatus { path: String, status: StatusCode },
}

impl Imds {
    pub(super) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self { address, timeout, token: None, failure: None }
    }

    pub(super) fn get(&mut self, path: &str) -> Result<String, ImdsError> {
        if let Some(why) = &self.failure {
            return Err(ImdsError::NoResponse(why.clone()));
        }
        let result = self.try_get(path);
        if let Err(ImdsError::NoResponse(why)) = &result {
            self.failure = Some(why.clone());
        }
        result
    }

    fn try_get(&mut self, path: &str) -> Result<String, ImdsError> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => {
                let seconds = TOKEN_SECONDS.to_string();
                let header = ("x-aws-ec2-metadata-token-ttl-seconds", seconds.as_str());
                let token = self.request(Method::PUT, "/latest/api/token", header)?;
                self.token.insert(token).clone()
            }
        };
        let path = format!("/latest/meta-data/{path}");
        self.request(Method::GET, &path, ("x-aws-ec2-metadata-token", &token))
    }

    fn request(&self, method: Method, path: &str, header: (&str, &str)) -> Result<String, ImdsError> {
        let response = http::request(self.address, method, path, Some(header), self.timeout)
            .map_err(|error| ImdsError::NoResponse(error.to_string()))?;
        if response.status == StatusCode::OK && !response.body.is_empty() {
            Ok(response.body)
        } else {
            Err(ImdsError::ErrorStatus { path: path.to_owned(), status: response.status })
        }
    }
}
