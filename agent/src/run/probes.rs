//! Reads every probe at its own interval, on a few threads, and hands on what they say.
//!
//! A probe may wait for a socket that does not answer. A few threads keep the others going; more than a few would
//! cost memory on every node for a case that is rare.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use crate::{finding::Change, metrics::Metrics, probe::Probe, source::Clocks};

const THREADS: usize = 3;
const STACK: usize = 256 * 1024;
/// Probes of one interval must not all run at once, on every node of a cluster: up to a tenth later each time.
const JITTER: u32 = 10;

/// What probes say.
#[derive(Debug)]
pub(super) enum Said {
    /// What one reading changes.
    Changes(Vec<Change>),
    /// One has nothing to read, for the first time since it last had.
    NotCheckable { probe: &'static str, why: String },
}

#[derive(Debug)]
struct Turn {
    due: Instant,
    place: usize,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.place) == (other.due, other.place)
    }
}
impl Eq for Turn {}
impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.place).cmp(&(other.due, other.place))
    }
}

struct Queue {
    turns: BinaryHeap<Reverse<Turn>>,
    probes: Vec<Option<Box<dyn Probe>>>,
    silent: HashSet<&'static str>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    interval: Option<Duration>,
    metrics: Arc<Metrics>,
}

/// Starts them; they go on for as long as somebody listens.
pub(super) fn start(
    probes: Vec<Box<dyn Probe>>,
    interval: Option<Duration>,
    metrics: Arc<Metrics>,
    said: SyncSender<Said>,
) -> std::io::Result<()> {
    let now = Instant::now();
    let turns = (0..probes.len()).map(|place| Reverse(Turn { due: now, place })).collect();
    let queue = Queue { turns, probes: probes.into_iter().map(Some).collect(), silent: HashSet::new() };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new(), interval, metrics });
    for number in 0..THREADS {
        let (shared, said) = (Arc::clone(&shared), said.clone());
        thread::Builder::new()
            .name(format!("probes-{number}"))
            .stack_size(STACK)
            .spawn(move || while shared.one(&said).is_some() {})?;
    }
    Ok(())
}

impl Shared {
    /// Waits for a turn, and takes it; none once nobody listens.
    fn one(&self, said: &SyncSender<Said>) -> Option<()> {
        let (place, mut probe) = self.next();
        let answer = probe.read(Clocks::read().wall);
        self.metrics.readings.add(1);
        let name = probe.name();
        let mut queue = self.lock();
        let word = match answer {
            Ok(changes) => {
                queue.silent.remove(name);
                Some(Said::Changes(changes))
            }
            Err(nothing) => {
                self.metrics.not_checkable.add(1);
                let first = queue.silent.insert(name);
                first.then(|| Said::NotCheckable { probe: name, why: nothing.why.into_owned() })
            }
        };
        let interval = self.interval.unwrap_or_else(|| probe.interval());
        queue.turns.push(Reverse(Turn { due: Instant::now() + interval + jitter(interval), place }));
        queue.probes[place] = Some(probe);
        drop(queue);
        self.changed.notify_one();
        match word {
            Some(word) => said.send(word).ok(),
            None => Some(()),
        }
    }

    fn next(&self) -> (usize, Box<dyn Probe>) {
        let mut queue = self.lock();
        loop {
            let now = Instant::now();
            match queue.turns.peek() {
                Some(Reverse(turn)) if turn.due <= now => {
                    let place = turn.place;
                    queue.turns.pop();
                    if let Some(probe) = queue.probes[place].take() {
                        return (place, probe);
                    }
                }
                Some(Reverse(turn)) => {
                    let wait = turn.due.duration_since(now);
                    queue = self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Anything from nothing to a tenth of the interval.
fn jitter(interval: Duration) -> Duration {
    let dice = u32::try_from(RandomState::new().hash_one(0) % 1_000).unwrap_or(0);
    interval * dice / 1_000 / JITTER
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use jiff::Timestamp;

    use super::*;
    use crate::probe::NotCheckable;

    struct Counting(&'static str, bool);

    impl Probe for Counting {
        fn name(&self) -> &'static str {
            self.0
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_millis(1)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<Change>, NotCheckable> {
            if self.1 { Ok(Vec::new()) } else { Err(NotCheckable { why: "nothing there".into() }) }
        }
    }

    #[test]
    fn every_probe_has_its_turns_and_what_is_not_there_is_said_once() {
        let (sender, said) = mpsc::sync_channel(16);
        let metrics = Arc::new(Metrics::default());
        let probes: Vec<Box<dyn Probe>> =
            vec![Box::new(Counting("there", true)), Box::new(Counting("gone", false))];
        start(probes, None, Arc::clone(&metrics), sender).expect("threads");
        let (mut readings, mut silent) = (0, 0);
        while readings < 20 {
            match said.recv_timeout(Duration::from_secs(10)).expect("a word") {
                Said::Changes(_) => readings += 1,
                Said::NotCheckable { probe, why } => {
                    assert_eq!((probe, why.as_str()), ("gone", "nothing there"));
                    silent += 1;
                }
            }
        }
        assert!(silent <= 1, "it is said once");
        assert!(metrics.not_checkable.get() >= 1 && metrics.readings.get() > 20);
    }

    #[test]
    fn jitter_is_at_most_a_tenth() {
        for _ in 0..1_000 {
            assert!(jitter(Duration::from_secs(30)) <= Duration::from_secs(3));
        }
    }
}
