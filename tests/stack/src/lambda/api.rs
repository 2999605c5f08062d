//! The Runtime API: a process requests its next event here, and posts the answer to its last one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State},
    http::{Response, StatusCode},
    routing::{get, post},
};
use bytes::Bytes;
use nodemend_aws::clock::SystemClock;
use nodemend_ports::clock::Clock;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
};

use super::lock;
use crate::ids;

/// Lambda's limit for the size of an answer.
const MAX_RESPONSE: usize = 6 * 1024 * 1024;

/// One invocation.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) payload: Bytes,
    pub(super) timeout: Duration,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The process's answer to an invocation.
#[derive(Debug)]
pub(super) enum Reply {
    Response(Bytes),
    Error(String),
}

/// The first request of a process: for an invocation, or the error that it could not start with.
#[derive(Debug)]
pub(super) enum FirstRequest {
    Next,
    Error(String),
}

#[derive(Debug)]
struct Api {
    name: String,
    pending: AsyncMutex<mpsc::Receiver<Invocation>>,
    current: Mutex<Option<(String, oneshot::Sender<Reply>)>>,
    first_request: Mutex<Option<oneshot::Sender<FirstRequest>>>,
}

/// An error in the format of Lambda's runtimes.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ErrorBody {
    error_message: String,
    error_type: String,
}

/// Serves the Runtime API to one process.
pub(super) async fn serve(
    listener: TcpListener,
    name: String,
    pending: mpsc::Receiver<Invocation>,
    first_request: oneshot::Sender<FirstRequest>,
) {
    let api = Api {
        name,
        pending: pending.into(),
        current: Mutex::default(),
        first_request: Mutex::new(Some(first_request)),
    };
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(MAX_RESPONSE))
        .with_state(Arc::new(api));
    // The server ends with its task, and nothing could handle an error then.
    let _ = axum::serve(listener, router).await;
}

async fn next(State(api): State<Arc<Api>>) -> Response<Body> {
    if let Some(first) = lock(&api.first_request).take() {
        let _ = first.send(FirstRequest::Next);
    }
    let Some(invocation) = api.pending.lock().await.recv().await else {
        return empty(StatusCode::GONE);
    };
    let id = ids::uuid();
    let deadline = SystemClock.now().as_millisecond()
        + i64::try_from(invocation.timeout.as_millis()).unwrap_or(i64::MAX / 2);
    *lock(&api.current) = Some((id.clone(), invocation.reply));
    Response::builder()
        .header("lambda-runtime-aws-request-id", id)
        .header("lambda-runtime-deadline-ms", deadline)
        .header(
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:{}:{}:function:{}", ids::REGION, ids::ACCOUNT, api.name),
        )
        .header("content-type", "application/json")
        .body(Body::from(invocation.payload))
        .unwrap_or_default()
}

async fn response(State(api): State<Arc<Api>>, Path(id): Path<String>, body: Bytes) -> Response<Body> {
    api.answer(&id, Reply::Response(body))
}

async fn error(State(api): State<Arc<Api>>, Path(id): Path<String>, body: Bytes) -> Response<Body> {
    api.answer(&id, Reply::Error(error_text(&body)))
}

async fn init_error(State(api): State<Arc<Api>>, body: Bytes) -> Response<Body> {
    if let Some(first) = lock(&api.first_request).take() {
        let _ = first.send(FirstRequest::Error(error_text(&body)));
    }
    empty(StatusCode::ACCEPTED)
}

impl Api {
    fn answer(&self, id: &str, reply: Reply) -> Response<Body> {
        let current = lock(&self.current).take_if(|(current, _)| current == id);
        match current {
            Some((_, sender)) => {
                let _ = sender.send(reply);
                empty(StatusCode::ACCEPTED)
            }
            None => empty(StatusCode::BAD_REQUEST),
        }
    }
}

fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error_message, error_type }) if error_message.is_empty() => error_type,
        Ok(ErrorBody { error_message, .. }) => error_message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
