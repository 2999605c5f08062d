//! What Auto Scaling and EC2 do with instances: they end, are replaced, are launched, join, boot, and answer our calls.

use jiff::SignedDuration;
use nodemend_domain::{
    audit_log::{ApiCall, CallOutcome},
    group::Lifecycle,
};

use crate::{
    effects::{member, seconds},
    environment::Environment,
    episodes::Source,
    events::Event,
    messages,
    oracle::node::{Fact, Node},
    plan::{Decided, NodeFailure},
};

impl Environment {
    /// An instance ends without a call of ours.
    pub(crate) fn dies(&mut self, number: usize, foreign: bool) {
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

    /// Auto Scaling decides to terminate an instance that is in service.
    pub(crate) fn taken_out(&mut self, number: usize, decided: Decided) {
        let now = self.now;
        {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if !node.is_in_service() {
                return;
            }
            (node.terminated, node.decided) = (Some(now), Some(decided));
            oracle.trace(|| format!("node {number} is taken out of service: {decided:?}"));
        }
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.set_lifecycle(&instance, Lifecycle::Terminating));
        self.shut_down(number);
    }

    /// An instance refresh replaces the oldest instance that is in service, and goes on with the next.
    pub(crate) fn refreshes(&mut self, group: usize, left: usize) {
        let oldest = {
            let oracle = self.oracle.lock();
            let serves = |node: &Node| {
                node.group == group && node.launched.is_none() && node.exists() && node.is_in_service()
            };
            oracle.nodes.iter().position(serves)
        };
        let Some(oldest) = oldest else { return };
        self.taken_out(oldest, Decided::Refresh);
        if left > 1 {
            let next = self.rng.seconds(240, 900);
            self.after(next, Event::Refreshes { group, left: left - 1 });
        }
    }

    pub(crate) fn shut_down(&mut self, number: usize) {
        let bytes = messages::shutting_down(&self.oracle.lock().nodes[number], self.now);
        self.event(bytes, vec![(number, Fact::Left { foreign: false })]);
        // A lifecycle hook holds a termination until its node is drained: it goes on to report meanwhile.
        let drains = self.rng.happens(self.rates.drains);
        self.oracle.lock().nodes[number].drains = drains;
        let leaves = if drains { self.rng.seconds(300, 1_800) } else { self.rng.seconds(30, 330) };
        let removed = self.rng.seconds(5, 120);
        self.after(leaves, Event::Leaves(number));
        self.after(leaves + removed, Event::NodeRemoved(number));
        if self.oracle.lock().nodes[number].decided != Some(Decided::ScaleIn) {
            self.replace(number, leaves + removed);
        }
    }

    pub(crate) fn leaves(&mut self, number: usize) {
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.leave(&instance));
        let (executed, terminated) = {
            let mut oracle = self.oracle.lock();
            oracle.nodes[number].gone = true;
            let group = oracle.group_plan(number).name.clone();
            let node = &oracle.nodes[number];
            (messages::executed(node, self.now), messages::terminated(node, group.as_str(), self.now))
        };
        // They arrive in any order.
        self.event(executed, Vec::new());
        self.event(terminated, vec![(number, Fact::Activity)]);
    }

    /// Auto Scaling adds an instance to a group, and replaces none.
    pub(crate) fn scales_out(&mut self, group: usize) {
        let joins = Some(self.rng.seconds(30, 150));
        let zone = self.rng.index(3);
        let number = self.oracle.lock().add(group, zone);
        self.launches(number, false, joins);
    }

    /// Auto Scaling launches a replacement. It can get the name of the old node once that is free.
    pub(crate) fn replace(&mut self, number: usize, free: SignedDuration) {
        let fortune = if self.rng.happens(self.rates.failed_launches) { self.rng.below(3) } else { 9 };
        let joins = match fortune {
            1 => None,
            2 => Some(self.rng.seconds(600, 1_800)),
            _ => Some(self.rng.seconds(30, 150)),
        };
        let same_name = self.rng.happens(self.rates.same_name);
        let same_fault = self.rng.happens(self.rates.same_fault);
        let launches = self.rng.seconds(30, 150);
        let launches = if same_name { launches.max(free) } else { launches };
        let group = self.oracle.lock().nodes[number].group;
        let pooled = self.pools.get(&group).copied().is_some_and(|rate| self.rng.happens(rate));
        let new = {
            let mut oracle = self.oracle.lock();
            let (group, zone) = (oracle.nodes[number].group, oracle.nodes[number].zone);
            let new = oracle.add(group, zone);
            oracle.nodes[number].replaced_by = Some(new);
            oracle.nodes[new].pooled = pooled;
            oracle.nodes[new].inherits = oracle.nodes[number].kind.filter(|_| same_fault);
            if same_name {
                oracle.nodes[new].name = oracle.nodes[number].name.clone();
            }
            new
        };
        self.after(launches, Event::Launches { number: new, fails: fortune == 0, joins });
    }

    pub(crate) fn launches(&mut self, number: usize, fails: bool, joins: Option<SignedDuration>) {
        let plan = self.plan.clone();
        let group_number = self.oracle.lock().nodes[number].group;
        let group = plan.groups[group_number].name.clone();
        if fails || self.no_capacity {
            let bytes = messages::launch_failed(group.as_str(), self.now);
            self.event(bytes, vec![(number, Fact::LaunchFailed { at: self.now })]);
            let again = self.rng.seconds(300, 5_400);
            return self.after(again, Event::Launches { number, fails: false, joins });
        }
        let (bytes, member, launched) = {
            let mut oracle = self.oracle.lock();
            oracle.nodes[number].launched = Some(self.now);
            oracle.nodes[number].booted = self.now;
            oracle.nodes[number].agent_since = self.now;
            oracle.trace(|| format!("node {number} is launched into {group}"));
            let node = &oracle.nodes[number];
            (
                messages::launch(node, group.as_str(), plan.zones[node.zone].as_str(), self.now),
                member(node, &plan),
                if node.pooled { self.plan.start - SignedDuration::from_hours(24) } else { self.now },
            )
        };
        self.cloud.change(|fleet| {
            fleet.join(&group, Some(&self.cluster), &member.instance_id, &member.zone);
            fleet.set_launched(member.instance_id.clone(), launched);
        });
        self.event(bytes, vec![(number, Fact::Launched { at: self.now })]);
        if let Some(joins) = joins.filter(|_| plan.groups[group_number].nodes) {
            self.after(joins, Event::Registers(number));
        }
    }

    pub(crate) fn registers(&mut self, number: usize) {
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
        let kind = self.oracle.lock().nodes[number].inherits.take();
        if let Some(kind) = kind {
            let from = self.now + self.rng.seconds(60, 1_800);
            let until = self.rng.happens(700).then(|| from + self.rng.seconds(600, 7_200));
            let periods = vec![(from, until)];
            self.plan_failure(&NodeFailure { node: number, kind, periods, agent_restarts: None });
        }
        self.start_agent(number, self.now + seconds(25));
    }

    pub(crate) fn boots(&mut self, number: usize) {
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
