//! Turns what a case has heard into faults, each with its deadline, and into the time to look again.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Case, Condition, JoinStage, SourceState, UnhealthyReason};
use crate::{
    catalogue,
    condition::{ConditionType, Health, RepairAction, Severity},
    policy::{Policy, Remedy, Rules},
    repair::{Phase, READY_TIMEOUT, Repair},
    timestamp,
};

/// Something that is wrong with a node, or was and has yet to stay well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The condition.
    pub condition: ConditionType,
    /// Why it is bad.
    pub reason: String,
    /// The line or reading that shows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Who says so.
    pub source: Source,
    /// Bad, Unknown, or Sound while a recovery has yet to hold.
    pub health: Health,
    /// When the trouble began.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// When it counts as over, if it stays well.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub heals_at: Option<Timestamp>,
    /// What will be done.
    pub action: RepairAction,
    /// When; never, for NoAction.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The reboot of an earlier repair did not cure it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebooted: bool,
}

/// Who says that something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// The node's own agent.
    Agent,
    /// The control plane's audit log.
    ControlPlane,
    /// We ourselves, from what did not come.
    Inference,
}

impl Fault {
    /// Whether it is bad now, rather than recovering.
    pub fn is_bad(&self) -> bool {
        self.heals_at.is_none()
    }

    /// Whether it may be acted on.
    pub fn is_due(&self, now: Timestamp) -> bool {
        is_due(self.heals_at, self.deadline, now)
    }
}

fn is_due(heals_at: Option<Timestamp>, deadline: Option<Timestamp>, now: Timestamp) -> bool {
    heals_at.is_none() && deadline.is_some_and(|deadline| deadline <= now)
}

/// A fault whose words are still its case's. Every group's rules are tried on a case whose group is unknown; what is told
/// in the end is one's.
struct FaultView<'c> {
    condition: &'c ConditionType,
    reason: &'c str,
    message: Cow<'c, str>,
    source: Source,
    health: Health,
    since: Timestamp,
    heals_at: Option<Timestamp>,
    action: RepairAction,
    deadline: Option<Timestamp>,
    rebooted: bool,
}

impl<'c> FaultView<'c> {
    /// Of which a remedy takes its wait from a start.
    fn new(
        condition: &'c ConditionType,
        reason: &'c str,
        source: Source,
        health: Health,
        since: Timestamp,
        remedy: Option<(Remedy, Timestamp)>,
    ) -> Self {
        Self {
            condition,
            reason,
            message: Cow::Borrowed(""),
            source,
            health,
            since,
            heals_at: None,
            action: remedy.map_or(RepairAction::NoAction, |(remedy, _)| remedy.action),
            deadline: remedy.and_then(|(remedy, start)| start.checked_add(remedy.grace).ok()),
            rebooted: false,
        }
    }

    /// What was rebooted in vain is not rebooted again; but a reboot is given its time.
    fn escalate(&mut self, reboots_time_is_up: Timestamp) {
        if self.action == RepairAction::Reboot {
            self.action = RepairAction::Replace;
            self.deadline = self.deadline.map(|deadline| deadline.max(reboots_time_is_up));
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
            rebooted: view.rebooted,
        }
    }
}

fn told(fault_views: Vec<FaultView<'_>>) -> Vec<Fault> {
    fault_views.into_iter().map(Fault::from).collect()
}

impl Case {
    /// Everything that is wrong, the earliest deadline first.
    pub fn faults(&self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Vec<Fault> {
        told(self.fault_views(rules, policy, now))
    }

    /// Whether any may be acted on, whatever group's rules hold.
    pub fn may_be_due(&self, policy: &Policy, now: Timestamp) -> bool {
        policy.all_rules().any(|rules| {
            self.fault_views(&rules, policy, now).iter().any(|view| is_due(view.heals_at, view.deadline, now))
        })
    }

    fn fault_views<'c>(&'c self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Vec<FaultView<'c>> {
        let mut fault_views = Vec::new();
        for condition in &self.conditions {
            condition.fault_views(rules, policy.recovery_hold, now, &mut fault_views);
        }
        fault_views.extend(self.failed_to_join(rules, policy, now));
        self.promoted(rules, policy, now, &mut fault_views);
        for view in &mut fault_views {
            if let Some(time_is_up) = self.outlived_reboot(view.since, policy) {
                view.escalate(time_is_up);
            }
        }
        fault_views.sort_by_key(|view| (view.deadline.is_none(), view.deadline, view.since));
        fault_views
    }

    fn failed_to_join(&self, rules: &Rules<'_>, policy: &Policy, now: Timestamp) -> Option<FaultView<'_>> {
        let late = self.join_deadline(policy).filter(|late| *late <= now)?;
        let (condition, reason) = (&ConditionType::Ready, "FailedToJoin");
        let remedy = rules.remedy(condition, reason).map(|remedy| (remedy, late));
        let message =
            format!("no node registered within {} of the launch", timestamp::duration(policy.join_timeout));
        let view = FaultView::new(condition, reason, Source::Inference, Health::Bad, late, remedy);
        Some(FaultView { message: message.into(), ..view })
    }

    /// When a launched instance is late, while it has not registered.
    fn join_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let arrival = self.arrival.as_ref().filter(|arrival| arrival.registered.is_none())?;
        arrival.launched.and_then(|launched| launched.checked_add(policy.join_timeout).ok())
    }

    fn promoted<'c>(
        &'c self,
        rules: &Rules<'_>,
        policy: &Policy,
        now: Timestamp,
        fault_views: &mut Vec<FaultView<'c>>,
    ) {
        for promotion in &policy.promotions {
            let counter = self.counters.iter().find(|counter| *counter.reason == promotion.reason);
            let reached = counter.and_then(|counter| {
                Some((counter, counter.reached(promotion.count, promotion.window, now)?))
            });
            let Some((counter, since)) = reached else { continue };
            // The event's own default is to do nothing: the promotion says what is done, its condition when.
            let grace = rules.grace_for(&counter.condition, &counter.reason);
            let remedy = grace.map(|grace| Remedy { action: promotion.repair_action, grace });
            let remedy =
                remedy.filter(|remedy| remedy.action != RepairAction::NoAction).map(|remedy| (remedy, since));
            let (condition, reason) = (&counter.condition, &*counter.reason);
            let view = FaultView::new(condition, reason, Source::Agent, Health::Bad, since, remedy);
            fault_views.push(FaultView { message: Cow::Borrowed(&counter.message), ..view });
        }
    }

    /// Since when the agent is silent, if it is: it was heard once, and its next words are overdue.
    pub fn silence(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let first_seen = self.agent_last_seen?;
        (self.silence_due(policy)? <= now).then_some(first_seen)
    }

    fn silence_due(&self, policy: &Policy) -> Option<Timestamp> {
        self.agent_last_seen?.checked_add(policy.silence.agent_silent_after?).ok()
    }

    /// Sets the two attributes by which the store finds this case: when to look again, and why it counts
    /// among the unhealthy. Called before every write.
    pub fn plan(&mut self, policy: &Policy, now: Timestamp) {
        if self.closed.is_some() {
            // Of a call that was made, CloudTrail tells even when its instance is no more.
            (self.due, self.unhealthy_reason) = (self.next_confirmation_due(policy), None);
            return;
        }
        // A healthy node's next heartbeat is the only thing to wait for, and the commonest case.
        let faults = if self.is_quiet(policy) { Vec::new() } else { self.earliest_faults(policy, now) };
        // What a reboot did not cure may be blocked before the next boot's own clock has run out.
        if self.repair.is_none() && !faults.iter().any(|fault| fault.is_due(now)) {
            self.blocked = None;
        }
        self.due =
            self.next_look(&faults, policy, now).into_iter().chain(self.next_confirmation_due(policy)).min();
        self.unhealthy_reason = self.find_unhealthy_reason(&faults, now);
    }

    /// Nothing bad was ever heard, or not since the item was last tidied.
    fn is_quiet(&self, policy: &Policy) -> bool {
        let no_promotions = self.counters.is_empty() || policy.promotions.is_empty();
        no_promotions && self.arrival.is_none() && self.conditions.iter().all(Condition::is_quiet)
    }

    /// The faults under the rules of its group; while that is unknown, each under the hastiest rules.
    pub(super) fn earliest_faults(&self, policy: &Policy, now: Timestamp) -> Vec<Fault> {
        let earliest =
            policy.all_rules().map(|rules| self.fault_views(&rules, policy, now)).min_by_key(|fault_views| {
                fault_views.first().and_then(|first| first.deadline).unwrap_or(Timestamp::MAX)
            });
        told(earliest.unwrap_or_default())
    }

    fn next_look(&self, faults: &[Fault], policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        if let Some(repair) = &self.repair {
            let rebooting = repair.phase == Phase::Rebooting;
            // While a lease runs, and while a replacement is awaited, it changes nothing.
            let foreign = self.departure.as_ref().is_some_and(|departure| departure.foreign);
            let departed = if rebooting && foreign { Some(now) } else { None };
            let confirmed = rebooting && repair.is_confirmed();
            let cured = if confirmed { self.cured_at(repair, faults, policy) } else { None };
            let blocked = self.blocked.as_ref().map(|blocked| blocked.until);
            return repair.next_look(policy, blocked, now).into_iter().chain(departed).chain(cured).min();
        }
        if self.departure.is_some() {
            return Some(now);
        }
        let recovering = faults.iter().filter_map(|fault| fault.heals_at);
        // A blocked repair is looked at again when its block may have passed, not at its old deadline.
        let acting =
            faults.iter().filter(|fault| fault.is_bad()).filter_map(|fault| fault.deadline).map(|deadline| {
                self.blocked.as_ref().map_or(deadline, |blocked| deadline.max(blocked.until))
            });
        let arriving = self.arrival.as_ref().and_then(|arrival| match arrival.recorded {
            JoinStage::Unrecorded | JoinStage::FailedToJoin if arrival.registered.is_some() => Some(now),
            JoinStage::Registered if arrival.ready.is_some() => Some(now),
            JoinStage::Unrecorded => self.join_deadline(policy),
            // It was late by another function's clock, which is ahead of this one's.
            JoinStage::FailedToJoin => self.join_deadline(policy).filter(|late| *late > now),
            _ => None,
        });
        let silent = if self.silent_since.is_none() { self.silence_due(policy) } else { None };
        recovering.chain(acting).chain(arriving).chain(silent).min()
    }

    /// When a rebooted node counts as cured, if it stays as well as it is: a boot that began after the call says
    /// that nothing is bad, and has said so for as long as a recovery must hold. What the agent complained of,
    /// the agent must have had the chance to complain of again.
    pub fn cured_at(&self, repair: &Repair, faults: &[Fault], policy: &Policy) -> Option<Timestamp> {
        let boot = self
            .boot
            .as_ref()
            .filter(|boot| repair.effective_at().is_some_and(|called| boot.first_seen > called))?;
        let agent_spoke = boot.node_at.is_some();
        let acting = || faults.iter().filter(|fault| fault.deadline.is_some());
        if acting().any(Fault::is_bad) || repair.fault.source == Source::Agent && !agent_spoke {
            return None;
        }
        let held = boot.first_seen.checked_add(policy.recovery_hold).ok()?;
        Some(acting().filter_map(|fault| fault.heals_at).fold(held, Timestamp::max))
    }

    fn find_unhealthy_reason(&self, faults: &[Fault], now: Timestamp) -> Option<UnhealthyReason> {
        // A node that has only just registered is not unhealthy yet, or every scale-out would stop repair.
        let arriving = self
            .arrival
            .as_ref()
            .filter(|arrival| arrival.ready.is_none())
            .and_then(|arrival| arrival.registered);
        let starts = arriving.is_some_and(|at| now.duration_since(at) < READY_TIMEOUT);
        let bad = faults
            .iter()
            .filter(|fault| fault.is_bad() && fault.deadline.is_some())
            .filter(|fault| !(starts && fault.condition == ConditionType::Ready));
        let since = bad.clone().map(|fault| fault.since).min();
        let unknown = bad.clone().any(|fault| fault.health == Health::Unknown);
        if let Some(since) = since {
            let silent = unknown || self.silent_since.is_some();
            return Some(UnhealthyReason { since, silent, unhealthy: true });
        }
        if let Some(repair) = &self.repair {
            return Some(UnhealthyReason { since: repair.claimed_at, silent: false, unhealthy: true });
        }
        self.silent_since.map(|since| UnhealthyReason { since, silent: true, unhealthy: false })
    }
}

impl Condition {
    fn is_quiet(&self) -> bool {
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
        hold: SignedDuration,
        now: Timestamp,
        fault_views: &mut Vec<FaultView<'c>>,
    ) {
        let reading = match &self.state {
            SourceState::Agent { latest, .. } => Some(latest.read()),
            SourceState::ControlPlane(history) => history.read(hold),
        };
        let Some((reading, since)) = reading.and_then(|reading| Some((reading, reading.episode?))) else {
            return;
        };
        let heals_at = if reading.health.is_bad() { None } else { reading.since.checked_add(hold).ok() };
        if heals_at.is_some_and(|heals_at| heals_at <= now) {
            return;
        }
        let nameless = self.findings.is_empty().then_some(("Unknown", ""));
        let named = self.findings.iter().map(|found| (&*found.reason, &*found.message));
        for (reason, message) in named.chain(nameless) {
            let remedy = rules.remedy(&self.condition, reason);
            let (source, start) = match &self.state {
                // A new reason never sets the clock back to a later start; but reasons that nobody acts on don't start
                // the clock of one that comes to them, or takes their place.
                SourceState::Agent { acting, idle, .. } => {
                    let idled =
                        acting.zip(*idle).filter(|(acting, idle)| idle.node_since < acting.node_since);
                    (Source::Agent, Some(idled.map_or(since, |(acting, _)| acting.start.max(since))))
                }
                SourceState::ControlPlane(history) => {
                    let acted_on = |reason: &str| rules.remedy(&self.condition, reason).is_some();
                    let first = history.bad_changes(hold).find(|change| acted_on(&change.reason));
                    (Source::ControlPlane, first.map(|change| change.at).or(Some(since)))
                }
            };
            let remedy = remedy.zip(start);
            let view = FaultView::new(&self.condition, reason, source, reading.health, since, remedy);
            fault_views.push(FaultView { message: Cow::Borrowed(message), heals_at, ..view });
        }
    }
}

impl Fault {
    /// What a node would have if its kubelet fell silent now: what guards are asked about where nothing is wrong.
    pub fn hypothetical(rules: &Rules<'_>, now: Timestamp) -> Self {
        let (condition, reason) = (&ConditionType::Ready, "NodeStatusUnknown");
        let remedy = rules.remedy(condition, reason).map(|remedy| (remedy, now));
        FaultView::new(condition, reason, Source::ControlPlane, Health::Unknown, now, remedy).into()
    }

    /// What the catalogue says that this is.
    pub fn meaning(&self) -> Option<&'static str> {
        catalogue::lookup(&self.reason).map(|found| found.meaning)
    }

    /// Which of two due faults is served first where there is room for one: a node that is gone, then an
    /// accelerator, then Ready, then the rest; then the one that waits longest.
    pub fn urgency(&self) -> (u8, Timestamp) {
        let kind = match (&self.condition, self.reason.as_str()) {
            (_, "NodeDeleted" | "FailedToJoin") => 0,
            (ConditionType::AcceleratedHardwareReady, _) => 1,
            (ConditionType::Ready, _) => 2,
            _ => 3,
        };
        (kind, self.deadline.unwrap_or(Timestamp::MAX))
    }

    /// How much it weighs in the catalogue.
    pub fn severity(&self) -> Severity {
        catalogue::lookup(&self.reason).map_or(Severity::Condition, |found| found.severity)
    }
}
