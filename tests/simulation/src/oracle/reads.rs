//! What each process has read, and what of it a claim is based on.

use std::sync::Arc;

use jiff::Timestamp;
use nodemend_domain::{
    condition::RepairAction,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::UnhealthyNode,
    ident::{GroupName, InstanceId},
    policy::{Hold, Policy},
};
use std::collections::HashMap;

use super::node::{Fact, Node};

/// What one process has read, each with its index in the order of its reads. It may handle several nodes at once.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(super) order: u64,
    cases: HashMap<usize, Began>,
    pub(crate) location: HashMap<InstanceId, (InstanceLocation, u64)>,
    pub(crate) groups: HashMap<GroupName, (Option<Arc<Group>>, u64)>,
    pub(crate) states: HashMap<GroupName, (GroupState, u64)>,
    /// Reads of the whole cluster: nobody can tell for which of its nodes each was made.
    pub(crate) cluster_facts: Vec<(Arc<ClusterFacts>, u64)>,
    pub(crate) unhealthy_nodes: Vec<(Vec<UnhealthyNode>, u64)>,
    pub(crate) holds: Vec<(Vec<Hold>, u64)>,
    pub(crate) policy: Option<Option<Arc<Policy>>>,
    pub(super) now: Timestamp,
    /// What it was given to apply, and the time of arrival.
    pub(super) facts: Vec<(usize, Fact)>,
    pub(super) arrival: Timestamp,
    /// What it had read by its last claim of each node.
    pub(super) claims: HashMap<usize, Basis>,
    /// The calls that it has recorded and not made.
    pub(super) written: Vec<(usize, RepairAction)>,
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
}

impl Reads {
    /// Begins without any reads. Reuses the memory of another process's.
    pub(super) fn begin(&mut self, facts: Vec<(usize, Fact)>, arrival: Timestamp) {
        let now = arrival;
        let Self { mut cases, mut location, mut groups, mut states, mut claims, .. } = std::mem::take(self);
        cases.clear();
        location.clear();
        groups.clear();
        states.clear();
        claims.clear();
        *self = Self { cases, location, groups, states, claims, facts, arrival, now, ..Self::default() };
    }

    pub(crate) fn case(&mut self, instance: &InstanceId, version: u64, order: u64) {
        self.cases.insert(Node::number(instance), Began { version, order, at: self.now });
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
        })
    }
}
