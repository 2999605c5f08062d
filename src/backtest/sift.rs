//! Tells apart, by a look at its bytes, the lines that can change a case from the many that can't.
//!
//! Most lines are heartbeats that say what the one before said, or audit events that concern no node. None of
//! them is parsed: they are known by the forms in which agents and the API server write. Whatever has another form is kept, so
//! that a look can cost time and never a fact.

use std::collections::{HashMap, HashSet};

use memchr::memmem::Finder;
use nodemend_domain::{
    condition::{Health, Polarity},
    report::{Body, Report},
};

use super::instant;

const AUDIT: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"#;
const REPORT: &[u8] = br#"{"v":1,"kind":""#;
const HEARTBEAT: &[u8] = br#"heartbeat","#;

/// What a line turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sifted {
    /// It may tell something.
    Keep,
    /// It can't change any case.
    Nothing,
    /// It tells no more than that its node's agent is heard, as it was. When a run of these ends, the sieve gives it back.
    InRun,
}

/// Heartbeats that say the same, none of them late.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first, and where it stands.
    pub(super) first: Kept,
    /// The last, if there is more than one.
    pub(super) last: Option<Kept>,
}

/// A line that is kept for later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) millis: i64,
    pub(super) line: u64,
    pub(super) text: Vec<u8>,
}

/// How close heartbeats must follow each other, and how long a node must have been well, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// An agent that is unheard for so long is silent.
    pub(super) silent: i64,
    /// For so long after it changed, every word of a node is kept.
    pub(super) settled: i64,
}

/// Sifts the lines of one file.
pub(super) struct Sieve {
    patience: Patience,
    agents: Vec<Agent>,
    by_instance: HashMap<Box<[u8]>, usize>,
    latest: usize,
    kubelets: HashSet<Box<[u8]>>,
    finders: Finders,
}

/// What an agent said last.
#[derive(Debug, Default)]
struct Agent {
    /// Everything before the number.
    head: Vec<u8>,
    /// Everything after the time.
    tail: Vec<u8>,
    seq: u64,
    /// Whether it says that all is well.
    sound: bool,
    /// Since when it says the same, and nothing else was heard.
    since: i64,
    /// When it was heard last.
    heard: i64,
    run: Option<Run>,
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
    well: Finder<'static>,
    boot: Finder<'static>,
    provider: Finder<'static>,
}

impl Sieve {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
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
                well: Finder::new(br#","responseStatus":{"metadata":{},"code":200},"#),
                boot: Finder::new(br#""bootID""#),
                provider: Finder::new(br#""providerID""#),
            },
        }
    }

    /// Looks at one line, which arrived then; a run that it ended is given to `ended`.
    pub(super) fn sift(
        &mut self,
        text: &[u8],
        millis: Option<i64>,
        line: u64,
        ended: &mut impl FnMut(Run),
    ) -> Sifted {
        if let Some(rest) = text.strip_prefix(REPORT) {
            return self.report(text, rest.starts_with(HEARTBEAT), millis, line, ended);
        }
        if text.starts_with(AUDIT) && text.ends_with(b"}") {
            return if self.is_irrelevant(text) || self.is_known_kubelet(text) {
                Sifted::Nothing
            } else {
                Sifted::Keep
            };
        }
        Sifted::Keep
    }

    /// Gives back every run that goes on.
    pub(super) fn finish(&mut self, ended: &mut impl FnMut(Run)) {
        self.agents.iter_mut().filter_map(|agent| agent.run.take()).for_each(ended);
    }

    fn report(
        &mut self,
        text: &[u8],
        heartbeat: bool,
        millis: Option<i64>,
        line: u64,
        ended: &mut impl FnMut(Run),
    ) -> Sifted {
        let Some(place) = self.agent_of(text) else { return Sifted::Keep };
        let patience = self.patience;
        let parts = if heartbeat { parts(text, &self.finders.seq) } else { None };
        let agent = &mut self.agents[place];
        let Some(parts) = parts else {
            return agent.changes(millis, ended);
        };
        let at = millis.unwrap_or(parts.at);
        if agent.head != parts.head || agent.tail != parts.tail {
            let _ = agent.changes(Some(at), ended);
            (agent.head, agent.tail) = (parts.head.to_vec(), parts.tail.to_vec());
            agent.sound = is_sound(text);
            agent.seq = parts.seq;
            return Sifted::Keep;
        }
        let gap = at - agent.heard;
        let in_order = parts.seq > agent.seq && gap >= 0;
        let in_time = gap < patience.silent;
        if !in_order {
            return agent.changes(Some(at.max(agent.heard)), ended);
        }
        (agent.seq, agent.heard) = (parts.seq, at);
        if !agent.sound || at - agent.since < patience.settled {
            return Sifted::Keep;
        }
        if !in_time && let Some(run) = agent.run.take() {
            ended(run);
        }
        match &mut agent.run {
            None => {
                let first = Kept { millis: at, line, text: text.to_vec() };
                agent.run = Some(Run { first, last: None });
            }
            Some(run) => {
                let last = run.last.get_or_insert_with(Kept::default);
                (last.millis, last.line) = (at, line);
                last.text.clear();
                last.text.extend_from_slice(text);
            }
        }
        Sifted::InRun
    }

    /// Where we keep what is known of the agent that wrote a report.
    fn agent_of(&mut self, text: &[u8]) -> Option<usize> {
        let latest = self.agents.get(self.latest);
        if latest.is_some_and(|agent| !agent.head.is_empty() && text.starts_with(&agent.head)) {
            return Some(self.latest);
        }
        let instance = quoted(text, &self.finders.instance)?;
        let place = match self.by_instance.get(instance) {
            Some(place) => *place,
            None => {
                self.agents.push(Agent::default());
                self.by_instance.insert(instance.into(), self.agents.len() - 1);
                self.agents.len() - 1
            }
        };
        self.latest = place;
        Some(place)
    }

    /// Whether an audit event is of no node, or only read one. The API server writes the verb and the object
    /// before what was sent, and a quote within a string has a backslash: the first of each is the event's own.
    fn is_irrelevant(&self, text: &[u8]) -> bool {
        let verb = quoted(text, &self.finders.verb);
        if verb.is_some_and(|verb| matches!(verb, b"get" | b"list" | b"watch")) {
            return true;
        }
        verb.is_some() && quoted(text, &self.finders.object).is_some_and(|resource| resource != b"nodes")
    }

    /// Whether this is a kubelet's heartbeat, and not the first: a status patch in which no condition has a status.
    fn is_known_kubelet(&mut self, text: &[u8]) -> bool {
        let found = &self.finders;
        let Some(node) = quoted(text, &found.user) else { return false };
        let Some(object) = found.object.find(text).map(|place| &text[place..]) else { return false };
        let object = &object[..memchr::memchr(b'}', object).unwrap_or(object.len())];
        let mut own = br#","objectRef":{"resource":"nodes","name":""#.to_vec();
        own.extend_from_slice(node);
        own.push(b'"');
        let plain = quoted(text, &found.verb) == Some(b"patch")
            && object.starts_with(&own)
            && object.ends_with(br#","subresource":"status""#)
            && found.stage.find(text).is_some()
            && found.well.find(text).is_some()
            && found.boot.find(text).is_none()
            && found.provider.find(text).is_none()
            && memchr::memchr(b'\\', text).is_none()
            && found.status.find_iter(text).all(|place| {
                let after = &text[place + br#""status""#.len()..];
                after.starts_with(b":{") || after.starts_with(b"}")
            });
        if !plain {
            return false;
        }
        // A session is named by its instance: the first heartbeat of each is kept, for what it tells of both.
        let session = quoted(text, &found.session).or_else(|| quoted(text, &found.arn)).unwrap_or_default();
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

impl Agent {
    /// Something else is heard than the same again.
    fn changes(&mut self, millis: Option<i64>, ended: &mut impl FnMut(Run)) -> Sifted {
        if let Some(run) = self.run.take() {
            ended(run);
        }
        // Without a time of its own, a line is taken to be as late as can be: nothing settles before the next one.
        self.since = millis.unwrap_or(i64::MAX / 2);
        self.heard = millis.unwrap_or(self.heard);
        if millis.is_none() {
            self.head.clear();
        }
        Sifted::Keep
    }
}

struct Parts<'a> {
    head: &'a [u8],
    seq: u64,
    at: i64,
    tail: &'a [u8],
}

/// Takes a heartbeat apart, where it is written as our agents write.
fn parts<'a>(text: &'a [u8], seq: &Finder<'_>) -> Option<Parts<'a>> {
    let number = seq.find(text)? + seq.needle().len();
    let digits = text[number..].iter().take(19).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text[number..].split_at(digits);
    let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(br#","at":""#)?;
    let (at, length) = instant::read(rest)?;
    Some(Parts { head: &text[..number], seq, at, tail: rest[length..].strip_prefix(b"\"")? })
}

/// Whether a heartbeat says that all is well, and tells of nothing else.
fn is_sound(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let Ok(Report { body: Body::Heartbeat(states), .. }) = Report::decode(text) else { return false };
    states.iter().all(|state| {
        let polarity = state.condition.polarity().unwrap_or(Polarity::TrueIsGood);
        state.findings.is_empty() && state.status.health(polarity) == Health::Sound
    })
}

/// What stands between the first of these and the next quote.
fn quoted<'a>(text: &'a [u8], before: &Finder<'_>) -> Option<&'a [u8]> {
    let rest = &text[before.find(text)? + before.needle().len()..];
    Some(&rest[..memchr::memchr(b'"', rest)?])
}

#[cfg(test)]
mod tests;
