//! Runs a schedule: advances virtual time from event to event, and runs the functions that are due.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::Confirmer;
use nodemend_domain::ident::{ClusterName, InstanceId};
use nodemend_intake::Intake;
use nodemend_ports::{
    cause::chain,
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud},
    store::MemoryStore,
};
use nodemend_reconcile::{ControlPlaneLogs, ReconcileTarget, Reconciler};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    faults::{Fate, Faults, Faulty},
    fixture,
};

use crate::{
    events::{Content, Delivery, Event, Queued},
    oracle::{LEASE, Oracle, end, node::Fact},
    plan::{Options, Plan},
    policy::Settings,
    ports::{SharedOracle, SkewedClock, WatchedAws, WatchedStore},
    rng::Rng,
    tasks::{self, Step, Task},
};

const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// How often the reconcile function runs.
const RECONCILE: SignedDuration = SignedDuration::from_mins(5);
/// How long one invocation of the repair function runs.
const RUN_LENGTH: SignedDuration = SignedDuration::from_secs(58);
/// Lambda ends an invocation after this. It must be shorter than a lease.
const LIFETIME: SignedDuration = SignedDuration::from_secs(100);
/// How long after the start of the calm everything must have ended: a group's longest backoff, and what follows it.
const PATIENCE: SignedDuration = SignedDuration::from_hours(40);

/// How often things fail, of a thousand times.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct FaultRates {
    pub(crate) crashes: u64,
    pub(crate) stalls: u64,
    pub(crate) twice: u64,
    pub(crate) late: u64,
    pub(crate) skipped: u64,
    pub(crate) lost: u64,
    pub(crate) very_late: u64,
    pub(crate) redriven: u64,
    pub(crate) lost_events: u64,
    pub(crate) drains: u64,
    pub(crate) other_account: u64,
    pub(crate) second_cluster: u64,
    pub(crate) repair_runs: u64,
    pub(crate) failed_launches: u64,
    pub(crate) audit_log: u64,
    pub(crate) same_fault: u64,
    pub(crate) same_name: u64,
    pub(crate) clocks: bool,
}

/// The simulated cluster and AWS account, and the functions that run.
pub(crate) struct Environment {
    pub(crate) plan: Arc<Plan>,
    pub(crate) options: Options,
    pub(crate) clock: VirtualClock,
    pub(crate) now: Timestamp,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    /// The account of the second cluster, if one is served.
    pub(crate) second: Option<MemoryCloud>,
    pub(crate) oracle: SharedOracle,
    pub(crate) cluster: ClusterName,
    pub(crate) rng: Rng,
    pub(crate) rates: FaultRates,
    /// When the agents' subscription filter (true) or the control plane's is off.
    pub(crate) off: Vec<(bool, Timestamp, Timestamp)>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    /// How many deliveries are queued.
    pub(crate) under_way: usize,
    tasks: Vec<Task<Tag>>,
    base: Timestamp,
    next_minute: Timestamp,
    pub(crate) handled_calls: usize,
    pub(crate) observing: bool,
    /// The policy changes that are in force, by the numbers of their items.
    pub(crate) changes: Vec<usize>,
    /// How many of a thousand new instances each group draws from its warm pool.
    pub(crate) pools: BTreeMap<usize, u64>,
    /// No instance can be launched.
    pub(crate) no_capacity: bool,
    /// When the oracle checks next whether a repair is overdue.
    next_check: Option<Timestamp>,
}

/// What a task does.
enum Tag {
    RepairRun,
    Reconcile,
    Delivery(Box<Delivery>),
}

/// Runs a future that never waits.
pub(crate) fn poll_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("memory never waits"),
    }
}

impl Environment {
    pub(crate) fn new(plan: Arc<Plan>, options: Options) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(plan.start);
        let mut rng = Rng::of(plan.seed, 2);
        let base = plan.start - rng.seconds(0, 60);
        let mut environment = Self {
            store: MemoryStore::with_policy(plan.policy(&Settings::of(&plan, &[]))),
            cloud: MemoryCloud::new(clock.clone(), fixture::caller(), Fleet::default()),
            second: None,
            oracle: SharedOracle::new(Oracle::new(plan.clone(), &options)),
            cluster: fixture::cluster(),
            now: plan.start,
            clock,
            rng,
            rates: FaultRates::default(),
            off: Vec::new(),
            pools: BTreeMap::new(),
            no_capacity: false,
            queue: BinaryHeap::new(),
            queued: 0,
            under_way: 0,
            tasks: Vec::new(),
            next_minute: base,
            base,
            handled_calls: 0,
            observing: false,
            changes: Vec::new(),
            next_check: None,
            plan,
            options,
        };
        environment.create_fleet();
        environment.items();
        environment
    }

    pub(crate) fn at(&mut self, at: Timestamp, event: Event) {
        self.queued += 1;
        if matches!(event, Event::Delivered(_) | Event::CloudTrail(_)) {
            self.under_way += 1;
        }
        self.queue.push(Reverse(Queued { at: at.max(self.now), order: self.queued, event }));
    }

    pub(crate) fn after(&mut self, length: SignedDuration, event: Event) {
        self.at(self.now + length, event);
    }

    /// Runs the whole schedule.
    pub(crate) fn run(&mut self) {
        self.run_until(self.plan.calm);
        self.calm();
        let latest = self.plan.calm + PATIENCE;
        let (mut end, mut quiet) = (latest, false);
        loop {
            // Not a whole number of minutes: the same heartbeats would be queued each time.
            let odd = self.rng.seconds(300, 600);
            self.run_until(self.now + odd);
            let settled = self.is_settled();
            if !settled {
                // A fault that began later is repaired, too.
                (end, quiet) = (latest, false);
            }
            if settled && !std::mem::replace(&mut quiet, true) {
                // What still waits must be blocked for good: everything that passes has passed by then.
                end = end.min(self.now + SignedDuration::from_hours(1));
            }
            let done = settled && self.oracle.lock().is_explained();
            if done || self.now >= end || !self.oracle.lock().violations.is_empty() {
                break;
            }
        }
        let shared = self.oracle.clone();
        let mut oracle = shared.lock();
        if oracle.violations.is_empty() {
            poll_once(end::check(&mut oracle, &self.store));
        }
    }

    fn calm(&mut self) {
        self.rates = FaultRates { clocks: self.rates.clocks, ..FaultRates::default() };
        let mut oracle = self.oracle.lock();
        (oracle.reading.slow, oracle.reading.throttled) = (0, 0);
        oracle.trace(|| "a calm begins".to_owned());
        oracle.fault();
    }

    fn is_settled(&self) -> bool {
        let oracle = self.oracle.lock();
        // CloudTrail has no event of a call that was never sent; the repair waits its time for one.
        self.under_way == 0
            && self.now > oracle.last_written + SignedDuration::from_mins(35)
            && self.tasks.iter().all(|task| matches!(task.tag, Tag::RepairRun) && task.sleep.get().is_some())
            && oracle
                .nodes
                .iter()
                .enumerate()
                .all(|(number, node)| !node.stored.open || oracle.is_stuck(number))
            && oracle.watched.iter().all(|number| {
                let plan = oracle.group_plan(*number);
                !plan.may_be_repaired() || !oracle.wants_repair(*number) || oracle.is_stuck(*number)
            })
    }

    fn run_until(&mut self, end: Timestamp) {
        loop {
            let event = self.queue.peek().map(|Reverse(queued)| queued.at);
            let wakes = self.tasks.iter().filter_map(Task::wakes).min();
            let start_repair_runs = self.next_repair_run();
            let Some(next) =
                event.into_iter().chain(wakes).chain(start_repair_runs).min().filter(|next| *next <= end)
            else {
                self.pass_to(end);
                return;
            };
            self.pass_to(next);
            while let Some(Reverse(queued)) = self.queue.peek() {
                if queued.at > self.now {
                    break;
                }
                let Some(Reverse(queued)) = self.queue.pop() else { break };
                self.apply_event(queued.event);
            }
            if start_repair_runs.is_some_and(|start_repair_runs| start_repair_runs <= self.now) {
                self.start_repair_runs();
            }
            self.work();
            if !self.oracle.lock().violations.is_empty() {
                return;
            }
        }
    }

    fn pass_to(&mut self, at: Timestamp) {
        self.now = at;
        self.clock.advance_to(at);
        self.oracle.lock().now = at;
    }

    /// When the next run of the repair function begins that finds a case due. Those in between would find none and write
    /// nothing; they are left out.
    fn next_repair_run(&self) -> Option<Timestamp> {
        let due = poll_once(end::next_due(&self.store))?;
        // A case that fell due after the run of its minute had found nothing waits for the next.
        let soonest = self.next_minute.max(self.minute_from(self.now));
        Some(if due < soonest + RUN_LENGTH { soonest } else { self.minute_from(due - MINUTE) })
    }

    /// The first invocation at or after a time.
    fn minute_from(&self, at: Timestamp) -> Timestamp {
        let since = at.duration_since(self.base).as_millis();
        let minutes = i64::try_from(since.div_euclid(60_000)).unwrap_or(0);
        let begun = self.base + SignedDuration::from_secs(minutes * 60);
        if begun < at { begun + MINUTE } else { begun }
    }

    fn start_repair_runs(&mut self) {
        let since = self.now.duration_since(self.base).as_secs() / 60;
        self.next_minute = self.base + SignedDuration::from_secs(since * 60) + MINUTE;
        let count = if self.rng.happens(self.rates.repair_runs) { self.rng.pick(&[0, 2]) } else { 1 };
        if count != 1 {
            self.oracle.lock().fault();
        }
        for _ in 0..count {
            let (process, faults, sleep) = self.process(Vec::new());
            let skew = self.skew();
            let (store, cloud) = self.ports(process, &faults, skew, &sleep);
            let (clock, sleeper, oracle) = (self.clock.clone(), sleep.clone(), self.oracle.clone());
            let repairer = Repairer::new(store, cloud, SkewedClock { clock: self.clock.clone(), skew });
            let end = self.now + RUN_LENGTH + skew;
            let work = async move {
                let wait = async move |until: Timestamp| {
                    tasks::wait_until(clock.clone(), sleeper.clone(), until - skew).await;
                };
                let mut failure = None;
                let report = |run: &nodemend_repair::RunReport| {
                    for event in &run.repair_events {
                        oracle.lock().trace(|| format!("  {}: {}", event.instance_id, event.detail));
                    }
                    failure = failure.take().or_else(|| run.failures.first().map(|failure| chain(failure)));
                };
                repairer.run_until(end, wait, report).await.map_err(|error| error.to_string())?;
                failure.map_or(Ok(()), Err)
            };
            let dies = self.now + LIFETIME;
            self.tasks.push(Task { tag: Tag::RepairRun, process, faults, sleep, dies, work: Box::pin(work) });
        }
    }

    /// Invokes the reconcile function, and does so again five minutes later.
    pub(crate) fn reconcile(&mut self) {
        if self.now + RECONCILE < self.plan.calm {
            self.after(RECONCILE, Event::Reconciles);
        }
        let (process, faults, sleep) = self.process(Vec::new());
        self.oracle.lock().reconciles(process);
        let skew = self.skew();
        let (store, cloud) = self.ports(process, &faults, skew, &sleep);
        let clock = SkewedClock { clock: self.clock.clone(), skew };
        let target =
            ReconcileTarget { cluster: self.cluster.clone(), control_plane_logs: ControlPlaneLogs::Enabled };
        let work = async move {
            let report = Reconciler::new(store, cloud, clock).run(&target).await;
            let report = report.map_err(|error| chain(&error))?;
            report.failures.first().map_or(Ok(()), |failure| Err(chain(failure)))
        };
        let (dies, work) = (self.now + LIFETIME, Box::pin(work));
        self.tasks.push(Task { tag: Tag::Reconcile, process, faults, sleep, dies, work });
    }

    fn process(&mut self, facts: Vec<(usize, Fact)>) -> (usize, Faults, tasks::Sleep) {
        let arrival = self.now;
        let process = self.oracle.lock().begins(facts, arrival);
        let faults = if self.rates.crashes == 0 {
            Faults::none()
        } else {
            let (mut rng, rate) = (Rng::of(self.rng.below(u64::MAX), 3), self.rates.crashes);
            let shared = self.oracle.clone();
            Faults::drawn(move |_| {
                if !rng.happens(rate) {
                    return Fate::Proceed;
                }
                let fate = rng.pick(&Fate::BAD);
                let mut oracle = shared.lock();
                oracle.fails(process);
                oracle.trace(|| format!("  process {process}: {fate:?}"));
                oracle.fault();
                fate
            })
        };
        (process, faults, tasks::Sleep::default())
    }

    fn skew(&mut self) -> SignedDuration {
        if self.rates.clocks {
            SignedDuration::from_millis(self.rng.below(1_800) as i64 - 900)
        } else {
            SignedDuration::ZERO
        }
    }

    fn ports(
        &self,
        process: usize,
        faults: &Faults,
        skew: SignedDuration,
        sleep: &tasks::Sleep,
    ) -> (Faulty<WatchedStore>, Faulty<WatchedAws>) {
        let store = WatchedStore { store: self.store.clone(), oracle: self.oracle.clone(), process };
        let cloud = WatchedAws {
            cloud: self.cloud.clone(),
            second: self.second.clone(),
            is_second: false,
            clock: self.clock.clone(),
            oracle: self.oracle.clone(),
            process,
            skew,
            sleep: sleep.clone(),
            node: Arc::default(),
        };
        (Faulty::new(store, faults.clone()), Faulty::new(cloud, faults.clone()))
    }

    /// Invokes a function with a delivery.
    pub(crate) fn deliver(&mut self, delivery: Box<Delivery>) {
        let content = delivery.content.clone();
        let facts = match &*content {
            Content::Log(line) => &line.facts,
            Content::Bytes(_, facts) => facts,
        };
        let facts = facts.clone();
        let (process, faults, sleep) = self.process(facts);
        let skew = self.skew();
        let (store, cloud) = self.ports(process, &faults, skew, &sleep);
        let arrival = self.now + skew;
        self.oracle.lock().arrives_at(process, arrival);
        let dies = self.now + LIFETIME;
        let work = async move {
            match &*content {
                Content::Log(line) => {
                    let taken = Intake::new(store).take(line.batch(), arrival).await;
                    let taken = taken.map_err(|error| error.to_string())?;
                    match taken.rejected.first() {
                        Some(rejected) => Err(format!("rejected: {}", rejected.why)),
                        None => Ok(()),
                    }
                }
                Content::Bytes(bytes, _) => {
                    let audit = Confirmer::new(store, cloud);
                    audit.handle(bytes, arrival).await.map(drop).map_err(|error| error.to_string())
                }
            }
        };
        let work = Box::pin(work);
        self.tasks.push(Task { tag: Tag::Delivery(delivery), process, faults, sleep, dies, work });
    }

    /// Runs every function that can continue, in any order.
    fn work(&mut self) {
        loop {
            let now = self.now;
            let ready = |task: &Task<Tag>| task.wakes().is_none_or(|at| at <= now);
            let count = self.tasks.iter().filter(|task| ready(task)).count();
            if count == 0 {
                return;
            }
            let chosen = if count == 1 { 0 } else { self.rng.index(count) };
            let Some((place, _)) = self.tasks.iter().enumerate().filter(|(_, task)| ready(task)).nth(chosen)
            else {
                return;
            };
            match tasks::step(&mut self.tasks, place, now) {
                Step::Goes => self.may_stall(place),
                Step::Ended(tag, process, result) => self.ended(tag, process, result),
            }
            if self.oracle.lock().made_calls.len() > self.handled_calls {
                self.called();
            }
            if self.oracle.lock().is_looping() {
                return;
            }
        }
    }

    fn may_stall(&mut self, place: usize) {
        if self.rates.stalls == 0 || self.tasks[place].sleep.get().is_some() {
            return;
        }
        if self.rng.happens(self.rates.stalls) {
            let length =
                if self.rng.happens(100) { self.rng.seconds(40, 130) } else { self.rng.seconds(1, 40) };
            let mut oracle = self.oracle.lock();
            let process = self.tasks[place].process;
            oracle.trace(|| format!("  process {process} stalls for {length:#}"));
            oracle.fault();
            oracle.stalls(process, self.now + length);
            self.tasks[place].sleep.set(Some(self.now + length));
        }
    }

    fn ended(&mut self, tag: Tag, process: usize, result: Option<Result<(), String>>) {
        let succeeded = matches!(result, Some(Ok(())));
        {
            let mut oracle = self.oracle.lock();
            oracle.ends(process, succeeded);
            if !succeeded {
                oracle.trace(|| format!("  process {process} ended: {result:?}"));
                // What a process that stalled has left open is ended when its lease is.
                let calm = self.rates.crashes == 0 && oracle.last_fault + LIFETIME + LEASE < self.now;
                if let Some(Err(why)) = result.as_ref().filter(|_| calm) {
                    oracle.violation("failed without a fault", why.clone());
                }
            }
        }
        let Tag::Delivery(mut delivery) = tag else { return };
        if succeeded {
            return;
        }
        // Lambda retries an event after one minute and after two. Then an operator redrives it.
        delivery.tries += 1;
        let later = match delivery.tries {
            1 => 60,
            2 => 120,
            _ => 600,
        };
        self.after(SignedDuration::from_secs(later), Event::Delivered(delivery));
    }

    /// Lets the oracle check, and check again when a repair may be overdue.
    pub(crate) fn run_oracle(&mut self) {
        if self.next_check.is_some_and(|at| at > self.now) {
            return;
        }
        let next = self.oracle.lock().check_overdue();
        self.next_check = next;
        if let Some(next) = next {
            self.at(next, Event::OracleCheck);
        }
    }

    /// Lets the oracle check what has changed.
    pub(crate) fn wake_oracle(&mut self) {
        let mut oracle = self.oracle.lock();
        let new = std::mem::take(&mut oracle.changed);
        drop(oracle);
        if new {
            let soon = self.now + SignedDuration::from_secs(20);
            if self.next_check.is_none_or(|at| at > soon) {
                self.next_check = Some(soon);
                self.at(soon, Event::OracleCheck);
            }
        }
    }

    pub(crate) fn instance(&self, number: usize) -> InstanceId {
        self.oracle.lock().nodes[number].instance.clone()
    }
}
