//! AWS on loopback: recorded answers for the operations that they belong to, and what the requests had.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use nodemend_testkit::http::{self, Answer, Request, ScriptedServer, answer};

pub(crate) const REQUEST_ID: &str = "355914bb-5d46-4b49-87cc-d2b1522881f4";

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// An answer: its status, and a file of the fixtures as its body.
    File(u16, &'static str),
    /// An error of a service that speaks JSON: its status, its type, and a file of the fixtures as its body.
    Error(u16, &'static str, &'static str),
    /// An answer whose body is no file of the fixtures.
    Text(u16, &'static str),
    /// The connection is closed.
    Closed,
    /// No answer, and the connection stays open.
    Hang,
}

/// A request that the service received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The fields of a form.
    pub(crate) form: BTreeMap<String, String>,
    /// The body of a request in JSON.
    pub(crate) body: String,
    /// The service and region in the signature.
    pub(crate) scope: String,
    /// The access key in the signature.
    pub(crate) key: String,
    /// The session token.
    pub(crate) session: String,
    pub(crate) user_agent: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    server: ScriptedServer,
}

impl Service {
    pub(crate) async fn start(script: &[(&'static str, Reply)]) -> Self {
        let script = script.iter().map(|(operation, reply)| (*operation, reply.clone().into()));
        let server = ScriptedServer::start(None, script).await;
        Self { address: server.address, server }
    }

    /// All requests for one operation.
    pub(crate) fn received(&self, operation: &str) -> Vec<Received> {
        self.server.received(operation).iter().map(Received::of).collect()
    }
}

impl From<Reply> for http::Reply {
    fn from(reply: Reply) -> Self {
        let (Answer { status, body, .. }, error) = match reply {
            Reply::File(status, name) => (answer(status, file(name)), None),
            Reply::Error(status, error, name) => (answer(status, file(name)), Some(error)),
            Reply::Text(status, text) => (answer(status, text), None),
            Reply::Closed => return Self::Close,
            Reply::Hang => return Self::Hang,
        };
        let error = error.map(|error| format!("x-amzn-errortype: {error}\r\n")).unwrap_or_default();
        let headers = format!("x-amzn-requestid: {REQUEST_ID}\r\n{error}");
        Self::Answer(Answer { status, headers, body })
    }
}

impl Received {
    fn of(request: &Request) -> Self {
        let form = if request.body.starts_with('{') { BTreeMap::new() } else { request.form() };
        // AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, …
        let signature = request.header("authorization");
        let credential = signature.split(',').next().unwrap_or_default();
        let key =
            credential.split_once("Credential=").and_then(|(_, credential)| credential.split('/').next());
        Self {
            form,
            body: request.body.clone(),
            scope: credential.splitn(3, '/').last().unwrap_or_default().to_owned(),
            key: key.unwrap_or_default().to_owned(),
            session: request.header("x-amz-security-token"),
            user_agent: request.header("user-agent"),
        }
    }
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/aws").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
