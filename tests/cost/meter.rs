//! A proxy before DynamoDB that adds up the consumed capacity of each request, as AWS would bill it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{Request, Response, StatusCode, header},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::net::TcpListener;

const MAX_BODY: usize = 16 * 1024 * 1024;

/// Requests to DynamoDB and the capacity that they consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Consumed {
    pub(crate) requests: f64,
    pub(crate) read_units: f64,
    pub(crate) write_units: f64,
}

impl std::ops::Sub for Consumed {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            requests: self.requests - other.requests,
            read_units: self.read_units - other.read_units,
            write_units: self.write_units - other.write_units,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Meter {
    database: SocketAddr,
    client: Client<HttpConnector, Body>,
    consumed: Arc<Mutex<Consumed>>,
}

impl Meter {
    /// Starts a proxy before a database; returns it and its address.
    pub(crate) async fn before(database: SocketAddr) -> (Self, SocketAddr) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let meter = Self { database, client, consumed: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new().fallback(pass).with_state(meter.clone());
        tokio::spawn(async { axum::serve(listener, app).await.expect("served") });
        (meter, address)
    }

    pub(crate) fn consumed(&self) -> Consumed {
        *self.consumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, operation: &str, answer: &Value) {
        let mut consumed = self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        consumed.requests += 1.0;
        let capacity = &answer["ConsumedCapacity"];
        let tables = capacity.as_array().map_or(std::slice::from_ref(capacity), Vec::as_slice);
        for table in tables {
            let units = table["CapacityUnits"].as_f64().unwrap_or_else(|| panic!("{operation}: {answer}"));
            match operation {
                "GetItem" | "Query" => consumed.read_units += units,
                "PutItem" | "UpdateItem" | "TransactWriteItems" => consumed.write_units += units,
                other => panic!("the capacity of {other} is unknown to this test"),
            }
        }
    }
}

async fn pass(State(meter): State<Meter>, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let target = parts.headers.get("x-amz-target").map(|target| target.to_str().expect("text").to_owned());
    let body = to_bytes(body, MAX_BODY).await.expect("a body");
    let Some(operation) = target.as_deref().and_then(|target| target.strip_prefix("DynamoDB_20120810."))
    else {
        return caller_identity();
    };
    let mut request_body: Value = serde_json::from_slice(&body).expect("JSON");
    let counted = !operation.ends_with("Table") && !operation.ends_with("TimeToLive");
    if counted {
        request_body["ReturnConsumedCapacity"] = "TOTAL".into();
    }
    parts.uri = format!("http://{}/", meter.database).parse().expect("an address");
    parts.headers.remove(header::CONTENT_LENGTH);
    let request = Request::from_parts(parts, Body::from(request_body.to_string()));
    let (parts, body) = meter.client.request(request).await.expect("an answer").into_parts();
    let body = to_bytes(Body::new(body), MAX_BODY).await.expect("a body");
    if counted && parts.status == StatusCode::OK {
        meter.count(operation, &serde_json::from_slice(&body).expect("JSON"));
    }
    Response::from_parts(parts, Body::from(body))
}

/// The answer of STS GetCallerIdentity, which the repair function calls once.
fn caller_identity() -> Response<Body> {
    let answer = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
        <Arn>arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend</Arn><UserId>AROAEXAMPLE:nodemend</UserId>\
        <Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
    Response::builder().header(header::CONTENT_TYPE, "text/xml").body(Body::from(answer)).expect("an answer")
}
