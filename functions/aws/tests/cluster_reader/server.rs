//! An HTTP server on loopback, with TLS or without: answers given in order to the operation that they belong to, and the
//! requests that came. It is AWS and the API server alike.

use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status, further headers with their line ends, and the body.
    Answer(u16, &'static str, Vec<u8>),
    /// No answer, and the connection stays open.
    Hang,
}

impl Reply {
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Answer(status, "", body.as_bytes().to_vec())
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    /// A body that is sent as gzip.
    pub(crate) fn gzip(plain: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).expect("compressed");
        Self::encoded(encoder.finish().expect("compressed"))
    }

    /// A body that is said to be gzip.
    pub(crate) fn encoded(body: Vec<u8>) -> Self {
        Self::Answer(200, "content-encoding: gzip\r\n", body)
    }
}

/// A request that the server received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The action of a query service, the target of a service that names it, else method and path.
    pub(crate) operation: String,
    /// The headers; their names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<HashMap<&'static str, VecDeque<Reply>>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Serves until the test ends.
    pub(crate) async fn start(tls: Option<TlsAcceptor>, script: &[(&'static str, Reply)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let mut replies: HashMap<_, VecDeque<Reply>> = HashMap::new();
        for (operation, reply) in script {
            replies.entry(*operation).or_default().push_back(reply.clone());
        }
        let server = Self {
            address: listener.local_addr().expect("an address"),
            script: Arc::new(Mutex::new(replies)),
            received: Arc::default(),
        };
        let own = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (own, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => own.serve(stream).await,
                        // A client that does not trust the certificate ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                own.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// All requests for one operation.
    pub(crate) fn received(&self, operation: &str) -> Vec<Received> {
        self.all_received().into_iter().filter(|received| received.operation == operation).collect()
    }

    pub(crate) fn all_received(&self) -> Vec<Received> {
        self.received.lock().expect("the requests").clone()
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        while let Some(received) = read(&mut stream).await {
            let reply = self
                .script
                .lock()
                .expect("the script")
                .get_mut(received.operation.as_str())
                .and_then(VecDeque::pop_front);
            self.received.lock().expect("the requests").push(received);
            let (status, headers, body) = match reply {
                Some(Reply::Answer(status, headers, body)) => (status, headers, body),
                Some(Reply::Hang) => std::future::pending().await,
                None => (418, "", b"the test has no answer".to_vec()),
            };
            let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
            let sent = stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).await;
            if sent.is_err() || stream.get_mut().flush().await.is_err() {
                return;
            }
        }
    }
}

async fn read(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Received> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).expect("text");
    let action = body.split('&').find_map(|field| field.strip_prefix("Action=")).map(ToOwned::to_owned);
    let mut words = line.split(' ');
    let of_path = format!("{} {}", words.next()?, words.next()?);
    let operation = action.or_else(|| headers.get("x-amz-target").cloned()).unwrap_or(of_path);
    Some(Received { operation, headers, body })
}

/// A server's side of TLS, and its authority as EKS returns it.
pub(crate) fn tls() -> (TlsAcceptor, String) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let own = own.signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key)
        .expect("a certificate and its key");
    (TlsAcceptor::from(Arc::new(config)), BASE64_STANDARD.encode(certificate.pem()))
}
