//! Computes the faults of a case, each with its deadline.
//!
//! Faults are never stored, except the one that a repair was claimed for. Everything depends on the case, the rules and
//! the time alone.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Case, Condition, SourceState, promotion::Promoted};
use crate::{
    catalogue,
    clock::{ClockReading, Onset},
    condition::{ConditionType, Health, RepairAction, Severity},
    policy::{Policy, Remedy, Rules},
    timestamp,
};

/// A problem of a node: a bad condition, or one whose recovery has not held yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The condition that is bad.
    pub condition: ConditionType,
    /// The reason, as in the catalogue.
    pub reason: String,
    /// The line or reading that shows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Where it was reported.
    pub source: Source,
    /// Bad, Unknown, or Healthy while a recovery has not held yet.
    pub health: Health,
    /// When its episode began, by our clock.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// When it counts as recovered, if it stays healthy. None while it is bad.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub heals_at: Option<Timestamp>,
    /// The repair action.
    pub action: RepairAction,
    /// The end of its grace period. None for NoAction.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// When the first report of it arrived, by our clock.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Timestamp>,
    /// The reboot of an earlier repair did not cure it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebooted: bool,
}

/// Where a fault was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// The node's own agent.
    Agent,
    /// The control plane's audit log.
    ControlPlane,
    /// Nowhere: it follows from a report that did not arrive.
    Inference,
    /// Nowhere: a person asks for the repair.
    Operator,
}

impl Fault {
    /// Whether it is bad now, rather than recovering.
    pub fn is_bad(&self) -> bool {
        self.heals_at.is_none()
    }

    /// When and by whom its repair was requested. Only for a fault of an operator.
    pub fn requested(&self) -> String {
        format!("requested at {} by {}", timestamp::seconds(self.since), self.message)
    }

    /// Whether it is bad and its grace period is over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        is_due(self.heals_at, self.deadline, now)
    }
}

fn is_due(heals_at: Option<Timestamp>, deadline: Option<Timestamp>, now: Timestamp) -> bool {
    heals_at.is_none() && deadline.is_some_and(|deadline| deadline <= now)
}

/// A fault that borrows from its case. While the group of a case is unknown, faults are computed under the rules of
/// every group, and only those of one are copied.
pub(super) struct FaultView<'c> {
    condition: &'c ConditionType,
    reason: &'c str,
    message: Cow<'c, str>,
    source: Source,
    health: Health,
    since: Timestamp,
    heals_at: Option<Timestamp>,
    action: RepairAction,
    deadline: Option<Timestamp>,
    arrived: Option<Timestamp>,
    rebooted: bool,
}

/// The repair of a fault that has a remedy.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    action: RepairAction,
    deadline: Option<Timestamp>,
    arrived: Timestamp,
}

impl Planned {
    /// A repair that waits for the grace period and the settling time since the onset.
    fn of(remedy: Remedy, onset: Onset, settling: SignedDuration) -> Self {
        let deadline = onset.deadline(remedy.grace, settling);
        Self { action: remedy.action, deadline, arrived: onset.arrived }
    }

    /// A repair that is due as soon as it is asked for.
    pub(super) fn at_once(action: RepairAction, at: Timestamp) -> Self {
        Self { action, deadline: Some(at), arrived: at }
    }
}

impl<'c> FaultView<'c> {
    pub(super) fn new(
        condition: &'c ConditionType,
        reason: &'c str,
        source: Source,
        health: Health,
        since: Timestamp,
        planned: Option<Planned>,
    ) -> Self {
        Self {
            condition,
            reason,
            message: Cow::Borrowed(""),
            source,
            health,
            since,
            heals_at: None,
            action: planned.map_or(RepairAction::NoAction, |planned| planned.action),
            deadline: planned.and_then(|planned| planned.deadline),
            arrived: planned.map(|planned| planned.arrived),
            rebooted: false,
        }
    }

    pub(super) fn with_message(self, message: String) -> Self {
        Self { message: message.into(), ..self }
    }

    /// The action is the promotion's. The grace period is that of its reason or condition; a condition that is never
    /// repaired has none, and is given that of Ready.
    fn promoted(promoted: Promoted<'c>, rules: &Rules<'_>, policy: &Policy) -> Self {
        let Promoted { condition, reason, source, healthy, reached, action, message } = promoted;
        let grace =
            rules.wait_for(condition, reason).or_else(|| catalogue::default_grace(&ConditionType::Ready));
        let planned = grace
            .filter(|_| action != RepairAction::NoAction)
            .map(|grace| Planned::of(Remedy { action, grace }, reached.onset, policy.settling_time));
        let health = if healthy { Health::Healthy } else { Health::Bad };
        let view = Self::new(condition, reason, source, health, reached.onset.since, planned);
        Self { message, heals_at: healthy.then_some(reached.until), ..view }
    }

    /// A fault that a reboot did not cure is not rebooted again. It is replaced after the timeout of that reboot.
    fn escalate(&mut self, reboot_timeout: Timestamp) {
        if self.action == RepairAction::Reboot {
            self.action = RepairAction::Replace;
            self.deadline = self.deadline.map(|deadline| deadline.max(reboot_timeout));
            self.rebooted = true;
        }
    }
}

impl From<FaultView<'_>> for Fault {
    fn from(view: FaultView<'_>) -> Self {
        Self {
            condition: view.condition.clone(),
            reason: view.reason.to_owned(),
            message: view.message.into_owned(),
            source: view.source,
            health: view.health,
            since: view.since,
            heals_at: view.heals_at,
            action: view.action,
            deadline: view.deadline,
            arrived: view.arrived,
            rebooted: view.rebooted,
        }
    }
}

fn into_faults(fault_views: Vec<FaultView<'_>>) -> Vec<Fault> {
    fault_views.into_iter().map(Fault::from).collect()
}

impl Case {
    /// Its faults, the earliest deadline first.
    pub fn faults(&self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Vec<Fault> {
        into_faults(self.fault_views(rules, policy, now))
    }

    /// Whether a fault is due under the rules of any group.
    pub fn may_be_due(&self, policy: &Policy, now: Timestamp) -> bool {
        policy.all_rules().any(|rules| {
            self.fault_views(&rules, policy, now).iter().any(|view| is_due(view.heals_at, view.deadline, now))
        })
    }

    fn fault_views<'c>(&'c self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Vec<FaultView<'c>> {
        let mut fault_views = Vec::new();
        if self.is_warm() {
            return fault_views;
        }
        for condition in &self.conditions {
            condition.fault_views(rules, policy, now, &mut fault_views);
        }
        fault_views.extend(self.failed_to_join(rules, policy, now));
        fault_views
            .extend(self.promoted(policy, now).map(|promoted| FaultView::promoted(promoted, rules, policy)));
        for view in &mut fault_views {
            if let Some(reboot_timeout) = self.failed_reboot_timeout(view.since, policy) {
                view.escalate(reboot_timeout);
            }
        }
        fault_views.extend(self.requested(now));
        fault_views.sort_by_key(|view| (view.deadline.is_none(), view.deadline, view.since));
        fault_views
    }

    fn failed_to_join(&self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Option<FaultView<'_>> {
        let late = self.join_deadline(policy).filter(|late| *late <= now)?;
        let (condition, reason) = (&ConditionType::Ready, "FailedToJoin");
        let arrived = self.arrival.as_ref().and_then(|arrival| arrival.arrived).unwrap_or(late);
        let onset = Onset { since: late, counts_from: late, arrived };
        let remedy = rules.remedy(condition, reason);
        let planned = remedy.map(|remedy| Planned::of(remedy, onset, policy.settling_time));
        let message =
            format!("no node registered within {} of the launch", timestamp::duration(policy.join_timeout));
        let view = FaultView::new(condition, reason, Source::Inference, Health::Bad, late, planned);
        Some(view.with_message(message))
    }

    /// When a launched instance counts as failed to join, while it has not registered. None if the policy lets it take
    /// forever.
    pub(super) fn join_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        if policy.join_timeout.is_zero() {
            return None;
        }
        let arrival = self.arrival.as_ref().filter(|arrival| arrival.registered.is_none())?;
        arrival.launched.and_then(|launched| launched.checked_add(policy.join_timeout).ok())
    }

    /// The faults under the rules with the earliest deadline, among the rules of all groups: a case does not know the
    /// tags of its group.
    pub(super) fn earliest_faults(&self, policy: &Policy, now: Timestamp) -> Vec<Fault> {
        let earliest =
            policy.all_rules().map(|rules| self.fault_views(&rules, policy, now)).min_by_key(|fault_views| {
                fault_views.first().and_then(|first| first.deadline).unwrap_or(Timestamp::MAX)
            });
        into_faults(earliest.unwrap_or_default())
    }
}

impl Condition {
    pub(super) fn reading(&self, hold: SignedDuration) -> Option<ClockReading> {
        match &self.state {
            SourceState::Agent { latest, .. } => Some(latest.read()),
            SourceState::ControlPlane(history) => history.read(hold),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        match &self.state {
            SourceState::Agent { latest, .. } => latest.read().episode.is_none(),
            SourceState::ControlPlane(history) => {
                history.read(SignedDuration::ZERO).is_none_or(|r| r.episode.is_none())
            }
        }
    }

    fn fault_views<'c>(
        &'c self,
        rules: &Rules<'_>,
        policy: &Policy,
        now: Timestamp,
        fault_views: &mut Vec<FaultView<'c>>,
    ) {
        let hold = policy.recovery_hold;
        let reading = self.reading(hold);
        let Some((reading, episode)) = reading.and_then(|reading| Some((reading, reading.episode?))) else {
            return;
        };
        let heals_at = if reading.health.is_bad() { None } else { reading.since.checked_add(hold).ok() };
        if heals_at.is_some_and(|heals_at| heals_at <= now) {
            return;
        }
        let without_finding = self.findings.is_empty().then_some(("Unknown", ""));
        let named = self.findings.iter().map(|found| (&*found.reason, &*found.message));
        for (reason, message) in named.chain(without_finding) {
            let remedy = rules.remedy(&self.condition, reason);
            let (source, onset) = match &self.state {
                // A new reason does not restart the grace period. But a reason without an action does not start it for
                // a later reason with one.
                SourceState::Agent { acting, idle, .. } => {
                    // By the node's clock, which may have stepped back, or by ours.
                    let idled = acting.zip(*idle).filter(|(acting, idle)| {
                        idle.node_since < acting.node_since || idle.onset.arrived < acting.onset.arrived
                    });
                    (Source::Agent, idled.map_or(episode, |(acting, _)| acting.onset.max(episode)))
                }
                SourceState::ControlPlane(history) => {
                    let acted_on = |reason: &str| rules.remedy(&self.condition, reason).is_some();
                    (Source::ControlPlane, history.onset_of(hold, acted_on).unwrap_or(episode))
                }
            };
            let planned = remedy.map(|remedy| Planned::of(remedy, onset, policy.settling_time));
            let (health, since) = (reading.health, episode.since);
            let view = FaultView::new(&self.condition, reason, source, health, since, planned);
            fault_views.push(FaultView { message: Cow::Borrowed(message), heals_at, ..view });
        }
    }
}

impl Fault {
    /// The fault that a node would have if its kubelet stopped reporting now. `nodemend explain` evaluates the guards
    /// with it for a healthy node.
    pub fn hypothetical(rules: &Rules<'_>, now: Timestamp) -> Self {
        let (condition, reason) = (&ConditionType::Ready, "NodeStatusUnknown");
        let remedy = rules.remedy(condition, reason);
        let planned = remedy.map(|remedy| Planned::of(remedy, Onset::at(now), SignedDuration::ZERO));
        FaultView::new(condition, reason, Source::ControlPlane, Health::Unknown, now, planned).into()
    }

    /// What its reason means, from the catalogue.
    pub fn meaning(&self) -> Option<&'static str> {
        catalogue::lookup(&self.reason).map(|found| found.meaning)
    }

    /// The order in which due faults get the slots of a group, least first: nodes that are gone, accelerators, Ready,
    /// all others; then the earliest deadline.
    pub fn urgency(&self) -> (u8, Timestamp) {
        let kind = match (&self.condition, self.reason.as_str()) {
            (_, "NodeDeleted" | "FailedToJoin") => 0,
            (ConditionType::AcceleratedHardwareReady, _) => 1,
            (ConditionType::Ready, _) => 2,
            _ => 3,
        };
        (kind, self.deadline.unwrap_or(Timestamp::MAX))
    }

    /// The severity of its reason in the catalogue; Condition for an unknown one.
    pub fn severity(&self) -> Severity {
        catalogue::lookup(&self.reason).map_or(Severity::Condition, |found| found.severity)
    }
}
