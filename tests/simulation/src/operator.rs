//! Begins and ends the items of a schedule: failures, what operators do for a while, and what AWS refuses.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    group::Lifecycle,
    policy::{Hold, Mode},
};

use crate::{
    environment::Environment,
    events::Event,
    other_clusters,
    plan::{Decided, HoldScope, Item},
    policy::Settings,
};

impl Environment {
    /// An item begins or ends.
    pub(crate) fn begins(&mut self, number: usize, on: bool) {
        let plan = self.plan.clone();
        let Some(item) = plan.items.get(number) else { return };
        self.oracle.lock().trace(|| format!("{}: {item}", if on { "begins" } else { "ends" }));
        match item {
            Item::Hold { what, until, lifted, .. } => self.hold(*what, *until, lifted.is_some(), on),
            Item::Refusals { code, .. } => {
                let mut oracle = self.oracle.lock();
                oracle.refusing = on.then_some(*code);
                oracle.fault();
            }
            Item::Standby { node, .. } => {
                self.stand_by(*node, on);
            }
            Item::Detached { node, .. } => self.detach(*node, on),
            Item::CapacityOutage { .. } => self.no_capacity = on,
            Item::Stopped { node, .. } => self.stop(*node, on),
            Item::PolicyChanges { .. } => {
                if on {
                    self.changes.push(number);
                } else {
                    self.changes.retain(|other| *other != number);
                }
                let settings = Settings::of(&plan, &self.changes);
                self.oracle.lock().policy_changes(settings);
                self.apply_policy(None);
            }
            Item::Shift { zone, .. } => {
                self.oracle.lock().shifted = on.then_some(*zone);
                self.cloud.set_zonal_shifts(on.then(|| plan.zones[*zone].clone()).into_iter().collect());
            }
            Item::ReadsFail { how, .. } => {
                let mut oracle = self.oracle.lock();
                oracle.reading.failing = on.then_some(*how);
                oracle.fault();
            }
            Item::Observed { .. } => {
                self.oracle.lock().observing = on;
                self.observing = on;
                self.apply_policy(None);
            }
            Item::ScalingSuspended { group, process, .. } => {
                let name = plan.groups[*group].name.clone();
                self.oracle.lock().groups[*group].suspended = on;
                self.cloud.change(|fleet| {
                    fleet.set_suspended(&name, if on { vec![(*process).to_owned()] } else { Vec::new() });
                });
            }
            _ => {}
        }
    }

    /// Writes the policy as the operator has it now.
    fn apply_policy(&self, hold: Option<Hold>) {
        let mut policy = self.plan.policy(&Settings::of(&self.plan, &self.changes));
        policy.holds.extend(hold);
        if self.observing {
            policy.mode = Mode::Observe;
            policy.groups.iter_mut().for_each(|group| group.mode = Some(Mode::Observe));
        }
        self.store.set_any_policy(policy);
    }

    /// An operator puts an instance on standby, or returns it to service. Returns whether there is one.
    fn stand_by(&mut self, number: usize, on: bool) -> bool {
        let instance = {
            let mut oracle = self.oracle.lock();
            let node = &mut oracle.nodes[number];
            if node.is_out() {
                return false;
            }
            (node.on_standby, node.out_until) = (on, Some(self.now));
            node.instance.clone()
        };
        let lifecycle = if on { Lifecycle::OutOfService } else { Lifecycle::InService };
        self.cloud.change(|fleet| fleet.set_lifecycle(&instance, lifecycle));
        true
    }

    /// An operator stops an instance on standby, or starts it again and returns it to service.
    fn stop(&mut self, number: usize, on: bool) {
        if !self.stand_by(number, on) {
            return;
        }
        if !on {
            let boots = self.rng.seconds(45, 180);
            return self.after(boots, Event::Boots(number));
        }
        {
            let node = &mut self.oracle.lock().nodes[number];
            (node.down, node.stopped) = (true, Some(self.now));
        }
        self.after(SignedDuration::from_secs(44), Event::NodeController(number));
    }

    /// An operator detaches an instance, or attaches it again. It runs on, and its node with it.
    fn detach(&mut self, number: usize, on: bool) {
        let mut oracle = self.oracle.lock();
        let node = &mut oracle.nodes[number];
        (node.detached, node.out_until) = (on, Some(self.now));
        let (instance, out) = (node.instance.clone(), node.is_out());
        let (group, zone) = (self.plan.groups[node.group].name.clone(), self.plan.zones[node.zone].clone());
        drop(oracle);
        let cluster = self.cluster.clone();
        self.cloud.change(|fleet| {
            if !out {
                fleet.leave(&instance);
            }
            match (on, out) {
                (_, true) => {}
                (true, _) => fleet.add_ungrouped(instance.clone()),
                (false, _) => fleet.join(&group, Some(&cluster), &instance, &zone),
            }
        });
    }

    /// A hold that may be lifted is in the policy; one that expires is in the store.
    fn hold(&mut self, what: HoldScope, until: Timestamp, liftable: bool, on: bool) {
        let now = self.now;
        let shared = self.oracle.clone();
        let mut oracle = shared.lock();
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
            HoldScope::Everything => {}
            HoldScope::Group(group) => hold.group = Some(self.plan.groups[group].name.clone()),
            HoldScope::Node(node) => hold.node = Some(oracle.nodes[node].name.clone()),
        }
        if on {
            oracle.holds.push((what, now, until));
        } else {
            oracle.holds.clear();
        }
        if liftable {
            drop(oracle);
            self.apply_policy(on.then_some(hold));
        } else if on {
            self.store.hold(&self.cluster, hold);
        }
    }

    /// Queues the events of each item.
    pub(crate) fn items(&mut self) {
        let plan = self.plan.clone();
        let without = self.options.without.clone();
        let kept = || plan.items.iter().enumerate().filter(|(number, _)| !without.contains(number));
        // First when reports are lost: an agent has reported before that.
        for (_, item) in kept() {
            if let Item::FilterOff { agents, from, until } = item {
                self.off.push((*agents, *from, *until));
            }
        }
        for (number, item) in kept() {
            self.oracle.lock().trace(|| format!("item {number}: {item}"));
            match item {
                Item::NodeFails(failure) => self.plan_failure(failure),
                Item::FilterOff { .. } => {}
                Item::Hold { from, until, lifted, .. } => {
                    self.at(*from, Event::Begins(number));
                    self.at(lifted.unwrap_or(*until), Event::Ends(number));
                }
                Item::Refusals { from, until, .. }
                | Item::ScalingSuspended { from, until, .. }
                | Item::Standby { from, until, .. }
                | Item::Shift { from, until, .. }
                | Item::ReadsFail { from, until, .. }
                | Item::PolicyChanges { from, until, .. }
                | Item::Detached { from, until, .. }
                | Item::CapacityOutage { from, until }
                | Item::Stopped { from, until, .. }
                | Item::Observed { from, until } => {
                    self.at(*from, Event::Begins(number));
                    self.at(*until, Event::Ends(number));
                }
                Item::Crashes(rate) => self.rates.crashes = *rate,
                Item::Stalls(rate) => self.rates.stalls = *rate,
                Item::Duplicates(rate) => self.rates.twice = *rate,
                Item::Late(rate) => self.rates.late = *rate,
                Item::Lost(rate) => self.rates.lost = *rate,
                Item::VeryLate(rate) => self.rates.very_late = *rate,
                Item::Redriven(rate) => self.rates.redriven = *rate,
                Item::LostEvents(rate) => self.rates.lost_events = *rate,
                Item::OtherAccount(rate) => self.rates.other_account = *rate,
                Item::SecondCluster(rate) => {
                    self.rates.second_cluster = *rate;
                    let policy = plan.policy(&Settings::of(&plan, &[]));
                    let (clock, groups) = (self.clock.clone(), self.groups());
                    self.second = Some(other_clusters::serve_second(clock, &self.store, policy, groups));
                }
                Item::Drains(rate) => self.rates.drains = *rate,
                Item::ScalesOut { group, at } => self.at(*at, Event::ScalesOut(*group)),
                Item::ScalesIn { node, at } => self.at(*at, Event::TakenOut(*node, Decided::ScaleIn)),
                Item::Refresh { group, instances, from } => {
                    self.at(*from, Event::Refreshes { group: *group, left: *instances });
                }
                Item::WarmPool { group, rate } => {
                    self.pools.insert(*group, *rate);
                }
                Item::DryRun { node, at } => self.at(*at, Event::DryRun(*node)),
                Item::Lies { node, at, lie } => self.at(*at, Event::Lies(*node, *lie)),
                Item::ClockSteps { node, at, by } => {
                    let node = &mut self.oracle.lock().nodes[*node];
                    (node.step, node.unreliable) = (Some((*at, *by)), true);
                }
                Item::Skipped(rate) => self.rates.skipped = *rate,
                Item::RepairRuns(rate) => self.rates.repair_runs = *rate,
                Item::FailedLaunches(rate) => self.rates.failed_launches = *rate,
                Item::CloudTrailLate(rate) => self.rates.audit_log = *rate,
                Item::SameFault(rate) => self.rates.same_fault = *rate,
                Item::SameName(rate) => self.rates.same_name = *rate,
                Item::SlowReads(rate) => self.oracle.lock().reading.slow = *rate,
                Item::ThrottledReads(rate) => self.oracle.lock().reading.throttled = *rate,
                Item::IndexLag(seconds) => {
                    let lag = i64::try_from(*seconds).unwrap_or(0);
                    self.oracle.lock().reading.lag = SignedDuration::from_secs(lag);
                }
                Item::Ec2Lag(seconds) => {
                    let lag = i64::try_from(*seconds).unwrap_or(0);
                    self.oracle.lock().reading.ec2_lag = SignedDuration::from_secs(lag);
                }
                Item::Reconciles => {
                    let first = self.rng.seconds(0, 300);
                    self.after(first, Event::Reconciles);
                }
                Item::Clocks => self.rates.clocks = true,
            }
        }
        self.clocks();
    }
}
