//! A group of nodes, and what may be said of them: what the tests of the repairer share.
#![allow(dead_code, reason = "each test binary uses its part")]

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, CallOutcome, Caller},
    case::{Case, TransitionContext},
    condition::{ConditionType, Health, Severity, Status},
    group::GroupState,
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    observation::{Observation, ObservedCondition, StatusWriter, What},
    policy::{Hold, Limit, Policy},
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud, Recorded},
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::{RepairError, Repairer, RunReport};
use nodemend_testkit::faults::{Faults, Faulty};

/// When every fault begins.
pub(crate) const START: i64 = 1_790_000_000;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("a time")
}

pub(crate) fn minutes(minutes: i64) -> Timestamp {
    at(minutes * 60)
}

pub(crate) fn cluster() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

pub(crate) fn group() -> GroupName {
    GroupName::new("workers").expect("a name")
}

pub(crate) fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an id")
}

fn node(number: u64) -> NodeName {
    NodeName::new(format!("ip-10-0-0-{number}.ec2.internal")).expect("a name")
}

fn boot_id(boot: u64) -> BootId {
    BootId::new(format!("00000000-0000-4000-8000-{boot:012}")).expect("an id")
}

pub(crate) fn terminate(number: u64) -> ApiCall {
    ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(number) }
}

pub(crate) fn reboot(number: u64) -> ApiCall {
    ApiCall::RebootInstances { instance_id: instance(number) }
}

/// EKS's defaults, repair on, and a limit; the guards that count nodes stay out of the way.
pub(crate) fn policy(limit: u32) -> Policy {
    let mut policy = Policy::eks_defaults();
    policy.node_repair_config.max_parallel_nodes_repaired = Some(Limit::Count(limit));
    policy.node_repair_config.max_unhealthy_node_threshold = Some(Limit::Count(1_000));
    policy.zones.min_unhealthy = 1_000;
    policy.silence.agent_silent_after = None;
    policy
}

/// Somebody's hold on everything.
pub(crate) fn held_until(until: Timestamp) -> Hold {
    Hold {
        cluster: None,
        group: None,
        node: None,
        owner: "alice".to_owned(),
        reason: "kernel test".to_owned(),
        from: None,
        until,
    }
}

/// Nodes 1 to `nodes`, in service in one group.
pub(crate) struct Ward {
    pub(crate) clock: VirtualClock,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    pub(crate) policy: Policy,
}

/// What is wrong: replaced after 30 minutes, or rebooted after 10.
#[derive(Clone, Copy)]
pub(crate) enum Episode {
    Network,
    Accelerator,
}

impl Ward {
    pub(crate) fn new(nodes: u64, policy: Policy) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(at(0));
        let mut fleet = Fleet::default();
        let zone = Zone::new("us-east-1a").expect("a name");
        for number in 1..=nodes {
            fleet.join(&group(), Some(&cluster()), &instance(number), &zone);
        }
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        Self { store: MemoryStore::with_policy(policy.clone()), clock, cloud, policy }
    }

    /// Nodes that have all been bad since the start.
    pub(crate) fn sick(nodes: u64, episode: Episode, policy: Policy) -> Self {
        let ward = Self::new(nodes, policy);
        for number in 1..=nodes {
            ward.tell(number, episode, true, 1, 1, 0);
        }
        ward
    }

    /// An agent says, now, how its one condition is, and since when.
    pub(crate) fn tell(&self, number: u64, episode: Episode, bad: bool, boot: u64, seq: u64, since: i64) {
        let now = self.clock.now();
        let (condition, reason) = match episode {
            Episode::Network => (ConditionType::NetworkingReady, "InterfaceNotUp"),
            Episode::Accelerator => (ConditionType::AcceleratedHardwareReady, "NvidiaXID95Error"),
        };
        let finding = Finding {
            reason: reason.into(),
            severity: Severity::Condition,
            since: at(since),
            last: now,
            count: 1,
            message: "as asked for".into(),
        };
        let report = Report {
            cluster: cluster(),
            node: node(number),
            instance_id: instance(number),
            zone: None,
            boot_id: boot_id(boot),
            seq,
            at: now,
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition,
                status: if bad { Status::False } else { Status::True },
                since: at(since),
                sound_secs: None,
                findings: if bad { vec![finding] } else { Vec::new() },
            }),
        };
        self.change(number, |case| {
            case.apply_report(&report, now, &self.policy);
        });
    }

    /// The control plane says that the kubelet of this boot was ready then.
    pub(crate) fn ready(&self, number: u64, boot: u64, when: Timestamp) {
        let ready = ObservedCondition {
            condition: ConditionType::Ready,
            health: Health::Healthy,
            reason: "KubeletReady".to_owned(),
            message: String::new(),
        };
        let observation = Observation {
            at: when,
            node: node(number),
            instance_id: Some(instance(number)),
            zone: None,
            boot_id: Some(boot_id(boot)),
            what: What::Conditions { by: StatusWriter::Kubelet, conditions: vec![ready] },
        };
        self.change(number, |case| {
            case.apply_observation(&observation, &self.policy);
        });
    }

    /// Changes a case as a handler would.
    pub(crate) fn transition(&self) -> TransitionContext<'_> {
        TransitionContext {
            policy: &self.policy,
            caller: nodemend_ports::cloud::Cloud::caller(&self.cloud),
            now: self.clock.now(),
        }
    }

    pub(crate) fn change(&self, number: u64, change: impl FnOnce(&mut Case)) {
        let mut case = self.find(number).unwrap_or_else(|| Box::new(Case::new(cluster(), instance(number))));
        change(&mut case);
        case.plan(&self.policy, self.clock.now());
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(self.store.commit(change)), Ok(Commit::Won));
    }

    /// Writes the group's state, as news of its replacements would.
    pub(crate) fn put_group(&self, group: &GroupState) {
        let case = self.case(1);
        let change = CaseWrite { case: &case, group: Some(group), entries: &[] };
        assert_eq!(pollster::block_on(self.store.commit(change)), Ok(Commit::Won));
    }

    fn find(&self, number: u64) -> Option<Box<Case>> {
        let key = CaseKey { cluster: cluster(), instance_id: instance(number) };
        pollster::block_on(self.store.case(&key)).expect("a memory")
    }

    pub(crate) fn case(&self, number: u64) -> Case {
        *self.find(number).expect("a case")
    }

    pub(crate) fn group(&self) -> GroupState {
        pollster::block_on(Store::group(&self.store, &cluster(), &group())).expect("a memory")
    }

    /// A case's records, whose chain holds.
    pub(crate) fn records(&self, number: u64) -> Vec<serde_json::Value> {
        let key = CaseKey { cluster: cluster(), instance_id: instance(number) };
        let chain = pollster::block_on(self.store.chain(&key)).expect("a memory");
        let lines: Vec<&str> = chain.iter().map(|entry| entry.line.as_str()).collect();
        nodemend_domain::audit_log::verify_chain(&lines).expect("a chain");
        lines.iter().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// The last of its records with that name.
    pub(crate) fn last_record(&self, number: u64, name: &str) -> serde_json::Value {
        self.records(number).into_iter().rfind(|record| record["eventName"] == name).expect("a record")
    }

    /// Their names.
    pub(crate) fn audit_log(&self, number: u64) -> Vec<String> {
        let records = self.records(number);
        records.iter().map(|record| record["eventName"].as_str().expect("a name").to_owned()).collect()
    }

    /// One sweep in a process of its own.
    pub(crate) fn repairer(
        &self,
        faults: &Faults,
    ) -> Repairer<Faulty<MemoryStore>, Faulty<MemoryCloud>, VirtualClock> {
        let store = Faulty::new(self.store.clone(), faults.clone());
        Repairer::new(store, Faulty::new(self.cloud.clone(), faults.clone()), self.clock.clone())
    }

    pub(crate) fn try_sweep(&self) -> Result<RunReport, RepairError> {
        pollster::block_on(self.repairer(&Faults::none()).run_once())
    }

    pub(crate) fn run_once(&self) -> RunReport {
        let swept = self.try_sweep().expect("swept");
        assert!(swept.failures.is_empty(), "{:?}", swept.failures);
        swept
    }

    pub(crate) fn sweep_at(&self, now: Timestamp) -> RunReport {
        self.clock.advance_to(now);
        self.run_once()
    }

    /// Sweeps whenever something is due, until then.
    pub(crate) fn run_until(&self, end: Timestamp) {
        for _ in 0..10_000 {
            let due = pollster::block_on(self.store.next_due()).expect("a memory");
            let Some(due) = due.filter(|due| *due <= end) else {
                self.clock.advance_to(end);
                return;
            };
            self.sweep_at(due);
        }
        panic!("something stays due at {}", self.clock.now());
    }

    /// AWS answers the next such call, if it comes about now, with a refusal.
    pub(crate) fn refuse(&self, call: ApiCall, when: Timestamp, code: &str, message: &str) {
        let outcome = CallOutcome::Failed { code: code.to_owned(), message: message.to_owned() };
        self.cloud.record(Recorded {
            event_name: call.event_name().to_owned(),
            call: Some(call),
            at: when,
            answer: CallAnswer { request_id: Some(format!("request-{when}")), outcome },
        });
    }

    pub(crate) fn wait(&self, length: SignedDuration) {
        self.clock.advance_to(self.clock.now() + length);
    }
}
