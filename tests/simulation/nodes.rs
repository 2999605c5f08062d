//! What is so of each node, and whether a call on it was right.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{ident::InstanceId, trail::ApiCall};

use super::{start, words::Saying};

pub(crate) const RECOVERY_HOLD: SignedDuration = SignedDuration::from_mins(2);
const REPLACE_GRACE: SignedDuration = SignedDuration::from_mins(30);
const REBOOT_GRACE: SignedDuration = SignedDuration::from_mins(10);
const REBOOT_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
const JOIN_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
const REPLACEMENT_TIMEOUT: SignedDuration = SignedDuration::from_mins(60);

/// What is wrong with a node, and what would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Replace,
    RebootCures,
    RebootInVain,
}

/// A node's trouble: spells of so many seconds, each so many seconds after the one before; the last may not end.
#[derive(Debug, Clone)]
pub(crate) struct Sick {
    pub(crate) kind: Kind,
    pub(crate) spells: Vec<(u32, u32)>,
    pub(crate) ends: bool,
}

impl Sick {
    fn spells(&self) -> Vec<(Timestamp, Option<Timestamp>)> {
        let mut at = start();
        let last = self.spells.len();
        let spell = |(n, (after, lasts)): (usize, &(u32, u32))| {
            let begins = at + SignedDuration::from_secs(i64::from(*after) + 1);
            at = begins + SignedDuration::from_secs(i64::from(*lasts) + 1);
            (begins, (self.ends || n + 1 < last).then_some(at))
        };
        self.spells.iter().enumerate().map(spell).collect()
    }

    /// When its condition changes.
    pub(crate) fn changes(&self) -> Vec<Timestamp> {
        self.spells().into_iter().flat_map(|(begins, ends)| [Some(begins), ends]).flatten().collect()
    }
}

/// One node as it is.
#[derive(Debug)]
pub(crate) struct Node {
    kind: Kind,
    spells: Vec<(Timestamp, Option<Timestamp>)>,
    boot: u32,
    booted: Timestamp,
    seq: u64,
    /// When a handler was given a report, and when that was written.
    given: Vec<(Timestamp, Timestamp)>,
    /// The same, when it had taken it in.
    heard: Vec<(Timestamp, Timestamp)>,
    /// Launched, and not registered.
    pub(crate) launched: Option<Timestamp>,
    /// When the cloud took the call that terminates it.
    pub(crate) terminated: Option<Timestamp>,
    /// When the cloud last took a call that reboots it.
    pub(crate) rebooted: Option<Timestamp>,
    /// When what came in its place registered.
    pub(crate) replaced: Option<Timestamp>,
}

impl Node {
    pub(crate) fn sick(sick: Sick) -> Self {
        let spells = sick.spells();
        Self {
            kind: sick.kind,
            spells,
            boot: 1,
            booted: start(),
            seq: 0,
            given: Vec::new(),
            heard: Vec::new(),
            launched: None,
            terminated: None,
            rebooted: None,
            replaced: None,
        }
    }

    pub(crate) fn launched(at: Timestamp) -> Self {
        let healthy = Sick { kind: Kind::Replace, spells: Vec::new(), ends: true };
        Self { launched: Some(at), ..Self::sick(healthy) }
    }

    pub(crate) fn is_bad(&self, now: Timestamp) -> bool {
        self.spells.iter().any(|(begins, ends)| *begins <= now && ends.is_none_or(|ends| now < ends))
    }

    /// A handler was given what the agent had said at some time; a failure does not tell how far it came with it.
    pub(crate) fn may_be_heard(&mut self, said: Timestamp, now: Timestamp) {
        self.given.push((now, said));
    }

    /// A handler took it in.
    pub(crate) fn heard(&mut self, said: Timestamp, now: Timestamp) {
        self.heard.push((now, said));
    }

    /// The spells begun by now, each with the start of its trouble: recoveries too short to count bridged.
    fn troubles(&self, now: Timestamp) -> Vec<(Timestamp, Option<SignedDuration>)> {
        let mut troubles: Vec<(Timestamp, Option<SignedDuration>)> = Vec::new();
        let mut ended: Option<Timestamp> = None;
        for (begins, ends) in self.spells.iter().filter(|(begins, _)| *begins <= now) {
            let sound = ended.map(|ended| begins.duration_since(ended));
            match (troubles.last(), sound) {
                (Some(before), Some(sound)) if sound < RECOVERY_HOLD => troubles.push(*before),
                _ => troubles.push((*begins, sound)),
            }
            ended = *ends;
        }
        troubles
    }

    /// What its agent says now, if it has anything to say.
    pub(crate) fn speak(&mut self, now: Timestamp) -> Option<Saying> {
        if self.terminated.is_some() {
            return None;
        }
        self.seq += 1;
        let bad = self.is_bad(now);
        let trouble = self.troubles(now).pop();
        let (since, sound) = match trouble {
            // An agent remembers nothing of the boot before.
            Some((since, sound)) if bad => (since.max(self.booted), sound),
            _ => (
                self.spells.iter().filter_map(|(_, ends)| *ends).rfind(|ends| *ends <= now).unwrap_or(now),
                None,
            ),
        };
        Some(Saying {
            kind: self.kind,
            boot: self.boot,
            seq: self.seq,
            at: now,
            bad,
            since,
            sound_secs: sound.map(|sound| sound.as_secs() as u64),
        })
    }

    /// It is up again after a reboot: cured, or bad from the start.
    pub(crate) fn boot(&mut self, now: Timestamp) {
        self.boot += 1;
        self.seq = 0;
        let lasts = self.spells.last().is_some_and(|(_, ends)| ends.is_none());
        self.booted = now;
        self.spells.retain(|(begins, _)| *begins < now);
        // What the old boot said at this very instant was true.
        let over = now + SignedDuration::from_secs(1);
        for (_, ends) in &mut self.spells {
            *ends = Some(ends.map_or(over, |ends| ends.min(over)));
        }
        if lasts && self.kind == Kind::RebootInVain {
            self.spells.push((now, None));
        }
    }
}

impl Node {
    /// What speaks against a call now, by what was so then.
    fn objections(&self, call: &ApiCall, known: Option<Timestamp>, now: Timestamp) -> Vec<&'static str> {
        let mut wrongs = Vec::new();
        let Some(known) = known else {
            return vec!["a call on a node of which nothing was heard"];
        };
        let troubles = self.troubles(known);
        // A reboot that never left leaves no mark here: what follows it is measured from the first trouble.
        let (trouble, waited) = match (call, self.kind) {
            (ApiCall::RebootInstances { .. }, _) => (troubles.last(), REBOOT_GRACE),
            (_, Kind::Replace) => (troubles.last(), REPLACE_GRACE),
            (_, _) if self.rebooted.is_some() => (troubles.first(), SignedDuration::ZERO),
            (_, _) => (troubles.first(), REBOOT_GRACE + REBOOT_TIMEOUT),
        };
        if !self.is_bad(known) {
            wrongs.push("a call on a node that is known to be well");
        }
        if trouble.is_none_or(|(since, _)| now < *since + waited) {
            wrongs.push("a call before its deadline");
        }
        wrongs
    }
}

/// When the newest of the reports was written that were there by then.
fn newest_by(reports: &[(Timestamp, Timestamp)], then: Timestamp) -> Option<Timestamp> {
    reports.iter().filter(|(came, _)| *came <= then).map(|(_, said)| *said).max()
}

/// What is wrong with a call that was just made by a process that began, at most, so long ago.
pub(crate) fn judge(
    call: &ApiCall,
    nodes: &BTreeMap<InstanceId, Node>,
    limit: usize,
    slowest: SignedDuration,
    now: Timestamp,
) -> Vec<&'static str> {
    let mut wrongs = Vec::new();
    let Some(node) = nodes.get(call.instance_id()) else {
        return vec!["a call on an instance that nobody knows"];
    };
    if let Some(launched) = node.launched {
        if now < launched + JOIN_TIMEOUT {
            wrongs.push("terminated before its time to register was over");
        }
    } else {
        // What was heard while the call was already on its way could not stop it, and nobody but its process can
        // say when it looked last: it is only wrong if it was wrong by everything that may have been known.
        let since = now - slowest;
        let then = newest_by(&node.heard, since);
        // A report may be written as late as its own process lives.
        let later = node.given.iter().filter(|(came, _)| (since - slowest..=now).contains(came));
        let known = std::iter::once(then).chain(later.map(|(_, said)| then.max(Some(*said))));
        let mut all = known.map(|known| node.objections(call, known, now));
        let first = all.next().unwrap_or_default();
        let rest: Vec<_> = all.collect();
        wrongs.extend(first.into_iter().filter(|wrong| rest.iter().all(|other| other.contains(wrong))));
    }
    match call {
        ApiCall::RebootInstances { .. } => {
            if node.kind == Kind::Replace {
                wrongs.push("a reboot that cannot help");
            }
            // A trouble that began after a reboot is another case, and may be worth another one.
            let since = node.troubles(now).last().map(|(since, _)| *since);
            if node.rebooted.is_some_and(|rebooted| since.is_none_or(|since| since <= rebooted)) {
                wrongs.push("rebooted twice for one trouble");
            }
            if node.terminated.is_some() {
                wrongs.push("rebooted after it was terminated");
            }
        }
        ApiCall::TerminateInstanceInAutoScalingGroup { .. } => {
            if node.terminated.is_some() {
                wrongs.push("terminated twice");
            }
            if node.rebooted.is_some_and(|rebooted| now < rebooted + REBOOT_TIMEOUT - slowest) {
                wrongs.push("terminated before its reboot had its time");
            }
            // Not counted any more: what was replaced, and what has waited for a replacement in vain.
            let out = nodes.values().filter(|other| {
                other.terminated.is_some_and(|at| now < at + REPLACEMENT_TIMEOUT - slowest)
                    && other.replaced.is_none()
            });
            if out.count() >= limit {
                wrongs.push("more at once than the limit allows");
            }
        }
    }
    wrongs
}
