//! Runs many schedules, several at once, and adds up their outcomes.

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

/// Which schedules to run, and how.
#[derive(Debug)]
pub struct Campaign {
    /// For each schedule.
    pub options: Options,
    /// How many schedules.
    pub seeds: u64,
    /// The first seed.
    pub from: u64,
    /// How many schedules at once.
    pub threads: usize,
    /// Continue after the first that fails.
    pub go_on: bool,
    /// Which outcome is a failure: one with violations, unless a test looks for something else.
    pub fails: fn(&Outcome) -> bool,
}

impl Default for Campaign {
    fn default() -> Self {
        Self {
            options: Options::default(),
            seeds: 1_000,
            from: 0,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            go_on: false,
            fails: |outcome| !outcome.violations.is_empty(),
        }
    }
}

/// What the schedules add up to.
#[derive(Debug, Default)]
pub struct Totals {
    /// How many calls reached AWS.
    pub calls: usize,
    /// How often a function was invoked.
    pub invocations: usize,
    /// How often the functions read or wrote.
    pub operations: usize,
    slowest: (Duration, u64),
    /// How many schedules had a call on a node that was healthy in truth, and how many calls those were.
    pub on_healthy: (u64, usize),
    /// How many schedules broke each rule first, and the first seed that did.
    rules: BTreeMap<&'static str, (u64, u64)>,
    /// The first seed that failed, and its outcome.
    pub first: Option<(u64, Outcome)>,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: Outcome, fails: bool, took: Duration) {
        self.calls += outcome.calls;
        self.invocations += outcome.invocations;
        self.operations += outcome.operations;
        self.slowest = self.slowest.max((took, seed));
        self.on_healthy.0 += u64::from(outcome.on_healthy > 0);
        self.on_healthy.1 += outcome.on_healthy;
        if let Some(violation) = outcome.violations.first() {
            self.rules.entry(violation.rule).or_insert((0, seed)).0 += 1;
        }
        if fails {
            self.first.get_or_insert((seed, outcome));
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.calls += other.calls;
        self.invocations += other.invocations;
        self.operations += other.operations;
        self.on_healthy.0 += other.on_healthy.0;
        self.on_healthy.1 += other.on_healthy.1;
        self.slowest = self.slowest.max(other.slowest);
        for (rule, (count, seed)) in other.rules {
            let known = self.rules.entry(rule).or_insert((0, seed));
            *known = (known.0 + count, known.1.min(seed));
        }
        self.first = self.first.into_iter().chain(other.first).min_by_key(|(seed, _)| *seed);
        self
    }
}

/// The totals for a reader: each broken rule, and one line on the whole campaign.
pub struct CampaignReport<'a> {
    campaign: &'a Campaign,
    /// What the schedules add up to.
    pub totals: Totals,
    took: Duration,
}

impl fmt::Display for CampaignReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Campaign { options, seeds, from, .. } = self.campaign;
        let Totals { calls, invocations, operations, slowest, rules, on_healthy, .. } = &self.totals;
        for (rule, (count, seed)) in rules {
            writeln!(f, "{count:>7} × {rule}, first by seed {seed}")?;
        }
        if !options.verification {
            let (schedules, calls) = on_healthy;
            writeln!(
                f,
                "without verification: {schedules} of {seeds} schedules have a call on a healthy node; {calls} such calls"
            )?;
        }
        let failed: u64 = rules.values().map(|(count, _)| count).sum();
        let took = self.took.as_secs_f64();
        write!(
            f,
            "{seeds} schedules of {} nodes and {} h from seed {from}: {failed} with a violation; {calls} calls, \
             {invocations} invocations, {operations} reads and writes; {took:.1} s, {:.0} schedules a second; the \
             slowest took {:.0?} (seed {})",
            options.nodes,
            options.hours,
            *seeds as f64 / took,
            slowest.0,
            slowest.1,
        )
    }
}

/// Runs all schedules, or until one fails.
#[allow(clippy::disallowed_methods, reason = "measures how long it takes")]
pub fn run_campaign(campaign: &Campaign) -> CampaignReport<'_> {
    report_seed_of_panics();
    let began = Instant::now();
    let shared = Shared { campaign, next: AtomicU64::new(campaign.from), failed: AtomicU64::new(0) };
    let totals = thread::scope(|scope| {
        let others: Vec<_> = (1..campaign.threads).map(|_| scope.spawn(|| shared.work(|_, _| {}))).collect();
        let mut progress =
            Progress { campaign, began, reported: began, terminal: std::io::stderr().is_terminal() };
        let totals = shared.work(|done, failed| progress.report(done, failed));
        progress.clear();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.fold(totals, Totals::and)
    });
    CampaignReport { campaign, totals, took: began.elapsed() }
}

thread_local! {
    /// The schedule that this thread runs.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A panic names its line. To repeat it, one needs the seed, too.
fn report_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default_hook = take_hook();
        set_hook(Box::new(move |panic| {
            default_hook(panic);
            if let Some(seed) = SEED.get() {
                eprintln!("simulate: panicked in the schedule of --seed {seed}");
            }
        }));
    });
}

/// The seeds, handed out in order: every seed before the first that fails has been run, too.
struct Shared<'a> {
    campaign: &'a Campaign,
    next: AtomicU64,
    failed: AtomicU64,
}

impl Shared<'_> {
    #[allow(clippy::disallowed_methods, reason = "measures how long it takes")]
    fn work(&self, mut report: impl FnMut(u64, u64)) -> Totals {
        let _stop = StopOnPanic(&self.failed);
        let mut totals = Totals::default();
        loop {
            let failed = self.failed.load(Ordering::Relaxed);
            if failed > 0 && !self.campaign.go_on {
                return totals;
            }
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.campaign.from + self.campaign.seeds {
                return totals;
            }
            let start = Instant::now();
            SEED.set(Some(seed));
            let outcome = run(seed, &self.campaign.options);
            SEED.set(None);
            let fails = (self.campaign.fails)(&outcome);
            self.failed.fetch_add(u64::from(fails), Ordering::Relaxed);
            if let Some(violation) = outcome.violations.first().filter(|_| fails && self.campaign.go_on) {
                eprintln!("seed {seed}: {}", violation.rule);
            }
            totals.add(seed, outcome, fails, start.elapsed());
            report(seed - self.campaign.from, failed);
        }
    }
}

/// A handler that panics on one thread stops the others, too.
struct StopOnPanic<'a>(&'a AtomicU64);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(u64::from(thread::panicking()), Ordering::Relaxed);
    }
}

struct Progress<'a> {
    campaign: &'a Campaign,
    began: Instant,
    reported: Instant,
    terminal: bool,
}

impl Progress<'_> {
    #[allow(clippy::disallowed_methods, reason = "measures how long it takes")]
    fn report(&mut self, done: u64, failed: u64) {
        let every = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.reported.elapsed() < every {
            return;
        }
        self.reported = Instant::now();
        let rate = done as f64 / self.began.elapsed().as_secs_f64();
        let (of, left) = (self.campaign.seeds, (self.campaign.seeds - done) as f64 / rate);
        let line = format!("{done} of {of}, {rate:.0} a second, {left:.0} s left, {failed} with a violation");
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
