//! Reads each probe at its own interval on a few threads, and sends the results to the pipeline.
//!
//! A probe may wait for a socket that does not respond; the other threads continue. More threads would cost memory on
//! every node for a rare case.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use crate::{finding::FindingChange, metrics::Metrics, probe::Probe, source::Clocks, sync::lock};

const THREADS: usize = 3;
const STACK: usize = 256 * 1024;
/// Each interval is up to a tenth longer, so that probes with the same interval do not run at once on every node of a
/// cluster.
const JITTER: u32 = 10;

/// The result of one reading.
#[derive(Debug)]
pub(super) enum ProbeResult {
    /// The changes of a reading.
    Changes(Vec<FindingChange>),
    /// A probe became not checkable. Sent once, until the probe can be read again.
    NotCheckable { probe: &'static str, why: String },
}

#[derive(Debug)]
struct ScheduledProbe {
    due: Instant,
    index: usize,
}

impl PartialEq for ScheduledProbe {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.index) == (other.due, other.index)
    }
}
impl Eq for ScheduledProbe {}
impl PartialOrd for ScheduledProbe {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ScheduledProbe {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.index).cmp(&(other.due, other.index))
    }
}

struct ProbeQueue {
    schedule: BinaryHeap<Reverse<ScheduledProbe>>,
    probes: Vec<Option<Box<dyn Probe>>>,
    not_checkable: HashSet<&'static str>,
}

struct ProbeScheduler {
    queue: Mutex<ProbeQueue>,
    changed: Condvar,
    interval: Option<Duration>,
    metrics: Arc<Metrics>,
}

/// Starts the threads. They run for as long as the receiver exists.
pub(super) fn start(
    probes: Vec<Box<dyn Probe>>,
    interval: Option<Duration>,
    metrics: Arc<Metrics>,
    results: SyncSender<ProbeResult>,
) -> std::io::Result<()> {
    let now = Instant::now();
    let schedule = (0..probes.len()).map(|index| Reverse(ScheduledProbe { due: now, index })).collect();
    let queue = ProbeQueue {
        schedule,
        probes: probes.into_iter().map(Some).collect(),
        not_checkable: HashSet::new(),
    };
    let scheduler =
        Arc::new(ProbeScheduler { queue: Mutex::new(queue), changed: Condvar::new(), interval, metrics });
    for number in 0..THREADS {
        let (scheduler, results) = (Arc::clone(&scheduler), results.clone());
        thread::Builder::new()
            .name(format!("probes-{number}"))
            .stack_size(STACK)
            .spawn(move || while scheduler.run_next(&results).is_some() {})?;
    }
    Ok(())
}

impl ProbeScheduler {
    /// Waits for the next due probe and reads it; `None` if the receiver is gone.
    fn run_next(&self, results: &SyncSender<ProbeResult>) -> Option<()> {
        let (index, mut probe) = self.next();
        let reading = probe.read(Clocks::read().wall);
        self.metrics.readings.inc();
        let name = probe.name();
        let mut queue = lock(&self.queue);
        let result = match reading {
            Ok(changes) => {
                queue.not_checkable.remove(name);
                Some(ProbeResult::Changes(changes))
            }
            Err(nothing) => {
                self.metrics.not_checkable.inc();
                let first = queue.not_checkable.insert(name);
                first.then(|| ProbeResult::NotCheckable { probe: name, why: nothing.why.into_owned() })
            }
        };
        let interval = self.interval.unwrap_or_else(|| probe.interval());
        queue
            .schedule
            .push(Reverse(ScheduledProbe { due: Instant::now() + interval + jitter(interval), index }));
        queue.probes[index] = Some(probe);
        drop(queue);
        self.changed.notify_one();
        match result {
            Some(result) => results.send(result).ok(),
            None => Some(()),
        }
    }

    fn next(&self) -> (usize, Box<dyn Probe>) {
        let mut queue = lock(&self.queue);
        loop {
            let now = Instant::now();
            match queue.schedule.peek() {
                Some(Reverse(next_probe)) if next_probe.due <= now => {
                    let index = next_probe.index;
                    queue.schedule.pop();
                    if let Some(probe) = queue.probes[index].take() {
                        return (index, probe);
                    }
                }
                Some(Reverse(next_probe)) => {
                    let wait = next_probe.due.duration_since(now);
                    queue = self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A random duration between zero and a tenth of the interval.
fn jitter(interval: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(0) % 1_000).unwrap_or(0);
    interval * random / 1_000 / JITTER
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use jiff::Timestamp;

    use super::*;
    use crate::probe::NotCheckable;

    struct CountingProbe(&'static str, bool);

    impl Probe for CountingProbe {
        fn name(&self) -> &'static str {
            self.0
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_millis(1)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
            if self.1 { Ok(Vec::new()) } else { Err(NotCheckable { why: "nothing there".into() }) }
        }
    }

    #[test]
    fn every_probe_is_read_repeatedly_and_a_missing_one_is_reported_once() {
        let (sender, results) = mpsc::sync_channel(16);
        let metrics = Arc::new(Metrics::default());
        let probes: Vec<Box<dyn Probe>> =
            vec![Box::new(CountingProbe("there", true)), Box::new(CountingProbe("gone", false))];
        start(probes, None, Arc::clone(&metrics), sender).expect("threads");
        let (mut readings, mut not_checkable) = (0, 0);
        while readings < 20 {
            match results.recv_timeout(Duration::from_secs(10)).expect("a message") {
                ProbeResult::Changes(_) => readings += 1,
                ProbeResult::NotCheckable { probe, why } => {
                    assert_eq!((probe, why.as_str()), ("gone", "nothing there"));
                    not_checkable += 1;
                }
            }
        }
        assert!(not_checkable <= 1, "it is sent once");
        assert!(metrics.not_checkable.get() >= 1 && metrics.readings.get() > 20);
    }

    #[test]
    fn jitter_is_at_most_a_tenth() {
        for _ in 0..1_000 {
            assert!(jitter(Duration::from_secs(30)) <= Duration::from_secs(3));
        }
    }
}
