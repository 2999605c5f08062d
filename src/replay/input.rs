//! Reads files of captured events as inputs, each with the time at which it would have arrived.
//!
//! An unreadable line or event stops nothing: it is kept with its file, line and cause.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{audit_log::CloudTrailEvent, ident::ClusterName};
use serde_json::{Value, json};

use super::{cluster, error::ReplayError};
use crate::{file::FileError, output::error_chain};

/// CloudTrail records when a call was made, not when its event was delivered: on average about five minutes later.
/// <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/how-cloudtrail-works.html>
pub(crate) const CLOUDTRAIL_DELAY: SignedDuration = SignedDuration::from_mins(5);

/// A replay holds its files in memory. Larger ones are for `nodemend backtest`, which streams them.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Lines of the log groups that no subscription delivered.
const UNDELIVERED: &str = "undelivered.jsonl";

/// What was read of all files.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// In the order of arrival.
    pub(crate) inputs: Vec<Input>,
    /// Lines that the log groups have and that no subscription delivered: `undelivered.jsonl`.
    pub(crate) undelivered: Vec<Input>,
    /// What was not readable, as `file:line: cause`.
    pub(crate) unreadable: Vec<String>,
}

/// One input for a handler.
#[derive(Debug)]
pub(crate) struct Input {
    /// When it arrived.
    pub(crate) at: Timestamp,
    /// Where it was read, as `file:line`.
    pub(crate) source: String,
    pub(crate) payload: Payload,
}

#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// A Lambda event with a subscription payload, as captured.
    Subscription(Vec<u8>),
    Log {
        group: LogGroup,
        stream: String,
        at: Timestamp,
        message: String,
    },
    /// An EventBridge event that is no API call.
    Event(Value),
    /// An API call that CloudTrail recorded.
    CloudTrail(Box<CloudTrailEvent>),
}

/// The log group of a log event.
#[derive(Debug, Clone)]
pub(crate) enum LogGroup {
    /// Named by the capture, or known from the report's cluster.
    Named(String),
    /// The control plane's, of the one cluster in the replay: bare audit events name no cluster.
    AnyControlPlane,
}

/// Reads files, and directories of them.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Inputs, ReplayError> {
    let mut read = Inputs::default();
    for path in paths {
        if path.is_dir() {
            let mut files = Vec::new();
            collect(path, &mut files)?;
            files.sort();
            for file in files {
                if file.file_name().is_some_and(|name| name == UNDELIVERED) {
                    let mut lines = Inputs::default();
                    read_file(&file, &mut lines)?;
                    read.undelivered.extend(lines.inputs);
                    read.unreadable.extend(lines.unreadable);
                } else {
                    read_file(&file, &mut read)?;
                }
            }
        } else {
            read_file(path, &mut read)?;
        }
    }
    // The sort is stable: inputs of the same time stay in the order of their file.
    read.inputs.sort_by_key(|input| input.at);
    Ok(read)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), ReplayError> {
    let failed = FileError::reading(directory);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, files)?;
        } else if (name.ends_with(".json") || name.ends_with(".jsonl") || name.ends_with(".log"))
            && !matches!(&*name, "fleet.json" | cluster::FILE)
        {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path, read: &mut Inputs) -> Result<(), ReplayError> {
    let failed = FileError::reading(path);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        let why = format!(
            "{size} bytes exceed the limit of {MAX_FILE_BYTES}: use nodemend backtest for large files"
        );
        return Err(ReplayError::Config { path: path.to_owned(), why });
    }
    let text = String::from_utf8_lossy(&fs::read(path).map_err(failed)?).into_owned();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // One document over many lines, as the AWS CLI prints it; else one document per line.
    if serde_json::from_str::<Value>(first).is_err()
        && let Ok(whole) = serde_json::from_str::<Value>(&text)
    {
        read_value(whole, &path.display().to_string(), 1, read);
        return Ok(());
    }
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(value) => read_value(value, &path.display().to_string(), number, read),
            Err(error) => read.unreadable.push(format!("{}:{number}: {error}", path.display())),
        }
    }
    Ok(())
}

/// Recognizes the format of a document and reads every event in it.
pub(crate) fn read_value(value: Value, file: &str, line: usize, read: &mut Inputs) {
    let source = format!("{file}:{line}");
    let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    let result = if let Value::Array(values) = value {
        return values.into_iter().for_each(|value| read_value(value, file, line, read));
    } else if value.pointer("/awslogs/data").is_some() {
        subscription(&value).map(|input| vec![input])
    } else if has("detail-type") && has("detail") {
        eventbridge(value).map(|input| vec![input])
    } else if has("eventVersion") && has("eventSource") {
        cloud_trail(value).map(|input| vec![input])
    } else if let Some(Value::Array(events)) = value.get("Events") {
        read_each(events, &source, read, |event| {
            let text = event.get("CloudTrailEvent").and_then(Value::as_str).ok_or("no CloudTrailEvent")?;
            cloud_trail(serde_json::from_str(text).map_err(|error| format!("CloudTrailEvent: {error}"))?)
        });
        return;
    } else if let Some(Value::Array(records)) = value.get("Records") {
        read_each(records, &source, read, |record| cloud_trail(record.clone()));
        return;
    } else if let Some(Value::Array(events)) = value.get("events") {
        read_each(events, &source, read, |event| filtered_event(event, None));
        return;
    } else if let (Some(Value::Array(events)), Some(group)) = (value.get("logEvents"), value.get("logGroup"))
    {
        let (group, stream) =
            (group.as_str().unwrap_or_default(), value.get("logStream").and_then(Value::as_str));
        read_each(events, &source, read, |event| {
            filtered_event(event, Some((group, stream.unwrap_or_default())))
        });
        return;
    } else if has("message") && has("timestamp") {
        filtered_event(&value, None).map(|input| vec![input])
    } else {
        bare_event(&value.to_string(), &value, None).map(|input| vec![input])
    };
    match result {
        Ok(inputs) => {
            read.inputs.extend(inputs.into_iter().map(|(at, payload)| Input {
                at,
                source: source.clone(),
                payload,
            }));
        }
        Err(why) => read.unreadable.push(format!("{source}: {why}")),
    }
}

fn read_each(
    values: &[Value],
    source: &str,
    read: &mut Inputs,
    one: impl Fn(&Value) -> Result<(Timestamp, Payload), String>,
) {
    for (number, value) in values.iter().enumerate() {
        match one(value) {
            Ok((at, payload)) => {
                read.inputs.push(Input { at, source: format!("{source}[{number}]"), payload });
            }
            Err(why) => read.unreadable.push(format!("{source}[{number}]: {why}")),
        }
    }
}

/// A subscription payload: all of it arrives with its last log event.
fn subscription(value: &Value) -> Result<(Timestamp, Payload), String> {
    use nodemend_ports::subscription::{Decoder, Message};
    let bytes = value.to_string().into_bytes();
    let mut decoder = Decoder::new();
    let at = match decoder.decode(&bytes).map_err(|error| error.to_string())? {
        Message::Control => Some(Timestamp::MIN),
        Message::Data(batch) => batch.events.iter().map(|event| event.timestamp).max(),
    };
    Ok((at.ok_or("no readable log event in the payload")?, Payload::Subscription(bytes)))
}

fn eventbridge(value: Value) -> Result<(Timestamp, Payload), String> {
    if value.get("detail-type").and_then(Value::as_str) == Some("AWS API Call via CloudTrail") {
        return cloud_trail(value.get("detail").cloned().unwrap_or_default());
    }
    let at = value.get("time").and_then(time).ok_or("time: missing, or not an RFC 3339 time")?;
    Ok((at, Payload::Event(value)))
}

fn cloud_trail(value: Value) -> Result<(Timestamp, Payload), String> {
    let event = CloudTrailEvent::try_from(value).map_err(|error| error_chain(&error))?;
    Ok((event.event_time + CLOUDTRAIL_DELAY, Payload::CloudTrail(Box::new(event))))
}

/// One event of `filter-log-events`, or of a decoded subscription message, whose log group and stream are in `from`.
pub(crate) fn filtered_event(
    event: &Value,
    from: Option<(&str, &str)>,
) -> Result<(Timestamp, Payload), String> {
    let message = event.get("message").and_then(Value::as_str).ok_or("message: missing")?;
    let at = event.get("timestamp").and_then(millis).ok_or("timestamp: missing, or not milliseconds")?;
    let arrival = event.get("ingestionTime").and_then(millis).unwrap_or(at);
    if let Some((group, stream)) = from {
        let (group, stream, message) =
            (LogGroup::Named(group.to_owned()), stream.to_owned(), message.to_owned());
        return Ok((arrival, Payload::Log { group, stream, at, message }));
    }
    let stream = event.get("logStreamName").and_then(Value::as_str);
    if let Some(stream) = stream.filter(|stream| is_component_log(stream)) {
        let (stream, message) = (stream.to_owned(), message.to_owned());
        return Ok((arrival, Payload::Log { group: LogGroup::AnyControlPlane, stream, at, message }));
    }
    let value: Value = serde_json::from_str(message).map_err(|error| format!("message: {error}"))?;
    let (_, payload) = bare_event(message, &value, stream)?;
    Ok((arrival, payload))
}

/// Whether a stream of the control plane's log group is a component's plain-text log, without audit events.
pub(crate) fn is_component_log(stream: &str) -> bool {
    const PREFIXES: [&str; 5] = [
        "kube-apiserver-",
        "authenticator-",
        "kube-controller-manager-",
        "kube-scheduler-",
        "cloud-controller-manager-",
    ];
    !stream.starts_with("kube-apiserver-audit-") && PREFIXES.iter().any(|prefix| stream.starts_with(prefix))
}

/// A node report or a control-plane audit event without the envelope of CloudWatch Logs.
pub(crate) fn bare_event(
    message: &str,
    value: &Value,
    stream: Option<&str>,
) -> Result<(Timestamp, Payload), String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    if value.get("v").is_some() {
        let cluster = text("cluster").ok_or("cluster: missing")?;
        let cluster = ClusterName::new(cluster).map_err(|error| format!("cluster: {error}"))?;
        let at = value.get("at").and_then(time).ok_or("at: missing, or not an RFC 3339 time")?;
        let stream = stream.or_else(|| text("instanceId")).ok_or("instanceId: missing")?.to_owned();
        let group = LogGroup::Named(format!("/nodemend/{cluster}/nodes"));
        return Ok((at, Payload::Log { group, stream, at, message: message.to_owned() }));
    }
    if text("kind") == Some("Event") && value.get("verb").is_some() {
        let at = value.get("stageTimestamp").or_else(|| value.get("requestReceivedTimestamp")).and_then(time);
        let at = at.ok_or("stageTimestamp: missing, or not an RFC 3339 time")?;
        let stream = stream.filter(|stream| stream.starts_with("kube-apiserver-audit"));
        let stream = stream.unwrap_or("kube-apiserver-audit-replay").to_owned();
        return Ok((
            at,
            Payload::Log { group: LogGroup::AnyControlPlane, stream, at, message: message.to_owned() },
        ));
    }
    Err("not a node report, an audit event, a CloudTrail event, an EventBridge event or a subscription payload".to_owned())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn millis(value: &Value) -> Option<Timestamp> {
    value.as_i64().and_then(|millis| Timestamp::from_millisecond(millis).ok())
}

/// The EventBridge event that carries a CloudTrail event.
pub(crate) fn envelope(event: &CloudTrailEvent) -> Value {
    json!({
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.autoscaling",
        "time": event.event_time.to_string(),
        "detail": event,
    })
}
