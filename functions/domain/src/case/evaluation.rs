//! When a case is evaluated next, and why it counts among its cluster's unhealthy nodes: the two attributes by which the
//! store finds it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Case, Condition, CountedFault, Departure, Fault, Repair, Source, SourceState, UnhealthyReason};
use crate::{
    condition::{ConditionType, Health, Severity},
    decide::RETRY,
    policy::Policy,
    repair::{Phase, READY_TIMEOUT},
};

/// How many faults of a node its index entry lists.
const MAX_COUNTED_FAULTS: usize = 16;

impl Case {
    /// Since when the agent is silent, if it is: it has reported before, and its next report is overdue.
    pub fn silence(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let last_seen = self.agent_last_seen.filter(|_| !self.is_warm())?;
        (self.silence_due(policy)? <= now).then_some(last_seen)
    }

    fn silence_due(&self, policy: &Policy) -> Option<Timestamp> {
        self.agent_last_seen.filter(|_| !self.is_warm())?.checked_add(policy.silence.agent_silent_after?).ok()
    }

    /// Sets the two attributes by which the store finds this case: the time of its next evaluation, and why it counts
    /// as unhealthy. Called before every write.
    pub fn plan(&mut self, policy: &Policy, now: Timestamp) {
        if self.closed.is_some() {
            // CloudTrail's events of its calls are still awaited, and the repair of another node may await its join.
            let join = self.join_to_record(policy, now).map(|_| now);
            let reported = self.reported_after_its_end().map(|_| now);
            self.due = join.into_iter().chain(reported).chain(self.next_confirmation_due(policy)).min();
            self.unhealthy_reason = None;
            return;
        }
        if self.request.is_some() && self.request(now).is_none() {
            self.request = None;
        }
        // The most frequent case, so a fast path: a healthy node, whose next heartbeat is awaited.
        let faults = if self.is_quiet(policy) { Vec::new() } else { self.earliest_faults(policy, now) };
        // A repair stays blocked while its case has one: an escalated fault can be blocked before its own deadline.
        if self.repair.is_none() && !faults.iter().any(|fault| fault.is_due(now)) {
            self.blocked = None;
        }
        self.due = self
            .next_evaluation(&faults, policy, now)
            .into_iter()
            .chain(self.next_confirmation_due(policy))
            .min();
        self.unhealthy_reason = self.find_unhealthy_reason(&faults, policy, now);
    }

    /// Whether it certainly has no faults: no condition is in an episode, nothing is promoted, no arrival is recorded.
    fn is_quiet(&self, policy: &Policy) -> bool {
        let has_history = |known: &Condition| matches!(known.state, SourceState::ControlPlane(_));
        let no_promotions = policy.promotions.is_empty()
            || (self.counters.is_empty() && !self.conditions.iter().any(has_history));
        no_promotions
            && self.request.is_none()
            && self.arrival.is_none()
            && self.conditions.iter().all(Condition::is_quiet)
    }

    fn next_evaluation(&self, faults: &[Fault], policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let join = self.join_to_record(policy, now).map(|_| now);
        if let Some(repair) = &self.repair {
            let rebooting = repair.phase == Phase::Rebooting;
            // A termination by another caller ends only a reboot early. While a lease runs, or a replacement is awaited, it
            // does not.
            let certain = self.departure.as_ref().is_some_and(|departure| departure.is_certain());
            let deleted = self.unrecorded_node_deletion().is_some();
            let departed = if rebooting && (certain || deleted) { Some(now) } else { None };
            let confirmed = rebooting && repair.is_confirmed();
            let cured = if confirmed { self.cured_at(repair, faults, policy) } else { None };
            let failed = if rebooting { self.reboot_failed_at(repair, policy) } else { None };
            let blocked = self.blocked.as_ref().map(|blocked| blocked.until);
            let failed = failed.map(|failed| blocked.map_or(failed, |until| failed.max(until)));
            // Without CloudTrail's event of its call it is evaluated when that arrives, or is overdue.
            let waits =
                repair.replacement().is_some() && !self.awaits_ready(repair) && !repair.is_confirmed();
            let late = if waits { None } else { self.replacement_deadline(repair, policy) };
            return repair
                .next_evaluation(now, late)
                .into_iter()
                .chain(failed)
                .chain(join)
                .chain(departed)
                .chain(cured)
                .min();
        }
        let contradicted = self.departure.as_ref().is_some_and(Departure::is_contradicted);
        if self.departure.is_some() && !contradicted {
            // Auto Scaling can still have the instance in service, and a guard block its repair.
            return Some(self.blocked.as_ref().map_or(now, |blocked| blocked.until.max(now)));
        }
        let recovering = faults.iter().filter_map(|fault| fault.heals_at);
        // A blocked repair is evaluated again when its block may have ended, not at its old deadline.
        let acting =
            faults.iter().filter(|fault| fault.is_bad()).filter_map(|fault| fault.deadline).map(|deadline| {
                self.blocked.as_ref().map_or(deadline, |blocked| deadline.max(blocked.until))
            });
        // Another function whose clock is ahead can have recorded the failure already: the fault begins by ours.
        let arriving = self.join_deadline(policy).filter(|late| *late > now);
        let silent = if self.silent_since.is_none() { self.silence_due(policy) } else { None };
        // Its place among the unhealthy nodes changes with time alone, too.
        let starting = self.start_timeout().filter(|timeout| *timeout > now);
        let recovered =
            self.recovered(policy, now).and_then(|at| at.checked_add(policy.outage.cooldown).ok());
        // Auto Scaling still had the instance: it may have been about to lose it.
        let asked_again = contradicted.then(|| now + RETRY);
        recovering
            .chain(acting)
            .chain(asked_again)
            .chain(join)
            .chain(arriving)
            .chain(silent)
            .chain(starting)
            .chain(recovered)
            .min()
    }

    /// When a rebooted node counts as cured, if it stays as it is: nothing has been bad for the recovery hold in a boot
    /// that began after the call. If the agent reported the fault, it must also have reported from the new boot.
    pub fn cured_at(&self, repair: &Repair, faults: &[Fault], policy: &Policy) -> Option<Timestamp> {
        let boot = self
            .boot
            .as_ref()
            .filter(|boot| repair.effective_at().is_some_and(|called| boot.first_seen > called))?;
        let agent_reported = boot.node_at.is_some();
        let acting = || faults.iter().filter(|fault| fault.deadline.is_some());
        if acting().any(Fault::is_bad) || repair.fault.source == Source::Agent && !agent_reported {
            return None;
        }
        // A report of the new boot about what was bad before it may still arrive.
        let healthy_since = self.latest_reports().map(|latest| latest.read().since).max();
        let healthy_since = healthy_since.map_or(boot.first_seen, |since| since.max(boot.first_seen));
        let held = healthy_since.checked_add(policy.recovery_hold).ok()?;
        Some(acting().filter_map(|fault| fault.heals_at).fold(held, Timestamp::max))
    }

    /// Whether a replacement counts only when its node is Ready. Where the control plane has never reported this node, nobody
    /// would report that: then it counts when it has registered.
    pub fn awaits_ready(&self, repair: &Repair) -> bool {
        repair.replacement().is_none_or(|new| new.ready.is_none()) && self.is_named_by_the_control_plane()
    }

    /// When the replacement is late that the repair awaits: the policy's `replacementTimeout` after the call, and never
    /// sooner than a node may take to become Ready once it has registered.
    pub fn replacement_deadline(&self, repair: &Repair, policy: &Policy) -> Option<Timestamp> {
        let late = repair.effective_at()?.checked_add(policy.replacement_timeout).ok()?;
        let Some(new) = repair.replacement() else { return Some(late) };
        let ready_by = new.registered.checked_add(READY_TIMEOUT).ok()?;
        Some(if self.awaits_ready(repair) { late.max(ready_by) } else { ready_by })
    }

    /// When a reboot has failed that did not cure the node by then. An agent that reported the fault, and has not reported
    /// from the new boot yet, gets the settling time for that from the first sign of the boot: a slow reboot would
    /// otherwise leave it seconds. And so does the kubelet, unless the agent has reported from the new boot that the fault is
    /// still there.
    pub fn reboot_failed_at(&self, repair: &Repair, policy: &Policy) -> Option<Timestamp> {
        let called = repair.effective_at()?;
        let timeout = called.checked_add(policy.reboot_timeout).ok()?;
        let of_agent = repair.fault.source == Source::Agent;
        let still_bad = |known: &Condition| match &known.state {
            SourceState::Agent { latest, .. } => {
                known.condition == repair.fault.condition && latest.read().health.is_bad()
            }
            SourceState::ControlPlane(_) => false,
        };
        let unreported = self.boot.as_ref().filter(|boot| {
            let awaits_agent = of_agent && boot.node_at.is_none();
            let has_failed = of_agent && self.conditions.iter().any(still_bad);
            let awaits_kubelet = !boot.attested && !has_failed;
            boot.first_seen > called && (awaits_agent || awaits_kubelet)
        });
        let reported_by = unreported.and_then(|boot| boot.first_seen.checked_add(policy.settling_time).ok());
        Some(reported_by.map_or(timeout, |by| timeout.max(by)))
    }

    /// Why it counts among its cluster's unhealthy nodes. A fault counts until its recovery has held: the last nodes that
    /// come back after an outage must not look like the only ones that are unhealthy.
    fn find_unhealthy_reason(
        &self,
        faults: &[Fault],
        policy: &Policy,
        now: Timestamp,
    ) -> Option<UnhealthyReason> {
        let is_starting = self.start_timeout().is_some_and(|timeout| now < timeout);
        // Terminated, and its replacement is Ready: CloudTrail's event is all that it waits for.
        if self.is_replaced() {
            return None;
        }
        let acting = faults.iter().filter(|fault| fault.deadline.is_some());
        let (starting, counted): (Vec<&Fault>, Vec<&Fault>) =
            acting.partition(|fault| is_starting && fault.condition == ConditionType::Ready);
        let unreachable = counted.iter().filter(|fault| fault.health == Health::Unknown);
        let unreachable_since = unreachable.map(|fault| fault.since).min();
        let silent_since = unreachable_since.or(self.silent_since);
        let recovered = self.recovered(policy, now);
        let reason = UnhealthyReason {
            since: now,
            silent: silent_since.is_some(),
            unhealthy: true,
            silent_since,
            agent_reports: unreachable_since.is_some()
                && self.agent_last_seen.is_some()
                && self.silent_since.is_none()
                && self.silence(policy, now).is_none(),
            repairing: self.repair.is_some(),
            reason: counted.first().map(|fault| fault.reason.clone()),
            recovered,
            counts_from: None,
            faults: self.counted_faults(faults, policy, now),
        };
        if let Some(since) = counted.iter().map(|fault| fault.since).min() {
            return Some(UnhealthyReason { since, ..reason });
        }
        if let Some(repair) = &self.repair {
            return Some(UnhealthyReason { since: repair.claimed_at, ..reason });
        }
        // Nobody may write this case again before its time to become Ready is over.
        if let Some(fault) = starting.iter().min_by_key(|fault| fault.since) {
            let counts_from = self.start_timeout();
            return Some(UnhealthyReason {
                since: fault.since,
                reason: Some(fault.reason.clone()),
                counts_from,
                ..reason
            });
        }
        let since = self.silent_since.or(recovered)?;
        Some(UnhealthyReason { since, unhealthy: false, ..reason })
    }

    /// Its faults under the rules of all groups, where these differ.
    fn counted_faults(&self, faults: &[Fault], policy: &Policy, now: Timestamp) -> Vec<CountedFault> {
        if faults.is_empty() || policy.all_rules().nth(1).is_none() {
            return Vec::new();
        }
        let promoted = |fault: &Fault| fault.severity() == Severity::Event;
        let all: BTreeSet<CountedFault> = policy
            .all_rules()
            .flat_map(|rules| self.faults(&rules, policy, now))
            .filter(|fault| fault.deadline.is_some())
            .map(|fault| CountedFault {
                promoted: promoted(&fault),
                condition: fault.condition,
                reason: fault.reason,
            })
            .collect();
        all.into_iter().take(MAX_COUNTED_FAULTS).collect()
    }

    /// Whether its repair has terminated it, and its replacement is Ready.
    pub(super) fn is_replaced(&self) -> bool {
        self.repair.as_ref().is_some_and(|repair| {
            repair.phase == Phase::Confirming
                && repair.replacement.as_ref().is_some_and(|new| new.ready.is_some())
        })
    }

    /// Until when a node that has just registered does not count as unhealthy for not being Ready: otherwise every
    /// scale-out would block repairs.
    fn start_timeout(&self) -> Option<Timestamp> {
        let arrival = self.arrival.as_ref().filter(|arrival| arrival.ready.is_none())?;
        arrival.registered?.checked_add(READY_TIMEOUT).ok()
    }

    /// When its latest recovery began, while that is recent. A new node that becomes Ready has not recovered.
    fn recovered(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let recovery = |condition: &Condition| {
            let reading = condition.reading(policy.recovery_hold)?;
            (reading.episode.is_some() && !reading.health.is_bad()).then_some(reading.since)
        };
        let latest = self.conditions.iter().filter_map(recovery).max()?;
        (now.duration_since(latest) < policy.outage.cooldown).then_some(latest)
    }
}
