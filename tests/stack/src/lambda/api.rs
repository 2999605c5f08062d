//! The Runtime API: what a process asks for its next event, and tells of its last.

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

/// Lambda takes no longer answer.
const MAX_RESPONSE: usize = 6 * 1024 * 1024;

/// One invocation.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) payload: Bytes,
    pub(super) timeout: Duration,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What the process said of it.
#[derive(Debug)]
pub(super) enum Reply {
    Response(Bytes),
    Error(String),
}

/// What the process said first.
#[derive(Debug)]
pub(super) enum First {
    Next,
    Error(String),
}

#[derive(Debug)]
struct Api {
    name: String,
    to_do: AsyncMutex<mpsc::Receiver<Work>>,
    doing: Mutex<Option<(String, oneshot::Sender<Reply>)>>,
    first: Mutex<Option<oneshot::Sender<First>>>,
}

/// An error, as Lambda's runtimes send it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ErrorBody {
    error_message: String,
    error_type: String,
}

/// Serves one process.
pub(super) async fn serve(
    listener: TcpListener,
    name: String,
    to_do: mpsc::Receiver<Work>,
    first: oneshot::Sender<First>,
) {
    let api = Api { name, to_do: to_do.into(), doing: Mutex::default(), first: Mutex::new(Some(first)) };
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(MAX_RESPONSE))
        .with_state(Arc::new(api));
    // It ends with the task: there is nobody to tell of an error.
    let _ = axum::serve(listener, router).await;
}

async fn next(State(api): State<Arc<Api>>) -> Response<Body> {
    if let Some(first) = lock(&api.first).take() {
        let _ = first.send(First::Next);
    }
    let Some(work) = api.to_do.lock().await.recv().await else {
        return empty(StatusCode::GONE);
    };
    let id = ids::uuid();
    let deadline =
        SystemClock.now().as_millisecond() + i64::try_from(work.timeout.as_millis()).unwrap_or(i64::MAX / 2);
    *lock(&api.doing) = Some((id.clone(), work.reply));
    Response::builder()
        .header("lambda-runtime-aws-request-id", id)
        .header("lambda-runtime-deadline-ms", deadline)
        .header(
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:{}:{}:function:{}", ids::REGION, ids::ACCOUNT, api.name),
        )
        .header("content-type", "application/json")
        .body(Body::from(work.payload))
        .unwrap_or_default()
}

async fn response(State(api): State<Arc<Api>>, Path(id): Path<String>, body: Bytes) -> Response<Body> {
    api.answer(&id, Reply::Response(body))
}

async fn error(State(api): State<Arc<Api>>, Path(id): Path<String>, body: Bytes) -> Response<Body> {
    api.answer(&id, Reply::Error(error_text(&body)))
}

async fn init_error(State(api): State<Arc<Api>>, body: Bytes) -> Response<Body> {
    if let Some(first) = lock(&api.first).take() {
        let _ = first.send(First::Error(error_text(&body)));
    }
    empty(StatusCode::ACCEPTED)
}

impl Api {
    fn answer(&self, id: &str, reply: Reply) -> Response<Body> {
        let doing = lock(&self.doing).take_if(|(doing, _)| doing == id);
        match doing {
            Some((_, answer)) => {
                let _ = answer.send(reply);
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
