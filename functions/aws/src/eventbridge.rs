//! EventBridge itself.

use std::time::Duration;

use aws_config::{SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_eventbridge::{
    Client,
    config::Builder,
    error::DisplayErrorContext,
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use nodemend_ports::notify::{EventBus, EventBusError, Notification, Put, SOURCE};

/// One put. Who tells tries again itself, and puts then only what was refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// An error that is logged: more than AWS ever says.
const MAX_MESSAGE: usize = 1_024;

/// A bus of EventBridge's. Clones share its connections.
#[derive(Debug, Clone)]
pub struct EventBridge {
    client: Client,
    bus: String,
}

impl EventBridge {
    /// The bus of this name in the functions' own account and region.
    pub fn connect(shared: &SdkConfig, bus: String) -> Self {
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).operation_timeout(PATIENCE).build();
        let once = Builder::from(shared).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        Self { client: Client::from_conf(once.build()), bus }
    }
}

impl EventBus for EventBridge {
    async fn put(&self, some: &[Notification]) -> Result<Vec<Put>, EventBusError> {
        let entries = some.iter().map(|one| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.bus)
                .source(SOURCE)
                .detail_type(one.detail_type)
                .detail(&one.detail)
                .time(DateTime::from_millis(one.at.as_millisecond()))
                .build()
        });
        let answer = self.client.put_events().set_entries(Some(entries.collect())).send().await;
        let answer =
            answer.map_err(|error| EventBusError(one_line(&DisplayErrorContext(error).to_string())))?;
        Ok(answer.entries().iter().map(read).collect())
    }
}

fn read(answer: &PutEventsResultEntry) -> Put {
    match answer.error_code() {
        None => Put::Taken,
        Some(code) => {
            Put::Refused(one_line(&format!("{code}: {}", answer.error_message().unwrap_or_default())))
        }
    }
}

fn one_line(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_MESSAGE)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
