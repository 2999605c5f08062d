//! Turns an agent's reports into what its node's case knows, fenced by boot.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Boot, Case, Condition, Found, MAX_CONDITIONS, MAX_OLD_BOOTS, MAX_TALLIES, News, Tally, Witness};
use crate::{
    clock::{Noted, Onset, Saying, Statement},
    condition::{ConditionType, Health, Polarity, Severity},
    ident::BootId,
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};

impl Case {
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

    pub(super) fn begin_boot(
        &mut self,
        id: BootId,
        heard: Timestamp,
        node_at: Option<Timestamp>,
        news: &mut Vec<News>,
    ) {
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
                    witness: Witness::Agent { statement, acting: None, idle: None },
                    findings: Arc::default(),
                });
                (self.conditions.len() - 1, Health::Sound, Noted::News)
            }
        };
        let known = &mut self.conditions[place];
        let Witness::Agent { statement, acting, idle } = &mut known.witness else {
            return;
        };
        // What was said of an earlier trouble, and comes late, says nothing of this one.
        if saying.health.is_bad()
            && let Some(trouble) = statement.trouble_of(&saying)
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
            let nameless = if found.is_empty() { Some(trouble) } else { None };
            note_earliest(acting, earliest(true).or(nameless), trouble);
            note_earliest(idle, earliest(false), trouble);
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
}

/// Keeps the earliest onset within a trouble: what is older than the trouble was noted of another.
fn note_earliest(known: &mut Option<Onset>, heard: Option<Onset>, trouble: Onset) {
    let of_this_trouble = known.filter(|known| known.node_since >= trouble.node_since);
    let heard = heard.map(|heard| heard.max(trouble));
    *known = of_this_trouble.into_iter().chain(heard).reduce(Onset::min);
}

/// An instant of the node's clock by ours: the arrival less the age. A start after the report has no age, and one that
/// no calendar reaches is a broken clock's.
pub(super) fn ago(arrival: Timestamp, node_at: Timestamp, node_since: Timestamp) -> Timestamp {
    let age = node_at.duration_since(node_since).max(SignedDuration::ZERO);
    arrival.checked_sub(age).unwrap_or(arrival)
}
