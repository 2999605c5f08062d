//! The AWS endpoint of the stack: a proxy in front of the emulator, which corrects the emulator's errors.
//!
//! - It serves all services except DynamoDB, at one address.
//! - It records every call that changes something, as CloudTrail does.
//! - It publishes the effects of calls: terminated, launched and rebooted instances, and stored log events.
//! - It has a warm pool, or no capacity, if an incident needs that.

mod auto_scaling;
mod capacity;
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

pub use self::capacity::Capacity;
use self::capacity::Supply;
use super::{
    cloudtrail::{Activity, Identity, RecordedCall},
    ids,
    query_client::{self, CredentialScope, QueryClient, QueryError},
};

/// The maximum size of a request. The largest are those of PutLogEvents, with a little more than 1 MB.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// What happened in the emulated AWS.
#[derive(Debug, Clone)]
pub enum AwsEvent {
    /// Log events were stored.
    Logged {
        /// The log group.
        group: String,
        /// The log stream.
        stream: String,
    },
    /// A call that changes something, or tried to, was answered.
    Called(Box<RecordedCall>),
    /// Auto Scaling terminated an instance.
    Terminated(Activity),
    /// Auto Scaling launched an instance.
    Launched(Activity),
    /// Auto Scaling tried to launch an instance, and EC2 had no capacity.
    LaunchFailed(Activity),
    /// EC2 rebooted an instance.
    Rebooted {
        /// The ID of the instance.
        instance_id: String,
    },
}

/// All calls so far that change something, or tried to, in order. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Lock<Vec<RecordedCall>>>);

impl Calls {
    /// A copy of all calls so far.
    pub fn all(&self) -> Vec<RecordedCall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, call: RecordedCall) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

/// The proxy in front of the emulator.
#[derive(Debug)]
struct AwsProxy {
    emulator: QueryClient,
    calls: Calls,
    events: UnboundedSender<AwsEvent>,
    /// Calls that change a group are made one at a time: the effect of a call is found by comparing the group
    /// before and after it.
    group_lock: Mutex<()>,
    supply: Lock<Supply>,
}

/// Starts the proxy, and returns its address and what controls its capacity.
pub async fn serve(
    emulator: SocketAddr,
    calls: Calls,
    events: UnboundedSender<AwsEvent>,
) -> std::io::Result<(SocketAddr, Capacity)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let proxy = Arc::new(AwsProxy {
        emulator: QueryClient::new(emulator),
        calls,
        events,
        group_lock: Mutex::default(),
        supply: Lock::default(),
    });
    let router = Router::new().fallback(handle).with_state(proxy.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, Capacity(proxy)))
}

/// A request to AWS, and the principal that sent it.
#[derive(Debug)]
struct ApiRequest {
    at: Timestamp,
    scope: CredentialScope,
    identity: Identity,
    user_agent: String,
    request_id: String,
    head: axum::http::request::Parts,
    body: Bytes,
}

async fn handle(State(proxy): State<Arc<AwsProxy>>, request: Request) -> Response<Body> {
    let at = SystemClock.now();
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else {
        return empty_response(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let text = |name: header::HeaderName| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    // Requests without a signature are accepted too: the emulator has pages for browsers.
    let scope = CredentialScope::parse(&text(header::AUTHORIZATION));
    let scope =
        scope.unwrap_or_else(|| CredentialScope { access_key: String::new(), service: String::new() });
    let request = ApiRequest {
        at,
        identity: Identity::from_access_key(&scope.access_key),
        user_agent: text(header::USER_AGENT),
        request_id: ids::uuid(),
        scope,
        head,
        body,
    };
    match proxy.answer(&request).await {
        Ok(answer) => answer,
        Err(error) => {
            let body = xml::error("InternalFailure", &error.to_string(), &request.request_id);
            xml_response(StatusCode::INTERNAL_SERVER_ERROR, body, &request.request_id)
        }
    }
}

impl AwsProxy {
    async fn answer(&self, request: &ApiRequest) -> Result<Response<Body>, QueryError> {
        let form = query_client::parse_form(&request.body);
        let action = form.iter().find(|(name, _)| name == "Action").map(|(_, action)| action.as_str());
        match (request.scope.service.as_str(), action) {
            ("sts", Some("GetCallerIdentity")) => {
                let body = xml::caller_identity(&request.identity, &request.request_id);
                Ok(xml_response(StatusCode::OK, body, &request.request_id))
            }
            ("autoscaling", Some("TerminateInstanceInAutoScalingGroup")) => {
                let _lock = self.group_lock.lock().await;
                self.terminate(request, &form).await
            }
            ("autoscaling", Some("DescribeAutoScalingGroups")) => self.describe_groups(request).await,
            ("ec2", Some(action @ ("RebootInstances" | "TerminateInstances"))) => {
                self.ec2(request, action, &form).await
            }
            ("logs", _) => self.logs(request).await,
            _ => self.forward(request).await.map(|answer| answer.map(Body::from)),
        }
    }

    /// Forwards a request to the emulator without changes.
    async fn forward(&self, request: &ApiRequest) -> Result<Response<Bytes>, QueryError> {
        let mut forwarded = axum::http::Request::new(Body::from(request.body.clone()));
        *forwarded.method_mut() = request.head.method.clone();
        *forwarded.uri_mut() = request.head.uri.clone();
        *forwarded.headers_mut() = request.head.headers.clone();
        let mut answer = self.emulator.send(forwarded).await?;
        // The emulator closes each connection, and its request IDs do not have AWS's format.
        for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
            answer.headers_mut().remove(name);
        }
        answer.headers_mut().remove("x-amz-crc32");
        if let Ok(id) = HeaderValue::from_str(&request.request_id) {
            answer.headers_mut().insert("x-amzn-requestid", id);
        }
        Ok(answer)
    }

    async fn logs(&self, request: &ApiRequest) -> Result<Response<Body>, QueryError> {
        let target = request.head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        if target.is_some_and(|target| target.ends_with(".FilterLogEvents")) {
            return filtered_events::answer(&self.emulator, &request.body, &request.request_id).await;
        }
        let answer = self.forward(request).await?;
        let stored = answer.status() == StatusCode::OK
            && target.is_some_and(|target| target.ends_with(".PutLogEvents"));
        if stored && let Ok(body) = serde_json::from_slice::<Value>(&request.body) {
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            self.publish(AwsEvent::Logged { group: text("logGroupName"), stream: text("logStreamName") });
        }
        Ok(answer.map(Body::from))
    }

    async fn ec2(
        &self,
        request: &ApiRequest,
        action: &str,
        form: &[(String, String)],
    ) -> Result<Response<Body>, QueryError> {
        let answer = self.forward(request).await?;
        let instances: Vec<&str> = form
            .iter()
            .filter(|(name, _)| name.starts_with("InstanceId"))
            .map(|(_, instance)| instance.as_str())
            .collect();
        let items: Vec<Value> = instances.iter().map(|instance| json!({ "instanceId": instance })).collect();
        let parameters = json!({ "instancesSet": { "items": items } });
        let text = String::from_utf8_lossy(answer.body());
        let outcome = if answer.status() != StatusCode::OK {
            Err((
                query_client::element(&text, "Code").to_owned(),
                xml::unescaped(query_client::element(&text, "Message")),
            ))
        } else if action == "RebootInstances" {
            Ok(json!({ "requestId": request.request_id, "_return": true }))
        } else {
            Ok(parameters.clone())
        };
        let answer = if action == "RebootInstances" && outcome.is_ok() {
            xml_response(StatusCode::OK, xml::reboot(&request.request_id), &request.request_id)
        } else {
            answer.map(Body::from)
        };
        let succeeded = outcome.is_ok();
        self.record(request, "ec2", action, parameters, outcome);
        if succeeded && action == "RebootInstances" {
            for instance_id in instances {
                self.publish(AwsEvent::Rebooted { instance_id: instance_id.to_owned() });
            }
        }
        Ok(answer)
    }

    fn record(
        &self,
        request: &ApiRequest,
        service: &'static str,
        name: &str,
        parameters: Value,
        answer: Result<Value, (String, String)>,
    ) {
        let call = RecordedCall {
            at: request.at,
            identity: request.identity.clone(),
            user_agent: request.user_agent.clone(),
            service,
            name: name.to_owned(),
            request_id: request.request_id.clone(),
            parameters,
            answer,
        };
        self.calls.push(call.clone());
        self.publish(AwsEvent::Called(Box::new(call)));
    }

    fn publish(&self, event: AwsEvent) {
        // While the stack stops, there is no receiver any more.
        let _ = self.events.send(event);
    }
}

fn xml_response(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/xml");
    response.header("x-amzn-requestid", request_id).body(Body::from(body)).unwrap_or_default()
}

fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
