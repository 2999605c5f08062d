//! Turns a schedule of faults into a small world that the real handlers run in: nodes that break and recover, a
//! group that replaces what is terminated, logs and events that come late, twice and out of order, sweeps that
//! run at once, and processes that fail and die.
//!
//! Whether a call was right is judged by what is so in this world, and by the cloud's own record of calls: never
//! by what the handlers say of themselves.

mod dice;
mod nodes;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    faults::{
        Faults, Faulty,
        schedule::{self, Process},
    },
    store::{CaseKey, MemoryStore, Store},
    subscription::Batch,
    trail::Trail,
};
use nodemend_audit::Audit;
use nodemend_domain::{
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::{Limit, Policy},
    trail::{ApiCall, Caller, verify_chain},
};
use nodemend_intake::Intake;
use nodemend_repair::Repairer;

use self::nodes::{Node, RECOVERY_HOLD};
pub(crate) use self::{
    dice::Dice,
    nodes::{Kind, Sick},
};

pub(crate) const CLUSTER: &str = "prod";
pub(crate) const GROUP: &str = "workers";
pub(crate) const ARN: &str = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair";

/// Lambda ends what takes longer. It must be less than a lease: two processes may never hold the same one.
const LIFETIME: SignedDuration = SignedDuration::from_secs(90);
const MAX_TURNS: usize = 20_000;

/// How much goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Of a thousand operations, so many fail or kill their process.
    pub(crate) faults: u64,
    /// Of a hundred deliveries, so many come twice.
    pub(crate) twice: u64,
    /// Of a hundred replacements, so many never come, and as many never register.
    pub(crate) stillborn: u64,
}

/// Something that will happen.
#[derive(Debug, Clone)]
enum Happening {
    /// A node's condition changes, or is due to be told again.
    Speak(InstanceId),
    /// A log line reaches intake.
    Log(Batch<'static>),
    /// An event reaches audit.
    Event(Vec<u8>),
    /// CloudTrail tells of a call.
    CloudTrail { instance_id: InstanceId, name: &'static str, at: Timestamp },
    /// An instance is no more.
    Leave(InstanceId),
    /// A replacement is launched.
    Launch { instance_id: InstanceId, replaces: InstanceId, registers: bool },
    /// It registers, and later is ready.
    Register { instance_id: InstanceId, replaces: InstanceId },
    /// An instance is up again after a reboot.
    Boot(InstanceId),
}

/// The world.
pub(crate) struct World {
    clock: VirtualClock,
    store: MemoryStore,
    cloud: MemoryCloud,
    dice: Dice,
    weather: Weather,
    limit: usize,
    will_happen: BTreeMap<(Timestamp, u64), Happening>,
    numbered: u64,
    nodes: BTreeMap<InstanceId, Node>,
    seen_calls: usize,
    launches: u64,
    /// What should never have happened, with when it did.
    pub(crate) wrongs: Vec<String>,
}

pub(crate) fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an id")
}

pub(crate) fn start() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

fn policy(limit: usize) -> Policy {
    let mut policy = Policy::eks_defaults();
    // One guard is on trial, the others stay out of its way.
    policy.node_repair_config.max_parallel_nodes_repaired = Some(Limit::Count(limit as u32));
    policy.node_repair_config.max_unhealthy_node_threshold = Some(Limit::Count(1_000));
    policy.zones.min_unhealthy = 1_000;
    policy.silence.agent_silent_after = None;
    assert_eq!(policy.recovery_hold, RECOVERY_HOLD);
    policy
}

impl World {
    pub(crate) fn new(sick: Vec<Sick>, limit: usize, weather: Weather, dice: Dice) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(start());
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: ARN.to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let mut world = Self {
            store: MemoryStore::with_policy(policy(limit)),
            cloud: MemoryCloud::new(clock.clone(), caller, Fleet::default()),
            clock,
            dice,
            weather,
            limit,
            will_happen: BTreeMap::new(),
            numbered: 0,
            nodes: BTreeMap::new(),
            seen_calls: 0,
            launches: 0,
            wrongs: Vec::new(),
        };
        for (number, sick) in sick.into_iter().enumerate() {
            let instance_id = instance(number as u64 + 1);
            world.join(&instance_id);
            for at in sick.changes() {
                world.plan(at, Happening::Speak(instance_id.clone()));
            }
            world.nodes.insert(instance_id, Node::sick(sick));
        }
        world
    }

    fn join(&self, instance_id: &InstanceId) {
        let cluster = ClusterName::new(CLUSTER).expect("a name");
        let group = GroupName::new(GROUP).expect("a name");
        let zone = Zone::new("us-east-1a").expect("a name");
        self.cloud.change(|fleet| fleet.join(&group, Some(&cluster), instance_id, &zone));
    }

    fn plan(&mut self, at: Timestamp, happening: Happening) {
        self.numbered += 1;
        self.will_happen.insert((at, self.numbered), happening);
    }

    fn deliver(&mut self, at: Timestamp, happening: &Happening) {
        let late = self.dice.seconds(20);
        self.plan(at + late, happening.clone());
        if self.dice.below(100) < self.weather.twice {
            let late = self.dice.seconds(3 * 3_600);
            self.plan(at + late, happening.clone());
        }
    }

    /// Runs on until `end`; sweeps whenever something is due.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        let mut swept = self.clock.now();
        for _ in 0..MAX_TURNS {
            let due = pollster::block_on(self.store.next_due()).expect("a memory");
            let due = due.map(|due| due.max(swept + SignedDuration::from_secs(1)));
            let happens = self.will_happen.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = due.into_iter().chain(happens).min().filter(|next| *next <= end) else {
                self.clock.advance_to(end);
                return;
            };
            self.clock.advance_to(next);
            let now = self.clock.now();
            let mut sweeps = u64::from(self.dice.below(8) == 0);
            if due.is_some_and(|due| due <= now) {
                (sweeps, swept) = (1 + u64::from(self.dice.below(3) == 0), now);
            }
            let later = self.will_happen.split_off(&(now, u64::MAX));
            let happening = std::mem::replace(&mut self.will_happen, later);
            let deliveries = happening.into_values().filter_map(|what| self.happen(what)).collect();
            self.turn(deliveries, sweeps);
        }
        self.wrongs.push(format!("something stays due at {}", self.clock.now()));
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn calm(&mut self) {
        self.weather = Weather { faults: 0, twice: 0, stillborn: 0 };
    }

    /// Runs what was delivered and some sweeps, all at once.
    fn turn(&mut self, deliveries: Vec<Happening>, sweeps: u64) {
        let mut processes = Vec::new();
        let mut lives = Vec::new();
        let began = self.clock.now();
        for delivery in &deliveries {
            if let Some((node, said)) = self.speaker(delivery) {
                node.may_be_heard(said, began);
            }
        }
        for delivery in &deliveries {
            let faults = self.dice.faults(self.weather.faults);
            lives.push(faults.clone());
            let store = Faulty::new(self.store.clone(), faults.clone());
            let cloud = Faulty::new(self.cloud.clone(), faults.clone());
            processes.push(Process::new(faults, async move {
                match delivery {
                    Happening::Log(batch) => match Intake::new(store).take(batch.clone(), began).await {
                        Ok(taken) => {
                            assert!(taken.rejected.is_empty(), "{:?}", taken.rejected);
                            Ok(())
                        }
                        Err(error) => Err(error.to_string()),
                    },
                    Happening::Event(event) => Audit::new(store, cloud)
                        .handle(event, began)
                        .await
                        .map(|_| ())
                        .map_err(|error| error.to_string()),
                    other => Err(format!("nobody takes {other:?}")),
                }
            }));
        }
        for _ in 0..sweeps {
            let faults = self.dice.faults(self.weather.faults);
            lives.push(faults.clone());
            let store = Faulty::new(self.store.clone(), faults.clone());
            let cloud = Faulty::new(self.cloud.clone(), faults.clone());
            let repairer = Repairer::new(store, cloud, self.clock.clone());
            processes.push(Process::new(faults, async move {
                let swept = repairer.sweep().await.map_err(|error| error.to_string())?;
                swept.failures.first().map_or(Ok(()), |failure| Err(failure.to_string()))
            }));
        }
        let results = schedule::run(processes, |living| {
            self.look();
            if self.weather.faults > 0 && self.dice.below(20) == 0 {
                let now = self.clock.now() + self.dice.seconds(40);
                self.clock.advance_to(now);
                if now.duration_since(began) > LIFETIME {
                    lives.iter().for_each(Faults::kill);
                }
            }
            self.dice.below(living as u64) as usize
        });
        self.look();
        if self.weather.faults == 0 {
            let failures = results.iter().filter(|result| !matches!(result, Some(Ok(()))));
            self.wrongs.extend(failures.map(|failure| format!("failed in calm weather: {failure:?}")));
        }
        // What was not taken is delivered again.
        for (delivery, result) in deliveries.into_iter().zip(results) {
            if matches!(result, Some(Ok(()))) {
                let now = self.clock.now();
                if let Some((node, said)) = self.speaker(&delivery) {
                    node.heard(said, now);
                }
            } else {
                let at = self.clock.now() + SignedDuration::from_secs(30);
                self.plan(at, delivery);
            }
        }
    }

    /// Whose report a delivery is, and when it was written.
    fn speaker(&mut self, delivery: &Happening) -> Option<(&mut Node, Timestamp)> {
        let Happening::Log(batch) = delivery else { return None };
        let node = self.nodes.get_mut(&InstanceId::new(&batch.log_stream).ok()?)?;
        Some((node, batch.events[0].timestamp))
    }

    /// Sees what calls were made since it last looked, and judges each.
    fn look(&mut self) {
        let calls = self.cloud.calls();
        let now = self.clock.now();
        // In calm weather no time passes within a turn.
        let slowest = if self.weather.faults == 0 { SignedDuration::ZERO } else { LIFETIME };
        for call in &calls[self.seen_calls..] {
            let instance_id = call.instance_id().clone();
            let wrongs = nodes::judge(call, &self.nodes, self.limit, slowest, now);
            self.wrongs.extend(wrongs.into_iter().map(|wrong| format!("{now} {instance_id}: {wrong}")));
            match call {
                ApiCall::TerminateInstanceInAutoScalingGroup { .. } => self.terminate(&instance_id, now),
                ApiCall::RebootInstances { .. } => {
                    if let Some(node) = self.nodes.get_mut(&instance_id) {
                        node.rebooted = Some(now);
                    }
                    // Most boots take a minute or two; some take about as long as they may.
                    let slow = if self.dice.below(4) == 0 { 720 } else { 45 };
                    let boots = SignedDuration::from_secs(slow) + self.dice.seconds(180);
                    self.plan(now + boots, Happening::Boot(instance_id.clone()));
                }
            }
            // CloudTrail takes minutes, and now and then tells nothing.
            if self.dice.below(10) > 0 {
                let told = Happening::CloudTrail { instance_id, name: call.event_name(), at: now };
                let late = self.dice.seconds(900);
                self.plan(now + SignedDuration::from_secs(5) + late, told);
            }
        }
        self.seen_calls = calls.len();
    }

    fn terminate(&mut self, instance_id: &InstanceId, now: Timestamp) {
        let Some(node) = self.nodes.get_mut(instance_id) else { return };
        if node.terminated.replace(now).is_some() {
            return;
        }
        let event = Happening::Event(words::state_change(instance_id, now).to_string().into_bytes());
        self.deliver(now + SignedDuration::from_secs(5), &event);
        let gone = self.dice.seconds(300);
        self.plan(now + SignedDuration::from_secs(30) + gone, Happening::Leave(instance_id.clone()));
        let fortune = self.dice.below(100);
        if fortune < self.weather.stillborn {
            return;
        }
        let registers = fortune >= 2 * self.weather.stillborn;
        self.launches += 1;
        let launched = instance(0x1000 + self.launches);
        let late = self.dice.seconds(120);
        self.plan(
            now + SignedDuration::from_secs(30) + late,
            Happening::Launch { instance_id: launched, replaces: instance_id.clone(), registers },
        );
    }

    /// Lets something happen; what a handler is to be told of it now.
    fn happen(&mut self, what: Happening) -> Option<Happening> {
        let now = self.clock.now();
        match what {
            Happening::Log(_) | Happening::Event(_) => return Some(what),
            Happening::Speak(instance_id) => {
                let saying = self.nodes.get_mut(&instance_id).and_then(|node| node.speak(now));
                if let Some(saying) = saying {
                    let line = saying.line(&instance_id);
                    let group = format!("/nodemend/{CLUSTER}/nodes");
                    let batch = words::batch(&group, instance_id.as_str(), now, &line);
                    self.deliver(now, &Happening::Log(batch));
                    if saying.bad {
                        self.plan(now + SignedDuration::from_secs(300), Happening::Speak(instance_id));
                    }
                }
            }
            Happening::CloudTrail { instance_id, name, at } => {
                let event = words::cloud_trail(self.recorded(&instance_id, name, at), &instance_id, name, at);
                self.deliver(now, &Happening::Event(event.to_string().into_bytes()));
            }
            Happening::Leave(instance_id) => self.cloud.change(|fleet| fleet.leave(&instance_id)),
            Happening::Launch { instance_id, replaces, registers } => {
                self.join(&instance_id);
                self.nodes.insert(instance_id.clone(), Node::launched(now));
                let event = words::launch(&instance_id, now).to_string().into_bytes();
                self.deliver(now, &Happening::Event(event));
                if registers {
                    let boots = self.dice.seconds(120);
                    let at = now + SignedDuration::from_secs(30) + boots;
                    self.plan(at, Happening::Register { instance_id, replaces });
                }
            }
            Happening::Register { instance_id, replaces } => {
                let ready = now + SignedDuration::from_secs(20);
                if let Some(node) = self.nodes.get_mut(&replaces) {
                    node.replaced = Some(now);
                }
                if let Some(node) = self.nodes.get_mut(&instance_id) {
                    node.launched = None;
                }
                let group = format!("/aws/eks/{CLUSTER}/cluster");
                for (at, line) in [
                    (now, words::registration(&instance_id, now)),
                    (ready, words::readiness(&instance_id, ready)),
                ] {
                    let batch = words::batch(&group, "kube-apiserver-audit-1", at, &line);
                    self.deliver(at, &Happening::Log(batch));
                }
            }
            Happening::Boot(instance_id) => {
                if let Some(node) = self.nodes.get_mut(&instance_id) {
                    node.boot(now);
                    // The agent comes up after the kernel, and its heartbeats follow.
                    for after in [5, 65] {
                        let at = now + SignedDuration::from_secs(after);
                        self.plan(at, Happening::Speak(instance_id.clone()));
                    }
                }
            }
        }
        None
    }

    /// Our own record of a call, in CloudTrail's words already.
    fn recorded(&self, instance_id: &InstanceId, name: &str, at: Timestamp) -> Option<serde_json::Value> {
        self.chain(instance_id).iter().find_map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).expect("a record");
            let called: Timestamp = record["eventTime"].as_str()?.parse().ok()?;
            // A slow process writes the time down well before the call leaves.
            let near = (-1..=LIFETIME.as_secs()).contains(&at.duration_since(called).as_secs());
            let fits = record["eventName"] == name && record["requestID"].is_string() && near;
            record.as_object_mut()?.remove("nodemend");
            fits.then_some(record)
        })
    }

    fn chain(&self, instance_id: &InstanceId) -> Vec<String> {
        let cluster = ClusterName::new(CLUSTER).expect("a name");
        let key = CaseKey { cluster, instance_id: instance_id.clone() };
        let entries = pollster::block_on(Trail::chain(&self.store, &key)).expect("a memory");
        entries.into_iter().map(|entry| entry.line).collect()
    }

    /// What was left undone, once everything has had its time.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (instance_id, node) in &self.nodes {
            if node.is_bad(self.clock.now()) && node.terminated.is_none() {
                left.push(format!("{instance_id} is bad, and nobody did anything"));
            }
            if let Err(broken) = verify_chain(self.chain(instance_id)) {
                left.push(format!("{instance_id}: {broken}"));
            }
        }
        for case in self.store.cases() {
            if let Some(repair) = &case.repair
                && case.closed.is_none()
            {
                left.push(format!("{} is still {:?}", case.instance_id, repair.phase));
            }
            let node = self.nodes.get(&case.instance_id);
            let called = node.is_some_and(|node| node.terminated.is_some());
            let told = self
                .chain(&case.instance_id)
                .iter()
                .any(|line| line.contains(r#""eventName":"TerminateInstanceInAutoScalingGroup""#));
            // Nobody but us makes calls here. A slow process writes its call's time down too early: that may differ.
            let slander = self.chain(&case.instance_id).into_iter().find(|line| {
                let record: serde_json::Value = serde_json::from_str(line).expect("a record");
                let differences = record["responseElements"]["differences"].as_array().cloned();
                record["eventName"] == "RepairForeign"
                    || differences.is_some_and(|all| all.iter().any(|one| one["field"] != "eventTime"))
            });
            left.extend(slander.map(|line| format!("{}: told of a stranger: {line}", case.instance_id)));
            if called && !told {
                left.push(format!("{} was terminated, and no trail tells of it", case.instance_id));
            }
        }
        for group in self.store.groups() {
            if !group.in_flight.is_empty() {
                left.push(format!("the group still holds {:?}", group.in_flight));
            }
        }
        left
    }

    /// How many calls reached AWS.
    pub(crate) fn calls(&self) -> usize {
        self.seen_calls
    }

    /// Everything that any trail says, for whoever reads a failure.
    pub(crate) fn story(&self) -> Arc<str> {
        let lines = self.nodes.keys().flat_map(|instance_id| self.chain(instance_id));
        let brief = lines.map(|line| {
            let record: serde_json::Value = serde_json::from_str(&line).expect("a record");
            format!(
                "{} {} {} {}",
                record["eventTime"],
                record["nodemend"]["case"],
                record["eventName"],
                record["nodemend"]["decision"]
            )
        });
        let mut lines: Vec<String> = brief.collect();
        lines.sort();
        lines.extend(self.nodes.iter().map(|(instance_id, node)| format!("{instance_id} {node:?}")));
        lines.join("\n").into()
    }
}
