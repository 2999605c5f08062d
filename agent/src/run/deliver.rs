//! Runs the sink on a thread of its own: it may wait for hours, and nothing else does.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{RunError, chain, note, state::Health, watch::lock};
use crate::{
    config::{Config, SinkKind},
    identity::Identity,
    metrics::Metrics,
    outbox::Outbox,
    sink::{self, Sink, stdout::Lines},
    source::Clocks,
};

const STACK: usize = 1024 * 1024;
/// How often it is looked whether all is delivered, once the agent ends.
const LOOK: Duration = Duration::from_millis(20);

/// Starts it; the thread ends when the agent does and nothing waits any more.
pub(super) fn start(
    config: &Config,
    identity: &Identity,
    outbox: Arc<Mutex<Outbox>>,
    metrics: Arc<Metrics>,
    health: Health,
) -> Result<JoinHandle<()>, RunError> {
    let start = thread::Builder::new().name("delivery".to_owned()).stack_size(STACK);
    match config.sink {
        SinkKind::Stdout => {
            let sink = Lines::stdout();
            start.spawn(move || run(sink, &outbox, &metrics, &health))
        }
        #[cfg(feature = "cloudwatch")]
        SinkKind::Cloudwatch => {
            use crate::sink::cloudwatch::CloudWatch;
            let group = config.log_group.clone().unwrap_or_else(|| CloudWatch::group_of(&identity.cluster));
            let sink = CloudWatch::new(group, &identity.instance_id);
            start.spawn(move || run(sink, &outbox, &metrics, &health))
        }
        #[cfg(not(feature = "cloudwatch"))]
        SinkKind::Cloudwatch => {
            let _ = identity;
            return Err(RunError::Sink("sink: this agent was built without cloudwatch".to_owned()));
        }
    }
    .map_err(RunError::Thread)
}

fn run(mut sink: impl Sink, outbox: &Mutex<Outbox>, metrics: &Metrics, health: &Health) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return note(&format!("reports can't be delivered: {error}")),
    };
    let mut last = String::new();
    let tell = |error: &dyn std::error::Error| {
        // A sink that does not answer says the same for hours.
        let text = chain(error);
        if text != last {
            note(&text);
            last = text;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = sink::deliver(outbox, &mut sink, health.fresh(), metrics, || Clocks::read().wall, tell) => {}
            () = drained(outbox, health) => {}
        }
    });
}

async fn drained(outbox: &Mutex<Outbox>, health: &Health) {
    health.ended().await;
    while lock(outbox).waiting() > 0 {
        tokio::time::sleep(LOOK).await;
    }
}
