//! Runs many schedules, several at once, and sums up what they came to.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    io::{IsTerminal, Write},
    num::NonZero,
    panic::{resume_unwind, set_hook, take_hook},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Options, Outcome, run};

/// What is to be run.
#[derive(Debug)]
pub struct Many {
    /// How each is run.
    pub options: Options,
    /// How many.
    pub seeds: u64,
    /// The first seed.
    pub from: u64,
    /// How many at once.
    pub threads: usize,
    /// Beyond the first that fails.
    pub go_on: bool,
    /// Which outcome is a failure: one with violations, unless a test looks for something else.
    pub fails: fn(&Outcome) -> bool,
}

impl Default for Many {
    fn default() -> Self {
        Self {
            options: Options::default(),
            seeds: 1_000,
            from: 0,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            go_on: false,
            fails: |outcome| !outcome.wrongs.is_empty(),
        }
    }
}

/// What they came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// How many calls reached AWS.
    pub calls: usize,
    /// How often a function was invoked.
    pub invocations: usize,
    /// How often they read or wrote.
    pub operations: usize,
    slowest: (Duration, u64),
    /// How often each rule was broken, and the first seed that broke it.
    rules: BTreeMap<&'static str, (u64, u64)>,
    /// The first that failed.
    pub first: Option<(u64, Outcome)>,
}

impl Sum {
    fn note(&mut self, seed: u64, outcome: Outcome, fails: bool, took: Duration) {
        self.calls += outcome.calls;
        self.invocations += outcome.invocations;
        self.operations += outcome.operations;
        self.slowest = self.slowest.max((took, seed));
        if let Some(wrong) = outcome.wrongs.first() {
            self.rules.entry(wrong.rule).or_insert((0, seed)).0 += 1;
        }
        if fails {
            self.first.get_or_insert((seed, outcome));
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.calls += other.calls;
        self.invocations += other.invocations;
        self.operations += other.operations;
        self.slowest = self.slowest.max(other.slowest);
        for (rule, (count, seed)) in other.rules {
            let known = self.rules.entry(rule).or_insert((0, seed));
            *known = (known.0 + count, known.1.min(seed));
        }
        self.first = self.first.into_iter().chain(other.first).min_by_key(|(seed, _)| *seed);
        self
    }
}

/// A sum as it is told: what was broken, and one line on all.
pub struct Told<'a> {
    asked: &'a Many,
    /// What they came to.
    pub sum: Sum,
    took: Duration,
    /// How long this process has had a core for it, in seconds.
    had: f64,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Many { options, seeds, from, .. } = self.asked;
        let Sum { calls, invocations, operations, slowest, rules, .. } = &self.sum;
        for (rule, (count, seed)) in rules {
            writeln!(f, "{count:>7} × {rule}, first by seed {seed}")?;
        }
        let failed: u64 = rules.values().map(|(count, _)| count).sum();
        write!(
            f,
            "{seeds} schedules of {} nodes and {} h from seed {from}: {failed} wrong, {calls} calls in {invocations} \
             invocations of {operations} reads and writes; {:.1} s, {:.0} a core-second; \
             the slowest took {:.0?} (seed {})",
            options.nodes,
            options.hours,
            self.took.as_secs_f64(),
            *seeds as f64 / self.had,
            slowest.0,
            slowest.1,
        )
    }
}

/// Runs them all, or until one fails.
#[allow(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
pub fn many(asked: &Many) -> Told<'_> {
    tell_seed_of_panics();
    let began = Instant::now();
    let share = Share { asked, next: AtomicU64::new(asked.from), failed: AtomicU64::new(0) };
    let sum = thread::scope(|scope| {
        let others: Vec<_> = (1..asked.threads).map(|_| scope.spawn(|| share.work(|_, _| {}))).collect();
        let mut progress = Progress { asked, began, told: began, terminal: std::io::stderr().is_terminal() };
        let sum = share.work(|done, failed| progress.tell(done, failed));
        progress.clear();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.fold(sum, Sum::and)
    });
    let took = began.elapsed();
    Told { asked, sum, took, had: cpu_seconds().unwrap_or(took.as_secs_f64()) }
}

thread_local! {
    /// The schedule that this thread runs.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A panic says where it came from; that is of no use without the seed of its schedule.
fn tell_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told_before = take_hook();
        set_hook(Box::new(move |panic| {
            told_before(panic);
            if let Some(seed) = SEED.get() {
                eprintln!("simulate: it was in the schedule of --seed {seed}");
            }
        }));
    });
}

/// The seeds, handed out in their order: what is before the first that fails was run, too.
struct Share<'a> {
    asked: &'a Many,
    next: AtomicU64,
    failed: AtomicU64,
}

impl Share<'_> {
    #[allow(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
    fn work(&self, mut tell: impl FnMut(u64, u64)) -> Sum {
        let mut sum = Sum::default();
        loop {
            let failed = self.failed.load(Ordering::Relaxed);
            if failed > 0 && !self.asked.go_on {
                return sum;
            }
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.asked.from + self.asked.seeds {
                return sum;
            }
            let start = Instant::now();
            SEED.set(Some(seed));
            let outcome = run(seed, &self.asked.options);
            SEED.set(None);
            let fails = (self.asked.fails)(&outcome);
            self.failed.fetch_add(u64::from(fails), Ordering::Relaxed);
            sum.note(seed, outcome, fails, start.elapsed());
            tell(seed - self.asked.from, failed);
        }
    }
}

struct Progress<'a> {
    asked: &'a Many,
    began: Instant,
    told: Instant,
    terminal: bool,
}

impl Progress<'_> {
    #[allow(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
    fn tell(&mut self, done: u64, failed: u64) {
        let every = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.told.elapsed() < every {
            return;
        }
        self.told = Instant::now();
        let rate = done as f64 / self.began.elapsed().as_secs_f64();
        let (of, left) = (self.asked.seeds, (self.asked.seeds - done) as f64 / rate);
        let line = format!("{done} of {of}, {rate:.0} a second, {left:.0} s left, {failed} wrong");
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// How long this process has had a core, where the kernel says so: others may want it too.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    // In hundredths of a second, whatever the kernel's own tick.
    Some((ticks(11)? + ticks(12)?) / 100.0).filter(|seconds| *seconds > 0.0)
}
