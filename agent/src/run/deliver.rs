//! Runs the sink on a thread of its own, since a delivery may take hours.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{error, warn};

use super::{RunError, health::AgentHealth};
use crate::{
    causes,
    config::{Config, SinkKind},
    identity::NodeIdentity,
    metrics::Metrics,
    outbox::Outbox,
    sink::{self, Sink, stdout::StdoutSink},
    source::Clocks,
    sync::lock,
};

const STACK: usize = 1024 * 1024;
/// How often the delivery checks during shutdown whether the spool is empty.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Starts the thread. It ends when the agent stops and no report waits.
pub(super) fn start(
    config: &Config,
    identity: &NodeIdentity,
    outbox: Arc<Mutex<Outbox>>,
    metrics: Arc<Metrics>,
    health: AgentHealth,
) -> Result<JoinHandle<()>, RunError> {
    let start = thread::Builder::new().name("delivery".to_owned()).stack_size(STACK);
    match config.sink {
        SinkKind::Stdout => {
            let sink = StdoutSink::stdout();
            start.spawn(move || run(sink, &outbox, &metrics, &health))
        }
        #[cfg(feature = "cloudwatch")]
        SinkKind::Cloudwatch => {
            use crate::sink::cloudwatch::CloudWatchSink;
            let group =
                config.log_group.clone().unwrap_or_else(|| CloudWatchSink::group_of(&identity.cluster));
            let sink = CloudWatchSink::new(group, &identity.instance_id);
            start.spawn(move || run(sink, &outbox, &metrics, &health))
        }
        #[cfg(not(feature = "cloudwatch"))]
        SinkKind::Cloudwatch => {
            let _ = identity;
            return Err(RunError::Sink(
                "sink: this agent was built without the cloudwatch feature".to_owned(),
            ));
        }
    }
    .map_err(RunError::Thread)
}

fn run(mut sink: impl Sink, outbox: &Mutex<Outbox>, metrics: &Metrics, health: &AgentHealth) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "failed to start the delivery"),
    };
    let mut last = String::new();
    let on_error = |error: &dyn std::error::Error| {
        // A sink that does not respond returns the same error for hours; it is logged once.
        let text = causes::chain(error);
        if text != last {
            warn!("{text}");
            last = text;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = sink::deliver(outbox, &mut sink, health.new_reports(), metrics, || Clocks::read().wall, on_error) => {}
            () = drained(outbox, health) => {}
        }
    });
}

async fn drained(outbox: &Mutex<Outbox>, health: &AgentHealth) {
    health.ended().await;
    while lock(outbox).waiting() > 0 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
