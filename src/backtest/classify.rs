//! Finds how an incident ended in the history, where the repair was not made.
//!
//! The baseline is a second set of handlers that sees the whole history and makes no call. The case of a node there
//! shows whether the node recovered, rebooted, was terminated, or stayed unhealthy.

use jiff::Timestamp;
use memchr::memmem;
use nodemend_domain::{
    case::{Case, Fault},
    ident::BootId,
    policy::Policy,
    repair_event::RepairEvent,
};
use nodemend_ports::store::{CaseKey, Store};

use crate::replay::{
    drive::Driver,
    input::{Input, Payload},
};

/// The repair that a resolution is for, by its index in the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepairRef {
    Called(usize),
    Blocked(usize),
}

/// How an incident ended in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Not decided yet.
    Unknown,
    /// A repair that was blocked at first was called later.
    Called,
    /// The node recovered without repair, and stayed healthy for the recovery hold.
    Recovered(Timestamp),
    /// The node recovered with a new boot.
    Rebooted(Timestamp),
    /// The instance was terminated, with a sentence about by whom.
    InstanceGone(Timestamp, String),
    /// The node was still unhealthy at the end of the history.
    Ongoing(Timestamp),
}

/// Watches the nodes of repairs until their incidents end.
pub(super) struct Classifier {
    policy: Policy,
    open: Vec<OpenIncident>,
    resolved: Vec<(RepairRef, Resolution)>,
}

/// An incident that is not over.
struct OpenIncident {
    repair: RepairRef,
    key: CaseKey,
    node: String,
    /// When the repair was called or became due.
    from: Timestamp,
    boot: Option<BootId>,
    /// When the node became healthy, while the recovery hold runs.
    healthy_since: Option<Timestamp>,
}

impl Classifier {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, open: Vec::new(), resolved: Vec::new() }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Starts watching the node of a repair.
    pub(super) fn watch(
        &mut self,
        baseline: &Driver,
        event: &RepairEvent,
        from: Timestamp,
        repair: RepairRef,
    ) {
        let key = CaseKey { cluster: event.cluster.clone(), instance_id: event.instance_id.clone() };
        let boot = case(baseline, &key).and_then(|case| case.boot().map(|boot| boot.id.clone()));
        let node = event.node.as_ref().map_or_else(String::new, ToString::to_string);
        self.open.push(OpenIncident { repair, key, node, from, boot, healthy_since: None });
    }

    /// Whether the incident of a repair is not over.
    pub(super) fn is_open(&self, repair: RepairRef) -> bool {
        self.open.iter().any(|open| open.repair == repair)
    }

    /// Call it before the baseline handles an input: ends the incidents whose recovery hold is over by then.
    pub(super) fn before(&mut self, baseline: &Driver, input: &Input) {
        self.check(baseline, input, true);
    }

    /// Call it after the baseline handled an input: records recoveries that start now. None of them ends an incident,
    /// because its recovery hold has only begun.
    pub(super) fn after(&mut self, baseline: &Driver, input: &Input) {
        self.check(baseline, input, false);
    }

    fn check(&mut self, baseline: &Driver, input: &Input, may_end: bool) {
        let mut index = 0;
        while let Some(open) = self.open.get_mut(index) {
            let resolution = if open.is_about(input) {
                open.resolve(&self.policy, baseline, input.at).filter(|_| may_end)
            } else {
                None
            };
            match resolution {
                Some(resolution) => {
                    let open = self.open.swap_remove(index);
                    self.resolved.push((open.repair, resolution));
                }
                None => index += 1,
            }
        }
    }

    /// Resolves what is still open, at the end of the history.
    pub(super) fn finish(&mut self, baseline: &Driver, last: Timestamp) {
        for mut open in std::mem::take(&mut self.open) {
            let resolution = open.resolve(&self.policy, baseline, last).unwrap_or(Resolution::Ongoing(last));
            self.resolved.push((open.repair, resolution));
        }
    }

    /// Takes everything that was resolved.
    pub(super) fn take_resolved(&mut self) -> Vec<(RepairRef, Resolution)> {
        std::mem::take(&mut self.resolved)
    }
}

impl OpenIncident {
    /// Whether an input may be about this node.
    fn is_about(&self, input: &Input) -> bool {
        match &input.payload {
            Payload::Log { stream, message, .. } => {
                stream == self.key.instance_id.as_str()
                    || !self.node.is_empty()
                        && memmem::find(message.as_bytes(), self.node.as_bytes()).is_some()
                    || memmem::find(message.as_bytes(), self.key.instance_id.as_str().as_bytes()).is_some()
            }
            Payload::Subscription(_) | Payload::Event(_) | Payload::CloudTrail(_) => true,
        }
    }

    fn resolve(&mut self, policy: &Policy, baseline: &Driver, now: Timestamp) -> Option<Resolution> {
        let case = case(baseline, &self.key)?;
        let faults: Vec<Fault> = case.state_and_faults(None, policy, now).1;
        let acting = || faults.iter().filter(|fault| fault.deadline.is_some());
        if acting().next().is_none() {
            let at = self.healthy_since.unwrap_or(now).max(self.from);
            let rebooted = case
                .boot()
                .map(|boot| boot.id.clone())
                .is_some_and(|boot| self.boot.as_ref().is_some_and(|before| *before != boot));
            return Some(if rebooted { Resolution::Rebooted(at) } else { Resolution::Recovered(at) });
        }
        // A node that became healthy and was then terminated counts as gone: it is unknown whether it would have stayed
        // healthy.
        if let Some(departure) = &case.departure() {
            return Some(Resolution::InstanceGone(departure.at.max(self.from), departure.how.clone()));
        }
        let heals = || acting().map(|fault| fault.heals_at);
        self.healthy_since = if heals().all(|at| at.is_some()) {
            heals().flatten().max().and_then(|at| at.checked_sub(policy.recovery_hold).ok())
        } else {
            None
        };
        None
    }
}

fn case(baseline: &Driver, key: &CaseKey) -> Option<Box<Case>> {
    pollster::block_on(baseline.store.case(key)).ok().flatten()
}
