//! Turns batches into PutLogEvents calls: one stream an instance, made when it is first written to.
//!
//! Credentials come from wherever the SDK finds them (IRSA, Pod Identity, the instance's role) and are renewed by
//! it; `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_CLOUDWATCH_LOGS` are honoured. The SDK tries nothing twice: how long
//! to wait is decided in one place, [`deliver`](super::deliver).

use std::time::Duration;

use aws_config::{BehaviorVersion, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudwatchlogs::{
    Client,
    config::Builder,
    error::{ProvideErrorMetadata, SdkError},
    operation::put_log_events::PutLogEventsError,
    types::{InputLogEvent, RejectedLogEventsInfo},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::ident::{ClusterName, InstanceId};

use super::{
    Sent, Sink, SinkError,
    batch::{self, Event},
};
use crate::{causes::chain, outbox::Record};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A full batch is 1 MiB: time enough for a line of 300 kbit/s.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Events that the service calls too new are stamped so much earlier, once.
const TOO_NEW: SignedDuration = SignedDuration::from_hours(24);
const MAX_WHY: usize = 400;

/// Writes to one log stream of CloudWatch Logs.
#[derive(Debug)]
pub struct CloudWatch {
    client: Option<Client>,
    group: String,
    stream: String,
}

/// What one call came to.
enum Put {
    Taken(Option<RejectedLogEventsInfo>),
    NoStream,
}

/// What making a stream or a group came to.
enum Made {
    There,
    NoGroup,
}

impl CloudWatch {
    /// The group that a cluster's agents write to unless told otherwise.
    pub fn group_of(cluster: &ClusterName) -> String {
        format!("/nodemend/{cluster}/nodes")
    }

    /// Writes to the stream of an instance. Region and credentials are looked for when there is something to send:
    /// a node whose metadata service doesn't answer now may well have one later.
    pub fn new(group: String, instance_id: &InstanceId) -> Self {
        Self { client: None, group, stream: instance_id.to_string() }
    }

    /// The same through a client that is already there.
    pub fn with_client(client: Client, group: String, instance_id: &InstanceId) -> Self {
        Self { client: Some(client), ..Self::new(group, instance_id) }
    }

    async fn client(&mut self) -> Result<Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // aws-lc needs a C tool chain that a static build hasn't: ring does.
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(CALL_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let shared = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .load()
            .await;
        if shared.region().is_none() {
            return Err(
                "no AWS region: neither AWS_REGION nor the instance metadata service says it".to_owned()
            );
        }
        let config = Builder::from(&shared).retry_config(RetryConfig::disabled()).build();
        Ok(self.client.insert(Client::from_conf(config)).clone())
    }

    /// One call, again if the stream had to be made first.
    async fn put(
        &self,
        client: &Client,
        events: &[Event<'_>],
    ) -> Result<Option<RejectedLogEventsInfo>, String> {
        if let Put::Taken(rejected) = self.call(client, events).await? {
            return Ok(rejected);
        }
        self.make_stream(client).await?;
        match self.call(client, events).await? {
            Put::Taken(rejected) => Ok(rejected),
            Put::NoStream => Err(format!("{}/{} was made and is not there yet", self.group, self.stream)),
        }
    }

    async fn call(&self, client: &Client, events: &[Event<'_>]) -> Result<Put, String> {
        let events = events.iter().map(|event| {
            InputLogEvent::builder()
                .timestamp(event.at)
                .message(event.text)
                .build()
                .map_err(|error| chain(&error))
        });
        let answer = client
            .put_log_events()
            .log_group_name(&self.group)
            .log_stream_name(&self.stream)
            .set_log_events(Some(events.collect::<Result<_, _>>()?))
            .send()
            .await;
        match answer {
            Ok(output) => Ok(Put::Taken(output.rejected_log_events_info)),
            Err(error) => match error.as_service_error() {
                Some(PutLogEventsError::ResourceNotFoundException(_)) => Ok(Put::NoStream),
                // An answer that was lost on its way, to a service that still counts sequences.
                Some(PutLogEventsError::DataAlreadyAcceptedException(_)) => Ok(Put::Taken(None)),
                _ => Err(why(&error)),
            },
        }
    }

    /// Makes the stream, and the group if that is missing, too. The group mostly exists: an agent's role need not
    /// be allowed to make it.
    async fn make_stream(&self, client: &Client) -> Result<(), String> {
        let stream =
            || client.create_log_stream().log_group_name(&self.group).log_stream_name(&self.stream).send();
        if let Made::NoGroup = made(stream().await)? {
            made(client.create_log_group().log_group_name(&self.group).send().await)?;
            if let Made::NoGroup = made(stream().await)? {
                return Err(format!("the log group {} was made and is not there yet", self.group));
            }
        }
        Ok(())
    }
}

impl Sink for CloudWatch {
    async fn send(&mut self, records: &[Record], now: Timestamp) -> Result<Sent, SinkError> {
        let failed = |why| SinkError { records: records.len(), why };
        let client = self.client().await.map_err(failed)?;
        let Some(mut batch) = batch::form(records, now) else {
            return Ok(Sent { upto: 0, delivered: 0, refused: 0 });
        };
        let number = batch.events.len();
        let rejected = self.put(&client, &batch.events).await.map_err(failed)?;
        let mut refused = too_old(rejected.as_ref(), number);
        let new = too_new(rejected.as_ref(), number).max(refused);
        if new < number {
            let earlier = i64::try_from(TOO_NEW.as_millis()).unwrap_or(0);
            for event in &mut batch.events[new..] {
                event.at = event.at.saturating_sub(earlier).max(0);
            }
            let again = &batch.events[new..];
            let rejected = self.put(&client, again).await.map_err(failed)?;
            let (old, new) =
                (too_old(rejected.as_ref(), again.len()), too_new(rejected.as_ref(), again.len()));
            refused += old + again.len() - new.max(old);
        }
        Ok(Sent { upto: batch.upto, delivered: (number - refused) as u64, refused: refused as u64 })
    }
}

/// How many events at the start are older than the service or the group's retention takes.
fn too_old(rejected: Option<&RejectedLogEventsInfo>, number: usize) -> usize {
    let ends = rejected.map(|info| [info.too_old_log_event_end_index, info.expired_log_event_end_index]);
    let ends = ends.into_iter().flatten().flatten().filter_map(|end| usize::try_from(end).ok());
    ends.max().unwrap_or(0).min(number)
}

/// From which event on they are newer than the service takes.
fn too_new(rejected: Option<&RejectedLogEventsInfo>, number: usize) -> usize {
    let start = rejected.and_then(|info| info.too_new_log_event_start_index);
    start.and_then(|start| usize::try_from(start).ok()).unwrap_or(number).min(number)
}

/// A stream or group is made or was already there: another process, or another node, was faster.
fn made<T, E>(answer: Result<T, SdkError<E>>) -> Result<Made, String>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer {
        Ok(_) => Ok(Made::There),
        Err(error) => match error.code() {
            Some("ResourceAlreadyExistsException") => Ok(Made::There),
            Some("ResourceNotFoundException") => Ok(Made::NoGroup),
            _ => Err(why(&error)),
        },
    }
}

/// What the service said, else what kept it from saying anything; one line of bearable length.
fn why<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let text = match error.code() {
        Some(code) => format!("{code}: {}", error.message().unwrap_or("no message")),
        None => chain(error),
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line[..line.floor_char_boundary(MAX_WHY)].to_owned()
}
