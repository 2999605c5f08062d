//! Turns an agent's reports into what its node's case knows, fenced by boot.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Boot, Case, CaseEvent, Condition, EventCounter, Found, MAX_CONDITIONS, MAX_COUNTERS, MAX_OLD_BOOTS,
    SourceState,
};
use crate::{
    clock::{ConditionReport, LatestReport, Onset, Recency},
    condition::{ConditionType, Health, Polarity, Severity},
    ident::BootId,
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};

impl Case {
    /// Takes an agent's report in.
    pub fn apply_report(
        &mut self,
        report: &Report<'_>,
        arrival: Timestamp,
        policy: &Policy,
    ) -> Vec<CaseEvent> {
        let mut events = Vec::new();
        if self.closed.is_some() || !self.accepts_boot(report, arrival, &mut events) {
            return events;
        }
        self.node.get_or_insert_with(|| report.node.clone());
        if self.zone.is_none() {
            self.zone.clone_from(&report.zone);
        }
        if self.agent_last_seen.is_none_or(|first_seen| arrival > first_seen) {
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
                    self.apply_finding(report, condition, finding, arrival, &mut events);
                }
            }
        }
        events
    }

    /// Fences by boot: a report of the present boot passes, one of an older boot doesn't, and the first of a
    /// newer one ends what was said of the present one. Which boot is newer, the node's own clock tells.
    fn accepts_boot(&mut self, report: &Report<'_>, arrival: Timestamp, events: &mut Vec<CaseEvent>) -> bool {
        if let Some(boot) = self.boot.as_mut().filter(|boot| boot.id == report.boot_id) {
            boot.first_seen = boot.first_seen.min(arrival);
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
        self.begin_boot(report.boot_id.clone(), arrival, Some(report.at), events);
        true
    }

    pub(super) fn begin_boot(
        &mut self,
        id: BootId,
        first_seen: Timestamp,
        node_at: Option<Timestamp>,
        events: &mut Vec<CaseEvent>,
    ) {
        if let Some(old) = self.boot.replace(Boot { id, first_seen, node_at }) {
            events.push(CaseEvent::Rebooted);
            self.old_boots.push(old.id);
            if self.old_boots.len() > MAX_OLD_BOOTS {
                self.old_boots.remove(0);
            }
            // What was said in the old boot ends with it. Its trouble is not bridged into the new one, else a
            // case would depend on whether the old reports or the new ones came first.
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
            self.apply_finding(report, &state.condition, finding, arrival, events);
        }
        let reported = ConditionReport {
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
            known.condition == state.condition && matches!(known.state, SourceState::Agent { .. })
        });
        let (place, before, noted) = match place {
            Some(place) => {
                let SourceState::Agent { latest, .. } = &mut self.conditions[place].state else {
                    return;
                };
                let before = latest.health;
                (place, before, latest.note(reported, policy.recovery_hold))
            }
            None if self.conditions.len() >= MAX_CONDITIONS => return,
            None => {
                let latest = LatestReport::first(reported);
                self.conditions.push(Condition {
                    condition: state.condition.clone(),
                    state: SourceState::Agent { latest, acting: None, idle: None },
                    findings: Arc::default(),
                });
                (self.conditions.len() - 1, Health::Healthy, Recency::Newest)
            }
        };
        let known = &mut self.conditions[place];
        let SourceState::Agent { latest, acting, idle } = &mut known.state else {
            return;
        };
        // What was said of an earlier trouble, and comes late, says nothing of this one.
        if reported.health.is_bad()
            && let Some(episode) = latest.episode_of(&reported)
        {
            let actionable = |reason: &str| {
                policy.all_rules().any(|rules| rules.remedy(&state.condition, reason).is_some())
            };
            let earliest = |wanted: bool| {
                let such = found.iter().filter(|finding| actionable(&finding.reason) == wanted);
                let onset = |finding: &&Finding<'_>| Onset {
                    node_since: finding.since,
                    start: ago(arrival, report.at, finding.since),
                };
                such.map(onset).reduce(Onset::min)
            };
            let nameless = if found.is_empty() { Some(episode) } else { None };
            note_earliest(acting, earliest(true).or(nameless), episode);
            note_earliest(idle, earliest(false), episode);
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

    fn apply_finding(
        &mut self,
        report: &Report<'_>,
        condition: &ConditionType,
        finding: &Finding<'_>,
        arrival: Timestamp,
        events: &mut Vec<CaseEvent>,
    ) {
        let counter = match self.counters.iter_mut().find(|counter| *counter.reason == *finding.reason) {
            Some(counter) => counter,
            None => {
                if self.counters.len() >= MAX_COUNTERS {
                    self.counters.remove(0);
                }
                self.counters.push(EventCounter::new(condition.clone(), &finding.reason));
                let last = self.counters.len() - 1;
                &mut self.counters[last]
            }
        };
        if counter.note(report, finding, arrival) {
            events.push(CaseEvent::FindingReported {
                condition: condition.clone(),
                reason: finding.reason.to_string(),
                message: finding.message.to_string(),
            });
        }
    }
}

/// Keeps the earliest onset within a trouble: what is older than the trouble was noted of another.
fn note_earliest(known: &mut Option<Onset>, first_seen: Option<Onset>, episode: Onset) {
    let of_this_trouble = known.filter(|known| known.node_since >= episode.node_since);
    let first_seen = first_seen.map(|first_seen| first_seen.max(episode));
    *known = of_this_trouble.into_iter().chain(first_seen).reduce(Onset::min);
}

/// An instant of the node's clock by ours: the arrival less the age. A start after the report has no age, and one that
/// no calendar reaches is a broken clock's.
pub(super) fn ago(arrival: Timestamp, node_at: Timestamp, node_since: Timestamp) -> Timestamp {
    let age = node_at.duration_since(node_since).max(SignedDuration::ZERO);
    arrival.checked_sub(age).unwrap_or(arrival)
}
