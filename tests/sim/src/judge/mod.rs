//! Says whether what the handlers do is right, by what is so in the simulated world, by what of it has reached them,
//! and by what they read before they acted. It never asks `decide` or a guard.

pub(crate) mod act;
pub(crate) mod clear;
pub(crate) mod end;
pub(crate) mod node;
mod reads;

use std::{fmt, sync::Arc};

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    condition::RepairAction,
    group::GroupState,
    ledger::Entry,
    repair::{CallResult, Phase},
    trail::{Answer, ApiCall, Outcome},
};

use self::{
    node::{Node, Seen, Word},
    reads::{Basis, Reads},
};
use crate::plan::{GroupPlan, Held, Plan};

/// Functions' clocks are right to a second; on either side.
pub(crate) const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// How long a reboot is given.
pub(crate) const REBOOT_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
/// As long as a claim is its process's own.
pub(crate) const LEASE: SignedDuration = SignedDuration::from_secs(120);

/// What should never have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// When.
    pub at: Timestamp,
    /// Which rule it breaks.
    pub rule: &'static str,
    /// To whom, and how.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} {}: {}", self.at, self.rule, self.what)
    }
}

/// A call that reached AWS.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) number: usize,
    pub(crate) call: ApiCall,
    pub(crate) answer: Answer,
    pub(crate) at: Timestamp,
    /// When a handler had taken CloudTrail's word on it in.
    pub(crate) told: Option<Timestamp>,
}

/// What the store has of a group, and what its failures are due to.
#[derive(Debug, Default, Clone)]
pub(crate) struct GroupSeen {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Timestamp>,
    /// When repairs were given up for want of a replacement.
    pub(crate) given_up: Vec<Timestamp>,
    pub(crate) suspended: bool,
}

/// The judge.
pub(crate) struct Judge {
    pub(crate) plan: Arc<Plan>,
    pub(crate) now: Timestamp,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<GroupSeen>,
    pub(crate) holds: Vec<(Held, Timestamp, Timestamp)>,
    pub(crate) refusing: Option<&'static str>,
    /// Traffic is led away from this zone.
    pub(crate) shifted: Option<usize>,
    /// The operator has calls only told of.
    pub(crate) observing: bool,
    pub(crate) made: Vec<Made>,
    /// How many records each request has.
    pub(crate) recorded: HashMap<String, usize>,
    /// When a call was last written down.
    pub(crate) last_written: Timestamp,
    /// The last thing that any function suffered.
    pub(crate) last_fault: Timestamp,
    /// How many invocations there were, and how many of their operations the judge saw.
    pub(crate) invocations: usize,
    pub(crate) operations: usize,
    reads: Vec<Reads>,
    free: Vec<usize>,
    pub(crate) wrongs: Vec<Wrong>,
    /// What happened, where somebody wants to read it.
    pub(crate) story: Option<Vec<String>>,
    /// There is something new to look at.
    pub(crate) news: bool,
    /// Nodes whose repair may be overdue.
    pub(crate) watched: Vec<usize>,
}

impl Judge {
    pub(crate) fn new(plan: Arc<Plan>, verbose: bool) -> Self {
        let nodes = plan.nodes.iter().enumerate();
        let nodes = nodes
            .map(|(number, (group, zone))| {
                Node::new(number, *group, *zone, plan.groups[*group].gpu_grace, plan.start)
            })
            .collect();
        Self {
            now: plan.start,
            nodes,
            groups: vec![GroupSeen::default(); plan.groups.len()],
            holds: Vec::new(),
            refusing: None,
            shifted: None,
            observing: false,
            made: Vec::new(),
            recorded: HashMap::default(),
            last_written: plan.start,
            last_fault: plan.start - SignedDuration::from_hours(1),
            invocations: 0,
            operations: 0,
            reads: Vec::new(),
            free: Vec::new(),
            wrongs: Vec::new(),
            story: verbose.then(Vec::new),
            news: false,
            watched: Vec::new(),
            plan,
        }
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now:.0} {}", what()));
        }
    }

    pub(crate) fn wrong(&mut self, rule: &'static str, what: String) {
        let wrong = Wrong { at: self.now, rule, what };
        self.tell(|| format!("WRONG {}: {}", wrong.rule, wrong.what));
        self.wrongs.push(wrong);
    }

    pub(crate) fn group_plan(&self, number: usize) -> &GroupPlan {
        &self.plan.groups[self.nodes[number].group]
    }

    /// A process begins, with something to take in or without.
    pub(crate) fn begins(&mut self, words: Vec<(usize, Word)>, arrival: Timestamp) -> usize {
        self.invocations += 1;
        let process = self.free.pop().unwrap_or_else(|| {
            self.reads.push(Reads::default());
            self.reads.len() - 1
        });
        self.reads[process].begin(words, arrival);
        process
    }

    /// Its own clock, which may be a little wrong, shows this.
    pub(crate) fn arrives_at(&mut self, process: usize, arrival: Timestamp) {
        self.reads[process].arrival = arrival;
    }

    /// It has ended; well, and so it has taken in all that it was given.
    pub(crate) fn ends(&mut self, process: usize, well: bool) {
        let words = std::mem::take(&mut self.reads[process].words);
        let arrival = self.reads[process].arrival;
        for (number, word) in words.iter().filter(|_| well) {
            self.hear(*number, word, arrival);
            self.watch(*number);
        }
        self.free.push(process);
    }

    /// A process reads something.
    pub(crate) fn read(&mut self, process: usize, note: impl FnOnce(&mut Reads, u64)) {
        self.operations += 1;
        let reads = &mut self.reads[process];
        reads.order += 1;
        reads.now = self.now;
        let order = reads.order;
        note(reads, order);
    }

    /// A process has written a case.
    pub(crate) fn written(
        &mut self,
        process: usize,
        case: &Case,
        group: Option<&GroupState>,
        entries: &[Entry],
    ) {
        self.operations += 1;
        let number = Node::number(&case.instance_id);
        if number >= self.nodes.len() {
            self.wrong("made up", format!("a case of {}, which does not exist", case.instance_id));
            return;
        }
        self.take_in(process, number);
        let open = case.repair.is_some() && case.closed.is_none();
        let calls = case.repair.as_ref().map_or(0, |repair| repair.calls.len());
        let before = self.nodes[number].seen.clone();
        let pending = case.repair.as_ref().and_then(|repair| repair.calls.last());
        let pending = pending.filter(|call| call.result == CallResult::Pending && calls > before.calls);
        if let Some(call) = pending {
            self.acting(process, number, case, call.action);
            self.last_written = self.now;
            self.reads[process].written.push((number, call.action));
        }
        if let (Some(group), Some(Phase::Claimed { .. })) =
            (group, case.repair.as_ref().map(|repair| &repair.phase))
        {
            let reads = &mut self.reads[process];
            if let Some(basis) = reads.basis(number, &case.instance_id, &group.name) {
                reads.claims.insert(number, basis);
            }
        }
        let node = &mut self.nodes[number];
        let seen = &mut node.seen;
        seen.version = case.version + 1;
        seen.at = Some(self.now);
        seen.open = open;
        seen.calls = calls;
        seen.closed = case.closed.is_some();
        seen.silent = case.attention.as_ref().is_some_and(|attention| attention.silent);
        seen.unhealthy = case.attention.as_ref().is_some_and(|attention| attention.unhealthy);
        let repair = case.repair.as_ref().filter(|_| open);
        seen.rebooted = repair.and_then(|repair| {
            let reboots = repair.calls.iter().filter(|call| call.action == RepairAction::Reboot);
            reboots.filter(|call| call.is_effective()).map(|call| call.at).next_back()
        });
        node.last_reboot = node.seen.rebooted.or(node.last_reboot);
        if before.open && !open {
            self.cured(number, &before, entries);
            let node = &mut self.nodes[number];
            (node.rebooted, node.refusals) = (None, 0);
        }
        let failures = self.groups[self.nodes[number].group].failures;
        if let Some(group) = group {
            self.group_written(number, before.open && !open, group);
            let given_up = "no replacement registered";
            if case.closed.as_ref().is_some_and(|closed| closed.outcome.contains(given_up)) && before.open {
                self.counted(number, failures, group);
            }
        }
        if self.story.is_some() {
            self.tell_written(number, case, entries);
        }
        self.watch(number);
    }

    /// A repair has ended; if because of a reboot that cured, an agent of the boot that came of it must have said so: only
    /// agents complain here of what a reboot cures.
    fn cured(&mut self, number: usize, before: &Seen, entries: &[Entry]) {
        let closed = entries.iter().any(|entry| entry.line.contains("\"RepairClosed\""));
        let node = &self.nodes[number];
        let lives_on = closed && before.rebooted.is_some() && !node.seen.closed;
        if lives_on && (!node.agent_spoke() || node.is_bad_as_heard()) {
            self.wrong("taken for cured", format!("node {number}: {:?}", node.as_heard()));
        }
    }

    /// What a process was given about a node is in what it has written of it.
    fn take_in(&mut self, process: usize, number: usize) {
        let arrival = self.reads[process].arrival;
        let mut words = std::mem::take(&mut self.reads[process].words);
        words.retain(|(of, word)| {
            if *of == number {
                self.hear(number, word, arrival);
            }
            *of != number
        });
        self.reads[process].words = words;
    }

    fn hear(&mut self, number: usize, word: &Word, arrival: Timestamp) {
        if let Word::Trail { call } = word {
            self.made[*call].told.get_or_insert(self.now);
        }
        self.nodes[number].hear(word, arrival);
    }

    fn tell_written(&mut self, number: usize, case: &Case, entries: &[Entry]) {
        let due = case.due.map(|due| format!("{due:.0}")).unwrap_or_default();
        let phase = case.repair.as_ref().map(|repair| format!("{:?}", repair.phase)).unwrap_or_default();
        let blocked = case.blocked.as_ref().map(|blocked| blocked.guards.join(",")).unwrap_or_default();
        let heard = self.as_heard(number).iter().any(|heard| heard.bad);
        self.tell(|| {
            format!("  node {number} v{} due {due} {phase} {blocked} bad as heard: {heard}", case.version + 1)
        });
        for entry in entries {
            let record: serde_json::Value = serde_json::from_str(&entry.line).unwrap_or_default();
            self.tell(|| {
                format!(
                    "  node {number} #{} {} {} {} {}",
                    entry.sequence,
                    record["eventName"],
                    record["nodemend"]["decision"],
                    record["errorCode"],
                    record["requestID"]
                )
            });
        }
    }

    fn group_written(&mut self, number: usize, ended: bool, state: &GroupState) {
        let Some(place) = self.plan.groups.iter().position(|group| group.name == state.name) else {
            return;
        };
        for place in &state.in_flight {
            let other = Node::number(&place.instance_id);
            if self.nodes.get(other).is_none_or(|node| !node.seen.open) {
                self.wrong("a place without a repair", format!("node {other} in {}", state.name));
            }
        }
        let (now, before) = (self.now, self.groups[place].failures);
        let seen = &mut self.groups[place];
        (seen.failures, seen.last_failure) = (state.failures, state.last_failure);
        if state.failures > before {
            let late = self.nodes[number].join_deadline().is_some_and(|late| late <= now + SLACK);
            if ended {
                self.groups[place].given_up.push(now);
                self.given_up(number, place);
            } else if !late {
                self.wrong("a failure that was none", format!("node {number} has joined, or had time to"));
            }
        }
    }

    /// A repair that was given up is a failure of its group.
    fn counted(&mut self, number: usize, before: u32, group: &GroupState) {
        if group.failures <= before {
            self.wrong("a failure that was not counted", format!("the repair of node {number} was given up"));
        }
    }

    /// A repair was given up for want of a replacement: no more of them may be than wanted for one at their time. Which
    /// newcomer is whose, Auto Scaling does not tell.
    fn given_up(&mut self, number: usize, group: usize) {
        let of_group = self.nodes.iter().filter(|node| node.group == group);
        let mut wanting: Vec<(Timestamp, Timestamp)> = of_group
            .filter_map(|node| {
                let from = node.terminated?;
                // A slow process dates its call up to a lease before it reached AWS.
                let late = from + SignedDuration::from_mins(60) - LEASE;
                let joined = node.replaced_by.and_then(|by| self.nodes[by].heard_joined_at);
                Some((from, joined.filter(|joined| *joined < late - LEASE).unwrap_or(Timestamp::MAX)))
            })
            .collect();
        // The one whose replacement came first is the first that can't be meant any more.
        wanting.sort_unstable_by_key(|(_, until)| *until);
        let meant = |at: &Timestamp| {
            let place = wanting.iter().position(|(from, until)| from <= at && at < until);
            place.map(|place| wanting.remove(place)).is_some()
        };
        if !self.groups[group].given_up.iter().all(meant) {
            self.wrong(
                "a failure that was none",
                format!("the repair of node {number} was given up, and its replacement had come"),
            );
        }
    }

    /// All conditions of a node as they have reached the handlers.
    pub(crate) fn as_heard(&self, number: usize) -> &[node::AsHeard] {
        self.nodes[number].as_heard()
    }

    /// Another node, which Auto Scaling will launch.
    pub(crate) fn add(&mut self, group: usize, zone: usize) -> usize {
        let gpu_grace = self.plan.groups[group].gpu_grace;
        let mut node = Node::new(self.nodes.len(), group, zone, gpu_grace, self.now);
        node.registered = None;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A call reaches AWS: refused by whom and as what, if it is.
    pub(crate) fn arrives(&mut self, process: usize, call: &ApiCall) -> Option<(&'static str, usize)> {
        let number = Node::number(call.instance_id());
        self.tell(|| format!("node {number}: {} reaches AWS", call.event_name()));
        let reboot = matches!(call, ApiCall::RebootInstances { .. });
        let action = if reboot { RepairAction::Reboot } else { RepairAction::Replace };
        let written = &mut self.reads[process].written;
        if let Some(place) = written.iter().position(|written| *written == (number, action)) {
            written.swap_remove(place);
        } else {
            self.wrong("a call that was not written down", format!("node {number}: {}", call.event_name()));
        }
        let node = &self.nodes[number];
        let twice = match (node.terminated, node.rebooted.filter(|_| reboot)) {
            (Some(at), _) if node.ours => Some(("terminated twice", at)),
            (Some(at), _) if self.now > at + LEASE => Some(("a call on what was gone", at)),
            (None, Some(at)) => Some(("rebooted twice", at)),
            _ => None,
        };
        if let Some((rule, at)) = twice {
            self.wrong(rule, format!("node {number}, first at {at:.0}"));
        }
        let applies = |code: &&str| !reboot || matches!(*code, "Throttling" | "AccessDenied");
        self.refusing.filter(applies).map(|code| (code, self.made.len()))
    }

    /// AWS has answered, whether or not anybody hears it.
    pub(crate) fn answered(&mut self, call: &ApiCall, answer: &Answer, at: Timestamp) {
        let number = Node::number(call.instance_id());
        self.tell(|| format!("node {number}: AWS answers {:?}", answer.outcome));
        let reboot = matches!(call, ApiCall::RebootInstances { .. });
        let node = &mut self.nodes[number];
        match &answer.outcome {
            Outcome::Accepted { .. } if reboot => node.rebooted = Some(at),
            Outcome::Accepted { .. } => {
                if node.terminated.is_none() {
                    (node.terminated, node.ours) = (Some(at), true);
                }
            }
            Outcome::Failed { code, .. } => {
                node.refusals += 1;
                node.not_clear_before = node.not_clear_before.max(at + clear::pause(code, node.refusals));
            }
            Outcome::Lost { .. } => {}
        }
        self.made.push(Made { number, call: call.clone(), answer: answer.clone(), at, told: None });
    }

    /// A function has suffered something, or nobody swept: nothing can be demanded for as long as a lease runs.
    pub(crate) fn fault(&mut self) {
        self.last_fault = self.now;
    }
}
