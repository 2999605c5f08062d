//! AWS in memory, for replay, simulation and tests: groups that a call changes, and recorded answers of real calls.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{self, Activity, ApiCall, CallAnswer, CallOutcome, Caller},
    case::Consistency,
    group::{ClusterFacts, Group, InstanceLocation, Lifecycle, Member},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    instance_traits::InstanceTraits,
    node_snapshot::NodeSnapshot,
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};

use super::{Cloud, CloudError};
use crate::{
    clock::{Clock, VirtualClock},
    cluster_reader::{ClusterReader, LogPage, LogQuery, MemoryCluster, ReadError},
};

/// The Auto Scaling groups and instances of an account.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    groups: HashMap<GroupName, Arc<Group>>,
    members: HashMap<InstanceId, GroupName>,
    ungrouped: HashSet<InstanceId>,
    /// When instances were launched or last started, where that matters.
    launched: HashMap<InstanceId, Timestamp>,
    /// What instances were launched from, where that matters.
    traits: HashMap<InstanceId, InstanceTraits>,
    /// The status checks that fail.
    failed_checks: Vec<FailedStatusCheck>,
    /// Instances that a call terminates without changing the desired capacity of their group.
    replaced: HashSet<InstanceId>,
}

impl Fleet {
    /// Adds or replaces a group.
    pub fn add_group(&mut self, group: Group) {
        for member in &group.members {
            self.members.insert(member.instance_id.clone(), group.name.clone());
        }
        self.groups.insert(group.name.clone(), Arc::new(group));
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The names of all groups.
    pub fn group_names(&self) -> impl Iterator<Item = &GroupName> {
        self.groups.keys()
    }

    /// Whether an instance exists, in a group or outside of any.
    pub fn knows(&self, instance_id: &InstanceId) -> bool {
        self.members.contains_key(instance_id) || self.ungrouped.contains(instance_id)
    }

    /// Adds an instance that runs outside of any group.
    pub fn add_ungrouped(&mut self, instance_id: InstanceId) {
        self.ungrouped.insert(instance_id);
    }

    /// These status checks fail from now on, and no others.
    pub fn set_failed_checks(&mut self, failed: Vec<FailedStatusCheck>) {
        self.failed_checks = failed;
    }

    /// Notes when an instance was launched or last started.
    pub fn set_launched(&mut self, instance_id: InstanceId, launched: Timestamp) {
        self.launched.insert(instance_id, launched);
    }

    /// Notes what an instance was launched from, and where.
    pub fn set_traits(&mut self, instance_id: InstanceId, traits: InstanceTraits) {
        self.traits.insert(instance_id, traits);
    }

    /// Adds an instance to a group. Creates the group if it does not exist.
    pub fn join(
        &mut self,
        group: &GroupName,
        cluster: Option<&ClusterName>,
        instance_id: &InstanceId,
        zone: &Zone,
    ) {
        let group_name = group.clone();
        let group = self.groups.entry(group_name.clone()).or_insert_with(|| {
            Arc::new(Group {
                name: group_name.clone(),
                cluster: cluster.cloned(),
                members: Vec::new(),
                suspended: Vec::new(),
                tags: BTreeMap::new(),
                eks_repair_enabled: false,
                desired_capacity: None,
            })
        });
        if group.member(instance_id).is_none() {
            let member = Member {
                instance_id: instance_id.clone(),
                zone: zone.clone(),
                lifecycle: Lifecycle::InService,
            };
            Arc::make_mut(group).members.push(member);
        }
        // A group that grows wants to be larger.
        let is_active =
            |member: &&Member| matches!(member.lifecycle, Lifecycle::InService | Lifecycle::Pending);
        let active = group.members.iter().filter(is_active).count();
        if group.desired_capacity.is_some_and(|desired| desired < active) {
            Arc::make_mut(group).desired_capacity = Some(active);
        }
        self.members.insert(instance_id.clone(), group_name);
    }

    /// Sets how many instances a group should have.
    pub fn set_desired_capacity(&mut self, group: &GroupName, desired: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            Arc::make_mut(group).desired_capacity = Some(desired);
        }
    }

    /// Sets an instance's lifecycle state.
    pub fn set_lifecycle(&mut self, instance_id: &InstanceId, lifecycle: Lifecycle) {
        let group = self.members.get(instance_id).and_then(|name| self.groups.get_mut(name));
        let Some(group) = group else { return };
        for member in &mut Arc::make_mut(group).members {
            if member.instance_id == *instance_id {
                member.lifecycle = lifecycle;
            }
        }
    }

    /// Sets a tag of a group.
    pub fn set_tag(&mut self, group: &GroupName, key: &str, value: &str) {
        if let Some(group) = self.groups.get_mut(group) {
            Arc::make_mut(group).tags.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Suspends these processes of a group, and resumes all others.
    pub fn set_suspended(&mut self, group: &GroupName, processes: Vec<String>) {
        if let Some(group) = self.groups.get_mut(group) {
            Arc::make_mut(group).suspended = processes;
        }
    }

    /// Removes a terminated instance. Of one that no call has terminated it is not known whether it is to be replaced: its
    /// group wants one less until the next launch.
    pub fn leave(&mut self, instance_id: &InstanceId) {
        self.ungrouped.remove(instance_id);
        let replaced = self.replaced.remove(instance_id);
        let group = self.members.remove(instance_id).and_then(|name| self.groups.get_mut(&name));
        if let Some(group) = group {
            let group = Arc::make_mut(group);
            group.members.retain(|member| member.instance_id != *instance_id);
            if !replaced {
                group.desired_capacity = group.desired_capacity.map(|desired| desired.saturating_sub(1));
            }
        }
    }

    fn status(&self, instance_id: &InstanceId) -> Option<InstanceStatus> {
        let group = self.members.get(instance_id).and_then(|name| self.groups.get(name));
        let lifecycle = group.and_then(|group| group.member(instance_id)).map(|member| member.lifecycle);
        let state = match lifecycle {
            Some(Lifecycle::Terminating) => "shutting-down",
            Some(_) => "running",
            None if self.ungrouped.contains(instance_id) => "running",
            None => return None,
        };
        let launched = self.launched.get(instance_id).copied();
        let traits = self.traits.get(instance_id).cloned().unwrap_or_default();
        Some(InstanceStatus { state: state.to_owned(), launched, traits, ..InstanceStatus::default() })
    }

    fn facts(&self, cluster: &ClusterName) -> ClusterFacts {
        let mut zones = BTreeMap::new();
        let of_cluster = |group: &&Arc<Group>| group.cluster.as_ref().is_none_or(|owner| owner == cluster);
        for member in self.groups.values().filter(of_cluster).flat_map(|group| &group.members) {
            if member.lifecycle != Lifecycle::WarmPool {
                *zones.entry(member.zone.clone()).or_insert(0) += 1;
            }
        }
        ClusterFacts { zones, zonal_shifts: Vec::new() }
    }
}

/// An answer of AWS, recorded to be given again.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The call that it answers. CloudTrail's event of a throttled call does not name the instance.
    pub call: Option<ApiCall>,
    /// The name of CloudTrail's event.
    pub event_name: String,
    /// The time of the call.
    pub at: Timestamp,
    /// The answer.
    pub answer: CallAnswer,
}

/// AWS in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryCloud {
    clock: VirtualClock,
    caller: Caller,
    cluster: MemoryCluster,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    fleet: Fleet,
    facts: HashMap<ClusterName, Arc<ClusterFacts>>,
    zonal_shifts: Vec<Zone>,
    recorded: VecDeque<Recorded>,
    calls: Vec<ApiCall>,
}

/// The most time between a call and the recorded one that it matches.
const SAME_CALL_SECONDS: i64 = 90;

impl MemoryCloud {
    /// An account with these groups, called as `caller`.
    pub fn new(clock: VirtualClock, caller: Caller, fleet: Fleet) -> Self {
        let cluster = MemoryCluster::new(clock.clone());
        Self { clock, caller, cluster, inner: Arc::new(Mutex::new(Inner { fleet, ..Inner::default() })) }
    }

    /// The API server and the log groups of the cluster.
    pub fn cluster_state(&self) -> &MemoryCluster {
        &self.cluster
    }

    /// Adds an answer, for the call that it matches.
    pub fn record(&self, recorded: Recorded) {
        self.lock().recorded.push_back(recorded);
    }

    /// Changes the groups and instances.
    pub fn change<T>(&self, change: impl FnOnce(&mut Fleet) -> T) -> T {
        let mut inner = self.lock();
        inner.facts.clear();
        change(&mut inner.fleet)
    }

    /// Starts or ends zonal shifts.
    pub fn set_zonal_shifts(&self, zones: Vec<Zone>) {
        let mut inner = self.lock();
        inner.facts.clear();
        inner.zonal_shifts = zones;
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<ApiCall> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The recorded answer to a call, if one matches at this time.
    fn recorded(&mut self, call: &ApiCall, now: Timestamp) -> Option<CallAnswer> {
        let same = |recorded: &Recorded| {
            let near = now.duration_since(recorded.at).as_secs().abs() <= SAME_CALL_SECONDS;
            let fits = match &recorded.call {
                Some(known) => known == call,
                None => recorded.event_name == call.event_name(),
            };
            near && fits
        };
        let position = self.recorded.iter().position(same)?;
        self.recorded.remove(position).map(|recorded| recorded.answer)
    }

    fn simulated_outcome(&self, call: &ApiCall, now: Timestamp) -> CallOutcome {
        let instance_id = call.instance_id();
        let group = self.fleet.members.get(instance_id).and_then(|name| self.fleet.groups.get(name));
        let member = group.and_then(|group| group.member(instance_id));
        match (call, group, member) {
            (ApiCall::TerminateInstanceInAutoScalingGroup { .. }, Some(group), Some(member)) => {
                let at = nodemend_domain::timestamp::seconds(now);
                CallOutcome::Accepted {
                    activity: Some(Activity {
                        activity_id: generated_id("activity", call, self.calls.len()),
                        auto_scaling_group_name: group.name.to_string(),
                        description: format!("Terminating EC2 instance: {instance_id}"),
                        cause: format!(
                            "At {at} instance {instance_id} was taken out of service in response to a user request."
                        ),
                        start_time: now,
                        status_code: "InProgress".to_owned(),
                        progress: 0,
                        details: Some(format!(r#"{{"Availability Zone":"{}"}}"#, member.zone)),
                    }),
                }
            }
            (ApiCall::RebootInstances { .. }, ..) if self.fleet.knows(instance_id) => {
                CallOutcome::Accepted { activity: None }
            }
            _ => CallOutcome::Failed {
                code: "ValidationError".to_owned(),
                message: format!(
                    "Instance Id not found - No managed instance found for instance ID: {instance_id}"
                ),
            },
        }
    }
}

/// A generated ID, the same in every run.
fn generated_id(kind: &str, call: &ApiCall, number: usize) -> String {
    let hex = audit_log::sha256(&format!("{kind} {} {} {number}", call.event_name(), call.instance_id()));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

impl ClusterReader for MemoryCloud {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        self.cluster.node(cluster, name).await
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        self.cluster.nodes(cluster, consistency).await
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.cluster.log_page(query, next).await
    }

    async fn streams(&self, group: &str, prefix: &str, since: Timestamp) -> Result<Vec<String>, ReadError> {
        self.cluster.streams(group, prefix, since).await
    }
}

impl Cloud for MemoryCloud {
    /// There is only one account.
    async fn in_account(&self, _: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(self.clone())
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        let inner = self.lock();
        let fleet = &inner.fleet;
        Ok(instances
            .iter()
            .map(|instance_id| {
                let group = fleet.members.get(instance_id).and_then(|name| fleet.groups.get(name));
                match group.and_then(|group| Some((group, group.member(instance_id)?))) {
                    Some((group, member)) => {
                        InstanceLocation::Member { group: group.name.clone(), lifecycle: member.lifecycle }
                    }
                    None if fleet.ungrouped.contains(instance_id) => InstanceLocation::Ungrouped,
                    None => InstanceLocation::Gone,
                }
            })
            .collect())
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        Ok(self.lock().fleet.groups.get(name).cloned())
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        let mut inner = self.lock();
        if let Some(facts) = inner.facts.get(name) {
            return Ok(facts.clone());
        }
        let mut facts = inner.fleet.facts(name);
        facts.zonal_shifts.clone_from(&inner.zonal_shifts);
        let facts = Arc::new(facts);
        inner.facts.insert(name.clone(), facts.clone());
        Ok(facts)
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        Ok(self.lock().fleet.status(instance_id))
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        Ok(self.lock().fleet.failed_checks.clone())
    }

    async fn console_output(&self, _: &InstanceId) -> Result<Option<String>, CloudError> {
        Ok(None)
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        let now = self.clock.now();
        let mut inner = self.lock();
        let answer = inner.recorded(call, now).unwrap_or_else(|| CallAnswer {
            request_id: Some(generated_id("request", call, inner.calls.len())),
            outcome: inner.simulated_outcome(call, now),
        });
        inner.calls.push(call.clone());
        if let (ApiCall::TerminateInstanceInAutoScalingGroup { instance_id }, CallOutcome::Accepted { .. }) =
            (call, &answer.outcome)
        {
            inner.fleet.set_lifecycle(instance_id, Lifecycle::Terminating);
            inner.fleet.replaced.insert(instance_id.clone());
        }
        answer
    }

    fn caller(&self) -> &Caller {
        &self.caller
    }
}
