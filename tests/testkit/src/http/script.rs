//! A server whose answers a test lists in advance. It can be AWS or a Kubernetes API server.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio_rustls::TlsAcceptor;

use super::{Reply, Request, serve};

/// A server that gives the listed answers in order, each to the operation that it belongs to, and keeps the requests.
#[derive(Debug, Clone)]
pub struct ScriptedServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    script: HashMap<String, VecDeque<Reply>>,
    received: Vec<Request>,
}

impl ScriptedServer {
    /// Serves until the test ends. A request without an answer in the script gets status 418.
    pub async fn start(
        tls: Option<TlsAcceptor>,
        script: impl IntoIterator<Item = (&'static str, Reply)>,
    ) -> Self {
        let mut state = State::default();
        for (operation, reply) in script {
            state.script.entry(operation.to_owned()).or_default().push_back(reply);
        }
        let state = Arc::new(Mutex::new(state));
        let own = state.clone();
        let address = serve(tls, move |request| {
            let mut state = own.lock().expect("the state");
            let script = state.script.get_mut(&request.operation());
            let reply = script.and_then(VecDeque::pop_front);
            state.received.push(request);
            reply.unwrap_or_else(|| Reply::text(418, "the test has no answer"))
        })
        .await;
        Self { address, state }
    }

    /// The requests for one operation.
    pub fn received(&self, operation: &str) -> Vec<Request> {
        self.all_received().into_iter().filter(|request| request.operation() == operation).collect()
    }

    /// All requests.
    pub fn all_received(&self) -> Vec<Request> {
        self.lock().received.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }
}
