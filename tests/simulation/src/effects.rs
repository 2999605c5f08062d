//! What happens in the cluster and at AWS, and which messages follow from it.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, CallOutcome},
    condition::Health,
    group::{Group, Lifecycle, Member},
};

use crate::{
    environment::Environment,
    episodes::{Source, Track},
    events::{Content, Delivery, Event},
    messages::{self, LogLine},
    oracle::node::{Fact, Node},
    plan::{Unmanaged, is_long},
};

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

impl Environment {
    /// Creates the groups with their first nodes.
    pub(crate) fn create_fleet(&mut self) {
        let plan = self.plan.clone();
        let oracle = self.oracle.lock();
        let group = |(number, group): (usize, &crate::plan::GroupPlan)| Group {
            name: group.name.clone(),
            cluster: Some(self.cluster.clone()),
            members: oracle
                .nodes
                .iter()
                .filter(|node| node.group == number)
                .map(|node| member(node, &plan))
                .collect(),
            suspended: Vec::new(),
            tags: (group.unmanaged == Some(Unmanaged::OptedOut))
                .then(|| ("nodemend/repair".to_owned(), "disabled".to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            eks_repair_enabled: group.unmanaged == Some(Unmanaged::EksRepairEnabled),
        };
        let groups: Vec<Group> = plan.groups.iter().enumerate().map(group).collect();
        self.cloud.change(|fleet| groups.into_iter().for_each(|group| fleet.add_group(group)));
    }

    /// Sets wrong clocks, and starts all agents where a long outage of the filter would make them silent.
    pub(crate) fn clocks(&mut self) {
        if self.rates.clocks {
            let shared = self.oracle.clone();
            for node in &mut shared.lock().nodes {
                node.skew = self.rng.seconds(-10_800, 10_800);
            }
        }
        let long = |(agents, from, until): &(bool, Timestamp, Timestamp)| *agents && is_long(*from, *until);
        let outage = self.off.iter().find(|off| long(off)).copied();
        let first = if self.options.every_heartbeat {
            Some(self.plan.start)
        } else {
            outage.map(|(_, from, _)| (from - seconds(1_200)).max(self.plan.start))
        };
        if let Some(first) = first {
            for number in 0..self.plan.nodes.len() {
                let late = self.rng.seconds(0, 300);
                self.start_agent(number, first + late);
            }
        }
    }

    /// An agent sends heartbeats from then on.
    pub(crate) fn start_agent(&mut self, number: usize, from: Timestamp) {
        let group = self.oracle.lock().nodes[number].group;
        if !self.plan.groups[group].agents {
            return;
        }
        if !std::mem::replace(&mut self.oracle.lock().nodes[number].has_agent, true) {
            self.at(from, Event::Heartbeat(number));
        }
    }

    /// Writes a line to a log that a subscription filter reads.
    fn log(&mut self, line: LogLine, agents: bool, may_be_lost: bool) {
        let now = self.now;
        let off = self.off.iter().any(|(of, from, until)| *of == agents && *from <= now && now < *until);
        let lost = off
            || agents && may_be_lost && self.rng.happens(self.rates.skipped)
            || may_be_lost && self.rng.happens(self.rates.lost);
        if self.options.verbose {
            let lost = if lost { ", and lost" } else { "" };
            let text = format!("logged: {:?}{lost}", line.facts);
            self.oracle.lock().trace(|| text);
        }
        let line = Arc::new(line);
        {
            let reading = &mut self.oracle.lock().reading;
            // Whatever becomes of its delivery.
            if agents { &mut reading.agents } else { &mut reading.control_plane }.push(line.clone());
        }
        if !lost {
            // Of a series of equal heartbeats the last alone is sent: it must not be late for all of them.
            let late = may_be_lost || self.options.every_heartbeat;
            self.send(Content::Log(line), late);
        }
    }

    fn send(&mut self, content: Content, may_be_late: bool) {
        let content = Rc::new(content);
        let late = if may_be_late && self.rng.happens(self.rates.late) {
            self.rng.seconds(30, 1_500)
        } else if may_be_late && self.rng.happens(self.rates.very_late) {
            self.rng.seconds(1_500, 10_800)
        } else {
            self.rng.seconds(1, 6)
        };
        if self.rng.happens(self.rates.twice) {
            let again = self.rng.seconds(0, 3_600);
            let delivery = Box::new(Delivery { content: content.clone(), tries: 0 });
            self.after(again, Event::Delivered(delivery));
        }
        if may_be_late && self.rng.happens(self.rates.redriven) {
            let again = self.rng.seconds(3_600, 10_800);
            let delivery = Box::new(Delivery { content: content.clone(), tries: 0 });
            self.after(again, Event::Delivered(delivery));
        }
        self.after(late, Event::Delivered(Box::new(Delivery { content, tries: 0 })));
    }

    fn event(&mut self, bytes: Vec<u8>, facts: Vec<(usize, Fact)>) {
        self.send(Content::Bytes(bytes, facts), true);
    }

    /// Lets one event happen.
    pub(crate) fn apply_event(&mut self, event: Event) {
        match event {
            Event::Report(number, track) => self.report_conditions(number, Some(track)),
            Event::Heartbeat(number) => self.send_heartbeat(number),
            Event::AgentRestarts(number) => {
                self.oracle.lock().nodes[number].agent_since = self.now;
                self.report_conditions(number, None);
            }
            // A node that is down sends nothing, and the episode that its agent reported continues.
            Event::Kubelet(number, _) if self.oracle.lock().nodes[number].down => {}
            Event::Kubelet(number, ready) => self.kubelet_posts(number, ready),
            Event::NodeController(number) => {
                self.write_log(number, |node, now, zone| {
                    let written = node.write_ready(Health::Unknown, now);
                    written.then(|| messages::node_controller_status(node, number, now, zone))
                });
            }
            Event::NodeDeleted(number) => {
                self.write_log(number, |node, now, _| {
                    node.object = None;
                    Some(messages::deletion(node, number, now, true))
                });
            }
            Event::DryRun(number) => {
                self.write_log(number, |node, now, _| node.object.map(|_| messages::dry_run(node, now)));
            }
            Event::Restored(number) => {
                self.write_log(number, |node, now, zone| {
                    node.restore(now).then(|| messages::restoration(node, number, now, zone))
                });
                let posts = self.rng.seconds(1, 10);
                self.after(posts, Event::Kubelet(number, true));
            }
            Event::Lies(number, lie) => {
                let mut oracle = self.oracle.lock();
                let node = &mut oracle.nodes[number];
                (node.lie, node.unreliable) = (Some(lie), true);
                drop(oracle);
                self.report_conditions(number, None);
            }
            Event::NodeRemoved(number) => {
                let line = {
                    let node = &mut self.oracle.lock().nodes[number];
                    node.object = None;
                    messages::deletion(node, number, self.now, false)
                };
                self.log(line, false, true);
            }
            Event::InstanceDies(number, foreign) => self.dies(number, foreign),
            Event::Leaves(number) => self.leaves(number),
            Event::Launches { number, fails, joins } => self.launches(number, fails, joins),
            Event::Registers(number) => self.registers(number),
            Event::Ready(number) => self.kubelet_posts(number, true),
            Event::Boots(number) => self.boots(number),
            Event::Delivered(delivery) => {
                self.under_way -= 1;
                self.deliver(delivery);
            }
            Event::CloudTrail(call) => {
                self.under_way -= 1;
                let (number, bytes) = {
                    let oracle = self.oracle.lock();
                    let made = &oracle.made_calls[call];
                    (made.number, messages::cloud_trail(&made.call, &made.answer, made.at, call))
                };
                self.event(bytes, vec![(number, Fact::CloudTrail { call })]);
            }
            Event::Begins(item) => self.begins(item, true),
            Event::Ends(item) => self.begins(item, false),
            Event::OracleCheck => self.run_oracle(),
        }
        self.wake_oracle();
    }

    fn report_conditions(&mut self, number: usize, track: Option<usize>) {
        let plan = self.plan.clone();
        let line = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() || node.down || node.is_hung(self.now) || !node.has_agent {
                return;
            }
            messages::agent(node, number, track, self.now, &plan.zones[node.zone])
        };
        self.log(line, true, track.is_some());
    }

    /// Sends a heartbeat, and queues the next one that can make a difference: each one around a change; else the last before a
    /// change, before reports are lost, or before the agent counts as silent. An unhealthy node sends one in 15 minutes.
    fn send_heartbeat(&mut self, number: usize) {
        self.report_conditions(number, None);
        let (now, every) = (self.now, messages::HEARTBEAT);
        let mut next = now + every;
        {
            let oracle = self.oracle.lock();
            let node = &oracle.nodes[number];
            if node.is_out() {
                return;
            }
            let changes = || node.tracks.iter().flat_map(Track::changes);
            let near = |at: Timestamp| (now - every..now + every).contains(&at);
            let joins = node.launched.and(node.registered).is_some_and(near);
            if !(self.options.every_heartbeat || node.down || joins || changes().any(near)) {
                let unhealthy = node.tracks.iter().any(|track| track.period(now).is_some());
                let silent_after = self.plan.silent_after.unwrap_or(seconds(3_600));
                let rest = if unhealthy { every * 3 } else { silent_after };
                let breaks = self.off.iter().filter(|(agents, ..)| *agents).map(|(_, from, _)| *from);
                let first = breaks.chain(changes()).filter(|at| *at > now).min().unwrap_or(Timestamp::MAX);
                while next + every < first && next + every <= now + rest {
                    next += every;
                }
            }
        }
        self.at(next, Event::Heartbeat(number));
    }

    fn kubelet_posts(&mut self, number: usize, ready: bool) {
        let health = if ready { Health::Healthy } else { Health::Bad };
        self.write_log(number, |node, now, _| {
            node.write_ready(health, now).then(|| messages::kubelet_status(node, number, now, ready))
        });
    }

    /// A request changes a Node object; the API server logs it if it is carried out.
    fn write_log(
        &mut self,
        number: usize,
        request: impl FnOnce(&mut Node, Timestamp, &str) -> Option<LogLine>,
    ) {
        let plan = self.plan.clone();
        let line = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() {
                return;
            }
            let zone = plan.zones[node.zone].as_str();
            request(node, self.now, zone)
        };
        if let Some(line) = line {
            self.log(line, false, true);
        }
    }

    /// An instance ends without a call of ours.
    fn dies(&mut self, number: usize, foreign: bool) {
        let now = self.now;
        let audit_log = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() {
                return;
            }
            (node.terminated, node.foreign) = (Some(now), foreign);
            oracle.trace(|| format!("node {number} ends; foreign termination: {foreign}"));
            messages::foreign(&oracle.nodes[number], now)
        };
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.set_lifecycle(&instance, Lifecycle::Terminating));
        if foreign {
            self.event(audit_log, vec![(number, Fact::Left { foreign: true })]);
        }
        self.shut_down(number);
    }

    fn shut_down(&mut self, number: usize) {
        let bytes = messages::shutting_down(&self.oracle.lock().nodes[number], self.now);
        self.event(bytes, vec![(number, Fact::Left { foreign: false })]);
        let (leaves, removed) = (self.rng.seconds(30, 330), self.rng.seconds(5, 120));
        self.after(leaves, Event::Leaves(number));
        self.after(leaves + removed, Event::NodeRemoved(number));
        self.replace(number, leaves + removed);
    }

    fn leaves(&mut self, number: usize) {
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.leave(&instance));
        let bytes = {
            let mut oracle = self.oracle.lock();
            oracle.nodes[number].gone = true;
            let group = oracle.group_plan(number).name.clone();
            messages::terminated(&oracle.nodes[number], group.as_str(), self.now)
        };
        self.event(bytes, vec![(number, Fact::Left { foreign: false })]);
    }

    /// Auto Scaling launches a replacement. It can get the name of the old node once that is free.
    fn replace(&mut self, number: usize, free: SignedDuration) {
        let fortune = if self.rng.happens(self.rates.failed_launches) { self.rng.below(3) } else { 9 };
        let joins = match fortune {
            1 => None,
            2 => Some(self.rng.seconds(600, 1_800)),
            _ => Some(self.rng.seconds(30, 150)),
        };
        let same_name = self.rng.happens(self.rates.same_name);
        let launches = self.rng.seconds(30, 150);
        let launches = if same_name { launches.max(free) } else { launches };
        let new = {
            let mut oracle = self.oracle.lock();
            let (group, zone) = (oracle.nodes[number].group, oracle.nodes[number].zone);
            let new = oracle.add(group, zone);
            oracle.nodes[number].replaced_by = Some(new);
            if same_name {
                oracle.nodes[new].name = oracle.nodes[number].name.clone();
            }
            new
        };
        self.after(launches, Event::Launches { number: new, fails: fortune == 0, joins });
    }

    fn launches(&mut self, number: usize, fails: bool, joins: Option<SignedDuration>) {
        let plan = self.plan.clone();
        let group = self.oracle.lock().group_plan(number).name.clone();
        if fails {
            let bytes = messages::launch_failed(group.as_str(), self.now);
            self.event(bytes, Vec::new());
            let again = self.rng.seconds(300, 5_400);
            return self.after(again, Event::Launches { number, fails: false, joins });
        }
        let (bytes, member) = {
            let mut oracle = self.oracle.lock();
            oracle.nodes[number].launched = Some(self.now);
            oracle.nodes[number].booted = self.now;
            oracle.nodes[number].agent_since = self.now;
            oracle.trace(|| format!("node {number} is launched into {group}"));
            let node = &oracle.nodes[number];
            (
                messages::launch(node, group.as_str(), plan.zones[node.zone].as_str(), self.now),
                member(node, &plan),
            )
        };
        self.cloud.change(|fleet| {
            fleet.join(&group, Some(&self.cluster), &member.instance_id, &member.zone);
        });
        self.event(bytes, vec![(number, Fact::Launched { at: self.now })]);
        if let Some(joins) = joins {
            self.after(joins, Event::Registers(number));
        }
    }

    fn registers(&mut self, number: usize) {
        let line = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() {
                return;
            }
            node.register(self.now);
            messages::registration(node, number, self.now)
        };
        self.log(line, false, true);
        self.after(seconds(20), Event::Ready(number));
        self.start_agent(number, self.now + seconds(25));
    }

    fn boots(&mut self, number: usize) {
        let now = self.now;
        let (places, shared) = (self.oracle.lock().nodes[number].tracks.len(), self.oracle.clone());
        let breaks;
        {
            let mut oracle = shared.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() {
                return;
            }
            node.boot += 1;
            (node.seq, node.booted, node.agent_since, node.down) = (0, now, now, false);
            // What the reboot does not cure is bad from the start, or after a minute that looks like a cure.
            breaks = (!node.reboot_cures).then(|| now + seconds(self.rng.pick(&[0, 0, 45, 90])));
            node.tracks.iter_mut().for_each(|track| track.reboot(now, breaks));
            oracle.trace(|| format!("node {number} is up again"));
        }
        let ready = self.oracle.lock().nodes[number]
            .tracks
            .iter()
            .all(|track| track.source == Source::Agent || track.period(now).is_none());
        if ready {
            self.after(seconds(15), Event::Kubelet(number, true));
        }
        for place in 0..places {
            if shared.lock().nodes[number].tracks[place].source == Source::Agent {
                let after = self.rng.seconds(5, 30);
                self.after(after, Event::Report(number, place));
                if let Some(breaks) = breaks.filter(|breaks| *breaks > now) {
                    self.at(breaks, Event::Report(number, place));
                }
            }
        }
    }

    /// Does what AWS does after the calls that it has received since.
    pub(crate) fn called(&mut self) {
        loop {
            let shared = self.oracle.clone();
            let Some(made) = shared.lock().made_calls.get(self.handled_calls).cloned() else { return };
            let call = self.handled_calls;
            self.handled_calls += 1;
            let late = match (self.rng.happens(self.rates.audit_log), self.rng.below(2)) {
                (true, 0) => None,
                (true, _) => Some(self.rng.seconds(900, 3_600)),
                (false, _) => Some(self.rng.seconds(5, 900)),
            };
            if let Some(late) = late {
                self.after(late, Event::CloudTrail(call));
            }
            if !matches!(made.answer.outcome, CallOutcome::Accepted { .. }) {
                continue;
            }
            match made.call {
                ApiCall::TerminateInstanceInAutoScalingGroup { .. } => self.shut_down(made.number),
                ApiCall::RebootInstances { .. } => {
                    shared.lock().nodes[made.number].down = true;
                    if self.rng.happens(400) {
                        self.after(seconds(44), Event::NodeController(made.number));
                    }
                    // Most boots take a minute or two; some take about as long as they may.
                    let slow = if self.rng.happens(250) { 720 } else { 45 };
                    let boots = seconds(slow) + self.rng.seconds(0, 180);
                    self.after(boots, Event::Boots(made.number));
                }
            }
        }
    }
}

fn member(node: &Node, plan: &crate::plan::Plan) -> Member {
    Member {
        instance_id: node.instance.clone(),
        zone: plan.zones[node.zone].clone(),
        lifecycle: Lifecycle::InService,
    }
}
