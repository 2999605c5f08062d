//! Finds, without parsing, the lines that can change a case.
//!
//! Most lines are heartbeats that repeat the one before, or audit events that concern no node. They are recognized by
//! the exact byte format in which agents and the API server write them. A line in any other format is relevant, so a
//! wrong guess costs time and never loses an event.

use std::collections::{HashMap, HashSet};

use memchr::memmem::Finder;
use nodemend_domain::{
    condition::{Health, Polarity},
    report::{Body, Report},
};

use super::timestamp;

const AUDIT: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"#;
const REPORT: &[u8] = br#"{"v":1,"kind":""#;
const HEARTBEAT: &[u8] = br#"heartbeat","#;

/// The class of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineClass {
    /// It may change a case.
    Relevant,
    /// It cannot change any case.
    Irrelevant,
    /// A heartbeat that repeats the one before. When a sequence of them ends, its first and last are returned.
    Repeated,
}

/// A sequence of heartbeats with the same content, without a gap in which the agent would count as silent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeartbeatRun {
    pub(super) first: SavedLine,
    /// None where the first is the only one.
    pub(super) last: Option<SavedLine>,
}

/// A line, its time and its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SavedLine {
    pub(super) millis: i64,
    pub(super) line: u64,
    pub(super) text: Vec<u8>,
}

/// When heartbeats may be skipped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    /// An agent without a report for so long is silent.
    pub(super) silent_after_ms: i64,
    /// For so long after a change, every heartbeat of a node is relevant.
    pub(super) settled_after_ms: i64,
}

/// Classifies the lines of one file.
pub(super) struct Prefilter {
    thresholds: Thresholds,
    agents: Vec<AgentState>,
    by_instance: HashMap<Box<[u8]>, usize>,
    latest: usize,
    kubelets: HashSet<Box<[u8]>>,
    finders: Finders,
}

/// The latest heartbeat of an agent.
#[derive(Debug, Default)]
struct AgentState {
    /// The heartbeat up to its sequence number.
    head: Vec<u8>,
    /// The heartbeat after its time.
    tail: Vec<u8>,
    seq: u64,
    /// Whether all conditions are healthy and there are no findings.
    healthy: bool,
    /// Since when heartbeats have this content, without any other report.
    since: i64,
    /// The time of the latest report.
    last_seen: i64,
    run: Option<HeartbeatRun>,
}

struct Finders {
    seq: Finder<'static>,
    instance: Finder<'static>,
    verb: Finder<'static>,
    object: Finder<'static>,
    user: Finder<'static>,
    session: Finder<'static>,
    arn: Finder<'static>,
    status: Finder<'static>,
    stage: Finder<'static>,
    success: Finder<'static>,
    boot: Finder<'static>,
    provider: Finder<'static>,
}

impl Prefilter {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            agents: Vec::new(),
            by_instance: HashMap::new(),
            latest: 0,
            kubelets: HashSet::new(),
            finders: Finders {
                seq: Finder::new(br#","seq":"#),
                instance: Finder::new(br#","instanceId":""#),
                verb: Finder::new(br#","verb":""#),
                object: Finder::new(br#","objectRef":{"resource":""#),
                user: Finder::new(br#","user":{"username":"system:node:"#),
                session: Finder::new(br#","sessionName":[""#),
                arn: Finder::new(br#""arn":[""#),
                status: Finder::new(br#""status""#),
                stage: Finder::new(br#","stage":"ResponseComplete","#),
                success: Finder::new(br#","responseStatus":{"metadata":{},"code":200},"#),
                boot: Finder::new(br#""bootID""#),
                provider: Finder::new(br#""providerID""#),
            },
        }
    }

    /// Classifies one line that arrived at `millis`; a run that it ends is passed to `ended`.
    pub(super) fn classify(
        &mut self,
        text: &[u8],
        millis: Option<i64>,
        line: u64,
        ended: &mut impl FnMut(HeartbeatRun),
    ) -> LineClass {
        if let Some(rest) = text.strip_prefix(REPORT) {
            return self.report(text, rest.starts_with(HEARTBEAT), millis, line, ended);
        }
        if text.starts_with(AUDIT) && text.ends_with(b"}") {
            return if self.is_irrelevant(text) || self.is_known_kubelet(text) {
                LineClass::Irrelevant
            } else {
                LineClass::Relevant
            };
        }
        LineClass::Relevant
    }

    /// Ends every run.
    pub(super) fn finish(&mut self, ended: &mut impl FnMut(HeartbeatRun)) {
        self.agents.iter_mut().filter_map(|agent| agent.run.take()).for_each(ended);
    }

    fn report(
        &mut self,
        text: &[u8],
        heartbeat: bool,
        millis: Option<i64>,
        line: u64,
        ended: &mut impl FnMut(HeartbeatRun),
    ) -> LineClass {
        let Some(index) = self.agent_of(text) else { return LineClass::Relevant };
        let thresholds = self.thresholds;
        let parts = if heartbeat { parts(text, &self.finders.seq) } else { None };
        let agent = &mut self.agents[index];
        let Some(parts) = parts else {
            return agent.change(millis, ended);
        };
        let at = millis.unwrap_or(parts.at);
        if agent.head != parts.head || agent.tail != parts.tail {
            let _ = agent.change(Some(at), ended);
            (agent.head, agent.tail) = (parts.head.to_vec(), parts.tail.to_vec());
            agent.healthy = is_healthy(text);
            agent.seq = parts.seq;
            return LineClass::Relevant;
        }
        let gap = at - agent.last_seen;
        let in_order = parts.seq > agent.seq && gap >= 0;
        let in_time = gap < thresholds.silent_after_ms;
        if !in_order {
            return agent.change(Some(at.max(agent.last_seen)), ended);
        }
        (agent.seq, agent.last_seen) = (parts.seq, at);
        if !agent.healthy || at - agent.since < thresholds.settled_after_ms {
            return LineClass::Relevant;
        }
        if !in_time && let Some(run) = agent.run.take() {
            ended(run);
        }
        match &mut agent.run {
            None => {
                let first = SavedLine { millis: at, line, text: text.to_vec() };
                agent.run = Some(HeartbeatRun { first, last: None });
            }
            Some(run) => {
                let last = run.last.get_or_insert_with(SavedLine::default);
                (last.millis, last.line) = (at, line);
                last.text.clear();
                last.text.extend_from_slice(text);
            }
        }
        LineClass::Repeated
    }

    /// The index of the agent that wrote a report; none without an instance id.
    fn agent_of(&mut self, text: &[u8]) -> Option<usize> {
        let latest = self.agents.get(self.latest);
        if latest.is_some_and(|agent| !agent.head.is_empty() && text.starts_with(&agent.head)) {
            return Some(self.latest);
        }
        let instance = quoted(text, &self.finders.instance)?;
        let index = match self.by_instance.get(instance) {
            Some(index) => *index,
            None => {
                self.agents.push(AgentState::default());
                self.by_instance.insert(instance.into(), self.agents.len() - 1);
                self.agents.len() - 1
            }
        };
        self.latest = index;
        Some(index)
    }

    /// Whether an audit event is about no node, or is a read. The API server writes the verb and the object before the
    /// request body, and escapes quotes within strings, so the first match of each is the event's own.
    fn is_irrelevant(&self, text: &[u8]) -> bool {
        let verb = quoted(text, &self.finders.verb);
        if verb.is_some_and(|verb| matches!(verb, b"get" | b"list" | b"watch")) {
            return true;
        }
        verb.is_some() && quoted(text, &self.finders.object).is_some_and(|resource| resource != b"nodes")
    }

    /// Whether this is a kubelet's status patch in which no condition has a status, and not the first one.
    fn is_known_kubelet(&mut self, text: &[u8]) -> bool {
        let finders = &self.finders;
        let Some(node) = quoted(text, &finders.user) else { return false };
        let Some(object) = finders.object.find(text).map(|start| &text[start..]) else { return false };
        let object = &object[..memchr::memchr(b'}', object).unwrap_or(object.len())];
        let mut own = br#","objectRef":{"resource":"nodes","name":""#.to_vec();
        own.extend_from_slice(node);
        own.push(b'"');
        let plain = quoted(text, &finders.verb) == Some(b"patch")
            && object.starts_with(&own)
            && object.ends_with(br#","subresource":"status""#)
            && finders.stage.find(text).is_some()
            && finders.success.find(text).is_some()
            && finders.boot.find(text).is_none()
            && finders.provider.find(text).is_none()
            && memchr::memchr(b'\\', text).is_none()
            && finders.status.find_iter(text).all(|start| {
                let after = &text[start + br#""status""#.len()..];
                after.starts_with(b":{") || after.starts_with(b"}")
            });
        if !plain {
            return false;
        }
        // The session name is the instance id: the first heartbeat of each pair is relevant, because it links them.
        let session =
            quoted(text, &finders.session).or_else(|| quoted(text, &finders.arn)).unwrap_or_default();
        let mut name = Vec::with_capacity(node.len() + session.len() + 1);
        name.extend_from_slice(node);
        name.push(b'"');
        name.extend_from_slice(session);
        if self.kubelets.contains(&name[..]) {
            return true;
        }
        self.kubelets.insert(name.into());
        false
    }
}

impl AgentState {
    /// Records a report that is not a repeated heartbeat; ends the run.
    fn change(&mut self, millis: Option<i64>, ended: &mut impl FnMut(HeartbeatRun)) -> LineClass {
        if let Some(run) = self.run.take() {
            ended(run);
        }
        // A line without a time counts as the latest possible, so that no heartbeat is skipped before the next report.
        self.since = millis.unwrap_or(i64::MAX / 2);
        self.last_seen = millis.unwrap_or(self.last_seen);
        if millis.is_none() {
            self.head.clear();
        }
        LineClass::Relevant
    }
}

struct HeartbeatParts<'a> {
    head: &'a [u8],
    seq: u64,
    at: i64,
    tail: &'a [u8],
}

/// Splits a heartbeat; none where it is not in the format of our agents.
fn parts<'a>(text: &'a [u8], seq: &Finder<'_>) -> Option<HeartbeatParts<'a>> {
    let number = seq.find(text)? + seq.needle().len();
    let digits = text[number..].iter().take(19).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text[number..].split_at(digits);
    let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(br#","at":""#)?;
    let (at, length) = timestamp::read(rest)?;
    Some(HeartbeatParts { head: &text[..number], seq, at, tail: rest[length..].strip_prefix(b"\"")? })
}

/// Whether all conditions of a heartbeat are healthy and there are no findings.
fn is_healthy(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let Ok(Report { body: Body::Heartbeat(states), .. }) = Report::decode(text) else { return false };
    states.iter().all(|state| {
        let polarity = state.condition.polarity().unwrap_or(Polarity::TrueIsGood);
        state.findings.is_empty() && state.status.health(polarity) == Health::Healthy
    })
}

/// The text between the first match of `before` and the next quote.
fn quoted<'a>(text: &'a [u8], before: &Finder<'_>) -> Option<&'a [u8]> {
    let rest = &text[before.find(text)? + before.needle().len()..];
    Some(&rest[..memchr::memchr(b'"', rest)?])
}

#[cfg(test)]
mod tests;
