//! A log service on a real socket, with the protocol, limits and errors of CloudWatch Logs. It records the calls.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// A fault in the response to the next call.
#[derive(Debug, Clone)]
pub(crate) enum ServiceFault {
    /// A service error: type and status.
    Error(&'static str, u16),
    /// An HTML page, as from a proxy.
    Page,
    /// The connection is closed before the call is processed.
    Hang,
    /// All events are accepted, with this `rejectedLogEventsInfo`.
    Rejected(Value),
    /// All events are accepted, and the response is lost.
    LostAnswer,
}

#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    pub(crate) groups: BTreeSet<String>,
    pub(crate) streams: BTreeSet<(String, String)>,
    /// The operation of each call.
    pub(crate) calls: Vec<String>,
    /// The events of each accepted call, as (time, text).
    pub(crate) accepted: Vec<Vec<(i64, String)>>,
    /// The access keys of all callers.
    pub(crate) keys: BTreeSet<String>,
    pub(crate) faults: VecDeque<ServiceFault>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<ServiceState>>,
}

impl Service {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let service = Self { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let own = service.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        service
    }

    pub(crate) fn with_stream(self, group: &str, stream: &str) -> Self {
        let mut state = self.state.lock().expect("the state");
        state.groups.insert(group.to_owned());
        state.streams.insert((group.to_owned(), stream.to_owned()));
        drop(state);
        self
    }

    pub(crate) fn inject(&self, faults: impl IntoIterator<Item = ServiceFault>) {
        self.state.lock().expect("the state").faults.extend(faults);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().expect("the state").calls.clone()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let state = self.state.lock().expect("the state");
        state.accepted.iter().flatten().map(|(_, text)| text.clone()).collect()
    }

    pub(crate) fn times(&self) -> Vec<Vec<i64>> {
        let state = self.state.lock().expect("the state");
        state.accepted.iter().map(|events| events.iter().map(|(at, _)| *at).collect()).collect()
    }

    fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = HttpRequest::read(&mut stream) {
            let Some((status, kind, body)) = self.response(&request) else { return };
            let response = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nx-amzn-RequestId: 1\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.get_mut().write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn response(&self, request: &HttpRequest) -> Option<(u16, &'static str, String)> {
        const JSON: &str = "application/x-amz-json-1.1";
        if let Some(response) = credentials(request) {
            return Some(response);
        }
        let mut state = self.state.lock().expect("the state");
        let operation = request.header("x-amz-target")?.strip_prefix("Logs_20140328.")?.to_owned();
        state.calls.push(operation.clone());
        if let Some(key) = request.header("authorization").and_then(|line| line.split("Credential=").nth(1)) {
            state.keys.insert(key.split('/').next().unwrap_or_default().to_owned());
        }
        let error = |status: u16, kind: &str, message: &str| {
            Some((status, JSON, json!({"__type": kind, "message": message}).to_string()))
        };
        let fault = state.faults.pop_front();
        match &fault {
            Some(ServiceFault::Error(kind, status)) => return error(*status, kind, "an injected error"),
            Some(ServiceFault::Page) => {
                return Some((502, "text/html", "<html>Bad Gateway</html>".to_owned()));
            }
            Some(ServiceFault::Hang) => return None,
            Some(ServiceFault::Rejected(_) | ServiceFault::LostAnswer) | None => {}
        }
        let input: Value = serde_json::from_str(&request.body).expect("JSON");
        let name = |field: &str| input[field].as_str().unwrap_or_default().to_owned();
        let (group, stream) = (name("logGroupName"), name("logStreamName"));
        match operation.as_str() {
            "CreateLogGroup" => {
                if !state.groups.insert(group) {
                    return error(
                        400,
                        "ResourceAlreadyExistsException",
                        "The specified log group already exists",
                    );
                }
            }
            "CreateLogStream" => {
                if !state.groups.contains(&group) {
                    return error(
                        400,
                        "ResourceNotFoundException",
                        "The specified log group does not exist.",
                    );
                }
                if !state.streams.insert((group, stream)) {
                    return error(
                        400,
                        "ResourceAlreadyExistsException",
                        "The specified log stream already exists",
                    );
                }
            }
            "PutLogEvents" => {
                if !state.groups.contains(&group) {
                    return error(
                        400,
                        "ResourceNotFoundException",
                        "The specified log group does not exist.",
                    );
                }
                if !state.streams.contains(&(group, stream)) {
                    return error(
                        400,
                        "ResourceNotFoundException",
                        "The specified log stream does not exist.",
                    );
                }
                let events: Vec<(i64, String)> = input["logEvents"]
                    .as_array()
                    .expect("events")
                    .iter()
                    .map(|event| {
                        let text = event["message"].as_str().expect("a message").to_owned();
                        (event["timestamp"].as_i64().expect("a time"), text)
                    })
                    .collect();
                let size: usize = events.iter().map(|(_, text)| text.len() + 26).sum();
                let span =
                    events.iter().map(|event| event.0).max()? - events.iter().map(|event| event.0).min()?;
                if size > 1_048_576
                    || events.len() > 10_000
                    || span > 86_400_000
                    || !events.is_sorted_by_key(|e| e.0)
                {
                    return error(400, "InvalidParameterException", "outside the limits");
                }
                state.accepted.push(events);
                match fault {
                    Some(ServiceFault::Rejected(info)) => {
                        return Some((200, JSON, json!({"rejectedLogEventsInfo": info}).to_string()));
                    }
                    Some(ServiceFault::LostAnswer) => return None,
                    _ => {}
                }
            }
            other => panic!("{other} is not supported"),
        }
        Some((200, JSON, "{}".to_owned()))
    }
}

/// The three ways in which a pod gets credentials, each with its own access key.
fn credentials(request: &HttpRequest) -> Option<(u16, &'static str, String)> {
    let expiration = "2099-01-01T00:00:00Z";
    let line = request.line.as_str();
    if request.body.contains("Action=AssumeRoleWithWebIdentity") {
        assert!(request.body.contains("WebIdentityToken=the-pods-token"), "{}", request.body);
        let body = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId>\
             <Arn>arn:aws:sts::111122223333:assumed-role/r/b</Arn></AssumedRoleUser><Credentials>\
             <AccessKeyId>AKIAIRSA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
             <Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>"
        );
        return Some((200, "text/xml", body));
    }
    let keys = |key: &str| {
        json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key, "SecretAccessKey": "s", "Token": "t",
               "Expiration": expiration, "LastUpdated": "2026-01-01T00:00:00Z"})
        .to_string()
    };
    if line.starts_with("GET /v1/credentials ") {
        assert_eq!(request.header("authorization"), Some("the-pods-token"));
        return Some((200, "application/json", keys("AKIAPOD")));
    }
    if line.starts_with("PUT /latest/api/token ") {
        return Some((200, "text/plain", "secret".to_owned()));
    }
    if line.starts_with("GET /latest/meta-data/placement/region ") {
        return Some((200, "text/plain", "eu-west-1".to_owned()));
    }
    if line.contains("/latest/meta-data/iam/security-credentials") {
        let whole = line.contains("node-role");
        return Some((200, "text/plain", if whole { keys("AKIANODE") } else { "node-role".to_owned() }));
    }
    None
}

#[derive(Debug)]
struct HttpRequest {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl HttpRequest {
    fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self { line, headers, body: String::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).expect("text");
        Some(request)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
