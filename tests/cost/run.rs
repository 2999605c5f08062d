//! Runs each event through the handlers and measures its usage of AWS.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path, time::Duration};

use aws_sdk_dynamodb::config::{Credentials, Region};
use jiff::{SignedDuration, Timestamp};
use nodemend::cost::Usage;
use nodemend_aws::{clock::SystemClock, dynamodb::DynamoStore, sdk, telemetry};
use nodemend_confirm::Confirmer;
use nodemend_domain::{
    audit_log::Caller,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::Policy,
    repair_event::RepairEvent,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    cluster_reader::LogLine,
    subscription::{self, Batch, LogEvent},
};
use nodemend_reconcile::{ControlPlaneLogs, ReconcileTarget, Reconciler};
use nodemend_repair::Repairer;
use nodemend_stack::{
    child::Launcher,
    dynamodb::{self, tables},
    lambda::{Function, FunctionUpdate, Spec},
};
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;

use crate::meter::{Consumed, Meter};

/// What CloudWatch Logs adds to a log event where it bills bytes.
const EVENT_OVERHEAD: usize = 26;
const HEARTBEAT: &str = r#""kind":"heartbeat""#;

pub(crate) fn measure() -> BTreeMap<String, Usage> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let logs = invocation_logs().await;
        let heartbeat = heartbeat(&logs).await;
        let mut measured = BTreeMap::from([
            ("idleRun".to_owned(), idle(&logs).await),
            ("reconcileRun".to_owned(), reconcile(&logs).await),
        ]);
        for (event, incident) in
            [("recovery", "02-transient-interface-loss"), ("repair", "01-metadata-service-blocked")]
        {
            measured.insert(event.to_owned(), incident_of(incident, &logs).await);
        }
        measured.insert("heartbeat".to_owned(), heartbeat);
        measured
    })
}

/// A deployment whose DynamoDB is metered.
struct MeteredDeployment {
    meter: Meter,
    store: DynamoStore,
    cloud: MemoryCloud,
    clock: VirtualClock,
    usage: Usage,
    logs: Logs,
}

/// The bytes that an invocation of each function always writes to its log.
#[derive(Clone, Copy)]
struct Logs {
    intake: f64,
    repair: f64,
    confirm: f64,
    reconcile: f64,
}

fn cluster() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

impl MeteredDeployment {
    async fn new(logs: &Logs) -> Self {
        let (meter, store) = metered().await;
        let mut policy = Policy::eks_defaults();
        policy.node_repair_config.max_unhealthy_node_threshold =
            Some(nodemend_domain::policy::Limit::Count(100));
        store.put_policy(&cluster(), &policy, "a test", Timestamp::UNIX_EPOCH).await.expect("a policy");
        let clock = VirtualClock::default();
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let cloud = MemoryCloud::new(clock.clone(), caller, Fleet::default());
        Self { meter, store, cloud, clock, usage: Usage::default(), logs: *logs }
    }

    fn add_log_lines(&mut self, repair_events: &[RepairEvent]) {
        let bytes = |event| telemetry::event_line(event).to_string().len() + EVENT_OVERHEAD;
        self.usage.log_bytes += repair_events.iter().map(bytes).sum::<usize>() as f64;
    }

    async fn report(&mut self, group: &str, stream: &str, line: &str, at: Timestamp) {
        self.run_repairs_until(at).await;
        let batch = Batch {
            owner: Cow::Borrowed("123456789012"),
            log_group: group.into(),
            log_stream: stream.into(),
            subscription_filters: Vec::new(),
            events: vec![LogEvent { id: "1".into(), timestamp: at, message: line.into() }],
            rejected: Vec::new(),
        };
        let logged =
            LogLine { stream: stream.to_owned(), timestamp: at, ingested: at, message: line.to_owned() };
        self.cloud.cluster_state().add_line(group, logged);
        let intake = Intake::new(self.store.clone());
        let result = intake.take(batch, at).await.expect("intake succeeds");
        assert!(result.rejected.is_empty() && result.unknown_cluster == 0, "{:?}", result.rejected);
        self.usage.invocations += 1.0;
        self.usage.log_bytes += self.logs.intake;
        self.add_log_lines(&result.repair_events);
        if group.starts_with("/nodemend") {
            self.usage.report_bytes += (line.len() + EVENT_OVERHEAD) as f64;
        }
    }

    async fn event(&mut self, line: &str, at: Timestamp) {
        self.run_repairs_until(at).await;
        let confirmer = Confirmer::new(self.store.clone(), self.cloud.clone());
        let result = confirmer.handle(line.as_bytes(), at).await.expect("confirm succeeds");
        self.usage.invocations += 1.0;
        self.usage.log_bytes += self.logs.confirm;
        self.add_log_lines(&result.repair_events);
    }

    /// Runs the repair function at each deadline until `end`. Idle runs are measured separately.
    async fn run_repairs_until(&mut self, end: Timestamp) {
        let repairer = Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
        loop {
            let before = self.meter.consumed();
            let due = repairer.next_due().await.expect("a time").filter(|due| *due <= end);
            let consumed = self.meter.consumed() - before;
            let Some(due) = due else {
                // This read is the test's, not the function's.
                self.subtract(consumed);
                break;
            };
            self.clock.advance_to(due);
            let report = Box::pin(repairer.run_once()).await.expect("a run");
            assert!(report.failures.is_empty(), "{:?}", report.failures);
            self.usage.repair_runs += 1.0;
            self.add_log_lines(&report.repair_events);
        }
        self.clock.advance_to(end);
    }

    fn subtract(&mut self, consumed: Consumed) {
        self.usage.requests -= consumed.requests;
        self.usage.read_units -= consumed.read_units;
        self.usage.write_units -= consumed.write_units;
    }

    fn finish(mut self, since: Consumed) -> Usage {
        let consumed = self.meter.consumed() - since;
        self.usage.requests += consumed.requests;
        self.usage.read_units += consumed.read_units;
        self.usage.write_units += consumed.write_units;
        self.usage
    }
}

async fn metered() -> (Meter, DynamoStore) {
    let database = dynamodb::serve().expect("a database");
    let (meter, address) = Meter::before(database).await;
    let shared = sdk::defaults()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "a test"))
        .load()
        .await;
    let client = aws_sdk_dynamodb::Client::new(&shared);
    nodemend_aws::dynamodb::create_tables(&client, &tables()).await.expect("tables");
    (meter, DynamoStore::new(client, tables()))
}

fn lines(incident: &str) -> Vec<(String, Value, Timestamp)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(incident).join("events.jsonl");
    let text = fs::read_to_string(path).expect("an incident");
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let time = |at: &str| value[at].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            let mut at = time("at").or(time("stageTimestamp")).or(time("time")).expect("a time");
            if value["detail-type"] == "AWS API Call via CloudTrail" {
                // CloudTrail delivers events with a delay of minutes.
                at += SignedDuration::from_mins(5);
            }
            (line.to_owned(), value, at)
        })
        .collect();
    lines.sort_by_key(|(_, _, at)| *at);
    lines
}

fn instance_of(value: &Value) -> Option<InstanceId> {
    value["instanceId"].as_str().and_then(|id| InstanceId::new(id).ok())
}

/// The usage of an incident without its heartbeats, to the end of its case.
async fn incident_of(name: &str, logs: &Logs) -> Usage {
    let mut metered = MeteredDeployment::new(logs).await;
    let (group, zone) =
        (GroupName::new("workers").expect("a name"), Zone::new("us-east-1a").expect("a name"));
    let lines = lines(name);
    let first = lines.iter().find_map(|(_, value, _)| instance_of(value)).expect("a node");
    metered.cloud.change(|fleet| fleet.join(&group, Some(&cluster()), &first, &zone));
    let since = metered.meter.consumed();
    let mut last = Timestamp::UNIX_EPOCH;
    for (line, value, at) in &lines {
        last = *at;
        if value["detail-type"] == "EC2 Instance Launch Successful" {
            let id = value.pointer("/detail/EC2InstanceId").and_then(Value::as_str).expect("an id");
            let new_instance = InstanceId::new(id).expect("an id");
            metered.cloud.change(|fleet| fleet.join(&group, Some(&cluster()), &new_instance, &zone));
        }
        if value["detail-type"] == "EC2 Instance Terminate Successful" {
            metered.cloud.change(|fleet| fleet.leave(&first));
        }
        if value.get("detail-type").is_some() {
            metered.event(line, *at).await;
        } else if value.get("auditID").is_some() {
            metered.report("/aws/eks/prod/cluster", "kube-apiserver-audit-1", line, *at).await;
        } else {
            let before = (metered.usage, metered.meter.consumed());
            let stream = instance_of(value).expect("a node");
            metered.report("/nodemend/prod/nodes", stream.as_str(), line, *at).await;
            let healthy = line.contains(HEARTBEAT) && !line.contains(r#""status":"False""#);
            if healthy && metered.usage.repair_runs == before.0.repair_runs {
                // Healthy heartbeats are sent without an incident, too, and measured separately.
                let consumed = metered.meter.consumed() - before.1;
                metered.usage = before.0;
                metered.subtract(consumed);
            }
        }
    }
    metered.run_repairs_until(last + SignedDuration::from_mins(10)).await;
    metered.finish(since)
}

/// The second heartbeat of a healthy node.
async fn heartbeat(logs: &Logs) -> Usage {
    let mut metered = MeteredDeployment::new(logs).await;
    let (line, _, at) = heartbeat_line();
    let stream = "i-08736224042c4ee75";
    metered.report("/nodemend/prod/nodes", stream, &line, at).await;
    (metered.usage, metered.logs) = (Usage::default(), *logs);
    let since = metered.meter.consumed();
    let next = at + SignedDuration::from_mins(5);
    let line = line
        .replace(r#""seq":1,"#, r#""seq":2,"#)
        .replace(&nodemend_domain::timestamp::millis(at), &nodemend_domain::timestamp::millis(next));
    metered.report("/nodemend/prod/nodes", stream, &line, next).await;
    metered.finish(since)
}

fn heartbeat_line() -> (String, Value, Timestamp) {
    let lines = lines("01-metadata-service-blocked");
    lines.into_iter().find(|(line, _, _)| line.contains(HEARTBEAT)).expect("a heartbeat")
}

/// A run without a due case, as the function does it: it also takes and ends the lease of the run.
async fn idle(logs: &Logs) -> Usage {
    let metered = MeteredDeployment::new(logs).await;
    let since = metered.meter.consumed();
    let now = metered.clock.now();
    let end = now + SignedDuration::from_secs(65);
    metered.store.lease_run(now, end).await.expect("a lease");
    let repairer = Repairer::new(metered.store.clone(), metered.cloud.clone(), metered.clock.clone());
    let wait = async |_: Timestamp| panic!("there is no deadline to wait for");
    Box::pin(repairer.run_until(end, wait, |_| ())).await.expect("a run");
    metered.store.end_run(end, now).await.expect("ended");
    let mut usage = metered.finish(since);
    (usage.invocations, usage.log_bytes) = (1.0, logs.repair);
    usage
}

/// A run that reads the log groups, whose requests have no price, and finds no case that missed a line.
async fn reconcile(logs: &Logs) -> Usage {
    let metered = MeteredDeployment::new(logs).await;
    let since = metered.meter.consumed();
    let target = ReconcileTarget { cluster: cluster(), control_plane_logs: ControlPlaneLogs::Enabled };
    let reconciler = Reconciler::new(metered.store.clone(), metered.cloud.clone(), metered.clock.clone());
    let report = Box::pin(reconciler.run(&target)).await.expect("a run");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let mut usage = metered.finish(since);
    (usage.invocations, usage.log_bytes) = (1.0, logs.reconcile);
    usage
}

/// Invokes the real functions with events without effect, and counts the bytes that they log.
async fn invocation_logs() -> Logs {
    let database = dynamodb::serve().expect("a database");
    let (_, address) = Meter::before(database).await;
    dynamodb::store(database).await.expect("tables");
    let intake = subscription::encode(&Batch {
        owner: "123456789012".into(),
        log_group: "/nodemend/other/nodes".into(),
        log_stream: "i-08736224042c4ee75".into(),
        subscription_filters: Vec::new(),
        events: vec![LogEvent { id: "1".into(), timestamp: SystemClock.now(), message: "{}".into() }],
        rejected: Vec::new(),
    });
    Logs {
        intake: logged("nodemend-intake", address, intake).await,
        repair: logged("nodemend-repair", address, "{}".to_owned()).await,
        confirm: logged("nodemend-confirm", address, r#"{"detail-type":"another","detail":{}}"#.to_owned())
            .await,
        // Of a cluster without a policy: it reads nothing else.
        reconcile: logged(
            "nodemend-reconcile",
            address,
            r#"{"cluster":"prod","controlPlaneLogs":"enabled"}"#.to_owned(),
        )
        .await,
    }
}

async fn logged(name: &str, aws: std::net::SocketAddr, payload: String) -> f64 {
    let nodemend = Path::new(env!("CARGO_BIN_EXE_nodemend"));
    let environment = [
        ("NODEMEND_STATE_TABLE", tables().state),
        ("NODEMEND_AUDIT_LOG_TABLE", tables().audit),
        ("NODEMEND_REPAIR_ROLE", "arn:aws:iam::123456789012:role/nodemend-repair".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "x".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "x".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://{aws}")),
    ];
    let spec = Spec {
        name: name.to_owned(),
        program: nodemend.with_file_name(name),
        environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        timeout: Duration::from_secs(60),
        concurrency: 1,
        retries: Vec::new(),
    };
    let (sender, mut updates) = unbounded_channel();
    let function = Function::new(spec, Launcher::new(nodemend), sender);
    function.invoke(payload.into()).await.expect("an answer");
    function.stop().await;
    drop(function);
    let mut bytes = PLATFORM_LINES;
    while let Some((_, update)) = updates.recv().await {
        if let FunctionUpdate::Log(line) = update {
            bytes += line.len() + EVENT_OVERHEAD;
        }
    }
    bytes as f64
}

/// Lambda's own three lines of each invocation: START, END and REPORT, as its documentation shows them.
const PLATFORM_LINES: usize = 89 + 55 + 170 + 3 * EVENT_OVERHEAD;
