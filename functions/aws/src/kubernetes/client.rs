//! Turns one request to a cluster's API server into its answer: over TLS that trusts the cluster's own authority alone,
//! with every byte and every second bounded.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nodemend_ports::kubernetes::KubernetesError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

/// A connection, with all that TLS says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One request with its answer. While it lasts, nobody tells Auto Scaling that we are still here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// A page of pods is a few MiB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// One API server, as one user.
#[derive(Debug)]
pub(super) struct Api {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: String,
    token: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// In seconds.
    pub(super) retry_after: Option<i64>,
}

impl Api {
    /// The server at this endpoint, whose certificate one of these authorities (PEM) signed.
    pub(super) fn new(endpoint: &str, authorities: &[u8], token: String) -> Result<Self, KubernetesError> {
        let broken =
            |what: &str, why: &dyn std::fmt::Display| KubernetesError::Broken(format!("{what}: {why}"));
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            let authority = authority.map_err(|error| broken("the cluster's authority", &error))?;
            roots.add(authority).map_err(|error| broken("the cluster's authority", &error))?;
        }
        if roots.is_empty() {
            return Err(broken("the cluster's authority", &"it is missing"));
        }
        // ring, as everywhere; and of the system's authorities none.
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| broken("TLS", &error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, endpoint: endpoint.trim_end_matches('/').to_owned(), token })
    }

    /// Sends a request. It is never sent twice, nor to where an answer points.
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
            .header(header::USER_AGENT, concat!("nodemend-drain/", env!("CARGO_PKG_VERSION")));
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| KubernetesError::Broken(error.to_string()))?;
        let answered = async {
            let answer = self.http.request(request).await.map_err(|error| unavailable(&error))?;
            let (parts, body) = answer.into_parts();
            let retry_after = parts.headers.get(header::RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    KubernetesError::Broken(format!("it is longer than {MAX_ANSWER} bytes"))
                } else {
                    unavailable(&*error)
                }
            })?;
            Ok(Answer { status: parts.status.as_u16(), body: body.to_bytes(), retry_after })
        };
        tokio::time::timeout(REQUEST_TIMEOUT, answered).await.unwrap_or_else(|_| {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Err(KubernetesError::Unavailable(format!("no answer within {seconds} s")))
        })
    }
}

/// An error and all that caused it.
fn unavailable(error: &(dyn std::error::Error + 'static)) -> KubernetesError {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    KubernetesError::Unavailable(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// A value, fit for a query.
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
