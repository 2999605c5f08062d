//! What happens in the cluster and at AWS, and which messages follow from it.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::Health,
    group::{Group, Lifecycle, Member},
};

use crate::{
    environment::Environment,
    episodes::Track,
    events::{Content, Delivery, Event},
    messages::{self, LogLine},
    oracle::node::{Fact, Node},
    other_clusters,
    plan::{Unmanaged, is_long},
};

pub(crate) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

impl Environment {
    /// Creates the groups with their first nodes.
    pub(crate) fn create_fleet(&mut self) {
        let groups = self.groups();
        let launched = self.now - SignedDuration::from_hours(48);
        self.cloud.change(|fleet| {
            for group in groups {
                for member in &group.members {
                    fleet.set_launched(member.instance_id.clone(), launched);
                }
                fleet.add_group(group);
            }
        });
    }

    /// The groups as they are at the start.
    pub(crate) fn groups(&self) -> Vec<Group> {
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
            desired_capacity: None,
        };
        plan.groups.iter().enumerate().map(group).collect()
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
    pub(crate) fn log(&mut self, line: LogLine, agents: bool, may_be_lost: bool) {
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
        if self.rng.happens(self.rates.other_account) {
            let other = other_clusters::line_of_other_account(&line);
            self.send(Content::Log(Arc::new(other)), true);
        }
        if self.rng.happens(self.rates.second_cluster) {
            let other = other_clusters::line_of_second_cluster(&line);
            self.send(Content::Log(Arc::new(other)), true);
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

    /// An event of EventBridge, which delivers at least once, mostly.
    pub(crate) fn event(&mut self, bytes: Vec<u8>, facts: Vec<(usize, Fact)>) {
        if self.rng.happens(self.rates.other_account.max(self.rates.second_cluster)) {
            let other = other_clusters::event_of_other_account(&bytes);
            self.send(Content::Bytes(other, Vec::new()), true);
        }
        if self.rng.happens(self.rates.lost_events) {
            return self.oracle.lock().trace(|| format!("an event is lost: {facts:?}"));
        }
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
            Event::NodeDeleted(number, user) => {
                self.write_log(number, |node, now, _| {
                    node.object = None;
                    Some(messages::deletion(node, number, now, user))
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
                    messages::deletion(node, number, self.now, messages::CLOUD_CONTROLLER)
                };
                self.log(line, false, true);
            }
            Event::Reconciles => self.reconcile(),
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
            Event::ScalesOut(group) => self.scales_out(group),
            Event::TakenOut(number, decided) => self.taken_out(number, decided),
            Event::Refreshes { group, left } => self.refreshes(group, left),
            Event::OracleCheck => self.run_oracle(),
        }
        self.wake_oracle();
    }

    fn report_conditions(&mut self, number: usize, track: Option<usize>) {
        let plan = self.plan.clone();
        let line = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_off() || node.down || node.is_hung(self.now) || !node.has_agent {
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
            if node.is_off() {
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
            if node.is_off() {
                return;
            }
            let zone = plan.zones[node.zone].as_str();
            request(node, self.now, zone)
        };
        if let Some(line) = line {
            self.log(line, false, true);
        }
    }
}

pub(crate) fn member(node: &Node, plan: &crate::plan::Plan) -> Member {
    Member {
        instance_id: node.instance.clone(),
        zone: plan.zones[node.zone].clone(),
        lifecycle: Lifecycle::InService,
    }
}
