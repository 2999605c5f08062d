//! Applies an agent's reports to the case of its node.
//!
//! Reports are fenced by boot: one from an earlier boot changes nothing, and the first one of a new boot ends what the
//! old boot reported. Within a boot, the highest `seq` wins, whatever the order of arrival.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Boot, Case, CaseEvent, Condition, EventCounter, Found, MAX_COUNTER_BYTES, MAX_COUNTERS, MAX_OLD_BOOTS,
    OldBoot, SourceState, notice::is_announced,
};
use crate::{
    clock::{ConditionReport, LatestReport, NodeOnset, NodeTime, Recency},
    condition::{ConditionType, Health, Polarity, Severity},
    ident::BootId,
    policy::{Policy, Promotion},
    report::{Body, ConditionState, Finding, Report},
};

impl Case {
    /// Applies an agent's report, which arrived at `arrival` by our clock. Returns what it changed.
    pub fn apply_report(
        &mut self,
        report: &Report<'_>,
        arrival: Timestamp,
        policy: &Policy,
    ) -> Vec<CaseEvent> {
        let mut events = Vec::new();
        if !self.accepts_boot(report, arrival, &mut events) {
            return Vec::new();
        }
        self.account.clone_from(&policy.account);
        self.note_sign_of_life(arrival);
        // A node can claim any name: the latest claim counts, until the control plane has reported on the node.
        let reported_by_the_control_plane = self.is_named_by_the_control_plane()
            || self.conditions.iter().any(|known| matches!(known.state, SourceState::ControlPlane(_)));
        if self.node.is_none() || !reported_by_the_control_plane {
            self.node = Some(report.node.clone());
        }
        if self.zone.is_none() {
            self.zone.clone_from(&report.zone);
        }
        if self.agent_last_seen.is_none_or(|last_seen| arrival > last_seen) {
            self.agent_last_seen = Some(arrival);
            if self.silent_since.take().is_some() {
                events.push(CaseEvent::AgentReporting);
            }
        }
        self.joined(arrival);
        match &report.body {
            Body::Condition(state) => self.apply_state(report, state, arrival, policy, &mut events),
            Body::Heartbeat(states) => {
                for state in states {
                    self.apply_state(report, state, arrival, policy, &mut events);
                }
            }
            Body::Event { condition, findings } => {
                for finding in findings {
                    self.apply_event(report, condition, finding, arrival, &mut events);
                }
            }
        }
        // What is reported about an instance that is gone is published once AWS has it after all.
        if self.closed.is_some() { Vec::new() } else { events }
    }

    /// Whether the report is from the current boot, or the first from a newer one. The node's own clock decides which
    /// boot is newer.
    fn accepts_boot(&mut self, report: &Report<'_>, arrival: Timestamp, events: &mut Vec<CaseEvent>) -> bool {
        let made_up = |latest: &LatestReport| latest.is_made_up(report.seq, report.at);
        let newest = if self.latest_reports().any(made_up) { None } else { self.newest_seq() };
        let is_present = self.boot.as_ref().is_some_and(|boot| boot.id == report.boot_id);
        let mut written = if is_present {
            self.node_clock.note_report(report.seq, report.at, arrival);
            NodeTime::of_report(report.seq, report.at, arrival, &self.node_clock)
        } else {
            self.node_clock.note(report.at, arrival);
            NodeTime::new(report.at, arrival, &self.node_clock)
        };
        if let Some(boot) = self.boot.as_mut().filter(|_| is_present)
            && let Some(before) = boot.node_at.filter(|known| written.reads_earlier_than(*known))
            && let Some(newest) = newest.filter(|newest| report.seq > *newest)
        {
            self.node_clock.step_back((newest, before), report.seq, report.at, arrival);
            written = NodeTime::of_report(report.seq, report.at, arrival, &self.node_clock);
            boot.node_at = Some(written);
        }
        if let Some(boot) = self.boot.as_mut().filter(|_| is_present) {
            boot.first_seen = boot.first_seen.min(arrival);
            if boot.node_at.is_none_or(|known| written.is_after(known)) {
                boot.node_at = Some(written);
            }
            return true;
        }
        let newer =
            self.boot.as_ref().is_none_or(|boot| boot.node_at.is_none_or(|known| written.is_after(known)));
        // The reports of an earlier boot can be late. It is the present one again only if it reports after the boot that
        // took its place, as the real agent does after a report with a made-up boot id. No kubelet attests that one.
        let earlier = self.old_boots.iter().find(|old| old.id == report.boot_id);
        // What was written before the clock stepped back looks newer than the present boot; its number does not.
        let returns = earlier.is_some_and(|old| old.newest_seq.is_none_or(|newest| report.seq > newest))
            && written.is_plausible()
            && self.boot.as_ref().is_some_and(|boot| boot.node_at.is_some() && !boot.attested);
        if !newer || earlier.is_some() && !returns {
            return false;
        }
        self.begin_boot(report.boot_id.clone(), arrival, Some(written), events);
        true
    }

    /// Whether a report has something that this case does not know: it is of another boot, or newer than the
    /// newest report of a condition.
    pub fn is_news(&self, report: &Report<'_>) -> bool {
        let same_boot = self.boot.as_ref().is_some_and(|boot| boot.id == report.boot_id);
        let states = match &report.body {
            Body::Condition(state) => std::slice::from_ref(state),
            Body::Heartbeat(states) => states.as_slice(),
            Body::Event { .. } => return !same_boot || self.newest_seq().is_none_or(|seq| report.seq > seq),
        };
        let latest = |state: &ConditionState<'_>| {
            self.conditions.iter().find_map(|known| match &known.state {
                SourceState::Agent { latest, .. } if known.condition == state.condition => Some(latest),
                _ => None,
            })
        };
        // One report can be of one condition alone: its number proves nothing about the others.
        let is_news = |state: &ConditionState<'_>| {
            latest(state).is_none_or(|latest| latest.can_be_before(report.seq, report.at))
        };
        !same_boot || states.iter().any(is_news)
    }

    /// Whether another boot than the present one has the condition healthy, in these reports in the order in which CloudWatch
    /// Logs received them: in the newest from a boot that this case knows nothing of, or in the last of them all. A node
    /// whose clock is ahead after a reboot is not believed before its second report, and an old boot may go on after a
    /// made-up one; the node must not end for that. A boot before the present one, which the API server attests, is over, known
    /// or made up.
    pub fn is_healthy_in_another_boot<'r>(
        &self,
        condition: &ConditionType,
        reports: impl Iterator<Item = Report<'r>>,
    ) -> bool {
        let is_present = |boot: &BootId| self.boot.as_ref().is_some_and(|known| known.id == *boot);
        let is_known = |boot: &BootId| is_present(boot) || self.old_boots.iter().any(|old| old.id == *boot);
        let health = |report: &Report<'_>| {
            let states = match &report.body {
                Body::Condition(state) => std::slice::from_ref(state),
                Body::Heartbeat(states) => states.as_slice(),
                Body::Event { .. } => &[],
            };
            let state = states.iter().find(|state| state.condition == *condition)?;
            Some(state.status.health(condition.polarity().unwrap_or(Polarity::TrueIsGood)))
        };
        let reports: Vec<_> =
            reports.filter_map(|report| health(&report).map(|health| (report, health))).collect();
        let unknown = reports.iter().filter(|(report, _)| !is_known(&report.boot_id));
        let newest =
            unknown.max_by_key(|(report, _)| report.seq).filter(|_| !self.began_after_others(&reports));
        let last = reports.last().filter(|(report, _)| !is_present(&report.boot_id));
        newest.into_iter().chain(last).any(|(_, health)| *health == Health::Healthy)
    }

    /// Whether the present boot, which the API server attests, began after any that is not known: all of its reports are newer
    /// than theirs. An agent that sends what it had kept of the boot before does not look so.
    fn began_after_others(&self, reports: &[(Report<'_>, Health)]) -> bool {
        let Some(boot) = self.boot.as_ref().filter(|boot| boot.attested) else { return false };
        let is_present = |(report, _): &(Report<'_>, Health)| report.boot_id == boot.id;
        let is_old = |report: &Report<'_>| self.old_boots.iter().any(|old| old.id == report.boot_id);
        let last = reports.iter().rposition(|one| !is_present(one) && !is_old(&one.0));
        let first = reports.iter().position(is_present);
        first.is_some_and(|first| last.is_none_or(|last| last < first))
    }

    /// The highest number of a report that it knows of this boot.
    fn newest_seq(&self) -> Option<u64> {
        self.latest_reports().map(LatestReport::seq).max()
    }

    pub(super) fn latest_reports(&self) -> impl Iterator<Item = &LatestReport> {
        self.conditions.iter().filter_map(|condition| match &condition.state {
            SourceState::Agent { latest, .. } => Some(&**latest),
            SourceState::ControlPlane(_) => None,
        })
    }

    pub(super) fn begin_boot(
        &mut self,
        id: BootId,
        first_seen: Timestamp,
        node_at: Option<NodeTime>,
        events: &mut Vec<CaseEvent>,
    ) {
        self.old_boots.retain(|old| old.id != id);
        let newest_seq = self.newest_seq();
        if let Some(old) = self.boot.replace(Boot { id, first_seen, node_at, attested: node_at.is_none() }) {
            events.push(CaseEvent::Rebooted);
            self.node_clock.begin_boot();
            self.old_boots.push(OldBoot { id: old.id, newest_seq });
            if self.old_boots.len() > MAX_OLD_BOOTS {
                self.old_boots.remove(0);
            }
            // What the old boot reported ends with it. Its episode does not continue in the new boot: otherwise the
            // case would depend on whether the old reports or the new ones arrived first.
            self.conditions.retain(|condition| !matches!(condition.state, SourceState::Agent { .. }));
        }
    }

    fn apply_state(
        &mut self,
        report: &Report<'_>,
        state: &ConditionState<'_>,
        arrival: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) {
        for finding in state.findings.iter().filter(|finding| finding.severity == Severity::Event) {
            self.apply_event(report, &state.condition, finding, arrival, events);
        }
        let reported = ConditionReport {
            seq: report.seq,
            health: state.status.health(state.condition.polarity().unwrap_or(Polarity::TrueIsGood)),
            node_since: state.since,
            node_at: report.at,
            clock: self.node_clock,
            healthy_before: state
                .sound_secs
                .and_then(|secs| i64::try_from(secs).ok())
                .map(SignedDuration::from_secs),
            arrival,
            seen_since: self.boot.as_ref().map_or(arrival, |boot| boot.first_seen),
        };
        let found: Vec<&Finding<'_>> =
            state.findings.iter().filter(|finding| finding.severity == Severity::Condition).collect();
        for finding in found.iter().filter(|_| reported.health.is_bad()) {
            let promotes = |promotion: &Promotion| promotion.reason == *finding.reason;
            if policy.promotions.iter().any(promotes) {
                // However long it lasts, it became bad once.
                let once = Finding { last: finding.since, count: 1, ..(*finding).clone() };
                self.count(report, &state.condition, &once, arrival, true);
            }
        }
        let index = self.conditions.iter().position(|known| {
            known.condition == state.condition && matches!(known.state, SourceState::Agent { .. })
        });
        let (index, before, noted, known_fault) = match index {
            Some(index) => {
                let SourceState::Agent { latest, acting, idle } = &mut self.conditions[index].state else {
                    return;
                };
                let (before, fault) = (latest.health(), latest.fault_arrived());
                let noted = latest.note(reported, policy.recovery_hold);
                let same_fault = latest.fault_arrived() == fault;
                if !same_fault {
                    // Of another fault, whatever the node's clock shows.
                    (*acting, *idle) = (None, None);
                }
                (index, before, noted, same_fault)
            }
            None if !self.has_room_for(&state.condition, true) => return,
            None => {
                let latest = Box::new(LatestReport::first(reported));
                self.conditions.push(Condition {
                    condition: state.condition.clone(),
                    state: SourceState::Agent { latest, acting: None, idle: None },
                    findings: Arc::default(),
                });
                (self.conditions.len() - 1, Health::Healthy, Recency::Newest, false)
            }
        };
        let known = &mut self.conditions[index];
        let SourceState::Agent { latest, acting, idle } = &mut known.state else {
            return;
        };
        // A late report about an earlier episode does not count for the current one.
        if reported.health.is_bad()
            && let Some(episode) = latest.episode_of(&reported)
        {
            let has_remedy = |reason: &str| {
                policy.all_rules().any(|rules| rules.remedy(&state.condition, reason).is_some())
            };
            let earliest = |wanted: bool| {
                let matching = found.iter().filter(|finding| has_remedy(&finding.reason) == wanted);
                matching.map(|finding| reported.onset_of(finding.since)).reduce(NodeOnset::min)
            };
            let without_finding = if found.is_empty() { Some(episode) } else { None };
            // A finding that the reports of this fault did not have until now is as new as its arrival.
            note_earliest(acting, earliest(true).or(without_finding), episode, known_fault);
            note_earliest(idle, earliest(false), episode, false);
        }
        if noted == Recency::Stale {
            return;
        }
        if reported.health.is_bad() {
            known.findings = found
                .iter()
                .map(|finding| Found { reason: (*finding.reason).into(), message: (*finding.message).into() })
                .collect();
        }
        match (before.is_bad(), reported.health.is_bad()) {
            (false, true) => events.push(CaseEvent::Unhealthy(state.condition.clone())),
            (true, false) => events.push(CaseEvent::Recovered(state.condition.clone())),
            _ => {}
        }
    }

    fn apply_event(
        &mut self,
        report: &Report<'_>,
        condition: &ConditionType,
        finding: &Finding<'_>,
        arrival: Timestamp,
        events: &mut Vec<CaseEvent>,
    ) {
        if is_announced(&finding.reason) {
            return;
        }
        if self.count(report, condition, finding, arrival, false) {
            events.push(CaseEvent::FindingReported {
                condition: condition.clone(),
                reason: finding.reason.to_string(),
                message: finding.message.to_string(),
            });
        }
    }

    /// Counts an event, or that a condition became bad. Returns whether that is new.
    fn count(
        &mut self,
        report: &Report<'_>,
        condition: &ConditionType,
        finding: &Finding<'_>,
        arrival: Timestamp,
        flaps: bool,
    ) -> bool {
        let same = |counter: &&mut EventCounter| counter.flaps == flaps && *counter.reason == *finding.reason;
        let counter = match self.counters.iter_mut().find(same) {
            Some(counter) => counter,
            None => {
                if self.counters.len() >= MAX_COUNTERS {
                    self.counters.remove(0);
                }
                self.counters.push(EventCounter::new(condition.clone(), &finding.reason, flaps));
                let last = self.counters.len() - 1;
                &mut self.counters[last]
            }
        };
        let seen_since = self.boot.as_ref().map_or(arrival, |boot| boot.first_seen);
        let is_new = counter.note(report, finding, arrival, seen_since);
        // What is made up has the most series and counts: the events of the real agent stay.
        while self.counters.iter().map(EventCounter::bytes).sum::<usize>() > MAX_COUNTER_BYTES {
            let largest = self.counters.iter().enumerate().max_by_key(|(_, counter)| counter.bytes());
            let Some((largest, _)) = largest else { break };
            self.counters.remove(largest);
        }
        is_new
    }
}

/// Keeps the earliest onset within an episode. A known onset from before the episode belongs to an earlier one.
fn note_earliest(
    known: &mut Option<NodeOnset>,
    reported: Option<NodeOnset>,
    episode: NodeOnset,
    from_arrival: bool,
) {
    let of_this_episode = known.filter(|known| known.node_since >= episode.node_since);
    let reported = reported.map(|reported| reported.max(episode));
    *known = match (of_this_episode, reported) {
        (Some(known), Some(reported)) => Some(known.or_earlier(reported)),
        (None, Some(reported)) if from_arrival => Some(reported.from_its_arrival()),
        (known, reported) => known.or(reported),
    };
}

/// A time of the node's clock, converted to ours: the arrival minus the age. A broken clock can give a start after the
/// report, or one outside the calendar: then the age is zero.
pub(super) fn ago(arrival: Timestamp, node_at: Timestamp, node_since: Timestamp) -> Timestamp {
    let age = node_at.duration_since(node_since).max(SignedDuration::ZERO);
    arrival.checked_sub(age).unwrap_or(arrival)
}
