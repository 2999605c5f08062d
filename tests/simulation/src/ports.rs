//! The ports of a simulated function: the in-memory side of each, watched by the oracle, with an AWS that refuses calls
//! and a clock that is a little wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, AuditEntry, CallAnswer, CallOutcome, Caller},
    case::{Case, Consistency},
    condition::Health,
    group::{ClusterFacts, Group, GroupState, InstanceLocation},
    guard::UnhealthyNode,
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    policy::{Hold, Policy},
    sources::ClusterSources,
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Cloud, CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, Lines, LogPage, LogQuery, ReadError, Streams},
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store, StoreError},
};

use nodemend_testkit::fixture::{self, AUDIT_STREAM};

use crate::{
    oracle::{
        Oracle,
        node::{Fact, Node, NodeObject},
        reads::Reads,
    },
    other_clusters,
    reading::{self, Access},
    tasks::{self, Sleep},
};

/// A read that takes longer has stalled.
const STALLED: SignedDuration = SignedDuration::from_secs(2);

/// The oracle, shared by all ports. There is one thread: the lock never waits.
#[derive(Clone)]
pub(crate) struct SharedOracle(Arc<Mutex<Oracle>>);

impl SharedOracle {
    pub(crate) fn new(oracle: Oracle) -> Self {
        Self(Arc::new(Mutex::new(oracle)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Oracle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store of which the oracle sees each read and write of one process.
#[derive(Clone)]
pub(crate) struct WatchedStore {
    pub(crate) store: MemoryStore,
    pub(crate) oracle: SharedOracle,
    pub(crate) process: usize,
}

impl WatchedStore {
    /// Lets the oracle note what was read of our cluster.
    fn note(&self, cluster: &ClusterName, change: impl FnOnce(&mut Reads, u64)) {
        if *cluster == fixture::cluster() {
            self.oracle.lock().read(self.process, change);
        }
    }
}

impl Store for WatchedStore {
    async fn case(&self, key: &CaseKey) -> Result<Option<Box<Case>>, StoreError> {
        let case = self.store.case(key).await?;
        let version = case.as_ref().map_or(0, |case| case.version());
        self.note(&key.cluster, |reads, order| reads.case(&key.instance_id, version, order));
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
        if self.oracle.lock().is_looping() {
            // A function that goes round and round is stopped here, and the violation reported.
            std::future::pending::<()>().await;
        }
        self.store.due(until, limit).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.store.next_due().await
    }

    async fn unhealthy_nodes(&self, cluster: &ClusterName) -> Result<Vec<UnhealthyNode>, StoreError> {
        let unhealthy_nodes = self.store.unhealthy_nodes(cluster).await?;
        self.note(cluster, |reads, order| reads.unhealthy_nodes.push((unhealthy_nodes.clone(), order)));
        Ok(unhealthy_nodes)
    }

    async fn group(&self, cluster: &ClusterName, name: &GroupName) -> Result<GroupState, StoreError> {
        let state = self.store.group(cluster, name).await?;
        self.note(cluster, |reads, order| {
            reads.states.insert(name.clone(), (state.clone(), order));
        });
        Ok(state)
    }

    async fn commit(&self, change: CaseWrite<'_>) -> Result<Commit, StoreError> {
        let (case, group, entries) = (change.case, change.group, change.entries);
        let commit = self.store.commit(CaseWrite { case, group, entries }).await?;
        if *case.cluster() != fixture::cluster() {
            return Ok(commit);
        }
        match commit {
            Commit::Won => self.oracle.lock().written(self.process, case, group, entries),
            Commit::Lost => {
                let number = Node::number(case.instance_id());
                self.oracle.lock().read(self.process, |reads, _| reads.lost = Some(number));
            }
        }
        Ok(commit)
    }

    async fn put_group(&self, group: &GroupState) -> Result<Commit, StoreError> {
        let commit = self.store.put_group(group).await?;
        if commit == Commit::Won && *group.cluster() == fixture::cluster() {
            self.oracle.lock().launch_written(self.process, group);
        }
        Ok(commit)
    }

    async fn policy(&self, cluster: &ClusterName) -> Result<Option<Arc<Policy>>, StoreError> {
        let policy = self.store.policy(cluster).await?;
        self.note(cluster, |reads, _| reads.policy = Some(policy.clone()));
        Ok(policy)
    }

    async fn holds(&self, cluster: &ClusterName) -> Result<Vec<Hold>, StoreError> {
        let holds = self.store.holds(cluster).await?;
        self.note(cluster, |reads, order| reads.holds.push((holds.clone(), order)));
        Ok(holds)
    }

    async fn sources(&self, cluster: &ClusterName) -> Result<Option<ClusterSources>, StoreError> {
        self.store.sources(cluster).await
    }

    async fn put_sources(&self, cluster: &ClusterName, sources: &ClusterSources) -> Result<(), StoreError> {
        self.store.put_sources(cluster, sources).await
    }
}

impl AuditLog for WatchedStore {
    async fn chain(&self, key: &CaseKey) -> Result<Vec<AuditEntry>, StoreError> {
        self.store.chain(key).await
    }

    async fn call(&self, request_id: &str) -> Result<Option<(CaseKey, AuditEntry)>, StoreError> {
        self.store.call(request_id).await
    }
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Api,
    /// Lines of the control plane's log group, and its streams.
    Lines,
    /// Lines of the node's agent.
    Agent,
    /// The requests of kubelets.
    Kubelets,
}

/// An AWS of which the oracle sees each read and call, and which refuses calls while an item asks for that.
#[derive(Clone)]
pub(crate) struct WatchedAws {
    pub(crate) cloud: MemoryCloud,
    /// The account of the second cluster, if one is served.
    pub(crate) second: Option<MemoryCloud>,
    /// That is the account that it acts in.
    pub(crate) is_second: bool,
    pub(crate) clock: VirtualClock,
    pub(crate) oracle: SharedOracle,
    pub(crate) process: usize,
    pub(crate) skew: SignedDuration,
    pub(crate) sleep: Sleep,
    /// The node that is being decided on: the repair function takes the port of the account for each.
    pub(crate) node: Arc<Mutex<Option<usize>>>,
}

impl WatchedAws {
    fn number(&self) -> Option<usize> {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an answer. Returns why there is none, if there is none.
    async fn answer(&self, what: &str, of: Read) -> Result<(), ReadError> {
        if self.is_second {
            return Err(ReadError::NotConfigured(format!(
                "there is no access to {what} of the second cluster"
            )));
        }
        let delay = {
            let mut oracle = self.oracle.lock();
            // A verification whose read of EC2 fails begins here.
            self.number().into_iter().for_each(|number| oracle.begins_to_verify(self.process, number));
            let access = oracle.reading.access;
            if access == Access::Neither || of == Read::Api && access == Access::Logs {
                return Err(ReadError::NotConfigured(format!("there is no access to {what}")));
            }
            oracle.reading.delay()
        };
        if let Some(delay) = delay {
            self.oracle.lock().fault();
            tasks::wait_until(self.clock.clone(), self.sleep.clone(), self.clock.now() + delay).await;
        }
        let mut oracle = self.oracle.lock();
        match oracle.reading.failure(what) {
            None => Ok(()),
            Some(error) => {
                oracle.fault();
                self.note(&mut oracle, of, true);
                Err(error)
            }
        }
    }

    /// Notes of the node that is being decided on whether the last such read failed.
    fn note(&self, oracle: &mut Oracle, of: Read, failed: bool) {
        let Some(number) = self.number() else { return };
        oracle.verified(self.process, number, |verified| match of {
            Read::Kubelets => verified.kubelets_failed = failed,
            Read::Agent => verified.agent_failed = Some(failed),
            Read::Api | Read::Lines => verified.failed = failed,
        });
    }

    /// Notes what a read of the Kubernetes API found of a node that is being decided on.
    fn found(&self, oracle: &mut Oracle, number: usize, begun: Timestamp) {
        let object = oracle.nodes[number].object;
        oracle.verified(self.process, number, |verified| verified.read_object(object.as_ref()));
        // What a verification reads counts from its begin, and it may have stalled since.
        let since = oracle.verifies_since(self.process, number).map(|since| since + self.skew);
        let begun = since.map_or(begun, |since| since.min(begun));
        oracle.learn(self.process, number, Fact::Snapshot(object), begun);
    }
}

impl ClusterReader for WatchedAws {
    async fn node(&self, _: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        let begun = self.clock.now() + self.skew;
        self.answer("the Kubernetes API", Read::Api).await?;
        let mut oracle = self.oracle.lock();
        let Some(found) = reading::named(&oracle.nodes, name) else { return Ok(None) };
        // Where the read of EC2 that comes first fails before it is made, only the name shows which node it
        // is about.
        let decided = self.number().filter(|number| oracle.nodes[*number].name == *name);
        if decided.is_none_or(|number| number == found) {
            self.found(&mut oracle, found, begun);
        }
        let node = &oracle.nodes[found];
        Ok(node.object.as_ref().map(|object| reading::snapshot(node, object)))
    }

    async fn nodes(&self, _: &ClusterName, consistency: Consistency) -> Result<Vec<NodeSnapshot>, ReadError> {
        let asked = self.clock.now() + self.skew;
        let mut begun = asked;
        self.answer("the Kubernetes API", Read::Api).await?;
        let mut oracle = self.oracle.lock();
        if oracle.is_reconciling(self.process) {
            // It may have stalled since it noted the time of this read.
            begun = begun.min(oracle.began(self.process) + self.skew);
        }
        if let Some(number) = self.number() {
            self.found(&mut oracle, number, begun);
        }
        if oracle.is_reconciling(self.process) {
            // What a list from the cache has of after its begin, by a node's clock, proves no recovery.
            let is_proof = |object: &NodeObject| {
                consistency == Consistency::Latest
                    || object.ready != Health::Healthy
                    || object.ready_since <= begun
            };
            let stalled = begun + STALLED < self.clock.now() + self.skew;
            for number in 0..oracle.nodes.len() {
                let object = oracle.nodes[number].object;
                // Whether it was bad before the time that was noted is then unknown.
                oracle.nodes[number].unreliable |= object.as_ref().is_some_and(|object| {
                    object.ready == Health::Bad && object.ready_since > begun && object.ready_since <= asked
                });
                if object.as_ref().is_some_and(is_proof) {
                    oracle.learn(self.process, number, Fact::Snapshot(object), begun);
                }
                // That there is none is looked for in a consistent list.
                if object.is_none() && consistency == Consistency::Latest {
                    oracle.learn(self.process, number, Fact::Snapshot(None), begun);
                    // Whether it stalled before or after it noted the time is unknown, and so is when its repair is due.
                    oracle.nodes[number].unreliable |= stalled;
                }
            }
        }
        let nodes = oracle.nodes.iter();
        Ok(nodes
            .filter_map(|node| node.object.as_ref().map(|object| reading::snapshot(node, object)))
            .collect())
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        let of = match query.lines {
            Lines::RequestsOfKubelets(_) => Read::Kubelets,
            Lines::All | Lines::Subscribed if matches!(query.streams, Streams::Named(_)) => Read::Agent,
            Lines::All | Lines::Subscribed => Read::Lines,
        };
        self.answer(&query.group, of).await?;
        let now = self.clock.now();
        let mut guard = self.oracle.lock();
        let oracle = &mut *guard;
        let newest = query.until.min(now - oracle.reading.lag) - SignedDuration::from_secs(1);
        if let Lines::RequestsOfKubelets(names) = &query.lines {
            self.note(oracle, of, false);
            let mut page = LogPage::default();
            for name in names {
                let Some(number) = reading::named(&oracle.nodes, name) else { continue };
                let node = &oracle.nodes[number];
                let last = node.last_request(now).map(|last| last.min(newest));
                if let Some(last) = last.filter(|last| *last >= query.from) {
                    page.lines.push(reading::request_of(&node.name, last));
                    // What it requested before it was reported unreachable contradicts nothing.
                    if node.object.as_ref().is_some_and(|object| last >= object.ready_since) {
                        oracle.verified(self.process, number, |verified| verified.contradicted = true);
                    }
                }
            }
            return Ok(page);
        }
        // Other nodes write to both log groups at every moment.
        if query.limit == Some(1) {
            return Ok(reading::other_line(newest));
        }
        let named = match &query.streams {
            Streams::Named(name) => InstanceId::new(name).ok().map(|instance| Node::number(&instance)),
            Streams::Prefix(_) => None,
        };
        let (page, facts) = oracle.reading.page(query, next, now, named);
        if oracle.is_reconciling(self.process) {
            for (number, fact) in facts {
                let began = oracle.began(self.process) + self.skew;
                oracle.learn(self.process, number, fact, query.until.min(began));
            }
            return Ok(page);
        }
        match named {
            None => oracle.share(self.process, &facts, query.until),
            Some(number) => {
                oracle.verified(self.process, number, |verified| verified.agent_failed = Some(false));
                for (_, fact) in facts.into_iter().filter(|(of, _)| *of == number) {
                    oracle.verified(self.process, number, |verified| verified.read_line(&fact));
                    let began = oracle.began(self.process) + self.skew;
                    oracle.learn(self.process, number, fact, query.until.min(began));
                }
            }
        }
        Ok(page)
    }

    async fn streams(&self, group: &str, _: &str, _: Timestamp) -> Result<Vec<String>, ReadError> {
        self.answer(group, Read::Lines).await?;
        Ok(vec![AUDIT_STREAM.to_owned()])
    }
}

impl WatchedAws {
    /// Whether the cluster of an instance is in this account. What asks for it in another one is a violation.
    fn is_in_its_account(&self, instance_id: &InstanceId, what: &str) -> bool {
        let is_in_its_account = other_clusters::is_of_other(instance_id) == self.is_second;
        if !is_in_its_account {
            let what = format!("{what} of {instance_id}");
            self.oracle.lock().violation("a call in another cluster's account", what);
        }
        is_in_its_account
    }
}

impl Cloud for WatchedAws {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        let second = self.second.clone().filter(|_| account == Some(&other_clusters::other_account()));
        let is_second = second.is_some();
        let cloud = match second {
            Some(second) => second,
            None => self.cloud.in_account(account).await?,
        };
        Ok(Self { cloud, is_second, node: Arc::default(), ..self.clone() })
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        let found = self.cloud.describe_instances(instances).await?;
        if self.is_second {
            return Ok(found);
        }
        if let [instance] = instances {
            *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(Node::number(instance));
        }
        self.oracle.lock().read(self.process, |reads, order| {
            if let ([instance], [found]) = (instances, found.as_slice()) {
                reads.location.insert(instance.clone(), (found.clone(), order));
            }
        });
        Ok(found)
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        let group = self.cloud.group(name).await?;
        if self.is_second {
            return Ok(group);
        }
        self.oracle.lock().read(self.process, |reads, order| {
            reads.groups.insert(name.clone(), (group.clone(), order));
        });
        Ok(group)
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        let facts = self.cloud.cluster(name).await?;
        if self.is_second {
            return Ok(facts);
        }
        self.oracle
            .lock()
            .read(self.process, |reads, order| reads.cluster_facts.push((facts.clone(), order)));
        Ok(facts)
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        let is_in_its_account = self.is_in_its_account(instance_id, "DescribeInstanceStatus");
        if self.is_second || !is_in_its_account {
            return self.cloud.instance_status(instance_id).await;
        }
        // A verification asks for this first, and then reads the state of the node.
        let number = Node::number(instance_id);
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
        {
            let mut oracle = self.oracle.lock();
            oracle.begins_to_verify(self.process, number);
            let known_from = oracle.nodes[number].launched.map(|launched| launched + oracle.reading.ec2_lag);
            if known_from.is_some_and(|from| self.clock.now() < from) {
                return Ok(None);
            }
        }
        self.cloud.instance_status(instance_id).await
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        self.cloud.failed_status_checks().await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.cloud.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        let is_in_its_account = self.is_in_its_account(call.instance_id(), call.event_name());
        if self.is_second || !is_in_its_account {
            return self.cloud.call(call).await;
        }
        let aws_error = self.oracle.lock().arrives(self.process, call);
        let answer = match aws_error {
            Some((code, number)) => CallAnswer {
                request_id: Some(format!("refused-{number}")),
                outcome: CallOutcome::Failed { code: code.to_owned(), message: "Rate exceeded".to_owned() },
            },
            None => self.cloud.call(call).await,
        };
        self.oracle.lock().answered(call, &answer, self.clock.now());
        answer
    }

    fn caller(&self) -> &Caller {
        self.cloud.caller()
    }
}

/// The clock of a function.
#[derive(Clone)]
pub(crate) struct SkewedClock {
    pub(crate) clock: VirtualClock,
    pub(crate) skew: SignedDuration,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        self.clock.now() + self.skew
    }
}
