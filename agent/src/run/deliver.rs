//! Takes reports from the spool to the sink, in their order, and lets go of what the sink has taken.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{RunError, note, state::Health, watch::lock};
use crate::{
    config::{Config, SinkKind},
    identity::Identity,
    metrics::Metrics,
    outbox::{Outbox, Record},
};

/// A batch of the stdout sink.
const RECORDS: usize = 1_000;
const BYTES: usize = 1024 * 1024;
/// Delivery is woken by what is stored; this is for what nobody woke it for.
const IDLE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
const STACK: usize = 512 * 1024;

/// Starts it; the thread ends when the agent does and nothing waits any more.
pub(super) fn start(
    config: &Config,
    _identity: &Identity,
    outbox: Arc<Mutex<Outbox>>,
    metrics: Arc<Metrics>,
    health: Health,
) -> Result<JoinHandle<()>, RunError> {
    if config.sink == SinkKind::Cloudwatch {
        return Err(RunError::Sink("sink: cloudwatch is not built in".to_owned()));
    }
    thread::Builder::new()
        .name("delivery".to_owned())
        .stack_size(STACK)
        .spawn(move || deliver(&outbox, &metrics, &health))
        .map_err(RunError::Thread)
}

fn deliver(outbox: &Mutex<Outbox>, metrics: &Metrics, health: &Health) {
    let mut complained = false;
    loop {
        let records = lock(outbox).peek(RECORDS, BYTES);
        let Some(last) = records.last() else {
            if health.is_ending() {
                return;
            }
            health.await_work(IDLE);
            continue;
        };
        match write(&mut io::stdout().lock(), &records) {
            Ok(()) => {
                complained = false;
                let mut outbox = lock(outbox);
                if let Err(error) = outbox.ack(last.number) {
                    note(&format!(
                        "what was delivered can't be noted and is delivered again: {}",
                        super::chain(&error)
                    ));
                }
                metrics.delivered.add(records.len() as u64);
                metrics.spooled.set(outbox.waiting());
            }
            Err(error) => {
                metrics.failures.add(1);
                if !complained {
                    note(&format!("standard output takes nothing: {error}"));
                    complained = true;
                }
                if health.is_ending() {
                    return;
                }
                health.await_work(PAUSE);
            }
        }
    }
}

/// One report a line, and all of them before anything is let go.
fn write(out: &mut impl Write, records: &[Record]) -> io::Result<()> {
    for record in records {
        out.write_all(record.text.as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
