//! The policy of a schedule, and its changes: an operator may change it at any moment.

use jiff::SignedDuration;
use nodemend_domain::{
    ident::AccountId,
    policy::{GroupRule, Limit, MaintenanceWindow, Mode, Policy, VerificationPolicy},
};
use nodemend_testkit::fixture::ACCOUNT;

use crate::{
    plan::{Change, GroupPlan, Item, Options, Plan},
    rng::Rng,
};

/// The parts of the policy that change, at one time.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) groups: Vec<GroupPlan>,
    pub(crate) gradual: bool,
    /// A fault that cannot be verified is repaired.
    pub(crate) preferred: bool,
    pub(crate) settling: SignedDuration,
}

impl Settings {
    /// Those that a schedule begins with, and these changes.
    pub(crate) fn of(plan: &Plan, changes: &[usize]) -> Self {
        let settling = Policy::eks_defaults().settling_time;
        let mut now = Self { groups: plan.groups.clone(), gradual: plan.gradual, preferred: false, settling };
        for number in changes {
            let Some(Item::PolicyChanges { what, .. }) = plan.items.get(*number) else { continue };
            match what {
                Change::VerificationPreferred => now.preferred = true,
                Change::Gradual => now.gradual = !plan.gradual,
                Change::Settling(settling) => now.settling = *settling,
                Change::Grace(group, grace) => now.groups[*group].gpu_grace = Some(*grace),
                Change::Threshold(group, limit) => now.groups[*group].threshold = Some(*limit),
                Change::Parallel(group, limit) => now.groups[*group].parallel = Some(*limit),
                Change::Observe(group) => now.groups[*group].observe = true,
                Change::Disabled(group) => now.groups[*group].disabled = true,
            }
        }
        now
    }
}

impl Plan {
    /// What operators change: the policy, and the fleet.
    pub(crate) fn changes(&mut self, rng: &mut Rng, options: &Options) {
        if rng.happens(150) {
            let group = rng.index(self.groups.len());
            let what = match rng.below(8) {
                0 => Change::VerificationPreferred,
                1 => Change::Gradual,
                2 => Change::Settling(SignedDuration::from_mins(rng.pick(&[1, 5, 30]))),
                3 => Change::Grace(group, SignedDuration::from_mins(rng.pick(&[3, 5, 20]))),
                4 => Change::Threshold(group, Limit::Count(rng.pick(&[1, 2, 6]))),
                5 => Change::Parallel(group, Limit::Count(rng.pick(&[1, 2]))),
                6 => Change::Observe(group),
                _ => Change::Disabled(group),
            };
            let from = self.moment(rng, options);
            self.items.push(Item::PolicyChanges { what, from, until: from + rng.seconds(60, 5_400) });
        }
        let failing: Vec<usize> = self.items.iter().filter_map(Item::node).collect();
        if rng.happens(60) && !failing.is_empty() {
            let (node, from) = (rng.pick(&failing), self.moment(rng, options));
            self.items.push(Item::Detached { node, from, until: from + rng.seconds(300, 5_400) });
        }
        let proxies = self.groups.iter().position(|group| !group.nodes);
        if proxies.is_some() || rng.happens(60) {
            let group = proxies.unwrap_or_else(|| rng.index(self.groups.len()));
            let at = self.moment(rng, options);
            self.items.push(Item::ScalesOut { group, at });
        }
        if rng.happens(150) {
            self.items.push(Item::LostEvents(rng.pick(&[30, 100, 300])));
        }
        if rng.happens(100) {
            self.items.push(Item::OtherAccount(rng.pick(&[100, 500])));
        }
        if rng.happens(150) {
            self.items.push(Item::Drains(rng.pick(&[300, 1_000])));
        }
        if rng.happens(60) {
            self.items.push(Item::SecondCluster(rng.pick(&[500, 1_000])));
        }
    }

    /// The policy of this cluster.
    pub(crate) fn policy(&self, now: &Settings) -> Policy {
        let mut policy = Policy::eks_defaults();
        policy.silence.agent_silent_after = self.silent_after;
        policy.outage.gradual = now.gradual;
        policy.account = AccountId::new(ACCOUNT).ok();
        policy.settling_time = now.settling;
        if !self.verifies || now.preferred {
            policy.verification = VerificationPolicy::Preferred;
        }
        let block = |group: &GroupPlan| {
            let mut block = policy.node_repair_config.clone();
            block.enabled = !group.disabled;
            block.max_parallel_nodes_repaired = group.parallel;
            block.max_unhealthy_node_threshold = group.threshold;
            block
        };
        let rules = now.groups.iter().map(|group| GroupRule {
            name: Some(group.name.to_string()),
            tags: std::collections::BTreeMap::new(),
            mode: group.observe.then_some(Mode::Observe),
            node_repair_config: Some(block(group)),
            grace: group.gpu_grace.map(|grace| {
                let condition = nodemend_domain::condition::ConditionType::AcceleratedHardwareReady;
                let mut graces = nodemend_domain::policy::Grace::default();
                graces.conditions.insert(condition, grace);
                graces
            }),
            maintenance_windows: group.window.map(|window| vec![maintenance(window)]),
        });
        let rules = rules.collect();
        policy.groups = rules;
        policy
    }
}

fn maintenance((start, end): (i64, i64)) -> MaintenanceWindow {
    let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let window = serde_json::json!({ "start": clock(start), "end": clock(end) });
    serde_json::from_value(window).expect("a window")
}
