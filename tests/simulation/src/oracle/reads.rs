//! What each process has read, and what of it a claim is based on.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    condition::Health,
    condition::RepairAction,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::UnhealthyNode,
    ident::{GroupName, InstanceId},
    policy::{Hold, Policy},
    verification::VALID_FOR,
};
use std::collections::HashMap;

use super::node::{AgentFact, Fact, Node, NodeObject};

/// What one process has read, each with its index in the order of its reads. It may handle several nodes at once.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(super) order: u64,
    cases: HashMap<usize, Began>,
    pub(crate) location: HashMap<InstanceId, (InstanceLocation, u64)>,
    pub(crate) groups: HashMap<GroupName, (Option<Arc<Group>>, u64)>,
    pub(crate) states: HashMap<GroupName, (GroupState, u64)>,
    /// Reads of the whole cluster: it is unknown for which of its nodes each was made.
    pub(crate) cluster_facts: Vec<(Arc<ClusterFacts>, u64)>,
    pub(crate) unhealthy_nodes: Vec<(Vec<UnhealthyNode>, u64)>,
    pub(crate) holds: Vec<(Vec<Hold>, u64)>,
    pub(crate) policy: Option<Option<Arc<Policy>>>,
    pub(super) now: Timestamp,
    /// What it was given to apply, and the time of arrival.
    pub(super) facts: Vec<(usize, Fact)>,
    pub(super) arrival: Timestamp,
    /// What it has read of nodes to verify their faults, with the time of the reading. It counts once the case is written.
    pub(super) learned: Vec<(usize, Fact, Timestamp)>,
    /// The node whose case another process wrote before its last write.
    pub(crate) lost: Option<usize>,
    /// What it has read of the control plane's log for all nodes that it handles, and when.
    pub(super) shared: Vec<(usize, Fact, Timestamp)>,
    pub(super) shared_at: Option<Timestamp>,
    /// When it stalled last, from when until when.
    pub(super) stalled: Option<(Timestamp, Timestamp)>,
    /// The nodes that it verifies, and since when: they also use what it reads for another one meanwhile.
    pub(super) verifying: Vec<(usize, Timestamp)>,
    /// It applies what it has read of all nodes to the newest version of each case.
    pub(crate) reconciles: bool,
    /// What that shows of each node, and its index in the order of the reads.
    pub(super) verified: HashMap<usize, (Verified, u64)>,
    /// The same that it had read before it read the case again. A reading of a log group is shared while it is young.
    earlier: HashMap<usize, (Verified, Timestamp)>,
    /// What it had read by its last claim of each node.
    pub(super) claims: HashMap<usize, Basis>,
    /// A read has failed before it was made.
    pub(super) read_failed: bool,
    /// The calls that it has recorded and not made.
    pub(super) written: Vec<(usize, RepairAction)>,
}

/// What a process has read of a node since it read the case, to verify the fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verified {
    /// The last read of the Node, or of the control plane's log, failed.
    pub(crate) failed: bool,
    /// The last read of the requests of its kubelet failed.
    pub(crate) kubelets_failed: bool,
    /// Whether the last read of its agent's log failed, if there was any.
    pub(crate) agent_failed: Option<bool>,
    /// Something contradicts the fault.
    pub(crate) contradicted: bool,
    /// Whether the Node object is ready; none if there is no Node object.
    object: Option<bool>,
    /// The last line on its Ready condition.
    ready: Option<(Timestamp, bool)>,
    /// The newest report of its agent on each condition.
    reports: Vec<AgentFact>,
}

impl Verified {
    /// Whether what it needs to know of a fault could not be read: what an agent reported is verified in its log, anything else
    /// with what the control plane has.
    pub(super) fn is_incomplete(&self, agents: bool) -> bool {
        if agents { self.agent_failed != Some(false) } else { self.failed || self.kubelets_failed }
    }

    pub(crate) fn read_object(&mut self, object: Option<&NodeObject>) {
        self.failed = false;
        self.object = object.map(|object| object.ready == Health::Healthy);
    }

    pub(crate) fn read_line(&mut self, fact: &Fact) {
        match fact {
            Fact::Ready { at, bad, .. } => self.ready = self.ready.max(Some((*at, *bad))),
            Fact::NodeDeleted { at, .. } => self.ready = self.ready.max(Some((*at, true))),
            Fact::Agent(fact) => match self.reports.iter_mut().find(|known| known.track == fact.track) {
                Some(known) if (known.boot, known.seq) > (fact.boot, fact.seq) => {}
                Some(known) => *known = *fact,
                None => self.reports.push(*fact),
            },
            _ => {}
        }
    }

    /// When the last line on its Ready condition was written.
    pub(super) fn ready(&self) -> Option<Timestamp> {
        self.ready.map(|(at, _)| at)
    }

    pub(super) fn reports(&self) -> &[AgentFact] {
        &self.reports
    }

    /// Whether what was read of the fault shows that the node is healthy.
    pub(crate) fn is_healthy(&self, agents: bool) -> bool {
        if agents {
            !self.reports.is_empty() && self.reports.iter().all(|report| !report.bad)
        } else {
            self.object.or(self.ready.map(|(_, bad)| !bad)).unwrap_or(false)
        }
    }
}

/// A read of a case.
#[derive(Debug, Clone)]
struct Began {
    version: u64,
    order: u64,
    at: Timestamp,
}

/// What a claim is based on: everything that was read since its case was.
#[derive(Debug)]
pub(crate) struct Basis {
    /// The version of the case, and when it was read.
    pub(crate) version: u64,
    pub(crate) at: Timestamp,
    pub(crate) location: Option<InstanceLocation>,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) state: Option<GroupState>,
    pub(crate) cluster_facts: Vec<Arc<ClusterFacts>>,
    pub(crate) unhealthy_nodes: Vec<Vec<UnhealthyNode>>,
    pub(crate) holds: Vec<Vec<Hold>>,
    pub(crate) policy: Option<Arc<Policy>>,
    /// What the verification since then found.
    pub(crate) verified: Option<Verified>,
    /// The process has not made a read of it that it was to make.
    pub(crate) read_failed: bool,
}

impl Reads {
    /// Begins without any reads. Reuses the memory of another process's.
    pub(super) fn begin(&mut self, facts: Vec<(usize, Fact)>, arrival: Timestamp) {
        let now = arrival;
        let Self {
            mut cases,
            mut location,
            mut groups,
            mut states,
            mut claims,
            mut verified,
            mut earlier,
            ..
        } = std::mem::take(self);
        earlier.clear();
        cases.clear();
        location.clear();
        groups.clear();
        states.clear();
        claims.clear();
        verified.clear();
        let kept = Self { cases, location, groups, states, claims, verified, earlier, ..Self::default() };
        *self = Self { facts, arrival, now, ..kept };
    }

    pub(crate) fn case(&mut self, instance: &InstanceId, version: u64, order: u64) {
        let number = Node::number(instance);
        self.cases.insert(number, Began { version, order, at: self.now });
        // What was read before is applied again after a lost race. Otherwise it was not written, and is read again.
        if self.lost.take() != Some(number) && !self.reconciles {
            self.learned.retain(|(of, ..)| *of != number);
        }
        self.verifying.retain(|(verifying, _)| *verifying != number);
        if let Some((verified, _)) = self.verified.remove(&number) {
            self.earlier.insert(number, (verified, self.now));
        }
    }

    /// It has written this version of the case itself.
    pub(super) fn wrote(&mut self, number: usize, version: u64) {
        if let Some(began) = self.cases.get_mut(&number) {
            began.version = version;
        }
    }

    /// What a claim that is being written is based on.
    pub(super) fn basis(&self, number: usize, instance: &InstanceId, group: &GroupName) -> Option<Basis> {
        fn since<T: Clone>(order: u64, all: &[(T, u64)]) -> Vec<T> {
            all.iter().filter(|(_, read)| *read > order).map(|(value, _)| value.clone()).collect()
        }
        fn one<T: Clone>(order: u64, read: Option<&(T, u64)>) -> Option<T> {
            read.filter(|(_, read)| *read > order).map(|(value, _)| value.clone())
        }
        let began = self.cases.get(&number)?;
        Some(Basis {
            version: began.version,
            at: began.at,
            location: one(began.order, self.location.get(instance)),
            group: one(began.order, self.groups.get(group)).flatten(),
            state: one(began.order, self.states.get(group)),
            cluster_facts: since(began.order, &self.cluster_facts),
            unhealthy_nodes: since(began.order, &self.unhealthy_nodes),
            holds: since(began.order, &self.holds),
            policy: self.policy.clone().flatten(),
            read_failed: self.read_failed,
            verified: one(began.order, self.verified.get(&number)).or_else(|| self.read_before(number)),
        })
    }

    /// What it read of a node before it read the case again, or for another node, and is still young enough for a call.
    fn read_before(&self, number: usize) -> Option<Verified> {
        let is_young = |at: Timestamp| self.now.duration_since(at) <= VALID_FOR;
        let earlier = self.earlier.get(&number).filter(|(_, at)| is_young(*at));
        earlier.map(|(verified, _)| verified.clone()).or_else(|| {
            self.shared_at.filter(|at| is_young(*at))?;
            let mut verified = Verified::default();
            for (_, fact, _) in self.shared.iter().filter(|(of, ..)| *of == number) {
                verified.read_line(fact);
            }
            Some(verified)
        })
    }
}
