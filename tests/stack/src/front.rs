//! The stack's AWS, one address for all its services but DynamoDB: the emulator, with what it gets wrong put right.
//!
//! Every call that changes something is recorded as CloudTrail would, and its effects are
//! reported: instances that end, start and reboot, and log events that were stored.

mod auto_scaling;
mod filtered_events;
mod xml;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex as Lock, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use jiff::Timestamp;
use nodemend_aws::clock::SystemClock;
use nodemend_ports::clock::Clock;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc::UnboundedSender},
};

use super::{
    cloudtrail::{Activity, Called, Identity},
    ids,
    wire::{self, Scope, Wire, WireError},
};

/// PutLogEvents takes a little more than 1 MB, and nothing takes more.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// What happened in the stack's AWS.
#[derive(Debug, Clone)]
pub enum Happened {
    /// Log events were stored.
    Logged {
        /// In which group.
        group: String,
        /// In which stream.
        stream: String,
    },
    /// A call that changes something was answered.
    Called(Box<Called>),
    /// Auto Scaling terminated an instance.
    Terminated(Activity),
    /// Auto Scaling launched an instance.
    Launched(Activity),
    /// EC2 rebooted an instance.
    Rebooted {
        /// Which.
        instance_id: String,
    },
}

/// Every call so far that changes something, or was to, in order. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Lock<Vec<Called>>>);

impl Calls {
    /// All of them.
    pub fn all(&self) -> Vec<Called> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, called: Called) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(called);
    }
}

/// The front of the emulator.
#[derive(Debug)]
struct Front {
    emulator: Wire,
    calls: Calls,
    happened: UnboundedSender<Happened>,
    /// Calls that change a group are made one by one: what came of one is seen by what is different after it.
    one_by_one: Mutex<()>,
}

/// Serves in front of the emulator; where.
pub async fn serve(
    emulator: SocketAddr,
    calls: Calls,
    happened: UnboundedSender<Happened>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let front = Front { emulator: Wire::to(emulator), calls, happened, one_by_one: Mutex::default() };
    let router = Router::new().fallback(take).with_state(Arc::new(front));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// What is asked, by whom.
#[derive(Debug)]
struct Asked {
    at: Timestamp,
    scope: Scope,
    identity: Identity,
    user_agent: String,
    request_id: String,
    head: axum::http::request::Parts,
    body: Bytes,
}

async fn take(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    let at = SystemClock.now();
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let text = |name: header::HeaderName| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    // Who is not signed may ask, too: the emulator has pages for people.
    let scope = Scope::read(&text(header::AUTHORIZATION));
    let scope = scope.unwrap_or_else(|| Scope { key: String::new(), service: String::new() });
    let asked = Asked {
        at,
        identity: Identity::of(&scope.key),
        user_agent: text(header::USER_AGENT),
        request_id: ids::uuid(),
        scope,
        head,
        body,
    };
    match front.answer(&asked).await {
        Ok(answer) => answer,
        Err(error) => {
            let body = xml::error("InternalFailure", &error.to_string(), &asked.request_id);
            with_id(StatusCode::INTERNAL_SERVER_ERROR, body, &asked.request_id)
        }
    }
}

impl Front {
    async fn answer(&self, asked: &Asked) -> Result<Response<Body>, WireError> {
        let form = wire::form(&asked.body);
        let action = form.iter().find(|(name, _)| name == "Action").map(|(_, action)| action.as_str());
        match (asked.scope.service.as_str(), action) {
            ("sts", Some("GetCallerIdentity")) => {
                let body = xml::caller(&asked.identity, &asked.request_id);
                Ok(with_id(StatusCode::OK, body, &asked.request_id))
            }
            ("autoscaling", Some("TerminateInstanceInAutoScalingGroup")) => {
                let _alone = self.one_by_one.lock().await;
                self.terminate(asked, &form).await
            }
            ("ec2", Some(action @ ("RebootInstances" | "TerminateInstances"))) => {
                self.ec2(asked, action, &form).await
            }
            ("logs", _) => self.logs(asked).await,
            _ => self.pass(asked).await.map(|answer| answer.map(Body::from)),
        }
    }

    /// Hands a request on as it is.
    async fn pass(&self, asked: &Asked) -> Result<Response<Bytes>, WireError> {
        let mut request = axum::http::Request::new(Body::from(asked.body.clone()));
        *request.method_mut() = asked.head.method.clone();
        *request.uri_mut() = asked.head.uri.clone();
        *request.headers_mut() = asked.head.headers.clone();
        let mut answer = self.emulator.send(request).await?;
        // The emulator closes each connection, and makes ids that are none.
        for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
            answer.headers_mut().remove(name);
        }
        answer.headers_mut().remove("x-amz-crc32");
        if let Ok(id) = HeaderValue::from_str(&asked.request_id) {
            answer.headers_mut().insert("x-amzn-requestid", id);
        }
        Ok(answer)
    }

    async fn logs(&self, asked: &Asked) -> Result<Response<Body>, WireError> {
        let target = asked.head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        if target.is_some_and(|target| target.ends_with(".FilterLogEvents")) {
            return filtered_events::answer(&self.emulator, &asked.body, &asked.request_id).await;
        }
        let answer = self.pass(asked).await?;
        let stored = answer.status() == StatusCode::OK
            && target.is_some_and(|target| target.ends_with(".PutLogEvents"));
        if stored && let Ok(body) = serde_json::from_slice::<Value>(&asked.body) {
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            self.tell(Happened::Logged { group: text("logGroupName"), stream: text("logStreamName") });
        }
        Ok(answer.map(Body::from))
    }

    async fn ec2(
        &self,
        asked: &Asked,
        action: &str,
        form: &[(String, String)],
    ) -> Result<Response<Body>, WireError> {
        let answer = self.pass(asked).await?;
        let instances: Vec<&str> = form
            .iter()
            .filter(|(name, _)| name.starts_with("InstanceId"))
            .map(|(_, instance)| instance.as_str())
            .collect();
        let items: Vec<Value> = instances.iter().map(|instance| json!({ "instanceId": instance })).collect();
        let parameters = json!({ "instancesSet": { "items": items } });
        let text = String::from_utf8_lossy(answer.body());
        let outcome = if answer.status() != StatusCode::OK {
            Err((wire::element(&text, "Code").to_owned(), xml::plain(wire::element(&text, "Message"))))
        } else if action == "RebootInstances" {
            Ok(json!({ "requestId": asked.request_id, "_return": true }))
        } else {
            Ok(parameters.clone())
        };
        let answer = if action == "RebootInstances" && outcome.is_ok() {
            with_id(StatusCode::OK, xml::reboot(&asked.request_id), &asked.request_id)
        } else {
            answer.map(Body::from)
        };
        let succeeded = outcome.is_ok();
        self.record(asked, "ec2", action, parameters, outcome);
        if succeeded && action == "RebootInstances" {
            for instance_id in instances {
                self.tell(Happened::Rebooted { instance_id: instance_id.to_owned() });
            }
        }
        Ok(answer)
    }

    fn record(
        &self,
        asked: &Asked,
        service: &'static str,
        name: &str,
        parameters: Value,
        answer: Result<Value, (String, String)>,
    ) {
        let called = Called {
            at: asked.at,
            identity: asked.identity.clone(),
            user_agent: asked.user_agent.clone(),
            service,
            name: name.to_owned(),
            request_id: asked.request_id.clone(),
            parameters,
            answer,
        };
        self.calls.push(called.clone());
        self.tell(Happened::Called(Box::new(called)));
    }

    fn tell(&self, happened: Happened) {
        // Nobody listens any more when the stack stops.
        let _ = self.happened.send(happened);
    }
}

fn with_id(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/xml");
    response.header("x-amzn-requestid", request_id).body(Body::from(body)).unwrap_or_default()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
