//! What each process has read, and what of it a claim rests on.

use std::sync::Arc;

use foldhash::HashMap;
use jiff::Timestamp;
use nodemend_domain::{
    condition::RepairAction,
    group::{ClusterFacts, Group, GroupState, Whereabouts},
    guard::Unwell,
    ident::{GroupName, InstanceId},
    policy::{Hold, Policy},
};

use super::node::{Node, Word};

/// What one process has read, each with its place in the order of all its reads. It may be at several nodes at once.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(super) order: u64,
    cases: HashMap<usize, Began>,
    pub(crate) whereabouts: HashMap<InstanceId, (Whereabouts, u64)>,
    pub(crate) groups: HashMap<GroupName, (Option<Arc<Group>>, u64)>,
    pub(crate) states: HashMap<GroupName, (GroupState, u64)>,
    /// Of the whole cluster: for which of its nodes each was read, nobody can tell.
    pub(crate) facts: Vec<(Arc<ClusterFacts>, u64)>,
    pub(crate) unwell: Vec<(Vec<Unwell>, u64)>,
    pub(crate) holds: Vec<(Vec<Hold>, u64)>,
    pub(crate) policy: Option<Option<Arc<Policy>>>,
    pub(super) now: Timestamp,
    /// What it was given to take in, and the time that it was told.
    pub(super) words: Vec<(usize, Word)>,
    pub(super) arrival: Timestamp,
    /// What it had read by its last claim of each node.
    pub(super) claims: HashMap<usize, Basis>,
    /// The calls that it has written down and not made.
    pub(super) written: Vec<(usize, RepairAction)>,
}

/// A reading of a case.
#[derive(Debug, Clone)]
struct Began {
    version: u64,
    order: u64,
    at: Timestamp,
}

/// What a claim rests on: all that was read since its case was.
#[derive(Debug)]
pub(crate) struct Basis {
    /// The version of the case, and when it was read.
    pub(crate) version: u64,
    pub(crate) at: Timestamp,
    pub(crate) whereabouts: Option<Whereabouts>,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) state: Option<GroupState>,
    pub(crate) facts: Vec<Arc<ClusterFacts>>,
    pub(crate) unwell: Vec<Vec<Unwell>>,
    pub(crate) holds: Vec<Vec<Hold>>,
    pub(crate) policy: Option<Arc<Policy>>,
}

impl Reads {
    /// As nothing was read yet. What held another process's readings is used again.
    pub(super) fn begin(&mut self, words: Vec<(usize, Word)>, arrival: Timestamp) {
        let now = arrival;
        let Self { mut cases, mut whereabouts, mut groups, mut states, mut claims, .. } =
            std::mem::take(self);
        cases.clear();
        whereabouts.clear();
        groups.clear();
        states.clear();
        claims.clear();
        *self = Self { cases, whereabouts, groups, states, claims, words, arrival, now, ..Self::default() };
    }

    pub(crate) fn case(&mut self, instance: &InstanceId, version: u64, order: u64) {
        self.cases.insert(Node::number(instance), Began { version, order, at: self.now });
    }

    /// What a claim rests on that is being written.
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
            whereabouts: one(began.order, self.whereabouts.get(instance)),
            group: one(began.order, self.groups.get(group)).flatten(),
            state: one(began.order, self.states.get(group)),
            facts: since(began.order, &self.facts),
            unwell: since(began.order, &self.unwell),
            holds: since(began.order, &self.holds),
            policy: self.policy.clone().flatten(),
        })
    }
}
