//! A client for AWS's Query, JSON and REST JSON protocols.
//!
//! The stack itself makes only a few calls, and each crate of the SDK would add minutes to its build.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use bytes::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::ids;

/// The maximum size of an answer: more than any call of the stack gets.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// How long a request can take. The emulator loads each service at its first request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The server did not answer.
    #[error("failed to reach {address}: {why}")]
    Unreachable {
        /// The address of the server.
        address: SocketAddr,
        /// The cause.
        why: String,
    },
    /// The server answered with an error.
    #[error("failed to call {operation}: HTTP {status}: {answer}")]
    Refused {
        /// The operation that was called.
        operation: String,
        /// The HTTP status.
        status: u16,
        /// The first 300 characters of the answer.
        answer: String,
    },
    /// The answer could not be parsed.
    #[error("failed to read the answer of {operation}: {why}")]
    Unreadable {
        /// The operation that was called.
        operation: String,
        /// The cause.
        why: String,
    },
}

/// A client of one server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct QueryClient {
    client: Client<HttpConnector, Body>,
    address: SocketAddr,
}

impl QueryClient {
    /// A client of the server at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address }
    }

    /// Sends a request to the server and returns the whole answer. Only the address in the URI is changed.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Bytes>, QueryError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let unreachable = |why: String| QueryError::Unreachable { address: self.address, why };
        *request.uri_mut() = format!("http://{}{path}", self.address)
            .parse()
            .map_err(|error: axum::http::uri::InvalidUri| unreachable(error.to_string()))?;
        let answer = async {
            let (head, body) =
                self.client.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = to_bytes(Body::new(body), MAX_ANSWER).await.map_err(|error| error.to_string())?;
            Ok(Response::from_parts(head, body))
        };
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer).await;
        answer
            .unwrap_or_else(|_| Err(format!("no answer within {}s", REQUEST_TIMEOUT.as_secs())))
            .map_err(unreachable)
    }

    /// Calls a service with the Query protocol (a form, answered with XML), as an operator.
    pub async fn query(&self, service: &str, fields: &[(&str, &str)]) -> Result<String, QueryError> {
        let form: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value)))
            .collect();
        let operation =
            fields.iter().find(|(name, _)| *name == "Action").map_or(service, |(_, action)| action);
        let request = request(service, "/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.join("&")));
        let body = self.answer(operation, request).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Calls a service with the JSON protocol, as an operator. `target` is the header `x-amz-target`.
    pub async fn json(&self, service: &str, target: &str, body: &Value) -> Result<Value, QueryError> {
        let request = request(service, "/")
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .body(Body::from(body.to_string()));
        let body = self.answer(target, request).await?;
        // Some operations answer with an empty body.
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text)
            .map_err(|error| QueryError::Unreadable { operation: target.to_owned(), why: error.to_string() })
    }

    /// Calls a service with the REST JSON protocol, as an operator.
    pub async fn post(&self, service: &str, path: &str, body: &Value) -> Result<(), QueryError> {
        let request = request(service, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()));
        self.answer(path, request).await.map(drop)
    }

    async fn answer(
        &self,
        operation: &str,
        request: Result<Request<Body>, axum::http::Error>,
    ) -> Result<Bytes, QueryError> {
        let request = request.map_err(|error| QueryError::Unreadable {
            operation: operation.to_owned(),
            why: error.to_string(),
        })?;
        let answer = self.send(request).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let status = answer.status().as_u16();
        let answer = String::from_utf8_lossy(answer.body()).chars().take(300).collect();
        Err(QueryError::Refused { operation: operation.to_owned(), status, answer })
    }
}

fn request(service: &str, path: &str) -> axum::http::request::Builder {
    let scope = format!("Credential=local/20260101/{}/{service}/aws4_request", ids::REGION);
    Request::post(path).header(header::HOST, format!("{service}.{}.amazonaws.com", ids::REGION)).header(
        header::AUTHORIZATION,
        format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=local"),
    )
}

/// The parts of a signature's credential scope that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialScope {
    /// The access key.
    pub access_key: String,
    /// The service's name in signatures, such as `autoscaling` or `logs`.
    pub service: String,
}

impl CredentialScope {
    /// Parses `AWS4-HMAC-SHA256 Credential=<access key>/<date>/<region>/<service>/aws4_request, …`.
    pub fn parse(authorization: &str) -> Option<Self> {
        let (_, credential) = authorization.split_once("Credential=")?;
        let mut parts = credential.split(',').next()?.split('/');
        let (access_key, _date, _region, service) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { access_key: access_key.to_owned(), service: service.to_owned() })
    }
}

/// The fields of a form, decoded.
pub fn parse_form(body: &[u8]) -> Vec<(String, String)> {
    let body = String::from_utf8_lossy(body);
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
        .collect()
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = || u8::from_str_radix(str::from_utf8(after.get(..2)?).ok()?, 16).ok();
        match (byte, hex()) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The contents of all elements with this name. An element must not contain another one of the same name; in
/// AWS's XML, none does.
pub fn elements<'x>(xml: &'x str, name: &str) -> impl Iterator<Item = &'x str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let start = rest.find(&open)? + open.len();
        let length = rest[start..].find(&close)?;
        let text = &rest[start..start + length];
        rest = &rest[start + length + close.len()..];
        Some(text)
    })
}

/// The content of the first element with this name, or an empty text.
pub fn element<'x>(xml: &'x str, name: &str) -> &'x str {
    elements(xml, name).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_form_is_parsed_to_the_same_fields() {
        let value = "a b&c=d%+ü";
        let body = format!("Action={}", percent_encoded(value));
        assert_eq!(parse_form(body.as_bytes()), [("Action".to_owned(), value.to_owned())]);
        assert_eq!(
            parse_form(b"a=b+c&d=%zz&e"),
            [("a".into(), "b c".into()), ("d".to_owned(), "%zz".to_owned())]
        );
    }

    #[test]
    fn a_signature_has_the_access_key_and_the_service() {
        let scope = CredentialScope::parse(
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/logs/aws4_request, SignedHeaders=host, Signature=x",
        );
        let expected = CredentialScope { access_key: "AKID".to_owned(), service: "logs".to_owned() };
        assert_eq!(scope, Some(expected));
        assert_eq!(CredentialScope::parse("Bearer x"), None);
    }

    #[test]
    fn elements_are_found_in_order() {
        let xml = "<a><b>1</b><c><b>2</b></c></a>";
        assert_eq!(elements(xml, "b").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((element(xml, "c"), element(xml, "d")), ("<b>2</b>", ""));
    }
}
