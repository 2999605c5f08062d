//! Turns files of captured events into inputs, each with the time at which it would have arrived.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{ident::ClusterName, trail::CloudTrailEvent};
use serde_json::{Value, json};

use super::ReplayError;

/// CloudTrail says when a call was made, never when its record arrived: about five minutes later, on average.
pub(crate) const CLOUDTRAIL_DELAY: SignedDuration = SignedDuration::from_mins(5);

/// A file larger than this is a backtest's, not a replay's.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Everything that was read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// In the order in which it arrived.
    pub(crate) inputs: Vec<Input>,
    /// What could not be read, as `file:line: why`.
    pub(crate) bad: Vec<String>,
}

/// One thing that arrived.
#[derive(Debug)]
pub(crate) struct Input {
    /// When.
    pub(crate) at: Timestamp,
    /// From where, as `file:line`.
    pub(crate) place: String,
    /// What.
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A Lambda event with a subscription payload, as it is.
    Payload(Vec<u8>),
    /// One log event. Bare lines don't say which cluster's control plane wrote them.
    Log { group: Group, stream: String, at: Timestamp, message: String },
    /// An EventBridge event.
    Event(Value),
    /// A call that CloudTrail recorded.
    CloudTrail(Box<CloudTrailEvent>),
}

#[derive(Debug, Clone)]
pub(crate) enum Group {
    /// Named by the event, or by what it says.
    Named(String),
    /// A control plane's, of the one cluster that is replayed.
    AnyControlPlane,
}

/// Reads files, and folders of them.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Read, ReplayError> {
    let mut read = Read::default();
    for path in paths {
        if path.is_dir() {
            let mut files = Vec::new();
            collect(path, &mut files)?;
            files.sort();
            for file in files {
                read_file(&file, &mut read)?;
            }
        } else {
            read_file(path, &mut read)?;
        }
    }
    // Stable: what arrived at the same instant stays in the order of its file.
    read.inputs.sort_by_key(|input| input.at);
    Ok(read)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, files)?;
        } else if (name.ends_with(".json") || name.ends_with(".jsonl") || name.ends_with(".log"))
            && name != "fleet.json"
        {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path, read: &mut Read) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        let why = format!("{size} bytes are more than a replay's {MAX_FILE_BYTES}");
        return Err(ReplayError::Config { path: path.to_owned(), why });
    }
    let text = String::from_utf8_lossy(&fs::read(path).map_err(failed)?).into_owned();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // One document over many lines, as the AWS CLI prints it, or one document a line.
    if serde_json::from_str::<Value>(first).is_err()
        && let Ok(whole) = serde_json::from_str::<Value>(&text)
    {
        take(whole, &path.display().to_string(), 1, read);
        return Ok(());
    }
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(value) => take(value, &path.display().to_string(), number, read),
            Err(error) => read.bad.push(format!("{}:{number}: {error}", path.display())),
        }
    }
    Ok(())
}

/// Tells the shapes apart, and takes every event out of one.
pub(crate) fn take(value: Value, file: &str, line: usize, read: &mut Read) {
    let place = format!("{file}:{line}");
    let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    let result = if let Value::Array(values) = value {
        return values.into_iter().for_each(|value| take(value, file, line, read));
    } else if value.pointer("/awslogs/data").is_some() {
        payload(&value).map(|(at, what)| vec![(at, what)])
    } else if has("detail-type") && has("detail") {
        event(value).map(|input| vec![input])
    } else if has("eventVersion") && has("eventSource") {
        cloud_trail(value).map(|input| vec![input])
    } else if let Some(Value::Array(events)) = value.get("Events") {
        each(events, &place, read, |event| {
            let text = event.get("CloudTrailEvent").and_then(Value::as_str).ok_or("no CloudTrailEvent")?;
            cloud_trail(serde_json::from_str(text).map_err(|error| format!("CloudTrailEvent: {error}"))?)
        });
        return;
    } else if let Some(Value::Array(records)) = value.get("Records") {
        each(records, &place, read, |record| cloud_trail(record.clone()));
        return;
    } else if let Some(Value::Array(events)) = value.get("events") {
        each(events, &place, read, |event| filtered(event, None));
        return;
    } else if let (Some(Value::Array(events)), Some(group)) = (value.get("logEvents"), value.get("logGroup"))
    {
        let (group, stream) =
            (group.as_str().unwrap_or_default(), value.get("logStream").and_then(Value::as_str));
        each(events, &place, read, |event| filtered(event, Some((group, stream.unwrap_or_default()))));
        return;
    } else if has("message") && has("timestamp") {
        filtered(&value, None).map(|input| vec![input])
    } else {
        bare(&value.to_string(), &value, None).map(|input| vec![input])
    };
    match result {
        Ok(inputs) => {
            read.inputs.extend(inputs.into_iter().map(|(at, what)| Input { at, place: place.clone(), what }));
        }
        Err(why) => read.bad.push(format!("{place}: {why}")),
    }
}

fn each(
    values: &[Value],
    place: &str,
    read: &mut Read,
    one: impl Fn(&Value) -> Result<(Timestamp, What), String>,
) {
    for (number, value) in values.iter().enumerate() {
        match one(value) {
            Ok((at, what)) => read.inputs.push(Input { at, place: format!("{place}[{number}]"), what }),
            Err(why) => read.bad.push(format!("{place}[{number}]: {why}")),
        }
    }
}

/// A Lambda event: it arrives whole, with its last event.
fn payload(value: &Value) -> Result<(Timestamp, What), String> {
    use nodemend_adapters::subscription::{Decoder, Message};
    let bytes = value.to_string().into_bytes();
    let mut decoder = Decoder::new();
    let at = match decoder.decode(&bytes).map_err(|error| error.to_string())? {
        Message::Control => Some(Timestamp::MIN),
        Message::Data(batch) => batch.events.iter().map(|event| event.timestamp).max(),
    };
    Ok((at.ok_or("no log event of it can be read")?, What::Payload(bytes)))
}

fn event(value: Value) -> Result<(Timestamp, What), String> {
    if value.get("detail-type").and_then(Value::as_str) == Some("AWS API Call via CloudTrail") {
        return cloud_trail(value.get("detail").cloned().unwrap_or_default());
    }
    let at = value.get("time").and_then(time).ok_or("time: missing, or no RFC 3339 time")?;
    Ok((at, What::Event(value)))
}

fn cloud_trail(value: Value) -> Result<(Timestamp, What), String> {
    let event = CloudTrailEvent::try_from(value).map_err(|error| chain(&error))?;
    Ok((event.event_time + CLOUDTRAIL_DELAY, What::CloudTrail(Box::new(event))))
}

/// One event of `filter-log-events`, or of a decoded subscription message.
pub(crate) fn filtered(event: &Value, from: Option<(&str, &str)>) -> Result<(Timestamp, What), String> {
    let message = event.get("message").and_then(Value::as_str).ok_or("message: missing")?;
    let at = event.get("timestamp").and_then(millis).ok_or("timestamp: missing, or not milliseconds")?;
    let arrival = event.get("ingestionTime").and_then(millis).unwrap_or(at);
    if let Some((group, stream)) = from {
        let (group, stream, message) =
            (Group::Named(group.to_owned()), stream.to_owned(), message.to_owned());
        return Ok((arrival, What::Log { group, stream, at, message }));
    }
    let stream = event.get("logStreamName").and_then(Value::as_str);
    if let Some(stream) = stream.filter(|stream| is_plain_text(stream)) {
        let (stream, message) = (stream.to_owned(), message.to_owned());
        return Ok((arrival, What::Log { group: Group::AnyControlPlane, stream, at, message }));
    }
    let value: Value = serde_json::from_str(message).map_err(|error| format!("message: {error}"))?;
    let (_, what) = bare(message, &value, stream)?;
    Ok((arrival, what))
}

/// A control plane's log group holds more than audit events; its other streams are text, and tell us nothing.
pub(crate) fn is_plain_text(stream: &str) -> bool {
    const PREFIXES: [&str; 5] = [
        "kube-apiserver-",
        "authenticator-",
        "kube-controller-manager-",
        "kube-scheduler-",
        "cloud-controller-manager-",
    ];
    !stream.starts_with("kube-apiserver-audit-") && PREFIXES.iter().any(|prefix| stream.starts_with(prefix))
}

/// A report or an audit event by itself.
pub(crate) fn bare(message: &str, value: &Value, stream: Option<&str>) -> Result<(Timestamp, What), String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    if value.get("v").is_some() {
        let cluster = text("cluster").ok_or("cluster: missing")?;
        let cluster = ClusterName::new(cluster).map_err(|error| format!("cluster: {error}"))?;
        let at = value.get("at").and_then(time).ok_or("at: missing, or no RFC 3339 time")?;
        let stream = stream.or_else(|| text("instanceId")).ok_or("instanceId: missing")?.to_owned();
        let group = Group::Named(format!("/nodemend/{cluster}/nodes"));
        return Ok((at, What::Log { group, stream, at, message: message.to_owned() }));
    }
    if text("kind") == Some("Event") && value.get("verb").is_some() {
        let at = value.get("stageTimestamp").or_else(|| value.get("requestReceivedTimestamp")).and_then(time);
        let at = at.ok_or("stageTimestamp: missing, or no RFC 3339 time")?;
        let stream = stream.filter(|stream| stream.starts_with("kube-apiserver-audit"));
        let stream = stream.unwrap_or("kube-apiserver-audit-replay").to_owned();
        return Ok((
            at,
            What::Log { group: Group::AnyControlPlane, stream, at, message: message.to_owned() },
        ));
    }
    Err("neither a report, an audit event, a CloudTrail record, an EventBridge event nor a subscription payload".to_owned())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn millis(value: &Value) -> Option<Timestamp> {
    value.as_i64().and_then(|millis| Timestamp::from_millisecond(millis).ok())
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// EventBridge's envelope around a CloudTrail record.
pub(crate) fn envelope(event: &CloudTrailEvent) -> Value {
    json!({
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.autoscaling",
        "time": event.event_time.to_string(),
        "detail": event,
    })
}
