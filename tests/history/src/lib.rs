//! Turns a seed into weeks of a cluster's history, as CloudWatch Logs exports it: an agent's stream for each instance, the API
//! server's audit streams, and Auto Scaling's events. The same seed, the same bytes, on any machine.
//!
//! Nodes fail as nodes do: most come back by themselves, some soon, some late; the others stay sick until a person terminates
//! them. Once a zone goes dark, and once no agent's word arrives.

mod dice;
mod words;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use flate2::{Compression, write::GzEncoder};

use dice::Dice;
use words::{clock, deleted, heartbeat, kubelet, other, ready, state, unknown};

/// 2026-07-01T00:00:00Z, in seconds.
pub const START: i64 = 1_782_864_000;
const BEAT: i64 = 300;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// What to make up.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub days: i64,
    /// How many days a node lives between two troubles, on average.
    pub days_between: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ail {
    /// The kubelet reports nothing; the agent may.
    Unknown { agent_too: bool },
    /// The kubelet says so itself.
    NotReady,
    /// The agent says so.
    Agent(&'static str, &'static str),
}

/// One trouble of one instance, in seconds since the beginning.
#[derive(Debug, Clone, Copy)]
struct Episode {
    from: i64,
    /// None: until the instance is no more.
    to: Option<i64>,
    ail: Ail,
}

/// One instance, from its first word to its last.
#[derive(Debug, Clone)]
pub struct Instance {
    pub id: String,
    node: String,
    zone: &'static str,
    group: &'static str,
    boot: String,
    from: i64,
    to: i64,
    /// It came and went within the time, rather than being there before or after.
    launched: bool,
    terminated: bool,
    offset: i64,
    troubles: Vec<Episode>,
}

/// One line: when, of which stream, and what.
type Line = (i64, String);

impl Instance {
    /// When it is well by itself, from some second on, and that holds for two minutes; never, if it stays sick until it is no more.
    pub fn well_after(&self, at: i64) -> Option<i64> {
        let sick = |at: i64| {
            // That a kubelet is silent shows when its lease has run out.
            let shows =
                |episode: &Episode| episode.from + i64::from(matches!(episode.ail, Ail::Unknown { .. })) * 45;
            let during = |episode: &&Episode| at >= shows(episode) && episode.to.is_none_or(|to| at < to);
            self.troubles.iter().find(during).map(|episode| episode.to)
        };
        let mut well = at;
        loop {
            let next = (well..well + 2 * MINUTE).find_map(&sick);
            match next {
                None => return Some(well),
                Some(Some(to)) => well = to,
                Some(None) => return None,
            }
        }
    }
}

impl Plan {
    fn end(&self) -> i64 {
        self.days * DAY
    }

    /// Every instance there was.
    pub fn instances(&self) -> Vec<Instance> {
        let mut instances = Vec::new();
        for slot in 0..self.nodes {
            let mut dice = Dice(self.seed ^ (slot as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let (mut from, mut number) = (0, 0);
            while from < self.end() {
                let mut instance = self.instance(slot, number, from, &mut dice);
                self.fill(&mut instance, &mut dice);
                let next = instance.to + 3 * MINUTE;
                instances.push(instance);
                (from, number) = (next, number + 1);
            }
        }
        instances
    }

    fn instance(&self, slot: usize, number: u64, from: i64, dice: &mut Dice) -> Instance {
        let hex = format!("{:016x}{:016x}", dice.next(), dice.next());
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
            offset: dice.below(BEAT),
            troubles: Vec::new(),
        }
    }

    fn fill(&self, instance: &mut Instance, dice: &mut Dice) {
        let mut at = instance.from + HOUR;
        loop {
            at += HOUR + dice.below(2 * self.days_between * DAY);
            if at + 10 * HOUR >= self.end() {
                break;
            }
            let ail = match dice.below(10) {
                0..4 => Ail::Unknown { agent_too: false },
                4..6 => Ail::NotReady,
                6 => Ail::Unknown { agent_too: true },
                7 => Ail::Agent("AcceleratedHardwareReady", "NvidiaXID79Error"),
                8 => Ail::Agent("NetworkingReady", "InterfaceNotUp"),
                _ => Ail::Agent("KernelReady", "ForkFailedOutOfPIDs"),
            };
            let fatal = dice.one_in(3);
            let flaps = !fatal && dice.one_in(5);
            let length = if dice.one_in(4) {
                25 * MINUTE + dice.below(50 * MINUTE)
            } else {
                2 * MINUTE + dice.below(20 * MINUTE)
            };
            if fatal {
                let to = at + HOUR + dice.below(8 * HOUR);
                instance.troubles.push(Episode { from: at, to: None, ail });
                (instance.to, instance.terminated) = (to, true);
                return;
            }
            let end = at + length;
            if flaps {
                while at < end {
                    instance.troubles.push(Episode { from: at, to: Some(at + 90), ail });
                    at += 90 + 30 + dice.below(60);
                }
            } else {
                instance.troubles.push(Episode { from: at, to: Some(end), ail });
            }
            at = end + HOUR;
        }
        // A third of the way through, a zone is dark for a while.
        let dark = self.end() / 3;
        let free = |episode: &Episode| {
            episode.to.is_some_and(|to| to + HOUR < dark) || episode.from > dark + 3 * HOUR
        };
        if instance.zone == "us-east-1b"
            && instance.from + HOUR < dark
            && instance.to > dark + 3 * HOUR
            && instance.troubles.iter().all(free)
        {
            let ail = Ail::Unknown { agent_too: true };
            instance.troubles.push(Episode { from: dark, to: Some(dark + 50 * MINUTE), ail });
            instance.troubles.sort_by_key(|episode| episode.from);
        }
    }

    /// When no agent's word arrives.
    pub fn silence(&self) -> std::ops::Range<i64> {
        let at = self.end() * 2 / 3;
        at..at + 35 * MINUTE
    }

    /// What an instance's agent wrote, in order.
    pub fn agent_lines(&self, instance: &Instance, mut take: impl FnMut(i64, &[u8])) {
        let mut line = Vec::with_capacity(1_024);
        let mut seq = 0;
        let mut changes: Vec<(i64, &Episode, bool)> = Vec::new();
        for episode in instance.troubles.iter().filter(|episode| matches!(episode.ail, Ail::Agent(..))) {
            changes.push((episode.from, episode, true));
            changes.extend(episode.to.map(|to| (to, episode, false)));
        }
        changes.sort_by_key(|(at, ..)| *at);
        let mut changes = changes.into_iter().peekable();
        let mut sick: Option<&Episode> = None;
        let mut well_since = instance.from - HOUR;
        let mute = |at: i64| {
            self.silence().contains(&at)
                || instance.troubles.iter().any(|episode| {
                    episode.ail == (Ail::Unknown { agent_too: true })
                        && at >= episode.from
                        && episode.to.is_none_or(|to| at < to)
                })
        };
        let mut beat = instance.from + instance.offset + 60;
        while beat < instance.to {
            while let Some((at, episode, begins)) = changes.next_if(|(at, ..)| *at <= beat) {
                seq += 1;
                (sick, well_since) = if begins { (Some(episode), well_since) } else { (None, at) };
                if !mute(at) {
                    let Ail::Agent(condition, _) = episode.ail else { continue };
                    line.clear();
                    self.head(&mut line, instance, "condition", seq, at);
                    state(&mut line, condition, sick, well_since, at);
                    line.extend_from_slice(b",\"agent\":\"0.1.0\"}");
                    take(at, &line);
                }
            }
            seq += 1;
            if !mute(beat) {
                line.clear();
                self.head(&mut line, instance, "heartbeat", seq, beat);
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
                    let own = sick
                        .filter(|episode| matches!(episode.ail, Ail::Agent(name, _) if name == condition));
                    let ever = instance
                        .troubles
                        .iter()
                        .any(|episode| matches!(episode.ail, Ail::Agent(name, _) if name == condition));
                    state(
                        &mut line,
                        condition,
                        own,
                        if ever { well_since } else { instance.from - HOUR },
                        beat,
                    );
                    line.push(b'}');
                }
                line.extend_from_slice(b"],\"agent\":\"0.1.0\"}");
                take(beat, &line);
            }
            beat += BEAT;
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
            clock(at)
        );
    }

    /// What the API server wrote of an instance in a stretch of time, in no order.
    fn audit_lines(&self, instance: &Instance, from: i64, to: i64, lines: &mut Vec<Line>) {
        let within = |at: i64| (from..to).contains(&at);
        let mut tell = |at: i64, line: String| {
            if within(at) {
                lines.push((at, line));
            }
        };
        if instance.launched {
            let status = r#"{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"cni is not ready"}]}"#;
            tell(instance.from, kubelet(instance, "create", "", status, instance.from));
            tell(
                instance.from + 30,
                ready(
                    instance,
                    "True",
                    "KubeletReady",
                    "kubelet is posting ready status",
                    instance.from + 30,
                ),
            );
        }
        if instance.terminated {
            tell(instance.to + 90, deleted(instance, instance.to + 90));
        }
        for episode in &instance.troubles {
            match episode.ail {
                Ail::Unknown { .. } => tell(episode.from + 45, unknown(instance, episode.from + 45)),
                Ail::NotReady => tell(
                    episode.from,
                    ready(instance, "False", "KubeletNotReady", "container runtime is down", episode.from),
                ),
                Ail::Agent(..) => continue,
            }
            if let Some(to) = episode.to {
                tell(to, ready(instance, "True", "KubeletReady", "kubelet is posting ready status", to));
            }
        }
        let first = instance.from + (instance.offset + 150) % BEAT + BEAT;
        let mut beat = first + (from - first).max(0).div_euclid(BEAT) * BEAT;
        while beat < to.min(instance.to) {
            let dead = instance.troubles.iter().any(|episode| {
                matches!(episode.ail, Ail::Unknown { .. })
                    && beat >= episode.from
                    && episode.to.is_none_or(|to| beat < to)
            });
            if !dead {
                tell(beat, heartbeat(instance, beat));
            }
            beat += BEAT;
        }
    }

    /// EventBridge's events, as JSON lines.
    pub fn events(&self, instances: &[Instance]) -> Vec<Line> {
        let mut events = Vec::new();
        for instance in instances {
            let event = |kind: &str, at: i64| {
                format!(
                    r#"{{"version":"0","id":"{}","detail-type":"EC2 Instance {kind} Successful","source":"aws.autoscaling","account":"123456789012","time":"{}Z","region":"us-east-1","resources":[],"detail":{{"StatusCode":"InProgress","AutoScalingGroupName":"{}","ActivityId":"{}","Details":{{"Availability Zone":"{}"}},"RequestId":"{}","EndTime":"{}Z","EC2InstanceId":"{}","StartTime":"{}Z","Cause":"At {}Z an instance was {}."}}}}"#,
                    instance.boot,
                    clock(at),
                    instance.group,
                    instance.boot,
                    instance.zone,
                    instance.boot,
                    clock(at),
                    instance.id,
                    clock(at - 30),
                    clock(at - 30),
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

    /// The groups as they were at the beginning, as the AWS CLI prints them.
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

    /// Writes it all as exports below a folder.
    pub fn export(&self, folder: &Path) -> io::Result<()> {
        let instances = self.instances();
        fs::create_dir_all(folder)?;
        fs::write(folder.join("fleet.json"), self.fleet(&instances))?;
        let events: String = self.events(&instances).into_iter().map(|(_, line)| line + "\n").collect();
        fs::write(folder.join("events.jsonl"), events)?;
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
                                self.export_day(folder, &instances, task)?;
                            } else if let Some(instance) = instances.get(task - days) {
                                self.export_agent(folder, instance)?;
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

    fn export_agent(&self, folder: &Path, instance: &Instance) -> io::Result<()> {
        let stream = folder.join("nodes").join(&instance.id);
        let mut out = create(&stream, 0)?;
        let mut failed = Ok(());
        self.agent_lines(instance, |at, line| {
            if failed.is_ok() {
                failed = write!(out, "{}.000Z ", clock(at))
                    .and_then(|()| out.write_all(line))
                    .and_then(|()| out.write_all(b"\n"));
            }
        });
        failed?;
        out.finish()?.flush()
    }

    fn export_day(&self, folder: &Path, instances: &[Instance], day: usize) -> io::Result<()> {
        let mut out = create(&folder.join("cluster").join("kube-apiserver-audit-0a1b2c3d"), day)?;
        // Minute by minute, so that no day has to fit in memory.
        for hour in 0..24 * 12 {
            let from = day as i64 * DAY + hour * BEAT;
            for (at, line) in self.audit(instances, from, from + BEAT) {
                writeln!(out, "{}.000Z {line}", clock(at))?;
            }
        }
        out.finish()?.flush()
    }

    /// What the API server wrote in a stretch of time, in order.
    pub fn audit(&self, instances: &[Instance], from: i64, to: i64) -> Vec<Line> {
        let mut lines = Vec::new();
        for instance in
            instances.iter().filter(|instance| instance.from < to && instance.to + 2 * MINUTE > from)
        {
            self.audit_lines(instance, from, to, &mut lines);
        }
        // And what concerns no node at all.
        for n in 0..5 {
            let at = from + n * 60 + 7;
            if at < to {
                lines.push((at, other(at)));
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        lines
    }
}

fn create(folder: &Path, number: usize) -> io::Result<GzEncoder<BufWriter<File>>> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join(format!("{number:06}.gz")))?;
    Ok(GzEncoder::new(BufWriter::with_capacity(64 * 1024, file), Compression::new(3)))
}
