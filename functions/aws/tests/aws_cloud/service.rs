//! AWS on a real socket: recorded answers, given in order to the operation they belong to, and what was asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

pub(crate) const REQUEST_ID: &str = "355914bb-5d46-4b49-87cc-d2b1522881f4";

/// What becomes of a request that was read to its end.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// An answer: its status, and its body, a file of the fixtures.
    File(u16, &'static str),
    /// An error of a JSON service: its status, its type, and its body.
    Error(u16, &'static str, &'static str),
    /// An answer that is no file of the fixtures.
    Text(u16, &'static str),
    /// The connection is closed.
    Closed,
    /// No answer, and the connection stays open.
    Hang,
}

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The action of a query service; the target of one that names it; method and path of the others.
    pub(crate) operation: String,
    /// The fields of the form.
    pub(crate) form: BTreeMap<String, String>,
    /// The body, of services that speak JSON.
    pub(crate) body: String,
    /// For which service and region it was signed.
    pub(crate) scope: String,
    /// With whose key.
    pub(crate) key: String,
    /// The token of a session, and what the client calls itself.
    pub(crate) session: String,
    pub(crate) user_agent: String,
}

#[derive(Debug, Default)]
struct State {
    script: HashMap<&'static str, VecDeque<Reply>>,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Service {
    pub(crate) async fn start(script: &[(&'static str, Reply)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let mut state = State::default();
        for (operation, reply) in script {
            state.script.entry(operation).or_default().push_back(reply.clone());
        }
        let address = listener.local_addr().expect("an address");
        let service = Self { address, state: Arc::new(Mutex::new(state)) };
        let own = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move { own.serve(BufReader::new(stream)).await });
            }
        });
        service
    }

    /// All requests for one operation.
    pub(crate) fn asked(&self, operation: &str) -> Vec<Asked> {
        let state = self.state.lock().expect("the state");
        state.asked.iter().filter(|asked| asked.operation == operation).cloned().collect()
    }

    async fn serve(&self, mut stream: BufReader<TcpStream>) {
        while let Some(asked) = read(&mut stream).await {
            let reply = self.reply(asked);
            let (status, error, body) = match reply {
                Reply::File(status, name) => (status, None, file(name)),
                Reply::Error(status, error, name) => (status, Some(error), file(name)),
                Reply::Text(status, text) => (status, None, text.to_owned()),
                Reply::Closed => return,
                Reply::Hang => std::future::pending().await,
            };
            let error = error.map(|error| format!("x-amzn-errortype: {error}\r\n")).unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nx-amzn-requestid: {REQUEST_ID}\r\n{error}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn reply(&self, asked: Asked) -> Reply {
        let mut state = self.state.lock().expect("the state");
        let script = state.script.get_mut(asked.operation.as_str());
        let reply = script.and_then(VecDeque::pop_front);
        let unasked = Reply::Text(418, "nobody expected this");
        state.asked.push(asked);
        reply.unwrap_or(unasked)
    }
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/aws").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
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
    let fields = if body.starts_with('{') { "" } else { body.as_str() };
    let form: BTreeMap<String, String> = fields
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect();
    let (method, path) = line.split_once(' ')?;
    let path = path.split(' ').next()?;
    let named = form.get("Action").or(headers.get("x-amz-target")).cloned();
    let operation = named.unwrap_or_else(|| format!("{method} {}", unescaped(path)));
    // AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, …
    let scope = headers.get("authorization").and_then(|signed| signed.split(',').next());
    let key = scope.and_then(|signed| signed.split_once("Credential=")?.1.split('/').next());
    let key = key.unwrap_or_default().to_owned();
    let scope = scope.map(|credential| credential.splitn(3, '/').last().unwrap_or_default().to_owned());
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let (session, user_agent) = (header("x-amz-security-token"), header("user-agent"));
    Some(Asked { operation, form, body, scope: scope.unwrap_or_default(), key, session, user_agent })
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).expect("a digit");
        bytes.push(match byte {
            b'%' => u8::try_from(hex(rest.next()) * 16 + hex(rest.next())).expect("a byte"),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}
