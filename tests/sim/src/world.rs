//! Turns a schedule into a run: what happens in the cluster and at AWS, in the order of virtual time.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::BinaryHeap,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud},
    faults::{Fate, Faults, Faulty},
    store::MemoryStore,
};
use nodemend_audit::Audit;
use nodemend_domain::{
    ident::{ClusterName, InstanceId},
    trail::Caller,
};
use nodemend_intake::Intake;
use nodemend_repair::Repairer;

use crate::{
    dice::Dice,
    events::{Content, Event, Parcel, Queued},
    judge::{Judge, end, node::Word},
    plan::{CLUSTER, Item, Options, Plan},
    ports::{Aws, Bench, Skewed, Watched},
    tasks::{self, Step, Task},
    words::ARN,
};

const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// As the function's own invocation has it.
const SWEEPS_FOR: SignedDuration = SignedDuration::from_secs(58);
/// Lambda ends what takes longer: less than a lease.
const LIFETIME: SignedDuration = SignedDuration::from_secs(100);
/// So long after the calm everything must have ended: a group's longest rest, and what follows it.
const PATIENCE: SignedDuration = SignedDuration::from_hours(40);

/// How often things go wrong, of a thousand times.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) crashes: u64,
    pub(crate) stalls: u64,
    pub(crate) twice: u64,
    pub(crate) late: u64,
    pub(crate) skipped: u64,
    pub(crate) sweeps: u64,
    pub(crate) stillborn: u64,
    pub(crate) trail: u64,
    pub(crate) same_name: u64,
    pub(crate) clocks: bool,
}

/// The world.
pub(crate) struct World {
    pub(crate) plan: Arc<Plan>,
    pub(crate) options: Options,
    pub(crate) clock: VirtualClock,
    pub(crate) now: Timestamp,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    pub(crate) bench: Bench,
    pub(crate) cluster: ClusterName,
    pub(crate) dice: Dice,
    pub(crate) rates: Rates,
    /// When the agents' filter, and the control plane's, is off.
    pub(crate) off: Vec<(bool, Timestamp, Timestamp)>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    /// Deliveries that are on their way.
    pub(crate) under_way: usize,
    tasks: Vec<Task<Tag>>,
    base: Timestamp,
    next_minute: Timestamp,
    pub(crate) seen_calls: usize,
    pub(crate) observing: bool,
    /// When the judge looks next.
    looks: Option<Timestamp>,
}

/// What a task was to do.
enum Tag {
    Sweep,
    Parcel(Box<Parcel>),
}

/// Runs what never waits.
pub(crate) fn now<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("memory never waits"),
    }
}

impl World {
    pub(crate) fn new(plan: Arc<Plan>, options: Options) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(plan.start);
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: ARN.to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let mut dice = Dice::of(plan.seed, 2);
        let base = plan.start - dice.seconds(0, 60);
        let mut world = Self {
            store: MemoryStore::with_policy(plan.policy()),
            cloud: MemoryCloud::new(clock.clone(), caller, Fleet::default()),
            bench: Bench::new(Judge::new(plan.clone(), options.verbose)),
            cluster: ClusterName::new(CLUSTER).expect("a name"),
            now: plan.start,
            clock,
            dice,
            rates: Rates::default(),
            off: Vec::new(),
            queue: BinaryHeap::new(),
            queued: 0,
            under_way: 0,
            tasks: Vec::new(),
            next_minute: base,
            base,
            seen_calls: 0,
            observing: false,
            looks: None,
            plan,
            options,
        };
        world.people();
        world.items();
        world
    }

    pub(crate) fn at(&mut self, at: Timestamp, event: Event) {
        self.queued += 1;
        if matches!(event, Event::Arrives(_) | Event::Trail(_)) {
            self.under_way += 1;
        }
        self.queue.push(Reverse(Queued { at: at.max(self.now), order: self.queued, event }));
    }

    pub(crate) fn after(&mut self, length: SignedDuration, event: Event) {
        self.at(self.now + length, event);
    }

    /// Runs the whole schedule; what was wrong.
    pub(crate) fn run(&mut self) {
        self.run_until(self.plan.calm);
        self.calm();
        let end = self.plan.calm + PATIENCE;
        loop {
            // No whole number of minutes, or the same heartbeats would be under way each time.
            let odd = self.dice.seconds(300, 600);
            self.run_until(self.now + odd);
            if self.is_settled() || self.now >= end || !self.bench.judge().wrongs.is_empty() {
                break;
            }
        }
        let bench = self.bench.clone();
        let mut judge = bench.judge();
        if judge.wrongs.is_empty() {
            now(end::judge(&mut judge, &self.store));
        }
    }

    fn calm(&mut self) {
        self.rates = Rates { clocks: self.rates.clocks, ..Rates::default() };
        let mut judge = self.bench.judge();
        judge.tell(|| "a calm begins".to_owned());
        judge.fault();
    }

    fn is_settled(&self) -> bool {
        let judge = self.bench.judge();
        // CloudTrail may be silent about what never left, and that takes its time to tell.
        self.under_way == 0
            && self.now > judge.last_written + SignedDuration::from_mins(35)
            && self.tasks.iter().all(|task| matches!(task.tag, Tag::Sweep) && task.sleep.get().is_some())
            && judge.nodes.iter().enumerate().all(|(number, node)| !node.seen.open || judge.is_stuck(number))
            && judge.watched.iter().all(|number| {
                let plan = judge.group_plan(*number);
                !plan.may_be_repaired() || !judge.wants_repair(*number) || judge.is_stuck(*number)
            })
    }

    fn run_until(&mut self, end: Timestamp) {
        loop {
            let event = self.queue.peek().map(|Reverse(queued)| queued.at);
            let wakes = self.tasks.iter().filter_map(Task::wakes).min();
            let sweep = self.next_sweep();
            let Some(next) = event.into_iter().chain(wakes).chain(sweep).min().filter(|next| *next <= end)
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
                self.happen(queued.event);
            }
            if sweep.is_some_and(|sweep| sweep <= self.now) {
                self.sweep();
            }
            self.work();
            if !self.bench.judge().wrongs.is_empty() {
                return;
            }
        }
    }

    fn pass_to(&mut self, at: Timestamp) {
        self.now = at;
        self.clock.advance_to(at);
        self.bench.judge().now = at;
    }

    /// When the next invocation begins that finds anything: in its minute something falls due. Those between find
    /// nothing due, write nothing, and are left out.
    fn next_sweep(&self) -> Option<Timestamp> {
        let due = now(end::next_due(&self.store))?;
        // One that fell due after its minute's own invocation had found nothing waits for the next.
        let soonest = self.next_minute.max(self.minute_from(self.now));
        Some(if due < soonest + SWEEPS_FOR { soonest } else { self.minute_from(due - MINUTE) })
    }

    /// The first invocation that begins then or later.
    fn minute_from(&self, at: Timestamp) -> Timestamp {
        let since = at.duration_since(self.base).as_millis();
        let minutes = i64::try_from(since.div_euclid(60_000)).unwrap_or(0);
        let begun = self.base + SignedDuration::from_secs(minutes * 60);
        if begun < at { begun + MINUTE } else { begun }
    }

    fn sweep(&mut self) {
        let since = self.now.duration_since(self.base).as_secs() / 60;
        self.next_minute = self.base + SignedDuration::from_secs(since * 60) + MINUTE;
        let count = if self.dice.happens(self.rates.sweeps) { self.dice.pick(&[0, 2]) } else { 1 };
        if count != 1 {
            self.bench.judge().fault();
        }
        for _ in 0..count {
            let (process, faults, sleep) = self.process(Vec::new());
            let skew = self.skew();
            let (store, cloud) = self.ports(process, &faults);
            let (clock, sleeper) = (self.clock.clone(), sleep.clone());
            let repairer = Repairer::new(store, cloud, Skewed { clock: self.clock.clone(), skew });
            let end = self.now + SWEEPS_FOR + skew;
            let work = async move {
                let wait = async move |until: Timestamp| {
                    tasks::wait_until(clock.clone(), sleeper.clone(), until - skew).await;
                };
                let mut failure = None;
                let report = |swept: &nodemend_repair::Swept| {
                    failure = failure.take().or_else(|| swept.failures.first().map(ToString::to_string));
                };
                repairer.sweep_until(end, wait, report).await.map_err(|error| error.to_string())?;
                failure.map_or(Ok(()), Err)
            };
            let dies = self.now + LIFETIME;
            self.tasks.push(Task { tag: Tag::Sweep, process, faults, sleep, dies, work: Box::pin(work) });
        }
    }

    fn process(&mut self, words: Vec<(usize, Word)>) -> (usize, Faults, tasks::Sleep) {
        let arrival = self.now;
        let process = self.bench.judge().begins(words, arrival);
        let faults = if self.rates.crashes == 0 {
            Faults::none()
        } else {
            let (mut dice, rate) = (Dice::of(self.dice.below(u64::MAX), 3), self.rates.crashes);
            let bench = self.bench.clone();
            Faults::drawn(move |_| {
                if !dice.happens(rate) {
                    return Fate::Proceed;
                }
                let fate = dice.pick(&Fate::BAD);
                let mut judge = bench.judge();
                judge.tell(|| format!("  process {process}: {fate:?}"));
                judge.fault();
                fate
            })
        };
        (process, faults, Rc::new(Cell::new(None)))
    }

    fn skew(&mut self) -> SignedDuration {
        if self.rates.clocks {
            SignedDuration::from_millis(self.dice.below(1_800) as i64 - 900)
        } else {
            SignedDuration::ZERO
        }
    }

    fn ports(&self, process: usize, faults: &Faults) -> (Faulty<Watched>, Faulty<Aws>) {
        let store = Watched { store: self.store.clone(), bench: self.bench.clone(), process };
        let cloud =
            Aws { cloud: self.cloud.clone(), clock: self.clock.clone(), bench: self.bench.clone(), process };
        (Faulty::new(store, faults.clone()), Faulty::new(cloud, faults.clone()))
    }

    /// A function is given a delivery.
    pub(crate) fn take(&mut self, parcel: Box<Parcel>) {
        let content = parcel.content.clone();
        let words = match &*content {
            Content::Log(said) => &said.words,
            Content::Bytes(_, words) => words,
        };
        let words = words.clone();
        let (process, faults, sleep) = self.process(words);
        let (store, cloud) = self.ports(process, &faults);
        let arrival = self.now + self.skew();
        self.bench.judge().arrives_at(process, arrival);
        let dies = self.now + LIFETIME;
        let work = async move {
            match &*content {
                Content::Log(said) => {
                    let taken = Intake::new(store).take(said.batch(), arrival).await;
                    let taken = taken.map_err(|error| error.to_string())?;
                    match taken.rejected.first() {
                        Some(rejected) => Err(format!("rejected: {}", rejected.why)),
                        None => Ok(()),
                    }
                }
                Content::Bytes(bytes, _) => {
                    let audit = Audit::new(store, cloud);
                    audit.handle(bytes, arrival).await.map(drop).map_err(|error| error.to_string())
                }
            }
        };
        let work = Box::pin(work);
        self.tasks.push(Task { tag: Tag::Parcel(parcel), process, faults, sleep, dies, work });
    }

    /// Lets every function that can go on do so, in any order.
    fn work(&mut self) {
        loop {
            let now = self.now;
            let ready = |task: &Task<Tag>| task.wakes().is_none_or(|at| at <= now);
            let count = self.tasks.iter().filter(|task| ready(task)).count();
            if count == 0 {
                return;
            }
            let chosen = if count == 1 { 0 } else { self.dice.index(count) };
            let Some((place, _)) = self.tasks.iter().enumerate().filter(|(_, task)| ready(task)).nth(chosen)
            else {
                return;
            };
            match tasks::step(&mut self.tasks, place, now) {
                Step::Goes => self.may_stall(place),
                Step::Ended(tag, process, result) => self.ended(tag, process, result),
            }
            if self.bench.judge().made.len() > self.seen_calls {
                self.called();
            }
        }
    }

    fn may_stall(&mut self, place: usize) {
        if self.rates.stalls == 0 || self.tasks[place].sleep.get().is_some() {
            return;
        }
        if self.dice.happens(self.rates.stalls) {
            let length =
                if self.dice.happens(100) { self.dice.seconds(40, 130) } else { self.dice.seconds(1, 40) };
            let mut judge = self.bench.judge();
            let process = self.tasks[place].process;
            judge.tell(|| format!("  process {process} stalls for {length:#}"));
            judge.fault();
            self.tasks[place].sleep.set(Some(self.now + length));
        }
    }

    fn ended(&mut self, tag: Tag, process: usize, result: Option<Result<(), String>>) {
        let well = matches!(result, Some(Ok(())));
        {
            let mut judge = self.bench.judge();
            judge.ends(process, well);
            if !well {
                judge.tell(|| format!("  process {process} ended: {result:?}"));
                let calm = self.rates.crashes == 0 && judge.last_fault + LIFETIME < self.now;
                if let Some(Err(why)) = result.as_ref().filter(|_| calm) {
                    judge.wrong("failed for no reason", why.clone());
                }
            }
        }
        let Tag::Parcel(mut parcel) = tag else { return };
        if well {
            return;
        }
        // Lambda tries an event twice more, after one minute and after two; then somebody sends it again.
        parcel.tries += 1;
        let later = match parcel.tries {
            1 => 60,
            2 => 120,
            _ => 600,
        };
        self.after(SignedDuration::from_secs(later), Event::Arrives(parcel));
    }

    /// The judge looks, and looks again when something may be overdue.
    pub(crate) fn keep_looking(&mut self) {
        if self.looks.is_some_and(|at| at > self.now) {
            return;
        }
        let next = self.bench.judge().look();
        self.looks = next;
        if let Some(next) = next {
            self.at(next, Event::Look);
        }
    }

    /// The judge looks at what is new.
    pub(crate) fn wake_the_judge(&mut self) {
        let mut judge = self.bench.judge();
        let new = std::mem::take(&mut judge.news);
        drop(judge);
        if new {
            let soon = self.now + SignedDuration::from_secs(20);
            if self.looks.is_none_or(|at| at > soon) {
                self.looks = Some(soon);
                self.at(soon, Event::Look);
            }
        }
    }

    pub(crate) fn instance(&self, number: usize) -> InstanceId {
        self.bench.judge().nodes[number].instance.clone()
    }

    /// What the items come to.
    fn items(&mut self) {
        let plan = self.plan.clone();
        let without = self.options.without.clone();
        let kept = || plan.items.iter().enumerate().filter(|(number, _)| !without.contains(number));
        // Where logs are lost is known first: an agent is heard before that.
        for (_, item) in kept() {
            if let Item::FilterOff { agents, from, until } = item {
                self.off.push((*agents, *from, *until));
            }
        }
        for (number, item) in kept() {
            self.bench.judge().tell(|| format!("item {number}: {item}"));
            match item {
                Item::Ail(ail) => self.ails(ail),
                Item::FilterOff { .. } => {}
                Item::Hold { from, until, lifted, .. } => {
                    self.at(*from, Event::Begins(number));
                    self.at(lifted.unwrap_or(*until), Event::Ends(number));
                }
                Item::Refusals { from, until, .. }
                | Item::Suspended { from, until, .. }
                | Item::Aside { from, until, .. }
                | Item::Shift { from, until, .. }
                | Item::Observed { from, until } => {
                    self.at(*from, Event::Begins(number));
                    self.at(*until, Event::Ends(number));
                }
                Item::Crashes(rate) => self.rates.crashes = *rate,
                Item::Stalls(rate) => self.rates.stalls = *rate,
                Item::Twice(rate) => self.rates.twice = *rate,
                Item::Late(rate) => self.rates.late = *rate,
                Item::Skipped(rate) => self.rates.skipped = *rate,
                Item::Sweeps(rate) => self.rates.sweeps = *rate,
                Item::Stillborn(rate) => self.rates.stillborn = *rate,
                Item::TrailLate(rate) => self.rates.trail = *rate,
                Item::SameName(rate) => self.rates.same_name = *rate,
                Item::Clocks => self.rates.clocks = true,
            }
        }
        self.clocks();
    }
}
