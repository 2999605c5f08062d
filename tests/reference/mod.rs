//! A cluster of nodes in one group, what is said of them, and the handlers that hear it: each begun anew for each call, as
//! after a cold start.

use std::cell::RefCell;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::Caller,
    case::{Case, CaseState},
    group::GroupState,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::Policy,
    repair_event::{RepairEvent, Step},
};
use nodemend_intake::{Intake, IntakeError, IntakeResult};
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    store::{CaseKey, MemoryStore, Store},
    subscription::{Batch, Decoder, LogEvent, encode},
};
use nodemend_repair::Repairer;
use serde_json::json;

const AUDIT_STREAM: &str = "kube-apiserver-audit-0123456789abcdef";

pub(crate) fn second(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

pub(crate) fn minute(minutes: i64) -> Timestamp {
    second(minutes * 60)
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

fn node(number: u64) -> String {
    format!("ip-10-0-0-{number}.ec2.internal")
}

/// EKS's defaults with repair on. Agents are as silent as the tests are.
pub(crate) fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    policy.silence.agent_silent_after = None;
    policy
}

/// What an agent says of one condition.
pub(crate) struct Said {
    condition: &'static str,
    reason: Option<&'static str>,
    since: i64,
}

impl Said {
    pub(crate) fn bad(condition: &'static str, reason: &'static str, since: i64) -> Self {
        Self { condition, reason: Some(reason), since }
    }

    pub(crate) fn sound(condition: &'static str, since: i64) -> Self {
        Self { condition, reason: None, since }
    }

    pub(crate) fn line(&self, cluster: &str, number: u64, boot: u64, seq: u64, written: Timestamp) -> String {
        let since = second(self.since).to_string();
        let finding = |reason| {
            json!({
                "reason": reason, "severity": "Condition", "since": since, "last": written.to_string(), "count": 1,
                "message": "as asked for",
            })
        };
        json!({
            "v": 1, "kind": "condition", "cluster": cluster, "node": node(number), "instanceId": instance(number),
            "bootId": format!("00000000-0000-4000-8000-{boot:012}"), "seq": seq, "at": written.to_string(),
            "condition": self.condition, "status": if self.reason.is_some() { "False" } else { "True" },
            "since": since, "findings": self.reason.map(finding).into_iter().collect::<Vec<_>>(), "agent": "0.1.0",
        })
        .to_string()
    }
}

pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    told: RefCell<Vec<RepairEvent>>,
}

impl World {
    pub(crate) fn new(nodes: u64, policy: Policy) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(second(0));
        let mut fleet = Fleet::default();
        for number in 1..=nodes {
            let zone = ["us-east-1a", "us-east-1b"][usize::try_from(number % 2).expect("0 or 1")];
            let zone = Zone::new(zone).expect("a name");
            fleet.join(&group(), Some(&cluster()), &instance(number), &zone);
        }
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let store = MemoryStore::default();
        store.set_policy(&cluster(), policy);
        Self { cloud: MemoryCloud::new(clock.clone(), caller, fleet), store, clock, told: RefCell::default() }
    }

    /// A node's agent writes, now; the line.
    pub(crate) fn report(&self, number: u64, boot: u64, seq: u64, said: Said) -> String {
        let line = said.line(cluster().as_str(), number, boot, seq, self.clock.now());
        self.take_lines(std::slice::from_ref(&line));
        line
    }

    /// Lines of node 1's agent, or whoever's they are, come: for the first time or again.
    pub(crate) fn take_lines(&self, lines: &[String]) {
        for line in lines {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let stream = value["instanceId"].as_str().expect("an instance");
            self.take("/nodemend/prod/nodes", stream, std::slice::from_ref(line));
        }
    }

    /// A kubelet writes a condition of its node, as the audit log has it.
    pub(crate) fn kubelet(&self, number: u64, seconds: i64, condition: &str, status: &str, reason: &str) {
        let user = json!({
            "username": format!("system:node:{}", node(number)), "extra": { "sessionName": [instance(number)] },
        });
        self.patch(number, seconds, &user, condition, status, reason);
    }

    /// Somebody else's agent does.
    pub(crate) fn third_party(&self, number: u64, seconds: i64, condition: &str, status: &str, reason: &str) {
        let user = json!({ "username": "system:serviceaccount:kube-system:eks-node-monitoring-agent" });
        self.patch(number, seconds, &user, condition, status, reason);
    }

    fn patch(
        &self,
        number: u64,
        seconds: i64,
        user: &serde_json::Value,
        condition: &str,
        status: &str,
        reason: &str,
    ) {
        self.clock.advance_to(second(seconds));
        let line = json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": "patch", "user": user,
            "objectRef": { "resource": "nodes", "name": node(number), "subresource": "status" },
            "responseStatus": { "code": 200 },
            "requestObject": { "status": { "conditions": [
                { "type": condition, "status": status, "reason": reason, "message": "as asked for" },
            ] } },
            "stageTimestamp": second(seconds).to_string(),
        });
        self.take("/aws/eks/prod/cluster", AUDIT_STREAM, &[line.to_string()]);
    }

    fn take(&self, log_group: &str, stream: &str, lines: &[String]) {
        let mut taken = self.try_take(log_group, stream, lines).expect("taken in");
        assert!(taken.rejected.is_empty(), "{:?}", taken.rejected);
        self.told.borrow_mut().append(&mut taken.repair_events);
    }

    /// A payload, as Lambda hands it over.
    pub(crate) fn try_take(
        &self,
        log_group: &str,
        stream: &str,
        lines: &[String],
    ) -> Result<IntakeResult, IntakeError> {
        let event = |line: &String| LogEvent {
            id: "1".into(),
            timestamp: self.clock.now(),
            message: line.clone().into(),
        };
        let batch = Batch {
            owner: "123456789012".into(),
            log_group: log_group.to_owned().into(),
            log_stream: stream.to_owned().into(),
            subscription_filters: vec!["nodemend".into()],
            events: lines.iter().map(event).collect(),
            rejected: Vec::new(),
        };
        let payload = encode(&batch).into_bytes();
        let intake = Intake::new(self.store.clone());
        pollster::block_on(intake.handle(&mut Decoder::new(), &payload, self.clock.now()))
    }

    /// Sweeps whenever something is due, until then and at that instant.
    pub(crate) fn run_until(&self, end: Timestamp) {
        for _ in 0..10_000 {
            let due = pollster::block_on(self.store.next_due()).expect("a memory");
            let Some(due) = due.filter(|due| *due <= end) else {
                self.clock.advance_to(end);
                return;
            };
            self.clock.advance_to(due);
            let repairer = Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
            let mut swept = pollster::block_on(repairer.run_once()).expect("swept");
            assert!(swept.failures.is_empty(), "{:?}", swept.failures);
            self.told.borrow_mut().append(&mut swept.repair_events);
        }
        panic!("something stays due at {}", self.clock.now());
    }

    pub(crate) fn minutes_on(&self, minutes: i64) -> Timestamp {
        self.clock.now() + SignedDuration::from_mins(minutes)
    }

    pub(crate) fn case(&self, number: u64) -> Case {
        let key = CaseKey { cluster: cluster(), instance_id: instance(number) };
        *pollster::block_on(self.store.case(&key)).expect("a memory").expect("a case")
    }

    pub(crate) fn state(&self, number: u64) -> CaseState {
        let policy = pollster::block_on(self.store.policy(&cluster())).expect("a memory").expect("a policy");
        self.case(number).state_and_faults(Some(&policy.default_rules()), &policy, self.clock.now()).0
    }

    pub(crate) fn group(&self) -> GroupState {
        pollster::block_on(Store::group(&self.store, &cluster(), &group())).expect("a memory")
    }

    /// What people were told of a node under such a step.
    pub(crate) fn told(&self, step: Step, number: u64) -> Vec<String> {
        let told = self.told.borrow();
        let mine = told.iter().filter(|told| told.step == step && told.instance_id == instance(number));
        mine.map(|told| told.detail.clone()).collect()
    }
}
