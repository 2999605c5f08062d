//! Sends one request to a cluster's API server.
//!
//! - TLS trusts only the cluster's own certificate authority.
//! - The size and the time of an answer are limited.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nodemend_ports::{cause::Cause, gunzip::gunzip, kubernetes::KubernetesError};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

/// The timeout of a TCP connection, which an endpoint that cannot be reached uses up. The TLS handshake has the request's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of a request. While it is in flight, no heartbeat is sent to Auto Scaling.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// How a client presents itself, and what it accepts.
#[derive(Debug, Clone)]
pub(super) struct ClientSettings {
    /// Names the function: the API server writes it to its audit log.
    pub(super) user_agent: String,
    /// The most bytes of an answer, as sent and as decompressed.
    pub(super) max_answer: usize,
    /// Whether to accept gzip. The API server compresses answers of more than 128 KiB.
    pub(super) gzip: bool,
}

/// One API server, with the token of one user.
#[derive(Debug)]
pub(super) struct Api {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: String,
    token: String,
    settings: ClientSettings,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// In seconds.
    pub(super) retry_after: Option<i64>,
}

impl Api {
    /// The server at this endpoint, whose certificate one of these authorities (PEM) signed.
    pub(super) fn new(
        endpoint: &str,
        authorities: &[u8],
        token: String,
        settings: ClientSettings,
    ) -> Result<Self, KubernetesError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            let authority = authority.map_err(unusable)?;
            roots.add(authority).map_err(unusable)?;
        }
        if roots.is_empty() {
            return Err(KubernetesError::Broken("the cluster has no certificate authority".into()));
        }
        // ring, as everywhere, and none of the system's certificate authorities.
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| KubernetesError::Broken(Cause::new(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, endpoint: endpoint.trim_end_matches('/').to_owned(), token, settings })
    }

    /// Sends a request. There are no retries, and redirects are not followed.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Value)>,
    ) -> Result<Answer, KubernetesError> {
        let (kind, body) = match body {
            Some((kind, body)) => (Some(kind), Bytes::from(body.to_string())),
            None => (None, Bytes::new()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, &self.settings.user_agent);
        if self.settings.gzip {
            request = request.header(header::ACCEPT_ENCODING, "gzip");
        }
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| KubernetesError::Broken(Cause::new(error)))?;
        let answered = async {
            let answer = self.http.request(request).await.map_err(|error| {
                if error.is_connect() {
                    KubernetesError::Unreachable(Cause::new(error))
                } else {
                    KubernetesError::Unavailable(Cause::new(error))
                }
            })?;
            let (parts, body) = answer.into_parts();
            let retry_after = parts.headers.get(header::RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            let most = self.settings.max_answer;
            let body = Limited::new(body, most).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    KubernetesError::Broken(format!("the answer is longer than {most} bytes").into())
                } else {
                    KubernetesError::Unavailable(Cause::new(error))
                }
            })?;
            let body = decoded(parts.headers.get(header::CONTENT_ENCODING), body.to_bytes(), most)?;
            Ok(Answer { status: parts.status.as_u16(), body, retry_after })
        };
        tokio::time::timeout(REQUEST_TIMEOUT, answered).await.unwrap_or_else(|_| {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Err(KubernetesError::Unavailable(format!("no answer within {seconds} s").into()))
        })
    }
}

fn decoded(encoding: Option<&HeaderValue>, body: Bytes, most: usize) -> Result<Bytes, KubernetesError> {
    match encoding.map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(body),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            let length = gunzip(&body, &mut plain, most)
                .map_err(|error| KubernetesError::Broken(Cause::new(error)))?;
            plain.truncate(length);
            Ok(plain.into())
        }
        Some(_) => Err(KubernetesError::Broken("the answer has an encoding that was not accepted".into())),
    }
}

/// The cluster's certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use the cluster's certificate authority")]
struct AuthorityError(#[source] Box<dyn std::error::Error + Send + Sync>);

pub(super) fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> KubernetesError {
    KubernetesError::Broken(Cause::new(AuthorityError(error.into())))
}

/// Percent-encodes a value for a query.
pub(super) fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}
