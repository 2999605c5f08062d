//! Turns what the history tells of a node after a repair would have been called into how its trouble ended without one.

use jiff::Timestamp;
use memchr::memmem;
use nodemend_adapters::store::{CaseKey, Store};
use nodemend_domain::{
    case::{Case, Fault},
    ident::BootId,
    occurrence::Occurrence,
    policy::Policy,
};

use crate::replay::{
    drive::Driver,
    input::{Input, What},
};

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A repair, by its place among the repairs.
    Repair(usize),
    /// A repair that was withheld, by its place among those.
    Withheld(usize),
}

/// How a node's trouble ended in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nobody knows yet.
    Open,
    /// It was not withheld in the end, but made.
    Made,
    /// The node was well again by itself, and that held.
    Recovered(Timestamp),
    /// It was well again after a reboot.
    Rebooted(Timestamp),
    /// It left, as the sentence says.
    Gone(Timestamp, String),
    /// It was still sick when the history ended.
    Lasted(Timestamp),
}

/// Watches what is judged.
pub(super) struct Judge {
    policy: Policy,
    open: Vec<Open>,
    ended: Vec<(Subject, Ending)>,
}

struct Open {
    subject: Subject,
    key: CaseKey,
    node: String,
    from: Timestamp,
    boot: Option<BootId>,
    /// When it became well, if it is and that has yet to hold.
    well: Option<Timestamp>,
}

impl Judge {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, open: Vec::new(), ended: Vec::new() }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Watches a node from now on.
    pub(super) fn open(
        &mut self,
        witness: &Driver,
        occurrence: &Occurrence,
        from: Timestamp,
        subject: Subject,
    ) {
        let key =
            CaseKey { cluster: occurrence.cluster.clone(), instance_id: occurrence.instance_id.clone() };
        let boot = case(witness, &key).and_then(|case| case.boot).map(|boot| boot.id);
        let node = occurrence.node.as_ref().map_or_else(String::new, ToString::to_string);
        self.open.push(Open { subject, key, node, from, boot, well: None });
    }

    /// Whether its trouble goes on, as far as anybody knows.
    pub(super) fn is_open(&self, subject: Subject) -> bool {
        self.open.iter().any(|open| open.subject == subject)
    }

    /// What is so right before an input is heard.
    pub(super) fn before(&mut self, witness: &Driver, input: &Input) {
        self.look(witness, input, true);
    }

    /// What is so right after it.
    pub(super) fn after(&mut self, witness: &Driver, input: &Input) {
        self.look(witness, input, false);
    }

    fn look(&mut self, witness: &Driver, input: &Input, may_end: bool) {
        let mut place = 0;
        while let Some(open) = self.open.get_mut(place) {
            let ending = if open.is_about(input) {
                open.look(&self.policy, witness, input.at).filter(|_| may_end)
            } else {
                None
            };
            match ending {
                Some(ending) => {
                    let open = self.open.swap_remove(place);
                    self.ended.push((open.subject, ending));
                }
                None => place += 1,
            }
        }
    }

    /// The history ends.
    pub(super) fn finish(&mut self, witness: &Driver, last: Timestamp) {
        for mut open in std::mem::take(&mut self.open) {
            let ending = open.look(&self.policy, witness, last).unwrap_or(Ending::Lasted(last));
            self.ended.push((open.subject, ending));
        }
    }

    /// Everything that was judged.
    pub(super) fn endings(&mut self) -> Vec<(Subject, Ending)> {
        std::mem::take(&mut self.ended)
    }
}

impl Open {
    /// Whether an input may tell of this node.
    fn is_about(&self, input: &Input) -> bool {
        match &input.what {
            What::Log { stream, message, .. } => {
                stream == self.key.instance_id.as_str()
                    || !self.node.is_empty()
                        && memmem::find(message.as_bytes(), self.node.as_bytes()).is_some()
                    || memmem::find(message.as_bytes(), self.key.instance_id.as_str().as_bytes()).is_some()
            }
            What::Payload(_) | What::Event(_) | What::CloudTrail(_) => true,
        }
    }

    fn look(&mut self, policy: &Policy, witness: &Driver, now: Timestamp) -> Option<Ending> {
        let case = case(witness, &self.key)?;
        let faults: Vec<Fault> = case.standing(None, policy, now).1;
        let acting = || faults.iter().filter(|fault| fault.deadline.is_some());
        if acting().next().is_none() {
            let at = self.well.unwrap_or(now).max(self.from);
            let rebooted = case
                .boot
                .map(|boot| boot.id)
                .is_some_and(|boot| self.boot.as_ref().is_some_and(|before| *before != boot));
            return Some(if rebooted { Ending::Rebooted(at) } else { Ending::Recovered(at) });
        }
        // Well, and then gone, is gone: nobody knows whether it would have held.
        if let Some(departure) = &case.departure {
            return Some(Ending::Gone(departure.at.max(self.from), departure.how.clone()));
        }
        let heals = || acting().map(|fault| fault.heals_at);
        self.well = if heals().all(|at| at.is_some()) {
            heals().flatten().max().and_then(|at| at.checked_sub(policy.recovery_hold).ok())
        } else {
            None
        };
        None
    }
}

fn case(witness: &Driver, key: &CaseKey) -> Option<Box<Case>> {
    pollster::block_on(witness.store.case(key)).ok().flatten()
}
