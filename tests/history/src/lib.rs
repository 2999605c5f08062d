//! Turns a seed into weeks of a cluster's history, as CloudWatch Logs exports it: an agent's stream for each
//! instance, the API server's audit streams, and Auto Scaling's events. The same seed gives the same bytes on
//! any machine.
//!
//! Nodes fail as real nodes do: most recover without a repair, some soon, some late; the others stay
//! unhealthy until a person terminates them. Once, an Availability Zone has an outage, and once, no agent's
//! reports arrive.

mod log_lines;
mod rng;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use flate2::{Compression, write::GzEncoder};

use log_lines::{
    condition_fields, kubelet_heartbeat, kubelet_ready, kubelet_request, node_controller_unknown,
    node_deleted, pod_status, timestamp,
};
use rng::Rng;

/// 2026-07-01T00:00:00Z, in seconds.
pub const START: i64 = 1_782_864_000;
const HEARTBEAT_INTERVAL: i64 = 300;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// How to generate a history.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub days: i64,
    /// How many days pass between two faults of a node, on average.
    pub days_between: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum FaultKind {
    /// The kubelet stops posting its status, and so does the agent if `agent_too` is set.
    Unknown { agent_too: bool },
    /// The kubelet reports that the node is not ready.
    NotReady,
    /// The agent reports a condition as False: its type, and the reason.
    Agent(&'static str, &'static str),
}

/// One fault of one instance, in seconds since [`START`].
#[derive(Debug, Clone, Copy)]
struct Fault {
    from: i64,
    /// None: until the instance is terminated.
    to: Option<i64>,
    kind: FaultKind,
}

/// One instance, from its first report to its last.
#[derive(Debug, Clone)]
pub struct Instance {
    pub id: String,
    node: String,
    zone: &'static str,
    group: &'static str,
    boot: String,
    from: i64,
    to: i64,
    /// It was launched after the start of the history.
    launched: bool,
    /// It was terminated before the end of the history.
    terminated: bool,
    /// Shifts its heartbeats, so that not all nodes report at the same second.
    offset: i64,
    faults: Vec<Fault>,
}

/// One log line: its time, in seconds since [`START`], and its text.
type Line = (i64, String);

impl Instance {
    /// The first second from `at` on at which it is healthy, without a repair, and stays so for two minutes.
    /// `None`: it stays unhealthy until it is terminated.
    pub fn healthy_from(&self, at: i64) -> Option<i64> {
        let unhealthy = |at: i64| {
            // The node controller reports a silent kubelet only when its lease has expired.
            let reported_from =
                |fault: &Fault| fault.from + i64::from(matches!(fault.kind, FaultKind::Unknown { .. })) * 45;
            let during = |fault: &&Fault| at >= reported_from(fault) && fault.to.is_none_or(|to| at < to);
            self.faults.iter().find(during).map(|fault| fault.to)
        };
        let mut healthy = at;
        loop {
            let next = (healthy..healthy + 2 * MINUTE).find_map(&unhealthy);
            match next {
                None => return Some(healthy),
                Some(Some(to)) => healthy = to,
                Some(None) => return None,
            }
        }
    }
}

impl Plan {
    fn end(&self) -> i64 {
        self.days * DAY
    }

    /// All instances of the history.
    pub fn instances(&self) -> Vec<Instance> {
        let mut instances = Vec::new();
        for slot in 0..self.nodes {
            let mut rng = Rng(self.seed ^ (slot as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let (mut from, mut number) = (0, 0);
            while from < self.end() {
                let mut instance = self.instance(slot, number, from, &mut rng);
                self.add_faults(&mut instance, &mut rng);
                let next = instance.to + 3 * MINUTE;
                instances.push(instance);
                (from, number) = (next, number + 1);
            }
        }
        instances
    }

    fn instance(&self, slot: usize, number: u64, from: i64, rng: &mut Rng) -> Instance {
        let hex = format!("{:016x}{:016x}", rng.next(), rng.next());
        Instance {
            id: format!("i-{}", &hex[..17]),
            node: format!("ip-10-{}-{}-{}.ec2.internal", number % 250, slot / 250, slot % 250),
            zone: ["us-east-1a", "us-east-1b", "us-east-1c"][slot % 3],
            group: ["workers", "gpu", "batch", "edge"][slot % 4],
            boot: format!(
                "{}-{}-4{}-9{}-{}",
                &hex[..8],
                &hex[8..12],
                &hex[13..16],
                &hex[17..20],
                &hex[20..32]
            ),
            from,
            to: self.end(),
            launched: number > 0,
            terminated: false,
            offset: rng.below(HEARTBEAT_INTERVAL),
            faults: Vec::new(),
        }
    }

    fn add_faults(&self, instance: &mut Instance, rng: &mut Rng) {
        let mut at = instance.from + HOUR;
        loop {
            at += HOUR + rng.below(2 * self.days_between * DAY);
            if at + 10 * HOUR >= self.end() {
                break;
            }
            let kind = match rng.below(10) {
                0..4 => FaultKind::Unknown { agent_too: false },
                4..6 => FaultKind::NotReady,
                6 => FaultKind::Unknown { agent_too: true },
                7 => FaultKind::Agent("AcceleratedHardwareReady", "NvidiaXID79Error"),
                8 => FaultKind::Agent("NetworkingReady", "InterfaceNotUp"),
                _ => FaultKind::Agent("KernelReady", "ForkFailedOutOfPIDs"),
            };
            let permanent = rng.one_in(3);
            let flaps = !permanent && rng.one_in(5);
            let duration = if rng.one_in(4) {
                25 * MINUTE + rng.below(50 * MINUTE)
            } else {
                2 * MINUTE + rng.below(20 * MINUTE)
            };
            if permanent {
                let to = at + HOUR + rng.below(8 * HOUR);
                instance.faults.push(Fault { from: at, to: None, kind });
                (instance.to, instance.terminated) = (to, true);
                return;
            }
            let end = at + duration;
            if flaps {
                while at < end {
                    instance.faults.push(Fault { from: at, to: Some(at + 90), kind });
                    at += 90 + 30 + rng.below(60);
                }
            } else {
                instance.faults.push(Fault { from: at, to: Some(end), kind });
            }
            at = end + HOUR;
        }
        // After a third of the history, a zone has an outage.
        let outage = self.end() / 3;
        let apart =
            |fault: &Fault| fault.to.is_some_and(|to| to + HOUR < outage) || fault.from > outage + 3 * HOUR;
        if instance.zone == "us-east-1b"
            && instance.from + HOUR < outage
            && instance.to > outage + 3 * HOUR
            && instance.faults.iter().all(apart)
        {
            let kind = FaultKind::Unknown { agent_too: true };
            instance.faults.push(Fault { from: outage, to: Some(outage + 50 * MINUTE), kind });
            instance.faults.sort_by_key(|fault| fault.from);
        }
    }

    /// When no agent's reports arrive.
    pub fn silence(&self) -> std::ops::Range<i64> {
        let at = self.end() * 2 / 3;
        at..at + 35 * MINUTE
    }

    /// The lines that an instance's agent wrote, in order, each with its time.
    pub fn agent_lines(&self, instance: &Instance, mut write: impl FnMut(i64, &[u8])) {
        let mut line = Vec::with_capacity(1_024);
        let mut seq = 0;
        let mut changes: Vec<(i64, &Fault, bool)> = Vec::new();
        for fault in instance.faults.iter().filter(|fault| matches!(fault.kind, FaultKind::Agent(..))) {
            changes.push((fault.from, fault, true));
            changes.extend(fault.to.map(|to| (to, fault, false)));
        }
        changes.sort_by_key(|(at, ..)| *at);
        let mut changes = changes.into_iter().peekable();
        let mut current: Option<&Fault> = None;
        let mut healthy_since = instance.from - HOUR;
        let is_silent = |at: i64| {
            self.silence().contains(&at)
                || instance.faults.iter().any(|fault| {
                    fault.kind == (FaultKind::Unknown { agent_too: true })
                        && at >= fault.from
                        && fault.to.is_none_or(|to| at < to)
                })
        };
        let mut next_heartbeat = instance.from + instance.offset + 60;
        while next_heartbeat < instance.to {
            while let Some((at, fault, begins)) = changes.next_if(|(at, ..)| *at <= next_heartbeat) {
                seq += 1;
                (current, healthy_since) = if begins { (Some(fault), healthy_since) } else { (None, at) };
                if !is_silent(at) {
                    let FaultKind::Agent(condition, _) = fault.kind else { continue };
                    line.clear();
                    self.head(&mut line, instance, "condition", seq, at);
                    condition_fields(&mut line, condition, current, healthy_since, at);
                    line.extend_from_slice(b",\"agent\":\"0.1.0\"}");
                    write(at, &line);
                }
            }
            seq += 1;
            if !is_silent(next_heartbeat) {
                line.clear();
                self.head(&mut line, instance, "heartbeat", seq, next_heartbeat);
                line.extend_from_slice(b"\"conditions\":[");
                for (number, condition) in [
                    "KernelReady",
                    "NetworkingReady",
                    "StorageReady",
                    "ContainerRuntimeReady",
                    "AcceleratedHardwareReady",
                ]
                .into_iter()
                .enumerate()
                {
                    if number > 0 {
                        line.push(b',');
                    }
                    line.push(b'{');
                    let own = current
                        .filter(|fault| matches!(fault.kind, FaultKind::Agent(name, _) if name == condition));
                    let fails_ever = instance
                        .faults
                        .iter()
                        .any(|fault| matches!(fault.kind, FaultKind::Agent(name, _) if name == condition));
                    condition_fields(
                        &mut line,
                        condition,
                        own,
                        if fails_ever { healthy_since } else { instance.from - HOUR },
                        next_heartbeat,
                    );
                    line.push(b'}');
                }
                line.extend_from_slice(b"],\"agent\":\"0.1.0\"}");
                write(next_heartbeat, &line);
            }
            next_heartbeat += HEARTBEAT_INTERVAL;
        }
    }

    fn head(&self, line: &mut Vec<u8>, instance: &Instance, kind: &str, seq: u64, at: i64) {
        let _ = write!(
            line,
            r#"{{"v":1,"kind":"{kind}","cluster":"prod","node":"{}","instanceId":"{}","zone":"{}","bootId":"{}","seq":{seq},"at":"{}.000Z","#,
            instance.node,
            instance.id,
            instance.zone,
            instance.boot,
            timestamp(at)
        );
    }

    /// The API server's audit events about an instance in a period of time, in no order.
    fn add_audit_events(&self, instance: &Instance, from: i64, to: i64, lines: &mut Vec<Line>) {
        let within = |at: i64| (from..to).contains(&at);
        let mut add = |at: i64, line: String| {
            if within(at) {
                lines.push((at, line));
            }
        };
        if instance.launched {
            let status = r#"{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"cni is not ready"}]}"#;
            add(instance.from, kubelet_request(instance, "create", "", status, instance.from));
            add(
                instance.from + 30,
                kubelet_ready(
                    instance,
                    "True",
                    "KubeletReady",
                    "kubelet is posting ready status",
                    instance.from + 30,
                ),
            );
        }
        if instance.terminated {
            add(instance.to + 90, node_deleted(instance, instance.to + 90));
        }
        for fault in &instance.faults {
            match fault.kind {
                FaultKind::Unknown { .. } => {
                    add(fault.from + 45, node_controller_unknown(instance, fault.from + 45));
                }
                FaultKind::NotReady => add(
                    fault.from,
                    kubelet_ready(
                        instance,
                        "False",
                        "KubeletNotReady",
                        "container runtime is down",
                        fault.from,
                    ),
                ),
                FaultKind::Agent(..) => continue,
            }
            if let Some(to) = fault.to {
                add(
                    to,
                    kubelet_ready(instance, "True", "KubeletReady", "kubelet is posting ready status", to),
                );
            }
        }
        let first = instance.from + (instance.offset + 150) % HEARTBEAT_INTERVAL + HEARTBEAT_INTERVAL;
        let mut next_heartbeat =
            first + (from - first).max(0).div_euclid(HEARTBEAT_INTERVAL) * HEARTBEAT_INTERVAL;
        while next_heartbeat < to.min(instance.to) {
            let kubelet_stopped = instance.faults.iter().any(|fault| {
                matches!(fault.kind, FaultKind::Unknown { .. })
                    && next_heartbeat >= fault.from
                    && fault.to.is_none_or(|to| next_heartbeat < to)
            });
            if !kubelet_stopped {
                add(next_heartbeat, kubelet_heartbeat(instance, next_heartbeat));
            }
            next_heartbeat += HEARTBEAT_INTERVAL;
        }
    }

    /// The events that EventBridge delivered, as JSON lines.
    pub fn events(&self, instances: &[Instance]) -> Vec<Line> {
        let mut events = Vec::new();
        for instance in instances {
            let event = |kind: &str, at: i64| {
                format!(
                    r#"{{"version":"0","id":"{}","detail-type":"EC2 Instance {kind} Successful","source":"aws.autoscaling","account":"123456789012","time":"{}Z","region":"us-east-1","resources":[],"detail":{{"StatusCode":"InProgress","AutoScalingGroupName":"{}","ActivityId":"{}","Details":{{"Availability Zone":"{}"}},"RequestId":"{}","EndTime":"{}Z","EC2InstanceId":"{}","StartTime":"{}Z","Cause":"At {}Z an instance was {}."}}}}"#,
                    instance.boot,
                    timestamp(at),
                    instance.group,
                    instance.boot,
                    instance.zone,
                    instance.boot,
                    timestamp(at),
                    instance.id,
                    timestamp(at - 30),
                    timestamp(at - 30),
                    if kind == "Launch" {
                        "started"
                    } else {
                        "taken out of service in response to a user request"
                    },
                )
            };
            if instance.launched {
                events.push((instance.from - 60, event("Launch", instance.from - 60)));
            }
            if instance.terminated {
                events.push((instance.to, event("Terminate", instance.to)));
            }
        }
        events.sort();
        events
    }

    /// The Auto Scaling groups at the start of the history, as the AWS CLI prints them.
    pub fn fleet(&self, instances: &[Instance]) -> String {
        let groups = ["workers", "gpu", "batch", "edge"].map(|group| {
            let members: Vec<String> = instances
                .iter()
                .filter(|instance| instance.group == group && !instance.launched)
                .map(|instance| format!(r#"{{"InstanceId":"{}","AvailabilityZone":"{}","LifecycleState":"InService"}}"#, instance.id, instance.zone))
                .collect();
            format!(
                r#"{{"AutoScalingGroupName":"{group}","Instances":[{}],"Tags":[{{"Key":"eks:cluster-name","Value":"prod"}}]}}"#,
                members.join(",")
            )
        });
        format!(r#"{{"AutoScalingGroups":[{}]}}"#, groups.join(","))
    }

    /// Writes the whole history to a directory, in the format of CloudWatch Logs' exports.
    pub fn export(&self, directory: &Path) -> io::Result<()> {
        let instances = self.instances();
        fs::create_dir_all(directory)?;
        fs::write(directory.join("fleet.json"), self.fleet(&instances))?;
        let events: String = self.events(&instances).into_iter().map(|(_, line)| line + "\n").collect();
        fs::write(directory.join("events.jsonl"), events)?;
        let days = usize::try_from(self.days).unwrap_or_default();
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| -> io::Result<()> {
                        loop {
                            let task = next.fetch_add(1, Ordering::Relaxed);
                            if task < days {
                                self.export_day(directory, &instances, task)?;
                            } else if let Some(instance) = instances.get(task - days) {
                                self.export_agent(directory, instance)?;
                            } else {
                                return Ok(());
                            }
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker"))
        })
    }

    fn export_agent(&self, directory: &Path, instance: &Instance) -> io::Result<()> {
        let stream = directory.join("nodes").join(&instance.id);
        let mut out = create(&stream, 0)?;
        let mut failed = Ok(());
        self.agent_lines(instance, |at, line| {
            if failed.is_ok() {
                failed = write!(out, "{}.000Z ", timestamp(at))
                    .and_then(|()| out.write_all(line))
                    .and_then(|()| out.write_all(b"\n"));
            }
        });
        failed?;
        out.finish()?.flush()
    }

    fn export_day(&self, directory: &Path, instances: &[Instance], day: usize) -> io::Result<()> {
        let mut out = create(&directory.join("cluster").join("kube-apiserver-audit-0a1b2c3d"), day)?;
        // Five minutes at a time, so that no day has to fit in memory.
        for part in 0..24 * 12 {
            let from = day as i64 * DAY + part * HEARTBEAT_INTERVAL;
            for (at, line) in self.audit_events(instances, from, from + HEARTBEAT_INTERVAL) {
                writeln!(out, "{}.000Z {line}", timestamp(at))?;
            }
        }
        out.finish()?.flush()
    }

    /// The API server's audit events in a period of time, in order.
    pub fn audit_events(&self, instances: &[Instance], from: i64, to: i64) -> Vec<Line> {
        let mut lines = Vec::new();
        for instance in
            instances.iter().filter(|instance| instance.from < to && instance.to + 2 * MINUTE > from)
        {
            self.add_audit_events(instance, from, to, &mut lines);
        }
        // And events that concern no node.
        for n in 0..5 {
            let at = from + n * 60 + 7;
            if at < to {
                lines.push((at, pod_status(at)));
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        lines
    }
}

fn create(directory: &Path, number: usize) -> io::Result<GzEncoder<BufWriter<File>>> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(format!("{number:06}.gz")))?;
    Ok(GzEncoder::new(BufWriter::with_capacity(64 * 1024, file), Compression::new(3)))
}
