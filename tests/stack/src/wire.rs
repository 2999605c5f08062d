//! Turns requests in AWS's two old protocols, forms and JSON, into their answers.
//!
//! What the stack itself needs of AWS is a handful of calls; each of the SDK's crates would be minutes of building.

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

/// More than any answer that is waited for.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// The emulator loads a service when it is first asked for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer, or none of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nobody answered.
    #[error("failed to reach {address}: {why}")]
    Unreachable {
        /// Who.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// The answer is an error.
    #[error("failed to call {operation}: HTTP {status}: {answer}")]
    Refused {
        /// What was called.
        operation: String,
        /// The status.
        status: u16,
        /// The answer's beginning.
        answer: String,
    },
    /// The answer is not what it should be.
    #[error("failed to read the answer of {operation}: {why}")]
    Unreadable {
        /// What was called.
        operation: String,
        /// What is wrong.
        why: String,
    },
}

/// A way to a server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Wire {
    client: Client<HttpConnector, Body>,
    address: SocketAddr,
}

impl Wire {
    /// A way to this address.
    pub fn to(address: SocketAddr) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address }
    }

    /// Sends a request as it is, to this server; the whole answer.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Bytes>, WireError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let unreachable = |why: String| WireError::Unreachable { address: self.address, why };
        *request.uri_mut() = format!("http://{}{path}", self.address)
            .parse()
            .map_err(|error: axum::http::uri::InvalidUri| unreachable(error.to_string()))?;
        let answer = async {
            let (head, body) =
                self.client.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = to_bytes(Body::new(body), MAX_ANSWER).await.map_err(|error| error.to_string())?;
            Ok(Response::from_parts(head, body))
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        answer.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(unreachable)
    }

    /// Calls a service of forms and XML, as an operator.
    pub async fn query(&self, service: &str, fields: &[(&str, &str)]) -> Result<String, WireError> {
        let form: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        let operation =
            fields.iter().find(|(name, _)| *name == "Action").map_or(service, |(_, action)| action);
        let request = request(service, "/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.join("&")));
        let body = self.answer(operation, request).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Calls a service of JSON, as an operator; `target` is what its header names.
    pub async fn json(&self, service: &str, target: &str, body: &Value) -> Result<Value, WireError> {
        let request = request(service, "/")
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .body(Body::from(body.to_string()));
        let body = self.answer(target, request).await?;
        // Some have nothing to say.
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text)
            .map_err(|error| WireError::Unreadable { operation: target.to_owned(), why: error.to_string() })
    }

    /// Calls a service of paths, as an operator.
    pub async fn post(&self, service: &str, path: &str, body: &Value) -> Result<(), WireError> {
        let request = request(service, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()));
        self.answer(path, request).await.map(drop)
    }

    async fn answer(
        &self,
        operation: &str,
        request: Result<Request<Body>, axum::http::Error>,
    ) -> Result<Bytes, WireError> {
        let request = request.map_err(|error| WireError::Unreadable {
            operation: operation.to_owned(),
            why: error.to_string(),
        })?;
        let answer = self.send(request).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let status = answer.status().as_u16();
        let answer = String::from_utf8_lossy(answer.body()).chars().take(300).collect();
        Err(WireError::Refused { operation: operation.to_owned(), status, answer })
    }
}

fn request(service: &str, path: &str) -> axum::http::request::Builder {
    let scope = format!("Credential=local/20260101/{}/{service}/aws4_request", ids::REGION);
    Request::post(path).header(header::HOST, format!("{service}.{}.amazonaws.com", ids::REGION)).header(
        header::AUTHORIZATION,
        format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=local"),
    )
}

/// For whom a request was signed, and for which service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The access key.
    pub key: String,
    /// The service, as signatures name it: `autoscaling`, `logs`.
    pub service: String,
}

impl Scope {
    /// Reads `AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, …`.
    pub fn read(authorization: &str) -> Option<Self> {
        let (_, credential) = authorization.split_once("Credential=")?;
        let mut parts = credential.split(',').next()?.split('/');
        let (key, _day, _region, service) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { key: key.to_owned(), service: service.to_owned() })
    }
}

/// Takes a form apart.
pub fn form(body: &[u8]) -> Vec<(String, String)> {
    let body = String::from_utf8_lossy(body);
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = || u8::from_str_radix(str::from_utf8(after.get(..2)?).ok()?, 16).ok();
        match (byte, hex()) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The texts of all elements of this name, where elements of it don't hold each other: AWS's XML is so plain.
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

/// The text of the first such element; empty where there is none.
pub fn element<'x>(xml: &'x str, name: &str) -> &'x str {
    elements(xml, name).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_it_was_written() {
        let value = "a b&c=d%+ü";
        let body = format!("Action={}", escaped(value));
        assert_eq!(form(body.as_bytes()), [("Action".to_owned(), value.to_owned())]);
        assert_eq!(form(b"a=b+c&d=%zz&e"), [("a".into(), "b c".into()), ("d".to_owned(), "%zz".to_owned())]);
    }

    #[test]
    fn a_signature_tells_who_asks_whom() {
        let scope = Scope::read(
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/logs/aws4_request, SignedHeaders=host, Signature=x",
        );
        assert_eq!(scope, Some(Scope { key: "AKID".to_owned(), service: "logs".to_owned() }));
        assert_eq!(Scope::read("Bearer x"), None);
    }

    #[test]
    fn elements_are_found_in_order() {
        let xml = "<a><b>1</b><c><b>2</b></c></a>";
        assert_eq!(elements(xml, "b").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((element(xml, "c"), element(xml, "d")), ("<b>2</b>", ""));
    }
}
