//! The true state of the simulated cluster decides, whatever was reported of it: no call on a node that is
//! healthy.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::policy::{Policy, VerificationPolicy};

use super::{
    Oracle,
    node::Fact,
    reads::{Basis, Verified},
};

/// A call can leave this long after a recovery: reports and reads take time.
const RECOVERED: SignedDuration = SignedDuration::from_mins(2);

/// For so long a process uses lines that it has read for another node.
const SHARED: SignedDuration = SignedDuration::from_secs(5);

impl Oracle {
    /// A call on a node reaches AWS.
    pub(super) fn judge_by_truth(&mut self, number: usize) {
        let now = self.now;
        let Some(since) = self.nodes[number].healthy_since(now) else { return };
        if now.duration_since(since) <= RECOVERED {
            return;
        }
        self.calls_on_healthy += 1;
        if self.verifies && !self.nodes[number].unverified {
            self.violation(
                "a call on a node that is healthy in truth",
                format!("node {number}, healthy since {since:.0}"),
            );
        }
    }

    /// An operator may want repairs without verification: then a call on a healthy node is counted, and no violation.
    pub(super) fn unverified_by_choice(&mut self, number: usize, basis: Option<&Basis>) {
        let preferred = |policy: &Policy| policy.verification == VerificationPolicy::Preferred;
        let chosen = |basis: &Basis| {
            basis.policy.as_deref().is_some_and(preferred)
                && basis
                    .verified
                    .as_ref()
                    .is_none_or(|verified| verified.is_incomplete(false) && verified.is_incomplete(true))
        };
        self.nodes[number].unverified = basis.is_some_and(chosen);
    }

    /// What the verification that a claim rests on has against it.
    pub(super) fn unverified(
        &self,
        number: usize,
        agents: bool,
        basis: &Basis,
    ) -> Option<(&'static str, String)> {
        if !self.verifies {
            return None;
        }
        let preferred =
            basis.policy.as_ref().is_some_and(|policy| policy.verification == VerificationPolicy::Preferred);
        let Some(verified) = &basis.verified else {
            // Where its first read fails before it is made, what it shares with other nodes is not noted.
            if preferred || basis.read_failed {
                return None;
            }
            return Some(("a call that nothing verified", "nothing was read of the node".to_owned()));
        };
        let rule = match () {
            () if verified.is_incomplete(agents) && preferred => return None,
            () if verified.is_incomplete(agents) => "a call that could not be verified",
            () if verified.contradicted => "a call that was contradicted",
            () if verified.is_healthy(agents) && !self.nodes[number].knows_newer(verified) => {
                "a call on a node that was read as healthy"
            }
            () => return None,
        };
        Some((rule, format!("{verified:?}")))
    }

    /// A process is one of the reconcile function.
    pub(crate) fn reconciles(&mut self, process: usize) {
        self.reads[process].reconciles = true;
    }

    /// Whether a process is one of the reconcile function.
    pub(crate) fn is_reconciling(&self, process: usize) -> bool {
        self.reads[process].reconciles
    }

    /// A process has read a fact of a node itself.
    pub(crate) fn learn(&mut self, process: usize, number: usize, fact: Fact, read_at: Timestamp) {
        if !self.reads[process].reconciles {
            self.trace(|| format!("  process {process} reads of node {number}: {fact:?}"));
        }
        self.reads[process].learned.push((number, fact, read_at));
    }

    /// A process has read lines of the control plane's log: it uses them for each node that it verifies now or soon.
    pub(crate) fn share(&mut self, process: usize, facts: &[(usize, Fact)], read_at: Timestamp) {
        let now = self.now;
        let reads = &mut self.reads[process];
        let lines: Vec<_> = facts.iter().map(|(number, fact)| (*number, fact.clone(), read_at)).collect();
        reads.shared.extend_from_slice(&lines);
        reads.shared_at = Some(now);
        for (number, _) in reads.verifying.clone() {
            self.use_shared(process, number, &lines);
        }
    }

    /// When a process began.
    pub(crate) fn began(&self, process: usize) -> Timestamp {
        self.reads[process].arrival
    }

    /// Since when a process verifies a node.
    pub(crate) fn verifies_since(&self, process: usize, number: usize) -> Option<Timestamp> {
        self.reads[process]
            .verifying
            .iter()
            .find(|(verifying, _)| *verifying == number)
            .map(|(_, since)| *since)
    }

    /// An operation of a process fails.
    pub(crate) fn fails(&mut self, process: usize) {
        self.reads[process].read_failed = true;
    }

    /// A process stalls until then.
    pub(crate) fn stalls(&mut self, process: usize, until: Timestamp) {
        let reads = &mut self.reads[process];
        let since = reads.stalled.filter(|(_, end)| *end == self.now).map_or(self.now, |(since, _)| since);
        reads.stalled = Some((since, until));
    }

    /// A process begins to verify a node. It may have noted the time of that before it stalled.
    pub(crate) fn begins_to_verify(&mut self, process: usize, number: usize) {
        if self.verifies_since(process, number).is_some() {
            return;
        }
        let reads = &mut self.reads[process];
        let stalled = reads.stalled.filter(|(_, end)| *end == self.now);
        reads.verifying.push((number, stalled.map_or(self.now, |(since, _)| since)));
        if reads.shared_at.is_some_and(|at| self.now.duration_since(at) <= SHARED) {
            let lines = reads.shared.clone();
            self.use_shared(process, number, &lines);
        }
    }

    /// A process is about to write a case. Where an operation of it has failed, that can have been the read of EC2 by which a
    /// verification begins.
    pub(super) fn verifies_without_ec2(&mut self, process: usize, number: usize) {
        if self.reads[process].read_failed {
            self.begins_to_verify(process, number);
        }
    }

    fn use_shared(&mut self, process: usize, number: usize, lines: &[(usize, Fact, Timestamp)]) {
        self.verified(process, number, |verified| verified.failed = false);
        for (number, fact, read_at) in lines.iter().filter(|(of, ..)| *of == number) {
            self.verified(process, *number, |verified| verified.read_line(fact));
            self.learn(process, *number, fact.clone(), *read_at);
        }
    }

    /// What a process finds as it verifies the fault of a node.
    pub(crate) fn verified(&mut self, process: usize, number: usize, change: impl FnOnce(&mut Verified)) {
        let reads = &mut self.reads[process];
        reads.order += 1;
        let verified = reads.verified.entry(number).or_default();
        verified.1 = reads.order;
        change(&mut verified.0);
    }

    /// Applies a fact that was read rather than delivered.
    pub(super) fn apply_read(&mut self, number: usize, fact: &Fact, read_at: Timestamp) {
        let node = &mut self.nodes[number];
        if node.stored.closed || matches!(fact, Fact::Agent(fact) if !node.is_news(*fact)) {
            return;
        }
        node.learned_at = self.now;
        node.apply(fact, read_at);
    }
}
