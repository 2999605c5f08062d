//! AWS on loopback: recorded answers, given in order to the operation that they belong to, and the requests that came.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use nodemend_testkit::http::{self, Answer, Request, answer};

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
    /// The action of a query service, the target of a service that names it, else method and path.
    pub(crate) operation: String,
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

#[derive(Debug, Default)]
struct State {
    script: HashMap<&'static str, VecDeque<Reply>>,
    received: Vec<Received>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Service {
    pub(crate) async fn start(script: &[(&'static str, Reply)]) -> Self {
        let mut state = State::default();
        for (operation, reply) in script {
            state.script.entry(operation).or_default().push_back(reply.clone());
        }
        let state = Arc::new(Mutex::new(state));
        let own = state.clone();
        let address = http::serve(None, move |request| reply(&own, &request)).await;
        Self { address, state }
    }

    /// All requests for one operation.
    pub(crate) fn received(&self, operation: &str) -> Vec<Received> {
        let state = self.state.lock().expect("the state");
        state.received.iter().filter(|received| received.operation == operation).cloned().collect()
    }
}

fn reply(state: &Mutex<State>, request: &Request) -> http::Reply {
    let received = Received::of(request);
    let mut state = state.lock().expect("the state");
    let script = state.script.get_mut(received.operation.as_str());
    let reply = script.and_then(VecDeque::pop_front).unwrap_or(Reply::Text(418, "the test has no answer"));
    state.received.push(received);
    let (Answer { status, body, .. }, error) = match reply {
        Reply::File(status, name) => (answer(status, file(name)), None),
        Reply::Error(status, error, name) => (answer(status, file(name)), Some(error)),
        Reply::Text(status, text) => (answer(status, text), None),
        Reply::Closed => return http::Reply::Close,
        Reply::Hang => return http::Reply::Hang,
    };
    let error = error.map(|error| format!("x-amzn-errortype: {error}\r\n")).unwrap_or_default();
    let headers = format!("x-amzn-requestid: {REQUEST_ID}\r\n{error}");
    http::Reply::Answer(Answer { status, headers, body })
}

impl Received {
    fn of(request: &Request) -> Self {
        let form = if request.body.starts_with('{') { BTreeMap::new() } else { request.form() };
        let named = form.get("Action").or(request.headers.get("x-amz-target")).cloned();
        // AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, …
        let signature = request.header("authorization");
        let credential = signature.split(',').next().unwrap_or_default();
        let key =
            credential.split_once("Credential=").and_then(|(_, credential)| credential.split('/').next());
        Self {
            operation: named.unwrap_or_else(|| format!("{} {}", request.method, request.target)),
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
