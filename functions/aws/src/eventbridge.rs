//! The event bus on EventBridge.

use std::time::Duration;

use aws_config::{SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_eventbridge::{
    Client,
    config::Builder,
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use nodemend_ports::{
    cause::one_line,
    notify::{EventBus, EventBusError, Notification, Put, SOURCE},
};

use crate::error::cause;

/// The timeout of one request. The SDK does not retry: the publisher does, and sends only the rejected events again.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An event bus of EventBridge. Clones share its connections.
#[derive(Debug, Clone)]
pub struct EventBridge {
    client: Client,
    bus: String,
}

impl EventBridge {
    /// The bus of this name in the functions' own account and region.
    pub fn connect(shared: &SdkConfig, bus: String) -> Self {
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(TIMEOUT).operation_timeout(TIMEOUT).build();
        let config = Builder::from(shared).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        Self { client: Client::from_conf(config.build()), bus }
    }
}

impl EventBus for EventBridge {
    async fn put(&self, batch: &[Notification]) -> Result<Vec<Put>, EventBusError> {
        let entries = batch.iter().map(|one| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.bus)
                .source(SOURCE)
                .detail_type(one.detail_type)
                .detail(&one.detail)
                .time(DateTime::from_millis(one.at.as_millisecond()))
                .build()
        });
        let answer = self.client.put_events().set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|error| EventBusError(cause(error)))?;
        Ok(answer.entries().iter().map(read).collect())
    }
}

fn read(answer: &PutEventsResultEntry) -> Put {
    match answer.error_code() {
        None => Put::Accepted,
        Some(code) => {
            Put::Rejected(one_line(&format!("{code}: {}", answer.error_message().unwrap_or_default())))
        }
    }
}
