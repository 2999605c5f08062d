//! A deployment in memory: the in-memory implementation of each port, a clock that the test sets, and the
//! real handlers.
//!
//! A handler is built for each invocation, as after a cold start: nothing but the store is kept between two.

use std::cell::RefCell;

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::{ConfirmError, ConfirmResult, Confirmer};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, CallOutcome, verify_chain},
    case::{Case, CaseState, Fault, TransitionContext},
    group::GroupState,
    ident::Zone,
    policy::Policy,
    repair_event::{RepairEvent, Step},
};
use nodemend_intake::{Intake, IntakeError, IntakeResult};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Cloud, MemoryCloud, Recorded},
    cluster_reader::LogLine,
    store::{CaseKey, CaseWrite, Commit, MemoryStore, Store},
    subscription::{Decoder, Message},
};
use nodemend_repair::{RepairError, Repairer, RunReport};
use serde_json::{Value, json};

use crate::{
    edit,
    faults::{Faults, Faulty},
    fixture::{
        self, AGENT_LOGS, AUDIT_STREAM, CONTROL_PLANE_LOGS, ReportBuilder, caller,
        cloudtrail_event_of_record, cluster, fleet, group, instance, key, zone,
    },
};

/// A store whose operations fail as its [`Faults`] decide.
pub type FaultyStore = Faulty<MemoryStore>;

/// An AWS account whose operations fail as its [`Faults`] decide.
pub type FaultyCloud = Faulty<MemoryCloud>;

/// A line of the control-plane audit log that concerns no node: an API server writes such lines continuously.
const OTHER_REQUEST: &str =
    r#"{"kind":"Event","stage":"ResponseComplete","verb":"list","objectRef":{"resource":"pods"}}"#;

/// When a line was written, by the time in it.
fn time_of(line: &str) -> Option<Timestamp> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("stageTimestamp").or_else(|| line.get("at"))?.as_str()?.parse().ok()
}

/// One cluster with one group of nodes. At [`fixture::at`]`(0)`, nothing has been reported.
pub struct Deployment {
    /// The clock of all functions and of AWS.
    pub clock: VirtualClock,
    /// The store, with the audit log.
    pub store: MemoryStore,
    /// The AWS account.
    pub cloud: MemoryCloud,
    /// The policy with which the deployment began.
    pub policy: Policy,
    published: RefCell<Vec<RepairEvent>>,
}

impl Deployment {
    /// Nodes 1 to `nodes`, in service in one zone.
    pub fn new(nodes: u64, policy: Policy) -> Self {
        Self::across(&[zone()], nodes, policy)
    }

    /// Nodes 1 to `nodes`, in service, alternating between the zones.
    pub fn across(zones: &[Zone], nodes: u64, policy: Policy) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(fixture::at(0));
        let cloud = MemoryCloud::new(clock.clone(), caller(), fleet(nodes, zones));
        let store = MemoryStore::default();
        store.set_policy(&cluster(), policy.clone());
        let deployment = Self { clock, store, cloud, policy, published: RefCell::default() };
        deployment.write_line(CONTROL_PLANE_LOGS, AUDIT_STREAM, fixture::at(0), OTHER_REQUEST);
        deployment
    }

    /// Nodes 1 to `nodes`, which have all had this problem since the start.
    pub fn with_problem(nodes: u64, problem: fixture::Problem, policy: Policy) -> Self {
        let deployment = Self::new(nodes, policy);
        for number in 1..=nodes {
            deployment.report(fixture::raised(number, problem, fixture::at(0)));
        }
        deployment
    }

    /// Lets time pass.
    pub fn wait(&self, duration: SignedDuration) {
        self.clock.advance_to(self.clock.now() + duration);
    }

    /// Writes a line to a log group, without delivering it: a subscription loses lines, and verification reads them.
    pub fn write_line(&self, log_group: &str, log_stream: &str, written: Timestamp, line: &str) {
        let line = LogLine {
            stream: log_stream.to_owned(),
            timestamp: written,
            ingested: written,
            message: line.to_owned(),
        };
        self.cloud.cluster_state().add_line(log_group, line);
    }

    /// Writes the lines of a payload to their log group, where they were before they were delivered.
    fn write_lines(&self, payload: &[u8], now: Timestamp) {
        if let Ok(Message::Data(batch)) = Decoder::new().decode(payload) {
            for event in &batch.events {
                let written = time_of(&event.message).unwrap_or(event.timestamp).min(now);
                self.write_line(&batch.log_group, &batch.log_stream, written, &event.message);
            }
        }
    }

    /// Applies a report, written now, to its case.
    pub fn report(&self, report: ReportBuilder) {
        let (number, now) = (report.number(), self.clock.now());
        let report = report.written(now);
        self.write_line(AGENT_LOGS, instance(number).as_str(), now, &report.encode());
        self.change(number, |case| {
            case.apply_report(&report, now, &self.policy);
        });
    }

    /// Auto Scaling launches an instance into the group.
    pub fn launch(&self, number: u64) {
        self.cloud.change(|fleet| fleet.join(&group(), Some(&cluster()), &instance(number), &zone()));
    }

    /// A launched instance has registered its node, and is ready.
    pub fn join(&self, number: u64, launched: Timestamp, registered: Timestamp) {
        let arrival = json!({ "launched": launched, "registered": registered, "ready": registered });
        self.change(number, |case| edit(case, json!({ "group": group(), "arrival": arrival })));
    }

    /// What a transition of a case needs, now.
    pub fn transition(&self) -> TransitionContext<'_> {
        TransitionContext { policy: &self.policy, caller: self.cloud.caller(), now: self.clock.now() }
    }

    /// Changes a case as a handler would, and plans when it is due. A case that does not exist is created.
    pub fn change(&self, number: u64, change: impl FnOnce(&mut Case)) {
        let mut case = self.find(number).unwrap_or_else(|| Box::new(Case::new(cluster(), instance(number))));
        change(&mut case);
        case.plan(&self.policy, self.clock.now());
        self.commit(&case, None);
    }

    /// Writes the state of the group.
    pub fn put_group(&self, group: &GroupState) {
        self.commit(&self.case(1), Some(group));
    }

    /// Writes a case, and nothing else.
    pub fn put_case(&self, case: &Case) {
        self.commit(case, None);
    }

    fn commit(&self, case: &Case, group: Option<&GroupState>) {
        let change = CaseWrite { case, group, entries: &[] };
        assert_eq!(pollster::block_on(self.store.commit(change)), Ok(Commit::Won));
    }

    /// The case of a node, if there is one.
    pub fn find(&self, number: u64) -> Option<Box<Case>> {
        pollster::block_on(self.store.case(&key(number))).expect("a read")
    }

    /// The case of a node.
    pub fn case(&self, number: u64) -> Case {
        *self.find(number).expect("a case")
    }

    /// All cases, as if each had never been written: the same messages, in whatever deliveries, lead to equal ones.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = self.store.cases();
        cases.sort_by_key(CaseKey::of);
        cases.iter_mut().for_each(|case| edit(case, json!({ "version": 0 })));
        cases
    }

    /// The faults of a node that a decision considers at that time.
    pub fn faults(&self, number: u64, now: Timestamp) -> Vec<Fault> {
        self.case(number).faults(&self.policy.default_rules(), &self.policy, now)
    }

    /// The state of a node's case, now.
    pub fn state(&self, number: u64) -> CaseState {
        let policy = pollster::block_on(self.store.policy(&cluster())).expect("a read").expect("a policy");
        self.case(number).state_and_faults(Some(&policy.default_rules()), &policy, self.clock.now()).0
    }

    /// The state of the group.
    pub fn group(&self) -> GroupState {
        pollster::block_on(Store::group(&self.store, &cluster(), &group())).expect("a read")
    }

    /// When the next case is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        pollster::block_on(self.store.next_due()).expect("a read")
    }

    /// The audit records of a case, whose hash chain is intact.
    pub fn records(&self, number: u64) -> Vec<Value> {
        let chain = pollster::block_on(self.store.chain(&key(number))).expect("a read");
        verify_chain(chain.iter().map(|entry| &entry.line)).expect("an intact chain");
        chain.iter().map(|entry| serde_json::from_str(&entry.line).expect("a record is JSON")).collect()
    }

    /// The last audit record of a case with that name.
    pub fn last_record(&self, number: u64, name: &str) -> Value {
        self.records(number).into_iter().rfind(|record| record["eventName"] == name).expect("a record")
    }

    /// The names of a case's audit records.
    pub fn record_names(&self, number: u64) -> Vec<String> {
        let name = |record: &Value| record["eventName"].as_str().expect("a record has a name").to_owned();
        self.records(number).iter().map(name).collect()
    }

    /// How many audit records of a case have that name.
    pub fn count(&self, number: u64, name: &str) -> usize {
        self.record_names(number).iter().filter(|known| *known == name).count()
    }

    /// The details of the published events about a node with that step.
    pub fn published(&self, step: Step, number: u64) -> Vec<String> {
        let published = self.published.borrow();
        let matching =
            published.iter().filter(|event| event.step == step && event.instance_id == instance(number));
        matching.map(|event| event.detail.clone()).collect()
    }

    /// The intake function, in a process of its own.
    pub fn intake(&self, faults: &Faults) -> Intake<FaultyStore> {
        Intake::new(Faulty::new(self.store.clone(), faults.clone()))
    }

    /// Lambda invokes intake with a payload, at that time, whatever the result.
    pub fn try_deliver(&self, payload: &[u8], now: Timestamp) -> Result<IntakeResult, IntakeError> {
        self.write_lines(payload, now);
        let intake = self.intake(&Faults::none());
        let result = pollster::block_on(intake.handle(&mut Decoder::new(), payload, now))?;
        self.published.borrow_mut().extend_from_slice(&result.repair_events);
        Ok(result)
    }

    /// Lambda invokes intake with a payload, at that time.
    pub fn deliver(&self, payload: &[u8], now: Timestamp) -> IntakeResult {
        self.try_deliver(payload, now).expect("intake succeeds")
    }

    /// The API server wrote a line, which is delivered to intake then.
    pub fn deliver_line(&self, line: String, arrived: Timestamp) {
        self.clock.advance_to(arrived);
        let result = self.deliver(&fixture::control_plane_payload(&[line]), arrived);
        assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    }

    /// The API server wrote a line, which is never delivered.
    pub fn lose_line(&self, line: &str, written: Timestamp) {
        self.write_line(CONTROL_PLANE_LOGS, AUDIT_STREAM, written, line);
    }

    /// The repair function, in a process of its own.
    pub fn repairer(&self, faults: &Faults) -> Repairer<FaultyStore, FaultyCloud, VirtualClock> {
        let (store, cloud) = self.faulty(faults);
        Repairer::new(store, cloud, self.clock.clone())
    }

    /// One run of the repair function, now, whatever its result.
    pub fn try_run(&self, faults: &Faults) -> Result<RunReport, RepairError> {
        let report = pollster::block_on(self.repairer(faults).run_once())?;
        self.published.borrow_mut().extend_from_slice(&report.repair_events);
        Ok(report)
    }

    /// One run of the repair function, now, which evaluates every due case.
    pub fn run_once(&self) -> RunReport {
        let report = self.try_run(&Faults::none()).expect("the run succeeds");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        report
    }

    /// The same at a later time.
    pub fn run_at(&self, now: Timestamp) -> RunReport {
        self.clock.advance_to(now);
        self.run_once()
    }

    /// Runs the repair function whenever a case is due, until then and at that time.
    pub fn run_until(&self, end: Timestamp) {
        for _ in 0..10_000 {
            let Some(due) = self.next_due().filter(|due| *due <= end) else {
                self.clock.advance_to(end);
                return;
            };
            self.run_at(due);
        }
        panic!("a case stays due at {}", self.clock.now());
    }

    /// AWS refuses the next such call, if it comes at about that time.
    pub fn refuse(&self, call: ApiCall, when: Timestamp, code: &str, message: &str) {
        let outcome = CallOutcome::Failed { code: code.to_owned(), message: message.to_owned() };
        self.cloud.record(Recorded {
            event_name: call.event_name().to_owned(),
            call: Some(call),
            at: when,
            answer: CallAnswer { request_id: Some(format!("request-{when}")), outcome },
        });
    }

    /// CloudTrail's event about the first call for a node.
    pub fn cloudtrail(&self, number: u64) -> Value {
        let entries = pollster::block_on(self.store.chain(&key(number))).expect("a read");
        let call = entries.iter().find(|entry| entry.request_id.is_some()).expect("the record of a call");
        cloudtrail_event_of_record(&call.line)
    }

    /// The confirm function, in a process of its own.
    pub fn confirmer(&self, faults: &Faults) -> Confirmer<FaultyStore, FaultyCloud> {
        let (store, cloud) = self.faulty(faults);
        Confirmer::new(store, cloud)
    }

    /// EventBridge invokes confirm with an event, now, whatever the result.
    pub fn try_confirm(&self, event: &Value) -> Result<ConfirmResult, ConfirmError> {
        let confirmer = self.confirmer(&Faults::none());
        pollster::block_on(confirmer.handle(event.to_string().as_bytes(), self.clock.now()))
    }

    /// EventBridge invokes confirm with an event, now: the steps that confirm publishes.
    pub fn confirm(&self, event: &Value) -> Vec<Step> {
        let result = self.try_confirm(event).expect("confirm succeeds");
        result.repair_events.into_iter().map(|event| event.step).collect()
    }

    fn faulty(&self, faults: &Faults) -> (FaultyStore, FaultyCloud) {
        (Faulty::new(self.store.clone(), faults.clone()), Faulty::new(self.cloud.clone(), faults.clone()))
    }
}
