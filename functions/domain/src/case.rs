//! One node's trouble: what was heard of it, and what is being done about it.
//!
//! A case takes reports and observations in, in any order and any number of times; what follows from them, the
//! [faults](fault) and the time at which somebody must look again, is computed, never stored twice.
//! It is fenced by instance id and boot id: what was said before a reboot changes nothing.

pub mod fault;
mod tally;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::{
    fault::{Fault, Testimony},
    tally::Tally,
};
use crate::{
    clock::{Change, History, Noted, Saying, Statement},
    condition::{ConditionType, Health, Polarity, RepairAction, Severity},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    observation::{Deleter, Observation, ObservedCondition, Reporter, What},
    policy::Policy,
    repair::Repair,
    report::{Body, ConditionState, Finding, Report},
    stamp,
    trail::Chain,
};

const MAX_CONDITIONS: usize = 32;
const MAX_TALLIES: usize = 64;
const MAX_OLD_BOOTS: usize = 8;
/// An agent is heard by our clock, a kubelet by the API server's.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(60);

/// Everything known of one node, as one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its instance: with the cluster, the item's key.
    pub instance_id: InstanceId,
    /// Its name in Kubernetes, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its zone, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Its Auto Scaling group, once somebody had to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The present boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    old_boots: Vec<BootId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tallies: Vec<Tally>,
    /// When the agent was last heard, by our clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub heard_agent: Option<Timestamp>,
    /// When the kubelet last wrote anything, by the API server's clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub heard_kubelet: Option<Timestamp>,
    /// When its agent or kubelet was first heard.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    first_heard: Option<Timestamp>,
    /// The agent has been silent since then, and that was told.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// How it came into the cluster, while that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
    /// Its group knows all of its arrival. Told again, late or twice, the same arrival would pass for another
    /// node's replacement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    welcomed: bool,
    /// How it left, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<Departure>,
    /// The repair that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
    /// How many repairs there have been, this one included.
    #[serde(default)]
    pub repairs: u32,
    /// What stands in the way of a repair that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// The end of this case; the instance is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Where its trail ends.
    #[serde(default)]
    pub trail: Chain,
    /// When somebody must look at this node next.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Why it counts among its cluster's unhealthy nodes, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Rises by one with each write.
    #[serde(default)]
    pub version: u64,
}

/// One boot of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Its id.
    pub id: BootId,
    /// When it was first heard of, by our clock.
    #[serde(with = "stamp")]
    pub heard: Timestamp,
    /// The newest report of it, by the node's clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    node_at: Option<Timestamp>,
}

/// One condition, as one witness has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    condition: ConditionType,
    witness: Witness,
    /// The findings of the newest bad state; kept while a recovery has yet to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Witness {
    /// The node's own agent.
    Agent {
        statement: Statement,
        /// The earliest instant of the present trouble at which a reason was there that some rule acts on.
        #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
        acting: Option<Timestamp>,
    },
    /// The control plane.
    ControlPlane(History),
}

/// One finding of severity Condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) reason: Box<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) message: Box<str>,
}

/// How a node came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// Auto Scaling launched it.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub launched: Option<Timestamp>,
    /// Its kubelet registered, or was heard at all.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub registered: Option<Timestamp>,
    /// Its kubelet said Ready.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// Whose place it took. Written together with the group's own note of it, so that whoever goes on after a
    /// crash gives it to nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<InstanceId>,
    /// How much of this its group has been told.
    #[serde(default)]
    pub told: Told,
}

/// How much of an arrival its group knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// That it failed to join in time.
    FailedToJoin,
    /// That it registered.
    Registered,
    /// That it is ready.
    Ready,
}

/// How a node went, and how we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// When.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// What happened, as one clause: `alice (IAM user) terminated it`.
    pub how: String,
    /// By a call that was not ours.
    #[serde(default)]
    pub foreign: bool,
}

/// A repair that is due and may not be made yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// Since when.
    #[serde(with = "stamp")]
    pub since: Timestamp,
    /// The names of the guards in the way.
    pub guards: Vec<String>,
    /// When to look again.
    #[serde(with = "stamp")]
    pub until: Timestamp,
    /// Observe mode has told what it would have done.
    #[serde(default)]
    pub observed: bool,
}

/// The end of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// How.
    pub outcome: String,
}

/// Why a node counts among the unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// Since when.
    #[serde(with = "stamp")]
    pub since: Timestamp,
    /// Because nobody hears it, rather than because somebody complains.
    pub silent: bool,
    /// Its trouble is of a kind that is repaired.
    pub unhealthy: bool,
}

/// What taking something in changed, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An event worth telling.
    Event {
        /// Its condition.
        condition: ConditionType,
        /// Its reason.
        reason: String,
        /// What was seen.
        message: String,
    },
    /// A condition went bad.
    Trouble(ConditionType),
    /// A condition went well again.
    Recovery(ConditionType),
    /// The kubelet registered the node.
    Registered,
    /// A node that had registered is ready for the first time.
    Ready,
    /// The Node object was deleted.
    Deleted {
        /// By whom.
        by: Deleter,
        /// Its name.
        user: String,
    },
    /// A new boot.
    Rebooted,
    /// The agent is heard again.
    AgentHeard,
}

impl Case {
    /// A node of which nothing is known yet.
    pub fn new(cluster: ClusterName, instance_id: InstanceId) -> Self {
        Self {
            cluster,
            instance_id,
            node: None,
            zone: None,
            group: None,
            boot: None,
            old_boots: Vec::new(),
            conditions: Vec::new(),
            tallies: Vec::new(),
            heard_agent: None,
            heard_kubelet: None,
            first_heard: None,
            silent_since: None,
            arrival: None,
            welcomed: false,
            departure: None,
            repair: None,
            repairs: 0,
            blocked: None,
            closed: None,
            trail: Chain::start(),
            due: None,
            attention: None,
            version: 0,
        }
    }

    /// The name under which its repair is spoken of: `i-0123456789abcdef0#1`.
    pub fn id(&self) -> String {
        let number = if self.repair.is_some() || self.closed.is_some() {
            self.repairs.max(1)
        } else {
            self.repairs + 1
        };
        format!("{}#{number}", self.instance_id)
    }

    /// The name that people know: the node's, else the instance's.
    pub fn label(&self) -> &str {
        self.node.as_ref().map_or(self.instance_id.as_str(), NodeName::as_str)
    }

    /// Takes an agent's report in.
    pub fn hear_report(&mut self, report: &Report<'_>, arrival: Timestamp, policy: &Policy) -> Vec<News> {
        let mut news = Vec::new();
        if self.closed.is_some() || !self.accepts_boot(report, arrival, &mut news) {
            return news;
        }
        self.node.get_or_insert_with(|| report.node.clone());
        if self.zone.is_none() {
            self.zone.clone_from(&report.zone);
        }
        if self.heard_agent.is_none_or(|heard| arrival > heard) {
            self.heard_agent = Some(arrival);
            if self.silent_since.take().is_some() {
                news.push(News::AgentHeard);
            }
        }
        self.joined(arrival);
        match &report.body {
            Body::Condition(state) => self.hear_state(report, state, arrival, policy, &mut news),
            Body::Heartbeat(states) => {
                for state in states {
                    self.hear_state(report, state, arrival, policy, &mut news);
                }
            }
            Body::Event { condition, findings } => {
                for finding in findings {
                    self.hear_finding(report, condition, finding, arrival, &mut news);
                }
            }
        }
        news
    }

    /// Fences by boot: a report of the present boot passes, one of an older boot doesn't, and the first of a
    /// newer one ends what was said of the present one. Which boot is newer, the node's own clock tells.
    fn accepts_boot(&mut self, report: &Report<'_>, arrival: Timestamp, news: &mut Vec<News>) -> bool {
        if let Some(boot) = self.boot.as_mut().filter(|boot| boot.id == report.boot_id) {
            boot.heard = boot.heard.min(arrival);
            if boot.node_at.is_none_or(|node_at| report.at > node_at) {
                boot.node_at = Some(report.at);
            }
            return true;
        }
        let newer =
            self.boot.as_ref().is_none_or(|boot| boot.node_at.is_none_or(|node_at| report.at > node_at));
        if !newer || self.old_boots.contains(&report.boot_id) {
            return false;
        }
        self.begin_boot(report.boot_id.clone(), arrival, Some(report.at), news);
        true
    }

    fn begin_boot(&mut self, id: BootId, heard: Timestamp, node_at: Option<Timestamp>, news: &mut Vec<News>) {
        if let Some(old) = self.boot.replace(Boot { id, heard, node_at }) {
            news.push(News::Rebooted);
            self.old_boots.push(old.id);
            if self.old_boots.len() > MAX_OLD_BOOTS {
                self.old_boots.remove(0);
            }
            // What was said in the old boot ends with it. Its trouble is not bridged into the new one, else a
            // case would depend on whether the old reports or the new ones came first.
            self.conditions.retain(|condition| !matches!(condition.witness, Witness::Agent { .. }));
        }
    }

    fn hear_state(
        &mut self,
        report: &Report<'_>,
        state: &ConditionState<'_>,
        arrival: Timestamp,
        policy: &Policy,
        news: &mut Vec<News>,
    ) {
        for finding in state.findings.iter().filter(|finding| finding.severity == Severity::Event) {
            self.hear_finding(report, &state.condition, finding, arrival, news);
        }
        let saying = Saying {
            seq: report.seq,
            health: state.status.health(state.condition.polarity().unwrap_or(Polarity::TrueIsGood)),
            node_since: state.since,
            node_at: report.at,
            sound_before: state
                .sound_secs
                .and_then(|secs| i64::try_from(secs).ok())
                .map(SignedDuration::from_secs),
            arrival,
        };
        let found: Vec<&Finding<'_>> =
            state.findings.iter().filter(|finding| finding.severity == Severity::Condition).collect();
        let place = self.conditions.iter().position(|known| {
            known.condition == state.condition && matches!(known.witness, Witness::Agent { .. })
        });
        let (place, before, noted) = match place {
            Some(place) => {
                let Witness::Agent { statement, .. } = &mut self.conditions[place].witness else {
                    return;
                };
                let before = statement.health;
                (place, before, statement.note(saying, policy.recovery_hold))
            }
            None if self.conditions.len() >= MAX_CONDITIONS => return,
            None => {
                let statement = Statement::first(saying);
                self.conditions.push(Condition {
                    condition: state.condition.clone(),
                    witness: Witness::Agent { statement, acting: None },
                    findings: Vec::new(),
                });
                (self.conditions.len() - 1, Health::Sound, Noted::News)
            }
        };
        let known = &mut self.conditions[place];
        let Witness::Agent { statement, acting } = &mut known.witness else {
            return;
        };
        let trouble = statement.read().trouble;
        if saying.health.is_bad() {
            let actionable = |reason: &str| {
                policy.all_rules().any(|rules| rules.remedy(&state.condition, reason).is_some())
            };
            // Reasons that nobody acts on don't start the clock of one that comes to them later.
            let since = if found.iter().all(|finding| actionable(&finding.reason)) {
                trouble
            } else {
                let acted_on = found.iter().filter(|finding| actionable(&finding.reason));
                acted_on.map(|finding| arrival - age(report.at, finding.since)).min()
            };
            if let (Some(since), Some(trouble)) = (since, trouble) {
                let since = since.max(trouble);
                *acting = Some(
                    acting.filter(|acting| *acting >= trouble).map_or(since, |acting| acting.min(since)),
                );
            } else if acting.is_some_and(|acting| trouble.is_none_or(|trouble| acting < trouble)) {
                *acting = None;
            }
        }
        if noted == Noted::Stale {
            return;
        }
        if saying.health.is_bad() {
            known.findings = found
                .iter()
                .map(|finding| Found { reason: (*finding.reason).into(), message: (*finding.message).into() })
                .collect();
        }
        match (before.is_bad(), saying.health.is_bad()) {
            (false, true) => news.push(News::Trouble(state.condition.clone())),
            (true, false) => news.push(News::Recovery(state.condition.clone())),
            _ => {}
        }
    }

    fn hear_finding(
        &mut self,
        report: &Report<'_>,
        condition: &ConditionType,
        finding: &Finding<'_>,
        arrival: Timestamp,
        news: &mut Vec<News>,
    ) {
        let tally = match self.tallies.iter_mut().find(|tally| *tally.reason == *finding.reason) {
            Some(tally) => tally,
            None => {
                if self.tallies.len() >= MAX_TALLIES {
                    self.tallies.remove(0);
                }
                self.tallies.push(Tally::new(condition.clone(), &finding.reason));
                let last = self.tallies.len() - 1;
                &mut self.tallies[last]
            }
        };
        if tally.note(report, finding, arrival) {
            news.push(News::Event {
                condition: condition.clone(),
                reason: finding.reason.to_string(),
                message: finding.message.to_string(),
            });
        }
    }

    /// Takes what the control plane's audit log says in.
    pub fn hear_observation(&mut self, observation: &Observation, policy: &Policy) -> Vec<News> {
        let mut news = Vec::new();
        let at = observation.at;
        if self.closed.is_some() {
            return news;
        }
        self.node.get_or_insert_with(|| observation.node.clone());
        if self.zone.is_none() {
            self.zone.clone_from(&observation.zone);
        }
        match &observation.what {
            What::Conditions { by, conditions } => {
                if *by == Reporter::Kubelet {
                    self.heard_kubelet = self.heard_kubelet.max(Some(at));
                    self.joined(at);
                }
                if let Some(boot_id) = &observation.boot_id {
                    self.hear_boot_id(boot_id, at, &mut news);
                }
                self.hear_conditions(conditions, at, policy, &mut news);
            }
            What::Registered { conditions } => {
                self.registered(at);
                self.heard_kubelet = self.heard_kubelet.max(Some(at));
                self.departure.take_if(|departure| departure.at < at && !departure.foreign);
                for condition in &mut self.conditions {
                    if let Witness::ControlPlane(history) = &mut condition.witness {
                        history.restart(at);
                    }
                }
                news.push(News::Registered);
                // A kubelet registers before it is ready: that is no trouble to tell of.
                self.hear_conditions(conditions, at, policy, &mut Vec::new());
            }
            What::Deleted { by, user } => {
                news.push(News::Deleted { by: *by, user: user.clone() });
                match by {
                    // The instance may well be running: its node is missing, and that is its trouble.
                    Deleter::Manual => {
                        let gone = ObservedCondition {
                            condition: ConditionType::Ready,
                            health: Health::Bad,
                            reason: "NodeDeleted".to_owned(),
                            message: format!("{user} deleted the Node object"),
                        };
                        self.hear_conditions(&[gone], at, policy, &mut news);
                    }
                    Deleter::CloudController => {
                        self.depart(at, "the cloud controller found its instance gone".to_owned(), false);
                    }
                    Deleter::Karpenter => self.depart(at, "Karpenter removed it".to_owned(), false),
                    Deleter::Eks => self.depart(at, "EKS removed it".to_owned(), false),
                }
            }
        }
        news
    }

    fn hear_boot_id(&mut self, boot_id: &BootId, at: Timestamp, news: &mut Vec<News>) {
        let known = self.boot.as_ref().is_some_and(|boot| boot.id == *boot_id || boot.heard > at);
        if !known && !self.old_boots.contains(boot_id) {
            self.begin_boot(boot_id.clone(), at, None, news);
        }
    }

    fn hear_conditions(
        &mut self,
        conditions: &[ObservedCondition],
        at: Timestamp,
        policy: &Policy,
        news: &mut Vec<News>,
    ) {
        for observed in conditions {
            let place = self.conditions.iter().position(|known| {
                known.condition == observed.condition && matches!(known.witness, Witness::ControlPlane(_))
            });
            let place = match place {
                Some(place) => place,
                None if self.conditions.len() >= MAX_CONDITIONS => continue,
                None => {
                    self.conditions.push(Condition {
                        condition: observed.condition.clone(),
                        witness: Witness::ControlPlane(History::default()),
                        findings: Vec::new(),
                    });
                    self.conditions.len() - 1
                }
            };
            let known = &mut self.conditions[place];
            let Witness::ControlPlane(history) = &mut known.witness else {
                continue;
            };
            let hold = policy.recovery_hold;
            let before = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            let change = Change { at, health: observed.health, reason: observed.reason.as_str().into() };
            let newest = !history.is_after(at);
            if !history.note(change, hold) {
                continue;
            }
            if newest && observed.health.is_bad() {
                let found = Found {
                    reason: observed.reason.as_str().into(),
                    message: observed.message.as_str().into(),
                };
                known.findings = vec![found];
            }
            let after = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            if newest
                && observed.condition == ConditionType::Ready
                && observed.health == Health::Sound
                && let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.ready.is_none())
            {
                arrival.ready = Some(at);
                news.push(News::Ready);
                continue;
            }
            match (before, after) {
                (false, true) => news.push(News::Trouble(observed.condition.clone())),
                (true, false) => news.push(News::Recovery(observed.condition.clone())),
                _ => {}
            }
        }
    }

    /// Auto Scaling launched this instance into a group.
    pub fn hear_launch(&mut self, group: &GroupName, zone: Option<&Zone>, at: Timestamp) {
        self.group.get_or_insert_with(|| group.clone());
        if self.zone.is_none() {
            self.zone = zone.cloned();
        }
        if self.welcomed {
            return;
        }
        let first_heard = self.first_heard;
        let arrival = self.arrival.get_or_insert_with(Arrival::default);
        arrival.launched.get_or_insert(at);
        if arrival.registered.is_none() {
            arrival.registered = first_heard;
        }
    }

    /// Its group was told so much of its arrival. Ready is the last thing to be told.
    pub fn introduced(&mut self, told: Told) {
        if let Some(arrival) = &mut self.arrival {
            arrival.told = arrival.told.max(told);
        }
        if self.arrival.take_if(|arrival| arrival.told == Told::Ready).is_some() {
            self.welcomed = true;
        }
    }

    /// The instance left.
    pub fn depart(&mut self, at: Timestamp, how: String, foreign: bool) {
        let earlier = self.departure.as_ref().is_some_and(|known| known.foreign || !foreign);
        // Who did it is worth knowing even where that it happened was known first.
        if (self.closed.is_none() || foreign) && !earlier {
            self.departure = Some(Departure { at, how, foreign });
        }
    }

    /// Whoever is heard has joined.
    fn joined(&mut self, at: Timestamp) {
        self.first_heard = Some(self.first_heard.map_or(at, |first| first.min(at)));
        if let Some(arrival) = &mut self.arrival {
            arrival.registered = Some(arrival.registered.map_or(at, |known| known.min(at)));
        }
    }

    /// A node that registers before anything else was heard of it is new; one that registers again is not.
    fn registered(&mut self, at: Timestamp) {
        if !self.welcomed && self.first_heard.is_none_or(|first| at.duration_since(first) <= CLOCKS_DIFFER) {
            self.arrival.get_or_insert_with(Arrival::default);
        }
        self.joined(at);
    }

    /// The action that is going on, if any.
    pub fn action(&self) -> Option<RepairAction> {
        self.repair.as_ref().map(|repair| repair.action)
    }
}

/// An age on the node's clock; a start after the report has none.
fn age(node_at: Timestamp, node_since: Timestamp) -> SignedDuration {
    node_at.duration_since(node_since).max(SignedDuration::ZERO)
}
