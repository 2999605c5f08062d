//! The CloudWatch Logs sink: one log stream for each instance, created at the first write.
//!
//! The SDK finds and renews credentials (IRSA, Pod Identity, the instance role) and reads `AWS_ENDPOINT_URL` and
//! `AWS_ENDPOINT_URL_CLOUDWATCH_LOGS`. The SDK's retries are off: [`deliver`](super::deliver) alone decides how long
//! to wait.

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
    batch::{self, BatchEvent},
};
use crate::{causes::chain, outbox::SpoolRecord};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A full batch is 1 MiB: enough time for 300 kbit/s.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The service rejected these events as too new; they are sent once more with timestamps earlier by this duration.
const TOO_NEW: SignedDuration = SignedDuration::from_hours(24);
const MAX_WHY: usize = 400;

/// Writes to one log stream of CloudWatch Logs.
#[derive(Debug)]
pub struct CloudWatchSink {
    client: Option<Client>,
    group: String,
    stream: String,
}

/// The result of one call.
enum PutOutcome {
    Accepted(Option<RejectedLogEventsInfo>),
    NoStream,
}

/// The result of creating a stream or a group.
enum CreateOutcome {
    Exists,
    NoGroup,
}

impl CloudWatchSink {
    /// The default log group of a cluster.
    pub fn group_of(cluster: &ClusterName) -> String {
        format!("/nodemend/{cluster}/nodes")
    }

    /// Writes to the stream of an instance. Region and credentials are resolved at the first send, so a metadata
    /// service that is unreachable at start may recover until then.
    pub fn new(group: String, instance_id: &InstanceId) -> Self {
        Self { client: None, group, stream: instance_id.to_string() }
    }

    /// Like [`new`](Self::new), with an existing client.
    pub fn with_client(client: Client, group: String, instance_id: &InstanceId) -> Self {
        Self { client: Some(client), ..Self::new(group, instance_id) }
    }

    async fn client(&mut self) -> Result<Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // aws-lc needs a C toolchain, which a static build does not have; ring works without.
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
            return Err("no AWS region: set AWS_REGION, or allow the instance metadata service".to_owned());
        }
        let config = Builder::from(&shared).retry_config(RetryConfig::disabled()).build();
        Ok(self.client.insert(Client::from_conf(config)).clone())
    }

    /// Calls PutLogEvents; creates the stream first if it does not exist.
    async fn put(
        &self,
        client: &Client,
        events: &[BatchEvent<'_>],
    ) -> Result<Option<RejectedLogEventsInfo>, String> {
        if let PutOutcome::Accepted(rejected_info) = self.call(client, events).await? {
            return Ok(rejected_info);
        }
        self.create_stream(client).await?;
        match self.call(client, events).await? {
            PutOutcome::Accepted(rejected_info) => Ok(rejected_info),
            PutOutcome::NoStream => {
                Err(format!("{}/{} was created, but is not available yet", self.group, self.stream))
            }
        }
    }

    async fn call(&self, client: &Client, events: &[BatchEvent<'_>]) -> Result<PutOutcome, String> {
        let events = events.iter().map(|event| {
            InputLogEvent::builder()
                .timestamp(event.at)
                .message(event.text)
                .build()
                .map_err(|error| chain(&error))
        });
        let response = client
            .put_log_events()
            .log_group_name(&self.group)
            .log_stream_name(&self.stream)
            .set_log_events(Some(events.collect::<Result<_, _>>()?))
            .send()
            .await;
        match response {
            Ok(output) => Ok(PutOutcome::Accepted(output.rejected_log_events_info)),
            Err(error) => match error.as_service_error() {
                Some(PutLogEventsError::ResourceNotFoundException(_)) => Ok(PutOutcome::NoStream),
                // The response to an earlier call was lost, and the service still checks sequence tokens.
                Some(PutLogEventsError::DataAlreadyAcceptedException(_)) => Ok(PutOutcome::Accepted(None)),
                _ => Err(why(&error)),
            },
        }
    }

    /// Creates the stream, and the group if it does not exist. The group usually exists, so the agent's role need not
    /// allow its creation.
    async fn create_stream(&self, client: &Client) -> Result<(), String> {
        let stream =
            || client.create_log_stream().log_group_name(&self.group).log_stream_name(&self.stream).send();
        if let CreateOutcome::NoGroup = created(stream().await)? {
            created(client.create_log_group().log_group_name(&self.group).send().await)?;
            if let CreateOutcome::NoGroup = created(stream().await)? {
                return Err(format!("the log group {} was created, but is not available yet", self.group));
            }
        }
        Ok(())
    }
}

impl Sink for CloudWatchSink {
    async fn send(&mut self, records: &[SpoolRecord], now: Timestamp) -> Result<Sent, SinkError> {
        let failed = |why| SinkError { records: records.len(), why };
        let client = self.client().await.map_err(failed)?;
        let Some(mut batch) = batch::form(records, now) else {
            return Ok(Sent { upto: 0, delivered: 0, rejected: 0 });
        };
        let number = batch.events.len();
        let rejected_info = self.put(&client, &batch.events).await.map_err(failed)?;
        let mut rejected = too_old(rejected_info.as_ref(), number);
        let new = too_new(rejected_info.as_ref(), number).max(rejected);
        if new < number {
            let earlier = i64::try_from(TOO_NEW.as_millis()).unwrap_or(0);
            for event in &mut batch.events[new..] {
                event.at = event.at.saturating_sub(earlier).max(0);
            }
            let again = &batch.events[new..];
            let rejected_info = self.put(&client, again).await.map_err(failed)?;
            let (old, new) =
                (too_old(rejected_info.as_ref(), again.len()), too_new(rejected_info.as_ref(), again.len()));
            rejected += old + again.len() - new.max(old);
        }
        Ok(Sent { upto: batch.upto, delivered: (number - rejected) as u64, rejected: rejected as u64 })
    }
}

/// The number of events at the start that are too old for the service or the group's retention.
fn too_old(rejected_info: Option<&RejectedLogEventsInfo>, number: usize) -> usize {
    let ends = rejected_info.map(|info| [info.too_old_log_event_end_index, info.expired_log_event_end_index]);
    let ends = ends.into_iter().flatten().flatten().filter_map(|end| usize::try_from(end).ok());
    ends.max().unwrap_or(0).min(number)
}

/// The index of the first event that is too new for the service.
fn too_new(rejected_info: Option<&RejectedLogEventsInfo>, number: usize) -> usize {
    let start = rejected_info.and_then(|info| info.too_new_log_event_start_index);
    start.and_then(|start| usize::try_from(start).ok()).unwrap_or(number).min(number)
}

/// Treats an existing stream or group as created: another process or node was faster.
fn created<T, E>(response: Result<T, SdkError<E>>) -> Result<CreateOutcome, String>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match response {
        Ok(_) => Ok(CreateOutcome::Exists),
        Err(error) => match error.code() {
            Some("ResourceAlreadyExistsException") => Ok(CreateOutcome::Exists),
            Some("ResourceNotFoundException") => Ok(CreateOutcome::NoGroup),
            _ => Err(why(&error)),
        },
    }
}

/// The service's error code and message, or the SDK's error; one line of limited length.
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
