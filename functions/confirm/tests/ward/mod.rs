//! A node that the repairer called for, and what EventBridge may tell of it: what the tests of audit share.
#![allow(dead_code, reason = "each test binary uses its part")]

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::{ConfirmError, ConfirmResult, Confirmer};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, CallOutcome, Caller, verify_chain},
    case::Case,
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    policy::Policy,
    repair::Confirmation,
    repair_event::Step,
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud, Recorded},
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::edit;
use nodemend_testkit::faults::{Fate, Faults, Faulty, schedule};
use serde_json::{Value, json};

pub(crate) const ARN: &str = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair";
pub(crate) const ALICE: &str = "arn:aws:sts::123456789012:assumed-role/Admin/alice";

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
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

pub(crate) fn key(number: u64) -> CaseKey {
    CaseKey { cluster: cluster(), instance_id: instance(number) }
}

pub(crate) struct Ward {
    pub(crate) clock: VirtualClock,
    pub(crate) store: MemoryStore,
    pub(crate) cloud: MemoryCloud,
    policy: Policy,
}

impl Ward {
    /// Nodes 1 and 2 in service, 1 bad since the start.
    pub(crate) fn new() -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(at(0));
        let mut fleet = Fleet::default();
        let zone = Zone::new("us-east-1a").expect("a name");
        for number in 1..=2 {
            fleet.join(&group(), Some(&cluster()), &instance(number), &zone);
        }
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: ARN.to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        let mut policy = Policy::eks_defaults();
        policy.silence.agent_silent_after = None;
        let store = MemoryStore::default();
        store.set_policy(&cluster(), policy.clone());
        let ward = Self { clock, store, cloud, policy };
        ward.hear(1, true);
        ward.hear(2, false);
        ward
    }

    fn hear(&self, number: u64, bad: bool) {
        self.report(Case::new(cluster(), instance(number)), number, bad, 1, 0);
    }

    /// The node's agent says, now, that all is well since then.
    pub(crate) fn recover(&self, number: u64, since: i64) {
        self.report(self.case(number), number, false, 2, since);
    }

    /// A newcomer was launched, registered, and is ready.
    pub(crate) fn arrive(&self, number: u64, launched: i64, registered: i64) {
        let mut case = Case::new(cluster(), instance(number));
        let arrival =
            json!({ "launched": at(launched), "registered": at(registered), "ready": at(registered) });
        edit(&mut case, json!({ "group": group(), "arrival": arrival }));
        case.plan(&self.policy, self.clock.now());
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(self.store.commit(change)), Ok(Commit::Won));
    }

    fn report(&self, mut case: Case, number: u64, bad: bool, seq: u64, since: i64) {
        let now = self.clock.now();
        let finding = Finding {
            reason: "InterfaceNotUp".into(),
            severity: Severity::Condition,
            since: at(0),
            last: at(0),
            count: 1,
            message: "eth1 is down".into(),
        };
        let report = Report {
            cluster: cluster(),
            node: NodeName::new(format!("ip-10-0-0-{number}.ec2.internal")).expect("a name"),
            instance_id: instance(number),
            zone: None,
            boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
            seq,
            at: now,
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition: ConditionType::NetworkingReady,
                status: if bad { Status::False } else { Status::True },
                since: at(since),
                sound_secs: None,
                findings: if bad { vec![finding] } else { Vec::new() },
            }),
        };
        case.apply_report(&report, now, &self.policy);
        case.plan(&self.policy, now);
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(self.store.commit(change)), Ok(Commit::Won));
    }

    /// The repairer has called for node 1, at 30 minutes.
    pub(crate) fn called() -> Self {
        let ward = Self::new();
        ward.clock.advance_to(at(1_800));
        ward.run_once();
        assert_eq!(ward.cloud.calls().len(), 1);
        ward
    }

    /// AWS refused the call for node 1, at 30 minutes.
    pub(crate) fn refused() -> Self {
        let ward = Self::new();
        let message = "Scaling activity in progress".to_owned();
        let outcome = CallOutcome::Failed { code: "ScalingActivityInProgress".to_owned(), message };
        let call = ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(1) };
        ward.cloud.record(Recorded {
            event_name: call.event_name().to_owned(),
            call: Some(call),
            at: at(1_800),
            answer: CallAnswer { request_id: Some("refused".to_owned()), outcome },
        });
        ward.clock.advance_to(at(1_800));
        ward.run_once();
        assert_eq!(ward.cloud.calls().len(), 1);
        ward
    }

    /// The same, but its process died after the call, before the answer was written down.
    pub(crate) fn called_and_died() -> Self {
        (1..)
            .map(|operation| {
                let ward = Self::new();
                ward.clock.advance_to(at(1_800));
                let faults = Faults::at(operation, Fate::DieAfter);
                let store = Faulty::new(ward.store.clone(), faults.clone());
                let cloud = Faulty::new(ward.cloud.clone(), faults.clone());
                let repairer = Repairer::new(store, cloud, ward.clock.clone());
                let _ = schedule::run_one(&faults, repairer.run_once());
                ward
            })
            .find(|ward| !ward.cloud.calls().is_empty())
            .expect("a call")
    }

    pub(crate) fn run_once(&self) {
        let repairer = Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
        let swept = pollster::block_on(repairer.run_once()).expect("swept");
        assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    }

    pub(crate) fn run_until(&self, end: Timestamp) {
        while let Some(due) =
            pollster::block_on(self.store.next_due()).expect("a memory").filter(|due| *due <= end)
        {
            self.clock.advance_to(due);
            self.run_once();
        }
        self.clock.advance_to(end);
    }

    pub(crate) fn wait(&self, seconds: i64) {
        self.clock.advance_to(self.clock.now() + SignedDuration::from_secs(seconds));
    }

    /// CloudTrail's event of our call, as it should be.
    pub(crate) fn cloud_trail(&self) -> Value {
        let entries = pollster::block_on(self.store.chain(&key(1))).expect("a memory");
        let entry = entries.iter().find(|entry| entry.request_id.is_some()).expect("a call's record");
        let mut detail: Value = serde_json::from_str(&entry.line).expect("a record");
        detail.as_object_mut().expect("an object").remove("nodemend");
        detail["eventID"] = "6f1a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8".into();
        detail["sourceIPAddress"] = "203.0.113.10".into();
        detail["tlsDetails"] = json!({ "tlsVersion": "TLSv1.3" });
        enveloped(&detail)
    }

    pub(crate) fn try_hear(&self, event: &Value) -> Result<ConfirmResult, ConfirmError> {
        let audit = Confirmer::new(self.store.clone(), self.cloud.clone());
        pollster::block_on(audit.handle(event.to_string().as_bytes(), self.clock.now()))
    }

    /// What audit tells when it hears an event.
    pub(crate) fn tell(&self, event: &Value) -> Vec<Step> {
        let result = self.try_hear(event).expect("heard");
        result.repair_events.into_iter().map(|told| told.step).collect()
    }

    pub(crate) fn case(&self, number: u64) -> Case {
        *self.find(number).expect("a case")
    }

    pub(crate) fn find(&self, number: u64) -> Option<Box<Case>> {
        pollster::block_on(self.store.case(&key(number))).expect("a memory")
    }

    pub(crate) fn verdicts(&self) -> Vec<Option<Confirmation>> {
        let repair = self.case(1).repair().cloned().expect("a repair");
        repair.calls().iter().map(|call| call.confirmation()).collect()
    }

    /// The names of a case's records.
    pub(crate) fn audit_log(&self, number: u64) -> Vec<String> {
        let entries = pollster::block_on(self.store.chain(&key(number))).expect("a memory");
        verify_chain(entries.iter().map(|entry| &entry.line)).expect("a chain");
        let name = |line: &str| {
            let record: Value = serde_json::from_str(line).expect("a record");
            record["eventName"].as_str().expect("a name").to_owned()
        };
        entries.iter().map(|entry| name(&entry.line)).collect()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.audit_log(1).iter().filter(|known| *known == name).count()
    }
}

pub(crate) fn enveloped(detail: &Value) -> Value {
    json!({
        "version": "0", "detail-type": "AWS API Call via CloudTrail", "source": "aws.autoscaling",
        "account": "123456789012", "region": "us-east-1", "time": detail["eventTime"], "detail": detail,
    })
}

/// A termination that CloudTrail tells of, by whomever, under an id of its own.
pub(crate) fn terminated_by(arn: &str, number: u64, seconds: i64, request_id: &str) -> Value {
    enveloped(&json!({
        "eventVersion": "1.08", "eventTime": at(seconds).to_string(), "awsRegion": "us-east-1",
        "userIdentity": { "type": "AssumedRole", "arn": arn, "accountId": "123456789012" },
        "eventSource": "autoscaling.amazonaws.com", "eventName": "TerminateInstanceInAutoScalingGroup",
        "requestParameters": { "instanceId": instance(number), "shouldDecrementDesiredCapacity": false },
        "responseElements": { "activity": { "activityId": "x" } },
        "requestID": request_id, "eventID": format!("event-{request_id}"),
    }))
}
