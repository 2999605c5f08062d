//! The ports that a simulated function is given: the memory side of each, watched by the judge, with an AWS that
//! refuses and a clock that is a little wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    clock::{Clock, VirtualClock},
    cloud::{Cloud, CloudError, MemoryCloud},
    store::{CaseKey, Change, Commit, MemoryStore, Store, StoreError},
    trail::Trail,
};
use nodemend_domain::{
    case::Case,
    group::{ClusterFacts, Group, GroupState, Whereabouts},
    guard::Unwell,
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    ledger::Entry,
    policy::{Hold, Policy},
    trail::{Answer, ApiCall, Caller, Outcome},
};

use crate::judge::Judge;

/// The judge, as all ports see it. One thread, so never waited for.
#[derive(Clone)]
pub(crate) struct Bench(Arc<Mutex<Judge>>);

impl Bench {
    pub(crate) fn new(judge: Judge) -> Self {
        Self(Arc::new(Mutex::new(judge)))
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store whose every read and write of one process the judge sees.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) store: MemoryStore,
    pub(crate) bench: Bench,
    pub(crate) process: usize,
}

impl Store for Watched {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        let case = self.store.case(key).await?;
        let version = case.as_ref().map_or(0, |case| case.version);
        self.bench.judge().read(self.process, |reads, order| reads.case(&key.instance_id, version, order));
        Ok(case)
    }

    async fn instances_of_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
    ) -> Result<Vec<InstanceId>, StoreError> {
        self.store.instances_of_node(cluster, node).await
    }

    async fn cluster_of_instance(&self, instance_id: &InstanceId) -> Result<Option<ClusterName>, StoreError> {
        self.store.cluster_of_instance(instance_id).await
    }

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<CaseKey>, StoreError> {
        self.store.due(until, limit).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.store.next_due().await
    }

    async fn unwell(&self, cluster: &ClusterName) -> Result<Vec<Unwell>, StoreError> {
        let unwell = self.store.unwell(cluster).await?;
        self.bench.judge().read(self.process, |reads, order| reads.unwell.push((unwell.clone(), order)));
        Ok(unwell)
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        let state = self.store.group(cluster, name).await?;
        self.bench.judge().read(self.process, |reads, order| {
            reads.states.insert(name.clone(), (state.clone(), order));
        });
        Ok(state)
    }

    async fn commit(&self, change: Change<'_>) -> Result<Commit, StoreError> {
        let (case, group, entries) = (change.case, change.group, change.entries);
        let commit = self.store.commit(Change { case, group, entries }).await?;
        if commit == Commit::Won {
            self.bench.judge().written(self.process, case, group, entries);
        }
        Ok(commit)
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        let policy = self.store.policy(cluster).await?;
        self.bench.judge().read(self.process, |reads, _| reads.policy = Some(policy.clone()));
        Ok(policy)
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        let holds = self.store.holds(cluster).await?;
        self.bench.judge().read(self.process, |reads, order| reads.holds.push((holds.clone(), order)));
        Ok(holds)
    }
}

impl Trail for Watched {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<Entry>, StoreError> {
        self.store.chain(key).await
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, Entry)>, StoreError> {
        self.store.call(request_id).await
    }
}

/// AWS, watched, and refusing calls while it is told to.
#[derive(Clone)]
pub(crate) struct Aws {
    pub(crate) cloud: MemoryCloud,
    pub(crate) clock: VirtualClock,
    pub(crate) bench: Bench,
    pub(crate) process: usize,
}

impl Cloud for Aws {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(Self { cloud: self.cloud.in_account(account).await?, ..self.clone() })
    }

    async fn locate(&self, instances: &[InstanceId]) -> Result<Vec<Whereabouts>, CloudError> {
        let found = self.cloud.locate(instances).await?;
        self.bench.judge().read(self.process, |reads, order| {
            if let ([instance], [found]) = (instances, found.as_slice()) {
                reads.whereabouts.insert(instance.clone(), (found.clone(), order));
            }
        });
        Ok(found)
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        let group = self.cloud.group(name).await?;
        self.bench.judge().read(self.process, |reads, order| {
            reads.groups.insert(name.clone(), (group.clone(), order));
        });
        Ok(group)
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        let facts = self.cloud.cluster(name).await?;
        self.bench.judge().read(self.process, |reads, order| reads.facts.push((facts.clone(), order)));
        Ok(facts)
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.cloud.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> Answer {
        let refusal = self.bench.judge().arrives(self.process, call);
        let answer = match refusal {
            Some((code, number)) => Answer {
                request_id: Some(format!("refused-{number}")),
                outcome: Outcome::Failed { code: code.to_owned(), message: "Rate exceeded".to_owned() },
            },
            None => self.cloud.call(call).await,
        };
        self.bench.judge().answered(call, &answer, self.clock.now());
        answer
    }

    fn caller(&self) -> &Caller {
        self.cloud.caller()
    }
}

/// A function's clock.
#[derive(Clone)]
pub(crate) struct Skewed {
    pub(crate) clock: VirtualClock,
    pub(crate) skew: SignedDuration,
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        self.clock.now() + self.skew
    }
}
