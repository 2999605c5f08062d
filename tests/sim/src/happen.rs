//! What happens in the cluster and at AWS, and who is told of it.

use std::{collections::BTreeMap, rc::Rc};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    group::{Group, Lifecycle, Member},
    policy::{Hold, Mode},
    trail::{ApiCall, Outcome},
};

use crate::{
    events::{Content, Event, Parcel},
    judge::node::{Node, Word},
    plan::{Held, Item, LeftAlone, is_long},
    trouble::{Track, Witness},
    words::{self, Said},
    world::World,
};

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

impl World {
    /// The fleet as it is at first.
    pub(crate) fn people(&mut self) {
        let plan = self.plan.clone();
        let judge = self.bench.judge();
        let group = |(number, group): (usize, &crate::plan::GroupPlan)| Group {
            name: group.name.clone(),
            cluster: Some(self.cluster.clone()),
            members: judge
                .nodes
                .iter()
                .filter(|node| node.group == number)
                .map(|node| member(node, &plan))
                .collect(),
            suspended: Vec::new(),
            tags: (group.left_alone == Some(LeftAlone::OptedOut))
                .then(|| ("nodemend/repair".to_owned(), "disabled".to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            eks_repairs: group.left_alone == Some(LeftAlone::EksRepairs),
        };
        let groups: Vec<Group> = plan.groups.iter().enumerate().map(group).collect();
        self.cloud.change(|fleet| groups.into_iter().for_each(|group| fleet.add_group(group)));
    }

    /// Clocks that are wrong; and agents that all must be heard, where their logs will be out for long.
    pub(crate) fn clocks(&mut self) {
        if self.rates.clocks {
            let bench = self.bench.clone();
            for node in &mut bench.judge().nodes {
                node.skew = self.dice.seconds(-10_800, 10_800);
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
                let late = self.dice.seconds(0, 300);
                self.talk(number, first + late);
            }
        }
    }

    /// An agent is heard from then on.
    pub(crate) fn talk(&mut self, number: usize, from: Timestamp) {
        if !std::mem::replace(&mut self.bench.judge().nodes[number].talks, true) {
            self.at(from, Event::Beat(number));
        }
    }

    /// Something is written to a log that a subscription filter reads.
    fn log(&mut self, said: Said, agents: bool, may_be_lost: bool) {
        let now = self.now;
        let off = self.off.iter().any(|(of, from, until)| *of == agents && *from <= now && now < *until);
        let lost = off || agents && may_be_lost && self.dice.happens(self.rates.skipped);
        if self.options.verbose {
            let lost = if lost { ", and it is lost" } else { "" };
            let text = format!("said: {:?}{lost}", said.words);
            self.bench.judge().tell(|| text);
        }
        if !lost {
            // Of a run of heartbeats that say the same, the last alone is sent: it must not be late for all of them.
            let late = may_be_lost || self.options.every_heartbeat;
            self.send(Content::Log(said), late);
        }
    }

    fn send(&mut self, content: Content, may_be_late: bool) {
        let content = Rc::new(content);
        let late = if may_be_late && self.dice.happens(self.rates.late) {
            self.dice.seconds(30, 1_500)
        } else {
            self.dice.seconds(1, 6)
        };
        if self.dice.happens(self.rates.twice) {
            let again = self.dice.seconds(0, 3_600);
            let parcel = Box::new(Parcel { content: content.clone(), tries: 0 });
            self.after(again, Event::Arrives(parcel));
        }
        self.after(late, Event::Arrives(Box::new(Parcel { content, tries: 0 })));
    }

    fn event(&mut self, bytes: Vec<u8>, words: Vec<(usize, Word)>) {
        self.send(Content::Bytes(bytes, words), true);
    }

    /// Lets something happen.
    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Speak(number, track) => self.speak(number, Some(track)),
            Event::Beat(number) => self.beat(number),
            Event::AgentStarts(number) => {
                self.bench.judge().nodes[number].agent_since = self.now;
                self.speak(number, None);
            }
            // A node that is down says nothing, and its agent's trouble goes on.
            Event::Kubelet(number, _) if self.bench.judge().nodes[number].down => {}
            Event::Kubelet(number, ready) => {
                self.told(number, |node, now, _| words::kubelet_says(node, number, now, ready));
            }
            Event::Controller(number) => {
                self.told(number, |node, now, zone| words::controller_says(node, number, now, zone));
            }
            Event::Deleted(number) => {
                self.told(number, |node, now, _| words::deletion(node, number, now, true));
            }
            Event::Swept(number) => {
                let said = words::deletion(&self.bench.judge().nodes[number], number, self.now, false);
                self.log(said, false, true);
            }
            Event::Dies(number, foreign) => self.dies(number, foreign),
            Event::Leaves(number) => self.leaves(number),
            Event::Launches { number, fails, joins } => self.launches(number, fails, joins),
            Event::Registers(number) => self.registers(number),
            Event::Ready(number) => {
                self.told(number, |node, now, _| words::kubelet_says(node, number, now, true));
            }
            Event::Boots(number) => self.boots(number),
            Event::Arrives(parcel) => {
                self.under_way -= 1;
                self.take(parcel);
            }
            Event::Trail(call) => {
                self.under_way -= 1;
                let (number, bytes) = {
                    let judge = self.bench.judge();
                    let made = &judge.made[call];
                    (made.number, words::cloud_trail(&made.call, &made.answer, made.at, call))
                };
                self.event(bytes, vec![(number, Word::Trail { call })]);
            }
            Event::Begins(item) => self.begins(item, true),
            Event::Ends(item) => self.begins(item, false),
            Event::Look => self.keep_looking(),
        }
        self.wake_the_judge();
    }

    fn speak(&mut self, number: usize, track: Option<usize>) {
        let plan = self.plan.clone();
        let said = {
            let mut judge = self.bench.judge();
            let node = &mut judge.nodes[number];
            if node.is_out() || node.down || node.is_hung(self.now) {
                return;
            }
            words::agent(node, number, track, self.now, &plan.zones[node.zone])
        };
        self.log(said, true, track.is_some());
    }

    /// The next heartbeat that can make a difference: every one around a change; else the last before a change, before its
    /// words would be lost, or before its silence would count. One that is unwell is heard at least every 15 minutes.
    fn beat(&mut self, number: usize) {
        self.speak(number, None);
        let (now, every) = (self.now, words::HEARTBEAT);
        let mut next = now + every;
        {
            let judge = self.bench.judge();
            let node = &judge.nodes[number];
            if node.is_out() {
                return;
            }
            let changes = || node.tracks.iter().flat_map(Track::changes);
            let near = |at: Timestamp| (now - every..now + every).contains(&at);
            let joins = node.launched.and(node.registered).is_some_and(near);
            if !(self.options.every_heartbeat || node.down || joins || changes().any(near)) {
                let unwell = node.tracks.iter().any(|track| track.spell(now).is_some());
                let silent_after = self.plan.silent_after.unwrap_or(seconds(3_600));
                let rest = if unwell { every * 3 } else { silent_after };
                let breaks = self.off.iter().filter(|(agents, ..)| *agents).map(|(_, from, _)| *from);
                let first = breaks.chain(changes()).filter(|at| *at > now).min().unwrap_or(Timestamp::MAX);
                while next + every < first && next + every <= now + rest {
                    next += every;
                }
            }
        }
        self.at(next, Event::Beat(number));
    }

    fn told(&mut self, number: usize, say: impl FnOnce(&Node, Timestamp, &str) -> Said) {
        let plan = self.plan.clone();
        let said = {
            let judge = self.bench.judge();
            let node = &judge.nodes[number];
            if node.is_out() {
                return;
            }
            say(node, self.now, plan.zones[node.zone].as_str())
        };
        self.log(said, false, true);
    }

    /// An instance goes without us.
    fn dies(&mut self, number: usize, foreign: bool) {
        let now = self.now;
        let trail = {
            let mut judge = self.bench.judge();
            let node = &mut judge.nodes[number];
            if node.is_out() {
                return;
            }
            (node.terminated, node.foreign) = (Some(now), foreign);
            judge.tell(|| format!("node {number} dies, of somebody's call: {foreign}"));
            words::foreign(&judge.nodes[number], now)
        };
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.set_lifecycle(&instance, Lifecycle::Terminating));
        if foreign {
            self.event(trail, vec![(number, Word::Left { foreign: true })]);
        }
        self.is_on_its_way_out(number);
    }

    fn is_on_its_way_out(&mut self, number: usize) {
        let bytes = words::shutting_down(&self.bench.judge().nodes[number], self.now);
        self.event(bytes, vec![(number, Word::Left { foreign: false })]);
        let (leaves, swept) = (self.dice.seconds(30, 330), self.dice.seconds(5, 120));
        self.after(leaves, Event::Leaves(number));
        self.after(leaves + swept, Event::Swept(number));
        self.replace(number, leaves + swept);
    }

    fn leaves(&mut self, number: usize) {
        let instance = self.instance(number);
        self.cloud.change(|fleet| fleet.leave(&instance));
        let bytes = {
            let mut judge = self.bench.judge();
            judge.nodes[number].gone = true;
            let group = judge.group_plan(number).name.clone();
            words::terminated(&judge.nodes[number], group.as_str(), self.now)
        };
        self.event(bytes, vec![(number, Word::Left { foreign: false })]);
    }

    /// Auto Scaling launches what is missing. An address, and with it a name, comes again once it is free.
    fn replace(&mut self, number: usize, free: SignedDuration) {
        let fortune = if self.dice.happens(self.rates.stillborn) { self.dice.below(3) } else { 9 };
        let joins = match fortune {
            1 => None,
            2 => Some(self.dice.seconds(600, 1_800)),
            _ => Some(self.dice.seconds(30, 150)),
        };
        let same_name = self.dice.happens(self.rates.same_name);
        let launches = self.dice.seconds(30, 150);
        let launches = if same_name { launches.max(free) } else { launches };
        let new = {
            let mut judge = self.bench.judge();
            let (group, zone) = (judge.nodes[number].group, judge.nodes[number].zone);
            let new = judge.add(group, zone);
            judge.nodes[number].replaced_by = Some(new);
            if same_name {
                judge.nodes[new].name = judge.nodes[number].name.clone();
            }
            new
        };
        self.after(launches, Event::Launches { number: new, fails: fortune == 0, joins });
    }

    fn launches(&mut self, number: usize, fails: bool, joins: Option<SignedDuration>) {
        let plan = self.plan.clone();
        let group = self.bench.judge().group_plan(number).name.clone();
        if fails {
            let bytes = words::launch_failed(group.as_str(), self.now);
            self.event(bytes, Vec::new());
            let again = self.dice.seconds(300, 5_400);
            return self.after(again, Event::Launches { number, fails: false, joins });
        }
        let (bytes, member) = {
            let mut judge = self.bench.judge();
            judge.nodes[number].launched = Some(self.now);
            judge.nodes[number].booted = self.now;
            judge.nodes[number].agent_since = self.now;
            judge.tell(|| format!("node {number} is launched into {group}"));
            let node = &judge.nodes[number];
            (
                words::launch(node, group.as_str(), plan.zones[node.zone].as_str(), self.now),
                member(node, &plan),
            )
        };
        self.cloud.change(|fleet| {
            fleet.join(&group, Some(&self.cluster), &member.instance_id, &member.zone);
        });
        self.event(bytes, vec![(number, Word::Launched { at: self.now })]);
        if let Some(joins) = joins {
            self.after(joins, Event::Registers(number));
        }
    }

    fn registers(&mut self, number: usize) {
        let said = {
            let mut judge = self.bench.judge();
            let node = &mut judge.nodes[number];
            if node.is_out() {
                return;
            }
            node.registered = Some(self.now);
            words::registration(node, number, self.now)
        };
        self.log(said, false, true);
        self.after(seconds(20), Event::Ready(number));
        self.talk(number, self.now + seconds(25));
    }

    fn boots(&mut self, number: usize) {
        let now = self.now;
        let (places, bench) = (self.bench.judge().nodes[number].tracks.len(), self.bench.clone());
        let breaks;
        {
            let mut judge = bench.judge();
            let node = &mut judge.nodes[number];
            if node.is_out() {
                return;
            }
            node.boot += 1;
            (node.seq, node.booted, node.agent_since, node.down) = (0, now, now, false);
            // What it does not cure is bad from the start, or after a minute that looks like a cure.
            breaks = (!node.reboot_cures).then(|| now + seconds(self.dice.pick(&[0, 0, 45, 90])));
            node.tracks.iter_mut().for_each(|track| track.reboot(now, breaks));
            judge.tell(|| format!("node {number} is up again"));
        }
        let ready = self.bench.judge().nodes[number]
            .tracks
            .iter()
            .all(|track| track.witness == Witness::Agent || track.spell(now).is_none());
        if ready {
            self.after(seconds(15), Event::Kubelet(number, true));
        }
        for place in 0..places {
            if bench.judge().nodes[number].tracks[place].witness == Witness::Agent {
                let after = self.dice.seconds(5, 30);
                self.after(after, Event::Speak(number, place));
                if let Some(breaks) = breaks.filter(|breaks| *breaks > now) {
                    self.at(breaks, Event::Speak(number, place));
                }
            }
        }
    }

    /// What AWS does about the calls that have come since.
    pub(crate) fn called(&mut self) {
        loop {
            let bench = self.bench.clone();
            let Some(made) = bench.judge().made.get(self.seen_calls).cloned() else { return };
            let call = self.seen_calls;
            self.seen_calls += 1;
            let late = match (self.dice.happens(self.rates.trail), self.dice.below(2)) {
                (true, 0) => None,
                (true, _) => Some(self.dice.seconds(900, 3_600)),
                (false, _) => Some(self.dice.seconds(5, 900)),
            };
            if let Some(late) = late {
                self.after(late, Event::Trail(call));
            }
            if !matches!(made.answer.outcome, Outcome::Accepted { .. }) {
                continue;
            }
            match made.call {
                ApiCall::TerminateInstanceInAutoScalingGroup { .. } => self.is_on_its_way_out(made.number),
                ApiCall::RebootInstances { .. } => {
                    bench.judge().nodes[made.number].down = true;
                    if self.dice.happens(400) {
                        self.after(seconds(44), Event::Controller(made.number));
                    }
                    // Most boots take a minute or two; some take about as long as they may.
                    let slow = if self.dice.happens(250) { 720 } else { 45 };
                    let boots = seconds(slow) + self.dice.seconds(0, 180);
                    self.after(boots, Event::Boots(made.number));
                }
            }
        }
    }

    /// An item begins, or ends.
    fn begins(&mut self, number: usize, on: bool) {
        let plan = self.plan.clone();
        let Some(item) = plan.items.get(number) else { return };
        self.bench.judge().tell(|| format!("{}: {item}", if on { "begins" } else { "ends" }));
        match item {
            Item::Hold { what, until, lifted, .. } => self.hold(*what, *until, lifted.is_some(), on),
            Item::Refusals { code, .. } => {
                let mut judge = self.bench.judge();
                judge.refusing = on.then_some(*code);
                judge.fault();
            }
            Item::Aside { node, .. } => {
                let instance = {
                    let mut judge = self.bench.judge();
                    let node = &mut judge.nodes[*node];
                    if node.is_out() {
                        return;
                    }
                    node.set_aside = on;
                    node.instance.clone()
                };
                let lifecycle = if on { Lifecycle::SetAside } else { Lifecycle::InService };
                self.cloud.change(|fleet| fleet.set_lifecycle(&instance, lifecycle));
            }
            Item::Shift { zone, .. } => {
                self.bench.judge().shifted = on.then_some(*zone);
                self.cloud.set_zonal_shifts(on.then(|| plan.zones[*zone].clone()).into_iter().collect());
            }
            Item::Observed { .. } => {
                self.bench.judge().observing = on;
                self.observing = on;
                self.apply_policy(None);
            }
            Item::Suspended { group, process, .. } => {
                let name = plan.groups[*group].name.clone();
                self.bench.judge().groups[*group].suspended = on;
                self.cloud.change(|fleet| {
                    fleet.set_suspended(&name, if on { vec![(*process).to_owned()] } else { Vec::new() });
                });
            }
            _ => {}
        }
    }

    /// The policy as the operator has it now.
    fn apply_policy(&self, hold: Option<Hold>) {
        let mut policy = self.plan.policy();
        policy.holds.extend(hold);
        if self.observing {
            policy.mode = Mode::Observe;
            policy.groups.iter_mut().for_each(|group| group.mode = Some(Mode::Observe));
        }
        self.store.set_any_policy(policy);
    }

    /// A hold that may be lifted stands in the policy; one that runs out is placed.
    fn hold(&mut self, what: Held, until: Timestamp, liftable: bool, on: bool) {
        let now = self.now;
        let bench = self.bench.clone();
        let mut judge = bench.judge();
        let mut hold = Hold {
            cluster: None,
            group: None,
            node: None,
            owner: "alice".to_owned(),
            reason: "a game is on".to_owned(),
            from: None,
            until,
        };
        match what {
            Held::Everything => {}
            Held::Group(group) => hold.group = Some(self.plan.groups[group].name.clone()),
            Held::Node(node) => hold.node = Some(judge.nodes[node].name.clone()),
        }
        if on {
            judge.holds.push((what, now, until));
        } else {
            judge.holds.clear();
        }
        if liftable {
            drop(judge);
            self.apply_policy(on.then_some(hold));
        } else if on {
            self.store.hold(&self.cluster, hold);
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
