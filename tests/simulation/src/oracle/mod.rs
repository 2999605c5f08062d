//! Decides whether what the handlers do is right: by the truth of the simulated cluster, by what of it has reached the
//! handlers, and by what they read before they acted. It never calls `decide` or a guard.

mod blocks;
pub(crate) mod calls;
pub(crate) mod end;
mod groups;
mod known;
pub(crate) mod node;
mod outages;
pub(crate) mod overdue;
pub(crate) mod reads;
mod truth;

use std::{fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, AuditEntry, CallAnswer, CallOutcome},
    case::Case,
    condition::RepairAction,
    group::GroupState,
    repair::{CallResult, Phase},
};
use std::collections::HashMap;

use self::{
    groups::StoredGroup,
    node::{Fact, Node, StoredCase},
    reads::Reads,
};
use crate::{
    plan::{GroupPlan, HoldScope, Options, Plan},
    policy::Settings,
    reading::{Access, Reading},
};

/// How wrong the clock of a function may be, in either direction.
pub(crate) const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// How long a reboot may take.
pub(crate) const REBOOT_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
/// How long a claim belongs to its process.
pub(crate) const LEASE: SignedDuration = SignedDuration::from_secs(120);

/// More reads than this at one instant are a loop.
const MAX_OPERATIONS: usize = 20_000;

/// What must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The virtual time.
    pub at: Timestamp,
    /// The rule that was broken.
    pub rule: &'static str,
    /// The node, and the details.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} {}: {}", self.at, self.rule, self.what)
    }
}

/// A call that reached AWS.
#[derive(Debug, Clone)]
pub(crate) struct MadeCall {
    pub(crate) number: usize,
    pub(crate) call: ApiCall,
    pub(crate) answer: CallAnswer,
    pub(crate) at: Timestamp,
    /// When a handler had applied CloudTrail's event of it.
    pub(crate) reported: Option<Timestamp>,
}

/// Sees every read, write and call of the functions, and collects violations.
pub(crate) struct Oracle {
    pub(crate) plan: Arc<Plan>,
    pub(crate) now: Timestamp,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<StoredGroup>,
    pub(crate) holds: Vec<(HoldScope, Timestamp, Timestamp)>,
    pub(crate) refusing: Option<&'static str>,
    /// The zone that a zonal shift moves traffic away from.
    pub(crate) shifted: Option<usize>,
    /// The policy now, and when it last changed.
    pub(crate) settings: Settings,
    pub(crate) policy_changed: Option<Timestamp>,
    /// Observe mode is on.
    pub(crate) observing: bool,
    pub(crate) reading: Reading,
    /// Whether faults are verified. If not, calls on healthy nodes are counted and are no violation.
    verifies: bool,
    /// How many calls were made on nodes that were healthy in truth.
    pub(crate) calls_on_healthy: usize,
    pub(crate) made_calls: Vec<MadeCall>,
    /// How many records each request has.
    pub(crate) recorded: HashMap<String, usize>,
    /// When a call was last recorded.
    pub(crate) last_written: Timestamp,
    /// When a function last crashed, stalled or missed its minute.
    pub(crate) last_fault: Timestamp,
    /// How many invocations there were, and how many of their reads and writes.
    pub(crate) invocations: usize,
    pub(crate) operations: usize,
    /// How many reads there were at the last instant that had any.
    busy: (Timestamp, usize),
    reads: Vec<Reads>,
    free: Vec<usize>,
    pub(crate) violations: Vec<Violation>,
    /// What happened, if `verbose` was set.
    pub(crate) trace: Option<Vec<String>>,
    /// Something has changed since the last check.
    pub(crate) changed: bool,
    /// Nodes whose repair may be overdue.
    pub(crate) watched: Vec<usize>,
}

impl Oracle {
    pub(crate) fn new(plan: Arc<Plan>, options: &Options) -> Self {
        let nodes = plan.nodes.iter().enumerate();
        let nodes = nodes
            .map(|(number, (group, zone))| {
                let grace = plan.groups[*group].gpu_grace;
                let node = Node::new(number, *group, *zone, grace, plan.start);
                if plan.groups[*group].nodes { node } else { node.without_node(plan.start) }
            })
            .collect();
        Self {
            now: plan.start,
            nodes,
            groups: vec![StoredGroup::default(); plan.groups.len()],
            holds: Vec::new(),
            refusing: None,
            shifted: None,
            settings: Settings::of(&plan, &[]),
            policy_changed: None,
            observing: false,
            reading: Reading::new(
                plan.seed,
                if options.verification { plan.access } else { Access::Neither },
            ),
            verifies: options.verification,
            calls_on_healthy: 0,
            made_calls: Vec::new(),
            recorded: HashMap::default(),
            last_written: plan.start,
            last_fault: plan.start - SignedDuration::from_hours(1),
            invocations: 0,
            operations: 0,
            busy: (plan.start, 0),
            reads: Vec::new(),
            free: Vec::new(),
            violations: Vec::new(),
            trace: options.verbose.then(Vec::new),
            changed: false,
            watched: Vec::new(),
            plan,
        }
    }

    pub(crate) fn trace(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:.0} {}", what()));
        }
    }

    pub(crate) fn violation(&mut self, rule: &'static str, what: String) {
        let violation = Violation { at: self.now, rule, what };
        self.trace(|| format!("VIOLATION {}: {}", violation.rule, violation.what));
        self.violations.push(violation);
    }

    pub(crate) fn group_plan(&self, number: usize) -> &GroupPlan {
        &self.settings.groups[self.nodes[number].group]
    }

    /// A process begins, with facts to apply or without.
    pub(crate) fn begins(&mut self, facts: Vec<(usize, Fact)>, arrival: Timestamp) -> usize {
        self.invocations += 1;
        let process = self.free.pop().unwrap_or_else(|| {
            self.reads.push(Reads::default());
            self.reads.len() - 1
        });
        self.reads[process].begin(facts, arrival);
        process
    }

    /// The time of arrival, by the process's own clock.
    pub(crate) fn arrives_at(&mut self, process: usize, arrival: Timestamp) {
        self.reads[process].arrival = arrival;
    }

    /// A process has ended. If it succeeded, it has applied everything that it was given.
    pub(crate) fn ends(&mut self, process: usize, succeeded: bool) {
        let facts = std::mem::take(&mut self.reads[process].facts);
        let arrival = self.reads[process].arrival;
        for (number, fact) in facts.iter().filter(|_| succeeded) {
            if let Fact::LaunchFailed { at } = fact {
                self.nodes[*number].known_launch_failure.get_or_insert((*at, self.now));
            }
            self.apply(*number, fact, arrival);
            self.watch(*number);
        }
        let learned = std::mem::take(&mut self.reads[process].learned);
        // That there is no Node object counts only where it was written: only where there had been one is it news.
        let counts = |fact: &Fact| succeeded && !matches!(fact, Fact::Snapshot(None));
        for (number, fact, read_at) in learned.iter().filter(|(_, fact, _)| counts(fact)) {
            self.apply_read(*number, fact, *read_at);
            self.watch(*number);
        }
        self.free.push(process);
    }

    /// A process reads something.
    pub(crate) fn read(&mut self, process: usize, note: impl FnOnce(&mut Reads, u64)) {
        self.operations += 1;
        self.makes_progress();
        let reads = &mut self.reads[process];
        reads.order += 1;
        reads.now = self.now;
        let order = reads.order;
        note(reads, order);
    }

    pub(crate) fn is_looping(&self) -> bool {
        self.busy.1 >= MAX_OPERATIONS
    }

    /// A function that reads on and on while no time passes would never end.
    fn makes_progress(&mut self) {
        if self.busy.0 != self.now {
            self.busy = (self.now, 0);
        }
        self.busy.1 += 1;
        if self.busy.1 == MAX_OPERATIONS {
            self.violation(
                "evaluated again and again at once",
                format!("{MAX_OPERATIONS} reads, no time passed"),
            );
        }
    }

    /// A process has written a case.
    pub(crate) fn written(
        &mut self,
        process: usize,
        case: &Case,
        group: Option<&GroupState>,
        entries: &[AuditEntry],
    ) {
        self.operations += 1;
        let number = Node::number(case.instance_id());
        if number >= self.nodes.len() {
            self.violation(
                "a case of an unknown instance",
                format!("a case of {}, which does not exist", case.instance_id()),
            );
            return;
        }
        self.verifies_without_ec2(process, number);
        self.take_in(process, number);
        let open = case.repair().is_some() && case.closed().is_none();
        let calls = case.repair().map_or(0, |repair| repair.calls().len());
        let before = self.nodes[number].stored.clone();
        let pending = case.repair().and_then(|repair| repair.calls().last());
        let pending = pending.filter(|call| call.result() == CallResult::Pending && calls > before.calls);
        if let Some(call) = pending {
            self.acting(process, number, case, call.action());
            self.last_written = self.now;
            self.reads[process].written.push((number, call.action()));
        }
        if let (Some(group), Some(Phase::Claimed { .. })) =
            (group, case.repair().map(|repair| repair.phase()))
        {
            let reads = &mut self.reads[process];
            if let Some(basis) = reads.basis(number, case.instance_id(), group.name()) {
                if !before.open {
                    self.claimed(number, case, &basis);
                }
                self.reads[process].claims.insert(number, basis);
            }
        }
        self.note_halt(number, case);
        self.reads[process].wrote(number, case.version() + 1);
        let node = &mut self.nodes[number];
        let stored = &mut node.stored;
        stored.version = case.version() + 1;
        stored.at = Some(self.now);
        if open && !stored.open {
            stored.opened = Some(self.now);
        }
        stored.open = open;
        stored.calls = calls;
        stored.closed = case.closed().is_some();
        stored.silent =
            case.unhealthy_reason().as_ref().is_some_and(|unhealthy_reason| unhealthy_reason.silent);
        stored.recovered = case.unhealthy_reason().and_then(|reason| reason.recovered);
        stored.unhealthy =
            case.unhealthy_reason().as_ref().is_some_and(|unhealthy_reason| unhealthy_reason.unhealthy);
        if let Some(repair) = case.repair() {
            stored.reason.clone_from(&repair.fault().reason);
            stored.replacement = repair.replacement().map(|new| Node::number(&new.instance_id));
            stored.replaced = repair.replacement().is_some_and(|new| new.ready.is_some());
            if stored.replaced && !before.replaced {
                let proven = (stored.reason.clone(), self.now);
                self.groups[node.group].proven.push(proven);
            }
        }
        let repair = case.repair().filter(|_| open);
        stored.rebooted = repair.and_then(|repair| {
            let reboots = repair.calls().iter().filter(|call| call.action() == RepairAction::Reboot);
            reboots.filter(|call| call.is_effective()).map(|call| call.at()).next_back()
        });
        node.last_reboot = node.stored.rebooted.or(node.last_reboot);
        self.counts(number, &before, case.due());
        if before.open && !open {
            self.cured(number, &before, entries);
            let node = &mut self.nodes[number];
            (node.rebooted, node.refusals, node.denied_reboots) = (None, 0, 0);
        }
        if let Some(group) = group {
            self.group_written(number, before.open && !open, group);
            let given_up = |outcome: &str| {
                outcome.contains("no replacement registered") || outcome.contains("did not become Ready")
            };
            if case.closed().is_some_and(|closed| given_up(&closed.outcome)) && before.open {
                self.counted(number, group);
            }
        }
        if self.trace.is_some() {
            self.trace_written(number, case, entries);
        }
        self.watch(number);
    }

    /// A repair has ended. If it was closed because its reboot was a cure, an agent of the new boot must have reported that:
    /// here only agents report what a reboot cures.
    fn cured(&mut self, number: usize, before: &StoredCase, entries: &[AuditEntry]) {
        let closed = entries.iter().any(|entry| entry.line.contains("\"RepairClosed\""));
        let node = &self.nodes[number];
        let lives_on = closed && before.rebooted.is_some() && !node.stored.closed;
        let is_proven =
            node.agent_reported() && !node.is_known_unhealthy() || node.healthy_since(self.now).is_some();
        if lives_on && !is_proven {
            self.violation(
                "closed as cured without proof",
                format!("node {number}: {:?}", node.known_conditions()),
            );
        }
    }

    /// What a process was given about a node is part of what it has written of it.
    fn take_in(&mut self, process: usize, number: usize) {
        let arrival = self.reads[process].arrival;
        let mut facts = std::mem::take(&mut self.reads[process].facts);
        facts.retain(|(of, fact)| {
            if *of == number {
                self.apply(number, fact, arrival);
            }
            *of != number
        });
        self.reads[process].facts = facts;
        let mut learned = std::mem::take(&mut self.reads[process].learned);
        learned.retain(|(of, fact, read_at)| {
            if *of == number {
                self.apply_read(number, fact, *read_at);
            }
            *of != number
        });
        self.reads[process].learned = learned;
    }

    fn apply(&mut self, number: usize, fact: &Fact, arrival: Timestamp) {
        if let Fact::CloudTrail { call } = fact {
            self.made_calls[*call].reported.get_or_insert(self.now);
        }
        self.nodes[number].learned_at = self.now;
        self.nodes[number].apply(fact, arrival);
    }

    fn trace_written(&mut self, number: usize, case: &Case, entries: &[AuditEntry]) {
        let due = case.due().map(|due| format!("{due:.0}")).unwrap_or_default();
        let phase = case.repair().map(|repair| format!("{:?}", repair.phase())).unwrap_or_default();
        let blocked = case.blocked().as_ref().map(|blocked| blocked.guards.join(",")).unwrap_or_default();
        let known = self.known_conditions(number).iter().any(|known| known.bad);
        self.trace(|| {
            format!(
                "  node {number} v{} due {due} {phase} {blocked} known as bad: {known}",
                case.version() + 1
            )
        });
        for entry in entries {
            let record: serde_json::Value = serde_json::from_str(&entry.line).unwrap_or_default();
            self.trace(|| {
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

    /// All conditions of a node as the handlers know them.
    pub(crate) fn known_conditions(&self, number: usize) -> &[node::KnownCondition] {
        self.nodes[number].known_conditions()
    }

    /// An operator has changed the policy. A case was planned by the one before: its repair is not late before that.
    pub(crate) fn policy_changes(&mut self, settings: Settings) {
        let now = self.now;
        for node in &mut self.nodes {
            let planned = node.known_conditions().iter().filter_map(|one| one.deadline).max();
            let planned = planned.into_iter().chain(node.never_joined_deadline()).max();
            if let Some(planned) = planned {
                node.not_clear_before =
                    node.not_clear_before.max(planned.max(now) + SignedDuration::from_secs(60));
            }
            node.gpu_grace = settings.groups[node.group].gpu_grace;
            node.settling = settings.settling;
            node.learn();
        }
        (self.settings, self.policy_changed) = (settings, Some(now));
        for number in 0..self.nodes.len() {
            self.watch(number);
        }
    }

    /// Whether a process that read this at that time may have read the policy before its last change.
    pub(super) fn policy_is_changing(&self, read_at: Timestamp) -> bool {
        self.policy_changed.is_some_and(|at| at + SLACK >= read_at)
    }

    /// Adds a node that Auto Scaling will launch.
    pub(crate) fn add(&mut self, group: usize, zone: usize) -> usize {
        let gpu_grace = self.settings.groups[group].gpu_grace;
        let mut node = Node::new(self.nodes.len(), group, zone, gpu_grace, self.now);
        (node.registered, node.object) = (None, None);
        node.settling = self.settings.settling;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A call reaches AWS. Returns the error code and a number for its request id, if AWS refuses it.
    pub(crate) fn arrives(&mut self, process: usize, call: &ApiCall) -> Option<(&'static str, usize)> {
        let number = Node::number(call.instance_id());
        self.trace(|| format!("node {number}: {} reaches AWS", call.event_name()));
        let reboot = matches!(call, ApiCall::RebootInstances { .. });
        let action = if reboot { RepairAction::Reboot } else { RepairAction::Replace };
        let written = &mut self.reads[process].written;
        if let Some(place) = written.iter().position(|written| *written == (number, action)) {
            written.swap_remove(place);
        } else {
            self.violation(
                "a call that was not written down",
                format!("node {number}: {}", call.event_name()),
            );
        }
        self.judge_by_truth(number);
        let node = &self.nodes[number];
        let twice = match (node.terminated, node.rebooted.filter(|_| reboot)) {
            (Some(at), _) if node.ours => Some(("terminated twice", at)),
            (Some(at), _) if self.now > at + LEASE => Some(("a call on what was gone", at)),
            (None, Some(at)) => Some(("rebooted twice", at)),
            _ => None,
        };
        if let Some((rule, at)) = twice {
            self.violation(rule, format!("node {number}, first at {at:.0}"));
        }
        let applies = |code: &&str| !reboot || matches!(*code, "Throttling" | "AccessDenied");
        self.refusing.filter(applies).map(|code| (code, self.made_calls.len()))
    }

    /// AWS has answered, whether or not the answer arrives.
    pub(crate) fn answered(&mut self, call: &ApiCall, answer: &CallAnswer, at: Timestamp) {
        let number = Node::number(call.instance_id());
        self.trace(|| format!("node {number}: AWS answers {:?}", answer.outcome));
        let reboot = matches!(call, ApiCall::RebootInstances { .. });
        let node = &mut self.nodes[number];
        match &answer.outcome {
            CallOutcome::Accepted { .. } if reboot => node.rebooted = Some(at),
            CallOutcome::Accepted { .. } => {
                if node.terminated.is_none() {
                    (node.terminated, node.ours) = (Some(at), true);
                }
            }
            CallOutcome::Failed { code, .. } => {
                node.refusals += 1;
                node.denied_reboots += u32::from(reboot && code == "AccessDenied");
                node.not_clear_before = node.not_clear_before.max(at + overdue::pause(code, node.refusals));
            }
            CallOutcome::Unanswered { .. } => {}
        }
        self.made_calls.push(MadeCall {
            number,
            call: call.clone(),
            answer: answer.clone(),
            at,
            reported: None,
        });
    }

    /// A function has crashed or stalled, or a minute had no run: no repair can be overdue for as long as a lease runs.
    pub(crate) fn fault(&mut self) {
        self.last_fault = self.now;
    }
}
