//! An HTTP/1.1 server on loopback, with or without TLS, whose answers a test decides.

mod script;
mod tls;

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

pub use self::{
    script::ScriptedServer,
    tls::{ServerCertificate, tls},
};

/// A request that was read to its end.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query, percent-decoded.
    pub target: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The fields of the query.
    pub query: BTreeMap<String, String>,
    /// The headers; their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

impl Request {
    /// The fields of a body that is a form.
    pub fn form(&self) -> BTreeMap<String, String> {
        fields(&self.body)
    }

    /// The action of a query service, or the `x-amz-target` header, or else the method, path and query.
    pub fn operation(&self) -> String {
        let action = if self.body.starts_with('{') { None } else { self.form().remove("Action") };
        let named = action.or_else(|| self.headers.get("x-amz-target").cloned());
        named.unwrap_or_else(|| format!("{} {}", self.method, self.target))
    }

    /// A header, or an empty string.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).cloned().unwrap_or_default()
    }
}

/// How the server handles a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It is answered.
    Answer(Answer),
    /// The connection is closed without an answer.
    Close,
    /// There is no answer, and the connection stays open.
    Hang,
}

impl Reply {
    /// An answer without further headers.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(answer(status, body))
    }

    /// An answer in JSON, without further headers.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers but for the length, each with its line end.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer without further headers.
pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: String::new(), body: body.into() }
}

type Handler = dyn Fn(Request) -> Reply + Send + Sync;

/// Serves until the test ends, and returns the address. Connections are kept alive.
pub async fn serve(
    tls: Option<TlsAcceptor>,
    handler: impl Fn(Request) -> Reply + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let handler: Arc<Handler> = Arc::new(handler);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, handler) = (tls.clone(), handler.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve_connection(stream, &*handler).await,
                    Some(tls) => {
                        // A client that does not trust the certificate ends the handshake.
                        if let Ok(stream) = tls.accept(stream).await {
                            serve_connection(stream, &*handler).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, handler: &Handler) {
    let mut stream = BufReader::new(stream);
    while let Some(message) = read_message(&mut stream).await {
        let Answer { status, headers, body } = match handler(request(message)) {
            Reply::Answer(answer) => answer,
            Reply::Close => return,
            Reply::Hang => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
        let answer = [head.as_bytes(), &body].concat();
        if stream.get_mut().write_all(&answer).await.is_err() || stream.get_mut().flush().await.is_err() {
            return;
        }
    }
}

/// Reads one message with a `content-length`, byte for byte; none at the end of the connection.
pub async fn read_message(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        message.extend_from_slice(line.as_bytes());
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let head = message.len();
    message.resize(head + length, 0);
    stream.read_exact(&mut message[head..]).await.ok()?;
    Some(message)
}

fn request(message: Vec<u8>) -> Request {
    let message = String::from_utf8(message).expect("a request is UTF-8");
    let (head, body) = message.split_once("\r\n\r\n").expect("a request has a head");
    let mut lines = head.lines();
    let mut first = lines.next().expect("a request has a first line").split(' ');
    let (Some(method), Some(target)) = (first.next(), first.next()) else { panic!("{head}") };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(':'));
    Request {
        method: method.to_owned(),
        target: decoded(target),
        path: decoded(path),
        query: fields(query),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect(),
        body: body.to_owned(),
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut encoded = text.bytes();
    while let Some(byte) = encoded.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).expect("a digit");
        bytes.push(match byte {
            b'%' => u8::try_from(hex(encoded.next()) * 16 + hex(encoded.next())).expect("a byte"),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("an encoded string is UTF-8")
}
